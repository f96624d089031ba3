"""How figures and tables are printed."""

from __future__ import annotations

import io
from uuid import UUID

import pytest
from rich.console import Console

from layer8.cli import output
from layer8.cli.context import Settings
from layer8.health_record import HealthRecord


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 45, "32768.0 GiB"),
    ],
)
def test_sizes_have_the_unit_that_suits_them(size: int, text: str) -> None:
    assert output.size_text(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(2e-6, "2 µs"), (0.0123, "12.30 ms"), (1.5, "1.50 s")])
def test_times_have_the_unit_that_suits_them(seconds: float, text: str) -> None:
    assert output.duration_text(seconds) == text


def test_what_others_named_cannot_steer_the_terminal() -> None:
    record = HealthRecord(uuid=UUID(int=1), alias="evil\x1b[2J\rname")
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(output.health_table([record]))
    text = console.export_text()
    assert "\x1b" not in text
    assert "\\x1b[2J\\x0dname" in text


def test_a_record_in_json_has_its_defaults_too() -> None:
    fields = output.record_fields(HealthRecord(uuid=UUID(int=1)))
    assert fields["alias"] is None
    assert fields["messages_in"] == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_of_a_terminal_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream, settings, shown in (
        (Terminal(), Settings(), "\r\x1b[Khalf\r\x1b[K"),
        (Terminal(), Settings(quiet=True), ""),
        (io.StringIO(), Settings(), ""),
    ):
        monkeypatch.setattr("sys.stderr", stream)
        with output.Progress(settings) as progress:
            progress.say("half", now=True)
            progress.say("too soon after it")
        assert stream.getvalue() == shown


def test_a_table_is_not_cut_on_a_terminal_that_is_dumb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    output.make_console().print(output.make_table(["A", "B"], [["a" * 90, "b" * 90]]))
    assert "a" * 90 in terminal.getvalue()
    assert "b" * 90 in terminal.getvalue()
