"""Messages as a program meets them."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from layer8.errors import Backpressure
from layer8.message import NO_HEADERS, Message, Request, Right, Source, Undeliverable


class Answers:
    """A Replier that remembers."""

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []
        self.error: Exception | None = None

    def reply(self, right: int, generation: int, correlation: int, payload: object) -> None:
        self._raise()
        self.log.append(("reply", right, generation, correlation, payload))

    def fail(self, right: int, generation: int, correlation: int, reason: str, payload: bytes) -> None:
        self._raise()
        self.log.append(("fail", right, generation, correlation, reason, payload))

    def abandon(self, right: int, generation: int, correlation: int) -> None:
        self.log.append(("abandon", right, generation, correlation))

    def _raise(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error


def source(uuid: UUID | None = None) -> Source:
    return Source((uuid or uuid4()).bytes, 1, lambda number: f"principal {number}")


def request(answers: Answers, deadline: float = math.inf) -> Request:
    return Request(b"question", source(), 1, _right=Right(answers, 5, 6, 7, deadline))


def test_a_message_says_what_came() -> None:
    uuid = uuid4()
    message = Message(b"payload", source(uuid), 9, "prices", 2, {"a": b"b"})
    assert message.payload == b"payload"
    assert bytes(message.view[3:]) == b"load"
    assert message.view.readonly
    assert message.source == uuid
    assert message.principal == "principal 1"
    assert (message.sequence, message.topic, message.missed) == (9, "prices", 2)
    assert message.headers == {"a": b"b"}
    assert not message.is_request


def test_a_message_without_headers_has_the_one_empty_mapping() -> None:
    message = Message(b"", source())
    assert message.headers is NO_HEADERS
    assert message.headers == {}
    with pytest.raises(TypeError):
        message.headers["a"] = "b"  # type: ignore[index]


def test_a_message_cannot_be_changed() -> None:
    message = Message(b"", source())
    with pytest.raises(AttributeError):
        message.payload = b"other"  # type: ignore[misc]


def test_two_equal_messages_are_two_messages() -> None:
    sender = source()
    assert len({Message(b"x", sender), Message(b"x", sender)}) == 2


def test_the_text_of_a_message_leaves_its_payload_out() -> None:
    message = Message(b"secret" * 1000, source(), 3, "prices", 2)
    assert "6000 bytes" in repr(message)
    assert "prices" in repr(message)
    assert "secret" not in repr(message)


def test_the_uuid_and_the_principal_are_asked_for_once_a_source() -> None:
    asked: list[int] = []

    def who_is(number: int) -> str:
        asked.append(number)
        return "somebody"

    sender = Source(uuid4().bytes, 4, who_is)
    first, second = Message(b"", sender), Message(b"", sender)
    assert first.principal == second.principal == "somebody"
    assert asked == [4]
    assert first.source is second.source


def test_a_principal_that_could_not_be_asked_for_is_asked_for_again() -> None:
    answers: Iterator[str | Exception] = iter([Backpressure("x", 1.0), "somebody"])

    def who_is(number: int) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    message = Message(b"", Source(uuid4().bytes, 4, who_is))
    with pytest.raises(Backpressure):
        _ = message.principal
    assert message.principal == "somebody"


def test_a_request_is_answered_with_what_it_came_with() -> None:
    answers = Answers()
    asked = request(answers)
    assert isinstance(asked, Message)
    assert asked.is_request
    asked.reply(b"answer")
    assert asked.answered
    assert answers.log == [("reply", 5, 6, 7, b"answer")]


def test_a_request_that_failed_says_why() -> None:
    answers = Answers()
    request(answers).fail("no such file", b"details")
    assert answers.log == [("fail", 5, 6, 7, "no such file", b"details")]


def test_a_second_answer_is_a_value_error() -> None:
    answers = Answers()
    asked = request(answers)
    asked.reply(b"answer")
    with pytest.raises(ValueError, match="answered already"):
        asked.reply(b"again")
    with pytest.raises(ValueError, match="answered already"):
        asked.fail("again")
    assert len(answers.log) == 1


def test_an_answer_that_could_not_be_sent_may_be_tried_again() -> None:
    answers = Answers()
    asked = request(answers)
    answers.error = Backpressure("caller", 1.0)
    with pytest.raises(Backpressure):
        asked.reply(b"answer")
    assert not asked.answered
    asked.reply(b"answer")
    assert answers.log == [("reply", 5, 6, 7, b"answer")]


def test_a_reason_that_is_not_text_is_a_type_error_and_answers_nothing() -> None:
    answers = Answers()
    asked = request(answers)
    with pytest.raises(TypeError):
        asked.fail(b"why")  # type: ignore[arg-type]
    asked.reply(b"")
    assert len(answers.log) == 1


def test_a_request_that_is_forgotten_unanswered_is_abandoned_once() -> None:
    answers = Answers()
    asked = request(answers)
    assert answers.log == []
    del asked
    gc.collect()
    assert answers.log == [("abandon", 5, 6, 7)]


def test_a_request_that_was_answered_is_not_abandoned() -> None:
    answers = Answers()
    asked = request(answers)
    asked.reply(b"")
    del asked
    gc.collect()
    assert [entry[0] for entry in answers.log] == ["reply"]


def test_of_many_threads_that_answer_one_does() -> None:
    answers = Answers()
    asked = request(answers)
    start = threading.Barrier(8)
    refused: list[ValueError] = []

    def answer() -> None:
        start.wait()
        try:
            asked.reply(b"")
        except ValueError as error:
            refused.append(error)

    threads = [threading.Thread(target=answer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers.log) == 1
    assert len(refused) == 7


def test_remaining_counts_down_to_zero_and_no_further() -> None:
    answers = Answers()
    now = time.monotonic()
    assert 0 < request(answers, now + 3600).remaining <= 3600
    assert request(answers, now - 1).remaining == 0.0
    assert request(answers).remaining == math.inf


def test_an_undeliverable_names_what_came_back() -> None:
    back = Undeliverable(to="worker", sequence=3, reason="gone", size=64)
    assert back == Undeliverable("worker", 3, "gone", 64)
    with pytest.raises(AttributeError):
        back.reason = "other"  # type: ignore[misc]
