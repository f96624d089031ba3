"""last_words ALIAS HOW: sends and ends at once, as told."""

import os
import signal
import sys

from layer8 import Vnic

alias, how = sys.argv[1:]
vnic = Vnic(attach_timeout=30.0)
print("ready", vnic.uuid)
for number in range(50):
    vnic.send(alias, bytes([number]) * 1000)
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif how == "_exit":
    os._exit(0)
elif how == "close":
    vnic.close()
