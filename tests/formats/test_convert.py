"""Tests `bullet convert`: formats are recognized, existing files are not replaced by accident, and every mistake gives one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bulletlm.errors import BulletError, ConfigError, FormatError
from bulletlm.evaluate.compare import compare
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.convert import ConvertOptions, convert, read_model
from bulletlm.formats.npy import read_npy
from bulletlm.progress import SilentProgress
from bulletlm.runtime import load
from paths import DOCS


@pytest.fixture
def bullet(micro_run: Path) -> Path:
    return micro_run / "model.bullet"


def bullet_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = "import sys; from bulletlm.cli.app import main; main(sys.argv[1:])"
    return subprocess.run([sys.executable, "-c", code, "convert", *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_all_ways_round(bullet: Path, tmp_path: Path) -> None:
    """Any chain of conversions through formats that can hold the numbers keeps them."""
    first = open_bullet(bullet)
    path = bullet
    for kind, target in [
        ("gguf", "a.gguf"),
        ("bullet", "b.bullet"),
        ("npy", "c-npy"),
        ("gguf", "d.gguf"),
        ("hf", "e-hf"),
        ("npy", "f/npy"),
    ]:
        result = convert(path, tmp_path / target)
        assert result.target_kind == kind and not result.notes
        path = tmp_path / target
    convert(path, tmp_path / "g.bullet", ConvertOptions(quant="F32"))
    last = open_bullet(tmp_path / "g.bullet")
    assert last.metadata == first.metadata and last.shape == first.shape and last.pieces == first.pieces
    for name in first.tensors:
        np.testing.assert_array_equal(last.dequantize(name), first.dequantize(name))


def test_the_npy_folder_is_the_one_of_a_run(micro_run: Path, tmp_path: Path) -> None:
    convert(micro_run / "export" / "npy", tmp_path / "a.gguf")
    convert(tmp_path / "a.gguf", tmp_path / "npy")
    for file in (micro_run / "export" / "npy").iterdir():
        assert (tmp_path / "npy" / file.name).read_bytes() == file.read_bytes()
    assert read_npy(tmp_path / "npy")[0] == open_bullet(micro_run / "model.bullet").shape


@pytest.mark.parametrize(
    ("quant", "layers", "embedding"), [(None, "BQ4", "BQ8"), ("BQ8", "BQ8", "BQ8"), ("F16", "F16", "F16"), ("F32", "F32", "F32")]
)
def test_float_sources_are_rounded_for_a_bullet(micro_run: Path, tmp_path: Path, quant: str | None, layers: str, embedding: str) -> None:
    result = convert(micro_run / "export" / "npy", tmp_path / "a.bullet", ConvertOptions(quant=quant))
    file = open_bullet(tmp_path / "a.bullet")
    file.verify()
    assert file.type("layers.1.mlp.up_proj.weight") == layers and file.type("token_embedding.weight") == embedding
    assert result.types == {name: file.type(name) for name in file.tensors} and not result.notes


def test_rounding_again_is_said(bullet: Path, tmp_path: Path) -> None:
    notes = convert(bullet, tmp_path / "a.gguf", ConvertOptions(quant="BQ8")).notes
    assert "tensors were rounded to another type before" in notes[0]
    assert {
        type for name, type in convert(bullet, tmp_path / "b.gguf", ConvertOptions(quant="F16")).types.items() if "norm" not in name
    } == {"F16"}


def test_version_1_is_worth_what_it_says(micro_run: Path, tmp_path: Path) -> None:
    """The shape of the micro model does not fit version 1; the error says so and leaves nothing."""
    with pytest.raises(FormatError, match="version 1 cannot hold this model: n_kv_heads"):
        convert(micro_run / "model.bullet", tmp_path / "old.bullet", ConvertOptions(version=1))
    assert not list(tmp_path.iterdir())


def test_a_converted_model_is_as_good(bullet: Path, micro_run: Path, tmp_path: Path) -> None:
    from bulletlm.data.tokens import open_tokens

    convert(bullet, tmp_path / "a.gguf")
    convert(tmp_path / "a.gguf", tmp_path / "b.bullet")
    result = compare(load(bullet), load(tmp_path / "b.bullet"), open_tokens(micro_run / "tokens", "val"), SilentProgress()).to_dict()
    assert result["kl"]["mean"] < 1e-6 and result["top1_agreement"]["mean"] > 0.999


# --- the target ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("model", {}, "end the name in .bullet, .gguf or .html, or choose the kind of folder with --to hf or --to npy"),
        ("hf-npy", {}, "end the name in .bullet, .gguf or .html"),
        ("a.gguf", {"version": 1}, "--format v1 is for .bullet files, but the target .* is gguf"),
        ("hf", {"quant": "BQ4"}, "--quant BQ4 has no meaning for hf, which holds float32"),
        ("a.bullet", {"version": 1, "quant": "F16"}, "--quant F16 has no meaning for version 1"),
        ("a.bullet", {"like": "model.bullet"}, "--like is for files of version 1"),
    ],
)
def test_arguments_that_do_not_fit(bullet: Path, tmp_path: Path, target: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        convert(bullet, tmp_path / target, ConvertOptions(**arguments))
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_for_a_file_that_is_no_model(bullet: Path, tmp_path: Path) -> None:
    (tmp_path / "old.bq4").write_bytes(b"BQ4f" + bytes(100))
    with pytest.raises(FormatError, match=r"old.bq4: this is not a .bullet file"):
        convert(tmp_path / "old.bq4", tmp_path / "new.bullet", ConvertOptions(like=bullet))


def test_to_says_it_where_the_name_does_not(bullet: Path, tmp_path: Path) -> None:
    assert convert(bullet, tmp_path / "model", ConvertOptions(to="hf")).target_kind == "hf"
    assert read_model(tmp_path / "model")[0] == "hf"
    assert convert(bullet, tmp_path / "weights.dat", ConvertOptions(to="gguf")).target_kind == "gguf"
    assert read_model(tmp_path / "weights.dat")[0] == "gguf", "by its content"


def test_nothing_strange_is_replaced(bullet: Path, tmp_path: Path) -> None:
    for kind in ("hf", "npy"):
        convert(bullet, tmp_path / kind)
        convert(bullet, tmp_path / kind, ConvertOptions(force=True))  # an earlier export is
        (tmp_path / kind / "thesis.doc").write_text("years of work")
        with pytest.raises(ConfigError, match=r"holds other files \(thesis.doc\): name a new folder"):
            convert(bullet, tmp_path / kind, ConvertOptions(force=True))
        assert (tmp_path / kind / "thesis.doc").exists()
    (tmp_path / "file-hf").write_text("x")
    with pytest.raises(ConfigError, match="is a file: name a folder"):
        convert(bullet, tmp_path / "file-hf", ConvertOptions(force=True))
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(ConfigError, match="is a folder: name a file"):
        convert(bullet, tmp_path / "folder.gguf", ConvertOptions(force=True))
    shutil.copy(bullet, tmp_path / "same.bullet")
    with pytest.raises(ConfigError, match="is the source itself"):
        convert(tmp_path / "same.bullet", tmp_path / "." / "same.bullet", ConvertOptions(quant="F16", force=True))


@pytest.mark.parametrize(
    ("existing", "target", "named"),
    [
        ("a.bullet", "a.bullet", "a.bullet"),
        ("a.gguf", "a.gguf", "a.gguf"),
        ("a.Modelfile", "a.gguf", "a.Modelfile"),
        ("weights.dat.Modelfile", "weights.dat", "weights.dat.Modelfile"),
    ],
)
def test_an_existing_file_is_replaced_only_with_force(bullet: Path, tmp_path: Path, existing: str, target: str, named: str) -> None:
    options = ConvertOptions(to="bullet" if target.endswith(".bullet") else "gguf")
    (tmp_path / existing).write_text("years of work")
    with pytest.raises(ConfigError, match=rf"{re.escape(named)} exists: choose another name, or replace it with --force$"):
        convert(bullet, tmp_path / target, options)
    assert [path.name for path in tmp_path.iterdir()] == [existing] and (tmp_path / existing).read_text() == "years of work"
    convert(bullet, tmp_path / target, replace(options, force=True))
    assert read_model(tmp_path / target)[0] == options.to and (tmp_path / existing).read_bytes() != b"years of work"


@pytest.mark.parametrize("kind", ["hf", "npy"])
def test_an_earlier_export_is_replaced_only_with_force(bullet: Path, tmp_path: Path, kind: str) -> None:
    convert(bullet, tmp_path / kind)
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / kind).iterdir()}
    with pytest.raises(ConfigError, match=rf"{kind} exists: choose another name, or replace it with --force"):
        convert(bullet, tmp_path / kind)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / kind).iterdir()} == written
    convert(bullet, tmp_path / kind, ConvertOptions(force=True))


def test_a_target_that_is_no_regular_file(bullet: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(bullet)
    for name in ("pipe", "dangling", "link"):
        for force in (False, True):
            with pytest.raises(ConfigError, match=name):
                convert(bullet, tmp_path / name, ConvertOptions(to="gguf", force=force))
        assert (tmp_path / name).is_symlink() or (tmp_path / name).is_fifo()


@pytest.mark.parametrize(
    ("kind", "name", "content"),
    [
        ("npy", "precious.npy", b"years of work"),
        ("npy", "tokenizer.model", b"years of work"),
        ("npy", "manifest.json", b'{"format": "something else", "tensors": {}}'),
        ("npy", "manifest.json", b"[]"),
        ("hf", "README.md", b"years of work"),
        ("hf", "model.safetensors", b"years of work"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_only_our_own_exports_are_replaced(bullet: Path, tmp_path: Path, kind: str, name: str, content: bytes, force: bool) -> None:
    """A file may have the name of an exported file without being one."""
    target = tmp_path / f"my-{kind}"
    target.mkdir()
    (target / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"holds other files \({re.escape(name)}\): name a new folder"):
        convert(bullet, target, ConvertOptions(force=force))
    assert (target / name).read_bytes() == content and len(list(target.iterdir())) == 1


def test_an_array_beside_an_export_is_kept(bullet: Path, tmp_path: Path) -> None:
    convert(bullet, tmp_path / "npy")
    (tmp_path / "npy" / "precious.npy").write_bytes(b"years of work")
    with pytest.raises(ConfigError, match=r"holds other files \(precious.npy\)"):
        convert(bullet, tmp_path / "npy", ConvertOptions(force=True))
    assert (tmp_path / "npy" / "precious.npy").read_bytes() == b"years of work"
    (tmp_path / "empty-npy").mkdir()
    assert convert(bullet, tmp_path / "empty-npy").target_kind == "npy"


# --- the source ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bullet", b"hello", "this is a text file, not a model"),
        ("a.pt", b"PK\x03\x04xx", "zip file, such as torch.save writes"),
        ("a.bin", b"\x80\x02}q\x00.", "Python pickle"),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{}", "has weights only, and config.json is not beside it"),
        ("a.bullet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "this is a Git LFS pointer"),
        ("a.gguf", b"<html><body>404</body></html>", "this is a web page"),
        ("a.gguf", b"../../.git/annex/objects/xX/yY/MD5E-s1", "this is a git-annex pointer"),
        ("a.bullet", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "this is an XML document"),
        ("a.gguf", b"GGUF", "cut short or damaged"),
    ],
)
def test_other_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        convert(tmp_path / name, tmp_path / "out.bullet")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_other_places(micro_run: Path, tmp_path: Path) -> None:
    with pytest.raises(BulletError, match=r"cannot open .*nothing"):
        convert(tmp_path / "nothing", tmp_path / "out.bullet")
    with pytest.raises(FormatError, match="it is not a model folder"):
        convert(tmp_path, tmp_path / "out.bullet")
    with pytest.raises(ConfigError, match=r"is a run: name .*model\.bullet"):
        convert(micro_run, tmp_path / "out.bullet")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(bullet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.gguf"
    convert(bullet, target)
    old = target.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bulletlm.formats.gguf.write_container", full)
    with pytest.raises(BulletError, match="No space left on device"):
        convert(bullet, target, ConvertOptions(quant="F32", force=True))
    assert target.read_bytes() == old and sorted(file.name for file in tmp_path.iterdir()) == ["a.Modelfile", "a.gguf"]


# --- the command --------------------------------------------------------------------------------------------------------


def test_the_command(bullet: Path, tmp_path: Path) -> None:
    done = bullet_command(bullet, tmp_path / "a.gguf", "--quant", "BQ8")
    size = (tmp_path / "a.gguf").stat().st_size / 1e6
    assert done.returncode == 0 and done.stdout == f"{bullet} (bullet) -> {tmp_path / 'a.gguf'} (gguf, {size:.3g} MB)\n"
    assert done.stderr.startswith("note: ") and done.stderr.count("\n") == 1
    assert (tmp_path / "a.Modelfile").exists()
    failed = bullet_command(bullet, tmp_path / "b.bullet", "--format", "v1")
    assert (
        failed.returncode == 1 and failed.stderr.startswith("bullet: version 1 cannot hold this model") and failed.stderr.count("\n") == 1
    )
    wrong = bullet_command(bullet, tmp_path / "b.bullet", "--quant", "Q3")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1


def test_it_needs_no_torch(bullet: Path, tmp_path: Path) -> None:
    """No format needs transformers either."""
    code = f"""
import json, sys
from pathlib import Path
from bulletlm.formats.convert import ConvertOptions, convert
folder = Path({str(tmp_path)!r})
convert(Path({str(bullet)!r}), folder / "hf")
convert(folder / "hf", folder / "a.gguf")
convert(folder / "a.gguf", folder / "b.bullet")
print(json.dumps(sorted({{"torch", "transformers", "pydantic", "rich"}} & set(sys.modules))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


DOCUMENT = DOCS / "ecosystem.md"


@pytest.mark.slow
def test_the_programs_of_the_documentation_run(bullet: Path, tmp_path: Path) -> None:
    programs = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(programs) == 2
    for name in ("demo.gguf", "demo-hf"):
        convert(bullet, tmp_path / name)
    for program in programs:
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout  # the answer of an untrained micro model may consist only of the end of the line
