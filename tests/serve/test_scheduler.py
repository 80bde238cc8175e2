"""Who is served when."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from bulletlm.runtime import Model, Sampling, Session, Token
from bulletlm.serve.answers import Wish, Work
from bulletlm.serve.errors import ApiError
from bulletlm.serve.metrics import Metrics
from bulletlm.serve.scheduler import End, Job, Scheduler
from bulletlm.serve.sessions import SessionPool
from bulletlm.tokenizer import BOS, END, EOS

NO_END = {END: -100.0, EOS: -100.0}


class Watched:
    """A job, what it has given, and when it began and ended."""

    log: list[str]

    def __init__(self, log: list[str], name: str, tokens: int, client: str = "a", prompt: Sequence[int] = (BOS, 300)) -> None:
        self.log, self.name, self.tokens, self.end = log, name, list[Token](), None
        self.ended = threading.Event()
        self.job = Job(client, prompt, Sampling(max_tokens=tokens, logit_bias=NO_END), (), None, self.emit)

    def emit(self, tokens: Sequence[Token], end: End | None) -> None:
        assert self.end is None, "nothing comes after the end"
        if not self.tokens and tokens:
            self.log.append(f"{self.name} begins")
        self.tokens += tokens
        if end:
            self.end = end
            self.log.append(f"{self.name} ends")
            self.ended.set()


@pytest.fixture
def log() -> list[str]:
    return []


def scheduler_of(model: Model, sessions: int, threads: int = 1, waiting: int = 100) -> Scheduler:
    return Scheduler(SessionPool(model, sessions), threads, waiting)


@pytest.fixture
def one_by_one(model: Model) -> Iterator[Scheduler]:
    scheduler = scheduler_of(model, 1)
    yield scheduler
    scheduler.close()


def test_a_short_answer_does_not_wait_for_a_long_one(model: Model, log: list[str]) -> None:
    scheduler = scheduler_of(model, 3)
    long, other, short = (Watched(log, name, tokens) for name, tokens in (("long", 500), ("other", 500), ("short", 4)))
    for watched in (long, other, short):
        scheduler.submit([watched.job])
    for watched in (long, other, short):
        assert watched.ended.wait(30)
    scheduler.close()
    assert log.index("short ends") < min(log.index("long ends"), log.index("other ends"))
    assert [len(watched.tokens) for watched in (long, other, short)] == [500, 500, 4]


def test_the_lines_of_clients_take_turns(one_by_one: Scheduler, log: list[str]) -> None:
    """Somebody with one request is served after one of somebody who has sent twenty before."""
    greedy = [Watched(log, f"greedy {number}", 60, "greedy") for number in range(20)]
    one_by_one.submit([watched.job for watched in greedy])
    modest = Watched(log, "modest", 2, "modest")
    one_by_one.submit([modest.job])
    for watched in (*greedy, modest):
        assert watched.ended.wait(30)
    # One may have begun, and another have been admitted, before the modest one came.
    assert sum(line.endswith("ends") for line in log[: log.index("modest ends")]) <= 2


def test_one_client_is_served_in_order(one_by_one: Scheduler, log: list[str]) -> None:
    several = [Watched(log, str(number), 3) for number in range(8)]
    one_by_one.submit([watched.job for watched in several])
    for watched in several:
        assert watched.ended.wait(30)
    assert [line for line in log if line.endswith("ends")] == [f"{number} ends" for number in range(8)]


def test_no_more_than_there_is_room_for(model: Model, log: list[str]) -> None:
    scheduler = scheduler_of(model, 1, waiting=2)
    several = [Watched(log, str(number), 400) for number in range(3)]
    scheduler.submit([watched.job for watched in several])
    with pytest.raises(ApiError) as caught:
        scheduler.submit([Watched(log, "more", 2).job])
    assert caught.value.status == 429
    assert scheduler.waiting() == 2
    for watched in reversed(several):
        scheduler.cancel(watched.job)
        assert watched.ended.wait(5)
        assert watched.end is not None and watched.end.finish_reason == "length"
    assert not several[2].tokens
    assert scheduler.running() == scheduler.waiting() == 0
    scheduler.close()
    with pytest.raises(ApiError) as caught:
        scheduler.submit([Watched(log, "late", 2).job])
    assert caught.value.status == 503


def test_all_of_a_request_or_nothing(model: Model, log: list[str]) -> None:
    scheduler = scheduler_of(model, 1, waiting=2)
    scheduler.submit([Watched(log, "first", 500).job])
    with pytest.raises(ApiError):
        scheduler.submit([Watched(log, "a", 1).job for _ in range(3)])
    assert scheduler.waiting() == 0
    scheduler.close()


def test_many_threads_many_jobs(model: Model, log: list[str]) -> None:
    """Each answer is the one that a session alone gives."""
    scheduler = scheduler_of(model, 5, threads=4)
    several = [Watched(log, str(number), 5 + number, f"client {number % 3}", [BOS, *range(300, 301 + number % 7)]) for number in range(30)]
    for watched in several:
        scheduler.submit([watched.job])
    for watched in several:
        assert watched.ended.wait(60)
    scheduler.close()
    for watched in several:
        alone = Session(model, shift=False).generate(watched.job.prompt, watched.job.sampling)
        assert [token.id for token in watched.tokens] == [token.id for token in alone]


def test_closing_ends_everything(model: Model, log: list[str]) -> None:
    scheduler = scheduler_of(model, 2, threads=2)
    several = [Watched(log, str(number), 500) for number in range(6)]
    scheduler.submit([watched.job for watched in several])
    time.sleep(0.05)
    scheduler.close()
    assert all(watched.ended.is_set() for watched in several)
    assert [watched.end.error.status for watched in several[2:] if watched.end and watched.end.error] == [503] * 4
    assert not any(thread.name.startswith("generate-") for thread in threading.enumerate())


def test_a_model_that_fails_is_an_error_and_no_more(model: Model, log: list[str]) -> None:
    scheduler = scheduler_of(model, 1)
    bad, good = Watched(log, "bad", 5, prompt=[10**6]), Watched(log, "good", 5)
    scheduler.submit([bad.job, good.job])
    assert bad.ended.wait(10) and good.ended.wait(10)
    scheduler.close()
    assert bad.end is not None and bad.end.error is not None and bad.end.error.status == 500
    assert len(good.tokens) == 5


def test_late_before_the_first_token(model: Model, log: list[str]) -> None:
    """A request that has not begun in time is refused, and leaves its place."""

    async def ask(scheduler: Scheduler) -> None:
        work = Work(scheduler, Metrics(scheduler.running, scheduler.waiting), "b", [Wish([BOS], model.sampling)], 1, 0.05)
        async for _ in work.parts(asyncio.Event().wait):  # type: ignore[arg-type]
            pass

    scheduler = scheduler_of(model, 1, threads=1)
    long = [Watched(log, str(number), 500, client=str(number)) for number in range(4)]
    scheduler.submit([watched.job for watched in long])
    with pytest.raises(ApiError) as caught:
        asyncio.run(ask(scheduler))
    assert caught.value.status == 504
    assert scheduler.waiting() <= 3
    scheduler.close()


def test_the_pool_keeps_what_comes_back(model: Model) -> None:
    pool = SessionPool(model, 2)
    first = pool.take("a", [1, 2, 3])
    second = pool.take("a", [1, 9, 9])
    pool.give_back(first, "a", [1, 2, 3, 4, 5, 6])
    pool.give_back(second, "a", [1, 9, 9, 9, 9, 9])
    assert pool.take("a", [1, 9, 9, 9, 9, 9, 10]) is second
    pool.give_back(second, "a", [1, 9, 9, 9, 9, 9, 10, 11])
    # Nothing in common but the first token: the one used longest ago has to go.
    assert pool.take("a", [1, 7]) is first
    pool.give_back(first, "a", [1, 7])
    # What one client has sent is no use to another, and does not stay in the session.
    other = pool.take("b", [1, 9, 9, 9, 9, 9, 10, 11, 12])
    assert other not in (first, second)
    assert next(iter(other.generate([BOS, 300], replace(model.sampling, max_tokens=1)))) and other.reused == 0
