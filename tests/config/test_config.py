"""Tests the configuration: the JSON and flags of the requirements work unchanged; names, errors and resolution are right."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.config.loader import load_config, settings
from bulletlm.config.recipes import RECIPES, find_recipe, recipe_names
from bulletlm.config.schema import Config
from bulletlm.config.starter import settings_table, starter_config
from bulletlm.data.sources import EMBEDDED
from bulletlm.errors import ConfigError
from paths import ROOT

# Both are unchanged from the project's first requirements.
CHECKLIST_JSON = """{
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
"""
CHECKLIST_FLAGS = (
    "--vocab_size=4000 --dim=256 --layers=8 --heads=4 --seq_len=128 "
    "--lr=5e-4 --warmup=1000 --sched=cosine --batch=8 --grad-accum=8 "
    "--weight-decay=0.01 --clip=1.0 --epochs=3 --ema=0.999"
).split()


def write(folder: Path, text: str, name: str = "my.jsonc") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_checklist_json_is_accepted_as_it_stands(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, CHECKLIST_JSON))
    assert (config.tokenizer.vocab_size, config.model.dim, config.model.n_heads, config.model.n_layers) == (4000, 256, 4, 8)
    assert config.model.max_seq_len == 128
    train = config.train
    assert (train.learning_rate, train.weight_decay, train.betas, train.eps) == (5e-4, 0.01, (0.9, 0.95), 1e-8)
    assert (train.warmup_steps, train.total_steps, train.scheduler, train.epochs) == (1000, 120000, "cosine", 3)
    assert (train.batch_size_per_device, train.gradient_accumulation_steps) == (8, 8)
    assert (train.clip_grad_norm, train.save_every_steps, train.eval_every_steps, train.patience_early_stop) == (1.0, 2500, 1000, 5)
    assert config.seed == 42
    assert config.name == "my"


@pytest.mark.parametrize("spelling", [lambda f: f, lambda f: f.replace("_", "-"), lambda f: "--" + f[2:].replace("-", "_", 2)])
@pytest.mark.parametrize("separate", [False, True])
def test_checklist_flags_are_accepted_as_they_stand(spelling, separate) -> None:
    flags = []
    for flag in CHECKLIST_FLAGS:
        name, value = flag.split("=")
        flags += [spelling(name), value] if separate else [f"{spelling(name)}={value}"]
    config = load_config(None, flags)
    assert (config.tokenizer.vocab_size, config.model.dim, config.model.n_layers, config.model.n_heads) == (4000, 256, 8, 4)
    train = config.train
    assert (config.model.max_seq_len, train.learning_rate, train.warmup_steps, train.scheduler) == (128, 5e-4, 1000, "cosine")
    assert (train.batch_size_per_device, train.gradient_accumulation_steps, train.weight_decay) == (8, 8, 0.01)
    assert (train.clip_grad_norm, train.epochs, train.total_steps, train.ema_decay) == (1.0, 3, None, 0.999)


def test_seed_recipe_holds_the_checklist(tmp_path: Path) -> None:
    assert load_config("seed") == load_config(write(tmp_path, CHECKLIST_JSON, "seed.jsonc"))
    shape = load_config("seed").model.shape(4000)
    assert shape.n_parameters == 9_416_960


def test_every_recipe_loads() -> None:
    assert {"demo", "quick", "seed"} <= set(recipe_names())
    for name in recipe_names():
        assert load_config(name).name == load_config(f"recipes/{name}.jsonc").name == name


def test_the_demo_needs_no_text_outside_of_the_package() -> None:
    assert {source.path for source in load_config("demo").data.sources} <= set(EMBEDDED)


def test_a_file_that_exists_wins_over_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe("demo") == find_recipe("recipes/demo.jsonc") == RECIPES / "demo.jsonc"
    for name in ("demo/", "recipes/demo.jsonc"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text('{"dim": 64}')
        assert find_recipe(name) is None
    assert load_config("recipes/demo.jsonc").model.dim == 64
    for other in ("texts/demo", "demo.txt", "../recipes/demo.jsonc", "nothing", "", "/demo"):
        assert find_recipe(other) is None


def test_resolved_configuration_reproduces_itself(tmp_path: Path) -> None:
    config = load_config(None, [*CHECKLIST_FLAGS, "--set", "data.sources=[a, b.txt]", "--name=x"])
    saved = {**config.model_dump(mode="json"), "recorded": {"anything": 1}}
    assert load_config(write(tmp_path, json.dumps(saved), "config.json")) == config


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, CHECKLIST_JSON), ["--layers=2", "--layers", "3"]).model.n_layers == 3


def test_sources_in_every_form() -> None:
    for text in (
        "--set data.sources=[../my data/a.txt,b]",
        '--set data.sources=["../my data/a.txt", "b"]',
        "--sources=[../my data/a.txt, b]",
    ):
        flag, _, value = text.partition(" ") if text.startswith("--set") else (text, "", "")
        words = [flag, value] if value else [flag]
        assert [source.path for source in load_config(None, words).data.sources] == ["../my data/a.txt", "b"]
    assert [source.path for source in load_config(None, ["--set", "data.sources=texts"]).data.sources] == ["texts"]


def test_a_short_name_means_the_setting_nearest_to_the_top() -> None:
    config = load_config(None, ["--temperature=0.25", "--seed=7"])
    assert (config.sampling.temperature, config.seed) == (0.25, 7)


def test_neither_epochs_nor_steps_leaves_the_length_to_the_text() -> None:
    assert load_config(None).train.epochs is None
    assert load_config(None, ["--total-steps=10"]).train.epochs is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--laers=8"], "did you mean --layers?"),
        (["--train.lerning_rate=1"], "did you mean --train.learning_rate?"),
        (["--train.foo=1"], "unknown setting --train.foo: `bullet config` lists all names"),
        (["--train.vocab_size=9"], "did you mean --tokenizer.vocab_size?"),
        (["--data.clean.languges=[mr]"], "did you mean --data.clean.languages?"),
        (["--modle.dim=64"], "did you mean --model.dim?"),
        (["--trainn=3"], "unknown setting --trainn: "),
        (["--dim=100"], "dim 100 is not divisible by 32, the quantization block: try 96"),
        (["--heads=5"], "dim 256 is not divisible by n_heads 5: try 4 heads"),
        (["--kv-heads=3"], "n_heads 4 is not divisible by n_kv_heads 3"),
        (["--lr=-1"], "train.learning_rate"),
        (["--lr=fast"], "train.learning_rate"),
        (["--lr=nan"], "train.learning_rate"),
        (["--epochs"], "--epochs needs a value"),
        (["--set", "epochs"], "NAME=VALUE"),
        (["layers=8"], "unexpected layers=8"),
        (["--name=../x"], "name"),
        (["--name=.."], "name"),
        (["--set", "data.sources=[]"], "data.sources"),
        (["--betas=[0.9]"], "train.betas"),
        (["--languages=[mr]"], "--languages is ambiguous: use --data.clean.languages or --data.mix.languages"),
        (["--zzqq=1"], "`bullet config` lists all names"),
    ],
)
def test_wrong_flags_are_one_clear_line(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_config(None, flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"dim": 256, "dim": 128}', "dim"),
        ('{"dim": 256, "model": {"dim": 128}}', "model.dim is given twice"),
        ('{"lr": 1e-3, "learning_rate": 1e-3}', "given twice"),
        ('{"dimm": 256}', "did you mean dim?"),
        ('{"modle": {"dim": 256}}', "did you mean model?"),
        ('{"model": {"dimm": 256}}', "did you mean model.dim?"),
        ('{"model": 3}', "model"),
        ("[1, 2]", "must hold one JSON object"),
        ('{"dim": }', "not valid JSON"),
        ("", "not valid JSON"),
        ('{"data": {"sources": [{"path": "a", "lang": "mr"}]}}', "lang"),
    ],
)
def test_wrong_files_are_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "my.jsonc" in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        load_config(tmp_path / "missing.jsonc")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)
    (tmp_path / "binary.jsonc").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "binary.jsonc")


@given(st.text(max_size=60))
def test_arbitrary_text_is_either_a_configuration_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = write(tmp_path_factory.mktemp("config"), text.encode("utf-8", "replace").decode())
    try:
        load_config(path)
    except ConfigError as error:
        assert "\n" not in str(error)


@given(st.lists(st.tuples(st.sampled_from([s.path for s in settings()]), st.text(max_size=8)), max_size=3))
def test_arbitrary_values_are_either_accepted_or_a_config_error(pairs: list[tuple[str, str]]) -> None:
    try:
        load_config(None, [f"--{name}={value}" for name, value in pairs])
    except ConfigError as error:
        assert "\n" not in str(error)


@given(
    dim=st.integers(1, 40).map(lambda n: 32 * n),
    layers=st.integers(1, 40),
    vocab=st.integers(400, 9000),
    lr=st.floats(1e-6, 1e-1),
    epochs=st.floats(0.1, 100),
)
def test_any_valid_configuration_survives_saving(dim: int, layers: int, vocab: int, lr: float, epochs: float) -> None:
    config = load_config(
        None, [f"--dim={dim}", "--heads=1", f"--layers={layers}", f"--vocab-size={vocab}", f"--lr={lr}", f"--epochs={epochs}"]
    )
    assert Config.model_validate_json(config.model_dump_json()) == config
    assert (config.model.dim, config.train.learning_rate, config.train.epochs) == (dim, lr, epochs)


def test_every_setting_has_a_sentence_and_a_unique_path() -> None:
    paths = [setting.path for setting in settings()]
    assert len(set(paths)) == len(paths)
    for setting in settings():
        assert setting.description.endswith("."), setting.path


def test_starter_configuration_is_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, starter_config("fresh"), "fresh.jsonc")
    started, defaults = load_config(path), load_config(None, ["--name=fresh"])
    assert started == defaults


def test_settings_page_is_up_to_date() -> None:
    assert settings_table() in (ROOT / "docs/settings.md").read_text(encoding="utf-8"), "run `make docs`"
