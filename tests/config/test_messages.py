"""Tests that messages about wrong settings use the words and the notation of users, whatever is wrong."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bulletlm.cli.app import main
from bulletlm.config.loader import load_config, settings
from bulletlm.config.messages import format_value
from bulletlm.config.schema import Source
from bulletlm.errors import ConfigError

WRONG: tuple[Any, ...] = (
    None,
    True,
    "x",
    "",
    -1,
    1.5,
    10**30,
    [],
    [1],
    ["a", "b", "c"],
    [[1]],
    {},
    {"a": 1},
    {"a": {"b": [1]}},
    [{"path": 3}],
)
"""Values that are wrong for most settings."""

PYTHON = re.compile(r"\bNone\b|\bTrue\b|\bFalse\b|\{'|\['|'\}|dictionary|instance of|[Ii]nput should|\\x|\^\[|\bint\b|\bstr\b|pydantic")
"""What only someone who knows Python would understand."""


def message(call: Any) -> str | None:
    try:
        call()
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("setting", settings(), ids=lambda setting: setting.path)
def test_no_wrong_value_gives_a_message_for_programmers(tmp_path: Path, setting: Any) -> None:
    path = tmp_path / "mine.jsonc"
    refused = 0
    for value in WRONG:
        path.write_text(json.dumps({setting.path: value}), encoding="utf-8")
        flag = f"--{setting.path}={value if isinstance(value, str) else json.dumps(value)}"
        for said in (message(lambda: load_config(path)), message(lambda flag=flag: load_config(None, [flag]))):  # type: ignore[misc]
            if said is None:
                continue
            refused += 1
            assert not PYTHON.search(said), said
            assert setting.path.rpartition(".")[2] in said, said
            assert "\n" not in said and len(said) < 400, said
    assert refused > 2


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--train.epochs", "-3"], "command line: --train.epochs -3: must be more than 0"),
        (["--epochs=many"], "command line: --train.epochs many: must be a number"),
        (["--layers", "1.5"], "command line: --model.n_layers 1.5: must be a whole number"),
        (["--sched=cosin"], "command line: --train.scheduler cosin: must be one of cosine, constant, noam, wsd"),
        (["--evaluate.checkpoint=x"], "command line: --evaluate.checkpoint x: must be best, or step- and a number, such as step-2500"),
        (["--name=a/b"], "command line: --name a/b: must be a folder name of 1 to 100 characters without / and \\"),
        (["--betas=[0.9]"], "command line: --train.betas [0.9]: entry 2: is missing"),
        (['--data.sources=[{"path": "a", "wieght": 2}]'], "data.sources: entry 1: unknown setting wieght: did you mean weight?"),
        (['--data.sources=["a", {"path": 3}]'], 'command line: --data.sources ["a", {"path": 3}]: entry 2: path: must be text'),
    ],
)
def test_what_is_said(flags: list[str], expected: str) -> None:
    assert expected in (message(lambda: load_config(None, flags)) or "")


def test_where_a_value_came_from(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonc"
    path.write_text('{"train": {"epochs": 0}, "dim": 64}')
    assert message(lambda: load_config(path)) == f"{path}: train.epochs: must be more than 0, not 0"
    assert message(lambda: load_config(path, ["--epochs=-1"])) == "command line: --train.epochs -1: must be more than 0"


def test_values_as_users_write_them() -> None:
    full = [Source(path="a").model_dump(mode="json"), Source(path="b", weight=2).model_dump(mode="json")]
    assert format_value(full) == '["a", {"path": "b", "weight": 2.0}]'
    assert [format_value(value) for value in (None, True, "text", 3, [1, 2])] == ["null", "true", "text", "3", "[1, 2]"]


def test_wrong_settings_for_text_without_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(SystemExit) as caught:
        main(["run", str(tmp_path / "a.txt"), "--epochs=many"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "bullet: command line: --train.epochs many: must be a number\n"
