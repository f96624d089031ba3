"""The control messages between a Vnic and its Vnet: one msgspec struct each, msgpack behind a u32 length.

    Vnic                                   Vnet
      Hello(version, fingerprint, nonce) ──▶
      ◀── Challenge(version, fingerprint, overlay, vnet, epoch, nonce, proof)    or Refused
      Attach(uuid, alias, proof, …) + segment descriptor ──▶                     (observers send no descriptor)
      ◀── Attached(port, resume, limits, …) + doorbell descriptor                or Refused
      requests with an id ──▶
      ◀── Done | Failed with the same id;  events without an id, at any time

Fields are only ever added, with defaults; unknown ones are ignored by msgspec. A kind that is not known is answered
with Failed(id, "unsupported"). The Vnic chooses slot, generation and topic number; the Vnet grants or refuses them.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from layer8.health_record import HealthRecord

PROTOCOL_VERSION = 1


class Wire(msgspec.Struct, frozen=True, gc=False, tag_field="t", kw_only=True, omit_defaults=True):
    """Base of all control messages; `t` names the kind."""


# ── attach ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Hello(Wire, frozen=True, tag="hello"):
    """First message of the Vnic. `nonce`: 32 random bytes."""

    version: int
    fingerprint: bytes
    nonce: bytes


class Challenge(Wire, frozen=True, tag="challenge"):
    """The Vnet proves itself first. `epoch` changes at each start of the Vnet."""

    version: int
    fingerprint: bytes
    overlay: str
    vnet: UUID
    name: str
    epoch: int
    nonce: bytes
    proof: bytes


class Attach(Wire, frozen=True, tag="attach"):
    """`observer`: control only, no segment, no port (tools). `resume`: the secret of an earlier attach, or empty.
    `adopt`: the segment is the one of that attach, and is to be taken over as it is. `chime`: the Vnic sleeps in a
    loop; a second descriptor comes with Attached that becomes readable when it is to look. `release`: the version of
    layer8 in this program."""

    uuid: UUID
    proof: bytes
    alias: str | None = None
    observer: bool = False
    resume: bytes = b""
    adopt: bool = False
    pid: int = 0
    program: str = ""
    chime: bool = False
    release: str = ""


class Attached(Wire, frozen=True, tag="attached"):
    """`port`: index of the port on its Vnet. Sizes are bytes. `principal`: who the Vnic proved to be. `adopted`: its
    segment goes on; the port stands still until the Vnic has renewed what it had and says Resume."""

    port: int
    resume: bytes
    principal: str
    max_message_bytes: int
    max_requests: int
    adopted: bool = False


class Refused(Wire, frozen=True, tag="refused"):
    """The connection closes after this.

    `code`: mismatch | not-authorized | limit | version | invalid | stopping | taken | stale (the segment is not
    adopted: attach with a fresh one) | layout (of the segment: another one; keep it, the next Vnet may know it).
    `fields`: as the code has it; of version and layout the Vnet's number of it, and its version of layer8.
    """

    code: str
    text: str = ""
    fields: tuple[str, ...] = ()


# ── requests of an attached Vnic ──────────────────────────────────────────────────────────────────────────────────


class Grant(Wire, frozen=True, tag="grant"):
    """A handle for one destination. `kind`: "uuid" | "alias" | "topic"; `name`: the uuid's text, the alias or topic.
    `action`: what it will be used for: "send" | "request" | "publish". A message in fragments to an alias first asks
    Find for one member and is sent to its uuid. `renew`: the handle was granted by an earlier Vnet.
    Done.text: what it may be used for, actions with a space between."""

    id: int
    slot: int
    generation: int
    kind: str
    name: str
    action: str = "send"
    renew: bool = False


class Release(Wire, frozen=True, tag="release"):
    """Gives a handle back. Records already accepted under it are still delivered."""

    id: int
    slot: int
    generation: int


class Subscribe(Wire, frozen=True, tag="subscribe"):
    """From its Done on, publications on this host arrive under topic number `number` (0 to LAYER8_TOPICS - 1).
    `renew`: an earlier Vnet had agreed; its count of missed publications goes on."""

    id: int
    topic: str
    number: int
    renew: bool = False


class Unsubscribe(Wire, frozen=True, tag="unsubscribe"):
    id: int
    number: int


class Find(Wire, frozen=True, tag="find"):
    """`to`: a uuid's text or an alias (`is_uuid` says which). Waits up to `timeout` seconds until one is up."""

    id: int
    to: str
    is_uuid: bool
    timeout: float = 0.0


