"""ledger_receiver FILE ROLE…: receives as each of the roles and keeps the book of what came.

ROLE: an alias, of which "server" answers requests and "slow" takes its time, or "topics" for a subscriber of both
topics. Says "ready"; at every line on stdin it writes the book to FILE and says "done N".
"""

import json
import sys
import threading
import time
import zlib

from layer8 import Closed, Message, Vnic

path, roles = sys.argv[1], sys.argv[2:]
books: list[dict[str, object]] = []
vnics: list[Vnic] = []


def start(role: str) -> None:
    vnic = Vnic(None if role == "topics" else role, timeout=60.0)
    came: list[tuple[str, int, str, int, int]] = []  # source, sequence, topic, size, checksum
    book: dict[str, object] = {"role": role, "came": came}
    books.append(book)
    vnics.append(vnic)

    def note(message: Message) -> None:
        came.append(
            (
                str(message.source),
                message.sequence,
                message.topic or "",
                len(message.payload),
                zlib.crc32(message.payload),
            )
        )

    if role == "server":

        def serve(request: Message) -> bytes:
            came.append((str(request.source), int.from_bytes(request.payload[:8], "little"), "", 0, 0))
            return request.payload

        vnic.serve(serve)
        return
    if role == "topics":
        vnic.subscribe("reliable")
        vnic.subscribe("fleeting")

    def read() -> None:
        try:
            for message in vnic:
                note(message)
                if role == "slow":
                    time.sleep(0.005)  # its senders always have to wait, others now and then
                elif len(came) % 97 == 0:
                    time.sleep(0.01)
        except Closed:
            pass

    threading.Thread(target=read, daemon=True).start()


for role in roles:
    start(role)
print("ready")
while sys.stdin.readline():
    for vnic, book in zip(vnics, books, strict=True):
        stats = vnic.stats()
        book["attachments"] = stats.attachments
        book["state"] = stats.state
        book["late"] = 0 if stats.port is None else stats.port.late_wakeups
        book["doubles"] = 0 if stats.port is None else stats.port.duplicates_dropped
    with open(path, "w") as file:
        json.dump(books, file)
    print("done", sum(len(book["came"]) for book in books))  # type: ignore[arg-type, misc]
