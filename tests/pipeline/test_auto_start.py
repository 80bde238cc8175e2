"""`bullet run FOLDER` from the model of the package: when it starts there, what it chooses, and that it says so."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bulletlm.config.loader import load_config
from bulletlm.data.survey import Survey
from bulletlm.errors import ConfigError
from bulletlm.files import read_json
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.pipeline.auto import LEAST_SEQUENCES, Choice, Request, Speed
from bulletlm.pipeline.auto_start import (
    GENERAL_CHARACTERS,
    MOST_EPOCHS,
    WANTED_STEPS,
    Base,
    choose_from,
    find_base,
    scratch_is_better,
    use_vocabulary,
)
from bulletlm.pipeline.plan import Clock, Measured, training_flops
from bulletlm.pipeline.recipe import make_choice, text_run, write_recipe
from bulletlm.pipeline.runner import run_stages
from bulletlm.progress import SilentProgress
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.train.scaling import family
from micro_model import write_texts
from paths import SAMPLE_CORPUS, SIMPLE_CORPUS

ENGLISH = "The tide rose over the old pier while the children counted boats. "


def test_the_size_of_the_general_text_is_that_of_the_corpus() -> None:
    characters = 0
    for path in [*SAMPLE_CORPUS.iterdir(), *SIMPLE_CORPUS.iterdir()]:
        for line in path.read_text(encoding="utf-8").splitlines() if path.suffix else ():
            row = json.loads(line) if path.suffix == ".jsonl" else {"messages": [{"content": line}]}
            characters += sum(len(message["content"]) for message in row["messages"])
    assert pytest.approx(characters, rel=0.02) == GENERAL_CHARACTERS


def machine(flops: float = 2e10) -> Speed:
    """A machine with a given number of floating-point operations a second."""
    shapes = [family(width, 2_000, 128) for width in (64, 128, 256)]
    clock = Clock([Measured(shape, 16, 16 * 128 * training_flops(shape) / flops, 1e-3) for shape in shapes])
    return Speed(clock=clock, exact=2.0, cores=2, words="a machine")


def survey_of(characters: int, languages: Mapping[str, float] | None = None) -> Survey:
    """What a look at a text of one file found."""
    return Survey(
        files=1,
        bytes=characters,
        kinds={".txt": 1},
        skipped=(),
        characters=characters,
        languages=dict(languages or {"en": 1.0}),
        conversations=0.0,
        document=1_000,
        seconds=characters / 1e6,
        complete=True,
        texts=(ENGLISH * 40,) * 4,
    )


def base_of(tokenizer: Tokenizer, width: int = 128, tokens: int = 20_000_000) -> Base:
    """A model of a given width that was trained on a given number of tokens."""
    shape = ModelShape(tokenizer.vocab_size, width, width // 32, width // 32, width // 32, 4 * width, 256)
    return Base(where="base.bullet", shape=shape, tokenizer=tokenizer, languages=("en", "mr"), tokens=tokens, line="base", asked=False)


def chosen(characters: int, base: Base, hours: float = 0.25, flops: float = 2e10, **given: Any) -> Choice | None:
    text = use_vocabulary(survey_of(characters), base.tokenizer)
    return choose_from(request_for(hours, flops, **given), text, base, "because")


def request_for(hours: float, flops: float, **given: Any) -> Request:
    named = {key.replace("__", "."): value for key, value in given.items()}
    return Request(name="name", sources=["/text"], speed=machine(flops), hours=hours, given=named)


@pytest.mark.parametrize("characters", [3_000, 20_000, 200_000, 2_000_000, 100_000_000])
@pytest.mark.parametrize("hours", [0.25, 1.0, 8.0])
@pytest.mark.parametrize("flops", [2e9, 2e10, 1e12])
def test_no_choice_takes_more_than_time_and_text_allow(
    characters: int, hours: float, flops: float, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    choice = chosen(characters, base_of(tiny_tokenizer), hours, flops)
    if choice is None:
        assert flops == 2e9 and hours < 1
        return
    assert choice.facts["seconds"]["total"] <= 3600 * hours
    assert choice.facts["epochs"] <= MOST_EPOCHS + 0.01
    (tmp_path / "a.json").write_text(json.dumps(choice.values))
    config = load_config(tmp_path / "a.json")
    assert config.model.start_from == "base.bullet"
    assert config.train.batch_size_per_device * config.train.gradient_accumulation_steps * config.model.max_seq_len <= 8_192
    stated = {"dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim"} & config.model.model_fields_set
    assert not stated and "tokenizer" not in choice.values, "shape and vocabulary are those of the model"


@pytest.mark.parametrize("characters", [3_000, 20_000, 50_000, 200_000, 5_000_000])
@pytest.mark.parametrize("hours", [0.02, 0.05, 0.25, 2.0])
@pytest.mark.parametrize("flops", [2e9, 2e10, 2e11])
def test_a_step_has_several_sequences_also_in_a_short_run(characters: int, hours: float, flops: float, tiny_tokenizer: Tokenizer) -> None:
    choice = chosen(characters, base_of(tiny_tokenizer, 64), hours, flops)
    if choice is None:
        assert hours * flops <= 1e9
        return
    train, steps, per_step = choice.values["train"], choice.facts["steps"], choice.facts["tokens"] / choice.facts["steps"]
    sequences = train["batch_size_per_device"] * train["gradient_accumulation_steps"]
    context = per_step / sequences
    in_the_text = choice.facts["tokens"] / choice.facts["epochs"] / context
    assert sequences >= min(LEAST_SEQUENCES, int(in_the_text))
    assert choice.facts["seconds"]["total"] <= 3600 * hours
    fewer = steps * sequences / WANTED_STEPS < LEAST_SEQUENCES
    assert (f"({sequences} sequences, because the gradient of fewer is mostly noise)" in choice.lines[3]) == fewer


def test_a_batch_that_the_user_gave_stays_and_is_not_explained(tiny_tokenizer: Tokenizer) -> None:
    choice = chosen(20_000, base_of(tiny_tokenizer), train__batch_size_per_device=1, train__gradient_accumulation_steps=1)
    assert choice and choice.values["train"]["batch_size_per_device"] == 1 and "noise" not in " ".join(choice.lines)


def test_what_the_user_gives_stays(tiny_tokenizer: Tokenizer) -> None:
    choice = chosen(2_000_000, base_of(tiny_tokenizer), train__learning_rate=1e-4, data__mix__general=0.0, model__max_seq_len=128)
    assert choice
    assert choice.values["train"]["learning_rate"] == 1e-4
    assert choice.values["data"]["mix"]["general"] == 0.0 and choice.values["model"]["max_seq_len"] == 128


def test_what_is_said_is_what_the_user_gave(tiny_tokenizer: Tokenizer) -> None:
    choice = chosen(
        2_000_000, base_of(tiny_tokenizer), train__epochs=2.0, train__batch_size_per_device=3, train__gradient_accumulation_steps=1
    )
    assert choice and choice.facts["epochs"] == pytest.approx(2, rel=0.01)
    assert f"steps of {3 * 256:,} tokens, 2.0 times over" in choice.lines[3] and "total_steps" not in choice.values["train"]
    few = chosen(2_000_000, base_of(tiny_tokenizer), train__total_steps=12)
    assert few and few.facts["steps"] == 12 and "at most 12 steps" in few.lines[3]


def test_a_model_that_is_too_large_for_the_time_gives_no_choice(tiny_tokenizer: Tokenizer) -> None:
    assert chosen(200_000, base_of(tiny_tokenizer, 1024), 0.05, 1e9) is None


def test_random_weights_are_expected_to_be_better_only_with_far_more_text_and_time(tiny_tokenizer: Tokenizer) -> None:
    def better(characters: int, hours: float, flops: float, base: Base) -> bool:
        text = use_vocabulary(survey_of(characters), base.tokenizer)
        choice = choose_from(request_for(hours, flops), text, base, "")
        assert choice
        return scratch_is_better(choice, request_for(hours, flops), text)

    assert not better(50_000, 0.25, 2e10, base_of(tiny_tokenizer))
    assert not better(2_000_000, 1.0, 2e10, base_of(tiny_tokenizer))
    assert better(1_000_000_000, 24.0, 1e12, base_of(tiny_tokenizer, 64, 100_000))


@pytest.fixture
def packaged(micro_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose model is a micro model."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(micro_run / "model.bullet", folder / "marathi-english.bullet")
    monkeypatch.setattr("bulletlm.formats.packaged.MODELS", folder)
    return folder / "marathi-english.bullet"


@pytest.mark.parametrize(
    ("languages", "starts", "reason"),
    [
        ({"en": 0.5, "mr": 0.35, "hi": 0.15}, True, "because 85% of the text is in its languages (en, mr); --from none"),
        (
            {"fr": 0.5, "und": 0.4, "en": 0.1},
            False,
            "because only 10% of the text is in the languages of the model marathi-english (en, mr)",
        ),
    ],
)
def test_the_languages_of_the_text_decide(languages: dict[str, float], starts: bool, reason: str, packaged: Path) -> None:
    base, said = find_base({}, survey_of(100_000, languages))
    assert (base is not None) == starts and said.startswith(reason)


def test_the_user_decides_first(packaged: Path, micro_run: Path) -> None:
    text = survey_of(100_000)
    assert find_base({"model.start_from": "none"}, text)[0] is None
    assert find_base({"model.dim": 96}, text) == (None, "because model.dim is given, and the model marathi-english has its own")
    base, said = find_base({}, text, max_mb=0.01)
    assert base is None and "has a file of" in said and "--max-mb=0.01 allows less" in said
    assert find_base({}, text, max_mb=100)[0] is not None
    with pytest.raises(ConfigError, match=r"--max-mb=0\.01 allows less"):
        find_base({"model.start_from": str(micro_run)}, text, max_mb=0.01)
    french = survey_of(100_000, {"fr": 1.0})
    base, _ = find_base({"model.start_from": str(micro_run)}, french)
    assert base and base.asked
    with pytest.raises(ConfigError, match=r"model\.dim is 96, but"):
        find_base({"model.start_from": str(micro_run), "model.dim": 96}, text)


def test_a_run_beside_the_new_one_is_found_by_its_name(micro_run: Path) -> None:
    base, _ = find_base({"model.start_from": micro_run.name}, survey_of(100_000), run=micro_run.parent / "new")
    assert base and base.asked and base.where == micro_run.name


def test_without_a_model_in_the_package_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulletlm.formats.packaged.MODELS", tmp_path)
    assert find_base({}, survey_of(100_000)) == (None, "")


def test_a_run_from_the_package_end_to_end(packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulletlm.pipeline.auto.measure_speed", lambda progress: machine())
    monkeypatch.setattr("bulletlm.pipeline.recipe._seconds_so_far", lambda: 0.0)  # the tests before this one do not count
    write_texts(tmp_path / "texts")
    flags = [
        "--total-steps=3",
        "--set",
        "data.mix.general=0",
        "--qat.steps=0",
        "--max-tokens=4",
        "--threads=1",
        "--runs-dir",
        str(tmp_path),
    ]
    run = text_run([str(tmp_path / "texts")], [*flags, "--name=mine"], 0.25)
    monkeypatch.setattr("bulletlm.pipeline.auto_start.scratch_is_better", lambda *arguments: False)  # a micro model knows very little
    choice = make_choice(run, SilentProgress())
    start = next(line for line in choice.lines if line.startswith("start"))
    assert start.startswith("start     micro, 0.") and "of the text is in its languages" in start and "--from none" in start
    assert "; no QAT;" in choice.lines[-1], "as the command says"
    write_recipe(run, choice)
    folder = run_stages(load_config(run.recipe), "evaluate", SilentProgress()).folder
    assert [entry["name"] for entry in open_bullet(folder / "model.bullet").metadata["parents"]] == ["micro"]
    report = read_json(folder / "report.json")
    assert report["origin"]["name"] == "micro" and "starting from the model micro" in report["summary"]