class Health(Wire, frozen=True, tag="health"):
    """Records of the overlay, at most `limit`, in order of uuid, after the one named. Done.records is one page."""

    id: int
    after: UUID | None = None
    filters: dict[str, str] = msgspec.field(default_factory=dict)
    limit: int = 100


class Watch(Wire, frozen=True, tag="watch"):
    """Done, then Watched events under the number `watch`, which the Vnic chooses: the records that match, then every
    change of one. The same number again begins anew."""

    id: int
    watch: int
    filters: dict[str, str] = msgspec.field(default_factory=dict)


class WatchAck(Wire, frozen=True, tag="watch-ack"):
    """One Watched was taken: the next may come. Without an answer."""

    watch: int


class Unwatch(Wire, frozen=True, tag="unwatch"):
    id: int
    watch: int


class Announce(Wire, frozen=True, tag="announce"):
    """What this Vnic is to others, all of it: `services`, the names under which it answers requests; `reports`, whether
    it answers ReportWanted."""

    id: int
    services: tuple[str, ...] = ()
    reports: bool = False


class Elect(Wire, frozen=True, tag="elect"):
    """This Vnic stands in the group: Done, then Elected events."""

    id: int
    group: str


class Lead(Wire, frozen=True, tag="lead"):
    """It was appointed in this term, or leads, and wants to: Done with the `seconds` of the lease, which its sender
    counts from before it asked, or Failed("stale")."""

    id: int
    group: str
    term: int


class Unelect(Wire, frozen=True, tag="unelect"):
    """It stands no more, and does not lead any more."""

    id: int
    group: str


class Report(Wire, frozen=True, tag="report"):
    """What ReportWanted asked for. `kind`: stack | memory."""

    id: int
    kind: str
    text: str


class ReadReport(Wire, frozen=True, tag="read-report"):
    """What a Vnic of this Vnet has reported: Done.text, JSON of one report; `more`: there are older ones. `number`: of
    those before the newest. `ask`: stack | memory, to be asked for first."""

    id: int
    uuid: UUID
    number: int = 0
    ask: str = ""


class Topics(Wire, frozen=True, tag="topics"):
    """Topics with their numbers of subscribers: Done.topics."""

    id: int
    after: str = ""


class WhoIs(Wire, frozen=True, tag="whois"):
    """The principal behind the number in a record: Done.text."""

    id: int
    principal: int


class Draining(Wire, frozen=True, tag="draining"):
    """This Vnic takes no new messages: it leaves its alias; its port stays."""

    id: int


class Detach(Wire, frozen=True, tag="detach"):
    """The Vnic closes; the Vnet moves what stands in its transmit ring, then answers and reaps the port."""

    id: int


class Farewell(Wire, frozen=True, tag="farewell"):
    """A Vnic that was closed while no Vnet was there does not come back. `secret`: of its attach, which proves that
    this speaks for it. Done, whether it was awaited or not."""

    id: int
    uuid: UUID
    secret: bytes


class Resume(Wire, frozen=True, tag="resume"):
    """An adopted port: all it had is renewed. Done when its records move again.

    `going`: messages in fragments that this Vnic has begun and goes on sending, `halves`: those of others that stand
    half in its memory, each as `struct layer8_half` (layout.h). What does not go on is aborted. Done.data: the uuids of
    those sources of halves that are there no more; when others of them go, Ended tells. None: not told, and Done.data
    has who had been attached and has died meanwhile, as far as a message takes them.
    """

    id: int
    going: bytes | None = None
    halves: bytes = b""


class Ping(Wire, frozen=True, tag="ping"):
    """Done.text: the version of layer8 that the Vnet runs."""

    id: int


class Reload(Wire, frozen=True, tag="reload"):
    """Look at policy and identity at once. Done, or Failed("invalid") with what is wrong with them."""

    id: int


class Explain(Wire, frozen=True, tag="explain"):
    """Which rule decides this: Done.text. `resource`: as in a policy, "topic prices.gold"."""

    id: int
    principal: str
    action: str
    resource: str


