"""impostor UUID…: presents the uuids of others, for adoption and not, with a made-up secret and with none.

Until a line comes on stdin; says "refused N" then. Ends with "let in" if it ever was.
"""

import itertools
import os
import select
import sys
import time
from pathlib import Path
from uuid import UUID, uuid4

from layer8 import Layer8Error
from layer8.dataplane import Segment
from layer8.security.loader import load_provider
from layer8.vnic.attachment import NotAdopted, shake_hands
from layer8.vnic.connection import Connection, ConnectionLost

provider = load_provider(None)
place = Path(os.environ["LAYER8_VNET"])
others = [UUID(argument) for argument in sys.argv[1:]]
tries = itertools.cycle(itertools.product(others, (b"", os.urandom(32)), (False, True), (False, True)))
refused = 0
while not select.select([sys.stdin], [], [], 0.02)[0]:
    uuid, secret, adopt, foreign = next(tries)
    segment = Segment.create(512 << 10, uuid4() if foreign else uuid)
    try:
        connection = Connection.to(place, 1.0)
    except OSError:  # no Vnet at the moment
        segment.close()
        continue
    try:
        deadline = time.monotonic() + 10
        shake_hands(connection, provider, deadline, uuid=uuid, segment=segment.fd, resume=secret, adopt=adopt)
        print("let in as", uuid, flush=True)
        break
    except ConnectionLost:
        pass
    except (NotAdopted, Layer8Error):
        refused += 1
    finally:
        connection.close()
        segment.close()
else:
    print("refused", refused, flush=True)
