"""Model cards in the form of the Hugging Face hub: README.md with a YAML heading, made from a model's metadata, its report, benchmarks.

Files of other origin can hold anything under the metadata keys, so every value is checked before it is shown.
"""

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from bulletlm.formats.bullet.header import parent_names
from bulletlm.formats.gguf import size_label
from bulletlm.formats.provenance import PRIVATE_NOTE, is_private
from bulletlm.formats.stored import StoredModel
from bulletlm.quant.types import METHOD_WORDS, bits_of_file
from bulletlm.terminal import printable

HUB_LICENSES = {
    "CC0-1.0",
    "CC-BY-4.0",
    "CC-BY-SA-4.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-SA-4.0",
    "MIT",
    "Apache-2.0",
    "BSD-3-Clause",
    "GPL-3.0",
    "Unlicense",
}
"""Licences that the model hub knows by their lower-case names."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""OWNER/NAME of a model or data set on the hub."""

SOURCES_SHOWN = 50


def model_card(
    model: StoredModel,
    *,
    form: Literal["transformers", "bullet", "other"] = "transformers",
    report: Mapping[str, Any] | None = None,
    benchmarks: Sequence[Mapping[str, Any]] = (),
    file_name: str = "model.bullet",
    language_names: Mapping[str, str] | None = None,
) -> str:
    """README.md of a model.

    Args:
        model: the weights that the card describes, with their metadata.
        form: "transformers" for a Hugging Face folder, "bullet" for a .bullet file or a folder of .npy tensors, "other" for files that
            must be converted first (GGUF, version 1); decides what "Use" shows.
        report: report.json of the run that made exactly these weights; adds verdicts and figures by language.
        benchmarks: the results of `bullet benchmark --out`, for these weights.
        file_name: name of the file in the commands.
        language_names: language code -> its name in English; codes without one are shown as they are.
    """
    metadata = model.metadata
    name = str(metadata.get("name") or "model")
    parts = [
        _heading(model, name, report, benchmarks, form),
        f"# {_line(name)}",
        _introduction(model, language_names or {}),
        *([f"**{PRIVATE_NOTE[0].upper()}{PRIVATE_NOTE[1:]}.**"] if is_private(metadata) else []),
        *_verdicts(report),
        _table(["", ""], _figures(model, form)),
        *_by_language(report, language_names or {}),
        *_benchmarks(benchmarks),
        "## Use",
        _use(form, file_name),
        "## Training text and attribution",
        *_training_text(model),
        "## Limits",
        f"A model of {size_label(model.shape.n_parameters)} parameters knows little and often invents facts. Do not rely on its answers.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# --- the YAML heading ---------------------------------------------------------------------------------------------------


def _heading(model: StoredModel, name: str, report: Mapping[str, Any] | None, benchmarks: Sequence[Mapping[str, Any]], form: str) -> str:
    metadata = model.metadata
    license = str(metadata.get("license") or "")
    known = license in HUB_LICENSES
    # The hub knows codes of languages, without a script such as in mr-Latn.
    languages = list(dict.fromkeys(code.partition("-")[0] for code in _languages(metadata) if code != "und"))
    datasets = [entry["dataset"] for entry in _entries(metadata) if _HUB_NAME.fullmatch(str(entry.get("dataset", "")))]
    parents = [parent for parent in parent_names(metadata) if _HUB_NAME.fullmatch(parent)]
    results = _model_index(model, report, benchmarks)
    head: dict[str, Any] = {
        "license": license.lower() if known else "other",
        **({} if known or not license else {"license_name": license}),
        **({"language": languages} if languages else {}),
        "library_name": "transformers" if form == "transformers" else "bulletlm",
        "pipeline_tag": "text-generation",
        "tags": ["bulletlm"],
        **({"datasets": datasets} if datasets else {}),
        **({"metrics": sorted({metric["type"] for result in results for metric in result["metrics"]})} if results else {}),
        **({"base_model": parents[0]} if parents else {}),
        **({"model-index": [{"name": name, "results": results}]} if results else {}),
    }
    # JSON values are YAML values.
    return "\n".join(["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()), "---"])


def _model_index(model: StoredModel, report: Mapping[str, Any] | None, benchmarks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    task = {"type": "text-generation"}
    results = []
    measured = [{"type": kind, "value": round(value, 4)} for kind, value in _measured(model, report).items()]
    if measured:
        held_out = {"name": "held-out part of the training text", "type": "held-out"}
        results.append({"task": task, "dataset": held_out, "metrics": measured})
    metrics = {"halves": "bits", "pairs": "accuracy", "choice": "accuracy", "translation": "chrf", "text": "bits_per_byte"}
    for result in benchmarks:
        dataset = {"name": result["name"], "type": result["benchmark"] or result["kind"], "config": result["language"]}
        value = round(result["models"][-1]["value"], 4)
        results.append({"task": task, "dataset": dataset, "metrics": [{"type": metrics[result["kind"]], "value": value}]})
    return results


def _measured(model: StoredModel, report: Mapping[str, Any] | None) -> dict[str, float]:
    """Perplexity, loss and bits per byte of exactly these weights on the held-out text; only what is known."""
    if report:
        side = report["bq4"]
        values = {"perplexity": side["perplexity"], "loss": side["loss"], "bits_per_byte": side["bits_per_byte"]}
        return {name: value for name, value in values.items() if _is_number(value)}
    loss, of_these = _loss(model.metadata)
    return {"perplexity": _perplexity(loss), "loss": loss} if loss is not None and of_these else {}


def _loss(metadata: Mapping[str, Any]) -> tuple[float | None, bool]:
    """The validation loss that the file states, and whether it is that of the weights in the file (and not of the FP32 model)."""
    rounded, training = _object(metadata, "quantised"), _object(metadata, "training")
    if _is_number(rounded.get("val_loss")):
        return float(rounded["val_loss"]), True
    if _is_number(training.get("val_loss")):
        return float(training["val_loss"]), "quantised" not in metadata
    return None, False


# --- sections -----------------------------------------------------------------------------------------------------------


def _introduction(model: StoredModel, names: Mapping[str, str]) -> str:
    languages = [names.get(code, code) for code in _languages(model.metadata) if code != "und"]
    spoken = f" for {_line(', '.join(languages))}" if languages else ""
    parents = parent_names(model.metadata)
    made = f"trained with BulletLM from the model {_line(parents[0])}" if parents else "trained from scratch with BulletLM"
    return f"A small Llama-shaped language model{spoken}, {made}."


def _verdicts(report: Mapping[str, Any] | None) -> Iterable[str]:
    if not report or not isinstance(report.get("verdicts"), dict):
        return
    yield "## Verdict"
    for title, key in ((f"{bits_of_file(report)} bits", "quantization"), ("Usefulness", "usefulness")):
        verdict = report["verdicts"][key]
        yield f"**{title}: {_line(verdict['title'])}**"
        deciding = [figure for figure in verdict["figures"] if figure["name"] in verdict["deciding"]]
        yield "\n".join(f"- {_line(figure['text'])}" for figure in deciding)


def _figures(model: StoredModel, form: str) -> list[list[str]]:
    shape, metadata = model.shape, model.metadata
    training, rounded = _object(metadata, "training"), _object(metadata, "quantised")
    rows = [
        ["parameters", f"{shape.n_parameters:,}"],
        ["shape", f"{shape.n_layers} layers, dim {shape.dim}, {shape.n_heads} heads, hidden {shape.hidden_dim}"],
        ["context", f"{shape.max_seq_len} tokens"],
        ["vocabulary", f"{shape.vocab_size:,} tokens (sentencepiece BPE)"],
        ["licence", str(metadata.get("license") or "not said")],
    ]
    if is_private(metadata):
        rows.append(["private", PRIVATE_NOTE])
    for parent in parent_names(metadata):
        rows.append(["started from", parent])
    if type(training.get("tokens_seen")) is int:
        rows.append(["trained on", f"{training['tokens_seen']:,} tokens"])
    loss, of_these = _loss(metadata)
    if loss is not None:
        before = "" if of_these else " of the FP32 model, before rounding"
        rows.append([f"validation loss{before}", f"{loss:.4f} (perplexity {_perplexity(loss):.2f})"])
    if _is_number(rounded.get("perplexity_change")):
        rows.append(["against FP32", f"perplexity {rounded['perplexity_change']:+.2%}"])
    if rounded.get("method") is not None:
        method = str(rounded["method"])
        rows.append(["rounding", METHOD_WORDS.get(method, method)])
    kinds = {kind for kind in (getattr(tensor, "type", None) for tensor in model.tensors.values()) if kind}
    if kinds:
        types = " and ".join(sorted(kinds))
        rows.append(["weights", f"exactly those of a file in {types}, written out as float32" if form == "transformers" else types])
    return rows


def _by_language(report: Mapping[str, Any] | None, names: Mapping[str, str]) -> Iterable[str]:
    if not report or not report.get("by_language"):
        return
    yield "## Prediction by language"
    rows = []
    for code, part in report["by_language"].items():
        bits = [part[side]["bits_per_byte"] for side in ("a", "b")]
        shown = ["–" if value is None else f"{value:.3f}" for value in bits]
        rows.append([names.get(code, code), *shown, f"{part['perplexity_change']:+.2%}", f"{part['tokens']:,}"])
    yield _table(
        ["language", "bits per byte, FP32", f"bits per byte, {bits_of_file(report)}-bit", "change of perplexity", "held-out tokens"], rows
    )


def _benchmarks(results: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    if not results:
        return
    yield "## Benchmarks"
    rows = []
    for result in results:
        own = result["models"][-1]
        low, high = own["low"], own["high"]
        interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
        better = "higher" if result["higher_is_better"] else "lower"
        others = ", ".join(f"{row['model']} {row['value']:.1f}" for row in result["published"][:4])
        rows.append(
            [f"{result['name']}, {result['language']}", f"{result['metric']} ({better} is better)", f"{own['value']:.2f}{interval}", others]
        )
    yield _table(["test set", "measure", "value [95 % interval]", "published"], rows)


def _use(form: str, file_name: str) -> str:
    file = shlex.quote(file_name)
    if form == "bullet":
        return f"```sh\nbullet chat {file}\nbullet serve {file}\nbullet convert {file} model-hf\n```"
    if form == "other":
        return f"```sh\nbullet convert {file} converted.bullet\nbullet chat converted.bullet\nbullet serve converted.bullet\n```"
    return "\n".join(
        [
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")',
            'model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")',
            'messages = [{"role": "user", "content": "..."}]',
            'prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)',
            "answer = model.generate(**prompt)[0, prompt.input_ids.shape[1] :]",
            "print(tokenizer.decode(answer, skip_special_tokens=True))",
            "```",
        ]
    )


def _training_text(model: StoredModel) -> Iterable[str]:
    """Attribution by source of the configuration, then the files with their hashes."""
    metadata = model.metadata
    entries = _entries(metadata)
    if entries:
        rows = [[str(entry.get(key) or "not given") for key in ("label", "license", "attribution")] for entry in entries]
        yield _table(["source", "licence", "attribution"], rows)
    files = [source for source in _list(_object(metadata, "training"), "sources") if isinstance(source, dict)]
    if files:
        shown = [
            [str(source.get("label") or f"source-{number}"), _count(source.get("bytes")), f"`{str(source.get('sha256') or '')[:16]}`"]
            for number, source in enumerate(files[:SOURCES_SHOWN], 1)
        ]
        yield _table(["file", "bytes", "SHA-256 (beginning)"], shown)
        if len(files) > SOURCES_SHOWN:
            yield f"{len(files) - SOURCES_SHOWN:,} more files are listed in the model file."
    for parent in _list(metadata, "parents"):
        if isinstance(parent, dict):
            name, license = str(parent.get("name") or "unnamed"), str(parent.get("license") or "not given")
            yield f"Started from {_line(name)}, licence: {_line(license)}."
    if not entries and not files:
        yield "The file does not say what the model was trained on."


# --- helpers ------------------------------------------------------------------------------------------------------------


def _object(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def _list(values: Mapping[str, Any], key: str) -> list[Any]:
    value = values.get(key)
    return value if isinstance(value, list) else []


def _entries(metadata: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of `training_text`: label, licence, attribution and data set of each source in the configuration."""
    return [entry for entry in _list(metadata, "training_text") if isinstance(entry, dict)]


def _languages(metadata: Mapping[str, Any]) -> list[str]:
    return [code for code in _list(metadata, "languages") if isinstance(code, str)]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf  # a damaged file may say anything


def _count(value: Any) -> str:
    return f"{value:,}" if type(value) is int else ""


def _line(text: str) -> str:
    """Text from a file as one line of Markdown."""
    return printable(text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |" if any(head) else "| | |", f"|{'---|' * len(head)}"]
    lines += ["| " + " | ".join(_line(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
