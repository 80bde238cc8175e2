"""Results of checks: each check passes, fails or is skipped, and one that fails does not stop the others."""

import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

SHOWN_LINES = 30
"""Lines of a failed program's output that are printed below the failure."""


class CheckError(Exception):
    """A check failed. The message is one line; `output` is what the failed program printed."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class Skipped(Exception):
    """A check cannot run on this machine; the message says what is missing."""


class Result(NamedTuple):
    """How a check ended: "passed", "failed" or "skipped", with the time that it took and the reason in one line."""

    check: str
    state: str
    seconds: float
    reason: str = ""


def record(results: list[Result], check: str, started: float, error: Exception | None = None) -> None:
    """Add the result of a check that began at `started` (of time.monotonic) and ended with `error` or without one; print it."""
    output = ""
    if error is None:
        state, reason = "passed", ""
    elif isinstance(error, Skipped):
        state, reason = "skipped", str(error)
    elif isinstance(error, CheckError):
        state, reason, output = "failed", str(error), error.output
    else:  # a fault of the check itself or of the machine, such as a full disk
        state, reason, output = "failed", f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
    result = Result(check, state, time.monotonic() - started, " ".join(reason.split()))
    results.append(result)
    print(f"{check}: {state}" + (f": {result.reason}" if reason else f" in {result.seconds:.0f} s"), flush=True)
    for line in output.rstrip().splitlines()[-SHOWN_LINES:]:
        print(f"    {line}", flush=True)


@contextmanager
def step(results: list[Result], check: str) -> Iterator[None]:
    """Run the body as a check: its result is added to `results`, and an error in it does not go further, except Ctrl-C."""
    print(f"{check} ...", flush=True)
    started = time.monotonic()
    try:
        yield
    except Exception as error:
        record(results, check, started, error)
    except KeyboardInterrupt:
        record(results, check, started, CheckError("it was stopped"))
        raise
    else:
        record(results, check, started)


def skip(results: list[Result], check: str, reason: str) -> None:
    """Add a check that cannot run, with the reason."""
    record(results, check, time.monotonic(), Skipped(reason))


def table(results: Sequence[Result]) -> str:
    """All results, one in each line, and a last line with the counts."""
    rows = [("check", "result", "seconds", "reason"), *((each.check, each.state, f"{each.seconds:.0f}", each.reason) for each in results)]
    width = max(len(check) for check, *_ in rows)
    lines = [f"{check:<{width}}  {state:<7}  {seconds:>7}  {reason}".rstrip() for check, state, seconds, reason in rows]
    states = [each.state for each in results]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("passed", "skipped", "failed"))
    return "\n".join([*lines, f"{counts}, in {sum(each.seconds for each in results) / 60:.0f} minutes"])
