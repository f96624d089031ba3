"""A Vnet that speaks HTTP, and somebody who asks."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from layer8 import Vnic
from layer8.rendezvous import http_token_file
from layer8.testing import RunningVnet, make_overlay, running_vnet
from layer8.vnet.status import StatusReader

CONFIG = {"http": "127.0.0.1:0", "status_interval": 0.1, "look_interval": 0.1, "statistics_interval": 0.3}


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Site:
    """The HTTP port of one Vnet."""

    def __init__(self, vnet: RunningVnet) -> None:
        self.vnet = vnet
        with StatusReader(vnet.socket) as reader:
            self.address = reader.snapshot().http
        self.host, _, port = self.address.rpartition(":")
        self.port = int(port)

    @property
    def token(self) -> str:
        return self.token_file.read_text().strip()

    @property
    def token_file(self) -> Path:
        return http_token_file(self.vnet.socket)

    def get(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
        """One request; the token is given unless `headers` say something else."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            given = {"Authorization": f"Bearer {self.token}"} if headers is None else dict(headers)
            connection.request(method, path, headers=given)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    alarms = {"memory": {"raise": 1, "alias": "alarming"}}
    with running_vnet(config={**CONFIG, "alarms": alarms}) as vnet:
        yield Site(vnet)


@pytest.fixture
def make_site() -> Iterator[Callable[..., Site]]:
    started: list[RunningVnet] = []

    def make(**config: object) -> Site:
        started.append(running_vnet(config={**CONFIG, **config}))
        return Site(started[-1])

    yield make
    for vnet in started:
        vnet.close()


class Mesh:
    """Three Vnets of one overlay, each linked to the others; `site`: the HTTP port of the first."""

    HOSTS = ("amber", "birch", "cedar")

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.overlay = make_overlay(directory, "shop")
        self.vnets: dict[str, RunningVnet] = {}
        self._stack = stack
        peers: list[str] = []
        for number, host in enumerate(self.HOSTS, 1):
            vnet = stack.enter_context(
                running_vnet(
                    config={
                        **CONFIG,
                        "security": "x509",
                        "identity": self.overlay.vnet(host),
                        "host": host,
                        "listen": f"127.0.3.{number}:0",
                        "peers": peers,
                        "alarms": {"memory": {"raise": 1, "alias": "alarming"}},
                    }
                )
            )
            self.vnets[host] = vnet
            with StatusReader(vnet.socket) as reader:
                peers = [*peers, reader.snapshot().listen[0]]
        self.site = Site(self.vnets[self.HOSTS[0]])

    def vnic(self, host: str, alias: str) -> Vnic:
        """There until the end of the test."""
        vnic = Vnic(
            alias,
            vnet=str(self.vnets[host].socket),
            security=f"x509:{self.overlay.vnic()}",
            attach_timeout=30.0,
            timeout=30.0,
        )
        self._stack.callback(vnic.close)
        return vnic


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with ExitStack() as stack:
        yield Mesh(tmp_path, stack)


@pytest.fixture
def make_vnic(site: Site) -> Iterator[Callable[..., Vnic]]:
    made: list[Vnic] = []

    def make(alias: str | None = None, **arguments: Any) -> Vnic:
        arguments = {"vnet": str(site.vnet.socket), "attach_timeout": 30.0, "timeout": 30.0, **arguments}
        made.append(Vnic(alias, **arguments))
        return made[-1]

    yield make
    for vnic in made:
        vnic.close()
