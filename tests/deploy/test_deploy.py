"""The files of `scripts/deploy`, as far as they can be checked without the systems that they are for."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from layer8 import Vnic
from layer8.testing import make_overlay
from layer8.vnet import config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "scripts" / "deploy"
UNIT = (DEPLOY / "layer8-vnet.service").read_text()
PROGRAM = "/usr/local/bin/layer8"
CONFIG = "/etc/layer8/vnets.toml"
PATIENCE = 60.0


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


MANIFESTS = [
    pytest.param(document, id=f"{path.stem}-{document['kind']}-{document['metadata']['name']}")
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in documents(path)
]


def daemon_set() -> dict[str, Any]:
    (found,) = [item for item in documents(DEPLOY / "kubernetes" / "vnet.yaml") if item["kind"] == "DaemonSet"]
    return found


# ── systemd ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, Path]:
    """What the unit expects on the host, elsewhere: program, configuration, runtime directory, identity."""
    overlay = make_overlay(tmp_path)
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = (DEPLOY / "vnets.toml").read_text()
    for what, there in {
        "/run/layer8": str(runtime),
        "/var/lib/layer8/identity": overlay.vnet(),
        "0.0.0.0:8808": f"127.0.0.1:{port}",
    }.items():
        assert what in text
        text = text.replace(what, there)
    settings = tmp_path / "vnets.toml"
    settings.write_text(text)
    return {
        "program": Path(sys.executable).with_name("layer8"),
        "config": settings,
        "socket": runtime / "default.sock",
        "vnic": Path(overlay.vnic()),
    }


def exec_start(installed: dict[str, Path]) -> list[str]:
    (line,) = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    assert line == f"{PROGRAM} vnet --config {CONFIG}"
    return shlex.split(line.replace(PROGRAM, str(installed["program"])).replace(CONFIG, str(installed["config"])))


class Manager:
    """What systemd is to the service: it hears notifications."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(PATIENCE)

    def hear(self, wanted: str) -> str:
        """Until a notification has this line."""
        while True:
            text = self._socket.recv(4096).decode()
            if wanted in text.splitlines():
                return text

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


