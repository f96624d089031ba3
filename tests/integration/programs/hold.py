"""hold ALIAS: receives one request and keeps it, unanswered."""

import sys
import time

from layer8 import Vnic

with Vnic(sys.argv[1], attach_timeout=30.0) as vnic:
    print("ready", vnic.uuid)
    request = vnic.receive()
    print("asked", request.payload.decode())
    time.sleep(3600)
