"""ledger_receiver FILE ROLE…: receives as each of the roles and keeps the book of what came.

ROLE: an alias, of which "server" answers requests, "slow" takes its time and "brief" pauses now and then; "topics" for
a subscriber of both topics, "stream" for one with a stream of each. Says "ready"; at every line on stdin it writes the
book to FILE and says "done N".
"""

import sys
import threading
import time
from collections.abc import Iterable

from ledger import Received, write

from layer8 import Message, Vnic

path, roles = sys.argv[1], sys.argv[2:]


def serve(vnic: Vnic, book: Received) -> None:
    def answer(request: Message) -> bytes:
        book.note_request(request)
        return request.payload

    vnic.serve(answer)


def read(messages: Iterable[Message], book: Received) -> None:
    for message in messages:
        book.note(message)
        if book.role == "slow":
            time.sleep(0.005)  # its senders always have to wait, others now and then
        elif book.role == "brief" and len(book) % 20 == 0:
            time.sleep(0.2)  # longer than some of what waits for it may
        elif len(book) % 97 == 0:
            time.sleep(0.01)


def start(role: str) -> tuple[Vnic, Received]:
    alias = role if role not in ("topics", "stream") else None
    ring = 1 << 19 if role == "brief" else None  # too little for what is sent to it: some waits in the Vnet
    vnic = Vnic(alias, timeout=60.0, attach_timeout=60.0, ring_bytes=ring)
    book = Received(role)
    sources: list[Iterable[Message]] = [vnic]
    if role == "server":
        serve(vnic, book)
        return vnic, book
    if role == "topics":
        vnic.subscribe("reliable")
        fleeting = vnic.subscribe("fleeting")
        book.missed = lambda: fleeting.missed
    elif role == "stream":
        newest = vnic.stream("fleeting", keep=3)
        book.missed = lambda: newest.missed
        sources = [vnic.stream("reliable"), newest]
    for source in sources:
        threading.Thread(target=read, args=(source, book), daemon=True).start()
    return vnic, book


books = [start(role) for role in roles]
print("ready")
while sys.stdin.readline():
    write(path, [book.page(vnic.stats()) for vnic, book in books])
    print("done", sum(len(book) for _, book in books))
