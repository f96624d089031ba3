"""What a command sends, where it comes from stdin."""

from __future__ import annotations

import io
import sys

import click
import pytest

from layer8.cli import payloads
from layer8.cli.payloads import Payloads


def given(lines: bool = False) -> Payloads:
    return Payloads(text=None, file=None, lines=lines, headers=None)


@pytest.mark.parametrize("lines", [False, True])
def test_no_more_is_read_than_any_vnet_takes(monkeypatch: pytest.MonkeyPatch, lines: bool) -> None:
    monkeypatch.setattr(payloads, "_MOST", 5)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"endless" * 1000)))
    assert len(next(iter(given(lines)))) == 6  # which is refused as too large


def test_a_closed_stdin_is_wrong_usage_and_no_empty_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(click.UsageError, match="stdin is closed"):
        list(given())
