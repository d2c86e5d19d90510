"""Turns at work that takes its time: who comes next, and what becomes of those that wait in vain or leave."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from wrinklefree_inference.http.errors import ApiError
from wrinklefree_inference.http.turns import Turns


class Work:
    """Notes who had a turn; the first one lasts until it is let go."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.may_end = threading.Event()

    def of(self, client: str):
        def work() -> str:
            self.may_end.wait(10)
            self.done.append(client)
            return client

        return work


async def order_of(arrivals: str, before: str = "") -> str:
    """The order of the turns of clients, a letter each, which have come while the first of them had its."""
    turns, work = Turns("test"), Work()
    for client in before:
        await turns.run(client, lambda: None)
    tasks = []
    for client in arrivals:
        tasks.append(asyncio.create_task(turns.run(client, work.of(client))))
        await asyncio.sleep(0)
    work.may_end.set()
    assert await asyncio.gather(*tasks) == list(arrivals)
    return "".join(work.done)


@pytest.mark.parametrize(
    ("arrivals", "before", "order"),
    [
        ("aaaa", "", "aaaa"),
        ("aaaab", "", "abaaa"),
        ("aaabbb", "", "ababab"),
        ("aaabbcc", "", "abcabca"),
        ("aaaab", "bbb", "abaaa"),
        ("aaaabcd", "ab", "abcdaaa"),
    ],
)
def test_clients_take_turns(arrivals, before, order):
    assert asyncio.run(order_of(arrivals, before)) == order


def test_those_who_come_and_go_leave_out_nobody():
    """Two clients always have one request; one with several gets every third turn."""
    done: list[str] = []

    async def again_and_again(turns: Turns, client: str, times: int) -> None:
        for _ in range(times):
            await turns.run(client, lambda: done.append(client))

    async def main() -> None:
        turns = Turns("test")
        many = [asyncio.create_task(turns.run("a", lambda: done.append("a"))) for _ in range(6)]
        await asyncio.gather(again_and_again(turns, "b", 12), again_and_again(turns, "c", 12), *many)

    asyncio.run(main())
    assert all("a" in done[i : i + 4] for i in range(0, 12, 4)), done


def test_who_waits_too_long_is_refused():
    async def main() -> None:
        turns, work = Turns("rendering", longest_wait_s=0.05), Work()
        first = asyncio.create_task(turns.run("a", work.of("a")))
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match=r"waited 0\.05 s for the rendering") as error:
            await turns.run("a", work.of("b"))
        assert (error.value.status, error.value.headers) == (429, {"Retry-After": "2"})
        work.may_end.set()
        assert await first == "a"
        assert await turns.run("b", work.of("b")) == "b"
        assert work.done == ["a", "b"]

    asyncio.run(main())


@pytest.mark.parametrize("num_left", [1, 2, 3])
def test_who_leaves_gives_up_the_turn(num_left):
    """A turn that has begun lasts until its thread is done: nothing else runs beside it."""

    async def main() -> None:
        turns, work = Turns("test"), Work()
        tasks = [asyncio.create_task(turns.run("a", work.of(str(number)))) for number in range(4)]
        await asyncio.sleep(0)
        for task in tasks[:num_left]:
            task.cancel()
        await asyncio.wait(tasks[:num_left])
        assert work.done == []
        work.may_end.set()
        assert await asyncio.gather(*tasks[num_left:]) == [str(number) for number in range(num_left, 4)]
        assert work.done == ["0", *(str(number) for number in range(num_left, 4))]

    asyncio.run(main())


def test_an_error_is_the_caller_s_and_the_next_has_its_turn():
    async def main() -> None:
        turns = Turns("test")
        results = await asyncio.gather(
            turns.run("a", lambda: 1 // 0), turns.run("a", lambda: 5), return_exceptions=True
        )
        assert isinstance(results[0], ZeroDivisionError)
        assert results[1] == 5

    asyncio.run(main())


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_no_more_than_so_many_at_once(at_once):
    running: list[int] = [0]
    seen: set[int] = set()
    lock = threading.Lock()

    def work() -> None:
        with lock:
            running[0] += 1
            seen.add(running[0])
        time.sleep(0.005)
        with lock:
            running[0] -= 1

    async def main() -> None:
        turns = Turns("test", at_once)
        await asyncio.gather(*(turns.run(str(number % 4), work) for number in range(12)))

    asyncio.run(main())
    assert max(seen) == at_once
