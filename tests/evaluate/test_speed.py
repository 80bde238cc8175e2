"""Tests `bullet bench` and the example in docs/running.md."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from bulletlm.cli.app import main
from bulletlm.errors import BulletError, ConfigError
from bulletlm.evaluate import speed as module
from bulletlm.evaluate.speed import bench
from bulletlm.runtime.native import Unavailable, library
from paths import DOCS

DOCS = DOCS / "running.md"


@pytest.fixture(autouse=True)
def native_only() -> None:
    try:
        library()
    except Unavailable as error:
        pytest.skip(str(error))


def test_the_figures(bullet_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of a file that a command could take for an option."""
    shutil.copy(bullet_path, tmp_path / "-p.bullet")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "./-p.bullet", "--tokens", "16", "--rounds", "1", "--json"])
    assert not ended.value.code
    result = json.loads(capsys.readouterr().out)
    names = set(result["tokens_per_second"])
    assert {"decode, exact", "decode, turbo", "decode, numpy", "prefill, exact", "prefill, turbo"} <= names
    assert all(speed["best"] >= speed["median"] > 0 for speed in result["tokens_per_second"].values())
    assert result["process_seconds"] > 0 and result["memory_bytes"] > result["kv_bytes"] > 0
    assert "against" not in result
    module.print_bench(result)
    assert "decode, exact" in capsys.readouterr().out


def test_beside_llama(bullet_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr(module, "whole_process", lambda file: {"process_seconds": 0.1})  # the other test runs it
    result = bench(bullet_path, "llama.cpp", tokens=16, rounds=1)
    assert set(result["against"]["ratios"]) == {"decode, exact", "decode, turbo", "prefill, exact", "prefill, turbo"}
    assert result["against"]["same_likeliest"] > 0.7
    module.print_bench(result)
    assert "x llama.cpp" in capsys.readouterr().out

    real = module.NativeEngine.forward
    monkeypatch.setattr(module.NativeEngine, "forward", lambda *arguments: np.roll(real(*arguments), 1, axis=1))
    with pytest.raises(BulletError, match=r"llama\.cpp finds another likeliest token in"):
        bench(bullet_path, "llama.cpp", tokens=16, rounds=1)


def test_mistakes(bullet_path: Path) -> None:
    with pytest.raises(ConfigError, match="tokens is 33: it must be from 2 to the model's context, 32"):
        bench(bullet_path, tokens=33)
    with pytest.raises(ConfigError, match="rounds is 0"):
        bench(bullet_path, rounds=0)


def test_the_example_in_the_docs(bullet_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code.replace("runs/demo/model.bullet", str(bullet_path)), str(DOCS), "exec"), {})
    assert re.search(r"\n\d+ tokens, ended by (stop|length)\n$", capsys.readouterr().out)
