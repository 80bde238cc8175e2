"""Tests the build stage and bullet-builder: the file records its quantization error, equal inputs give equal bytes, errors are clear."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bulletlm.cli.app import main as bullet
from bulletlm.cli.builder import _as_token_file, main
from bulletlm.cli.output import print_info
from bulletlm.config.schema import QuantConfig
from bulletlm.data.tokens import TokenFile, open_tokens
from bulletlm.evaluate.compare import compare
from bulletlm.files import read_json
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.convert import ConvertOptions, convert, read_model
from bulletlm.formats.npy import read_npy, write_npy
from bulletlm.formats.stored import as_floats
from bulletlm.pipeline.build import BuildOptions, build_bullet
from bulletlm.progress import SilentProgress
from bulletlm.runtime import Model, NumpyEngine, Sampling, load
from bulletlm.shape import ModelShape
from bulletlm.text.chat import CHAT_TEMPLATE
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer
from paths import SAMPLE_CORPUS


def builds(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    main([str(word) for word in words])
    return capsys.readouterr().out


def fails(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("bullet-builder: ")
    return caught.value.code, message  # type: ignore[return-value]


@pytest.fixture
def npy(micro_run: Path) -> Path:
    return micro_run / "export" / "npy"


def test_the_header_says_what_was_measured(micro_run: Path, npy: Path) -> None:
    file = open_bullet(micro_run / "model.bullet")
    said = file.metadata["quantised"]
    assert said["method"] == "gptq" and said["weights"] == "BQ4" and said["embedding"] == "BQ8"
    train = len(open_tokens(micro_run / "tokens", "train").tokens)
    assert said["calibration_tokens"] == min(train, 40_000) // 32 * 32
    assert file.metadata["chat_template"] == CHAT_TEMPLATE
    exact, quantized = load(npy), load(micro_run / "model.bullet", engine="numpy")
    again = compare(exact, quantized, open_tokens(micro_run / "tokens", "val"), SilentProgress())
    assert said["val_tokens"] == again.b.tokens
    wanted = {
        "val_loss": again.b.loss,
        "fp32_val_loss": again.a.loss,
        "perplexity": again.b.perplexity,
        "bits_per_byte": again.b.bits_per_byte,
        "kl": again.kl.mean,
        "kl_se": again.kl.se,
        "perplexity_change": again.perplexity_change,
    }
    assert {name: said[name] for name in wanted} == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_the_report_has_every_matrix_and_layer(micro_run: Path, npy: Path) -> None:
    report = read_json(micro_run / "quantization.json")
    shape = read_npy(npy)[0]
    assert list(report["tensors"]) == [name for name, extents in shape.tensors().items() if len(extents) == 2]
    assert list(report["layers"]) == ["token_embedding", "layers.0", "layers.1"]
    assert all(0 < cost < 0.1 for cost in report["layers"].values())
    assert all(0 <= row["kl"] < 0.1 for row in report["tensors"].values())
    assert report["kl"] == open_bullet(micro_run / "model.bullet").metadata["quantised"]["kl"]


def test_the_builder_makes_the_file_of_the_pipeline(micro_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.bullet"
    text = builds(capsys, micro_run, "--out", out)
    assert out.read_bytes() == (micro_run / "model.bullet").read_bytes()
    assert text.startswith(f"{out} (") and "GPTQ on " in text and " tokens: perplexity" in text


def test_the_builder_takes_a_folder_and_tokens(micro_run: Path, npy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "model.bullet", tmp_path / "report.json"
    train = micro_run / "tokens" / "train.bin"
    words = ["--quant", "BQ4", "--calibration", train, "--out", out, npy, "--json"]
    said = json.loads(builds(capsys, *words))
    used = min(train.stat().st_size // 2, 40_000) // 32 * 32
    assert said == {
        "weights": "BQ4",
        "embedding": "BQ8",
        "keep": [],
        "method": "gptq",
        "calibration_tokens": used,
    }
    whole, measured = open_bullet(micro_run / "model.bullet"), open_bullet(out)
    text = TokenFile(open_tokens(micro_run / "tokens", "train").tokens, None, {})  # a plain file has no information about sources
    build_bullet(npy, tmp_path / "same.bullet", BuildOptions(config=QuantConfig(), seed=42, calibration=text), SilentProgress())
    assert out.read_bytes() == (tmp_path / "same.bullet").read_bytes()
    assert {name: measured.type(name) for name in measured.tensors} == {name: whole.type(name) for name in whole.tensors}
    val = micro_run / "tokens" / "val.bin"
    said = json.loads(builds(capsys, *words, "--validation", val, "--report", report, "--calibration-tokens", "2000", "--seed", "3"))
    assert said["calibration_tokens"] == 2_000 // 32 * 32
    assert said["fp32_val_loss"] == pytest.approx(whole.metadata["quantised"]["fp32_val_loss"], rel=1e-6)
    assert set(json.loads(report.read_text())) == {*said, "layers", "tensors"}


def test_exceptions_and_other_types(micro_run: Path, npy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.bullet"
    builds(capsys, "--keep", "layers.0.*=BQ8", "--keep=layers.1.mlp.*=F16", "--method", "none", npy, "--out", out)
    file = open_bullet(out)
    assert file.type("layers.0.attention.k_proj.weight") == "BQ8"
    assert file.type("layers.1.mlp.up_proj.weight") == "F16"
    assert file.type("layers.1.attention.k_proj.weight") == "BQ4"
    for quant in ("BQ8", "F16", "F32"):
        builds(capsys, "--quant", quant, npy, "--out", out)
        file = open_bullet(out)
        file.verify()
        assert {file.type(name) for name in file.tensors} == {quant, "F32"}
    _, tensors, _, _ = read_npy(npy)
    for name, weights in tensors.items():
        np.testing.assert_array_equal(file.dequantize(name), weights)


def test_mistakes_are_one_line(micro_run: Path, npy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, out = micro_run / "tokens" / "train.bin", tmp_path / "model.bullet"
    odd, foreign, short = tmp_path / "odd.bin", tmp_path / "foreign.bin", tmp_path / "short.bin"
    odd.write_bytes(train.read_bytes()[:4097])
    np.full(4_000, 700, "<u2").tofile(foreign)
    np.full(200, 50, "<u2").tofile(short)
    (tmp_path / "empty.bin").write_bytes(b"")
    damaged = tmp_path / "damaged"
    shutil.copytree(npy, damaged)
    weights = np.load(damaged / "layers.1.mlp.up_proj.weight.npy")
    weights[1, 1] = np.nan
    np.save(damaged / "layers.1.mlp.up_proj.weight.npy", weights)
    cases: list[tuple[list[str | Path], int, str]] = [
        ([npy], 2, "needs text: give it with --calibration tokens.bin, or use --method none"),
        ([npy, "--calibration", odd], 1, "4,097 bytes, which is not a whole number of uint16 tokens"),
        ([npy, "--calibration", tmp_path / "empty.bin"], 1, "0 bytes"),
        ([npy, "--calibration", tmp_path / "none.bin"], 1, "No such file"),
        ([npy, "--calibration", foreign], 1, "has token 700"),
        ([npy, "--calibration", short], 1, "200 tokens, but at least 256"),
        ([npy, "--calibration", train, "--validation", foreign], 1, "another vocabulary"),
        ([npy, "--calibration", train, "--keep", "layer.0=BQ8"], 2, "keep layer.0=BQ8"),
        ([npy, "--calibration", train, "--calibration-tokens", "10"], 2, "--calibration-tokens 10: must be 1024 or more"),
        ([npy, "--quant", "Q4_0"], 2, 'Invalid value "Q4_0" for --quant'),
        ([npy, "--quan", "BQ4"], 2, "--quan"),
        ([damaged, "--calibration", train], 1, "layers.1.mlp.up_proj.weight.npy "),
        ([tmp_path, "--method", "none"], 1, "manifest.json"),
        ([tmp_path / "nothing"], 1, "there is no folder"),
        ([], 2, "FOLDER"),
    ]
    for words, code, message in cases:
        got, line = fails(capsys, *words, "--out", out)
        assert (got, message in line) == (code, True), line
    assert not out.exists()


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    text = builds(capsys, "--help")
    assert "bullet-builder --quant BQ4 --calibration tokens.bin" in text


def test_a_file_that_was_not_measured_has_a_card(npy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builds(capsys, npy, "--method", "none", "--out", tmp_path / "model.bullet")
    print_info(tmp_path / "model.bullet", tensors=False, as_json=False)
    assert "this file" not in capsys.readouterr().out


def test_version_1_is_calibrated_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The gains go into the matrices before these are fitted, so the file holds exactly what was measured."""
    shape = ModelShape(vocab_size=400, dim=32, n_layers=1, n_heads=2, n_kv_heads=2, hidden_dim=128, max_seq_len=32)
    random = np.random.default_rng(3)
    tensors = {
        name: (1 + 0.3 * random.normal(size=extents) if len(extents) == 1 else 0.4 * random.normal(size=extents)).astype(np.float32)
        for name, extents in shape.tensors().items()
    }
    proto = train_tokenizer([(SAMPLE_CORPUS / "stories.en.txt").read_text(encoding="utf-8")], 400, 1, SilentProgress())
    write_npy(tmp_path / "npy", shape, tensors, proto, {})
    tokens = np.random.default_rng(4).integers(0, 400, 4096).astype("<u2")
    for name in ("train.bin", "val.bin"):
        tokens.tofile(tmp_path / name)
    words = [tmp_path / "npy", "--format", "v1", "--calibration", tmp_path / "train.bin", "--validation", tmp_path / "val.bin"]
    said = json.loads(builds(capsys, *words, "--json", "--out", tmp_path / "old.bullet"))
    assert (tmp_path / "old.bullet").read_bytes().startswith(b'{\n "bullet_version": "1.0"')
    kind, back = read_model(tmp_path / "old.bullet")
    assert kind == "bullet v1" and not back.shape.tied_embeddings
    weights = {name: as_floats(tensor) for name, tensor in back.tensors.items()}
    model = Model(NumpyEngine(back.shape, weights), Tokenizer(back.tokenizer_proto), back.shape, Sampling(), {})
    exact = Model(NumpyEngine(shape, tensors), Tokenizer(proto), shape, Sampling(), {})
    again = compare(exact, model, _as_token_file(tmp_path / "val.bin", 400), SilentProgress())
    assert said["embedding"] == "BQ4" and said["kl"] == pytest.approx(again.kl.mean, rel=1e-4)
    convert(tmp_path / "npy", tmp_path / "plain.bullet", ConvertOptions(version=1))
    plain = {name: as_floats(tensor) for name, tensor in read_model(tmp_path / "plain.bullet")[1].tensors.items()}
    uncalibrated = Model(NumpyEngine(back.shape, plain), model.tokenizer, back.shape, Sampling(), {})
    assert again.kl.mean < 0.8 * compare(exact, uncalibrated, _as_token_file(tmp_path / "val.bin", 400), SilentProgress()).kl.mean


