"""What one process of the demo has in hand: its Vnic, its settings, and the line to the stage.

The stage speaks in lines on stdin ("go", "finish", "stop"), the process answers in JSON lines on stdout. The end of
stdin without a "stop" means that the stage is gone: the process ends at once, so none is ever left behind.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import Any

from layer8 import Vnic


class Part:
    """One process of the play. `settings`: what the stage wrote on the command line. `vnic`: from the attach on."""

    vnic: Vnic

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self._orders: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="stage", daemon=True).start()

    def say(self, kind: str, **fields: object) -> None:
        """One line to the stage."""
        print(json.dumps({"kind": kind, **fields}), flush=True)

    def wait_for(self, order: str) -> None:
        """Until the stage has given `order`."""
        while self._orders.get() != order:
            pass

    def was_told(self, order: str, timeout: float) -> bool:
        """Whether `order` came within `timeout` seconds."""
        try:
            return self._orders.get(timeout=timeout) == order
        except queue.Empty:
            return False

    def _listen(self) -> None:
        for line in sys.stdin:
            order = line.strip()
            self._orders.put(order)
            if order == "stop":
                self.vnic.drain()  # a loop over the Vnic ends after its last message
                return
        os.kill(os.getpid(), signal.SIGKILL)
