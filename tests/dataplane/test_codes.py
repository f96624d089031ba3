"""The numbers of Python and C are the same."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from layer8.dataplane import Kind, PortCounters, PortStats, Reason, SlotState, SwitchConfig, SwitchCounters, Target
from layer8.dataplane import port as port_module
from layer8.dataplane._core import ffi, lib

_ROOT = Path(__file__).parents[2]
_LAYOUT = (_ROOT / "cffi_build" / "include" / "layer8" / "layout.h").read_text()


def _numbers(enum: str) -> dict[str, int]:
    """Names and values of an enum in layout.h."""
    body = re.search(rf"enum {enum} \{{(.*?)\}}", _LAYOUT, re.DOTALL)
    assert body is not None
    return {name: int(value, 0) for name, value in re.findall(r"LAYER8_(\w+) = (\w+)", body[1])}


def test_reasons_slot_states_and_kinds_are_those_of_the_layout() -> None:
    reasons = {name.removeprefix("REASON_"): value for name, value in _numbers("layer8_reason").items()}
    del reasons["CHOSEN"]
    assert reasons == {reason.name: reason.value for reason in Reason}
    states = {name.removeprefix("SLOT_"): value for name, value in _numbers("layer8_slot_state").items()}
    assert states == {state.name: state.value for state in SlotState}
    kinds = _numbers("layer8_kind")
    del kinds["PAD"]
    assert kinds == {kind.name: kind.value for kind in Kind}
    assert len(Target) == 4


@pytest.mark.parametrize(
    ("python", "c"),
    [
        (PortStats, "layer8_port_stats"),
        (PortCounters, "layer8_port_counters"),
        (SwitchCounters, "layer8_switch_counters"),
        (SwitchConfig, "layer8_switch_config"),
    ],
)
def test_figures_have_the_fields_of_their_struct(python: type, c: str) -> None:
    struct = {name for name, _ in ffi.typeof(c).fields}
    assert {field.name for field in dataclasses.fields(python)} == struct - {"reserved"}


def test_tables_are_read_as_they_are_written() -> None:
    assert port_module._ENTRY.size == ffi.sizeof("layer8_entry")
    assert port_module._RECORD.size == 64
    assert lib.layer8_layout_version() == 2


def test_the_written_interface_of_the_module_is_complete() -> None:
    stub = ast.parse((_ROOT / "layer8" / "dataplane" / "_core.pyi").read_text())
    [described] = [node for node in stub.body if isinstance(node, ast.ClassDef) and node.name == "_Lib"]
    names = {node.name for node in described.body if isinstance(node, ast.FunctionDef)}
    names |= {ast.unparse(node.target) for node in described.body if isinstance(node, ast.AnnAssign)}
    assert names == set(dir(lib))
