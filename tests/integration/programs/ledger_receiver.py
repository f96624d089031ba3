"""ledger_receiver FILE ROLE…: receives as each of the roles and keeps the book of what came.

ROLE: an alias, of which "server" answers requests and "slow" takes its time, or "topics" for a subscriber of both
topics. Says "ready"; at every line on stdin it writes the book to FILE and says "done N".
"""

import sys
import threading
import time

from ledger import Received, write

from layer8 import Message, Vnic

path, roles = sys.argv[1], sys.argv[2:]


def serve(vnic: Vnic, book: Received) -> None:
    def answer(request: Message) -> bytes:
        book.note_request(request)
        return request.payload

    vnic.serve(answer)


def read(vnic: Vnic, book: Received) -> None:
    for message in vnic:
        book.note(message)
        if book.role == "slow":
            time.sleep(0.005)  # its senders always have to wait, others now and then
        elif len(book) % 97 == 0:
            time.sleep(0.01)


def start(role: str) -> tuple[Vnic, Received]:
    vnic = Vnic(None if role == "topics" else role, timeout=60.0)
    book = Received(role)
    if role == "server":
        serve(vnic, book)
        return vnic, book
    if role == "topics":
        vnic.subscribe("reliable")
        fleeting = vnic.subscribe("fleeting")
        book.missed = lambda: fleeting.missed
    threading.Thread(target=read, args=(vnic, book), daemon=True).start()
    return vnic, book


books = [start(role) for role in roles]
print("ready")
while sys.stdin.readline():
    write(path, [book.page(vnic.stats()) for vnic, book in books])
    print("done", sum(len(book) for _, book in books))
