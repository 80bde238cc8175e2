"""Requests from outside to stop a run, and reasons to wait."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from bulletlm.config.schema import TrainConfig
from bulletlm.progress import Progress

SENSOR_INTERVAL_SECONDS = 20.0
"""Between two looks at battery and sensors."""

NEAR_CRITICAL_DEGREES = 3.0
"""Degrees below the temperature that a sensor calls critical."""

SPARE_DISK_BYTES = 32 << 20
"""Room on the disk for everything but checkpoints."""


@contextlib.contextmanager
def stop_requested(stop_file: Path) -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM, or a file of that name, into a flag that the loop reads between steps.

    A second signal stops at once. The file is removed at the end of the block.
    """
    received: list[int] = []
    previous: dict[signal.Signals, Any] = {}

    def handle(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handle)
        yield lambda: bool(received) or stop_file.exists()
    finally:
        for number, former in previous.items():
            signal.signal(number, former)
        stop_file.unlink(missing_ok=True)


def disk_is_low(folder: Path, checkpoint_bytes: int) -> str | None:
    """In words, when the disk has no room for two more checkpoints (a run needs one, and the best weights); None otherwise."""
    free = shutil.disk_usage(folder).free
    if free >= 2 * checkpoint_bytes + SPARE_DISK_BYTES:
        return None
    return f"only {free / 1e6:,.0f} MB are free on the disk of {folder}, and a checkpoint has {checkpoint_bytes / 1e6:,.1f}"


def be_nice(level: int) -> None:
    """Let other programs go first: raise the nice level of this process to `level` (it never gets lower)."""
    if level > os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, 0, level)


def reason_to_wait(battery: Any, temperatures: Mapping[str, Sequence[Any]], below_percent: float, on_heat: bool) -> str | None:
    """Why training should pause, in words; None where it should go on.

    Args:
        battery: as psutil.sensors_battery() gives it; None where there is none.
        temperatures: as psutil.sensors_temperatures() gives them, in degrees Celsius.
        below_percent: pause on battery with less left than this; 100 even with a full one, 0 never.
        on_heat: whether to pause where a sensor is near what it calls critical.
    """
    if battery is not None and battery.power_plugged is False and (battery.percent < below_percent or below_percent == 100):
        return f"on battery with {battery.percent:.0f} % left (train.pause_on_battery)"
    if on_heat:
        for chip, sensors in temperatures.items():
            for sensor in sensors:
                # Some sensors report nonsense for a limit: 0, or thousands.
                if sensor.critical and 60 <= sensor.critical <= 130 and sensor.current >= sensor.critical - NEAR_CRITICAL_DEGREES:
                    name = " ".join(part for part in (chip, sensor.label) if part)
                    return f"{name} is at {sensor.current:.0f} of at most {sensor.critical:.0f} degrees (train.pause_on_heat)"
    return None


class Pause:
    """Looks at battery and sensors now and then, and pauses."""

    def __init__(self, config: TrainConfig) -> None:
        self._config, self._next = config, 0.0
        self._reason: str | None = None
        self._paused = False

    def reason(self) -> str | None:
        """Why training should pause at this moment, in words; None where it should go on."""
        if time.monotonic() >= self._next:
            # Neither function exists on every system.
            battery = getattr(psutil, "sensors_battery", lambda: None)()
            temperatures: Mapping[str, Sequence[Any]] = getattr(psutil, "sensors_temperatures", dict)()
            self._reason = reason_to_wait(battery, temperatures, self._config.pause_on_battery, self._config.pause_on_heat)
            self._next = time.monotonic() + SENSOR_INTERVAL_SECONDS
        return self._reason

    def wait(self, wish: bool, save: Callable[[], None], progress: Progress) -> bool:
        """Sleep for a second if `wish`, which may be another process's; saved is before the first time. Returns `wish`."""
        if wish != self._paused:
            self._paused = wish
            if wish:
                save()
            progress.log(f"paused: {self._reason or 'another process waits'}; everything is saved" if wish else "going on")
        if wish:
            time.sleep(1.0)
        return wish
