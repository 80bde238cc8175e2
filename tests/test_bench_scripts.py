"""Tests the decisions of the scripts in bench/. Only `make bench` checks that the scripts run."""

import ast
import gzip
import importlib
import importlib.util
import json
import math
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bulletlm.formats.npy import read_npy
from paths import ROOT

BENCH = ROOT / "bench"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module(name)


def row(name: str, bits: float, change: float, kl: float, qat: bool = False) -> dict[str, Any]:
    return {"row": name, "qat": qat, "bits_per_weight": bits, "perplexity_change": change, "kl": {"mean": kl}}


BASE = row("llama.cpp Q4_0", 4.948, 0.0088, 0.01161)
POST = row("BQ4 gptq, 40k tokens", 4.948, 0.0023, 0.00388)
TRAINED = row("model.bullet (gptq, 1,500 steps of QAT)", 4.948, 0.00124, 0.00265, qat=True)


def test_quantization_is_judged_by_the_rows_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = script("quantization", monkeypatch).judge
    passes = {bar["name"]: bar["pass"] for bar in judge([BASE, row("BQ4 gptq, 20k tokens", 5, 1, 1), POST, TRAINED])}
    assert passes == {
        "gptq: bits a weight": True,
        "gptq: KL / KL of Q4_0": True,
        "gptq: perplexity loss / that of Q4_0": True,
        "qat: KL / KL of Q4_0": True,
        "qat: perplexity loss": False,
    }
    values = {bar["name"]: bar["value"] for bar in judge([BASE, POST, TRAINED])}
    assert values["qat: KL / KL of Q4_0"] == pytest.approx(0.00265 / 0.01161)
    without_base = {bar["name"] for bar in judge([POST, TRAINED]) if bar["pass"] is None}
    assert without_base == {"gptq: KL / KL of Q4_0", "gptq: perplexity loss / that of Q4_0", "qat: KL / KL of Q4_0"}
    assert all(bar["value"] is None and bar["pass"] is None for bar in judge([]))


def test_a_file_says_whether_qat_changed_it(micro_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bulletlm.formats.bullet.writer import ModelContents, write_bullet
    from bulletlm.quant.types import standard_types
    from bulletlm.text.tokenizer import Tokenizer

    file_row = script("quantization", monkeypatch).file_row
    shape, tensors, proto, _ = read_npy(micro_run / "export" / "npy")

    def labelled(**metadata: Any) -> tuple[str, bool]:
        path = tmp_path / "model.bullet"
        write_bullet(
            path,
            ModelContents(
                shape=shape,
                tensors=tensors,
                types=standard_types(shape),
                tokenizer_proto=proto,
                pieces=Tokenizer(proto).pieces(),
                metadata=metadata,
            ),
        )
        label, make, qat = file_row(path, shape)
        assert make().weights.keys() == tensors.keys()
        return label, qat

    trained, kept = ({"method": "gptq", "steps": 1500, "chosen": chosen} for chosen in ("ema", "start"))
    assert labelled(quantised={"method": "gptq", "qat": trained}) == ("model.bullet (gptq, 1,500 steps of QAT)", True)
    assert labelled(qat=trained) == ("model.bullet (gptq, 1,500 steps of QAT)", True), "as the stage writes it"
    assert labelled(quantised={"method": "gptq", "qat": kept}) == ("model.bullet (gptq)", False), "the calibrated weights were better"
    assert labelled(quantised={"method": "none"}) == ("model.bullet (none)", False)
    assert labelled() == ("model.bullet (unknown)", False)


@pytest.mark.parametrize("path", sorted(BENCH.glob("*.py")), ids=lambda path: path.name)
def test_the_names_that_a_script_imports_exist(path: Path) -> None:
    """Also those of imports within functions. The scripts run for too long to be tested as a whole."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bulletlm":
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}"), (node.lineno, alias.name)


def test_text_of_a_package_is_collected_without_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [name for name in ("mandoc", "col") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    package = tmp_path / "package/usr/share"
    manual = package / "man/de/man1"
    fortunes = package / "games/fortunes/de"
    for folder in (manual, fortunes, package / "doc/x"):
        folder.mkdir(parents=True)
    sentence = "Größe und Maß: " + "Die Brücke trägt fünf schöne Züge. " * 20
    page = f'.TH PROBE 1 "2020" "x" "y"\n.SH BEZEICHNUNG\nprobe \\- \\fBfette\\fP Wörter\n.PP\n{sentence.strip()}\n'
    (manual / "probe.1.gz").write_bytes(gzip.compress(page.encode()))
    (manual / "alias.1.gz").write_bytes(gzip.compress(b".so man1/probe.1\n"))
    (fortunes / "witze").write_text("Erster\nSpruch\n%\n100 % »Käse«\n%\n", encoding="utf-8")
    (fortunes / "witze.dat").write_bytes(b"\x00\x01")
    (fortunes / "alt").write_bytes("Käse\n".encode("latin-1"))
    (package / "doc/x/seite.de.html").write_text("<p>Straße", encoding="utf-8")
    (package / "doc/x/seite.fr.html").write_text("<p>rue", encoding="utf-8")

    out = tmp_path / "out"
    script("debian_text", monkeypatch).collect(tmp_path / "package", out, "de")
    assert {path.name for path in out.iterdir()} == {"probe.1.txt", "witze.jsonl", "x-seite.de.html"}
    text = (out / "probe.1.txt").read_text(encoding="utf-8")
    assert "probe - fette Wörter" in text
    assert sentence.strip() in text.splitlines(), "a paragraph is one line"
    assert "PROBE" not in text and "2020" not in text
    rows = [json.loads(line)["text"] for line in (out / "witze.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == ["Erster\nSpruch", "100 % »Käse«"]


@pytest.mark.parametrize(
    ("both", "first_only", "second_only", "neither", "expected"),
    [
        (20, 5, 10, 15, 0.4),
        (45, 15, 25, 15, 0.1304),
        (25, 35, 5, 35, 0.2593),
        (118, 5, 2, 0, -0.0234),
        (7, 0, 0, 3, 1),
        (0, 5, 5, 0, -1),
    ],
)
def test_the_agreement_of_readers_is_that_of_published_tables(
    monkeypatch: pytest.MonkeyPatch, both: int, first_only: int, second_only: int, neither: int, expected: float
) -> None:
    kappa = script("grades", monkeypatch).kappa
    pairs = [(True, True)] * both + [(True, False)] * first_only + [(False, True)] * second_only + [(False, False)] * neither
    first, second = ([pair[reader] for pair in pairs] for reader in (0, 1))
    assert kappa(first, second) == pytest.approx(expected, abs=5e-5)
    assert kappa(second, first) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("mark", [True, False])
def test_the_agreement_of_readers_without_two_marks_is_undefined(monkeypatch: pytest.MonkeyPatch, mark: bool) -> None:
    assert math.isnan(script("grades", monkeypatch).kappa([mark] * 9, [mark] * 9))
