"""A Vnet on another host: the Vnic's carrier, a thread that plays the local Vnet to the library.

    library ── control socket ── carrier ══ TLS ══ the Vnet's carrier
            └── segment ─────────┘

    dialling ──▶ carrying ──(cut)──▶ dialling again, for as long as the Vnet keeps the session ──▶ carrying
                    └──(the Vnet ended it | the library closed | nobody answered in time)──▶ over

When it is over the control socket ends, which is how the library hears that its Vnet is gone: from then on everything
is as it is with a local one. The library looks for a Vnet, and its segment is adopted or is not.
"""

from __future__ import annotations

import logging
import os
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Sequence

from layer8.carrier import CarrierEnded, ConnectionCut, Pump, Traffic, first_message
from layer8.carrier.traffic import close_all
from layer8.dataplane import LAYOUT_VERSION, Mirror, MirrorCorrupt
from layer8.protocol.codec import ProtocolViolation
from layer8.protocol.codec import encode as encode_control
from layer8.protocol.control import Refused
from layer8.protocol.mirror import (
    ALPN_VNIC,
    STALE,
    AnyMessage,
    Begin,
    Begun,
    Bound,
    Continue,
    Continued,
    End,
    Segment,
    encode,
)
from layer8.protocol.statement import Channel
from layer8.rendezvous import FarPlace
from layer8.security.provider import SecurityProvider, TlsRole
from layer8.security.tls_batches import TlsBatches

ALIVE_SECONDS = 2.0
PATIENCE_SECONDS = 5.0

_DIAL_SECONDS = 2.0  # for one try, when dialling again
_LEAST_DIAL_SECONDS = 0.2
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 0.5
_SECRET_BYTES = 64  # at most, of what the Vnet calls a session

_logger = logging.getLogger("layer8.vnic")


