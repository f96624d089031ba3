"""Health records and counters as Prometheus and OpenMetrics spell them.

Each Vnet speaks of its own Vnics and links, so that whoever scrapes all Vnets sees everything once; of the others it
only says how many there are. What a sample is an example of (the last Vnic that died, the last alarm) stands beside it
as an exemplar, where the asker understands OpenMetrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from layer8.health.alarms import Alarm
from layer8.health_record import HealthRecord, State

_END = b"# EOF\n"
_ESCAPED = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})
_LABELS = ("uuid", "alias", "host", "vnet", "kind")

_GAUGES = {
    "cpu_percent": ("cpu", "Percent of one core that the process takes."),
    "memory_bytes": ("memory", "Resident memory of the process."),
    "threads": ("threads", "Threads of the process."),
    "open_files": ("open_files", "Open files of the process."),
    "ring_fill_ratio": ("fill", "Fill of the receive ring, 0 to 1."),
    "heard_timestamp_seconds": ("heard", "When it last sent or read something."),
    "since_timestamp_seconds": ("since", "Since when it has been in its state."),
}
_COUNTERS = {
    "messages_sent": ("messages_in", "Messages that the Vnet took from it."),
    "messages_received": ("messages_out", "Messages delivered to it."),
    "sent_bytes": ("bytes_in", "Bytes that the Vnet took from it."),
    "received_bytes": ("bytes_out", "Bytes delivered to it."),
    "undeliverable": ("undeliverable", "Messages of it that did not arrive."),
    "missed": ("missed", "Publications that were dropped for it."),
}
_LINK_COUNTERS = {
    "link_received_messages": ("messages_in", "Messages that came over the link."),
    "link_sent_messages": ("messages_out", "Messages that went over the link."),
    "link_received_bytes": ("bytes_in", "Bytes that came over the link, of all frames, without TLS."),
    "link_sent_bytes": ("bytes_out", "Bytes that went over the link, of all frames, without TLS."),
}
_SWITCH_GAUGES = ("held_records", "held_bytes", "outstanding")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All that a scrape shows, taken in the loop and made into text elsewhere. `down`: how many went down, by how, and
    the last one of each; `raised`: how often each alarm was raised, and the last time."""

    vnet: HealthRecord
    version: str
    local: tuple[HealthRecord, ...]
    states: Mapping[State, int]
    switch: Mapping[str, int]
    down: Mapping[str, tuple[int, HealthRecord]] = field(default_factory=dict)
    raised: Mapping[str, tuple[int, Alarm]] = field(default_factory=dict)
    figures: Mapping[str, tuple[float, str]] = field(default_factory=dict)  # others, by name, with their help


def render(reading: Reading, accept: str) -> tuple[bytes, str]:
    """The text, and its content type. In a worker thread."""
    encoder, content_type = choose_encoder(accept)
    is_open = content_type.startswith("application/openmetrics-text")
    rest: bytes = encoder(_Families(reading))
    own = _of_vnics(reading.local, is_open).encode()
    if is_open:
        return rest.removesuffix(_END) + own + _END, content_type
    return rest + own, content_type


def _of_vnics(records: Iterable[HealthRecord], is_open: bool) -> str:
    """The samples of which there are many: a dozen for each Vnic, all with the same labels. Written here because the
    library spells the labels of each sample anew, which for a thousand Vnics takes 200 ms where this takes 20."""
    labelled = [(record, _label_text(record)) for record in records]
    living = [(record, labels) for record, labels in labelled if record.state is not State.DOWN]
    lines: list[str] = []
    _head(lines, "layer8_up", "gauge", "1 while its state is UP.")
    lines += [f"layer8_up{{{labels}}} {int(record.is_up)}" for record, labels in labelled]
    _head(lines, "layer8_state", "gauge", "1 for the state that it is in.")
    lines += [f'layer8_state{{{labels},state="{record.state}"}} 1' for record, labels in labelled]
    for name, (attribute, text) in _GAUGES.items():
        _head(lines, f"layer8_{name}", "gauge", text)
        lines += [f"layer8_{name}{{{labels}}} {getattr(record, attribute)!r}" for record, labels in living]
    for name, (attribute, text) in _COUNTERS.items():
        _head(lines, f"layer8_{name}" if is_open else f"layer8_{name}_total", "counter", text)
        lines += [f"layer8_{name}_total{{{labels}}} {getattr(record, attribute)!r}" for record, labels in living]
    return "\n".join([*lines, ""])


