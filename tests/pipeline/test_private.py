"""Tests that a model and its report carry no path, user name or file name, and do not depend on where the text was."""

import json
import re
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.cli.output import print_info
from bulletlm.config.loader import load_config
from bulletlm.config.schema import Source
from bulletlm.data.sources import SourceFile, set_labels
from bulletlm.files import read_json
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.convert import ConvertOptions, convert
from bulletlm.formats.provenance import is_private
from bulletlm.pipeline.runner import run_stages
from bulletlm.pipeline.start import read_parent
from bulletlm.progress import SilentProgress
from micro_model import MICRO, write_texts

SECRETS = ("zarina", "omkar", "kulkarni")
"""In all folder and file names, the home folder and the user name of the test; in none of the texts."""


def write_private_texts(folder: Path) -> Path:
    """Text of several kinds, with files that are not read, in a folder and under names that say who wrote it."""
    folder.parent.mkdir(parents=True)
    write_texts(folder)
    for name in ("stories.mr.txt", "parallel.tsv"):
        (folder / name).rename(folder / f"zarina kulkarni {name}")
    chat = [f"{3 + n // 24:02}/02/24, {n % 24:02}:15 - {'AB'[n % 2]}: हो, उद्या {n} वाजता येतो." for n in range(40)]
    (folder / "WhatsApp Chat with Zarina.txt").write_text("\n".join(chat), encoding="utf-8")
    (folder / "passport of omkar.rtf").write_text("{\\rtf1}")
    (folder / ".kulkarni").write_text("x")
    with zipfile.ZipFile(folder / "omkar.zip", "w") as archive:  # ZipInfo: always with the same date
        archive.writestr(zipfile.ZipInfo("zarina.txt"), "पुणे हे शहर आहे.\n\nमुंबई हे मोठे शहर आहे.\n" * 3)
        archive.writestr(zipfile.ZipInfo("kulkarni.odt"), "x")
    with zipfile.ZipFile(folder / "kulkarni.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("omkar.mp3"), "x")
    (folder / "table of zarina.jsonl").write_text('{"unknown": 1}\n{broken\n')
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The finished runs of the same text in two folders, by two users."""
    folders = []
    with pytest.MonkeyPatch.context() as patch:
        for number, (user, texts) in enumerate((("omkar", "letters of zarina"), ("kulkarni", "zz omkar"))):
            home = tmp_path_factory.mktemp("home") / f"zarina{number}" / user
            source = write_private_texts(home / texts)
            for variable in ("HOME", "USER", "LOGNAME", "USERNAME"):
                patch.setenv(variable, str(home) if variable == "HOME" else user)
            prompts, pairs = home / "prompts of omkar.jsonl", home / "pairs of omkar.tsv"
            prompts.write_text('{"prompt": "चहा?", "language": "mr", "kind": "short"}\n', encoding="utf-8")
            pairs.write_text("आई आली.\tआई घरी आली.\n", encoding="utf-8")
            values = MICRO | {
                "name": "same",
                "runs_dir": str(home / "runs"),
                "layers": 1,
                "quant": {"calibration": "none"},
                "kv_heads": None,
                "hidden_dim": None,
                "qat": {"steps": 2, "tokens_per_step": 64},
                "data": {"val_tokens": 600, "sources": [str(source), {"path": str(source / "stories.en.txt")}]},
                "evaluate": {"prompts": str(prompts)},
                "augment": {"paraphrase_pairs": [str(pairs)], "cache": str(home / "cache")},
            }
            (home / "micro.json").write_text(json.dumps(values), encoding="utf-8")
            folders.append(run_stages(load_config(home / "micro.json"), "evaluate", SilentProgress()).folder)
            model = folders[-1] / "model.bullet"
            convert(model, home / "out" / "m.gguf")
            convert(model, home / "out" / "m-hf")
            convert(model, home / "out" / "m-npy")
            convert(model, home / "out" / "v1.bullet", ConvertOptions(version=1))
            convert(model, home / "out" / "m.html")
            convert(folders[-1] / "export" / "npy", home / "out" / "fp32-hf")
    return folders


def products(run: Path) -> dict[str, bytes]:
    """Everything that is made to be given away, except the report."""
    files = [run / "model.bullet", run / "qat" / "model.bullet", *(run / "export").rglob("*"), *(run.parents[1] / "out").rglob("*")]
    return {str(path.relative_to(run.parents[1])): path.read_bytes() for path in files if path.is_file()}


def test_the_same_text_in_two_folders_gives_the_same_bytes(runs: list[Path]) -> None:
    first, second = map(products, runs)
    assert first.keys() == second.keys() and len(first) > 30
    assert {name for name in first if first[name] != second[name]} == set()


def test_no_name_leaves_the_computer(runs: list[Path]) -> None:
    for run in runs:
        given = products(run) | {name: (run / name).read_bytes() for name in ("report.json", "report.html", "metrics.jsonl")}
        for name, content in given.items():
            if name.endswith(".html"):  # the model inside is one of the others; a long word of base64 could be a secret by chance
                content = re.sub(rb"[A-Za-z0-9+/=]{200,}", b"", content)
            for secret in (*SECRETS, str(run.parents[2].parent), "/home", "pytest"):
                assert secret.encode() not in content.lower(), (name, secret)


def test_what_stands_for_the_files(runs: list[Path]) -> None:
    metadata = open_bullet(runs[0] / "model.bullet").metadata
    sources = metadata["training"]["sources"]
    labels = [source["label"] for source in sources]
    assert labels == ["txt-1", "jsonl-1", "zip-1", "txt-2", "jsonl-2", "tsv-1", "txt-3"]
    assert all(re.fullmatch("[0-9a-f]{64}", source["sha256"]) and source["bytes"] for source in sources)
    report = read_json(runs[0] / "report.json")
    assert {row["source"].partition("/")[0] for row in report["data"]["sources"]} == set(labels)
    assert {name.partition(" ")[0].partition("/")[0] for name in report["by_source"]} <= set(labels)
    assert report["data"]["skipped_files"] and all(item["reason"] for item in report["data"]["skipped_files"])


def test_private_messages_are_said_everywhere(runs: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = runs[0]
    notes = convert(run / "model.bullet", tmp_path / "to send.html").notes
    assert any("private messages" in note for note in notes), "said when the file to send is made"
    assert open_bullet(run / "model.bullet").metadata["private_messages"] is True
    report = read_json(run / "report.json")
    assert report["private_messages"] and "private messages" in report["summary"]
    (label,) = report["data"]["private_messages"]
    assert label.startswith("txt-")
    assert not any(example["source"] == label for rule in report["data"]["rules"].values() for example in rule["examples"])
    for path in ("m-hf", "fp32-hf"):
        assert "private messages" in (run.parents[1] / "out" / path / "README.md").read_text(encoding="utf-8")
    print_info(run / "model.bullet", tensors=False, as_json=False)
    assert "private messages" in capsys.readouterr().out


def test_a_run_from_a_checkpoint_is_private_too(runs: list[Path]) -> None:
    assert is_private(read_parent(str(runs[0] / "checkpoints" / "best")).metadata)


def test_the_card_has_the_figures_of_its_weights(runs: list[Path]) -> None:
    out = runs[0].parents[1] / "out"
    metadata = open_bullet(runs[0] / "model.bullet").metadata
    fp32, rounded = metadata["training"]["val_loss"], metadata["quantised"]["val_loss"]
    assert f"{fp32:.4f}" != f"{rounded:.4f}"
    for folder, loss, other in (("fp32-hf", fp32, rounded), ("m-hf", rounded, fp32)):
        card = (out / folder / "README.md").read_text(encoding="utf-8")
        assert f"| validation loss | {loss:.4f} " in card and f"{other:.4f}" not in card


def test_figures_of_other_weights_are_dropped(runs: list[Path], tmp_path: Path) -> None:
    convert(runs[0] / "model.bullet", tmp_path / "m.bullet", ConvertOptions(quant="BQ8"))
    quantised = open_bullet(tmp_path / "m.bullet").metadata["quantised"]
    assert quantised["weights"] == "BQ8" and "val_loss" not in quantised
    convert(tmp_path / "m.bullet", tmp_path / "m-hf")
    assert "| validation loss of the FP32 model, before rounding |" in (tmp_path / "m-hf" / "README.md").read_text(encoding="utf-8")


def test_paths_of_earlier_versions_are_left_out(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old"
    convert(runs[0] / "export" / "npy", old, ConvertOptions(to="npy"))
    manifest = read_json(old / "manifest.json")
    manifest["metadata"]["training"]["sources"] = [{"path": "/home/zarina/a.txt", "bytes": 3, "sha256": "ab"}]
    (old / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    result = convert(old, tmp_path / "new.bullet")
    assert any("paths of the source files" in note for note in result.notes)
    assert b"zarina" not in (tmp_path / "new.bullet").read_bytes()
    assert open_bullet(tmp_path / "new.bullet").metadata["training"]["sources"] == [{"label": "source-1", "bytes": 3, "sha256": "ab"}]
    print_info(tmp_path / "new.bullet", tensors=False, as_json=False)
    assert "trained on" in capsys.readouterr().out


@given(st.lists(st.tuples(st.sampled_from([".txt", ".jsonl", ".csv"]), st.sampled_from([None, "mine", "txt-1", "txt"])), max_size=12))
def test_labels_are_unique_and_do_not_depend_on_names(kinds: list[tuple[str, str | None]]) -> None:
    sources = [Source(path="x", label=label) for _, label in kinds]

    def labels(folder: str) -> list[str]:
        files = [SourceFile(Path(folder, str(n)), f"{folder}/{n}", kind, "auto", False, source=n) for n, (kind, _) in enumerate(kinds)]
        return [file.label for file in set_labels(files, sources)]

    found = labels("a")
    assert found == labels("zarina") and len(set(found)) == len(found) and all(found)
    for (kind, label), own in zip(kinds, found, strict=True):
        assert own.startswith(label or kind.removeprefix("."))
