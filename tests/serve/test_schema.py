"""Tests with schemathesis that valid and invalid requests cause no crash and no answer that /openapi.json does not document."""

import subprocess
import sys
from pathlib import Path

from running_server import TEST_TIMEOUT, running

SETTINGS = Path(__file__).with_name("schemathesis.toml")


def test_the_server_matches_its_schema(tiny_file: Path, tmp_path: Path) -> None:
    with running(tiny_file, tmp_path / "log") as server:
        program = str(Path(sys.executable).with_name("schemathesis"))
        limits = ["--max-examples", "8", "--seed", "1", "--phases", "coverage,fuzzing", "--no-color"]
        limits += ["--request-timeout", str(TEST_TIMEOUT), "--suppress-health-check", "too_slow"]
        command = [program, "--config-file", str(SETTINGS), "run", f"{server.root}/openapi.json", *limits]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=4 * TEST_TIMEOUT)
        assert result.returncode == 0, result.stdout
        assert "21 passed" in result.stdout
        server.wait_for("bulletlm_running", 0)
