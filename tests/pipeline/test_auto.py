"""A recipe for text alone: what is chosen for a text, a machine and a time; and what is written, kept and refused."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bulletlm.cli.inputs import almost_a_configuration, find_configuration, split_words
from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config, DataConfig
from bulletlm.data.prepare import prepare_data
from bulletlm.data.survey import Survey, survey
from bulletlm.errors import ConfigError, DataError
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.packaged import packaged_model
from bulletlm.pipeline import recipe
from bulletlm.pipeline.auto import (
    LEAST_SEQUENCES,
    LEAST_STEPS,
    WANTED_STEPS,
    Choice,
    Request,
    Speed,
    Text,
    choose,
    learn_vocabulary,
    look_at_text,
    model_file_mb,
    wanted_vocabulary,
)
from bulletlm.pipeline.limits import fed_parameters, refuse_too_large, require_sources, training_bytes
from bulletlm.pipeline.plan import Clock, Measured, bullet_bytes, training_flops
from bulletlm.pipeline.recipe import TextRun, existing_recipe, render, text_run, write_recipe
from bulletlm.pipeline.runner import run_stages
from bulletlm.progress import SilentProgress
from bulletlm.train.scaling import family
from bulletlm.train.state import TrainPosition
from bulletlm.train.training import overfitting
from micro_model import write_texts


def machine(flops: float = 2e10) -> Speed:
    """A machine with a given number of floating-point operations a second."""
    shapes = [family(width, 2_000, 128) for width in (64, 128, 256)]
    clock = Clock([Measured(s, 16, 16 * 128 * training_flops(s) / flops, 1e-3) for s in shapes])
    return Speed(clock=clock, exact=2.0, cores=2, words="a machine")


def found(characters: int, speed: Speed, hours: float, per_second: float = 1e6) -> Text:
    """A text of one file."""
    seen = Survey(
        files=1,
        bytes=characters,
        kinds={".txt": 1},
        skipped=(),
        characters=characters,
        languages={"en": 1.0},
        conversations=0.0,
        document=1_000,
        seconds=characters / per_second,
        complete=True,
        texts=(),
    )
    return Text(
        survey=seen, vocab_size=wanted_vocabulary(characters, speed, hours), tokens_per_character=0.35, tokenize_seconds=characters / 1e6
    )


def chosen(characters: int, hours: float = 0.25, speed: Speed | None = None, **given: Any) -> Choice:
    speed = speed or machine()
    named = {key.replace("__", "."): value for key, value in given.items()}
    request = Request(name="name", sources=["/text"], speed=speed, hours=hours, given=named)
    return choose(request, found(characters, speed, hours))


@pytest.mark.parametrize("characters", [7_000, 20_000, 200_000, 2_000_000, 50_000_000, 1_000_000_000])
@pytest.mark.parametrize("hours", [0.25, 1.0, 8.0])
@pytest.mark.parametrize("flops", [2e9, 2e10, 1e12])
def test_no_choice_takes_more_than_time_and_text_allow(characters: int, hours: float, flops: float, tmp_path: Path) -> None:
    choice = chosen(characters, hours, machine(flops))
    facts = choice.facts
    assert facts["seconds"]["total"] <= 3600 * hours
    assert facts["epochs"] <= 8.05
    assert facts["parameters"] <= max(100_000, fed_parameters(facts["tokens"]))
    (tmp_path / "a.json").write_text(json.dumps(choice.values))
    config = load_config(tmp_path / "a.json")
    assert config.model.shape(config.tokenizer.vocab_size).n_parameters == facts["parameters"]
    assert config.train.total_steps == facts["steps"]
    assert config.train.batch_size_per_device * config.train.gradient_accumulation_steps * config.model.max_seq_len <= 8_192


@pytest.mark.parametrize("characters", [3_000, 30_000, 200_000, 2_000_000, 100_000_000])
@pytest.mark.parametrize("hours", [0.05, 0.25, 4.0])
@pytest.mark.parametrize("flops", [2e9, 2e10, 1e12])
def test_a_step_has_several_sequences_also_in_a_short_run(characters: int, hours: float, flops: float) -> None:
    try:
        choice = chosen(characters, hours, machine(flops))
    except ConfigError:
        assert hours * flops <= 1e8
        return
    train = choice.values["train"]
    sequences = train["batch_size_per_device"] * train["gradient_accumulation_steps"]
    context = choice.values["model"]["max_seq_len"]
    in_all = choice.facts["tokens"] // context
    assert sequences >= min(LEAST_SEQUENCES, choice.facts["text"]["tokens"] // context, in_all // LEAST_STEPS)
    assert choice.facts["seconds"]["total"] <= 3600 * hours
    assert f"of {sequences * context:,} tokens" in choice.lines[3]
    assert (f"({sequences} sequences, because the gradient of fewer is mostly noise)" in choice.lines[3]) == (
        choice.facts["tokens"] / context / WANTED_STEPS < LEAST_SEQUENCES and sequences * context > 128
    )


def test_more_text_and_more_time_give_larger_models() -> None:
    by_text = [chosen(n, 10_000).facts["parameters"] for n in (20_000, 200_000, 2_000_000, 100_000_000)]
    by_time = [chosen(100_000_000, hours).facts["parameters"] for hours in (0.25, 1, 8)]
    assert by_text == sorted(set(by_text))
    assert by_time == sorted(by_time) and by_time[0] < by_time[-1]


def test_of_text_that_takes_too_long_to_clean_a_part_is_read() -> None:
    choice = chosen(1_000_000_000)
    (source,) = choice.values["data"]["sources"]
    assert 0 < source["share"] < 1
    assert "of which" in choice.lines[0]
    assert chosen(2_000_000).values["data"]["sources"] == ["/text"]


def test_what_the_user_gives_stays() -> None:
    choice = chosen(2_000_000, model__dim=96, model__n_layers=5, train__learning_rate=1e-3, tokenizer__vocab_size=900)
    assert (choice.values["model"]["dim"], choice.values["model"]["n_layers"]) == (96, 5)
    assert choice.values["train"]["learning_rate"] == 1e-3 and choice.values["tokenizer"]["vocab_size"] == 900


def test_the_recipe_says_which_settings_the_user_gave() -> None:
    choice = chosen(2_000_000, train__learning_rate=1e-3, tokenizer__vocab_size=900, qat__steps=30)
    rows = render(choice.values, choice.why, choice.lines, Path("recipe.jsonc")).splitlines()
    for name in ("learning_rate", "vocab_size", "steps"):
        assert [row.rpartition("  // ")[2] for row in rows if f'"{name}"' in row] == ["given on the command line"]


@pytest.mark.parametrize(
    ("given", "steps", "per_step"),
    [
        ({"train__total_steps": 12}, 12, None),
        ({"train__total_steps": 500_000}, 500_000, None),
        ({"train__batch_size_per_device": 3, "train__gradient_accumulation_steps": 2, "train__total_steps": 50}, 50, 6),
    ],
)
def test_what_is_said_is_what_the_user_gave(given: dict[str, Any], steps: int, per_step: int | None) -> None:
    plain, choice = chosen(2_000_000), chosen(2_000_000, **given)
    context = choice.values["model"]["max_seq_len"]
    tokens = per_step * context if per_step else plain.facts["tokens"] // plain.facts["steps"]
    assert choice.facts["steps"] == steps and f"training  {steps:,} steps of {tokens:,} tokens" in choice.lines[3]
    assert choice.facts["tokens"] == steps * tokens
    longer = steps * tokens > plain.facts["tokens"]
    assert (choice.facts["seconds"]["total"] > plain.facts["seconds"]["total"]) == longer
    assert choice.facts["qat_steps"] == (400 if longer else 0)


def test_passes_that_the_user_gave_decide_the_steps() -> None:
    choice = chosen(2_000_000, train__epochs=2.0)
    assert choice.facts["epochs"] == pytest.approx(2, rel=0.01) and ", 2.0 times over" in choice.lines[3]
    assert choice.values["train"]["epochs"] == 2 and "total_steps" not in choice.values["train"]


def test_a_busy_machine_is_named() -> None:
    busy = replace(machine(), cpu_share=0.4)
    assert any("got 40% of the cores' time" in note for note in chosen(2_000_000, speed=busy).notes)
    assert not any("cores' time" in note for note in chosen(2_000_000).notes)


def test_general_text_is_not_counted_as_the_text_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"Sentence number {n} is a line of this text.\n\n" for n in range(200)))
    assert look_at_text([str(tmp_path)], {"data.mix.general": 0.5}, 42, SilentProgress()).files == 1


@pytest.mark.parametrize("max_mb", [0.2, 0.6, 1.0, 5.0])
@pytest.mark.parametrize("quant", ["BQ4", "BQ8"])
def test_no_model_file_is_larger_than_asked(max_mb: float, quant: str) -> None:
    speed = machine(1e12)
    free = Request(name="name", sources=["/text"], speed=speed, hours=8, given={"tokenizer.vocab_size": 1_200, "quant.weights": quant})
    text = found(50_000_000, speed, 8)
    limited = choose(replace(free, max_mb=max_mb), text)
    assert choose(free, text).facts["model_file_mb"] > 5 and max_mb / 4 < limited.facts["model_file_mb"] <= max_mb
    config = Config.model_validate(limited.values)
    assert bullet_bytes(config, config.model.shape(1_200)) < 1e6 * max_mb
    assert any(f"--max-mb={max_mb:g}" in line for line in limited.lines)
    with pytest.raises(ConfigError, match=r"--max-mb=0\.01 is too small: .* smallest model file has 0\.\d+ MB"):
        choose(replace(free, max_mb=0.01), text)


def test_the_expected_size_of_a_model_file() -> None:
    path = packaged_model()
    assert path
    assert 0.95 < 1e6 * model_file_mb(open_bullet(path).shape, {}) / path.stat().st_size < 1.1


@pytest.mark.parametrize("characters", [20_000, 2_000_000, 1_000_000_000])
@pytest.mark.parametrize("flops", [1e8, 2e9, 2e10])
@pytest.mark.parametrize("hours", [0.001, 0.05, 0.1])
@pytest.mark.parametrize("spent", [0.0, 5.0, 220.0])
def test_of_too_little_time_it_says_how_much_is_enough(characters: int, flops: float, hours: float, spent: float) -> None:
    speed = machine(flops)
    text = found(characters, speed, hours)

    def run(hours: float) -> Choice:
        return choose(Request(name="name", sources=["/text"], speed=speed, hours=hours, given={}, spent=spent), text)

    try:
        run(hours)
    except ConfigError as error:
        stated = re.fullmatch(rf"--hours={hours:g} \(.*\) is too short: .*; take ([0-9.e+]+) or more", str(error))
        assert stated, error
        assert float(stated[1]) > hours
        run(float(stated[1]))


def test_no_time_is_left_after_a_slow_look_at_the_text() -> None:
    request = Request(name="name", sources=["/text"], speed=machine(), hours=0.1, given={}, spent=300.0)
    with pytest.raises(ConfigError, match=r"measuring this machine \(.* until now\)"):
        choose(request, found(500_000, request.speed, 0.1))


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """An ordinary folder: text, a table, a chat, and files that are not text."""
    folder = write_texts(tmp_path / "मराठी texts")
    (folder / "sheet.csv").write_text("question,answer\n" + "What is this?,A table of questions.\n" * 3, encoding="utf-8")
    chat = [{"messages": [{"role": "user", "content": f"Hello {n}"}, {"role": "assistant", "content": "Good day."}]} for n in range(5)]
    (folder / "chat.json").write_text(json.dumps(chat), encoding="utf-8")
    (folder / "photo.png").write_bytes(b"\x89PNG\r\n" + bytes(500))
    (folder / "sound.mp3").write_bytes(bytes(500))
    (folder / ".hidden").write_text("x")
    (folder / "empty.txt").write_text("")
    return folder


def test_the_survey_is_what_the_data_stage_finds(messy: Path, tmp_path: Path) -> None:
    config = DataConfig.model_validate({"sources": [str(messy)], "val_tokens": 600})
    seen = survey(config, 42, SilentProgress())
    report = prepare_data(config, 42, tmp_path / "data", SilentProgress())
    kept = report["train"]["characters"] + report["validation"]["characters"]
    assert seen.complete
    assert seen.characters == pytest.approx(kept, rel=0.05)
    assert {item.name.rpartition("/")[2] for item in seen.skipped} >= {"photo.png", "sound.mp3", ".hidden"}
    assert set(seen.languages) >= {"en", "mr"} and 0 < seen.conversations < 1


def test_a_sample_is_projected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulletlm.data.survey.SAMPLE_BYTES", 3_000_000)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} sentence number {n} is a line of text.\n" for n in range(80_000)))
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    seen = survey(DataConfig.model_validate({"sources": [str(tmp_path)]}), 42, SilentProgress())
    assert not seen.complete
    assert seen.characters == pytest.approx(total, rel=0.05)


def test_a_share_of_a_source_is_read(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("".join(f"Sentence number {n} is a line of this text.\n\n" for n in range(200_000)))
    sizes = []
    for share in (1.0, 0.5):
        config = DataConfig.model_validate({"sources": [{"path": str(tmp_path / "long.txt"), "share": share}]})
        report = prepare_data(config, 42, tmp_path / f"data-{share}", SilentProgress())
        sizes.append(report["train"]["characters"])
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.15)


@pytest.mark.parametrize("content", ["", "Only a few words.\n"])
def test_too_little_text_says_what_would_help(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(content)
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"too little to train a model: add text; .*a megabyte.*not read: .*photo.png"):
        look_at_text([str(tmp_path)], {}, 42, SilentProgress())


def test_text_that_cleaning_leaves_out_is_named_with_the_setting_that_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("".join(f"Line {number} of the notes.\n" for number in range(400)))
    for number in range(3):
        (tmp_path / f"photo{number}.png").write_bytes(b"\x89PNG")
    (tmp_path / "scan.pdf").write_bytes(b"%PDF-1.4\nbroken")
    with pytest.raises(DataError, match=r"cleaning left out [\d,]+ characters as too_short: .*scan\.pdf") as caught:
        look_at_text([str(tmp_path)], {"data.clean.min_chars": 50}, 42, SilentProgress())
    found = re.search(r"\(to keep it: --(data\.clean\.\w+)=(\d+)\)", str(caught.value))
    assert found, caught.value
    assert look_at_text([str(tmp_path)], {found[1]: int(found[2])}, 42, SilentProgress()).characters > 5_000


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        look_at_text([str(tmp_path)], {}, 42, SilentProgress())
    assert "data.sources" not in str(caught.value).partition(":")[0] and "\n" not in str(caught.value)


def test_from_folder_to_report(messy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe alone makes the model; the same words go on with it; an edited one is not replaced."""
    monkeypatch.chdir(tmp_path)
    flags = ["--total-steps=12", "--evaluate.samples=1", "--max-new-tokens=8", "--dim=32", "--layers=1", "--heads=1"]
    run = text_run([str(messy)], flags, None)
    assert run.name == "मराठी texts"
    text = learn_vocabulary(look_at_text(run.sources, {}, 42, SilentProgress()), 600, 42, SilentProgress())
    request = Request(name=run.name, sources=run.sources, speed=machine(), hours=0.25, given=run.given)
    write_recipe(run, choose(request, text))
    assert f"bullet run {shlex.quote(str(run.recipe))}\n" in run.recipe.read_text(encoding="utf-8"), "the name has a space"
    config = load_config(run.recipe)
    assert config.train.total_steps == 12 and config.model.n_layers == 1
    assert config.data.sources[0].path == str(messy)
    folder = run_stages(config, "evaluate", SilentProgress()).folder
    assert (folder / "report.html").is_file() and folder.resolve() == run.folder.resolve()
    assert existing_recipe(text_run([str(messy)], [], None), restart=False) == run.recipe
    with pytest.raises(ConfigError, match=r"other settings.*--restart"):
        existing_recipe(text_run([str(messy)], [], 3), restart=False)
    assert existing_recipe(text_run([str(messy)], [], 3), restart=True) is None
    assert existing_recipe(text_run([str(messy)], [], None, max_mb=1), restart=True) is None
    run.recipe.write_text(run.recipe.read_text() + "// mine\n")
    assert existing_recipe(text_run([str(messy)], [], None), restart=False) == run.recipe
    with pytest.raises(ConfigError, match="was edited"):
        existing_recipe(text_run([str(messy)], [], None), restart=True)
    other = tmp_path / "other" / messy.name
    other.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"run of other text: .*--name=.* add the text to data.sources in .*recipe.jsonc"):
        existing_recipe(text_run([str(other)], [], None), restart=False)


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_kill_while_the_recipe_is_written_does_not_block_the_run(written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill after any number of written files: the same command then chooses again or continues, in a first run and in a later one."""

    class Killed(BaseException):
        pass

    def limited(write: Any) -> Any:
        def call(*arguments: Any) -> None:
            if len(done) == written:
                raise Killed
            write(*arguments)
            done.append(1)

        return call

    choice = Choice(values={"name": "a"}, why={}, lines=[], notes=[], seconds={}, facts={})
    longer = replace(choice, values={"name": "a", "seed": 7})
    run, later = (TextRun("a", tmp_path, ["/text"], {}, hours) for hours in (1.0, 2.0))
    for wanted, chosen, restart in ((run, choice, False), (later, longer, True)):
        with monkeypatch.context() as patched:
            done: list[int] = []
            patched.setattr(recipe, "write_json", limited(recipe.write_json))
            patched.setattr(recipe, "write_text", limited(recipe.write_text))
            with pytest.raises(Killed):
                write_recipe(wanted, chosen)
        found = existing_recipe(wanted, restart=restart)
        assert found is None or (not restart and load_config(found).seed == 42)
        write_recipe(wanted, chosen)
        assert existing_recipe(wanted, restart=False) == wanted.recipe
    assert load_config(run.recipe).seed == 7
    run.recipe.write_text(run.recipe.read_text() + "// mine\n")
    with pytest.raises(ConfigError, match="was edited"):
        existing_recipe(run, restart=True)


def test_a_run_of_a_configuration_is_not_taken_over(tmp_path: Path) -> None:
    run = TextRun("demo", tmp_path, ["/text"], {}, None)
    run.folder.mkdir()
    (run.folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"run of another configuration: .*--name=demo-2"):
        existing_recipe(run, restart=False)


@pytest.mark.parametrize(
    ("content", "configuration"),
    [
        ('{"vocab_size": 2000, "train": {"lr": 1e-3}}', True),
        ('{"model": {"dim": 64}, "recorded": {}}', True),
        ('{"name": "group", "type": "chat", "messages": []}', False),
        ('{"data": [1, 2]}', False),
        ('{"train": {"epoch_count": 3}}', False),
        ("{}", False),
        ("[1, 2]", False),
        ('{"messages": [{"role": "user", "content": "hello"}]}', False),
        ("not json", False),
    ],
)
def test_what_is_a_configuration(content: str, configuration: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    assert (find_configuration([str(path)]) == path) == configuration


def test_a_misspelled_configuration_says_why_it_is_text(tmp_path: Path) -> None:
    (tmp_path / "typo.json").write_text('{"vocab_size": 2000, "layrs": 2}')
    (tmp_path / "chat.json").write_text('{"messages": []}')
    assert "layrs is not a setting" in str(almost_a_configuration([str(tmp_path / "typo.json")]))
    assert almost_a_configuration([str(tmp_path / "chat.json")]) is None


def test_paths_and_settings(tmp_path: Path, micro_run: Path) -> None:
    assert split_words(["a", "b", "--lr", "3e-4"], "run") == (["a", "b"], ["--lr", "3e-4"])
    with pytest.raises(ConfigError, match="requires an argument"):
        split_words(["--lr=1"], "run")
    assert find_configuration([str(micro_run)]) == micro_run / "config.json", "the folder of a run goes on"
    recipe = tmp_path / "r.jsonc"
    recipe.write_text("{}")
    with pytest.raises(ConfigError, match="comes alone"):
        find_configuration([str(tmp_path), str(recipe)])
    with pytest.raises(ConfigError, match="there is no file or folder"):
        text_run([str(tmp_path / "gone")], [], None)
    with pytest.raises(ConfigError, match="--hours=0: must be more than 0"):
        text_run([str(tmp_path)], [], 0)


def test_a_configuration_without_text_offers_both_ways() -> None:
    with pytest.raises(ConfigError, match=r"names no text: .*data.sources=\[FOLDER\].*bullet run FOLDER"):
        require_sources(load_config(None, ["--layers=2"]))
    require_sources(load_config(None, ["--set", "data.sources=[sample]"]))


def test_absurd_shapes_are_refused_with_the_memory_they_need() -> None:
    config = load_config(None, ["--dim=8192", "--layers=16", "--heads=64", "--vocab-size=4000"])
    shape = config.model.shape(4000)
    with pytest.raises(
        ConfigError, match=rf"needs {training_bytes(shape, config.train) / 1e9:,.0f} GB of memory to train, and there are 8 GB"
    ):
        refuse_too_large(shape, config.train, memory=8_000_000_000)
    refuse_too_large(shape, config.train, memory=10**15)


@pytest.mark.parametrize(
    ("worse", "loss", "training", "named"),
    [(0, 3.0, 1.0, False), (1, 3.001, 1.0, False), (1, 3.1, 1.0, True), (2, 3.001, 1.0, True), (2, 3.5, 3.4, False)],
)
def test_over_fitting_is_named_when_validation_turns_up(worse: int, loss: float, training: float, named: bool) -> None:
    position = TrainPosition(step=90, best_step=60, best_loss=3.0, worse_in_a_row=worse, recent_losses=[training] * 20)
    line = overfitting(position, loss, epochs=1.5)
    assert (line is not None) == named
    assert overfitting(position, loss, epochs=1.0) is None, "text that was read once is not learned by heart"
    if line:
        assert "step 60" in line and "\n" not in line
