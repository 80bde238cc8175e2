"""Decides when each completion is computed.

A few threads compute; each completion runs for a slice of SLICE seconds, then the next one runs, so a long answer does not
delay a short one. Up to `pool.size` completions run at the same time. More completions wait: each client has a queue of its own, and the
queues take turns, so a client with a hundred requests does not block a client with one. When there is no more room to wait, the
newest waiting completion of the client that has most is refused to make room for a client that has fewer.
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
from bulletlm.serve.errors import INTERNAL, ApiError, queue_full
from bulletlm.serve.sessions import SessionPool

SLICE = 0.01
"""Seconds that a completion computes before the next one runs. One part of a long prompt is the least that a slice reads."""


@dataclass(frozen=True)
class Finish:
    """The result of a completion.

    Attributes:
        finish_reason: "stop", or "length" if max_tokens, the context length or `cancel` ended it.
        reused: tokens of the prompt that came from the cache.
        error: set if the completion failed.
    """

    finish_reason: str = "length"
    reused: int = 0
    error: ApiError | None = None


@dataclass(eq=False)
class Job:
    """One completion to compute.

    Attributes:
        client: the client's address; jobs of one client wait in one queue, and only they share cached prompts.
        logprobs: report log-probabilities, and those of this many likeliest tokens.
        score_prompt: emit the tokens of the prompt with their log-probabilities first, and the token that ends the answer
            last; needs `logprobs`.
        generate: whether to generate an answer.
        emit: called in a worker thread with the tokens of each slice; the last call, and only that one, has a Finish.
            It must not block.
    """

    client: str
    prompt: Sequence[int]
    sampling: Sampling
    stop: Sequence[str]
    logprobs: int | None
    emit: Callable[[Sequence[Token], Finish | None], None]
    score_prompt: bool = False
    generate: bool = True
    cancelled: bool = field(default=False, init=False)


@dataclass(eq=False)
class RunningJob:
    """A job with its session.

    Attributes:
        scores: the parts of the prompt as they are scored; None before that begins.
        scored: whether the whole prompt has been scored.
        tokens: the answer as it is generated; None before that begins.
        reading: whether more parts of the prompt must be read before the answer begins.
        generated: ids of the answer's tokens so far.
    """

    job: Job
    session: Session
    scores: Iterator[list[Token]] | None = None
    scored: bool = False
    tokens: Iterator[Token] | None = None
    reading: bool = True
    generated: list[int] = field(default_factory=list)

    @property
    def reused(self) -> int:
        """Tokens of the prompt that came from the cache."""
        return self.session.reused if self.tokens and not self.job.score_prompt else 0


class Scheduler:
    """Runs jobs on its own threads.

    Args:
        pool: the sessions; its size is the number of jobs that run at the same time. The running jobs share the native engine's
            `threads`: a job that runs alone reads its prompt with all of them.
        threads: jobs that compute at the same moment.
        queue: jobs that may wait for a session.
    """

    def __init__(self, pool: SessionPool, threads: int, queue: int) -> None:
        self._pool, self._max_waiting = pool, queue
        self._engine = pool.model.engine if isinstance(pool.model.engine, NativeEngine) else None
        self._engine_threads = self._engine.threads if self._engine else 1
        self._queues: OrderedDict[str, deque[Job]] = OrderedDict()
        self._ready: deque[RunningJob] = deque()
        self._running: dict[Job, RunningJob] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f"generate-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def stopping(self) -> bool:
        """Whether new jobs are refused because the server is stopping."""
        return self._closed

    def running(self) -> int:
        """Number of jobs that have a session."""
        return len(self._running)

    def waiting(self) -> int:
        """Number of jobs that wait for a session."""
        return sum(len(queue) for queue in list(self._queues.values()))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Accept all `jobs`, which are of one client, or none of them. Waiting jobs of other clients may end with error 429 for them.

        Raises:
            ApiError: 400, the server never has room for this many; 429, it has no room now; 503, it is stopping.
        """
        with self._changed:
            if self._closed:
                raise stopping()
            if len(jobs) > self._pool.size + self._max_waiting:
                most = self._pool.size + self._max_waiting
                raise ApiError(400, f"{len(jobs)} completions at once: this server has room for {most}", "n")
            room = self._pool.size - len(self._running) + self._max_waiting - self.waiting()
            displaced = self._displaced(jobs, len(jobs) - room)
            for job in displaced:
                self._remove_waiting(job)
            for job in jobs:
                self._queues.setdefault(job.client, deque()).append(job)
            self._admit()
        for job in displaced:
            job.emit((), Finish(error=queue_full()))

    def _displaced(self, jobs: Sequence[Job], count: int) -> list[Job]:
        """The `count` waiting jobs that are refused for `jobs`: each time the newest one of the client that has most jobs.

        Running jobs are counted, but not refused.

        Raises:
            ApiError: 429, no client would be left with as many jobs as this client would have.
        """
        held = Counter(job.client for job in [*jobs, *self._running])
        held.update({client: len(queue) for client, queue in self._queues.items()})
        queues, displaced = {client: list(queue) for client, queue in self._queues.items()} if count > 0 else {}, list[Job]()
        while len(displaced) < count:
            largest = max(filter(queues.get, queues), key=held.__getitem__, default=None)
            if largest is None or held[largest] <= held[jobs[0].client]:
                raise queue_full()
            displaced.append(queues[largest].pop())
            held[largest] -= 1
        return displaced

    def cancel(self, job: Job) -> None:
        """End a job with the tokens that it has: at once if it waits, after its slice if it is computing.

        Does nothing if the job has ended.
        """
        with self._changed:
            job.cancelled = True
            if job not in self._queues.get(job.client, ()):
                return
            self._remove_waiting(job)
        job.emit((), Finish())

    def _remove_waiting(self, job: Job) -> None:
        queue = self._queues[job.client]
        queue.remove(job)
        if not queue:
            del self._queues[job.client]

    def drain(self) -> None:
        """Accept no more jobs, and refuse those that wait. Running jobs continue."""
        with self._changed:
            self._closed = True
            refused = [job for queue in self._queues.values() for job in queue]
            self._queues.clear()
            self._changed.notify_all()
        for job in refused:
            job.emit((), Finish(error=stopping()))

    def cut(self) -> None:
        """End the running jobs after their slices, with the tokens that they have."""
        with self._changed:
            for job in self._running:
                job.cancelled = True

    def close(self) -> None:
        """End all jobs and threads. Returns when the threads have ended."""
        self.drain()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _admit(self) -> None:
        """Start waiting jobs while there are sessions: the first job of the first queue, which then becomes the last queue."""
        while self._queues and len(self._running) < self._pool.size:
            client, queue = next(iter(self._queues.items()))
            job = queue.popleft()
            if queue:
                self._queues.move_to_end(client)
            else:
                del self._queues[client]
            running = RunningJob(job, self._pool.take(client, job.prompt))
            self._running[job] = running
            self._ready.append(running)
            self._changed.notify()
        if self._engine:
            self._engine.threads = max(1, self._engine_threads // max(1, len(self._running)))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._ready and not (self._closed and not self._running):
                    self._changed.wait()
                if not self._ready:
                    return
                running = self._ready.popleft()
            tokens, finish = self._run_slice(running)
            if finish is None and tokens:
                running.job.emit(tokens, None)
            with self._changed:
                if finish is None:
                    self._ready.append(running)
                    self._changed.notify()
                else:
                    del self._running[running.job]
                    read = None if finish.error else [*running.job.prompt, *running.generated]
                    self._pool.give_back(running.session, running.job.client, read)
                    self._admit()
                    if self._closed:
                        self._changed.notify_all()
            if finish is not None:  # last, so that the receiver finds the session free and its cache available
                running.job.emit(tokens, finish)

    def _run_slice(self, running: RunningJob) -> tuple[list[Token], Finish | None]:
        """Compute for SLICE seconds, but at least one step: the new tokens, and the Finish if the job has ended."""
        job, session, tokens = running.job, running.session, list[Token]()
        finish = None
        try:
            until = time.monotonic() + SLICE
            while finish is None:
                if job.cancelled:
                    finish = Finish("length", running.reused)
                elif job.score_prompt and not running.scored:
                    running.scores = running.scores or session.score(job.prompt, job.logprobs or 0)
                    part = next(running.scores, None)
                    tokens += part or ()
                    running.scored = part is None
                elif not job.generate:
                    finish = Finish("length")
                elif running.tokens is None:
                    running.tokens = session.generate(
                        job.prompt, job.sampling, stop=job.stop, logprobs=job.logprobs, give_stop=job.score_prompt
                    )
                    continue  # generate only checks its arguments; a slice does at least one step of work
                elif running.reading:
                    running.reading = session.read()
                elif (token := next(running.tokens, None)) is None:
                    finish = Finish(session.finish_reason or "length", running.reused)
                else:
                    tokens.append(token)
                    running.generated.append(token.id)
                # Tokens that are already computed are given out even when the slice is over.
                if not (running.tokens and session.ahead) and time.monotonic() >= until:
                    break
        except BulletError as error:
            finish = Finish(error=ApiError(500, str(error)))
        except Exception:
            traceback.print_exc()
            finish = Finish(error=INTERNAL)
        if finish is not None and running.tokens is not None:
            running.tokens.close()  # type: ignore[attr-defined]
        return tokens, finish


def stopping() -> ApiError:
    """503: the server is stopping."""
    return ApiError(503, "the server is stopping", code="server_stopping", Retry_After="5")
