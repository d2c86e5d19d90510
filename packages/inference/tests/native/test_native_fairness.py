"""One client's many requests beside another's one, and readers that do not read."""

import asyncio

import pytest

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.async_engine import AsyncNativeEngine
from wrinklefree_inference.native.inbox import Inbox
from wrinklefree_inference.native.request import AnswerFailed, EngineBusy
from wrinklefree_inference.options import QueueOptions

LONG = {"max_tokens": 150, "ignore_eos": True}


@pytest.fixture
def start(toy):
    """Run `scenario(engine)` with an engine of the little model."""

    def run(scenario, num_pages=64, limits=None, delay_s=0.0):
        async def main():
            model = toy.make_model(num_pages)
            model.runner.delay_s = delay_s
            engine = AsyncNativeEngine(model, limits)
            try:
                async with asyncio.timeout(30):
                    return await scenario(engine)
            finally:
                await engine.close()
                toy.check_scheduler(engine._core.scheduler)

        return asyncio.run(main())

    return run


async def read(toy, engine, request):
    return [i async for delta in toy.submit(engine, request) for i in delta.token_ids]


@pytest.mark.parametrize("num_pages", [40, 400], ids=["few pages", "pages for all"])
@pytest.mark.parametrize("num_others", [1, 3])
def test_a_newcomer_starts_at_once(toy, start, num_pages, num_others):
    """64 long requests of one key hold every place and page; another key's request is not kept waiting."""
    hog = [toy.make_request([9 + i % 40, 10 + i], client="a", seed=i, **LONG) for i in range(64)]
    news = [toy.make_request([50, 51 + i], client=f"b{i}", seed=i, max_tokens=20) for i in range(num_others)]

    async def scenario(engine):
        counters = engine._core.counters
        busy = [asyncio.create_task(read(toy, engine, request)) for request in hog]
        while counters.steps < 25:
            await asyncio.sleep(0.001)
        streams, begin = [toy.submit(engine, request) for request in news], counters.steps
        firsts = [await anext(stream) for stream in streams]
        waited = counters.steps - begin
        tokens = [
            list(first.token_ids) + [i async for delta in stream for i in delta.token_ids]
            for first, stream in zip(firsts, streams, strict=True)
        ]
        return waited, tokens, await asyncio.gather(*busy[:9]), engine.stats()

    waited, tokens, answers, stats = start(scenario, num_pages, QueueOptions(8, 128, 64, 32), 0.001)
    assert waited <= 20  # steps, of the 1,200 that the requests before it need
    assert tokens == [toy.run_alone(request)[0] for request in news]
    assert answers == [toy.run_alone(request)[0] for request in hog[:9]]  # also those that gave back
    assert stats.preemptions_total > 0


def test_equal_clients_do_not_push_each_other_out(toy, start):
    """More clients than places: who runs runs to the end."""

    async def scenario(engine):
        requests = [toy.make_request([9 + i], client=str(i), seed=i, max_tokens=30) for i in range(9)]
        answers = await asyncio.gather(*(read(toy, engine, request) for request in requests))
        return answers, [toy.run_alone(request)[0] for request in requests], engine.stats()

    answers, expected, stats = start(scenario, limits=QueueOptions(3, 20, 16, 8))
    assert answers == expected
    assert stats.preemptions_total == 0


def test_a_full_queue_is_full_for_those_who_filled_it(toy, start):
    """One key that takes every place of the queue refuses itself alone."""

    def request(client):
        return toy.make_request([9], client=client, **LONG)

    async def scenario(engine):
        streams = [toy.submit(engine, request("a")) for _ in range(6)]
        with pytest.raises(EngineBusy):
            toy.submit(engine, request("a"))
        streams += [toy.submit(engine, request("b")) for _ in range(3)]  # its share of six
        with pytest.raises(EngineBusy):
            toy.submit(engine, request("b"))
        streams += [toy.submit(engine, request("c")) for _ in range(2)]
        for client in "abc":
            with pytest.raises(EngineBusy):
                toy.submit(engine, request(client))
        for stream in streams:
            await stream.aclose()

    start(scenario, limits=QueueOptions(2, 4, 16, 8), delay_s=0.001)


def test_a_stream_that_nobody_reads_rests(toy, start):
    """It holds at most `max_unread` tokens, no place and no page, and goes on as if nothing had been."""
    limits = QueueOptions(1, 9, 16, 8, max_unread=16)
    lazy = toy.make_request([9, 10], seed=3, temperature=1.0, **LONG)
    other = toy.make_request([30], seed=4, max_tokens=50, ignore_eos=True)

    async def scenario(engine):
        inbox = Inbox()
        stream = toy.TokenStream(inbox, engine.submit_to(inbox, 0, lazy))
        while not engine._core.scheduler.paused:
            await asyncio.sleep(0.002)
        unread = len(inbox._events)
        stats = engine.stats()
        beside = await read(toy, engine, other)  # the only place is free
        tokens = [i async for delta in stream for i in delta.token_ids]
        return unread, stats, beside, tokens

    unread, stats, beside, tokens = start(scenario, limits=limits)
    assert unread == 16
    assert (stats.running, stats.waiting, stats.kv_pages_used) == (0, 1, 0)
    assert beside == toy.run_alone(other)[0]
    assert tokens == toy.run_alone(lazy)[0]


def test_a_stream_that_rests_too_long_is_ended(toy, start):
    limits = QueueOptions(2, 9, 16, 8, max_unread=16, unread_timeout_s=0.1)

    async def scenario(engine):
        streams = [toy.submit(engine, toy.make_request([9 + i], seed=i, **LONG)) for i in range(4)]
        while engine.stats().cancelled_total < 4:
            await asyncio.sleep(0.01)
        assert engine._core.scheduler.paused == {}
        for stream in streams:
            with pytest.raises(AnswerFailed, match=r"nobody has read it for 0.1 s"):
                _ = [delta async for delta in stream]
        assert len(await read(toy, engine, toy.make_request([9], max_tokens=5, ignore_eos=True))) == 5

    start(scenario, limits=limits)


def test_cancelling_and_closing_while_it_rests(toy, start):
    limits = QueueOptions(2, 9, 16, 8, max_unread=4)

    async def scenario(engine):
        streams = [toy.submit(engine, toy.make_request([9 + i], seed=i, **LONG)) for i in range(3)]
        while len(engine._core.scheduler.paused) < 3:
            await asyncio.sleep(0.002)
        await streams[0].aclose()
        while engine.stats().cancelled_total < 1:
            await asyncio.sleep(0.002)
        await engine.close()
        with pytest.raises(EngineError, match="closed before the answer"):
            _ = [delta async for delta in streams[1]]

    start(scenario, limits=limits)
