"""The page in a real browser, against Vnics that live, stop, die and raise alarms. A screenshot stays in build/."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from layer8 import Vnic

if TYPE_CHECKING:
    from tests.vnet.http.conftest import Mesh, Site

MakeVnic = Callable[..., Vnic]
PATIENCE_MS = 60_000  # a watchdog, not an expectation
BUILD = Path(__file__).parents[3] / "build"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    assert executable, "these tests need Chromium: scripts/test installs it as root, else `apt-get install chromium`"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser, site: Site) -> Iterator[Callable[..., Page]]:
    contexts = []

    def open_(of: Site = site, **options: object) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.errors = errors  # type: ignore[attr-defined]
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"http://{of.address}/?token={of.token}")
        expect(page.locator("#connection")).to_have_text("live", timeout=PATIENCE_MS)
        return page

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture
def sleeper(site: Site) -> Iterator[subprocess.Popen[bytes]]:
    code = "from layer8 import Vnic; vnic = Vnic('sleeper'); print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=site.vnet.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_the_page_shows_the_overlay_as_it_is_and_as_it_changes(
    open_page: Callable[..., Page], site: Site, make_vnic: MakeVnic, sleeper: subprocess.Popen[bytes]
) -> None:
    worker, _ = make_vnic("worker"), [make_vnic("pool") for _ in range(12)]
    page = open_page(viewport={"width": 1400, "height": 900})
    expect(page.locator("#where")).to_contain_text("default on")
    expect(page.locator(f"#drawing [data-uuid='{worker.uuid}']")).to_have_count(1, timeout=PATIENCE_MS)
    expect(page.locator(f"#vnics tr[data-uuid='{worker.uuid}']")).to_contain_text("worker")
    expect(page.locator("#drawing rect.vnic")).to_have_count(1)

    alarming = make_vnic("alarming")
    expect(page.locator("#alarms")).to_contain_text("memory: alarming", timeout=PATIENCE_MS)
    expect(page.locator(f"#drawing [data-uuid='{alarming.uuid}']")).to_have_attribute(
        "aria-label", f"vnic alarming on {os.uname().nodename}: UP, alarms: memory", timeout=PATIENCE_MS
    )

    os.kill(sleeper.pid, signal.SIGSTOP)
    stopped = page.locator("#vnics tr", has_text="sleeper").locator(".state")
    expect(stopped).to_have_text("STOPPED", timeout=PATIENCE_MS)
    os.kill(sleeper.pid, signal.SIGCONT)
    expect(stopped).to_have_text("UP", timeout=PATIENCE_MS)
    sleeper.kill()
    gone = page.locator("#vnics tr", has_text="sleeper")
    expect(gone).to_contain_text("killed by signal 9", timeout=PATIENCE_MS)

    for _ in range(40):
        worker.send("pool", bytes(1000))
    rate = page.locator(f"#vnics tr[data-uuid='{worker.uuid}'] td").nth(9)
    expect(rate).not_to_have_text("0", timeout=PATIENCE_MS)
    BUILD.mkdir(exist_ok=True)
    page.screenshot(path=BUILD / "page.png", full_page=True)
    assert (BUILD / "page.png").stat().st_size > 10_000
    assert page.errors == []  # type: ignore[attr-defined]


def test_the_page_shows_all_hosts_and_the_links_between_them(open_page: Callable[..., Page], mesh: Mesh) -> None:
    vnics = {(host, number): mesh.vnic(host, f"{host}-{number}") for host in mesh.HOSTS for number in range(3)}
    near, far = vnics["amber", 0], vnics["birch", 0]
    alarming = mesh.vnic("cedar", "alarming")
    page = open_page(of=mesh.site, viewport={"width": 1400, "height": 900})
    expect(page.locator("#where")).to_contain_text("default on amber")
    expect(page.locator("#drawing rect.host")).to_have_count(3, timeout=PATIENCE_MS)
    expect(page.locator("#drawing rect.vnic")).to_have_count(3)
    expect(page.locator("#counts")).to_contain_text("3 hosts")
    for (host, _), vnic in vnics.items():
        node = page.locator(f"#drawing [aria-label='host {host}'] [data-uuid='{vnic.uuid}']")
        expect(node).to_have_count(1, timeout=PATIENCE_MS)
        expect(page.locator(f"#vnics tr[data-uuid='{vnic.uuid}'] td").nth(1)).to_have_text(host)
    expect(page.locator("#drawing path.link")).to_have_count(3, timeout=PATIENCE_MS)
    expect(page.locator("#links tbody tr")).to_have_count(6)  # each as both of its Vnets see it
    expect(page.locator("#links tbody .state")).to_have_text(["UP"] * 6)
    expect(page.locator("#alarms")).to_contain_text("memory: alarming on cedar", timeout=PATIENCE_MS)
    node = page.locator(f"#drawing [data-uuid='{alarming.uuid}']")
    expect(node).to_have_attribute("aria-label", "vnic alarming on cedar: UP, alarms: memory", timeout=PATIENCE_MS)

    with traffic(near, far):
        row = page.locator("#links tbody tr", has=page.locator("td:nth-child(1)", has_text="amber"))
        row = row.filter(has=page.locator("td:nth-child(2)", has_text="birch"))
        expect(row.locator("td").nth(3)).to_contain_text("ms", timeout=PATIENCE_MS)
        expect(row.locator("td").nth(5)).to_contain_text("KiB", timeout=PATIENCE_MS)
        received = page.locator(f"#vnics tr[data-uuid='{far.uuid}'] td").nth(10)
        expect(received).not_to_have_text("0", timeout=PATIENCE_MS)
        BUILD.mkdir(exist_ok=True)
        page.screenshot(path=BUILD / "page-mesh.png", full_page=True)

    mesh.vnets["cedar"].kill()
    cedar = page.locator(f"#vnics tr[data-uuid='{alarming.uuid}'] .state")
    expect(cedar).to_have_text("SUSPECT", timeout=PATIENCE_MS)
    page.screenshot(path=BUILD / "page-mesh-suspect.png", full_page=True)
    expect(cedar).to_have_text("UNREACHABLE", timeout=PATIENCE_MS)
    expect(page.locator("#links tbody tr")).to_have_count(2, timeout=PATIENCE_MS)
    page.screenshot(path=BUILD / "page-mesh-cut.png", full_page=True)
    assert page.errors == []  # type: ignore[attr-defined]


@contextmanager
def traffic(sender: Vnic, receiver: Vnic) -> Iterator[None]:
    """Messages to it until the end, and all of them read."""
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.005):
            sender.send(receiver.uuid, bytes(2000))

    def read() -> None:
        while not ended.is_set():
            with suppress(TimeoutError):
                receiver.receive(timeout=0.2)

    threads = [threading.Thread(target=work, daemon=True) for work in (send, read)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(PATIENCE_MS / 1000)


def test_the_page_works_with_a_keyboard_alone(open_page: Callable[..., Page], site: Site, make_vnic: MakeVnic) -> None:
    vnics = sorted((make_vnic(f"key-{number}") for number in range(3)), key=lambda vnic: str(vnic.alias))
    page = open_page()
    for vnic in vnics:
        expect(page.locator(f"#drawing [data-uuid='{vnic.uuid}']")).to_have_count(1, timeout=PATIENCE_MS)
    page.keyboard.press("/")
    expect(page.locator("#filter")).to_be_focused()
    page.keyboard.type("key-")
    expect(page.locator("#drawing .vnic")).to_have_count(3)
    page.keyboard.press("Tab")
    page.locator("#drawing .vnic").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#details")).to_contain_text(str(vnics[1].uuid))
    chosen = page.locator("#drawing .vnic.chosen")
    expect(chosen).to_have_attribute("data-uuid", str(vnics[1].uuid))
    page.wait_for_timeout(2500)  # two changes are drawn, and the focus stays where it was
    assert page.evaluate("document.activeElement.dataset.uuid") == str(vnics[1].uuid)
    page.keyboard.press("Escape")
    expect(page.locator("#details")).to_contain_text("Choose a Vnic")
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    expect(page.locator("#filter")).to_have_value("")
    assert page.errors == []  # type: ignore[attr-defined]


def test_the_page_is_dark_where_that_is_wanted(open_page: Callable[..., Page], make_vnic: MakeVnic) -> None:
    make_vnic("night")
    seen = {}
    for scheme in ("light", "dark"):
        page = open_page(color_scheme=scheme, viewport={"width": 900, "height": 700})
        seen[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.screenshot(path=BUILD / f"page-{scheme}.png")
    assert seen == {"light": "rgb(246, 247, 249)", "dark": "rgb(17, 22, 29)"}


def test_the_page_says_when_the_vnet_is_gone(open_page: Callable[..., Page], make_site: Callable[..., Site]) -> None:
    own = make_site()
    page = open_page(of=own)
    own.vnet.kill()
    expect(page.locator("#connection")).to_have_attribute("data-state", "lost", timeout=PATIENCE_MS)
