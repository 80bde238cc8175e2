"""Install BulletLM with what training needs, for `make demo`: says first how much that is, then shows progress.

    .venv/bin/python tools/install.py torch==2.13.0          the words are given to pip besides the package

pip alone is silent for minutes, or prints a page.
"""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

DOWNLOAD_MB, DISK_MB, TORCH_MB = 260, 1_100, 190
"""Sizes with torch for the CPU: all files to download, all of them on disk, and torch's part of the download (`make release-check`)."""

MEGABITS = 50
"""Of an ordinary connection, in a second."""

CUDA_NOTE = (
    "note: this torch comes with CUDA, several GB. Without an NVIDIA GPU stop with Ctrl-C, and see README.md for the build for the CPU."
)


def announcement() -> str:
    """What the installation takes, before it starts."""
    minutes = DOWNLOAD_MB * 8 / MEGABITS / 60 + 1
    return (
        f"Installing BulletLM and torch into {os.path.relpath(sys.prefix)}: {DOWNLOAD_MB} MB to download (torch {TORCH_MB} MB), "
        f"{DISK_MB / 1000:.1f} GB on disk,\nabout {minutes:.0f} minutes at {MEGABITS} Mbit/s. Files that pip has in its cache are not "
        "downloaded again."
    )


class Progress:
    """What pip has done so far, from the lines that it prints."""

    def __init__(self) -> None:
        self.megabytes = 0.0
        self.now = "looking for packages"
        self.cuda = False
        self._size = 0.0

    def read(self, line: str) -> None:
        """Update the state with a line of pip."""
        line = line.strip()
        if found := re.match(r"(?:Downloading|Using cached) (\S+?)-[\d.]+\S* \((\d+(?:\.\d+)?) ([kMG]?B)\)", line):
            if found[0].endswith("B)") and ".metadata" not in line:
                self.megabytes += self._size
                self._size = float(found[2]) * {"B": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}[found[3]]
                self.now = f"{found[1]}, {self._size:.0f} MB" if self._size >= 1 else found[1]
        elif line.startswith("Building "):
            self.now = "compiling the C libraries"
        elif line.startswith("Installing collected packages"):
            self.megabytes += self._size
            self._size = 0.0
            self.now = "writing the files"
        elif re.match(r"Collecting (nvidia|cuda)-", line):
            self.cuda = True

    def line(self, seconds: float) -> str:
        """The progress in a line."""
        total = "" if self.cuda else f" of about {DOWNLOAD_MB}"
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}  {self.megabytes:.0f}{total} MB  {self.now}"


def main() -> None:
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    command += ["--constraint", "constraints.txt", *sys.argv[1:], "--editable", ".[terminal,train]"]
    print(announcement(), flush=True)
    progress, lines = Progress(), list[str]()
    started = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as pip:
        ended = threading.Event()
        shown = threading.Thread(target=_show, args=(progress, started, ended))
        shown.start()
        try:
            assert pip.stdout is not None
            for line in pip.stdout:
                lines.append(line)
                progress.read(line)
        finally:
            ended.set()
            shown.join()
    if pip.returncode:
        print("".join(lines[-20:]), file=sys.stderr)
        raise SystemExit(f"pip ended with exit code {pip.returncode}: {' '.join(command)}")
    print(f"installed in {(time.monotonic() - started) / 60:.1f} minutes")


def _show(progress: Progress, started: float, ended: threading.Event) -> None:
    """Show the progress until the end: one line that changes in a terminal, a line every half minute elsewhere."""
    terminal, noted, last = sys.stdout.isatty(), False, 0.0
    while not ended.wait(0.5):
        seconds = time.monotonic() - started
        if progress.cuda and not noted:
            noted = True
            print(("\r\033[K" if terminal else "") + CUDA_NOTE, flush=True)
        if terminal:
            print(f"\r\033[K{progress.line(seconds)[:78]}", end="", flush=True)
        elif seconds - last >= 30:
            last = seconds
            print(progress.line(seconds), flush=True)
    if terminal:
        print("\r\033[K", end="", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped: run the same command to continue")