def _head(lines: list[str], name: str, kind: str, text: str) -> None:
    lines += (f"# HELP {name} {text}", f"# TYPE {name} {kind}")


class _Families(Collector):
    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        reading = self._reading
        own = reading.vnet
        about = {"uuid": str(own.uuid), "host": own.host, "name": own.vnet, "version": reading.version}
        yield InfoMetricFamily("layer8", "The Vnet that says this.", value=about)
        yield from self._alarms()
        yield from self._links()
        yield from self._vnet()

    def _alarms(self) -> Iterator[Metric]:
        raised = GaugeMetricFamily("layer8_alarm", "1 while the alarm is raised.")
        for record in self._reading.local:
            for alarm in record.alarms:
                raised.add_sample("layer8_alarm", _labels(record) | {"alarm": alarm}, 1.0)
        yield raised
        count = CounterMetricFamily("layer8_alarms_raised", "How often each alarm was raised.")
        for name, (times, last) in self._reading.raised.items():
            exemplar = Exemplar(_short({"uuid": str(last.uuid)}), last.value, last.time)
            count.add_sample("layer8_alarms_raised_total", {"alarm": name}, times, exemplar=exemplar)
        yield count
        down = CounterMetricFamily("layer8_down", "Vnics that went down, by how.")
        for how, (times, gone) in self._reading.down.items():
            exemplar = Exemplar(_short({"uuid": str(gone.uuid), "reason": gone.reason}), 1.0, gone.since)
            down.add_sample("layer8_down_total", {"how": how}, times, exemplar=exemplar)
        yield down

    def _links(self) -> Iterator[Metric]:
        own = self._reading.vnet
        links = [
            (link, {"host": own.host, "to": link.host or link.name, "to_uuid": str(link.vnet)}) for link in own.links
        ]
        up = GaugeMetricFamily("layer8_link_up", "1 while the link is UP.")
        trip = GaugeMetricFamily(
            "layer8_link_round_trip_seconds", "Round trip of the link, as the kernel has smoothed it."
        )
        queued = GaugeMetricFamily("layer8_link_queued_bytes", "Bytes that wait to be written to the link.")
        for link, labels in links:
            up.add_sample("layer8_link_up", labels, float(link.state is State.UP))
            trip.add_sample("layer8_link_round_trip_seconds", labels, link.round_trip)
            queued.add_sample("layer8_link_queued_bytes", labels, link.queued)
        yield from (up, trip, queued)
        for name, (attribute, text) in _LINK_COUNTERS.items():
            counter = CounterMetricFamily(f"layer8_{name}", text)
            for link, labels in links:
                counter.add_sample(f"layer8_{name}_total", labels, getattr(link, attribute))
            yield counter

    def _vnet(self) -> Iterator[Metric]:
        reading = self._reading
        records = GaugeMetricFamily("layer8_directory_records", "Records of the whole overlay, by state.")
        for state in State:
            records.add_sample(records.name, {"state": str(state)}, reading.states.get(state, 0))
        yield records
        for name, value in reading.switch.items():
            if name in _SWITCH_GAUGES:
                yield GaugeMetricFamily(f"layer8_switch_{name}", f"The switch: {name}.", value=value)
            else:
                yield CounterMetricFamily(f"layer8_switch_{name}", f"The switch: {name}.", value=value)
        for name, (figure, text) in reading.figures.items():
            yield GaugeMetricFamily(f"layer8_{name}", text, value=figure)


def _labels(record: HealthRecord) -> dict[str, str]:
    return dict(
        zip(_LABELS, (str(record.uuid), record.alias or "", record.host, record.vnet, record.kind), strict=True)
    )


def _label_text(record: HealthRecord) -> str:
    return ",".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in _labels(record).items())


def _short(labels: dict[str, str]) -> dict[str, str]:
    """OpenMetrics allows 128 characters of names and values together."""
    room = 128 - sum(map(len, labels)) - sum(len(value) for name, value in labels.items() if name != "reason")
    return {name: value[: max(room, 0)] if name == "reason" else value for name, value in labels.items()}


def how_it_went(reason: str) -> str:
    """A few words for many reasons, so that there are a few counters."""
    for word in ("detached", "exited", "killed", "quarantined"):
        if reason.startswith(word):
            return word
    return "lost"
