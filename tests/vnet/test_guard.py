"""What is granted is taken away again when the policy, or who is believed, has changed: with real processes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from layer8 import Closed, Layer8Error, NotAuthorized, NotFound, Vnic
from layer8.protocol.control import Done, Explain, Failed, Reload, Reprove
from layer8.protocol.statement import Purpose, Role, Statement, again
from layer8.security.authority import Authority
from layer8.security.x509 import X509Provider
from layer8.testing import Overlay, RunningVnet, make_overlay, running_vnet
from layer8.vnic.control import ControlClient
from layer8.vnic.waiting import run_now

PATIENCE = 60.0

ALL = '[[allow]]\nwho = "*"\nmay = "*"\nwhat = "*"\n'


def deny(who: str, may: str, what: str) -> str:
    return ALL + f'[[deny]]\nname = "no {may}"\nwho = "layer8://shop/vnic/{who}"\nmay = "{may}"\nwhat = "{what}"\n'


class World:
    """A Vnet by certificate with a policy, and Vnics on it."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.overlay: Overlay = make_overlay(directory, "shop")
        self.policy = directory / "policy.toml"
        self.log = directory / "audit" / "audit.jsonl"
        self._stack = stack
        self.vnet: RunningVnet

    def start(self, policy: str | None = ALL, **config: Any) -> None:
        settings: dict[str, Any] = {"security": "x509", "identity": self.overlay.vnet("here"), "audit": str(self.log)}
        if policy is not None:
            self.policy.write_text(policy)
            settings["policy"] = str(self.policy)
        self.vnet = self._stack.enter_context(running_vnet(config=settings | config))

    def vnic(self, name: str, alias: str | None = None, **more: Any) -> Vnic:
        made = Vnic(alias, vnet=str(self.vnet.socket), security=f"x509:{self.overlay.vnic(name)}", timeout=20.0, **more)
        return self._stack.enter_context(made)

    def client(self, name: str = "admin") -> ControlClient:
        client = ControlClient(str(self.vnet.socket), security=f"x509:{self.overlay.vnic(name)}", timeout=PATIENCE)
        return self._stack.enter_context(client)

    def audited(self, what: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.log.read_text().splitlines()) if line["what"] == what]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def _file(world: World) -> None:
    """Nothing needs to be said: the Vnet looks at the file."""


def _sighup(world: World) -> None:
    assert world.vnet.pid is not None
    os.kill(world.vnet.pid, signal.SIGHUP)


def _command(world: World) -> None:
    assert world.client().request(Reload(id=0)).text == "reloaded"


@pytest.mark.parametrize("told", [_file, _sighup, _command])
def test_a_handle_that_is_not_allowed_any_more_is_taken_away(world: World, told: Callable[[World], None]) -> None:
    world.start()
    store, web, other = world.vnic("store", "store"), world.vnic("web"), world.vnic("other")
    for vnic in (web, other):
        vnic.send("store", b"1")
        store.receive()
    world.policy.write_text(deny("web", "send", "alias store"))
    told(world)

    said: list[tuple[object, ...]] = []

    def refused() -> bool:
        try:
            web.send("store", b"2")
        except NotAuthorized as error:
            said.append(error.args)
        return bool(said)

    until(refused, "the sender is refused")
    assert said == [("layer8://shop/vnic/web", "send", "alias store")]
    other.send("store", b"others go on")
    while store.receive().payload != b"others go on":
        pass
    until(lambda: world.audited("revoke"), "it stands in the audit log")
    (line,) = world.audited("revoke")
    assert (line["principal"], line["action"], line["resource"]) == ("layer8://shop/vnic/web", "send", "alias store")
    world.policy.write_text(ALL)

    def sends() -> bool:
        try:
            return web.send("store", b"again") > 0
        except NotAuthorized:
            return False

    until(sends, "what is allowed again can be done again")


def test_an_outstanding_request_fails_at_once(world: World) -> None:
    world.start()
    store, web = world.vnic("store", "store"), world.vnic("web")
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            web.request("store", b"?", timeout=None)
        except BaseException as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    request = store.receive()
    world.policy.write_text(deny("web", "request", "alias store"))
    asking.join(PATIENCE)
    assert not asking.is_alive()
    assert isinstance(failed[0], NotAuthorized)
    request.reply(b"too late")  # type: ignore[attr-defined]
    store.send("store", b"the service goes on")
    assert store.receive().payload == b"the service goes on"
    web.send("store", b"sending is still allowed")
    assert store.receive().payload == b"sending is still allowed"


