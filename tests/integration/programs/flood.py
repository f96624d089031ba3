"""flood ALIAS SIZE: sends messages of SIZE equal bytes, each with another byte, for ever."""

import itertools
import sys

from layer8 import Backpressure, Vnic

alias, size = sys.argv[1], int(sys.argv[2])
with Vnic(attach_timeout=30.0) as vnic:
    print("ready", vnic.uuid)
    for number in itertools.count():
        try:
            vnic.send(alias, bytes([number % 256]) * size, timeout=None)
        except Backpressure:
            continue
        if number == 20:
            print("flooding")
