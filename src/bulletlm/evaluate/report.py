"""The evaluation stage: measure model.bullet against the FP32 export, write report.json and report.html."""

import platform
import shlex
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bulletlm import __version__
from bulletlm.config.schema import Config
from bulletlm.data.tokens import DocumentRange, TokenIndex, open_tokens, read_index
from bulletlm.evaluate.behaviour import Answers, Described, Questions, Texts, ask, describe, facts_for, pairs_for
from bulletlm.evaluate.charts import Points
from bulletlm.evaluate.compare import Comparison, compare_tokens
from bulletlm.evaluate.data_checks import check_data
from bulletlm.evaluate.formatting import NO_LANGUAGE
from bulletlm.evaluate.generation import mean_checks
from bulletlm.evaluate.labels import Labels, describe_cleaning, describe_settings
from bulletlm.evaluate.page import render
from bulletlm.evaluate.parent import measure_origin
from bulletlm.evaluate.prompts import Prompt, choose_samples, load_prompts
from bulletlm.evaluate.report_types import DataChecks, Exchange, Generations, ModelFacts, Origin, Report, TensorRow, Training, Verdict
from bulletlm.evaluate.summary import sentences, summary
from bulletlm.evaluate.training_text import TrainingText, all_texts, read_part
from bulletlm.evaluate.verdicts import judge
from bulletlm.evaluate.weight_checks import check_weights, is_as_built
from bulletlm.evaluate.words import Words
from bulletlm.files import read_json, write_json, write_text
from bulletlm.formats.bullet.reader import BulletFile, open_bullet
from bulletlm.formats.npy import read_npy
from bulletlm.formats.provenance import is_private
from bulletlm.progress import Progress
from bulletlm.quant.types import bits_of_file
from bulletlm.runtime import Model, load
from bulletlm.runtime.sampling import Sampling
from bulletlm.shape import ModelShape
from bulletlm.train.log.events import parse_event

REPORT_VERSION = 1
CURVES = ("train/loss", "val/loss", "val/loss_ema", "val/loss_bq4", "lr", "tokens_per_s", "grad_norm")
POINTS_PER_CURVE = 300

NUMBER = (int, float)
METRICS_NEEDED: dict[str, dict[str, tuple[type, ...]]] = {
    "train": {"tokens": NUMBER, "tokens_per_s": NUMBER},
    "eval": {"val/loss": NUMBER, "best": (bool,)},
    "end": {"reason": (str,)},
}
"""Values of the events of metrics.jsonl that the report needs, and their types."""

SMALLEST_SHARE = 0.02
"""Share of the training text below which a language does not count as one that the model has learned."""

NO_VERDICT: Verdict = {"decision": "safe", "title": "", "deciding": [], "figures": [], "causes": [], "remedies": []}
"""Holds the place until the figures of the report are complete."""


def evaluate_run(run_dir: Path, config: Config, progress: Progress, parent: Path | None = None) -> Report:
    """Compare export/npy with model.bullet on the validation text, let both answer the prompts, and write the report.

    Args:
        run_dir: the run folder.
        config: its configuration.
        progress: shows bars and messages.
        parent: folder of the tensors of the model from which the run started; None if it started from random weights.

    Returns:
        The content of report.json (docs/evaluation.md).

    Raises:
        BulletError: a file of the run folder is missing or damaged, or a model computes NaN.
        DataError: the prompt file or the validation tokens cannot be used.
    """
    fp32, bq4 = load(run_dir / "export" / "npy"), load(run_dir / "model.bullet")
    return build_report(run_dir, config, measure(run_dir, config, (fp32, bq4), progress, parent))


def measure(run_dir: Path, config: Config, models: tuple[Model, Model], progress: Progress, parent: Path | None = None) -> "Measurements":
    """Compare two models, FP32 and 4-bit, on the texts of a run folder, and let both answer the prompts; see `evaluate_run`.

    Raises:
        BulletError, DataError: as `evaluate_run`.
    """
    fp32, bq4 = models
    prompts = load_prompts(config.evaluate.prompts)
    file = open_tokens(run_dir / "tokens", "val")
    comparison, losses = compare_tokens(fp32, bq4, file, progress)
    checks = check_data(run_dir / "tokens", fp32, losses, config.seed, progress)
    texts = read_texts(run_dir / "data")
    questions = Questions(
        prompts=prompts,
        facts=facts_for(prompts, texts, bq4, config.seed),
        pairs=pairs_for(texts, trained_languages(read_index(run_dir / "tokens")), bq4, config.seed),
        sampling=Sampling(**config.sampling.model_dump(), seed=config.seed),
        seed=config.seed,
    )
    answers = [ask(model, questions, progress) for model in (fp32, bq4)]
    return Measurements(
        comparison=comparison,
        data_checks=checks,
        questions=questions,
        texts=texts,
        fp32=answers[0],
        bq4=answers[1],
        origin=measure_origin(run_dir, config, parent, (fp32, bq4), file, progress),
    )