def test_a_handle_is_only_for_what_is_allowed(world: World) -> None:
    world.start(deny("web", "request", "alias store") + deny("asker", "send", "alias store").removeprefix(ALL))
    store, web, asker = world.vnic("store", "store"), world.vnic("web"), world.vnic("asker")
    store.serve(lambda request: b"answer")
    for _ in range(3):
        web.send("store", b"1")
        with pytest.raises(NotAuthorized, match="may not request alias store"):
            web.request("store", b"?")
        assert asker.request("store", b"?").payload == b"answer"
        with pytest.raises(NotAuthorized, match="may not send alias store"):
            asker.send("store", b"1")


def test_a_subscription_that_is_not_allowed_any_more_ends(world: World) -> None:
    world.start()
    reader, writer = world.vnic("reader"), world.vnic("writer")
    subscription = reader.subscribe("prices")
    reader.subscribe("news")
    stream, other = reader.stream("prices"), reader.stream("news")
    writer.publish("prices", b"1")
    assert reader.receive().payload == b"1"
    assert stream.receive().payload == b"1"
    world.policy.write_text(deny("reader", "subscribe", "topic prices"))
    for _ in range(2):  # it was waiting, and it asks again
        with pytest.raises(NotAuthorized) as caught:
            stream.receive(PATIENCE)
        assert caught.value.args == ("layer8://shop/vnic/reader", "subscribe", "topic prices")
    stream.close()
    until(lambda: world.audited("revoke"), "it stands in the audit log")
    writer.publish("prices", b"2")
    writer.publish("news", b"3")
    assert reader.receive().payload == b"3"
    assert other.receive().payload == b"3"
    subscription.close()
    with pytest.raises(NotAuthorized):
        reader.subscribe("prices")


def test_who_may_not_be_here_any_more_is_closed(world: World) -> None:
    world.start()
    web, other = world.vnic("web", "web"), world.vnic("other", "other")
    world.policy.write_text(deny("web", "attach", "overlay shop"))
    until(lambda: web.state == "away", "the port is closed")
    assert other.state == "attached"
    world.policy.write_text(deny("other", "serve", "alias other"))
    until(lambda: web.state == "attached", "it comes back when it may")
    until(lambda: other.state == "away", "an alias without the right to it")


def test_a_policy_that_cannot_be_used_leaves_the_last_good_one(world: World) -> None:
    world.start(deny("web", "send", "alias store"))
    world.vnic("store", "store")
    web, admin = world.vnic("web"), world.client()
    for broken in ("not TOML [", "", '[[allow]]\nwho = "*"\nmay = "fly"\nwhat = "*"\n'):
        world.policy.write_text(broken)
        with pytest.raises(Layer8Error, match="what was good before stays in force"):
            admin.request(Reload(id=0))
        with pytest.raises(NotAuthorized):
            web.send("store", b"1")
    world.policy.unlink()
    with pytest.raises(Layer8Error, match="cannot be read"):
        admin.request(Reload(id=0))
    assert "NOT RELOADED, what was good before stays in force" in world.vnet.log
    until(lambda: world.audited("reload"), "it is on record")
    assert not any(line["allowed"] for line in world.audited("reload"))


def test_only_who_may_administer_reloads_and_explains(world: World) -> None:
    world.start(deny("web", "administer", "*"))
    web, admin = world.client("web"), world.client("admin")
    question = Explain(id=0, principal="layer8://shop/vnic/web", action="administer", resource="overlay shop")
    assert "deny rule 1 (no administer)" in admin.request(question).text
    for message in (Reload(id=0), question):
        with pytest.raises(NotAuthorized, match="may not administer overlay shop"):
            web.request(message)


