"""A Vnic that is closed while others of its process send to it and read from it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from layer8 import Closed, Vnic

MakeVnic = Callable[..., Vnic]


def test_closing_in_the_middle_of_traffic_is_closed_for_everybody(make_vnic: MakeVnic) -> None:
    for _ in range(8):
        vnic = make_vnic("busy")
        other: list[BaseException] = []
        began = threading.Barrier(8)

        def again(
            call: Callable[[], object], began: threading.Barrier = began, other: list[BaseException] = other
        ) -> None:
            call()
            began.wait(30)
            try:
                while True:
                    call()
            except Closed:
                pass
            except BaseException as error:  # whatever it is, it is not what the program was promised
                other.append(error)

        def send(vnic: Vnic = vnic) -> None:
            vnic.send("busy", bytes(100), timeout=30)

        calls = [send] * 4 + [vnic.receive] * 3
        threads = [threading.Thread(target=again, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        began.wait(30)
        vnic.close()
        for thread in threads:
            thread.join()
        assert other == []
