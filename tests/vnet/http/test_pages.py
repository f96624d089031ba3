"""What a Vnet says over HTTP, to whom, and what it does not let strangers do."""

from __future__ import annotations

import json
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as _openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from layer8 import Vnic
from layer8.vnet.config import ConfigError, parse

if TYPE_CHECKING:
    from tests.vnet.http.conftest import Site

openmetrics: Callable[[str], Iterable[Metric]] = _openmetrics

MakeVnic = Callable[..., Vnic]
PATIENCE = 60.0
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in prometheus(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)
    return found


def test_metrics_say_what_the_records_say(site: Site, make_vnic: MakeVnic) -> None:
    vnic, other = make_vnic("measured"), make_vnic("other")
    for _ in range(5):
        vnic.send("other", b"12345")
        other.receive(30)
    answer = site.get("/metrics")
    assert answer.status == 200
    found = samples(answer.text)

    def of(name: str, uuid: object) -> float:
        return next(value for labels, value in found[name] if labels["uuid"] == str(uuid))

    assert of("layer8_up", vnic.uuid) == 1
    assert of("layer8_messages_sent_total", vnic.uuid) == 5
    assert of("layer8_sent_bytes_total", vnic.uuid) == 25
    assert of("layer8_messages_received_total", other.uuid) == 5
    assert of("layer8_memory_bytes", vnic.uuid) > 1 << 20
    labels = next(labels for labels, _ in found["layer8_state"] if labels["uuid"] == str(vnic.uuid))
    assert (labels["alias"], labels["state"], labels["kind"]) == ("measured", "UP", "vnic")
    assert found["layer8_switch_records_total"][0][1] >= 5
    assert sum(value for _, value in found["layer8_directory_records"]) >= 3


def test_openmetrics_has_exemplars(site: Site, make_vnic: MakeVnic) -> None:
    alarming, leaver = make_vnic("alarming"), make_vnic("leaver")
    uuid = str(leaver.uuid)
    leaver.close()

    def exemplars() -> dict[str, Any]:
        answer = site.get("/metrics", {"Authorization": f"Bearer {site.token}", "Accept": OPENMETRICS})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        families = list(openmetrics(answer.text))
        return {
            sample.name: sample.exemplar
            for family in families
            for sample in family.samples
            if sample.exemplar is not None
        }

    found = until(
        lambda: (seen := exemplars()).keys() >= {"layer8_alarms_raised_total", "layer8_down_total"} and seen, ""
    )
    assert found["layer8_down_total"].labels == {"uuid": uuid, "reason": "detached"}
    assert found["layer8_alarms_raised_total"].labels == {"uuid": str(alarming.uuid)}


