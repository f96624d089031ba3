"""A Vnet is killed under a mixed load from elsewhere: of Vnics of another host, and of Vnics without a Vnet on theirs.

The books are those of test_adoption. LAYER8_STORM_KILLS: how often a Vnet is killed; scripts/adoption-soak sets it.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from layer8.testing import make_overlay, running_vnet

from .books import Books
from .conftest import Program
from .hosts.conftest import Hosts
from .hosts.networks import Loopback

KILLS = int(os.environ.get("LAYER8_STORM_KILLS", "3"))
WATCHDOG = pytest.mark.timeout(max(300, 30 * KILLS))
TOPICS = 6  # subscribers in all


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Starts one of the books' programs in this environment; none outlives the test."""
    with ExitStack() as stack:

        def start(environ: dict[str, str], name: str, *arguments: object) -> Program:
            program = Program(name, *map(str, arguments), environ=environ)
            stack.callback(program.close)
            return program

        yield start


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with ExitStack() as stack:
        yield Hosts(tmp_path, stack, Loopback())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@WATCHDOG
def test_a_vnet_killed_under_the_load_of_far_vnics_loses_and_doubles_nothing(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    """All but one of the programs are elsewhere."""
    chance = random.Random(KILLS)
    overlay = make_overlay(tmp_path)
    place = f"127.0.0.1:{free_port()}"
    with running_vnet(config={"security": "x509", "identity": overlay.vnet(), "listen": place}) as vnet:
        near = vnet.environ | {"LAYER8_IDENTITY": overlay.vnic()}
        far = near | {"LAYER8_VNET": f"tls://{place}"}
        programs = iter([far, near, far, far, far])
        books = Books(lambda *what: start(next(programs), *what), tmp_path, 200 + KILLS)
        for _ in range(KILLS):
            time.sleep(chance.choice([0.0, 0.5, 2.0]))
            vnet.kill()
            vnet.restart()
        time.sleep(0.5)
        figures = books.check()
        print(f"{KILLS} kills under far Vnics", figures)
        books.close()


@WATCHDOG
def test_either_of_two_linked_vnets_killed_under_load_loses_and_doubles_nothing(
    hosts: Hosts, start: Callable[..., Program], tmp_path: Path
) -> None:
    chance = random.Random(KILLS)
    hosts.vnet("a", listen=f"127.0.0.1:{free_port()}", give_up=60.0)
    hosts.vnet("b", peers=("a",), listen=[], give_up=60.0)
    environs = {name: vnet.environ | {"LAYER8_IDENTITY": hosts.overlay.vnic()} for name, vnet in hosts.vnets.items()}
    programs = iter("abaab")

    def all_known() -> None:
        for name in "ab":
            hosts.until_sees(name, topic="reliable", count=TOPICS)

    books = Books(lambda *what: start(environs[next(programs)], *what), tmp_path, 300 + KILLS, all_known)
    for number in range(KILLS):
        time.sleep(chance.choice([0.0, 0.3, 1.0]))
        vnet = hosts.vnets["ab"[number % 2]]
        vnet.kill()
        vnet.restart()
    time.sleep(0.5)
    figures = books.check(fleeting=False)  # what is dropped for another host is said later, and not by a dead Vnet
    print(f"{KILLS} kills of linked Vnets", figures)
    books.close()
