"""Questions about the directory, as `find` and `health` ask them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from uuid import UUID

from layer8.errors import Layer8Error, NotFound
from layer8.health.directory import check_filters
from layer8.health_record import HealthRecord
from layer8.names import destination
from layer8.protocol.control import Failed, Find, Health
from layer8.vnic.outbox import To
from layer8.vnic.refusals import error_of_failed
from layer8.vnic.waiting import deadline_after, remaining

if TYPE_CHECKING:
    from layer8.vnic.core import Core

_LONGEST_FIND = 5.0  # seconds a question waits at the Vnet; then it is asked again


async def find(core: Core, to: To, timeout: float | None) -> HealthRecord:
    """One that is up. Raises NotFound, NotAuthorized, Unreachable, Closed."""
    name = destination(to)
    deadline = deadline_after(timeout)
    patience = core.timeout
    while True:
        wait = min(remaining(deadline), _LONGEST_FIND)
        question = Find(id=0, to=str(name), is_uuid=isinstance(name, UUID), timeout=wait)
        patient = deadline_after(None if patience is None else wait + patience)
        answer = await core.questions.ask_any(question, patient)
        if not isinstance(answer, Failed):
            if answer.record is None:
                raise Layer8Error("the Vnet answered without a record")
            return answer.record
        error = error_of_failed(answer, name, _principal(core), "find")
        if not isinstance(error, NotFound) or remaining(deadline) == 0:
            raise error


async def health(core: Core, filters: Mapping[str, object]) -> tuple[HealthRecord, ...]:
    """All that match. Raises TypeError or ValueError for a filter that is none, NotAuthorized, Unreachable, Closed."""
    wanted = check_filters(filters)
    found: list[HealthRecord] = []
    after: UUID | None = None
    while True:
        question = Health(id=0, after=after, filters=wanted)
        page = await core.questions.ask_any(question, deadline_after(core.timeout))
        if isinstance(page, Failed):
            raise error_of_failed(page, "the directory", _principal(core), "read-health")
        found.extend(page.records)
        if not page.more or not page.records:
            return tuple(found)
        after = page.records[-1].uuid


def _principal(core: Core) -> str:
    attachment = core.presence.attachment
    return "this Vnic" if attachment is None else attachment.attached.principal