def test_version_1_of_what_it_cannot_hold(npy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "old.bullet"
    for words, code, message in (
        (["--method", "none"], 1, "version 1 cannot hold this model: n_kv_heads is 2, and must be 4"),
        (["--quant", "BQ8"], 2, "version 1 stores every tensor in four bits"),
        (["--keep", "layers.0.*=BQ8", "--method", "none"], 2, "version 1 stores every tensor in four bits"),
    ):
        got, line = fails(capsys, npy, "--format", "v1", *words, "--out", out)
        assert got == code and message in line, line
    assert not out.exists()


def test_compat_says_who_can_run_it(npy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(npy), "--method", "none", "--compat", "--out", str(tmp_path / "m.bullet")])
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 3
    assert "NAME.gguf keeps every number bit for bit (BQ4 as Q4_0, BQ8 as Q8_0, F32)" in notes[0]
    assert "as float32" in notes[1] and "no (n_kv_heads is 2, and must be 4 (n_heads))" in notes[2]


def test_bullet_build_takes_a_folder_too(npy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = [tmp_path / "a.bullet", tmp_path / "b.bullet"]
    builds(capsys, npy, "--quant", "BQ8", "--out", same[0])
    with pytest.raises(SystemExit, match="0"):
        bullet(["build", "--quant", "BQ8", "--out", str(same[1]), str(npy)])
    assert same[0].read_bytes() == same[1].read_bytes()
    with pytest.raises(SystemExit, match="2"):
        bullet(["build", "--quant", "BQ8"])
    assert "needs a configuration, a run folder" in capsys.readouterr().err
