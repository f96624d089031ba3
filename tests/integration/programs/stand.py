"""stand GROUP: says "leads TERM" when it leads, and ends with its claims (from, to, term) when told to."""

import sys
import threading
import time

from layer8 import Vnic

with Vnic(attach_timeout=30.0) as vnic, vnic.elect(sys.argv[1]) as election:
    print("ready", vnic.uuid)
    claims: list[tuple[float, float, int]] = []
    ended = threading.Event()

    def claim() -> None:
        said = 0
        while not ended.is_set():
            before = time.monotonic()
            leads, term = election.is_leader, election.term
            still = election.is_leader
            if leads and still:
                claims.append((before, time.monotonic(), term))
                if term != said:
                    said = term
                    print("leads", term)
            time.sleep(0.002)

    claimer = threading.Thread(target=claim)
    claimer.start()
    for line in sys.stdin:
        if line.strip() == "resign":
            election.close()
            print("resigned")
        elif line.strip() == "end":
            break
    ended.set()
    claimer.join()
    for one in claims:
        print("claim", *one)
    print("over")
