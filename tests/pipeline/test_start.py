"""Runs that start from an existing model: every kind of source, what is refused, where the new file says it is from, and the report."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.cli.app import main
from bulletlm.cli.output import print_info
from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config
from bulletlm.errors import BulletError, ConfigError, FormatError, Interrupted
from bulletlm.files import read_json, sha256_of_file
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.chat_marks import MARKS
from bulletlm.formats.convert import ConvertOptions, convert, read_model
from bulletlm.formats.npy import read_npy, write_npy
from bulletlm.formats.packaged import packaged_model
from bulletlm.formats.provenance import tokens_seen
from bulletlm.pipeline.recipe import text_run
from bulletlm.pipeline.runner import finish_run, run_stages
from bulletlm.pipeline.start import locate, read_parent, resolve
from bulletlm.progress import SilentProgress
from bulletlm.text.sentencepiece_proto import _field, _fields
from bulletlm.text.sentencepiece_rules import pieces_without_marks
from bulletlm.text.tokenizer import FIRST_PIECE, USER, Tokenizer
from bulletlm.text.train_tokenizer import model_of_pieces
from paths import SAMPLE_CORPUS

CHILD = {
    "total_steps": 20,
    "batch": 8,
    "eval_every": 10,
    "save_every": 5,
    "lr": 3e-3,
    "threads": 1,
    "precision": "fp32",
    "license": "CC0-1.0",
    "qat": {"steps": 0},
    "sampling": {"max_tokens": 8},
}


class Listening(SilentProgress):
    """Records the messages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def log(self, text: str, level: str = "info") -> None:
        if level != "debug":
            self.said.append(text)


def write_child(folder: Path, start: object, **changes: Any) -> Path:
    """A configuration of a short run on other text than that of `micro_run`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = (SAMPLE_CORPUS / "thoughts.en.txt").read_text(encoding="utf-8").splitlines(keepends=True)[:120]
    (folder / "thoughts.txt").write_text("".join(text), encoding="utf-8")
    data = {"sources": [str(folder / "thoughts.txt")], "val_tokens": 600, "mix": {"general": 0}}
    values = {**CHILD, "data": data, "start_from": str(start), "runs_dir": str(folder / "runs"), **changes}
    (folder / "child.jsonc").write_text(json.dumps(values), encoding="utf-8")
    return folder / "child.jsonc"


def run(path: Path, *flags: str, until: str = "evaluate", restart: bool = False) -> tuple[Config, list[str]]:
    progress = Listening()
    return run_stages(load_config(path, flags), until, progress, restart=restart).config, progress.said


@pytest.fixture(scope="session")
def child(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished run from the finished run `micro_run`."""
    folder = tmp_path_factory.mktemp("child")
    return run(write_child(folder, micro_run, evaluate={"also": [str(SAMPLE_CORPUS / "stories.mr.txt")]}))[0]


