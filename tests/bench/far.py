"""A Vnic without a local Vnet: round trip and one-way rate, beside a local one and beside TLS alone.

    far      a Vnic over TLS to the Vnet's port (loopback), its peer on the Vnet's host
    local    both on the Vnet's host
    tls      two Python processes with one TLS 1.3 connection: what `far` stands on

Everything is measured in one run, one after the other; nothing is asserted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from layer8 import Vnic
from layer8.security.provider import TlsRole
from layer8.security.x509 import X509Provider
from layer8.testing import make_overlay, running_vnet

_SIZES = (64, 64 << 10)


def _vnic(place: str, security: str, alias: str | None = None) -> Vnic:
    return Vnic(alias, vnet=place, security=security, attach_timeout=30.0, timeout=60.0)


def _peer(place: str, security: str, ready: Callable[[], None]) -> None:
    """Echoes what begins with a 1, counts what begins with a 0, and says how many when it hears a 2."""
    with _vnic(place, security, "peer") as vnic:
        ready()
        count = 0
        while True:
            for message in vnic.receive_many():
                kind = message.payload[0]
                if kind == 0:
                    count += 1
                elif kind == 1:
                    vnic.send(message.source, message.payload)
                else:
                    vnic.send(message.source, count.to_bytes(8, "little"))
                    count = 0


def _tls_peer(identity: str, listener: socket.socket) -> None:
    context = X509Provider(Path(identity)).tls(TlsRole.SERVE_VNIC)
    plain, _ = listener.accept()
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with context.wrap_socket(plain, server_side=True) as tls:
        size = int.from_bytes(tls.recv(8), "little")
        while True:
            data = b""
            while len(data) < size:
                got = tls.recv(size - len(data))
                if not got:
                    return
                data += got
            if data[0] == 1:
                tls.sendall(data)


def _trips(trip: Callable[[], object], seconds: float) -> float:
    """Median, microseconds."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        trip()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e6


def _measure(place: str, security: str, seconds: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    with _vnic(place, security) as vnic:
        vnic.find("peer", timeout=30.0)
        for size in _SIZES:
            ping, bulk = b"\1" + bytes(size - 1), bytes(size)

            def trip(payload: bytes = ping) -> None:
                vnic.send("peer", payload)
                vnic.receive()

            trip()
            figures[f"round trip {size} B, us"] = _trips(trip, seconds)
            begin = time.perf_counter()
            while time.perf_counter() - begin < seconds:
                for _ in range(20):
                    vnic.send("peer", bulk)
            vnic.send("peer", b"\2")
            count = int.from_bytes(vnic.receive().payload, "little")
            figures[f"one way {size} B, /s"] = count / (time.perf_counter() - begin)
    return figures


def _measure_tls(identity: str, port: int, size: int, seconds: float) -> dict[str, float]:
    context = X509Provider(Path(identity)).tls(TlsRole.DIAL)
    plain = socket.create_connection(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ping, bulk = b"\1" + bytes(size - 1), bytes(size)
    with context.wrap_socket(plain) as tls:
        tls.sendall(size.to_bytes(8, "little"))

        def trip() -> None:
            tls.sendall(ping)
            left = size
            while left:
                left -= len(tls.recv(left))

        trip()
        figures = {f"round trip {size} B, us": _trips(trip, seconds)}
        begin = time.perf_counter()
        count = 0
        while time.perf_counter() - begin < seconds:
            tls.sendall(bulk)
            count += 1
        trip()
        figures[f"one way {size} B, /s"] = count / (time.perf_counter() - begin)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    seconds = parser.parse_args().seconds
    context = multiprocessing.get_context("spawn")
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        overlay = make_overlay(directory)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        security = f"x509:{overlay.vnic()}"
        config = {"security": "x509", "identity": overlay.vnet(), "listen": f"127.0.0.1:{port}"}
        with running_vnet(config=config) as vnet:
            ready = context.Event()
            peer = context.Process(target=_peer, args=(str(vnet.socket), security, ready.set), daemon=True)
            peer.start()
            ready.wait(60)
            found["local"] = _measure(str(vnet.socket), security, seconds)
            found["far"] = _measure(f"tls://127.0.0.1:{port}", security, seconds)
            peer.kill()
        found["tls"] = {}
        for size in _SIZES:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                server = context.Process(target=_tls_peer, args=(overlay.vnet(), listener), daemon=True)
                server.start()
                found["tls"] |= _measure_tls(overlay.vnic(), listener.getsockname()[1], size, seconds)
                server.kill()
    for name in found["local"]:
        print(f"{name:24}" + "".join(f"   {how} {figures[name]:10,.1f}" for how, figures in found.items()))


if __name__ == "__main__":
    main()
