"""The data plane: segments, ports and the switch. The only package that speaks to the C module.

A Vnic makes a `Segment`, opens its `Port`, sends and receives. A Vnet maps the same segment as a `SwitchPort` and gives
it to its `Switch`, whose one thread moves the messages. What the numbers in records and results mean stands in `codes`.
"""

from layer8.dataplane.codes import (
    FRAGMENT_BYTES,
    GOING_MAX,
    HALF_BYTES,
    HALVES_MAX,
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
from layer8.dataplane.link import CONTROL_MAX, FRAME_MAX, Link, LinkCounters, RemotePort, control_frame
from layer8.dataplane.mirror import Mirror, MirrorCorrupt, MirrorPlace, make_mirror
from layer8.dataplane.port import Batch, Entry, Outgoing, Port, PortStats, Record
from layer8.dataplane.segment import LAYOUT_VERSION, Segment, check_ring_bytes, layout_of, segment_bytes
from layer8.dataplane.switch import (
    PortCounters,
    Question,
    Switch,
    SwitchConfig,
    SwitchCounters,
    SwitchEvent,
    SwitchPort,
)

__all__ = [
    "CONTROL_MAX",
    "FRAGMENT_BYTES",
    "FRAME_MAX",
    "GOING_MAX",
    "HALF_BYTES",
    "HALVES_MAX",
    "HEADERS_MAX",
    "LAYOUT_VERSION",
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
    "Link",
    "LinkCounters",
    "Mirror",
    "MirrorCorrupt",
    "MirrorPlace",
    "Outgoing",
    "Port",
    "PortCounters",
    "PortStats",
    "Question",
    "Reason",
    "Record",
    "RemotePort",
    "Segment",
    "SlotState",
    "Status",
    "Switch",
    "SwitchConfig",
    "SwitchCounters",
    "SwitchEvent",
    "SwitchPort",
    "Target",
    "check_ring_bytes",
    "control_frame",
    "layout_of",
    "make_mirror",
    "segment_bytes",
]
