"""The data plane: segments, ports and the switch. The only package that speaks to the C module.

A Vnic makes a `Segment`, opens its `Port`, sends and receives. A Vnet maps the same segment as a `SwitchPort` and gives
it to its `Switch`, whose one thread moves the messages. What the numbers in records and results mean stands in `codes`.
"""

from layer8.dataplane.codes import (
    FRAGMENT_BYTES,
    HEADERS_MAX,
    NO_SOURCE,
    SLOTS,
    TOPICS,
    Allow,
    Command,
    Event,
    Flag,
    Kind,
    Reason,
    SlotState,
    Status,
    Target,
)
from layer8.dataplane.mirror import Mirror, MirrorCorrupt, MirrorPlace, make_mirror
from layer8.dataplane.port import Batch, Entry, Outgoing, Port, PortStats, Record
from layer8.dataplane.segment import Segment
from layer8.dataplane.switch import PortCounters, Switch, SwitchConfig, SwitchCounters, SwitchEvent, SwitchPort

__all__ = [
    "FRAGMENT_BYTES",
    "HEADERS_MAX",
    "NO_SOURCE",
    "SLOTS",
    "TOPICS",
    "Allow",
    "Batch",
    "Command",
    "Entry",
    "Event",
    "Flag",
    "Kind",
    "Mirror",
    "MirrorCorrupt",
    "MirrorPlace",
    "Outgoing",
    "Port",
    "PortCounters",
    "PortStats",
    "Reason",
    "Record",
    "Segment",
    "SlotState",
    "Status",
    "Switch",
    "SwitchConfig",
    "SwitchCounters",
    "SwitchEvent",
    "SwitchPort",
    "Target",
    "make_mirror",
]