class FarCarrier:
    """Dials in its own thread; `wait` until it stands. `local`: the control socket for the library, which owns it.

    `channel`: what is to be seen of the Vnet. `wants_chime`: set before the segment is handed over, when whoever has it
    sleeps on a descriptor. `why`: it is over, once it is.
    """

    def __init__(self, place: FarPlace, provider: SecurityProvider, timeout: float) -> None:
        self.channel = Channel(text=str(place))
        self.wants_chime = False
        self.local, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._traffic = Traffic(inner)
        self._place = place
        self._provider = provider
        self._deadline = time.monotonic() + timeout
        self._doorbell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._traffic.wake = self._doorbell
        self._chime = -1
        self._chime_watch: select.epoll | None = None
        self._session = b""
        self._secret = b""
        self._alive, self._patience = ALIVE_SECONDS, PATIENCE_SECONDS
        self._tls: TlsBatches | None = None
        self._process = os.getpid()
        self._stands = threading.Event()
        self._error: OSError | None = None
        self._pump: Pump
        self.why = ""
        self._thread = threading.Thread(target=self._run, name="layer8-carrier", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._release()
            self.local.close()
            raise

    def wait(self, timeout: float) -> None:
        """Until the connection stands. Raises OSError, and then nothing is left but `local`."""
        if not self._stands.wait(timeout):
            raise TimeoutError(f"no connection within {timeout:.3g} s")
        if self._error is not None:
            raise self._error

    def forked(self) -> None:
        """In a child: its copies of the descriptors are closed, and nothing is said."""
        if self._process == os.getpid():
            return
        self._process = os.getpid()
        self._release()

    # ── the thread ────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            self._tls = self._dial(self._deadline)
        except OSError as error:
            self._error = error
        finally:
            self._stands.set()
        try:
            if self._tls is not None:
                self._carry(self._tls)
        except CarrierEnded as ended:
            self.why = ended.text
            self._refuse(ended)
            _logger.debug("the carrier to %s: %s", self._place, ended.text)
        except ConnectionCut as cut:
            self.why = f"the connection is lost: {cut}"
            _logger.info("the connection to the Vnet at %s is lost: %s", self._place, str(cut))
        except (ProtocolViolation, MirrorCorrupt) as violation:
            self.why = f"it said what cannot be: {violation}"
            _logger.warning("the Vnet at %s said what cannot be: %s", self._place, str(violation))
        except Exception as error:
            self.why = f"its carrier failed: {error!r}"
            _logger.exception("the carrier to %s failed", self._place)
        finally:
            self._traffic.finish()
            self._release()

    def _release(self) -> None:
        self._traffic.close()
        if self._tls is not None:
            self._tls.close()
        doorbell, self._doorbell = self._doorbell, -1
        chime, self._chime = self._chime, -1
        close_all([fd for fd in (doorbell, chime) if fd >= 0])
        if self._chime_watch is not None:
            self._chime_watch.close()

    def _carry(self, tls: TlsBatches) -> None:
        came = b""
        say: list[AnyMessage] = [Begin()]
        while True:
            pump = Pump(tls, self._traffic, self, alive=self._alive, patience=self._patience, came=came, say=say)
            self._pump = pump
            try:
                pump.run()
            except ConnectionCut as cut:
                if not self._session:
                    raise
                _logger.info("the connection to the Vnet at %s is cut: %s", self._place, str(cut))
            finally:
                pump.close()
            tls.close()
            tls, came = self._dial_again(pump.keep_alive.given_up)
            self._tls = tls
            say = []

    def _refuse(self, ended: CarrierEnded) -> None:
        """What the Vnet said before it had an admission that could say it."""
        if ended.code and not self._traffic.bound:
            try:
                self._traffic.write_local(encode_control(Refused(code=ended.code, text=ended.text)))
            except Exception:
                pass  # the library has gone

    # ── dialling ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _dial(self, deadline: float) -> TlsBatches:
        """Raises OSError."""
        try:
            context = self._provider.tls(TlsRole.DIAL)
        except Exception as error:
            raise OSError(str(error) or repr(error)) from error
        context.set_alpn_protocols([ALPN_VNIC])
        addresses = socket.getaddrinfo(self._place.host, self._place.port, type=socket.SOCK_STREAM)
        why = OSError("the name has no address")
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            plain = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
            try:
                plain.settimeout(max(0.05, left / (len(addresses) - number)))
                plain.connect(address)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                tls = TlsBatches(context, plain)
                tls.do_handshake()
                if tls.selected_alpn_protocol() != ALPN_VNIC:
                    raise OSError("no Vnet that takes far Vnics answers there")
                tls.setblocking(False)
                certificate = tls.getpeercert(binary_form=True)
                self.channel = Channel(certificate=certificate, text=str(self._place))
                return tls
            except OSError as failed:
                plain.close()
                why = OSError(_reason(failed))
            except BaseException:
                plain.close()
                raise
        raise why

    def _dial_again(self, deadline: float) -> tuple[TlsBatches, bytes]:
        """A connection that goes on, and what came on it already. Raises ConnectionCut, CarrierEnded."""
        pause = _FIRST_PAUSE
        why = "nobody answered in time"
        while (left := deadline - time.monotonic()) > 0:
            if self._library_left():
                raise CarrierEnded("the library has closed the control socket")
            try:
                tls = self._dial(time.monotonic() + min(_DIAL_SECONDS, max(left / 2, _LEAST_DIAL_SECONDS)))
                try:
                    came = self._continue(tls, deadline)
                except BaseException:
                    tls.close()
                    raise
                _logger.info("the connection to the Vnet at %s stands again", self._place)
                return tls, came
            except (OSError, ConnectionCut) as error:
                why = str(error)
            time.sleep(max(0.0, min(pause * random.uniform(0.5, 1.0), deadline - time.monotonic())))
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise ConnectionCut(why)

    def _continue(self, tls: TlsBatches, deadline: float) -> bytes:
        """Both sides say where they stand. What came behind that."""
        stream, mirror = self._traffic.stream, self._traffic.mirror
        tls.settimeout(max(0.05, deadline - time.monotonic()))
        tls.sendall(
            encode(
                Continue(session=self._session, secret=self._secret, received=stream.received, segment=self._segment())
            )
        )
        tls.setblocking(False)
        message, came = first_message(tls, deadline, self._library_left)
        match message:
            case Continued(received=received, bound=bound):
                stream.rewind(received)
                if bound is not None and mirror is not None:
                    mirror.resume(bound, fresh=False)
                    self._traffic.bound = True
                elif self._traffic.bound:
                    raise ProtocolViolation("a session that goes on without its segment")
            case End(code=code, text=text):
                # That a session is no more says nothing of its segment: the next attach will hear of that.
                raise CarrierEnded(text or "the session is no more", "" if code == STALE else code)
            case _:
                raise ProtocolViolation(f"{type(message).__name__} in answer to Continue")
        return came

    def _library_left(self) -> bool:
        if self._traffic.local_ended:
            return True
        try:
            return self._traffic.local.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _segment(self) -> Segment | None:
        mirror = self._traffic.mirror
        if mirror is None:
            return None
        place = mirror.place()
        return Segment(
            uuid=place.uuid,
            ring_bytes=place.ring_bytes,
            used=place.used,
            received=place.received,
            head=place.head,
            tail=place.tail,
            layout=LAYOUT_VERSION,
        )

    # ── Side: what the pump asks for ──────────────────────────────────────────────────────────────────────────────

    def descriptors_came(self, descriptors: Sequence[int]) -> AnyMessage:
        try:
            if len(descriptors) != 1 or self._traffic.mirror is not None:
                raise RuntimeError("one segment is handed over, once")
            self._traffic.mirror = mirror = Mirror(descriptors[0], at_vnet=False)
        finally:
            close_all(descriptors)
        if self.wants_chime:
            self._chime = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._chime_watch = select.epoll()
            self._chime_watch.register(self._chime, select.EPOLLIN | select.EPOLLET)
            mirror.set_bell(self._chime)
        segment = self._segment()
        assert segment is not None
        return segment

    def told(self, message: AnyMessage) -> AnyMessage | None:
        match message:
            case Begun(session=session, secret=secret, alive=alive, patience=patience) if not self._session:
                if not session or max(len(session), len(secret)) > _SECRET_BYTES or not 0 < alive < patience <= 3600:
                    raise ProtocolViolation("a session that cannot be")
                self._session, self._secret = session, secret
                self._alive, self._patience = alive, patience
                self._pump.keep_alive.alive, self._pump.keep_alive.patience = alive, patience
            case Bound(received=received, fresh=fresh) if self._traffic.mirror is not None and not self._traffic.bound:
                self._traffic.mirror.resume(received, fresh=fresh)
                self._traffic.bound = True
            case _:
                raise ProtocolViolation(f"{type(message).__name__} at the wrong time")
        return None

    def descriptors_for_local(self) -> Sequence[int]:
        if self._chime_watch is None:
            return (self._doorbell,)
        return self._doorbell, self._chime_watch.fileno()

    def woken(self) -> None:
        try:
            os.eventfd_read(self._doorbell)
        except BlockingIOError:
            pass


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ssl.SSLError):
        return f"no TLS came about: {error.reason or error}"
    return error.strerror or str(error)