@pytest.fixture(scope="session")
def exports(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The weights of `micro_run` in every form that can be named."""
    folder = tmp_path_factory.mktemp("exports")
    npy = micro_run / "export" / "npy"
    convert(npy, folder / "exact.bullet", ConvertOptions(quant="F32"))
    convert(npy, folder / "exact.gguf")
    convert(npy, folder / "exact-hf")
    return {
        "run": micro_run,
        "npy": npy,
        "checkpoint": micro_run / "checkpoints" / "best",
        "bullet": folder / "exact.bullet",
        "gguf": folder / "exact.gguf",
        "hf": folder / "exact-hf",
    }


@pytest.mark.parametrize("kind", ["run", "npy", "checkpoint", "bullet", "gguf", "hf"])
def test_every_kind_of_source_gives_the_same_weights(kind: str, exports: dict[str, Path], micro_run: Path) -> None:
    shape, tensors, proto, _ = read_npy(micro_run / "export" / "npy")
    parent = read_parent(str(exports[kind]))
    assert parent.shape == shape and parent.tokenizer_proto == proto
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(parent.tensors[name], tensor, err_msg=name)
    assert parent.sha256 == read_parent(str(micro_run)).sha256
    assert (parent.name, parent.parents[0]["license"]) == ("micro", "unspecified")
    if kind != "gguf":
        assert set(parent.parents[0]["languages"]) == {"en", "mr"}


def test_a_four_bit_file_is_dequantized(micro_run: Path) -> None:
    parent, file = read_parent(str(micro_run / "model.bullet")), open_bullet(micro_run / "model.bullet")
    for name in file.tensors:
        np.testing.assert_array_equal(parent.tensors[name], file.dequantize(name))
    assert parent.parents[0]["file_sha256"] == sha256_of_file(micro_run / "model.bullet")


def test_a_step_of_a_run_is_a_source(micro_run: Path) -> None:
    newest = sorted((micro_run / "checkpoints").glob("step-*"))[-1]
    assert read_parent(str(newest)).shape == read_npy(micro_run / "export" / "npy")[0]


def test_a_run_without_export_and_best_starts_from_its_newest_intact_step(micro_run: Path, tmp_path: Path) -> None:
    """Not from a damaged checkpoint that was put aside, or from the 999,999th step instead of the millionth."""
    run = tmp_path / "micro"
    shutil.copytree(micro_run, run, ignore=shutil.ignore_patterns("export", "best"))
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    expected = read_parent(str(newest)).sha256
    newest.rename(newest.with_name("step-1000000"))
    for name in ("step-999999", "step-1000001.damaged"):
        (run / "checkpoints" / name).mkdir()
        (run / "checkpoints" / name / "state.json").write_text("{}")
    assert read_parent(str(run)).sha256 == expected


def test_shape_tokenizer_and_weights_are_those_of_the_source(child: Config, micro_run: Path) -> None:
    for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim", "max_seq_len"):
        assert getattr(child.model, name) == read_json(micro_run / "config.json")["model"][name]
    tokenizer = (child.run_dir / "tokenizer" / "tokenizer.model").read_bytes()
    assert tokenizer == (micro_run / "tokenizer" / "tokenizer.model").read_bytes()
    events = [json.loads(line) for line in (child.run_dir / "metrics.jsonl").read_text().splitlines()]
    first, *later = [event for event in events if event["event"] == "eval"]
    assert first["step"] == 0 and first["val/loss"] < 0.9 * np.log(700)  # random weights would be at log(700)
    assert min(event["val/loss"] for event in later) < first["val/loss"]


def test_the_report_compares_three(child: Config, micro_run: Path) -> None:
    report = read_json(child.run_dir / "report.json")
    origin = report["origin"]
    assert origin["name"] == "micro"
    new, old = origin["texts"]
    assert new["fp32"]["loss"] == pytest.approx(report["fp32"]["loss"], abs=1e-4)
    assert new["bq4"]["bits_per_byte"] < new["parent"]["bits_per_byte"]
    assert old["text"] == "text 1" and old["tokens"] > 5_000  # file names stay on this computer
    assert old["bq4"]["bits_per_byte"] > old["parent"]["bits_per_byte"], "training on English only made its Marathi better"
    page = (child.run_dir / "report.html").read_text(encoding="utf-8")
    assert "Against the model it started from" in page and "text 1" in page
    assert any("text 1" in sentence and "forgotten" in sentence for sentence in report["verdict"])


def test_the_file_says_where_it_is_from(child: Config, micro_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = open_bullet(child.run_dir / "model.bullet").metadata
    assert header["license"] == "CC0-1.0; based on micro (unspecified)"
    (parent,) = header["parents"]
    assert parent["name"] == "micro" and parent["sha256"] == read_parent(str(micro_run)).sha256
    assert [source["sha256"] for source in parent["sources"]] == [
        source["sha256"] for source in read_json(micro_run / "config.json")["recorded"]["sources"]
    ]
    assert str(micro_run) not in json.dumps(header["parents"])
    print_info(child.run_dir / "model.bullet", tensors=False, as_json=False)
    assert "started from  micro, licence unspecified" in capsys.readouterr().out


def test_a_chain_of_three_keeps_every_licence(child: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, _ = run(write_child(tmp_path, child.run_dir / "model.bullet", license="MIT", total_steps=2), until="build")
    header = open_bullet(config.run_dir / "model.bullet").metadata
    assert [entry["name"] for entry in header["parents"]] == ["child", "micro"]
    assert header["license"] == "MIT; based on child (CC0-1.0; based on micro (unspecified))"
    print_info(config.run_dir / "model.bullet", tensors=False, as_json=False)
    assert len([line for line in capsys.readouterr().out.splitlines() if "licence" in line and "parameters" in line]) == 2


def test_nothing_is_done_twice_and_the_source_may_go(child: Config, micro_run: Path, tmp_path: Path) -> None:
    source = tmp_path / "base.bullet"
    shutil.copy(micro_run / "model.bullet", source)
    path = write_child(tmp_path, source, total_steps=4)
    config, said = run(path)
    assert any(line.startswith("start: micro, 0.") for line in said)
    weights = sha256_of_file(config.run_dir / "model.bullet")
    stages = ["Start", "Data", "Tokenizer", "Tokens", "Training", "Export", "QAT", "Build", "Evaluation"]
    assert run(path)[1] == [f"{stage}: up to date" for stage in stages]
    source.unlink()
    note, *rest = run(path)[1]
    assert "no longer exists; the copy in" in note and rest == [f"{stage}: up to date" for stage in stages]
    (config.run_dir / "model.bullet").unlink()
    finish_run(config.run_dir, [], SilentProgress())
    assert sha256_of_file(config.run_dir / "model.bullet") == weights
    shutil.copy(child.run_dir / "model.bullet", source)  # another model at the same place
    with pytest.raises(ConfigError, match=r"other settings.*the model that it starts from.*--restart"):
        run(path)


class StopAt(SilentProgress):
    """Sends SIGTERM to this process when the training bar reaches a step."""

    def __init__(self, step: int) -> None:
        self.left = step

    def task(self, title: str, total: float | None) -> Any:
        return super().task(title, total) if title != "Training" else _Counted(self)


class _Counted:
    def __init__(self, owner: StopAt) -> None:
        self.owner = owner

    def __enter__(self) -> "_Counted":
        return self

    def __exit__(self, *_: object) -> None: ...

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.owner.left -= int(amount)
        if self.owner.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stopped_run_continues_with_the_same_bytes(child: Config, micro_run: Path, tmp_path: Path) -> None:
    path = write_child(tmp_path, micro_run)
    with pytest.raises(Interrupted):
        run_stages(load_config(path), "train", StopAt(7))
    config, _ = run(path, until="train")
    best = "checkpoints/best/model.safetensors"
    assert sha256_of_file(config.run_dir / best) == sha256_of_file(child.run_dir / best)


def test_weights_that_training_does_not_improve_stay(micro_run: Path, tmp_path: Path) -> None:
    config, said = run(write_child(tmp_path, micro_run, lr=0.2, spike_threshold=0, total_steps=10), until="export")
    assert sum(line.startswith("no step was better than the model from which the run started") for line in said) == 1
    assert read_json(config.run_dir / "checkpoints" / "best" / "state.json")["step"] == 0
    for name, tensor in read_npy(micro_run / "export" / "npy")[1].items():
        np.testing.assert_array_equal(read_npy(config.run_dir / "export" / "npy")[1][name], tensor)


def test_qat_and_calibration_work_as_for_a_fresh_run(micro_run: Path, tmp_path: Path) -> None:
    config, _ = run(write_child(tmp_path, micro_run, total_steps=4, qat={"steps": 4}), until="build")
    header = open_bullet(config.run_dir / "model.bullet").metadata
    assert header["quantised"]["qat"]["steps"] == 4
    assert header["quantised"]["method"] == "gptq"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--dim=128", r"model.dim is 128, but .*micro, from which this run starts, has 64: leave model.dim out"),
        ("--layers=3", r"model.n_layers is 3, but .* has 2"),
        ("--kv-heads=4", r"model.n_kv_heads is 4, but .* has 2"),
        ("--rope-theta=5000", r"model.rope_theta is 5000.0, but .* has 10000.0"),
        ("--vocab-size=800", r"tokenizer.vocab_size is 800, but .* has 700"),
        ("--keep=layers.7.*=BQ8", r"layers\.7"),
    ],
)
def test_settings_that_contradict_the_source_are_refused(flag: str, message: str, micro_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run(write_child(tmp_path, micro_run), flag)
    assert not (tmp_path / "runs").exists()


def test_the_resolved_configuration_has_the_shape_of_the_source(
    micro_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`bullet config` prints what a run would do, and refuses what a run would refuse."""
    path = write_child(tmp_path, micro_run)
    with pytest.raises(SystemExit, match="0"):
        main(["config", str(path)])
    printed = capsys.readouterr().out
    resolved, parent = resolve(load_config(path), SilentProgress())
    assert parent and f"// parameters       {parent.shape.n_parameters:,}\n" in printed
    values = json.loads(printed.partition("\n//")[0])
    assert values == resolved.model_dump(mode="json")
    with pytest.raises(SystemExit):
        main(["config", str(path), "--dim=128"])
    assert "from which this run starts" in capsys.readouterr().err


def test_settings_that_agree_are_accepted(micro_run: Path, tmp_path: Path) -> None:
    config = load_config(write_child(tmp_path, micro_run), ["--dim=64", "--vocab-size=700", "--kv-heads=2"])
    resolved, parent = resolve(config, SilentProgress())
    assert parent and resolved.model.shape(resolved.tokenizer.vocab_size) == parent.shape
    assert load_config(write_child(tmp_path, "none")).model.start_from is None


@pytest.mark.parametrize(("length", "word"), [(64, "longer"), (16, "shorter")])
def test_the_context_may_differ(length: int, word: str, micro_run: Path, tmp_path: Path) -> None:
    config, said = run(write_child(tmp_path, micro_run, seq_len=length, total_steps=3))
    assert any(f"context of {length} tokens is {word} than the 32" in line for line in said)
    assert open_bullet(config.run_dir / "model.bullet").shape.max_seq_len == length
    assert read_json(config.run_dir / "report.json")["origin"]["texts"][0]["parent"]["loss"] > 0


def test_settings_that_are_not_given_are_those_of_fine_tuning(micro_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.jsonc"
    path.write_text(json.dumps({"from": str(micro_run), "data": {"sources": ["x.txt"]}, "lr": 1e-3}), encoding="utf-8")
    resolved, _ = resolve(load_config(path), SilentProgress())
    plain = Config().train
    assert resolved.train.learning_rate == 1e-3
    assert resolved.train.warmup_steps < plain.warmup_steps and resolved.train.epochs is not None
    assert resolved.data.mix.general, "the general text suits a model of Marathi and English"
    given_steps, _ = resolve(load_config(path, ["--total-steps=7", "--set", "data.mix.general=0"]), SilentProgress())
    assert given_steps.train.epochs is None and not given_steps.data.mix.general


def test_a_run_with_the_name_of_a_packaged_model_starts_from_that_model(tmp_path: Path) -> None:
    """Also when it continues, and its own folder has this name."""
    name = "marathi-english"
    own = tmp_path / "runs" / name
    own.mkdir(parents=True)
    assert locate(name, str(own.parent), own) == packaged_model(name)
    assert locate(name, str(own.parent), own.parent / "other") == own
    config = load_config(write_child(tmp_path, name, name=name), ["--set", "model.max_seq_len=128"])
    assert config.run_dir == own
    resolved, parent = resolve(config, SilentProgress())
    assert parent and parent.metadata["name"] == name and resolved.model.dim == parent.shape.dim


def test_text_of_an_unknown_language_is_no_language_of_a_model(micro_run: Path) -> None:
    assert replace(read_parent(str(micro_run)), metadata={"languages": ["en", "und"]}).languages == ["en"]


def test_the_name_of_a_run_is_a_source(micro_run: Path) -> None:
    assert read_parent("micro", str(micro_run.parent)).sha256 == read_parent(str(micro_run)).sha256


def test_what_is_not_a_model_to_start_from_is_named(micro_run: Path, tmp_path: Path, exports: dict[str, Path]) -> None:
    with pytest.raises(
        ConfigError, match=r"model.start_from: there is no nowhere.bullet: give a .bullet or .gguf file, a run, a checkpoint"
    ):
        read_parent("nowhere.bullet")
    lone = tmp_path / "best"
    shutil.copytree(micro_run / "checkpoints" / "best", lone)
    with pytest.raises(ConfigError, match=r"is a checkpoint, and config.json of its run is not at"):
        read_parent(str(lone))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BulletError, match=r"model.start_from: .*empty"):
        read_parent(str(tmp_path / "empty"))
    untrained = tmp_path / "untrained"
    untrained.mkdir()
    shutil.copy(micro_run / "config.json", untrained)
    with pytest.raises(ConfigError, match=r"is a run without a trained model"):
        read_parent(str(untrained))
    other = tmp_path / "gpt2"
    shutil.copytree(exports["hf"], other)
    config = read_json(other / "config.json")
    (other / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(FormatError, match=r'model_type is "gpt2": only "llama" is supported; the nearest that works is'):
        read_parent(str(other))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_with_weights_that_are_not_numbers_is_refused(value: float, micro_run: Path, tmp_path: Path) -> None:
    shape, tensors, proto, metadata = read_npy(micro_run / "export" / "npy")
    write_npy(tmp_path / "npy", shape, tensors, proto, metadata)
    path = tmp_path / "npy" / "layers.1.mlp.up_proj.weight.npy"
    broken = np.load(path)
    broken[3, 5] = value
    np.save(path, broken)
    with pytest.raises(BulletError, match=r"up_proj.* NaN or infinite"):
        run(write_child(tmp_path, tmp_path / "npy"))
    assert not (tmp_path / "runs").exists()


# --- a tokenizer without chat marks ---------------------------------------------------------------------------------------


def without_marks(proto: bytes) -> bytes:
    """A sentencepiece model without its chat marks."""
    out, seen = [], 0
    for number, value in _fields(proto):
        if number == 1:
            seen += 1
            if USER < seen <= USER + MARKS:
                continue
        out.append(_field(number, 2, value))
    return b"".join(out)


@pytest.fixture(scope="session")
def unmarked(exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a model whose tokenizer has no chat marks."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path_factory.mktemp("unmarked") / "hf"
    shutil.copytree(exports["hf"], folder)
    (folder / "tokenizer.model").write_bytes(without_marks((folder / "tokenizer.model").read_bytes()))
    weights = load_file(folder / "model.safetensors")
    name = "model.embed_tokens.weight"
    weights[name] = np.ascontiguousarray(np.delete(weights[name], range(USER, USER + MARKS), axis=0))
    save_file(weights, folder / "model.safetensors")
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] - MARKS}))
    return folder


