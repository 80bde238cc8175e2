"""Requests to stop a run, and reasons to pause it."""

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from bulletlm.config.schema import TrainConfig
from bulletlm.progress import Progress

SENSOR_INTERVAL_SECONDS = 20.0
"""Seconds between two readings of battery and sensors."""

NEAR_CRITICAL_DEGREES = 3.0
"""Degrees Celsius below the critical temperature of a sensor at which training pauses."""

SPARE_DISK_BYTES = 32 << 20
"""Disk space in bytes for everything except checkpoints."""


STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, the request to end, and a closed terminal, which Windows does not have."""


@contextlib.contextmanager
def stop_requested(stop_file: Path) -> Iterator[Callable[[], bool]]:
    """Context that yields a function which says whether to stop: after one of STOP_SIGNALS, or while `stop_file` exists.

    A second signal stops the process at once. Signals that the process ignores stay ignored, as SIGHUP under nohup. The file is
    deleted at the end.
    """
    received: list[int] = []
    previous: dict[signal.Signals, Any] = {}

    def handle(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    try:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) == signal.SIG_IGN:
                continue
            previous[number] = signal.signal(number, handle)
        yield lambda: bool(received) or stop_file.exists()
    finally:
        for number, former in previous.items():
            signal.signal(number, former)
        stop_file.unlink(missing_ok=True)


def disk_is_low(folder: Path, checkpoint_bytes: int) -> str | None:
    """What is wrong, in words, if the disk has no space for two checkpoints (the next one and the best weights); None otherwise."""
    free = shutil.disk_usage(folder).free
    if free >= 2 * checkpoint_bytes + SPARE_DISK_BYTES:
        return None
    return f"only {free / 1e6:,.0f} MB are free on the disk of {folder}, and a checkpoint needs {checkpoint_bytes / 1e6:,.1f} MB"


def be_nice(level: int) -> None:
    """Give priority to other programs: raise the nice level of this process to `level`; it is never lowered."""
    process = psutil.Process()
    if sys.platform == "win32":
        if level > 0:
            process.nice(psutil.IDLE_PRIORITY_CLASS if level >= 15 else psutil.BELOW_NORMAL_PRIORITY_CLASS)
    elif level > process.nice():
        process.nice(level)


def reason_to_wait(battery: Any, temperatures: Mapping[str, Sequence[Any]], below_percent: float, on_heat: bool) -> str | None:
    """Why training should pause, in words; None if it should go on.

    Args:
        battery: result of psutil.sensors_battery(); None without a battery.
        temperatures: result of psutil.sensors_temperatures(), in degrees Celsius.
        below_percent: on battery, pause below this charge in percent; 100: always, 0: never.
        on_heat: whether to pause near the critical temperature of a sensor.
    """
    if battery is not None and battery.power_plugged is False and (battery.percent < below_percent or below_percent == 100):
        return f"on battery with {battery.percent:.0f} % left (train.pause_on_battery)"
    if on_heat:
        for chip, sensors in temperatures.items():
            for sensor in sensors:
                # Some sensors report a meaningless limit: 0, or thousands.
                if sensor.critical and 60 <= sensor.critical <= 130 and sensor.current >= sensor.critical - NEAR_CRITICAL_DEGREES:
                    name = " ".join(part for part in (chip, sensor.label) if part)
                    return f"{name} is at {sensor.current:.0f} of at most {sensor.critical:.0f} degrees (train.pause_on_heat)"
    return None


class Pause:
    """Reads battery and sensors from time to time, and pauses training."""

    def __init__(self, config: TrainConfig) -> None:
        self._config, self._next = config, 0.0
        self._reason: str | None = None
        self._paused = False

    def reason(self) -> str | None:
        """Why training should pause now, in words; None if it should go on."""
        if time.monotonic() >= self._next:
            # psutil has these functions on some systems only.
            battery = getattr(psutil, "sensors_battery", lambda: None)()
            temperatures: Mapping[str, Sequence[Any]] = getattr(psutil, "sensors_temperatures", dict)()
            self._reason = reason_to_wait(battery, temperatures, self._config.pause_on_battery, self._config.pause_on_heat)
            self._next = time.monotonic() + SENSOR_INTERVAL_SECONDS
        return self._reason

    def wait(self, wish: bool, save: Callable[[], None], progress: Progress) -> bool:
        """Wait one second if `wish`, and call `save` before the first time. Returns `wish`, which may come from another process."""
        if wish != self._paused:
            self._paused = wish
            if wish:
                save()
            progress.log(f"paused: {self._reason or 'another process of the group pauses'}; everything is saved" if wish else "going on")
        if wish:
            time.sleep(1.0)
        return wish
