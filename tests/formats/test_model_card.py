"""Tests model cards: the heading that the hub reads, figures of the right weights, provenance and attribution, hostile metadata."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_model import METADATA, small_model

from bulletlm.cli.app import main
from bulletlm.cli.models import find_model
from bulletlm.errors import DataError
from bulletlm.evaluate.card import card_of
from bulletlm.evaluate.language_models import open_models
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.convert import ConvertOptions, convert
from bulletlm.formats.gguf import write_gguf
from bulletlm.formats.hf import write_hf
from bulletlm.formats.model_card import model_card
from bulletlm.formats.npy import write_npy
from bulletlm.formats.stored import StoredModel, as_floats
from bulletlm.runtime import load

TEXT = [
    {"label": "stories", "license": "CC-BY-4.0", "attribution": "Asha | and others", "dataset": "asha/stories"},
    {"label": "sample", "license": "CC0-1.0", "attribution": "BulletLM"},
]
SOURCES = [{"label": "txt-1", "bytes": 12345, "sha256": "ab" * 32}, {"label": "txt-2", "bytes": 1, "sha256": "cd" * 32}]


def card(**metadata: Any) -> str:
    return model_card(small_model()._replace(metadata={**METADATA, **metadata}))


def heading(text: str) -> dict[str, Any]:
    """The YAML heading; its values are JSON."""
    _, lines, _ = text.split("---\n", 2)
    return {key: json.loads(value) for key, _, value in (line.partition(": ") for line in lines.splitlines())}


def test_the_heading_has_what_the_hub_reads() -> None:
    text = card(training_text=TEXT, training={"val_loss": 2.5, "sources": SOURCES}, languages=["mr", "en", "mr-Latn", "und"])
    found = heading(text)
    assert found["license"] == "cc0-1.0" and found["language"] == ["mr", "en"] and found["datasets"] == ["asha/stories"]
    assert found["metrics"] == ["loss", "perplexity"] and found["library_name"] == "transformers"
    [result] = found["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "perplexity", "value": 12.1825}


def test_the_hub_accepts_the_heading() -> None:
    hub = pytest.importorskip("huggingface_hub")
    text = card(training_text=TEXT, training={"val_loss": 2.5, "sources": SOURCES})
    data = hub.ModelCard(text).data
    assert data.license == "cc0-1.0" and data.language == ["mr", "en"] and data.pipeline_tag == "text-generation"
    assert {result.metric_type for result in data.eval_results} == {"perplexity", "loss"}
    assert hub.metadata_load is not None


def test_every_source_is_attributed_and_listed() -> None:
    text = card(training_text=TEXT, training={"sources": SOURCES})
    assert "| stories | CC-BY-4.0 | Asha \\| and others |" in text and "| sample | CC0-1.0 | BulletLM |" in text
    assert "| txt-1 | 12,345 | `abababababababab` |" in text and "| txt-2 | 1 |" in text
    assert "does not say what the model was trained on" in model_card(small_model()._replace(metadata={}))


def test_the_model_that_it_started_from_is_named() -> None:
    parent = {"name": "someone/base", "license": "MIT"}
    text = card(parents=[parent], license="MIT; based on someone/base (MIT)")
    assert heading(text)["base_model"] == "someone/base" and "trained with BulletLM from the model someone/base" in text
    assert "Started from someone/base, licence: MIT." in text
    assert "base_model" not in heading(card(parents=[{"name": "my own model"}])), "only names of the hub"


def test_private_training_text_is_said_first() -> None:
    text = card(private_messages=True)
    assert text.index("**Trained on private messages") < text.index("| parameters |")
    assert "private messages" not in card()


def test_the_figures_are_those_of_the_weights() -> None:
    rounded = {"val_loss": 3.0, "perplexity_change": 0.0123, "method": "gptq"}
    text = card(quantised=rounded)
    assert "| validation loss | 3.0000 (perplexity 20.09) |" in text and "| against FP32 | perplexity +1.23% |" in text
    assert heading(text)["model-index"][0]["results"][0]["metrics"][1]["value"] == 3.0
    before = card(quantised={"method": "gptq"})
    assert "validation loss of the FP32 model, before rounding | 2.5000" in before and "model-index" not in heading(before)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("name", "license", "languages", "training", "quantised", "training_text", "parents", "private_messages", "sampling")


@given(metadata=st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_metadata_of_any_form_gives_a_card(metadata: dict[str, Any]) -> None:
    model = small_model()._replace(metadata=metadata)
    for form in ("transformers", "bullet"):
        text = model_card(model, form=form)  # type: ignore[arg-type]
        assert heading(text)["tags"] == ["bulletlm"] and text.endswith("answers.\n")
        assert not any(ord(character) < 32 and character != "\n" for character in text)


def test_the_card_of_a_run_has_its_verdicts(micro_run: Path, tmp_path: Path) -> None:
    report = json.loads((micro_run / "report.json").read_text())
    text = card_of(micro_run / "model.bullet")
    assert report["verdicts"]["usefulness"]["title"] in text and "## Prediction by language" in text
    assert heading(text)["library_name"] == "bulletlm" and "bullet chat model.bullet" in text
    assert card_of(micro_run) == text
    assert open_bullet(micro_run / "model.bullet").metadata["name"] in text
    copy = tmp_path / "model.bullet"
    copy.write_bytes((micro_run / "model.bullet").read_bytes())
    assert "## Verdict" not in card_of(copy), "a file alone has no report"
    (tmp_path / "report.json").write_text(json.dumps({**report, "bq4": {**report["bq4"], "bytes": 1}}))
    assert "## Verdict" not in card_of(copy), "the report describes another file"
    assert str(micro_run) not in text


def test_the_exported_folder_has_the_card(micro_run: Path, tmp_path: Path) -> None:
    convert(micro_run / "model.bullet", tmp_path / "model-hf", ConvertOptions(to="hf"))
    text = (tmp_path / "model-hf" / "README.md").read_text(encoding="utf-8")
    assert "AutoModelForCausalLM" in text and heading(text)["library_name"] == "transformers"
    assert card_of(tmp_path / "model-hf").splitlines()[0] == "---"
    write_hf(tmp_path / "small-hf", small_model())
    assert (tmp_path / "small-hf" / "README.md").read_text(encoding="utf-8") == model_card(small_model())


def test_the_command(micro_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"good": "a b", "bad": "b a"}\n' * 3)
    results, out = tmp_path / "results.json", tmp_path / "README.md"

    def run(*words: object) -> int:
        with pytest.raises(SystemExit) as end:
            main([*map(str, words)])
        return int(end.value.code or 0)

    assert run("benchmark", micro_run, "--suite", tmp_path / "pairs.jsonl", "--out", results) == 0
    assert run("card", micro_run / "model.bullet", "--benchmarks", results, "--out", out) == 0
    text = out.read_text(encoding="utf-8")
    four_bit = json.loads(results.read_text())["results"][0]["models"][1]["value"]
    assert "| pairs, " in text and f"{four_bit:.2f} [" in text
    assert run("card", micro_run / "model.bullet", "--out", out) == 2, "an existing file is not replaced"
    capsys.readouterr()
    assert run("card", micro_run / "model.bullet") == 0 and capsys.readouterr().out.startswith("---\n")
    other = json.loads(results.read_text())
    for row in other["results"][0]["models"]:
        row["model"] = "another.bullet"
    results.write_text(json.dumps(other))
    assert run("card", micro_run / "model.bullet", "--benchmarks", results) == 1
    assert "has no result of" in capsys.readouterr().err
    results.write_text("[]")
    assert run("card", micro_run / "model.bullet", "--benchmarks", results) == 1


@pytest.mark.parametrize("quant", ["BQ4", "BQ8", "F16"])
def test_a_loss_from_before_a_rounding_is_not_that_of_the_rounded_weights(tmp_path: Path, quant: str) -> None:
    """However the FP32 weights were rounded, and in which format the card describes them then."""
    write_npy(tmp_path / "npy", *_floats(small_model()))
    assert "| validation loss | 2.5000" in card_of(tmp_path / "npy")
    convert(tmp_path / "npy", tmp_path / "m.bullet", ConvertOptions(quant=quant))
    convert(tmp_path / "npy", tmp_path / "m.gguf", ConvertOptions(quant=quant))
    convert(tmp_path / "m.bullet", tmp_path / "m-hf")
    for name in ("m.bullet", "m.gguf", "m-hf"):
        text = card_of(tmp_path / name)
        assert "| validation loss of the FP32 model, before rounding | 2.5000" in text and "model-index" not in heading(text), name
        assert "| rounding | rounded to nearest |" in text, name


def test_weights_that_keep_their_numbers_keep_their_figures(tmp_path: Path) -> None:
    measured = {"weights": "BQ4", "method": "gptq", "val_loss": 3.0, "perplexity_change": 0.01}
    model = small_model(n_kv_heads=4, hidden_dim=256)
    write_gguf(tmp_path / "a.gguf", model._replace(metadata={**METADATA, "quantised": measured}))
    convert(tmp_path / "a.gguf", tmp_path / "b.bullet")
    convert(tmp_path / "b.bullet", tmp_path / "c-hf")
    assert "| validation loss | 3.0000" in card_of(tmp_path / "b.bullet") and "| validation loss | 3.0000" in card_of(tmp_path / "c-hf")
    convert(tmp_path / "b.bullet", tmp_path / "v1.bullet", ConvertOptions(version=1))
    assert "3.0000" not in card_of(tmp_path / "v1.bullet"), "version 1 rounds the weights again"


def _floats(model: StoredModel) -> tuple[Any, ...]:
    return model.shape, {name: as_floats(tensor) for name, tensor in model.tensors.items()}, model.tokenizer_proto, model.metadata


@pytest.mark.parametrize("name", ["m.bullet", "m-npy", "m.gguf", "my model.gguf", "old.bullet"])
def test_the_commands_of_the_card_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_gguf(Path("source.gguf"), small_model(n_kv_heads=4, hidden_dim=256))
    convert(Path("source.gguf"), Path(name), ConvertOptions(version=1 if name == "old.bullet" else 2))
    commands = [shlex.split(line) for line in card_of(Path(name)).splitlines() if line.startswith("bullet ")]
    assert {command[1] for command in commands} == {"chat", "serve", "convert"}
    for _, command, *words in commands:
        if command == "convert":
            convert(Path(words[0]), Path(words[1]))
        else:
            load(find_model(Path(words[0])))


def test_benchmarks_of_a_run_are_those_of_its_own_file(tmp_path: Path) -> None:
    """Another file in a run folder is another model, and the file of a run can have other weights than of 4 bits."""
    run = tmp_path / "run"
    convert_to = {"model.bullet": "BQ8", "small.bullet": "BQ4"}
    write_npy(run / "export" / "npy", *_floats(small_model()))
    for name, quant in convert_to.items():
        convert(run / "export" / "npy", run / name, ConvertOptions(quant=quant))
    (run / "config.json").write_text("{}")
    assert [model.label for model in open_models(run)] == [f"{run} (FP32)", f"{run} (8-bit)"]
    row = {
        "name": "Pairs",
        "kind": "pairs",
        "benchmark": "",
        "language": "mr",
        "metric": "share",
        "higher_is_better": True,
        "published": [],
    }
    measured = [
        {"model": f"{run} ({kind})", "value": value, "low": None, "high": None} for kind, value in (("FP32", 61.5), ("8-bit", 60.25))
    ]
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"version": 1, "results": [{**row, "models": measured}]}))
    assert "60.25" in card_of(run / "model.bullet", [results]) and "61.5" not in card_of(run / "model.bullet", [results])
    with pytest.raises(DataError, match=r"no result of .*small\.bullet"):
        card_of(run / "small.bullet", [results])