def test_chat_marks_are_added_with_the_mean_row(unmarked: Path, micro_run: Path, tmp_path: Path) -> None:
    shape, tensors, proto, _ = read_npy(micro_run / "export" / "npy")
    parent = read_parent(str(unmarked))
    assert parent.shape == shape and parent.tokenizer_proto == proto
    embedding, whole = parent.tensors["token_embedding.weight"], tensors["token_embedding.weight"]
    mean = whole[FIRST_PIECE:].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(embedding[USER : USER + MARKS], np.repeat(mean[None], MARKS, axis=0), atol=1e-6)
    np.testing.assert_array_equal(
        np.delete(embedding, range(USER, USER + MARKS), axis=0), np.delete(whole, range(USER, USER + MARKS), axis=0)
    )
    config, said = run(write_child(tmp_path, unmarked, total_steps=2), until="build")
    assert any("its tokenizer has no chat marks" in line for line in said)
    assert open_bullet(config.run_dir / "model.bullet").shape == shape


def test_a_conversion_does_not_add_marks(unmarked: Path) -> None:
    with pytest.raises(FormatError, match="not one of BulletLM"):
        read_model(unmarked)


@pytest.fixture(scope="session")
def both(tiny_tokenizer: Tokenizer) -> tuple[sentencepiece.SentencePieceProcessor, Tokenizer]:
    """A sentencepiece model without chat marks, and the tokenizer that is made of it."""
    proto = without_marks(tiny_tokenizer.proto)
    shorter = sentencepiece.SentencePieceProcessor()
    shorter.LoadFromSerializedProto(proto)
    return shorter, Tokenizer(model_of_pieces(pieces_without_marks(proto)))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=60))
