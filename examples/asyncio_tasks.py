"""AsyncVnic: a service, a stream and two hundred tasks that ask at once, in one event loop. A Vnet must run."""

import asyncio
import sys

from layer8 import AsyncRequest, AsyncVnic, VnetNotFound

TASKS = 200


async def square(request: AsyncRequest) -> bytes:
    await asyncio.sleep(0.001)  # some other work; up to eight requests are in here at a time
    return str(int(request.payload) ** 2).encode()


async def main() -> None:
    async with AsyncVnic("example.async-squares") as worker, AsyncVnic() as client:
        async with worker.serve(square, workers=8):
            asked = (client.request("example.async-squares", b"%d" % number) for number in range(TASKS))
            replies = await asyncio.gather(*asked)
            print("sum of squares:", sum(int(reply.payload) for reply in replies))
        async with client.stream("example.ticks") as ticks:
            for number in range(3):
                await worker.publish("example.ticks", b"tick %d" % number)
                print((await ticks.receive(timeout=5.0)).payload.decode())


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except VnetNotFound as error:
        sys.exit(str(error))