class AuditPlace(Wire, frozen=True, tag="audit-place"):
    """Where the Vnet's audit log is: Done.text, empty when it has none."""

    id: int


class Principals(Wire, frozen=True, tag="principals"):
    """What each principal sent and received here: Done.principals."""

    id: int
    after: str = ""


class Renewal(Wire, frozen=True, tag="renewal"):
    """For the authority: this member wants a new certificate. `question`: proves itself; the Vnet passes it on.
    Done.data: certificate, list of roots, revocation list."""

    id: int
    question: bytes


class Reprove(Wire, frozen=True, tag="reprove"):
    """This Vnic proves itself anew, its certificate was renewed: over the digest of the attach and the number of
    proofs so far. What is open stays open, until the new certificate expires."""

    id: int
    proof: bytes


class PrincipalFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one principal, since this Vnet started. `ports`: that it has now; `refused`: what it was denied."""

    principal: str
    ports: int
    sent: int
    sent_bytes: int
    received: int
    received_bytes: int
    refused: int


class Done(Wire, frozen=True, tag="done"):
    """Success. Only the fields that the request asks for are set. `more`: ask again for the next page."""

    id: int
    uuid: UUID | None = None
    text: str = ""
    record: HealthRecord | None = None
    records: tuple[HealthRecord, ...] = ()
    topics: tuple[tuple[str, int], ...] = ()
    principals: tuple[PrincipalFigures, ...] = ()
    data: tuple[bytes, ...] = ()
    more: bool = False
    seconds: float = 0.0


class Failed(Wire, frozen=True, tag="failed"):
    """`code`: not-found | not-authorized | limit | invalid | stale | timeout | unsupported | stopping |
    no-engine."""

    id: int
    code: str
    text: str = ""
    fields: tuple[str, ...] = ()


# ── events of the Vnet ────────────────────────────────────────────────────────────────────────────────────────────


class Stopping(Wire, frozen=True, tag="stopping"):
    """The Vnet stops cleanly; what was accepted is delivered first, for up to `grace` seconds."""

    grace: float


class TopicRevoked(Wire, frozen=True, tag="topic-revoked"):
    """The subscription under this number has ended: it is no longer allowed."""

    number: int
    topic: str


class Ended(Wire, frozen=True, tag="ended"):
    """These, of whom Resume had named halves, are there no more: what they had begun does not go on."""

    sources: tuple[bytes, ...]


class PortClosed(Wire, frozen=True, tag="port-closed"):
    """This port was closed (a violation, a limit, a revoked principal). The connection closes after this. `lasting`:
    nobody will let this Vnic in again."""

    reason: str
    lasting: bool = False


class ReportWanted(Wire, frozen=True, tag="report-wanted"):
    """A Vnic that announced `reports` is asked for one. `kind`: stack | memory. `cause`: an alarm, or "asked"."""

    kind: str
    cause: str = ""


class Elected(Wire, frozen=True, tag="elected"):
    """Who leads the group, None: nobody. `appointed`: who hears this is to lead in this term, with Lead."""

    group: str
    term: int
    leader: UUID | None = None
    appointed: bool = False


class Watched(Wire, frozen=True, tag="watched"):
    """Records of a watch, in the order of their changes. `forgotten`: DOWN ones that are no longer kept. `first`: the
    present state begins; `complete`: it was told. `code`: the watch is over, not-authorized."""

    watch: int
    records: tuple[HealthRecord, ...] = ()
    forgotten: tuple[UUID, ...] = ()
    first: bool = False
    complete: bool = False
    code: str = ""


FromVnic = (
    Hello
    | Attach
    | Grant
    | Release
    | Subscribe
    | Unsubscribe
    | Find
    | Health
    | Watch
    | WatchAck
    | Unwatch
    | Announce
    | Elect
    | Lead
    | Unelect
    | Report
    | ReadReport
    | Topics
    | WhoIs
    | Draining
    | Detach
    | Farewell
    | Resume
    | Ping
    | Reload
    | Explain
    | AuditPlace
    | Principals
    | Renewal
    | Reprove
)
FromVnet = (
    Challenge
    | Attached
    | Refused
    | Done
    | Failed
    | Stopping
    | Ended
    | PortClosed
    | TopicRevoked
    | Watched
    | Elected
    | ReportWanted
)