def test_text_has_the_same_tokens_with_and_without_marks(both: tuple[sentencepiece.SentencePieceProcessor, Tokenizer], text: str) -> None:
    shorter, longer = both  # U+2581 itself is spelled in bytes by our tokenizer only
    assert longer.encode(text) == [i if i < USER else i + MARKS for i in shorter.encode(text.encode())]


def test_other_tokenizers_stay_refused(unmarked: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(unmarked, folder)
    content = without_marks(without_marks((folder / "tokenizer.model").read_bytes()))  # the first bytes are missing too
    (folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(FormatError, match="the tokenizer is not one of BulletLM"):
        read_parent(str(folder))


def test_a_folder_of_text_does_not_hide_a_model_of_its_name(micro_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("marathi-english", micro_run.name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("text\n")
    assert locate("marathi-english", str(tmp_path / "runs")) == packaged_model("marathi-english")
    assert locate(micro_run.name, str(micro_run.parent)) == micro_run
    assert locate(micro_run.name, str(tmp_path / "runs")) == Path(micro_run.name), "nothing else has this name: the error says what it is"
    run = text_run([micro_run.name], [f"--from={micro_run.name}", f"--runs-dir={micro_run.parent}", "--name=new"], None)
    assert run.given["model.start_from"] == micro_run.name


def test_a_run_does_not_start_from_what_it_overwrites(micro_run: Path) -> None:
    for inside in (".", "model.bullet", "checkpoints/best"):
        with pytest.raises(ConfigError, match=r"is in the folder of this run, which overwrites it: .*--name=micro-2"):
            read_parent(str(micro_run / inside), own=micro_run)


def test_the_tokens_of_all_trainings_of_a_model_count() -> None:
    parents = [{"name": "second", "tokens_seen": 40}, {"name": "first"}, "damaged", {"tokens_seen": "many"}]
    assert tokens_seen({"training": {"tokens_seen": 28}, "parents": parents}) == 68
    assert tokens_seen({"training": {"tokens_seen": True}, "parents": None}) == tokens_seen({}) == 0
