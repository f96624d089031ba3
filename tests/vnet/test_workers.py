"""Threads for calls that may wait."""

from __future__ import annotations

import asyncio
import threading

import pytest

from layer8.vnet.workers import Busy, Workers


def test_calls_run_elsewhere_and_bring_back_what_they_return_or_raise() -> None:
    async def main() -> None:
        workers = Workers("test", 2, asyncio.get_running_loop())
        assert await workers.call(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await workers.call(lambda: 1 // 0)
        assert await asyncio.gather(*(workers.call(pow, 2, n) for n in range(50))) == [2**n for n in range(50)]
        workers.close()

    asyncio.run(main())


def test_a_call_that_hangs_is_given_up_and_keeps_its_thread() -> None:
    async def main() -> None:
        release = threading.Event()
        workers = Workers("test", 1, asyncio.get_running_loop())
        with pytest.raises(TimeoutError):
            await workers.call(release.wait, timeout=0.01)
        with pytest.raises(TimeoutError):  # nobody is there to carry it out
            await workers.call(int, timeout=0.01)
        release.set()
        assert await workers.call(int) == 0
        workers.close()

    asyncio.run(main())


def test_when_enough_calls_wait_the_next_is_refused() -> None:
    async def main() -> None:
        release = threading.Event()
        workers = Workers("test", 1, asyncio.get_running_loop())
        calls = [asyncio.ensure_future(workers.call(release.wait)) for _ in range(1000)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert all(isinstance(call.exception(), Busy) for call in done)
        assert 0 < len(done) < 1000
        release.set()
        workers.close()
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(main())


def test_a_closed_one_takes_no_calls() -> None:
    async def main() -> None:
        workers = Workers("test", 1, asyncio.get_running_loop())
        await workers.call(int)
        workers.close()
        workers.close()
        with pytest.raises(Busy):
            await workers.call(int)

    asyncio.run(main())