@pytest.mark.parametrize("name", ["prices.*", "*", ">", "prices.>", "prices.?", "prices..gold", "+", "#"])
def test_signs_of_patterns_are_names_on_a_vnet(world: World, name: str) -> None:
    world.start(
        """
[[allow]]
who = "layer8://shop/vnic/*"
may = ["attach", "serve", "send"]
what = ["overlay shop", "alias prices.gold", 'alias layer8://x', 'alias *']
[[allow]]
who = "layer8://shop/vnic/*"
may = ["publish", "subscribe"]
what = "topic prices.gold"
"""
    )
    gold, web = world.vnic("gold", "prices.gold"), world.vnic("web")
    subscription = gold.subscribe("prices.gold")
    for attempt in (lambda: web.publish(name, b"x"), lambda: web.subscribe(name)):
        with pytest.raises(NotAuthorized):
            attempt()
    with pytest.raises(NotFound):  # the policy lets everybody send to every alias: it is a name that nobody has
        web.send(name, b"x")
    web.publish("prices.gold", b"y")
    assert gold.receive().payload == b"y"
    subscription.close()


def test_an_alias_is_taken_only_with_the_right_to_it(world: World) -> None:
    world.start(deny("web", "serve", "alias store"))
    with pytest.raises(NotAuthorized) as caught:
        world.vnic("web", "store")
    assert str(caught.value).count("\n") == 0
    assert caught.value.args == ("layer8://shop/vnic/web", "serve", "alias store")
    world.vnic("web", "another")
    world.vnic("store", "store")
    until(lambda: world.audited("refuse"), "it is on record")
    (line,) = world.audited("refuse")
    assert (line["action"], line["resource"]) == ("serve", "alias store")


def test_forbidden_and_absent_look_alike_to_who_may_not_know(world: World) -> None:
    rule = '[[deny]]\nwho = "layer8://shop/vnic/web"\nmay = ["send", "read-health"]\nwhat = "*"\n'
    world.start(ALL + rule)
    store, web = world.vnic("store", "store"), world.vnic("web")
    said = []
    for there, absent in ((store.uuid, uuid4()), ("store", "nobody")):
        for to in (there, absent):
            with pytest.raises(Layer8Error) as caught:
                web.send(to, b"x")
            said.append(str(caught.value).replace(str(to), "X"))
    assert said[0] == said[1]
    assert said[2] == said[3]


def test_every_refusal_is_one_line_and_stands_in_the_audit_log(world: World, tmp_path: Path) -> None:
    world.start(deny("web", "attach", "overlay shop") + deny("clerk", "send", "*").removeprefix(ALL))
    others = make_overlay(tmp_path / "others", "shop")
    said: list[str] = []
    vnet = str(world.vnet.socket)
    store = world.vnic("store", "store")
    clerk = world.vnic("clerk")
    for attempt in (
        lambda: Vnic(vnet=vnet, security="local"),  # another provider
        lambda: Vnic(vnet=vnet, security=f"x509:{others.vnic('web')}"),  # another overlay of the same name
        lambda: Vnic(vnet=vnet, security=f"x509:{world.overlay.vnic('web')}"),  # denied
        lambda: clerk.send("store", b"x"),
        lambda: clerk.send(store.uuid, b"x"),
    ):
        with pytest.raises(Layer8Error) as caught:
            attempt()
        said.append(str(caught.value))
    assert [text for text in said if "\n" in text or not text] == []
    assert not any("rule" in text or str(world.policy) in text for text in said)  # why, is for the log

    def complete() -> bool:
        reasons = " ".join(str(line) for line in world.audited("refuse"))
        return all(
            part in reasons for part in ("another Security Provider", "deny rule 1", "deny rule 2", "vnic/clerk")
        )

    until(complete, "all of them are on record")


# ── who is believed ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_revoked_certificate_closes_the_live_port_for_good(world: World) -> None:
    world.start(None, authority=str(world.overlay.path))
    web, other = world.vnic("web"), world.vnic("other")
    began = time.monotonic()
    Authority(world.overlay.path).revoke("layer8://shop/vnic/web", time.time())
    with pytest.raises(
        Closed, match="layer8://shop/vnic/web may no longer attach overlay shop: its certificate was revoked"
    ):
        web.receive(PATIENCE)
    took = time.monotonic() - began
    assert web.state == "closed"
    with pytest.raises(Closed, match="was revoked"):
        web.send("web", b"x")
    assert other.state == "attached"
    with pytest.raises(NotAuthorized):
        world.vnic("web")
    print(f"closed after {took:.2f} s")
    until(lambda: any("revoked" in line.get("reason", "") for line in world.audited("refuse")), "the log says why")


