"""Tests bench/clients.py with the clients that are installed for the tests."""

import subprocess
import sys
from pathlib import Path

from running_server import TEST_TIMEOUT

from paths import ROOT


def test_the_table_of_clients(tiny_file: Path) -> None:
    command = [sys.executable, str(ROOT / "bench" / "clients.py"), str(tiny_file), "--turns", "5", "--only", "openai, responses,ollama"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TEST_TIMEOUT)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = {line[:28].strip(): line.split() for line in result.stdout.splitlines()[1:]}
    for name in ("openai, responses", "ollama"):
        assert rows[name][-1] == "works" and rows[name][-4] == "5", rows[name]
    assert all(row[-1] == "works" or row[-2:] == ["not", "installed"] for row in rows.values())
