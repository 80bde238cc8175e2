"""Runs one `bullet` command for the dashboard and records its exit code: python -m bulletlm.dashboard.supervise FOLDER WORDS...

It is a process of its own, so the run and the record of its end do not depend on the dashboard. It passes SIGTERM on.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(folder: Path, words: list[str]) -> int:
    """Run `bullet WORDS`, then write FOLDER/exit.json; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # a dashboard in the background of a script ignores SIGINT, and its children would too
    # -P: modules are not looked for in the folder of the dashboard, where users keep files of any name.
    process = subprocess.Popen([sys.executable, "-P", "-m", "bulletlm", *words], stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(signal.SIGTERM))
    code = process.wait()
    temporary = folder / "exit.json.partial"
    temporary.write_text(json.dumps({"code": code, "time": time.time()}), encoding="utf-8")
    os.replace(temporary, folder / "exit.json")
    return code


if __name__ == "__main__":
    sys.exit(abs(main(Path(sys.argv[1]), sys.argv[2:])))
