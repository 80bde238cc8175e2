"""Tests that JSON, flags and form of the next run always say the same, and that mistakes stand at their settings."""

import re
from pathlib import Path

import pytest
from hypothesis import given, strategies

from bulletlm.config.loader import nested, settings
from bulletlm.config.schema import Config
from bulletlm.dashboard.drafts import load_draft, save_draft
from bulletlm.dashboard.forms import ELSEWHERE, Draft, form, problems, split_flags
from bulletlm.dashboard.workspace import Workspace

BRIEF_JSON = """
```json
{
  "vocab_size": 4000,
  "dim": 256,
  "num_heads": 4,
  "num_layers": 8,
  "max_seq_len": 128,
  "learning_rate": 5e-4,
  "weight_decay": 0.01,
  "betas": [0.9, 0.95],
  "eps": 1e-8,
  "warmup_steps": 1000,
  "total_steps": 120000,
  "scheduler": "cosine",
  "batch_size_per_device": 8,
  "gradient_accumulation_steps": 8,   // effective batch = 64
  "epochs": 3,
  "clip_grad_norm": 1.0,
  "save_every_steps": 2500,
  "eval_every_steps": 1000,
  "patience_early_stop": 5,
  "seed": 42
}
```
"""

BRIEF_FLAGS = """
```
--vocab_size=4000 --dim=256 --layers=8 --heads=4 --seq_len=128 \\
--lr=5e-4 --warmup=1000 --sched=cosine --batch=8 --grad-accum=8 \\
--weight-decay=0.01 --clip=1.0 --epochs=3 --ema=0.999
```
"""


def test_every_setting_has_a_field() -> None:
    assert {setting.path for setting in form()} == {setting.path for setting in settings()} - set(ELSEWHERE)
    assert all(setting.help for setting in form())


@pytest.mark.parametrize("strip", [False, True])
def test_the_configuration_of_a_guide_can_be_pasted_unchanged(strip: bool) -> None:
    draft = Draft()
    draft.edit_json(BRIEF_JSON.replace("```json", "").replace("```", "") if strip else BRIEF_JSON)
    draft.edit_flags(BRIEF_FLAGS.replace("```", "") if strip else BRIEF_FLAGS)
    assert (draft.json_problem, draft.flags_problem, draft.problems()) == ("", "", {})
    config = Config.model_validate(nested(draft.given))
    assert (config.model.dim, config.model.n_layers, config.train.total_steps) == (256, 8, 120_000)
    assert config.train.betas == (0.9, 0.95)
    assert "ema_decay" in draft.json_text, "the JSON shows what the flags set"


def test_an_edit_of_one_part_changes_the_others() -> None:
    draft = Draft()
    draft.edit_flags("--lr=5e-4 --layers 4")
    assert draft.given == {"train.learning_rate": 5e-4, "model.n_layers": 4}
    assert '"n_layers": 4' in draft.json_text
    draft.edit_setting("model.n_layers", 6)
    assert '"n_layers": 6' in draft.json_text
    assert draft.flags_text == "--lr=0.0005 --layers=6"
    draft.edit_json('{"layers": 3, "dim": 64}')
    assert draft.given == {"model.n_layers": 3, "model.dim": 64}
    assert draft.flags_text == "--layers=3"


def test_a_default_value_takes_the_setting_out() -> None:
    draft = Draft()
    draft.edit_setting("model.dim", 64)
    draft.edit_setting("model.dim", 256)
    assert (draft.given, draft.json_text) == ({}, "")


@given(strategies.dictionaries(strategies.sampled_from([s.path for s in form() if s.kind == "whole"]), strategies.integers(1, 400)))
def test_json_and_flags_say_the_same(chosen: dict) -> None:
    edited, pasted, typed = Draft(), Draft(), Draft()
    for path, value in chosen.items():
        edited.edit_setting(path, value)
    pasted.edit_json(edited.json_text)
    assert pasted.given == edited.given
    typed.edit_flags(" ".join(f"--{path}={value}" for path, value in edited.given.items()))
    assert typed.given == edited.given


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"model.dim": "wide"}, "model.dim"),
        ({"model.dim": 7}, "model.dim"),
        ({"train.epochs": -1}, "train.epochs"),
        ({"train.betas": [0.9, 3]}, "train.betas"),
        ({"train.scheduler": "linear"}, "train.scheduler"),
        ({"model.dim": 100}, "model.dim"),
        ({"quant.keep": ["nothing.*=BQ8"]}, "quant.keep"),
        ({"data.clean.preset": "harsh"}, "data.clean.preset"),
    ],
)
def test_a_mistake_stands_at_its_setting(given: dict, where: str) -> None:
    found = problems(given)
    assert list(found) in ([where], [""]) and all(found.values())
    if where != "quant.keep":
        assert where in found or "dim" in found[""]


@pytest.mark.parametrize("text", ["{", "[1]", '{"dimm": 3}', '{"dim": 1, "dim": 2}', "x" * 1000])
def test_json_that_cannot_be_read_keeps_the_settings(text: str) -> None:
    draft = Draft()
    draft.edit_setting("model.dim", 64)
    draft.edit_json(text)
    assert draft.json_problem and "\n" not in draft.json_problem
    assert draft.given == {"model.dim": 64}


@pytest.mark.parametrize("text", ["--lr", "--nonsense=3", "words without flags", '--name="open', "--set name"])
def test_flags_that_cannot_be_read_keep_the_settings(text: str) -> None:
    draft = Draft()
    draft.edit_setting("model.dim", 64)
    draft.edit_flags(text)
    assert draft.flags_problem and draft.given == {"model.dim": 64}


@given(strategies.text(max_size=60))
def test_no_text_breaks_the_boxes(text: str) -> None:
    draft = Draft()
    draft.edit_json(text)
    draft.edit_flags(text)
    assert isinstance(draft.problems(), dict)


def test_the_command_before_the_flags_is_left_out() -> None:
    assert split_flags("bullet run my.jsonc --lr=1 --name='two words'") == ["--lr=1", "--name=two words"]
    assert re.fullmatch(r"\S+", split_flags("--lr=1\\\n")[0])


@pytest.mark.parametrize("flags", ["--lr=1e-3", "--lr=abc --nosuch=3", "--lr", "'", "word", ""])
@pytest.mark.parametrize("text", ["", '{"dim": 64}', "{"])
def test_a_reload_gives_the_same_draft_with_its_mistakes(tmp_path: Path, text: str, flags: str) -> None:
    workspace, draft = Workspace(tmp_path), Draft()
    draft.edit_json(text)
    draft.edit_flags(flags)
    save_draft(draft, workspace)
    assert load_draft(workspace) == draft
