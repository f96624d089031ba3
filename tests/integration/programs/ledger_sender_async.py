"""ledger_sender_async FILE SEED: ledger_sender on asyncio, with one task for each name and several that ask.

Says "ready UUID", then sends until a line comes on stdin; at every line it writes the book to FILE and says "done N".
"""

import asyncio
import itertools
import sys

from ledger import Sent, write

from layer8 import AsyncVnic, Backpressure, Layer8Error, RequestFailed, RequestTimeout, Unreachable

path, seed = sys.argv[1], int(sys.argv[2])
book = Sent(seed)
ended = asyncio.Event()
numbers = itertools.count(1)


async def ask(vnic: AsyncVnic) -> None:
    while not ended.is_set():
        number = next(numbers)
        payload = number.to_bytes(8, "little") + bytes(book.chance.choice([0, 100, 10_000, 100_000]))
        try:
            reply = await vnic.request("server", payload, timeout=60)
            outcome = "" if reply.payload == payload else "wrong reply"
        except RequestFailed as error:
            outcome = error.reason
        except (RequestTimeout, Unreachable, Backpressure) as error:
            outcome = type(error).__name__
        book.requests.append((number, outcome))
        await asyncio.sleep(0.005)


async def send(vnic: AsyncVnic, name: str) -> None:
    while not ended.is_set():
        payload, headers = book.some_bytes(), book.some_headers()
        try:
            if name == "pool":
                sequence = await vnic.send("pool", payload, headers=headers)
            else:
                sequence = await vnic.publish(name, payload, reliable=name == "reliable", headers=headers)
        except Layer8Error as error:
            book.refuse(name, error)
        else:
            book.accept(name, sequence, payload, headers)
        await asyncio.sleep(0.001)


async def send_to_the_reader(vnic: AsyncVnic) -> None:
    reader = (await vnic.find("reader", timeout=60)).uuid
    while not ended.is_set():
        payload, headers = book.some_bytes(), book.some_headers()
        try:
            if book.chance.random() < 0.3:
                if await vnic.try_send(reader, payload, headers=headers):
                    book.accept("tried", 0, payload, headers)
            else:
                book.accept("reader", await vnic.send(reader, payload, headers=headers), payload, headers)
        except Layer8Error as error:
            book.refuse("reader", error)
        await asyncio.sleep(0.001)


async def main() -> None:
    async with AsyncVnic(timeout=60.0, attach_timeout=60.0) as vnic:
        vnic.on_undeliverable = book.report
        print("ready", vnic.uuid)
        tasks = [asyncio.create_task(send(vnic, name)) for name in ("pool", "reliable", "fleeting")]
        tasks += [asyncio.create_task(ask(vnic)) for _ in range(3)]
        tasks.append(asyncio.create_task(send_to_the_reader(vnic)))
        await asyncio.to_thread(sys.stdin.readline)
        ended.set()
        _, pending = await asyncio.wait(tasks, timeout=90)
        hanging = [task in pending for task in tasks]
        while True:
            for task in tasks:
                if task.done():
                    task.result()
            write(path, book.page(vnic.uuid, hanging, await vnic.stats()))
            print("done", len(book))
            if not await asyncio.to_thread(sys.stdin.readline):
                break


asyncio.run(main())
