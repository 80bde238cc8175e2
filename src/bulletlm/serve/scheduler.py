"""Who is served when: a few threads, each completion a slice at a time, so that a long answer does not hold up a short one.

Up to `running` completions are under way at once and take turns of SLICE seconds. More wait: one line for each client, and the
lines take turns too, so that somebody with a hundred requests does not keep out somebody with one. Nor does he when there is no
more room to wait: then the newest of his hundred makes room.
"""

import threading
import time
import traceback
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from bulletlm.errors import BulletError
from bulletlm.runtime import Sampling, Session, Token
from bulletlm.runtime.native import NativeEngine
from bulletlm.serve.errors import INTERNAL, ApiError, too_many
from bulletlm.serve.sessions import SessionPool

SLICE = 0.01
"""Seconds of computing until it is somebody else's turn. A long prompt is read in parts, of which a turn has one at least."""


@dataclass(frozen=True)
class End:
    """How a completion ended.

    Attributes:
        finish_reason: "stop", or "length" if max_tokens, the context or `cancel` ended it.
        reused: tokens of the prompt that came from the cache.
        error: set if there is no completion.
    """

    finish_reason: str = "length"
    reused: int = 0
    error: ApiError | None = None


@dataclass(eq=False)
class Job:
    """One completion.

    Attributes:
        client: whose it is; jobs of one client wait in one line, and only they share what sessions remember.
        emit: called in a worker thread with the tokens of each turn; the last call, and only that, has an End. Must not block.
    """

    client: str
    prompt: Sequence[int]
    sampling: Sampling
    stop: Sequence[str]
    logprobs: int | None
    emit: Callable[[Sequence[Token], End | None], None]
    cancelled: bool = field(default=False, init=False)


@dataclass(eq=False)
class Running:
    """A job with its session.

    Attributes:
        tokens: its answer; None before its first turn.
        reading: whether its prompt has not been read far enough to begin with the answer.
        given: ids of the answer so far.
    """

    job: Job
    session: Session
    tokens: Iterator[Token] | None = None
    reading: bool = True
    given: list[int] = field(default_factory=list)


