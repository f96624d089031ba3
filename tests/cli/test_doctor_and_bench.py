"""`layer8 doctor` and `layer8 bench`."""

from __future__ import annotations

import json

from layer8.bench import nats_pair
from layer8.version import VERSION

from .conftest import Command


def test_doctor_says_how_this_host_is(layer8: Command) -> None:
    done = layer8("doctor")
    assert done.returncode in (0, 1)
    assert done.stderr == b""
    text = done.stdout.decode()
    for what in (
        "kernel",
        "cores",
        "descriptors",
        "/dev/shm",
        "clock source",
        "default answers in",
        f"it runs layer8 {VERSION}",
    ):
        assert what in text


def test_doctor_in_json_has_every_check_on_a_line(layer8: Command) -> None:
    done = layer8("--json", "doctor")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"check", "level", "found", "advice"} == set(found[0])
    assert {finding["level"] for finding in found} <= {"ok", "warning", "bad"}
    assert found[-1]["check"] == "Vnet"
    assert done.returncode == any(finding["level"] == "bad" for finding in found)


def test_doctor_says_how_to_start_a_vnet_that_is_missing(layer8: Command) -> None:
    done = layer8("doctor", "--quiet", environ={"LAYER8_VNET": "/nowhere/at-all.sock"})
    assert done.returncode in (0, 1)
    assert b"layer8 vnet" in done.stdout
    assert b"/nowhere/at-all.sock" in done.stdout


def test_bench_measures_each_figure(layer8: Command) -> None:
    done = layer8("bench", "--seconds", "0.05", "--size", "64", "--json")
    assert done.returncode == 0, done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert [figure["measure"] for figure in figures] == [
        "send and receive",
        "send and receive, asyncio",
        "request",
        "one way, receive",
        "one way, receive_many",
    ]
    for figure in figures:
        assert figure["size"] == 64
        assert figure["count"] > 0
        assert figure.get("median_s", figure.get("messages_per_s")) > 0


def test_bench_on_the_vnet_that_runs_prints_a_table(layer8: Command) -> None:
    done = layer8("bench", "--running", "--seconds", "0.05", "--size", "1000", "--measure", "request")
    assert done.returncode == 0, done.stderr
    assert b"1000 B" in done.stdout
    assert b"MEDIAN" in done.stdout
    assert b"cores" in done.stderr


def test_bench_refuses_what_it_cannot_measure(layer8: Command) -> None:
    for arguments in (("--size", "0"), ("--seconds", "0"), ("--measure", "luck")):
        assert layer8("bench", *arguments).returncode == 2


def test_bench_measures_between_two_vnets_beside_raw_tls(layer8: Command) -> None:
    done = layer8("bench", "--hosts", "2", "--seconds", "0.1", "--json")
    assert done.returncode == 0, done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    carriers = ["layer8, 2 hosts", "layer8, 1 host", "raw TLS (Python's ssl)"]
    if nats_pair.is_installed():
        carriers.append("NATS, 2 servers, no TLS")
    assert [figure["carrier"] for figure in figures] == carriers
    assert all(figure[what] > 0 for figure in figures for what in ("round_trip", "rate", "bulk"))
    assert layer8("bench", "--hosts", "2", "--size", "64").returncode == 2
