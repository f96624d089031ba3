"""keep ALIAS: takes requests and answers none; says "got" for each."""

import sys

from layer8 import Vnic

with Vnic(sys.argv[1], attach_timeout=60) as vnic:
    print(f"up {vnic.uuid}", flush=True)
    kept = []  # one that is let go would be answered by that
    for message in vnic:
        kept.append(message)
        print("got", flush=True)
