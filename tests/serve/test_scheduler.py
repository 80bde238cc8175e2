"""Who is served when."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bulletlm.runtime import Model, Sampling, Session, Token, load
from bulletlm.runtime.native import PART, NativeEngine
from bulletlm.serve.answers import Wish, Work
from bulletlm.serve.errors import ApiError
from bulletlm.serve.metrics import Metrics
from bulletlm.serve.scheduler import End, Job, Scheduler
from bulletlm.serve.sessions import SessionPool
from bulletlm.text.tokenizer import BOS, END, EOS

NO_END = {END: -100.0, EOS: -100.0}
ENDLESS = 1 << 20
"""Tokens of an answer that goes on until somebody ends it."""

PATIENCE = 240
"""Seconds after which something is taken for stuck. No test may depend on how fast the computer is."""


class Watched:
    """A job, what it has given, and when it began and ended."""

    log: list[str]

    def __init__(self, log: list[str], name: str, tokens: int, client: str = "a", prompt: Sequence[int] = (BOS, 300)) -> None:
        self.log, self.name, self.tokens, self.end = log, name, list[Token](), None
        self.begun, self.ended = threading.Event(), threading.Event()
        self.job = Job(client, prompt, Sampling(max_tokens=tokens, logit_bias=NO_END), (), None, self.emit)

    def emit(self, tokens: Sequence[Token], end: End | None) -> None:
        assert self.end is None, "nothing comes after the end"
        if not self.tokens and tokens:
            self.log.append(f"{self.name} begins")
        self.tokens += tokens
        if tokens:
            self.begun.set()
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
def one_by_one(endless: Model) -> Iterator[Scheduler]:
    scheduler = scheduler_of(endless, 1)
    yield scheduler
    scheduler.close()


def test_a_short_answer_does_not_wait_for_long_ones(endless: Model, log: list[str]) -> None:
    scheduler = scheduler_of(endless, 3)
    long, other, short = (Watched(log, name, tokens) for name, tokens in (("long", ENDLESS), ("other", ENDLESS), ("short", 4)))
    for watched in (long, other, short):
        scheduler.submit([watched.job])
    assert short.ended.wait(PATIENCE) and len(short.tokens) == 4
    assert long.begun.wait(PATIENCE) and other.begun.wait(PATIENCE)
    assert scheduler.running() == 2
    scheduler.close()


def test_a_short_answer_does_not_wait_for_the_reading_of_a_long_prompt(slow: Model, log: list[str]) -> None:
    scheduler = scheduler_of(slow, 2)
    long, short = Watched(log, "long", 4, prompt=[BOS] * 300_000), Watched(log, "short", 4)
    scheduler.submit([long.job, short.job])
    assert short.ended.wait(PATIENCE) and len(short.tokens) == 4
    scheduler.cancel(long.job)  # minutes before it would have been read
    assert long.ended.wait(PATIENCE) and not long.tokens
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
    assert long.ended.wait(PATIENCE) and not long.tokens
    assert len(parts) == 3
    monkeypatch.undo()
    # What has been read is not read again.
    again = Watched(log, "again", 4, prompt=[BOS] * 10_000)
    scheduler.submit([again.job])
    assert again.ended.wait(PATIENCE) and again.end is not None and again.end.reused == 3 * PART
    scheduler.close()
    assert [token.id for token in again.tokens] == [token.id for token in Session(endless).generate(again.job.prompt, again.job.sampling)]


def test_the_lines_of_clients_take_turns(one_by_one: Scheduler, log: list[str]) -> None:
    """Somebody with one request is served after one of somebody who has sent twenty before."""
    greedy = [Watched(log, f"greedy {number}", 60 if number else ENDLESS, "greedy") for number in range(20)]
    one_by_one.submit([watched.job for watched in greedy])
    modest = Watched(log, "modest", 2, "modest")
    one_by_one.submit([modest.job])
    one_by_one.cancel(greedy[0].job)
    for watched in (*greedy, modest):
        assert watched.ended.wait(PATIENCE)
    ends = [line for line in log if line.endswith("ends")]
    assert ends[:3] == ["greedy 0 ends", "greedy 1 ends", "modest ends"]


def test_one_client_is_served_in_order(one_by_one: Scheduler, log: list[str]) -> None:
    several = [Watched(log, str(number), 3) for number in range(8)]
    one_by_one.submit([watched.job for watched in several])
    for watched in several:
        assert watched.ended.wait(PATIENCE)
    assert [line for line in log if line.endswith("ends")] == [f"{number} ends" for number in range(8)]


def test_no_more_than_there_is_room_for(endless: Model, log: list[str]) -> None:
    scheduler = scheduler_of(endless, 1, waiting=2)
    several = [Watched(log, str(number), ENDLESS) for number in range(3)]
    scheduler.submit([watched.job for watched in several])
    with pytest.raises(ApiError) as caught:
        scheduler.submit([Watched(log, "more", 2).job])
    assert caught.value.status == 429
    assert scheduler.waiting() == 2
    for watched in reversed(several):
        scheduler.cancel(watched.job)
        assert watched.ended.wait(PATIENCE)
        assert watched.end is not None and watched.end.finish_reason == "length"
    assert not several[2].tokens
    assert scheduler.running() == scheduler.waiting() == 0  # whoever hears of the end finds the place free
    scheduler.close()
    with pytest.raises(ApiError) as caught:
        scheduler.submit([Watched(log, "late", 2).job])
    assert caught.value.status == 503


def ends_with(watched: Watched) -> int | None:
    """The status that it was refused with."""
    assert watched.ended.wait(PATIENCE) and watched.end is not None
    return watched.end.error.status if watched.end.error else None


def test_whoever_has_most_makes_room(endless: Model, log: list[str]) -> None:
    scheduler = scheduler_of(endless, 1, waiting=3)
    greedy = [Watched(log, f"greedy {number}", ENDLESS, "greedy") for number in range(4)]
    for watched in greedy:
        scheduler.submit([watched.job])
    modest = [Watched(log, f"modest {number}", 2, "modest") for number in range(3)]
    scheduler.submit([modest[0].job])
    assert ends_with(greedy[3]) == 429 and scheduler.waiting() == 3
    for refused in (Watched(log, "more", 2, "greedy"), Watched(log, "even more", 2, "greedy")):
        with pytest.raises(ApiError) as caught:
            scheduler.submit([refused.job])
        assert caught.value.status == 429 and not refused.ended.is_set()
    with pytest.raises(ApiError):  # three would be more than the other then has: none of them is taken
        scheduler.submit([watched.job for watched in (*modest[1:], Watched(log, "third", 2, "modest"))])
    assert not any(watched.ended.is_set() for watched in greedy[:3])
    scheduler.submit([modest[1].job])
    assert ends_with(greedy[2]) == 429
    with pytest.raises(ApiError):  # two each
        scheduler.submit([modest[2].job])
    third = Watched(log, "third", 2, "third")
    scheduler.submit([third.job])
    assert ends_with(greedy[1]) == 429
    scheduler.cancel(greedy[0].job)
    assert [ends_with(watched) for watched in (greedy[0], *modest[:2], third)] == [None] * 4
    scheduler.close()


def test_all_of_a_request_or_nothing(endless: Model, log: list[str]) -> None:
    scheduler = scheduler_of(endless, 1, waiting=2)
    scheduler.submit([Watched(log, "first", ENDLESS).job])
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
        assert watched.ended.wait(PATIENCE)
    scheduler.close()
    for watched in several:
        alone = Session(model, shift=False).generate(watched.job.prompt, watched.job.sampling)
        assert [token.id for token in watched.tokens] == [token.id for token in alone]


def test_those_who_run_share_the_threads(endless_file: Path, log: list[str]) -> None:
    """Or each of them would start a team of as many threads as there are cores."""
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
        assert watched.ended.wait(PATIENCE)
    assert model.engine.threads == 8
    scheduler.close()


def test_closing_ends_everything(endless: Model, log: list[str]) -> None:
    scheduler = scheduler_of(endless, 2, threads=2)
    several = [Watched(log, str(number), ENDLESS) for number in range(6)]
    scheduler.submit([watched.job for watched in several])
    assert all(watched.begun.wait(PATIENCE) for watched in several[:2])
    scheduler.close()
    assert all(watched.ended.is_set() for watched in several)
    assert [watched.end.error is None for watched in several[:2] if watched.end] == [True] * 2
    assert [watched.end.error.status for watched in several[2:] if watched.end and watched.end.error] == [503] * 4
    assert not any(thread.is_alive() for thread in scheduler._threads)


def test_a_model_that_fails_is_an_error_and_no_more(model: Model, log: list[str]) -> None:
    scheduler = scheduler_of(model, 1)
    bad, good = Watched(log, "bad", 5, prompt=[10**6]), Watched(log, "good", 5)
    scheduler.submit([bad.job, good.job])
    assert bad.ended.wait(PATIENCE) and good.ended.wait(PATIENCE)
    scheduler.close()
    assert bad.end is not None and bad.end.error is not None and bad.end.error.status == 500
    assert len(good.tokens) == 5


def test_late_before_the_first_token(endless: Model, log: list[str]) -> None:
    """A request that has not begun in time is refused, and leaves its place."""

    async def ask(scheduler: Scheduler, arrived: float) -> None:
        work = Work(scheduler, Metrics(scheduler.running, scheduler.waiting), "b", [Wish([BOS], endless.sampling)], 1, arrived, 0.05)
        async for _ in work.parts(asyncio.Event().wait):  # type: ignore[arg-type]
            pass

    scheduler = scheduler_of(endless, 1, threads=1)
    scheduler.submit([Watched(log, str(number), ENDLESS, client=str(number)).job for number in range(4)])
    for arrived in (time.monotonic(), time.monotonic() - 1):
        with pytest.raises(ApiError) as caught:
            asyncio.run(ask(scheduler, arrived))
        assert caught.value.status == 504
        assert scheduler.waiting() == 3
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
