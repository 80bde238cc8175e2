"""Tests the summary of a model file: its content for a trained model, and that untrusted metadata in a file does no harm."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from bulletlm.cli.output import print_info, print_summary
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.quant.types import standard_types


def card(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    print_info(path, tensors=False, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(path) and all(line.isprintable() for line in lines)
    return {line[2:].split("  ")[0]: line[2:].split("  ", 1)[1].strip() for line in lines[1:]}


def test_the_card_of_a_trained_model(micro_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = card(micro_run / "model.bullet", capsys)
    report = json.loads((micro_run / "report.json").read_text(encoding="utf-8"))
    file = open_bullet(micro_run / "model.bullet")
    assert shown["licence"] == report["model"]["license"] and shown["languages"] == "en, mr"
    assert shown["shape"] == "2 layers, dim 64, 4 heads (2 for keys and values), hidden 96, context 32"
    assert shown["size"].startswith(f"{file.size:,} bytes; {report['model']['bits_per_weight']:.2f} bits per weight")
    assert shown["BQ4"].split()[0] == f"{sum(t.size for t in file.tensors.values() if t.type == 'BQ4'):,}"
    assert shown["trained on"].startswith(f"{file.metadata['training']['tokens_seen']:,} tokens, best at step")
    assert shown["rounding"] == f"GPTQ on {file.metadata['quantised']['calibration_tokens']:,} tokens"
    assert shown["FP32"] == f"loss {report['fp32']['loss']:.4f}, perplexity {report['fp32']['perplexity']:.2f}"
    assert shown["this file"] == f"loss {report['bq4']['loss']:.4f}, perplexity {report['bq4']['perplexity']:.2f}"
    both = report["comparison"]
    assert f"perplexity {both['perplexity_change']:+.2%}" in shown["difference"] and f"KL {both['kl']['mean']:.5f}" in shown["difference"]
    assert "temperature 0.7" in shown["sampling"]


@pytest.mark.parametrize(("weights", "bits"), [("BQ4", "4-bit"), ("BQ8", "8-bit"), ("F16", "16-bit"), ("F32", "32-bit")])
def test_the_summary_names_the_bits_of_the_file(
    weights: str, bits: str, micro_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads((micro_run / "report.json").read_text(encoding="utf-8"))
    report["quantised"]["weights"] = weights
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (tmp_path / "config.json").write_bytes((micro_run / "config.json").read_bytes())
    print_summary(tmp_path)
    shown = capsys.readouterr().out
    assert f"\n{bits} file " in shown
    heading = next(line for line in shown.splitlines() if "FP32" in line)
    assert heading.split() == ["FP32", bits, "change"]


def test_as_json(micro_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = micro_run / "model.bullet"
    print_info(path, tensors=False, as_json=True)
    said = json.loads(capsys.readouterr().out)
    file = open_bullet(path)
    assert said["header"] == file.header and said["bytes"] == path.stat().st_size and said["parameters"] == file.shape.n_parameters
    assert said["types"]["F32"] == {"tensors": 5, "weights": 5 * 64, "bytes": 5 * 256}
    stored = sum(row["bytes"] for row in said["types"].values())
    assert said["bits_per_weight"] == pytest.approx(8 * stored / said["parameters"])
    assert said["bits_per_weight_of_the_file"] == pytest.approx(8 * said["bytes"] / said["parameters"])


ODD = [
    {},
    {"name": "\x1b[2Jevil\nname \u202eabc", "license": "", "languages": ["mr\r", "\x07"]},
    {"training": {"tokens_seen": "many", "step": None, "val_loss": [1]}, "quantised": {"calibration_tokens": "yes"}},
    {"training": {"tokens_seen": 5, "step": 1e300, "val_loss": 1e308}, "quantised": {"method": ["\x1b"], "calibration_tokens": -1}},
    {"quantised": {"val_loss": True, "kl": 1, "perplexity_change": 2, "val_tokens": 3, "fp32_val_loss": -1e9}},
    {"sampling": {"temperature": 0.5, "\x1b]0;title\x07": {"a": "\n"}}},
]


@pytest.mark.parametrize("metadata", ODD)
def test_a_file_may_say_anything(micro_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], metadata: dict[str, object]) -> None:
    file = open_bullet(micro_run / "model.bullet")
    zeros = {name: np.zeros(extents, np.float32) for name, extents in file.shape.tensors().items()}
    tokenizer = file.tokenizer()
    write_bullet(
        tmp_path / "odd.bullet",
        ModelContents(
            shape=file.shape,
            tensors=zeros,
            types=standard_types(file.shape),
            tokenizer_proto=tokenizer.proto,
            pieces=tokenizer.pieces(),
            metadata=metadata,
        ),
    )
    shown = card(tmp_path / "odd.bullet", capsys)
    assert shown["parameters"] == f"{file.shape.n_parameters:,}"
    assert math.isfinite(float(shown["BQ8"].split()[-3]))
