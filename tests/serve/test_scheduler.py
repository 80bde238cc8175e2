"""Tests the order in which the scheduler runs completions."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bulletlm.runtime import Model, Sampling, Session, Token, load
from bulletlm.runtime.native import PART_TOKENS_PER_THREAD, NativeEngine
from bulletlm.serve.answers import CompletionSpec, RequestRun, Usage
from bulletlm.serve.errors import ApiError
from bulletlm.serve.metrics import Metrics
from bulletlm.serve.scheduler import Finish, Job, Scheduler
from bulletlm.serve.sessions import SessionPool
from bulletlm.text.tokenizer import BOS, END, EOS

NO_END = {END: -100.0, EOS: -100.0}
ENDLESS = 1 << 20
"""max_tokens of an answer that does not end by itself."""

TEST_TIMEOUT = 240
"""Seconds after which a wait counts as a deadlock. No test depends on the speed of the computer."""


class Watched:
    """A job with what it has emitted; notes in `log` when it begins and ends."""

    log: list[str]

    def __init__(self, log: list[str], name: str, tokens: int, client: str = "a", prompt: Sequence[int] = (BOS, 300)) -> None:
        self.log, self.name, self.tokens, self.finish = log, name, list[Token](), None
        self.begun, self.ended = threading.Event(), threading.Event()
        self.job = Job(client, prompt, Sampling(max_tokens=tokens, logit_bias=NO_END), (), None, self.emit)

    def emit(self, tokens: Sequence[Token], finish: Finish | None) -> None:
        assert self.finish is None, "the job emitted something after its end"
        if not self.tokens and tokens:
            self.log.append(f"{self.name} begins")
        self.tokens += tokens
        if tokens:
            self.begun.set()
        if finish:
            self.finish = finish
            self.log.append(f"{self.name} ends")
            self.ended.set()


@pytest.fixture
def log() -> list[str]:
    return []


def scheduler_of(model: Model, sessions: int, threads: int = 1, waiting: int = 100) -> Scheduler:
    return Scheduler(SessionPool(model, sessions), threads, waiting)


@pytest.fixture
def one_by_one(endless: Model) -> Iterator[Scheduler]:
    scheduler = scheduler_of(endless, 1)
    yield scheduler
    scheduler.close()


def test_a_short_answer_does_not_wait_for_long_ones(endless: Model, log: list[str]) -> None:
    scheduler = scheduler_of(endless, 3)
    long, other, short = (Watched(log, name, tokens) for name, tokens in (("long", ENDLESS), ("other", ENDLESS), ("short", 4)))
    for watched in (long, other, short):
        scheduler.submit([watched.job])
    assert short.ended.wait(TEST_TIMEOUT) and len(short.tokens) == 4
    assert long.begun.wait(TEST_TIMEOUT) and other.begun.wait(TEST_TIMEOUT)
    assert scheduler.running() == 2
    scheduler.close()


def test_a_short_answer_does_not_wait_for_the_reading_of_a_long_prompt(slow: Model, log: list[str]) -> None:
    scheduler = scheduler_of(slow, 2)
    long, short = Watched(log, "long", 4, prompt=[BOS] * 300_000), Watched(log, "short", 4)
    scheduler.submit([long.job, short.job])
    assert short.ended.wait(TEST_TIMEOUT) and len(short.tokens) == 4
    scheduler.cancel(long.job)  # reading it would take minutes
    assert long.ended.wait(TEST_TIMEOUT) and not long.tokens
    scheduler.close()


def test_cancelling_ends_reading_after_one_part(endless: Model, log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = scheduler_of(endless, 1)
    long, parts, real = Watched(log, "long", 4, prompt=[BOS] * 10_000), list[Session](), Session.read

    def third_time_cancelled(session: Session) -> bool:
        parts.append(session)
        if len(parts) == 3:
            scheduler.cancel(long.job)
        return real(session)

    monkeypatch.setattr(Session, "read", third_time_cancelled)
    scheduler.submit([long.job])
    assert long.ended.wait(TEST_TIMEOUT) and not long.tokens
    assert len(parts) == 3
    monkeypatch.undo()
    # The parts that were read are not read again.
    again = Watched(log, "again", 4, prompt=[BOS] * 10_000)
    scheduler.submit([again.job])
    assert again.ended.wait(TEST_TIMEOUT) and again.finish is not None and again.finish.reused == 3 * PART_TOKENS_PER_THREAD
    scheduler.close()
    assert [token.id for token in again.tokens] == [token.id for token in Session(endless).generate(again.job.prompt, again.job.sampling)]


def test_the_queues_of_clients_take_turns(one_by_one: Scheduler, log: list[str]) -> None:
    """A client with one request waits for only one of the twenty requests that another client sent before."""
    greedy = [Watched(log, f"greedy {number}", 60 if number else ENDLESS, "greedy") for number in range(20)]
    one_by_one.submit([watched.job for watched in greedy])
    modest = Watched(log, "modest", 2, "modest")
    one_by_one.submit([modest.job])
    one_by_one.cancel(greedy[0].job)
    for watched in (*greedy, modest):
        assert watched.ended.wait(TEST_TIMEOUT)
    ends = [line for line in log if line.endswith("ends")]
    assert ends[:3] == ["greedy 0 ends", "greedy 1 ends", "modest ends"]


def test_one_client_is_served_in_order(one_by_one: Scheduler, log: list[str]) -> None:
    several = [Watched(log, str(number), 3) for number in range(8)]
    one_by_one.submit([watched.job for watched in several])
    for watched in several:
        assert watched.ended.wait(TEST_TIMEOUT)
    assert [line for line in log if line.endswith("ends")] == [f"{number} ends" for number in range(8)]


def test_the_number_of_waiting_jobs_is_limited(endless: Model, log: list[str]) -> None:
    scheduler = scheduler_of(endless, 1, waiting=2)
    several = [Watched(log, str(number), ENDLESS) for number in range(3)]
    scheduler.submit([watched.job for watched in several])
    with pytest.raises(ApiError) as caught:
        scheduler.submit([Watched(log, "more", 2).job])
    assert caught.value.status == 429
    assert scheduler.waiting() == 2
    for watched in reversed(several):
        scheduler.cancel(watched.job)
        assert watched.ended.wait(TEST_TIMEOUT)
        assert watched.finish is not None and watched.finish.finish_reason == "length"
    assert not several[2].tokens
    assert scheduler.running() == scheduler.waiting() == 0  # the place is free when the end is reported
    scheduler.close()
    with pytest.raises(ApiError) as caught:
        scheduler.submit([Watched(log, "late", 2).job])
    assert caught.value.status == 503


def refused_with(watched: Watched) -> int | None:
    """The status of its error, or None if it was not refused."""
    assert watched.ended.wait(TEST_TIMEOUT) and watched.finish is not None
    return watched.finish.error.status if watched.finish.error else None


def test_the_client_with_most_jobs_makes_room(endless: Model, log: list[str]) -> None:
    scheduler = scheduler_of(endless, 1, waiting=3)
    greedy = [Watched(log, f"greedy {number}", ENDLESS, "greedy") for number in range(4)]
    for watched in greedy:
        scheduler.submit([watched.job])
    modest = [Watched(log, f"modest {number}", 2, "modest") for number in range(3)]
    scheduler.submit([modest[0].job])
    assert refused_with(greedy[3]) == 429 and scheduler.waiting() == 3
    for refused in (Watched(log, "more", 2, "greedy"), Watched(log, "even more", 2, "greedy")):
        with pytest.raises(ApiError) as caught:
            scheduler.submit([refused.job])
        assert caught.value.status == 429 and not refused.ended.is_set()
    with pytest.raises(ApiError):  # with three jobs it would have more than the other client: none of them is accepted
        scheduler.submit([watched.job for watched in (*modest[1:], Watched(log, "third", 2, "modest"))])
    assert not any(watched.ended.is_set() for watched in greedy[:3])
    scheduler.submit([modest[1].job])
    assert refused_with(greedy[2]) == 429
    with pytest.raises(ApiError):  # two each
        scheduler.submit([modest[2].job])
    third = Watched(log, "third", 2, "third")
    scheduler.submit([third.job])
    assert refused_with(greedy[1]) == 429
    scheduler.cancel(greedy[0].job)
    assert [refused_with(watched) for watched in (greedy[0], *modest[:2], third)] == [None] * 4
    scheduler.close()


def test_all_jobs_of_a_request_are_accepted_or_none(endless: Model, log: list[str]) -> None:
    scheduler = scheduler_of(endless, 1, waiting=2)
    scheduler.submit([Watched(log, "first", ENDLESS).job])
    with pytest.raises(ApiError):
        scheduler.submit([Watched(log, "a", 1).job for _ in range(3)])
    assert scheduler.waiting() == 0
    scheduler.close()


def test_many_threads_many_jobs(model: Model, log: list[str]) -> None:
    """Each answer is the same as from a session of its own."""
    scheduler = scheduler_of(model, 5, threads=4)
    several = [Watched(log, str(number), 5 + number, f"client {number % 3}", [BOS, *range(300, 301 + number % 7)]) for number in range(30)]
    for watched in several:
        scheduler.submit([watched.job])
    for watched in several:
        assert watched.ended.wait(TEST_TIMEOUT)
    scheduler.close()
    for watched in several:
        alone = Session(model, shift=False).generate(watched.job.prompt, watched.job.sampling)
        assert [token.id for token in watched.tokens] == [token.id for token in alone]


def test_running_jobs_share_the_threads(endless_file: Path, log: list[str]) -> None:
    """Otherwise each of them would start as many threads as there are cores."""
    model = load(endless_file, engine="native", threads=8)
    assert isinstance(model.engine, NativeEngine)
    scheduler = scheduler_of(model, 3)
    several = [Watched(log, str(number), ENDLESS) for number in range(4)]
    shares = list[int]()
    for watched in several:
        scheduler.submit([watched.job])
        shares.append(model.engine.threads)
    assert shares == [8, 4, 2, 2]
    for watched in several[:0:-1]:
        scheduler.cancel(watched.job)
        assert watched.ended.wait(TEST_TIMEOUT)
    assert model.engine.threads == 8
    scheduler.close()


def test_closing_ends_all_jobs(endless: Model, log: list[str]) -> None:
    scheduler = scheduler_of(endless, 2, threads=2)
    several = [Watched(log, str(number), ENDLESS) for number in range(6)]
    scheduler.submit([watched.job for watched in several])
    assert all(watched.begun.wait(TEST_TIMEOUT) for watched in several[:2])
    scheduler.close()
    assert all(watched.ended.is_set() for watched in several)
    assert [watched.finish.error is None for watched in several[:2] if watched.finish] == [True] * 2
    assert [watched.finish.error.status for watched in several[2:] if watched.finish and watched.finish.error] == [503] * 4
    assert not any(thread.is_alive() for thread in scheduler._threads)


def test_a_job_that_fails_does_not_affect_others(model: Model, log: list[str]) -> None:
    scheduler = scheduler_of(model, 1)
    bad, good = Watched(log, "bad", 5, prompt=[10**6]), Watched(log, "good", 5)
    scheduler.submit([bad.job, good.job])
    assert bad.ended.wait(TEST_TIMEOUT) and good.ended.wait(TEST_TIMEOUT)
    scheduler.close()
    assert bad.finish is not None and bad.finish.error is not None and bad.finish.error.status == 500
    assert len(good.tokens) == 5


def test_the_deadline_before_the_first_token(endless: Model, log: list[str]) -> None:
    """A request that has not begun in time is refused, and no longer waits."""

    async def ask(scheduler: Scheduler, arrived: float) -> None:
        metrics = Metrics(scheduler.running, scheduler.waiting)
        run = RequestRun(scheduler, metrics, "b", [CompletionSpec([BOS], endless.sampling)], Usage(1), arrived, 0.05)
        async for _ in run.batches(asyncio.Event().wait):  # type: ignore[arg-type]
            pass

    scheduler = scheduler_of(endless, 1, threads=1)
    scheduler.submit([Watched(log, str(number), ENDLESS, client=str(number)).job for number in range(4)])
    for arrived in (time.monotonic(), time.monotonic() - 1):
        with pytest.raises(ApiError) as caught:
            asyncio.run(ask(scheduler, arrived))
        assert caught.value.status == 504
        assert scheduler.waiting() == 3
    scheduler.close()


def test_the_pool_reuses_sessions(model: Model) -> None:
    pool = SessionPool(model, 2)
    first = pool.take("a", [1, 2, 3])
    second = pool.take("a", [1, 9, 9])
    pool.give_back(first, "a", [1, 2, 3, 4, 5, 6])
    pool.give_back(second, "a", [1, 9, 9, 9, 9, 9])
    assert pool.take("a", [1, 9, 9, 9, 9, 9, 10]) is second
    pool.give_back(second, "a", [1, 9, 9, 9, 9, 9, 10, 11])
    # Only the first token in common: the least recently used session is replaced.
    assert pool.take("a", [1, 7]) is first
    pool.give_back(first, "a", [1, 7])
    # A session is not reused for another client.
    other = pool.take("b", [1, 9, 9, 9, 9, 9, 10, 11, 12])
    assert other not in (first, second)
    assert next(iter(other.generate([BOS, 300], replace(model.sampling, max_tokens=1)))) and other.reused == 0