class Scheduler:
    """Runs jobs on threads of its own.

    Args:
        pool: the sessions; as many jobs run at once as it has. The native engine's `threads` are for all of them together: a job
            that runs alone has its prompt read by all of them, each of several by its part.
        threads: jobs that compute at the same moment.
        waiting: jobs that may wait besides.
    """

    def __init__(self, pool: SessionPool, threads: int, waiting: int) -> None:
        self._pool, self._room = pool, waiting
        self._engine = pool.model.engine if isinstance(pool.model.engine, NativeEngine) else None
        self._team = self._engine.threads if self._engine else 1
        self._lines: OrderedDict[str, deque[Job]] = OrderedDict()
        self._ready: deque[Running] = deque()
        self._running: dict[Job, Running] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f"generate-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def stopping(self) -> bool:
        """Whether no more jobs are taken."""
        return self._closed

    def running(self) -> int:
        """Jobs that are being served."""
        return len(self._running)

    def waiting(self) -> int:
        """Jobs that wait for a session."""
        return sum(len(line) for line in list(self._lines.values()))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take all `jobs`, which are of one client, or none of them. Others' may have to make room: they end with error 429.

        Raises:
            ApiError: 429, there is no room for so many; 503, the server is stopping.
        """
        with self._changed:
            if self._closed:
                raise stopping()
            if len(jobs) > self._pool.size + self._room:
                raise ApiError(400, f"{len(jobs)} completions at once: this server has room for {self._pool.size + self._room}", "n")
            room = self._pool.size - len(self._running) + self._room - self.waiting()
            displaced = self._displaced(jobs, len(jobs) - room)
            for job in displaced:
                self._leave(job)
            for job in jobs:
                self._lines.setdefault(job.client, deque()).append(job)
            self._admit()
        for job in displaced:
            job.emit((), End(error=too_many()))

    def _displaced(self, jobs: Sequence[Job], count: int) -> list[Job]:
        """The `count` waiting jobs that make room for `jobs`: the newest of whoever has most, running ones counted.

        Raises:
            ApiError: 429, nobody who has any would be left with as many as there would be of this client.
        """
        held = Counter(job.client for job in [*jobs, *self._running])
        held.update({client: len(line) for client, line in self._lines.items()})
        lines, displaced = {client: list(line) for client, line in self._lines.items()} if count > 0 else {}, list[Job]()
        while len(displaced) < count:
            most = max(filter(lines.get, lines), key=held.__getitem__, default=None)
            if most is None or held[most] <= held[jobs[0].client]:
                raise too_many()
            displaced.append(lines[most].pop())
            held[most] -= 1
        return displaced

    def cancel(self, job: Job) -> None:
        """End a job soon, with what it has: at once if it waits, after its turn if it is computing. Ended jobs do not mind."""
        with self._changed:
            job.cancelled = True
            if job not in self._lines.get(job.client, ()):
                return
            self._leave(job)
        job.emit((), End())

    def _leave(self, job: Job) -> None:
        line = self._lines[job.client]
        line.remove(job)
        if not line:
            del self._lines[job.client]

    def drain(self) -> None:
        """Take no more jobs, and refuse those that wait; running ones go on."""
        with self._changed:
            self._closed = True
            refused = [job for line in self._lines.values() for job in line]
            self._lines.clear()
            self._changed.notify_all()
        for job in refused:
            job.emit((), End(error=stopping()))

    def cut(self) -> None:
        """End the running jobs soon, with what they have."""
        with self._changed:
            for job in self._running:
                job.cancelled = True

    def close(self) -> None:
        """End all jobs, and the threads. Returns when they are gone."""
        self.drain()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _admit(self) -> None:
        """Start waiting jobs while there are sessions: the first of the first line, which then goes to the end."""
        while self._lines and len(self._running) < self._pool.size:
            client, line = next(iter(self._lines.items()))
            job = line.popleft()
            if line:
                self._lines.move_to_end(client)
            else:
                del self._lines[client]
            running = Running(job, self._pool.take(client, job.prompt))
            self._running[job] = running
            self._ready.append(running)
            self._changed.notify()
        if self._engine:
            self._engine.threads = max(1, self._team // max(1, len(self._running)))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._ready and not (self._closed and not self._running):
                    self._changed.wait()
                if not self._ready:
                    return
                running = self._ready.popleft()
            tokens, end = self._turn(running)
            if end is None and tokens:
                running.job.emit(tokens, None)
            with self._changed:
                if end is None:
                    self._ready.append(running)
                    self._changed.notify()
                else:
                    del self._running[running.job]
                    held = None if end.error else [*running.job.prompt, *running.given]
                    self._pool.give_back(running.session, running.job.client, held)
                    self._admit()
                    if self._closed:
                        self._changed.notify_all()
            if end is not None:  # whoever hears of it finds the place free, and the session with what it remembers
                running.job.emit(tokens, end)

    def _turn(self, running: Running) -> tuple[list[Token], End | None]:
        """Compute for a slice, at least one step; gives what came of it, and the End if that was all."""
        job, session, tokens = running.job, running.session, list[Token]()
        end = None
        try:
            if running.tokens is None and not job.cancelled:
                running.tokens = session.generate(job.prompt, job.sampling, stop=job.stop, logprobs=job.logprobs)
            until = time.monotonic() + SLICE
            while end is None:
                if job.cancelled:
                    end = End("length", session.reused if running.tokens else 0)
                elif running.reading:
                    running.reading = session.read()
                elif (token := next(running.tokens, None)) is None:  # type: ignore[arg-type]
                    end = End(session.finish_reason or "length", session.reused)
                else:
                    tokens.append(token)
                    running.given.append(token.id)
                # Tokens that are computed already are given out, even when the time is over.
                if not session.ahead and time.monotonic() >= until:
                    break
        except BulletError as error:
            end = End(error=ApiError(500, str(error)))
        except Exception:
            traceback.print_exc()
            end = End(error=INTERNAL)
        if end is not None and running.tokens is not None:
            running.tokens.close()  # type: ignore[attr-defined]
        return tokens, end


def stopping() -> ApiError:
    return ApiError(503, "the server is stopping", code="server_stopping", Retry_After="5")
