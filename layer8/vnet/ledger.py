"""What each principal has sent and received here, and what it was refused: since this Vnet started."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from layer8.protocol.control import PrincipalFigures
from layer8.vnet.board_port import BoardPort

_PRINCIPALS = 65536  # that are remembered when they have no port any more


@dataclasses.dataclass(slots=True)
class _Line:
    ports: int = 0
    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    refused: int = 0

    def add(self, port: BoardPort) -> None:
        counters = port.switch_port.counters()
        self.sent += counters.in_messages
        self.sent_bytes += counters.in_bytes
        self.received += counters.out_messages
        self.received_bytes += counters.out_bytes
        self.refused += counters.refused


class Ledger:
    """One thread. Figures of ports that are there are read when somebody asks."""

    def __init__(self) -> None:
        self._past: dict[str, _Line] = {}

    def refused(self, uri: str) -> None:
        """The control plane has said no."""
        self._line(uri).refused += 1

    def ended(self, port: BoardPort) -> None:
        """The last figures of a port."""
        self._line(port.principal.uri).add(port)

    def _line(self, uri: str) -> _Line:
        line = self._past.get(uri)
        if line is None:
            if len(self._past) >= _PRINCIPALS:
                del self._past[next(iter(self._past))]
            line = self._past[uri] = _Line()
        return line

    def page(self, after: str, limit: int, ports: Iterable[BoardPort]) -> list[PrincipalFigures]:
        """In order of URI."""
        lines = {uri: dataclasses.replace(line) for uri, line in self._past.items() if uri > after}
        for port in ports:
            if port.principal.uri > after and port.is_up:
                line = lines.setdefault(port.principal.uri, _Line())
                line.ports += 1
                line.add(port)
        return [
            PrincipalFigures(
                principal=uri,
                ports=line.ports,
                sent=line.sent,
                sent_bytes=line.sent_bytes,
                received=line.received,
                received_bytes=line.received_bytes,
                refused=line.refused,
            )
            for uri, line in sorted(lines.items())[:limit]
        ]
