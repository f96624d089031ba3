"""ledger_receiver_async FILE ROLE…: ledger_receiver on asyncio. ROLE: "pool", "server", "topics" or "stream"."""

import asyncio
import sys
from collections.abc import AsyncIterable

from ledger import Received, write

from layer8 import AsyncVnic, Message

path, roles = sys.argv[1], sys.argv[2:]


async def serve(vnic: AsyncVnic, book: Received) -> None:
    async def answer(request: Message) -> bytes:
        book.note_request(request)
        await asyncio.sleep(0)
        return request.payload

    await vnic.serve(answer)


async def read(messages: AsyncIterable[Message], book: Received) -> None:
    async for message in messages:
        book.note(message)
        if len(book) % 97 == 0:
            await asyncio.sleep(0.01)


async def main() -> None:
    books: list[tuple[AsyncVnic, Received]] = []
    tasks: list[asyncio.Task[None]] = []
    for role in roles:
        alias = role if role not in ("topics", "stream") else None
        vnic, book = await AsyncVnic(alias, timeout=60.0, attach_timeout=60.0), Received(role)
        books.append((vnic, book))
        if role == "server":
            await serve(vnic, book)
        elif role == "stream":
            reliable, newest = await vnic.stream("reliable"), await vnic.stream("fleeting", keep=3)
            book.missed = lambda newest=newest: newest.missed  # type: ignore[misc]
            tasks += [asyncio.create_task(read(stream, book)) for stream in (reliable, newest)]
        else:
            if role == "topics":
                await vnic.subscribe("reliable")
                fleeting = await vnic.subscribe("fleeting")
                book.missed = lambda fleeting=fleeting: fleeting.missed  # type: ignore[misc]
            tasks.append(asyncio.create_task(read(vnic, book)))
    print("ready")
    while await asyncio.to_thread(sys.stdin.readline):
        write(path, [book.page(await vnic.stats()) for vnic, book in books])
        print("done", sum(len(book) for _, book in books))
    for task in tasks:
        task.cancel()


asyncio.run(main())
