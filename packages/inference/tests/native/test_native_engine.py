"""The asyncio side: streams, cancelling, limits, failures and shutdown."""

import asyncio
import gc
import random

import pytest

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.http.generation import Generation
from wrinklefree_inference.http.metrics import Metrics
from wrinklefree_inference.http.record import RequestRecord
from wrinklefree_inference.native.async_engine import AsyncNativeEngine
from wrinklefree_inference.native.request import EngineBusy, RequestTooLong, SamplingParams
from wrinklefree_inference.native.restarts import Restarts
from wrinklefree_inference.options import QueueOptions


@pytest.fixture
def run(toy):
    """Run `scenario(engine)` with an engine of the little model."""

    def start(scenario, num_pages=32, limits=None, delay_s=0.0, fail_at=None):
        async def main():
            model = toy.make_model(num_pages)
            model.runner.delay_s, model.runner.fail_at = delay_s, fail_at
            engine = AsyncNativeEngine(model, limits, restarts=Restarts(()))
            try:
                async with asyncio.timeout(30):
                    return await scenario(engine)
            finally:
                await engine.close()
                check_books(toy, engine)

        return asyncio.run(main())

    return start


def check_books(toy, engine):
    scheduler = engine._core.scheduler
    toy.check_scheduler(scheduler)
    if not scheduler.running:
        assert scheduler.cache.num_used == 0


async def read(stream):
    deltas = [delta async for delta in stream]
    assert all(delta.finish_reason is None for delta in deltas[:-1])
    return (
        "".join(delta.text for delta in deltas),
        [i for delta in deltas for i in delta.token_ids],
        deltas[-1],
    )


async def until(condition):
    while not condition():
        await asyncio.sleep(0.002)


def test_a_request_is_streamed(run, toy):
    request = toy.make_request(range(9, 50), max_tokens=30, seed=4, ignore_eos=True)

    async def scenario(engine):
        stream = toy.submit(engine, request)
        text, tokens, last = await read(stream)
        assert [delta async for delta in stream] == []
        return text, tokens, last, engine.stats()

    text, tokens, last, stats = run(scenario)
    assert (tokens, last.finish_reason) == toy.run_alone(request)
    assert text == engine_text(toy, tokens)
    assert (last.prompt_tokens, last.completion_tokens) == (41, 30)
    assert (stats.prompt_tokens_total, stats.generated_tokens_total, stats.finished_total) == (41, 30, 1)
    assert (stats.running, stats.waiting, stats.kv_pages_used, stats.kv_pages_total) == (0, 0, 0, 32)
    assert stats.healthy
    assert stats.steps_total == 30
    assert 0 < stats.forward_seconds_total < stats.step_seconds_total


def engine_text(toy, tokens):
    return toy.ToyTokenizer().decode(tokens)


def test_many_clients_come_and_leave(run, toy):
    """Arrivals, departures and too few pages at random; whoever stays gets the answer it would get alone."""
    rng = random.Random(1)
    requests = [
        toy.make_request(
            [9 + i % 3] * rng.choice([5, 40, 70]) + [10 + i],
            client=rng.choice("abc"),
            max_tokens=rng.randint(1, 150),
            seed=i,
            ignore_eos=i % 2 == 0,
        )
        for i in range(40)
    ]

    async def client(engine, request, leaves_after):
        await asyncio.sleep(rng.random() * 0.1)
        stream = toy.submit(engine, request)
        if leaves_after is None:
            return await read(stream)
        for _ in range(leaves_after):
            if await anext(stream, None) is None:
                break
        await stream.aclose()
        assert await anext(stream, None) is None
        return None

    async def scenario(engine):
        leaving = [i % 7 if i % 4 == 0 else None for i in range(len(requests))]
        answers = await asyncio.gather(*map(client, [engine] * len(requests), requests, leaving))
        await until(lambda: engine.stats().kv_pages_used == 0)
        return answers, engine.stats()

    answers, stats = run(scenario, num_pages=12, limits=QueueOptions(6, 99, 40, 20))
    assert sum(answer is not None for answer in answers) == 30
    for request, answer in zip(requests, answers, strict=True):
        if answer is not None:
            _, tokens, last = answer
            assert (tokens, last.finish_reason) == toy.run_alone(request)
    assert stats.requests_total == 40 == stats.finished_total + stats.cancelled_total
    assert stats.preemptions_total > 0


def test_a_seed_of_none_differs_each_time(run, toy):
    async def scenario(engine):
        return await asyncio.gather(
            *(
                read(toy.submit(engine, toy.make_request([9, 10], max_tokens=20, ignore_eos=True)))
                for _ in range(3)
            )
        )

    assert len({text for text, _, _ in run(scenario)}) == 3


def test_cancelling_the_reading_task_cancels_the_request(run, toy):
    async def scenario(engine):
        task = asyncio.create_task(
            read(toy.submit(engine, toy.make_request([9], max_tokens=900, ignore_eos=True)))
        )
        await until(lambda: engine.stats().running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: engine.stats().kv_pages_used == 0)
        return engine.stats()

    stats = run(scenario, delay_s=0.001)
    assert (stats.cancelled_total, stats.finished_total) == (1, 0)


@pytest.mark.parametrize("is_read", [False, True])
def test_a_dropped_answer_is_cancelled(run, toy, caplog, is_read):
    """Whether anything of it was read or not."""

    async def scenario(engine):
        request = toy.make_request([9], max_tokens=900, ignore_eos=True)
        generation = Generation(engine, [request], 1, RequestRecord("other"), Metrics())
        await generation.start()
        arrivals = generation.arrivals()
        if is_read:
            await anext(arrivals)
        del generation, arrivals
        gc.collect()
        await until(lambda: engine.stats().cancelled_total == 1)
        await engine.drain(20)

    run(scenario, delay_s=0.001)
    assert "requests are cancelled" not in caplog.text