def test_certificates_are_renewed_and_no_connection_is_dropped(world: World) -> None:
    here = Path(world.overlay.vnet("here", lifetime=8.0)) / "identity.pem"
    world.start(None, authority=str(world.overlay.path))
    place = Path(world.overlay.vnic("web", lifetime=6.0)) / "identity.pem"
    web = world.vnic("web", "web")
    over = time.time() + 8.0  # when both would have run out
    leaves: dict[Path, set[bytes]] = {here: set(), place: set()}

    def goes_on() -> bool:
        web.send("web", b"x")
        assert web.receive().payload == b"x"
        for path, found in leaves.items():
            found.add(path.read_bytes())
        return time.time() > over and len(leaves[here]) >= 2 and len(leaves[place]) >= 3

    until(goes_on, "both are renewed")
    assert web.state == "attached"
    assert web.stats().attachments == 1
    assert not world.audited("expired")


def test_who_does_not_renew_is_closed_when_its_certificate_expires(world: World) -> None:
    world.start(None)  # no authority: nobody can renew
    world.overlay.vnic("web", lifetime=4.0)
    web = world.vnic("web")
    until(lambda: web.state == "away", "the port is closed")
    assert world.audited("expired")


def test_a_vnet_elsewhere_renews_and_learns_of_revocations_over_the_network(world: World) -> None:
    world.start(None, authority=str(world.overlay.path), enrol=["127.0.0.1:0"])
    address = world.vnet.log.partition("may join at ")[2].split()[0]
    there = Path(world.overlay.vnet("there", lifetime=10.0))
    config = {"security": "x509", "identity": str(there), "authority": address}
    with running_vnet("there", config) as vnet:
        security = f"x509:{world.overlay.vnic('web', lifetime=8.0)}"
        with Vnic("web", vnet=str(vnet.socket), security=security, timeout=PATIENCE) as web:
            first = (there / "identity.pem").read_bytes()
            until(lambda: (there / "identity.pem").read_bytes() != first, "the Vnet has renewed")
            until(lambda: web._core.presence.attachment.proofs > 0, "the Vnic has renewed, by way of it")  # type: ignore[union-attr]
            web.send("web", b"x")
            assert web.receive(timeout=PATIENCE).payload == b"x"
            Authority(world.overlay.path).revoke("layer8://shop/vnic/web", time.time())
            until(lambda: web.state == "closed", "the port is closed")


def test_a_proof_anew_is_ones_own_and_good_once(world: World) -> None:
    world.start()
    web = world.vnic("web")
    attachment = web._core.presence.attachment
    assert attachment is not None

    def proof(name: str, number: int) -> bytes:
        statement = Statement(
            purpose=Purpose.ATTACH,
            prover_role=Role.VNIC,
            overlay="shop",
            audience=f"vnet/{attachment.challenge.vnet}/{attachment.challenge.epoch}",
            digest=again(attachment.digest, number),
        )
        return X509Provider(Path(world.overlay.vnic(name))).prove(statement)

    def ask(data: bytes) -> object:
        question = Reprove(id=0, proof=data)
        return run_now(web._core.questions.ask_blocking(attachment, question, time.monotonic() + PATIENCE))

    good = proof("web", 1)
    assert isinstance(ask(good), Done)
    for bad in (good, proof("web", 2), proof("other", 4), b"", b"junk", good[:-1]):  # 2: its turn has passed
        answer = ask(bad)
        assert isinstance(answer, Failed)
        assert answer.code == "not-authorized"
    assert isinstance(ask(proof("web", 8)), Done)
    assert web.state == "attached"


# ── figures ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_principal_has_its_figures_also_of_ports_that_are_gone(world: World) -> None:
    world.start(deny("web", "send", "alias other"))
    store, web = world.vnic("store", "store"), world.vnic("web")
    for _ in range(3):
        web.send("store", b"12345678")
        store.receive()
    with pytest.raises(NotAuthorized):
        web.send("other", b"x")
    admin = world.client()

    def figures(name: str) -> Any:
        (found,) = (row for row in admin.principals() if row.principal == f"layer8://shop/vnic/{name}")
        return found

    until(lambda: figures("store").received == 3, "all is counted")
    assert (figures("web").sent, figures("web").refused, figures("web").ports) == (3, 1, 1)
    assert figures("web").sent_bytes >= 24
    web.close()
    until(lambda: figures("web").ports == 0, "it is gone")
    assert (figures("web").sent, figures("store").received) == (3, 3)