def test_the_dashboard_names_metrics_that_there_are(site: Site, make_vnic: MakeVnic) -> None:
    make_vnic("alarming")
    until(lambda: "layer8_alarm{" in site.get("/metrics").text, "an alarm")
    text = site.get("/metrics").text
    described = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    dashboard = json.loads((Path(__file__).parents[3] / "scripts" / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(queries) >= 10
    named = {name for query in queries for name in re.findall(r"\blayer8_\w+", query)}
    assert named
    assert {name for name in named if name not in described} == set()


def test_signs_of_life_are_for_everybody_and_nothing_else_is(site: Site) -> None:
    for path in ("/livez", "/readyz"):
        assert site.get(path, {}).status == 200
    for path in ("/", "/metrics", "/events", "/records"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "layer8_token=wrong"}, {"Cookie": ";;=\x7f"}):
            answer = site.get(path, headers)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert site.token not in answer.text
    assert site.get("/nowhere").status == 404
    assert site.get("/metrics", method="POST").status == 405
    assert site.get("/metrics", method="HEAD").body == b""


def test_the_token_is_the_users_alone_and_opens_the_page(site: Site) -> None:
    assert stat.S_IMODE(site.token_file.stat().st_mode) == 0o600
    assert site.get("/?token=wrong", {}).status == 401
    answer = site.get(f"/?token={site.token}", {})
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    page = site.get("/", {"Cookie": cookie.partition(";")[0]})
    assert page.status == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://www.w3.org/2000/svg", "")


def test_another_name_for_this_address_is_not_answered_to(site: Site) -> None:
    headers = {"Authorization": f"Bearer {site.token}", "Host": "evil.example:80"}
    assert site.get("/metrics", headers).status == 421
    headers["Host"] = f"localhost:{site.port}"
    assert site.get("/metrics", headers).status == 200


def test_events_begin_with_the_whole_state_and_go_on_with_changes(site: Site, make_vnic: MakeVnic) -> None:
    with socket.create_connection((site.host, site.port), timeout=PATIENCE) as connection:
        request = f"GET /events HTTP/1.1\r\nHost: {site.address}\r\nAuthorization: Bearer {site.token}\r\n\r\n"
        connection.sendall(request.encode())
        stream = connection.makefile("rb")

        def event() -> tuple[str, dict[str, Any]]:
            while not (line := stream.readline()).startswith(b"event: "):
                assert line
            return line.decode().split()[1], json.loads(stream.readline().removeprefix(b"data: "))

        name, state = event()
        assert name == "state"
        assert [record["kind"] for record in state["records"] if record["uuid"] == state["uuid"]] == ["vnet"]
        late = make_vnic("late")
        while True:
            name, change = event()
            assert name == "change"
            if str(late.uuid) in [record["uuid"] for record in change["records"]]:
                break


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 40_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_disturbs_nobody(site: Site, sent: bytes) -> None:
    with socket.create_connection((site.host, site.port), timeout=PATIENCE) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(4096):
            answer += data
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert site.get("/livez", {}).status == 200


def test_whoever_holds_connections_open_shuts_nobody_out_for_long(site: Site) -> None:
    held = [socket.create_connection((site.host, site.port), timeout=PATIENCE) for _ in range(80)]
    try:
        until(lambda: _lives(site), "answered although many do nothing")
    finally:
        for connection in held:
            connection.close()


def _lives(site: Site) -> bool:
    try:
        return site.get("/livez", {}).status == 200
    except OSError:
        return False


def test_a_stopped_vnet_leaves_no_token_and_a_new_one_has_another(make_site: Callable[..., Site]) -> None:
    site = make_site()
    before = site.token
    site.vnet.stop()
    assert not site.token_file.exists()
    site.vnet.restart()
    assert site.token != before


def test_the_provider_decides_who_may_look(make_site: Callable[..., Site]) -> None:
    site = make_site(http_as="layer8://local/uid/4242")
    answer = site.get("/metrics")
    assert (answer.status, b"may not read-health" in answer.body) == (403, True)
    assert site.get("/readyz", {}).status == 200


@pytest.mark.parametrize("where", ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:80"])
def test_an_address_that_others_reach_has_to_be_meant(where: str) -> None:
    with pytest.raises(ConfigError, match="http_beyond_loopback"):
        parse({"vnet": {"default": {"http": where}}})
    assert parse({"vnet": {"default": {"http": where, "http_beyond_loopback": True}}}).vnets[0].http == where


@pytest.mark.parametrize("where", ["localhost:9464", "127.0.0.1", 9464])
def test_an_address_is_an_address_and_a_port(where: object) -> None:
    with pytest.raises(ConfigError):
        parse({"vnet": {"default": {"http": where}}})


def test_a_port_that_is_taken_is_an_error_at_the_start(make_site: Callable[..., Site]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RuntimeError, match="http at"):
        make_site(http=f"127.0.0.1:{taken.getsockname()[1]}")


def test_an_ordinary_vnet_loads_none_of_it() -> None:
    code = (
        "import sys, layer8.vnet.server; print([name for name in ('h11', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
