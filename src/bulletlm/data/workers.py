"""A process pool that applies a function to a stream of items and returns results in the order of the items."""

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from bulletlm.errors import BulletError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 3
"""Number of items that may wait for each process: enough to keep it busy, and a limit on memory."""

_settings: Any = None


def ordered_map(
    function: Callable[[Any, Item], Result], settings: Any, items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with `function(settings, item)`, in order; in this process if `workers` is 1.

    New processes import `function` by its name, so it must be defined at module level. `settings` is sent to each process once.

    Raises:
        BulletError: a process died, probably because memory ran out.
    """
    if workers <= 1:
        for item in items:
            yield item, function(settings, item)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    # "spawn": a forked copy of a process with threads (progress bars, torch) can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(settings,)) as pool:
        try:
            for item in items:
                with _ctrl_c_later():
                    waiting.append((item, pool.submit(_call, function, item)))
                while len(waiting) >= _AHEAD * workers:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        except BrokenProcessPool:
            raise BulletError("a cleaning process died, probably because memory ran out: run again with --set data.workers=1") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first(waiting: "deque[tuple[Item, Future[Result]]]") -> tuple[Item, Result]:
    item, future = waiting[0]
    result = future.result()
    waiting.popleft()
    return item, result


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Ctrl-C takes effect at the end of the block. Processes that start inside never receive it: before `_begin`, it would end them
    with a traceback on the terminal. Windows has no such mask."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(settings: Any) -> None:
    global _settings
    _settings = settings
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    os.environ["RAYON_NUM_THREADS"] = "1"


def _call(function: Callable[[Any, Item], Result], item: Item) -> Result:
    return function(_settings, item)