def test_the_unit_runs_as_written_and_says_what_it_does(installed: dict[str, Path], manager: Manager) -> None:
    environ = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "300000"}
    service = subprocess.Popen(exec_start(installed), env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        assert "STATUS=Vnet default at" in manager.hear("READY=1")
        manager.hear("WATCHDOG=1")
        manager.hear("WATCHDOG=1")
        security = f"x509:{installed['vnic']}"
        with Vnic("served", vnet=str(installed["socket"]), security=security, attach_timeout=PATIENCE) as vnic:
            assert vnic.find("served").uuid == vnic.uuid
        service.send_signal(signal.SIGHUP)  # ExecReload
        manager.hear("RELOADING=1")
        manager.hear("READY=1")
        service.send_signal(signal.SIGTERM)
        manager.hear("STOPPING=1")
        assert service.wait(PATIENCE) == 0
    finally:
        service.kill()
        service.communicate()


def test_the_watchdog_hears_nothing_from_a_service_that_stands_still(
    installed: dict[str, Path], manager: Manager
) -> None:
    environ = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    service = subprocess.Popen(exec_start(installed), env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        manager.hear("WATCHDOG=1")
        service.send_signal(signal.SIGSTOP)
        manager._socket.settimeout(1.0)
        with pytest.raises(TimeoutError):
            manager.hear("never")
    finally:
        service.kill()
        service.communicate()


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:  # no systemd here: the directives it checks are at least known by name
        assert "Type=notify" in UNIT
        return
    program = tmp_path / "layer8"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "layer8-vnet.service"
    unit.write_text(UNIT.replace(PROGRAM, str(program)))
    result = subprocess.run(
        [analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    about_it = [line for line in result.stderr.splitlines() if "layer8" in line]
    assert (result.returncode, about_it) == (0, [])


@pytest.mark.parametrize(
    "directive",
    ["Type=notify", "WatchdogSec=", "RuntimeDirectory=layer8", "RuntimeDirectoryPreserve=restart", "Restart=always"],
)
def test_the_unit_says_what_adoption_and_supervision_need(directive: str) -> None:
    assert re.search(f"^{re.escape(directive)}", UNIT, re.MULTILINE)


# ── probes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_probe_tells_a_vnet_that_answers_from_one_that_does_not(installed: dict[str, Path]) -> None:
    command = daemon_set()["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["exec"]["command"]
    assert command[0] == "layer8"
    command = [str(installed["program"]), *command[1:]]
    command = [part.replace(CONFIG, str(installed["config"])) for part in command]

    def probe() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    before = probe()
    assert (before.returncode, before.stdout) == (3, "")
    assert "Vnet 'default' does not answer: " in before.stderr
    with subprocess.Popen(
        [*exec_start(installed), "--log-level", "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as service:
        try:
            assert service.stdout is not None
            while service.stdout.readline() != "ready\n":
                pass
            assert probe().returncode == 0
            service.send_signal(signal.SIGSTOP)
            command[command.index("--timeout") + 1] = "0.5"
            assert probe().returncode == 3
            service.send_signal(signal.SIGCONT)
            service.send_signal(signal.SIGTERM)
            _, log = service.communicate(timeout=PATIENCE)
        finally:
            service.kill()
    assert "mismatch" not in log  # it spoke as one of the overlay


# ── containers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_the_image_copies_is_there_and_its_command_can_be_used() -> None:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    instructions = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL"}
    assert {name for name, _ in instructions} <= known | {"HEALTHCHECK", "ENTRYPOINT", "CMD"}
    for name, rest in instructions:
        if name == "COPY":
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
    forms = {name: json.loads(rest) for name, rest in instructions if name in ("ENTRYPOINT", "CMD", "VOLUME")}
    assert forms["ENTRYPOINT"] == ["layer8"]
    assert forms["CMD"] == ["vnet", "--config", CONFIG]


def test_the_services_of_the_compose_file_fit_together() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    services = compose["services"]
    assert set(services) == {"vnet", "worker", "visitor"}
    build = services["vnet"]["build"]
    assert ((DEPLOY / build["context"]).resolve() / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    for name in ("worker", "visitor"):
        assert services[name]["depends_on"] == {"vnet": {"condition": "service_healthy"}}
        assert services[name]["image"] == services["vnet"]["image"]
    assert any(volume.startswith("runtime:/run/layer8") for volume in services["worker"]["volumes"])
    assert not any("/run/layer8" in volume for volume in services["visitor"]["volumes"])
    assert services["visitor"]["environment"]["LAYER8_VNET"] == "tls://vnet:8808"
    (user,) = re.findall(r"useradd --system --uid (\d+)", (DEPLOY / "Dockerfile").read_text())
    assert compose["volumes"]["runtime"]["driver_opts"]["o"].startswith(f"uid={user},gid={user},")


# ── Kubernetes ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("document", MANIFESTS)
def test_a_manifest_is_what_the_schema_of_kubernetes_says(document: dict[str, Any]) -> None:
    for version in ("1.29", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_settings_in_the_manifests_and_files_can_be_used() -> None:
    import tomllib

    (settings,) = [item for item in documents(DEPLOY / "kubernetes" / "vnet.yaml") if item["kind"] == "ConfigMap"]
    for text in (settings["data"]["vnets.toml"], (DEPLOY / "vnets.toml").read_text()):
        (vnet,) = config.parse(tomllib.loads(text)).vnets
        assert vnet.socket == Path("/run/layer8/default.sock")
        assert vnet.listen == ("0.0.0.0:8808",)
        assert vnet.admits_others


def test_the_daemon_set_has_the_socket_on_the_node_and_its_port_too() -> None:
    pod = daemon_set()["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["runtime"]["hostPath"]["path"] == "/run/layer8"
    (vnet,) = pod["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in vnet["volumeMounts"]}
    assert mounted["runtime"] == "/run/layer8"
    assert set(mounted) <= set(volumes)
    assert vnet["ports"][0]["hostPort"] == 8808
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(vnet)


def test_the_headless_service_selects_the_pods_of_the_daemon_set() -> None:
    (service,) = [item for item in documents(DEPLOY / "kubernetes" / "vnet.yaml") if item["kind"] == "Service"]
    assert service["spec"]["clusterIP"] == "None"
    labels = daemon_set()["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_the_vnets_of_a_cluster_find_each_other_by_the_headless_service() -> None:
    import tomllib

    items = documents(DEPLOY / "kubernetes" / "vnet.yaml")
    (settings,) = [item for item in items if item["kind"] == "ConfigMap"]
    (service,) = [item for item in items if item["kind"] == "Service"]
    (vnet,) = config.parse(tomllib.loads(settings["data"]["vnets.toml"])).vnets
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    assert vnet.peers == (f"{name}.{namespace}.svc:{service['spec']['ports'][0]['port']}",)


def test_joining_is_a_command_that_there_is(tmp_path: Path) -> None:
    (join,) = [item for item in daemon_set()["spec"]["template"]["spec"]["initContainers"] if item["name"] == "join"]
    (script,) = join["args"]
    words = shlex.split(script[script.index("layer8 security join") :])
    result = subprocess.run(
        [Path(sys.executable).with_name("layer8"), *words[1:3], "--help"], capture_output=True, text=True, check=True
    )
    for option in (word for word in words if word.startswith("--")):
        assert option in result.stdout
