"""schemathesis reads /openapi.json and tries what it allows and what it does not: no crash, no answer that it does not announce."""

import subprocess
import sys
from pathlib import Path

from running_server import PATIENCE, running

SETTINGS = Path(__file__).with_name("schemathesis.toml")


def test_the_server_is_what_its_schema_says(tiny_file: Path, tmp_path: Path) -> None:
    with running(tiny_file, tmp_path / "log") as server:
        program = str(Path(sys.executable).with_name("schemathesis"))
        limits = ["--max-examples", "8", "--seed", "1", "--phases", "coverage,fuzzing", "--no-color"]
        limits += ["--request-timeout", str(PATIENCE), "--suppress-health-check", "too_slow"]
        command = [program, "--config-file", str(SETTINGS), "run", f"{server.root}/openapi.json", *limits]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=4 * PATIENCE)
        assert result.returncode == 0, result.stdout
        assert "9 passed" in result.stdout
        server.wait_for("bulletlm_running", 0)
