"""receive ALIAS: says what comes, as "got LENGTH SHA256", answers requests "ask" with how many it got."""

import hashlib
import sys

from layer8 import Request, Vnic

with Vnic(sys.argv[1], attach_timeout=30.0) as vnic:
    print("ready", vnic.uuid)
    count = 0
    for message in vnic:
        if isinstance(message, Request):
            message.reply(str(count).encode())
            continue
        count += 1
        print("got", len(message.payload), hashlib.sha256(message.payload).hexdigest())
