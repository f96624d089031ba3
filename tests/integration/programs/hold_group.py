"""hold_group GROUP: stands in the group until it is killed."""

import sys

from layer8 import Vnic

with Vnic(attach_timeout=30.0) as vnic, vnic.elect(sys.argv[1]):
    print("ready", vnic.uuid)
    sys.stdin.read()
