"""One process publishes, two others subscribe. A Vnet must run: `layer8 vnet`."""

import multiprocessing
import sys
from multiprocessing.synchronize import Barrier

from layer8 import VnetNotFound, Vnic

TOPIC = "example.prices"
PRICES = [b"101.5", b"101.75", b"101.25"]


def subscriber(number: int, everybody_is_here: Barrier) -> None:
    with Vnic() as vnic, vnic.subscribe(TOPIC):
        everybody_is_here.wait(timeout=30)  # what is published after subscribe() has returned arrives
        for _ in PRICES:
            message = vnic.receive(timeout=5.0)
            print(f"subscriber {number}: {message.topic} is {message.payload.decode()}", flush=True)


def main() -> None:
    processes = multiprocessing.get_context("spawn")
    everybody_is_here = processes.Barrier(3)
    with Vnic() as vnic:
        subscribers = [processes.Process(target=subscriber, args=(n, everybody_is_here)) for n in (1, 2)]
        for process in subscribers:
            process.start()
        everybody_is_here.wait(timeout=30)
        for price in PRICES:
            vnic.publish(TOPIC, price)
        for process in subscribers:
            process.join()
    sys.exit(max(process.exitcode or 0 for process in subscribers))


if __name__ == "__main__":
    try:
        main()
    except VnetNotFound as error:
        sys.exit(str(error))
