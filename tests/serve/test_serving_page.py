"""Tests that the examples of docs/serving.md work unchanged."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running_server import TEST_TIMEOUT, running

from paths import DOCS

PAGE = (DOCS / "serving.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_examples_work(bullet_file: Path, tmp_path: Path) -> None:
    examples = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, re.M | re.S)
    assert len(examples) == 4
    with running(bullet_file, tmp_path / "log", "--name", "demo") as server:
        for language, text in examples:
            text = text.replace("http://127.0.0.1:8000", server.root)
            for command in [text] if language == "python" else text.replace("\\\n", "").splitlines():
                program = [sys.executable, "-c", command] if language == "python" else ["sh", "-c", command]
                result = subprocess.run(program, capture_output=True, text=True, timeout=TEST_TIMEOUT)
                assert result.returncode == 0 and not result.stderr and '"error"' not in result.stdout, (command, result)
                # The programs print only the answer, which is empty where random weights choose an end mark first.
                assert result.stdout or language == "python", (command, result)
