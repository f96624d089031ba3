"""Tests of a program that uses layer8: `pytest`, or `pytest -n auto`. No Vnet needs to run: each test has its own.

The fixtures `vnet` and `make_vnic` come with layer8; nothing is to be imported or configured for them.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from greeter import Greeter

from layer8 import RequestFailed, Vnic
from layer8.testing import RunningVnet

MakeVnic = Callable[..., Vnic]


def test_greets(make_vnic: MakeVnic) -> None:
    Greeter(make_vnic("greeter"))
    assert make_vnic().request("greeter", b"Ada", timeout=30.0).payload == b"hello, Ada"


def test_refuses_nobody(make_vnic: MakeVnic) -> None:
    Greeter(make_vnic("greeter"))
    with pytest.raises(RequestFailed, match="needs a name"):
        make_vnic().request("greeter", b"", timeout=30.0)


def test_says_whom_it_greets(make_vnic: MakeVnic) -> None:
    Greeter(make_vnic("greeter"))
    client = make_vnic()
    client.subscribe("greeted")
    client.request("greeter", b"Grace", timeout=30.0)
    assert client.receive(timeout=30.0).payload == b"Grace"


def test_goes_on_when_the_vnet_was_killed(vnet: RunningVnet, make_vnic: MakeVnic) -> None:
    Greeter(make_vnic("greeter"))
    client = make_vnic(timeout=60.0)
    vnet.kill()
    vnet.restart()
    client.find("greeter", timeout=60.0)
    assert client.request("greeter", b"Linus").payload == b"hello, Linus"


def test_runs_as_a_program(vnet: RunningVnet, make_vnic: MakeVnic) -> None:
    program = Path(__file__).with_name("greeter.py")
    with subprocess.Popen([sys.executable, program], env=os.environ) as process:  # it finds the Vnet by the environment
        try:
            client = make_vnic()
            client.find("greeter", timeout=60.0)
            assert client.request("greeter", b"Barbara", timeout=30.0).payload == b"hello, Barbara"
        finally:
            process.kill()