def test_a_full_queue_is_busy(run, toy):
    def request(**options):
        return toy.make_request([9], ignore_eos=True, **options)

    async def scenario(engine):
        streams = [toy.submit(engine, request(max_tokens=4)) for _ in range(3)]
        with pytest.raises(EngineBusy, match="1 requests are waiting already: try again in 5 s") as first:
            toy.submit(engine, request(max_tokens=4))
        assert first.value.retry_after_s == 5
        for stream in streams:
            await read(stream)
        streams = [toy.submit(engine, request(max_tokens=900)) for _ in range(3)]
        with pytest.raises(EngineBusy) as second:
            toy.submit(engine, request(max_tokens=4))
        assert second.value.retry_after_s == 1
        await streams[0].aclose()
        await until(lambda: engine.stats().cancelled_total == 1)
        streams.append(toy.submit(engine, request(max_tokens=1)))
        assert engine.stats().waiting + engine.stats().running == 3

    run(scenario, limits=QueueOptions(2, 1, 8, 4), delay_s=0.002)


def test_what_cannot_be_answered_is_refused_at_once(run, toy):
    async def scenario(engine):
        assert engine.context_tokens == 64
        with pytest.raises(RequestTooLong, match="60 prompt tokens and max_tokens 5 exceed the 64 tokens"):
            toy.submit(engine, toy.make_request([9] * 60, max_tokens=5))
        with pytest.raises(ValueError, match="the prompt has no tokens"):
            toy.submit(engine, toy.make_request([], max_tokens=5))
        for wrong in (-1, 64):
            with pytest.raises(ValueError, match=f"prompt id {wrong} is not in the vocabulary of 64"):
                toy.submit(engine, toy.make_request([9, wrong], max_tokens=5))

    run(scenario, num_pages=2)


def test_a_failed_step_ends_everything_with_the_reason(run, toy, caplog):
    async def scenario(engine):
        streams = [
            toy.submit(engine, toy.make_request([9], max_tokens=99, seed=1, ignore_eos=True))
            for _ in range(3)
        ]
        for stream in streams:
            with pytest.raises(EngineError, match="the cache is on fire"):
                await read(stream)
            assert await anext(stream, None) is None
        stats = engine.stats()
        assert not stats.healthy
        assert "the cache is on fire" in stats.error
        with pytest.raises(EngineError, match="the engine has failed"):
            toy.submit(engine, toy.make_request([9], max_tokens=1))
        await engine.drain(1)

    run(scenario, fail_at=5, limits=QueueOptions(2, 5, 8, 4))
    assert "the engine stops: a step failed" in caplog.text


def test_drain_finishes_what_runs(run, toy, caplog):
    async def scenario(engine):
        request = toy.make_request([9], max_tokens=40, ignore_eos=True)
        tasks = [asyncio.create_task(read(toy.submit(engine, request))) for _ in range(3)]
        await asyncio.sleep(0)
        draining = asyncio.create_task(engine.drain(20))
        await asyncio.sleep(0)
        assert engine.stats().draining
        with pytest.raises(EngineError, match="shutting down"):
            toy.submit(engine, request)
        await draining
        assert engine.stats().running == 0
        return [(await task)[2].finish_reason for task in tasks]

    assert run(scenario, delay_s=0.001) == ["length"] * 3
    assert "requests are cancelled" not in caplog.text


def test_drain_cancels_what_takes_too_long(run, toy, caplog):
    async def scenario(engine):
        stream = toy.submit(engine, toy.make_request([9], max_tokens=900, ignore_eos=True))
        await anext(stream)
        await engine.drain(0.05)
        assert "1 requests are cancelled after 0.1 s" in caplog.text
        with pytest.raises(EngineError, match="closed before the answer was complete"):
            await read(stream)
        with pytest.raises(EngineError, match="shutting down"):
            toy.submit(engine, toy.make_request([9], max_tokens=1))

    run(scenario, delay_s=0.002)


def test_deltas_that_nobody_reads_wait(run, toy):
    async def scenario(engine):
        stream = toy.submit(engine, toy.make_request([9], max_tokens=25, seed=3, ignore_eos=True))
        await until(lambda: engine.stats().finished_total == 1)
        return await read(stream)

    assert len(run(scenario)[1]) == 25


def test_an_engine_belongs_to_one_loop(toy):
    engine = AsyncNativeEngine(toy.make_model())

    async def use():
        return await read(toy.submit(engine, toy.make_request([9], max_tokens=2, ignore_eos=True)))

    asyncio.run(use())
    with pytest.raises(EngineError, match="another event loop"):
        asyncio.run(use())
    asyncio.run(engine.close())


def test_text_and_ids(run, toy):
    async def scenario(engine):
        ids = engine.tokenize("hello")
        assert engine._model.tokenizer.decode(ids) == "hello"
        assert engine.tokenize_chat([{"role": "user", "content": "hello"}]) == [5, *ids, 6]
        assert engine.model_id == "toy"

    run(scenario)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", 1e39),
        ("top_p", 0.0),
        ("top_p", float("nan")),
        ("top_k", -1),
        ("top_k", 2**31),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-46),
        ("repetition_penalty", 1e-44),
        ("repetition_penalty", 1e39),
        ("repetition_penalty", float("inf")),
        ("seed", 2**64),
        ("seed", -(2**63) - 1),
        ("max_tokens", 0),
        ("logprobs", 21),
        ("stop", "word"),
        ("stop", ("",)),
        ("stop", ("x",) * 17),
    ],
)
def test_bad_parameters_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be"):
        SamplingParams(**{field: value})
