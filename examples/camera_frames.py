"""Frames of 6 MB, 30 a second, to two subscribers that want the latest only. It needs numpy. A Vnet must run.

The memory of a numpy array is sent as it is, without a copy in Python; its shape and type travel as headers. The slow
subscriber misses frames and never gets an old one: with keep=1 a stream holds the newest.
"""

import multiprocessing
import sys
import time
from multiprocessing.synchronize import Event

import numpy as np

from layer8 import VnetNotFound, Vnic

TOPIC = "example.frames"
SHAPE = (1080, 1920, 3)  # 6.2 MB
FRAMES = 45
RATE = 30.0
RING = 16 << 20  # two frames fit


def subscriber(name: str, seconds_a_frame: float, ready: Event) -> None:
    with Vnic(ring_bytes=RING) as vnic, vnic.stream(TOPIC, keep=1) as stream:
        ready.set()
        seen = 0
        number = -1
        while number != FRAMES:
            message = stream.receive(timeout=30.0)
            shape = tuple(int(side) for side in str(message.headers["shape"]).split(","))
            frame = np.frombuffer(message.view, dtype=str(message.headers["dtype"])).reshape(shape)
            newer = int(frame[0, 0, 0])
            assert newer > number, "never an older one"
            assert frame[-1, -1, -1] == newer, "whole"
            number = newer
            seen += 1
            time.sleep(seconds_a_frame)
        print(f"{name}: saw the last frame, and {'all' if seen >= FRAMES else 'some'} of those before", flush=True)


def main() -> None:
    processes = multiprocessing.get_context("spawn")
    readies = [processes.Event() for _ in range(2)]
    subscribers = [
        processes.Process(target=subscriber, args=(name, seconds, ready))
        for name, seconds, ready in (("fast", 0.0, readies[0]), ("slow", 0.2, readies[1]))
    ]
    with Vnic(ring_bytes=RING) as camera:
        for process in subscribers:
            process.start()
        for ready in readies:
            ready.wait(30.0)
        frame = np.zeros(SHAPE, dtype=np.uint8)
        headers = {"shape": ",".join(map(str, frame.shape)), "dtype": str(frame.dtype)}
        begun = time.monotonic()
        for number in range(1, FRAMES):
            frame[:] = number
            camera.publish(TOPIC, frame.data, headers=headers)
            time.sleep(max(0.0, begun + number / RATE - time.monotonic()))
        frame[:] = FRAMES
        camera.publish(
            TOPIC, frame.data, headers=headers, reliable=True, timeout=30.0
        )  # the last one is not to be missed
        for process in subscribers:
            process.join()
            assert process.exitcode == 0


if __name__ == "__main__":
    try:
        main()
    except VnetNotFound as error:
        sys.exit(str(error))
