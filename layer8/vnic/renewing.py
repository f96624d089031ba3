"""Keeps a Vnic's certificate from running out while it is attached.

At half-life the Vnic asks for a new one by way of its Vnet (the request proves itself, so the Vnet only passes it on),
or finds that another process with the same identity has done so. Then it proves itself anew on the connection that it
has, over the digest of its attach: nothing is interrupted. The keeper calls this, in its thread.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable

from layer8.protocol.control import Done, Failed, Renewal, Reprove, Wire
from layer8.protocol.statement import Purpose, Role, Statement, again
from layer8.security.provider import SecurityProvider
from layer8.vnic.attachment import Attachment
from layer8.vnic.connection import ConnectionLost

_AGAIN_SECONDS = 60.0  # after a renewal has failed; less when there is less time
_SOONEST_SECONDS = 1.0
_JITTER = 0.2  # of the second half of the life

_logger = logging.getLogger("layer8.vnic")

Ask = Callable[[Wire], Done | Failed]


class Renewing:
    """Of one Vnic. A provider without `renew_at` and `expires` has nothing that runs out."""

    def __init__(self, provider: SecurityProvider) -> None:
        self._provider = provider
        self._not_before = -math.inf  # monotonic
        self._jitter = random.uniform(0.0, _JITTER)
        self._said = ""

    def seconds(self, attachment: Attachment) -> float:
        """Until there is something to do; 0.0: now."""
        renew_at: float = getattr(self._provider, "renew_at", 0.0)
        if not renew_at:
            return math.inf
        due = 0.0
        if not self._has_newer(attachment):  # many with one identity do not all ask at the same moment
            due = renew_at + self._jitter * (attachment.proved_until - renew_at) - time.time()
        return max(0.0, due, self._not_before - time.monotonic())

    def tend(self, attachment: Attachment, ask: Ask) -> None:
        """Does what is due. `ask`: a question to the Vnet and its answer. Raises ConnectionLost."""
        if self.seconds(attachment) > 0:
            return
        try:
            self._renew(ask)
            if self._has_newer(attachment):
                self._prove(attachment, ask)
            self._said = ""
        except ConnectionLost:
            raise
        except Exception as error:
            left = getattr(self._provider, "expires", 0.0) - time.time()
            self._not_before = time.monotonic() + min(_AGAIN_SECONDS, max(_SOONEST_SECONDS, left / 8))
            if str(error) != self._said:
                self._said = str(error)
                _logger.warning("the certificate could not be renewed and runs out in %.0f s: %s", left, self._said)

    def _has_newer(self, attachment: Attachment) -> bool:
        expires: float = getattr(self._provider, "expires", 0.0)
        return expires > attachment.proved_until

    def _renew(self, ask: Ask) -> None:
        make = getattr(self._provider, "make_renewal", None)
        made = None if make is None else make()
        if made is None:
            return
        question, key = made
        answer = ask(Renewal(id=0, question=question.encode()))
        if isinstance(answer, Failed):
            raise RuntimeError(answer.text or answer.code)
        if len(answer.data) != 3:
            raise RuntimeError("the Vnet answered without a certificate")
        self._provider.take_renewal(*answer.data, key)  # type: ignore[attr-defined]

    def _prove(self, attachment: Attachment, ask: Ask) -> None:
        expires: float = getattr(self._provider, "expires", 0.0)
        challenge = attachment.challenge
        attachment.proofs += 1
        statement = Statement(
            purpose=Purpose.ATTACH,
            prover_role=Role.VNIC,
            overlay=challenge.overlay,
            audience=f"vnet/{challenge.vnet}/{challenge.epoch}",
            digest=again(attachment.digest, attachment.proofs),
        )
        answer = ask(Reprove(id=0, proof=self._provider.prove(statement)))
        if isinstance(answer, Failed):
            raise RuntimeError(answer.text or answer.code)
        attachment.proved_until = expires
        _logger.info("the certificate is good until %s", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(expires)))
