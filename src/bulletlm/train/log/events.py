"""One line of metrics.jsonl as an event. The report and the dashboard read the file too, so this module imports nothing large."""

import json
from typing import Any

LARGEST_NUMBER = 1e300
"""No metric comes near it; a larger number in a file would overflow in what is computed from it."""


def parse_event(line: bytes) -> dict[str, Any] | None:
    """The event in a line of metrics.jsonl; None if the line is damaged, as after a crash.

    An event has a kind ("event", a string) and a step (an integer, 0 or more), and all its numbers are finite.
    """
    try:
        event = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str) or type(event.get("step")) is not int or event["step"] < 0:
        return None
    if not all(-LARGEST_NUMBER < value < LARGEST_NUMBER for value in event.values() if type(value) in (int, float)):
        return None
    return event
