"""The model card of a file, with the report of its run and the results of benchmarks where they belong to the same weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bulletlm.data.language_names import ENGLISH_NAMES
from bulletlm.errors import BulletError, DataError
from bulletlm.evaluate.benchmark import METRICS
from bulletlm.evaluate.language_models import label_of, run_label
from bulletlm.files import read_json
from bulletlm.formats.convert import read_model
from bulletlm.formats.model_card import model_card
from bulletlm.quant.types import BITS

_RESULT_KEYS = {"name", "kind", "benchmark", "language", "metric", "higher_is_better", "models", "published"}


def card_of(path: Path, benchmarks: Sequence[Path] = (), file_name: str | None = None) -> str:
    """README.md of the model at `path`: a .bullet, .gguf or Hugging Face folder, or a run folder, which stands for its model.bullet.

    Args:
        path: the model.
        benchmarks: JSON files of `bullet benchmark --out`.
        file_name: name of the .bullet file in the commands; None: that of `path`.

    Raises:
        BulletError: there is no model at `path`, or it is damaged.
        DataError: a file of benchmarks is damaged, or has no result of this model.
    """
    if path.is_dir() and (path / "model.bullet").is_file():
        path = path / "model.bullet"
    kind, model = read_model(path)
    report = _report(path, model.metadata) if kind == "bullet" else None
    results = [_of_model(result, path, file) for file in benchmarks for result in _results(file)]
    return model_card(
        model,
        form="transformers" if kind == "hf" else "bullet" if kind in ("bullet", "npy") else "other",
        report=report,
        benchmarks=results,
        file_name=file_name or path.name,
        language_names=ENGLISH_NAMES,
    )


def _report(path: Path, metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The report beside a .bullet file, if it describes exactly this file."""
    file = path.parent / "report.json"
    if not file.is_file():
        return None
    try:
        report = read_json(file)
        same = report["bq4"]["bytes"] == path.stat().st_size and report["quantised"] == metadata.get("quantised")
    except (BulletError, LookupError, TypeError):
        return None  # the card of a file does not depend on a damaged report beside it
    return report if same else None


def _results(file: Path) -> list[Mapping[str, Any]]:
    values = read_json(file)
    rows = values.get("results") if isinstance(values, dict) else None
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and row.keys() >= _RESULT_KEYS and row["kind"] in METRICS for row in rows
    ):
        raise DataError(f"{file} has no results of benchmarks: write it with bullet benchmark MODEL --suite SUITE --out {file}")
    return rows


def _of_model(result: Mapping[str, Any], path: Path, file: Path) -> Mapping[str, Any]:
    """The result with only the values of the model at `path`."""
    own = {label_of(path), label_of(path.absolute())}
    if path.name == "model.bullet":  # what a run folder was measured as
        own |= {run_label(place, bits) for place in (path.parent, path.parent.absolute()) for bits in BITS.values()}
    models = [row for row in result["models"] if row["model"] in own]
    if not models:
        measured = ", ".join(row["model"] for row in result["models"])
        raise DataError(f"{file} has no result of {path}, only of {measured}: measure this model")
    return {**result, "models": models}