def read_texts(folder: Path) -> Texts:
    """The texts of a run's data folder with which answers are compared; without its train.jsonl there are none."""
    if not (folder / "train.jsonl").is_file():
        return Texts(training=None, documents=[], held_out=[])
    documents, complete = read_part(folder / "train.jsonl")
    held_out, _ = read_part(folder / "val.jsonl") if (folder / "val.jsonl").is_file() else ([], True)
    return Texts(training=TrainingText(all_texts(documents), complete), documents=documents, held_out=held_out)


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What was measured.

    Attributes:
        comparison: of both models on the validation text.
        data_checks: comparisons with the training tokens.
        questions: what the models were asked.
        texts: the texts with which answers are compared.
        fp32, bq4: the answers of each model.
        origin: the model from which the run started against the new ones; None if there is none.
    """

    comparison: Comparison
    data_checks: DataChecks
    questions: Questions
    texts: Texts
    fp32: Answers
    bq4: Answers
    origin: Origin | None = None


def build_report(run_dir: Path, config: Config, measured: Measurements) -> Report:
    """Combine the measurements with the files of the run folder, and write report.json and report.html.

    The same folder and measurements give the same bytes. Optional files (metrics.jsonl, clean-report.json, quantization.json, the
    tokenizer's report.json) may be missing; the report lists them under "missing".

    Raises:
        BulletError: a file that the report needs is missing or damaged, or the disk is full.
    """
    missing: list[str] = []
    files = _read_files(run_dir, missing)
    report = _combine(run_dir, config, measured, files, missing)
    missing += measured.origin["missing"] if measured.origin else []
    if report["private_messages"]:
        _leave_out_quotes(report)
    say = Words(bits=bits_of_file(report))
    report["summary"], report["verdict"] = summary(report, say), sentences(report, say)
    report["verdicts"] = judge(report, config.report.limits)
    write_json(run_dir / "report.json", report)
    write_text(run_dir / "report.html", render(report))
    return report


@dataclass(frozen=True, kw_only=True)
class _RunFiles:
    """What the report takes from the models, the token index and the records of the stages.

    Attributes:
        shape: of the models.
        metadata: of the FP32 export.
        tensors: the weights of the FP32 export.
        bullet: the model file.
        rounding: quantization.json of the build stage; empty if it is missing.
        index: of the tokens folder.
        cleaning: clean-report.json of the data stage; None if it is missing.
    """

    shape: ModelShape
    metadata: dict[str, Any]
    tensors: dict[str, np.ndarray[Any, Any]]
    bullet: BulletFile
    rounding: dict[str, Any]
    index: TokenIndex
    cleaning: dict[str, Any] | None

    @property
    def private(self) -> bool:
        """Whether the training text has private messages."""
        return is_private(self.metadata) or bool((self.cleaning or {}).get("private_messages"))


def _read_files(run_dir: Path, missing: list[str]) -> _RunFiles:
    """Read the files of a run folder; add what is not available without an optional one to `missing`."""
    shape, tensors, _, metadata = read_npy(run_dir / "export" / "npy")
    return _RunFiles(
        shape=shape,
        metadata=metadata,
        tensors=tensors,
        bullet=open_bullet(run_dir / "model.bullet"),
        rounding=_optional(run_dir, "quantization.json", "the effect of each matrix", missing) or {},
        index=read_index(run_dir / "tokens"),
        cleaning=_optional(run_dir, "data/clean-report.json", "the counts of the cleaning rules", missing),
    )


def _combine(run_dir: Path, config: Config, measured: Measurements, files: _RunFiles, missing: list[str]) -> Report:
    """The report without its summary and verdicts, which are made from its figures; `missing` becomes a part of it."""
    comparison, index = measured.comparison, files.index
    languages, labels = trained_languages(index), Labels(files.cleaning)
    tensor_rows = _tensor_rows(files.tensors, files.bullet, files.rounding.get("tensors") or {})
    if measured.texts.training is None:
        missing.append("invented words, copied passages and facts (data/train.jsonl is missing)")
    described = describe(measured.questions, measured.fp32, measured.bq4, measured.texts, languages)
    return {
        "report_version": REPORT_VERSION,
        "name": config.model_name or config.name,
        "summary": "",
        "verdict": [],
        "verdicts": {"quantization": NO_VERDICT, "usefulness": NO_VERDICT},
        "model": _model_facts(files, config.license, tensor_rows),
        "fp32": {"path": "export/npy", "bytes": _folder_bytes(run_dir / "export" / "npy"), **comparison.a.to_dict()},
        "bq4": {"path": "model.bullet", "bytes": (run_dir / "model.bullet").stat().st_size, **comparison.b.to_dict()},
        "comparison": comparison.to_dict(),
        "by_language": {label: part.to_dict() for label, part in comparison.by_language.items()},
        "by_source": labels.rename({name: part.to_dict() for name, part in comparison.by_source.items()}),
        "generations": _generations(config, measured, described, languages),
        "behaviour": described.behaviour,
        "data_checks": measured.data_checks,
        "origin": measured.origin,
        "training": read_training(run_dir / "metrics.jsonl", missing),
        "data": describe_cleaning(files.cleaning, labels, config) if files.cleaning else None,
        "private_messages": files.private,
        "tokens": _token_counts(index),
        "tokenizer": _optional(run_dir, "tokenizer/report.json", "the statistics of the tokenizer", missing),
        "vocabulary_sizes": read_json(sizes) if (sizes := run_dir / "tokenizer" / "compare.json").is_file() else None,
        "quantised": files.bullet.metadata.get("quantised"),
        "auto_fix": files.rounding.get("auto_fix"),
        "tensors": tensor_rows,
        "sensitivity": files.rounding.get("layers") or {},
        "commands": _commands(measured.questions.prompts, config.seed),
        "settings": describe_settings(config),
        "versions": _versions(),
        "missing": missing,
    }


def _model_facts(files: _RunFiles, license: str, tensor_rows: list[TensorRow]) -> ModelFacts:
    parameters, training = files.shape.n_parameters, files.metadata.get("training", {})
    return {
        "parameters": parameters,
        "shape": files.shape.to_dict(),
        "license": license,
        "languages": sorted(trained_languages(files.index), key=lambda code: -files.index["train"]["by_language"][code]["bytes"]),
        "weights": training.get("weights", "raw"),
        "step": training.get("step"),
        "bits_per_weight": 8 * sum(row["bytes"] for row in tensor_rows) / parameters,
    }


def _token_counts(index: TokenIndex) -> dict[str, Any]:
    """The sizes of both splits, without the names of sources and the position of every document."""
    return {
        "vocab_size": index["vocab_size"],
        "train": {name: value for name, value in index["train"].items() if name != "sources"},
        "val": {**index["val"], "documents": len(_documents(index))},
    }


def _versions() -> dict[str, str]:
    return {
        "bulletlm": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "sentencepiece")},
        "system": f"{platform.system()} {platform.machine()}",
    }


def _leave_out_quotes(report: Report) -> None:
    """Remove the questions and answers that quote private training or validation text."""
    behaviour = report["behaviour"]
    for part in (behaviour["facts"], behaviour["answer_fit"]):
        if part:
            part["rows"] = []


def read_training(path: Path, missing: list[str]) -> Training | None:
    """Totals, best step and thinned curves of the training from metrics.jsonl; None if there is no such file.

    A resumed run can repeat steps; the last line of a step counts. A damaged line, as one that a crash cut off, is skipped and reported
    in `missing`.
    """
    if not path.exists():
        missing.append(f"the learning curves ({path.name} is missing)")
        return None
    by_event: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "eval": {}, "end": {}}
    damaged = 0
    for line in path.read_bytes().splitlines():
        event = parse_event(line)
        if event and all(type(event.get(name)) in kinds for name, kinds in METRICS_NEEDED.get(event["event"], {}).items()):
            by_event.setdefault(event["event"], {})[event["step"]] = event
        else:
            damaged += 1
    if damaged:
        missing.append(f"{damaged} unreadable line{'s' if damaged > 1 else ''} of {path.name}")
    train = [by_event["train"][step] for step in sorted(by_event["train"])]
    evaluated = [by_event["eval"][step] for step in sorted(by_event["eval"])]
    if not train:
        missing.append(f"the learning curves ({path.name} has no training step)")
        return None
    steps = [
        (event["tokens"] - before, event["tokens_per_s"]) for event, before in zip(train, [0, *(e["tokens"] for e in train)], strict=False)
    ]
    best = [event["step"] for event in evaluated if event["best"]]
    curves = {name: [[e["step"], e[name]] for e in train + evaluated if type(e.get(name)) in NUMBER] for name in CURVES}
    return {
        "steps": train[-1]["step"],
        "tokens": train[-1]["tokens"],
        "seconds": sum(tokens / speed for tokens, speed in steps if speed > 0),
        "tokens_per_s": median(speed for _, speed in steps),
        "best_step": best[-1] if best else None,
        "last_val_loss": _val_loss(evaluated[-1]) if evaluated else None,
        "ended": by_event["end"][max(by_event["end"])]["reason"] if by_event["end"] else None,
        "curves": {name: thin(points) for name, points in curves.items() if points},
    }


def thin(points: Points) -> Points:
    """At most POINTS_PER_CURVE points: adjacent points are averaged, so that short spikes stay visible and the mean is unchanged."""
    if len(points) <= POINTS_PER_CURVE:
        return points
    return [[group[-1][0], float(np.mean([value for _, value in group]))] for group in _split(points, POINTS_PER_CURVE)]


def _split(points: Points, parts: int) -> list[Points]:
    cuts = [len(points) * n // parts for n in range(parts + 1)]
    return [points[start:stop] for start, stop in pairwise(cuts)]


def _val_loss(event: dict[str, Any]) -> float:
    return min(float(event[name]) for name in ("val/loss", "val/loss_ema") if type(event.get(name)) in NUMBER)


def _optional(run_dir: Path, name: str, what: str, missing: list[str]) -> Any:
    if (run_dir / name).exists():
        return read_json(run_dir / name)
    missing.append(f"{what} ({name} is missing)")
    return None


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _tensor_rows(tensors: dict[str, np.ndarray[Any, Any]], bullet: BulletFile, measured: dict[str, Any]) -> list[TensorRow]:
    """The errors of weights are those of weight_checks.py; the errors of outputs come from the build stage."""
    qat = (bullet.metadata.get("quantised") or {}).get("qat")
    trained = bool(qat and qat["chosen"] != "start")
    rows: list[TensorRow] = []
    for name, weight in tensors.items():
        built, stored = measured.get(name, {}), bullet.dequantize(name)
        check = check_weights(weight, stored, type=bullet.type(name), trained=trained)
        if check.far_rows and is_as_built(check.relative_rmse, built.get("relative_rmse")):  # calibration moved the weights
            check = check_weights(weight, stored, type=bullet.type(name), trained=True)
        named = range(len(bullet.pieces)) if weight.ndim > 1 and weight.shape[0] == len(bullet.pieces) else ()
        rows.append(
            {
                "name": name,
                "type": bullet.type(name),
                "weights": weight.size,
                "bytes": bullet.tensors[name].size,
                "relative_rmse": check.relative_rmse,
                "built_rmse": built.get("relative_rmse"),
                "levels": check.levels,
                "plain_levels": check.plain_levels,
                "plain_rmse": check.plain_rmse,
                "scale": check.scale,
                "rows": check.rows,
                "far_rows": check.far_rows,
                "first_far": check.first_far,
                "far_pieces": {str(row): bullet.pieces[row].text for row in check.first_far if row in named},
                "exchanged": check.exchanged,
                "output_error": built.get("output_error"),
                "output_error_rtn": built.get("output_error_rtn"),
                "kl": built.get("kl"),
            }
        )
    return rows


def _documents(index: TokenIndex) -> list[DocumentRange]:
    documents = index["val"]["documents"]
    return documents if isinstance(documents, list) else []


def trained_languages(index: TokenIndex) -> list[str]:
    """The languages of the training text, without those of a few stray documents."""
    train = index["train"]
    return [code for code, row in train["by_language"].items() if row["bytes"] >= SMALLEST_SHARE * train["bytes"]]


def named_languages(index: TokenIndex) -> list[str]:
    """`trained_languages` in the order of their codes, for a model file: without text in no language ("und")."""
    return sorted(code for code in trained_languages(index) if code != NO_LANGUAGE)


def _generations(config: Config, measured: Measurements, described: Described, languages: list[str]) -> Generations:
    prompts, fp32, bq4 = measured.questions.prompts, measured.fp32.sampled, measured.bq4.sampled
    rows: list[Exchange] = [
        {
            "prompt": prompt.prompt,
            "language": prompt.language,
            "kind": prompt.kind,
            "fp32": a.to_dict(),
            "bq4": b.to_dict(),
            "checks": {"fp32": described.a[n], "bq4": described.b[n]},
        }
        for n, (prompt, a, b) in enumerate(zip(prompts, fp32, bq4, strict=True))
    ]
    return {
        "seed": config.seed,
        "sampling": config.sampling.model_dump(mode="json"),
        "checks": {"fp32": mean_checks(fp32), "bq4": mean_checks(bq4)},
        "identical": sum(a.text == b.text for a, b in zip(fp32, bq4, strict=True)),
        "samples": choose_samples(prompts, config.evaluate.samples, languages),
        "rows": rows,
    }


def _commands(prompts: list[Prompt], seed: int) -> list[str]:
    """Commands for the folder of the report."""
    return [
        "bullet chat model.bullet",
        f"bullet generate model.bullet --prompt {shlex.quote(prompts[0].prompt)} --seed {seed}",
        "bullet info model.bullet",
    ]
