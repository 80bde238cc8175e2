"""Results as text for a terminal: the summary of a run, the facts about a file, a comparison."""

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulletlm.files import read_json
from bulletlm.formats.bullet.reader import BulletFile, open_bullet
from bulletlm.formats.provenance import PRIVATE_NOTE, is_private
from bulletlm.quant.types import METHOD_WORDS
from bulletlm.terminal import echo, printable, printable_json

if TYPE_CHECKING:
    from rich.console import Console

    from bulletlm.evaluate.report_types import Verdicts


def print_summary(folder: Path, beside: Path | None = None) -> None:
    """Print the results of a finished run: FP32 and the model file in numbers, sample answers, paths, the next command.

    Args:
        folder: the run folder.
        beside: a .bullet file of the package whose answers are shown beside those of the new model.
    """
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    report = read_json(folder / "report.json")
    fp32, bq4, both = report["fp32"], report["bq4"], report["comparison"]
    model = folder / "model.bullet"
    console = Console(highlight=False)
    console.print()
    console.print(Text(printable(report["summary"]), style="bold"))
    table = Table("", "FP32", name_of_file(report), "change", box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_row("validation loss", f"{fp32['loss']:.4f}", f"{bq4['loss']:.4f}", f"{both['loss_delta']['mean']:+.4f}")
    table.add_row("perplexity", f"{fp32['perplexity']:.2f}", f"{bq4['perplexity']:.2f}", f"{both['perplexity_change']:+.2%}")
    bits = [part["bits_per_byte"] for part in (fp32, bq4)]
    table.add_row("bits per byte", f"{bits[0]:.4f}", f"{bits[1]:.4f}", f"{bits[1] - bits[0]:+.4f}")
    table.add_row("size", f"{fp32['bytes'] / 1e6:.1f} MB", f"{bq4['bytes'] / 1e6:.2f} MB", f"{fp32['bytes'] / bq4['bytes']:.1f} x smaller")
    console.print(Padding(table, (1, 0)))
    for line in _origin_lines(report):
        console.print(Text(printable(line)), soft_wrap=True)
    _print_verdicts(console, report["verdicts"], name_of_file(report), folder)
    if beside:
        from bulletlm.cli.side_by_side import print_side_by_side

        print_side_by_side(console, report, beside)
    else:
        _print_samples(console, report)
    console.print(Text(printable(f"model   {model}  ({bq4['bytes']:,} bytes)")), soft_wrap=True)
    console.print(Text(printable(f"report  {folder / 'report.html'}")), soft_wrap=True)
    talk = [f"Talk with it:  {_command()} chat {shlex.quote(str(model))}"]
    if beside:
        talk.append(f"Talk with {beside.stem}:  {_command()} chat")
    page = shlex.quote(f"{folder.resolve().name}.html")
    talk.append(f"Send it:  {_command()} convert {shlex.quote(str(model))} {page}  (a page that opens in any browser)")
    console.print(Text("\n" + printable("\n".join(talk), lines=True), style="bold"), soft_wrap=True)


def name_of_file(report: Mapping[str, Any]) -> str:
    """What the model file is called beside FP32: "4-bit", or what quant.weights says."""
    from bulletlm.quant.types import bits_of_file

    return f"{bits_of_file(report)}-bit"


def _print_samples(console: "Console", report: dict[str, Any]) -> None:
    """The sample prompts of the report with the answers of the model file."""
    from rich.padding import Padding
    from rich.text import Text

    for index in report["generations"]["samples"]:
        row = report["generations"]["rows"][index]
        console.print(Text(printable(row["prompt"], lines=True), style="cyan"))
        console.print(Padding(Text(printable(row["bq4"]["text"].strip(), lines=True)), (0, 0, 1, 2)))


def _origin_lines(report: dict[str, Any]) -> list[str]:
    """Bits per byte before and after on each text, for a run that started from a model; then an empty line."""
    origin = report.get("origin")
    if not origin or not origin["name"]:
        return []
    rows = [f"started from {origin['name']}; bits per byte before -> FP32 -> {name_of_file(report)}:"]
    for row in origin["texts"]:
        bits = [row[which] and row[which]["bits_per_byte"] for which in ("parent", "fp32", "bq4")]
        rows.append(f"  {row['text']}: " + " -> ".join("unknown" if value is None else f"{value:.4f}" for value in bits))
    return [*rows, ""]


def _print_verdicts(console: "Console", verdicts: "Verdicts", bits: str, folder: Path) -> None:
    """One line for each verdict, and what to do if a limit is exceeded."""
    from rich.padding import Padding
    from rich.text import Text

    styles = {"safe": "bold green", "limited": "bold yellow", "stop": "bold red"}
    for name, verdict in ((f"{bits} file", verdicts["quantization"]), ("model", verdicts["usefulness"])):
        console.print(Text.assemble(f"{name:<10} ", (printable(verdict["title"]), styles[verdict["decision"]])), soft_wrap=True)
        if verdict["decision"] == "safe":
            continue
        shown = [figure for figure in verdict["figures"] if figure["name"] in verdict["deciding"] and figure["status"] != "ok"]
        lines = [*(figure["text"] for figure in shown), *(cause["text"] for cause in verdict["causes"][:2])]
        for line in dict.fromkeys(lines):
            console.print(Padding(Text(printable(line)), (0, 0, 0, 11)))
        for remedy in verdict["remedies"][:2]:
            if remedy["command"]:
                command = command_here(remedy["command"], folder)
                console.print(Text(" " * 11 + printable(f"{remedy['text']}:  {command}"), style="dim"), soft_wrap=True)
    console.print()


def command_here(command: str, folder: Path) -> str:
    """A command of the report, with the run folder and the paths of the user's text in place of RUN and TEXT.

    The report itself has no paths, because it may be given to other people.
    """
    from bulletlm.config.schema import Source
    from bulletlm.data.sources import is_embedded
    from bulletlm.evaluate.verdict_causes import RUN, TEXT

    words = []
    for word in shlex.split(command):
        name, equals, value = word.partition("=")
        if name == "--data.sources" and equals:
            sources = read_json(folder / "config.json")["data"]["sources"]
            entries: dict[str, Any] = {}  # a source of which more than the path is set needs all of it
            for source in sources:
                given = Source.model_validate(source).model_dump(exclude_defaults=True)
                entries.setdefault(source["path"], given if len(given) > 1 else source["path"])
            own = [path for path in entries if not is_embedded(path)]
            paths = [path for listed in json.loads(value) for path in (own if listed == TEXT else [listed])]
            words.append(f"{name}={json.dumps([entries.get(path, path) for path in paths], ensure_ascii=False)}")
        else:
            words.append(re.sub(rf"^{RUN}(?=/|$)", lambda _: str(folder), word))
    return shlex.join(words)


def print_info(path: Path, tensors: bool, as_json: bool) -> None:
    """Print the facts about a `.bullet` file.

    Args:
        path: the file.
        tensors: also list every tensor.
        as_json: print the header and the sizes as JSON instead.

    Raises:
        BulletError: the file cannot be read or is damaged.
    """
    file = open_bullet(path)
    if as_json:
        print(printable_json(_measures(file) | {"header": file.header}))
        return
    rows = [*_facts(file)]
    width = max(len(name) for name, _ in rows)
    echo(path)
    for name, value in rows:
        print(f"  {name:<{width}}  {printable(value)}")
    if tensors:
        print()
        for name, region in file.tensors.items():
            extents = " x ".join(str(n) for n in region.shape)
            print(f"  {name:<44} {region.type:<4} {extents:>14} {region.size:>12,} bytes")


def _measures(file: BulletFile) -> dict[str, Any]:
    """Sizes in bytes and bits per weight: of the weights (with scales and norm gains), and of the whole file."""
    parameters = file.shape.n_parameters
    types: dict[str, dict[str, int]] = {}
    for region in file.tensors.values():
        row = types.setdefault(region.type, {"tensors": 0, "weights": 0, "bytes": 0})
        row["tensors"] += 1
        row["weights"] += math.prod(region.shape)
        row["bytes"] += region.size
    weights = sum(row["bytes"] for row in types.values())
    return {
        "file": str(file.path),
        "bytes": file.size,
        "parameters": parameters,
        "bits_per_weight": 8 * weights / parameters,
        "bits_per_weight_of_the_file": 8 * file.size / parameters,
        "types": types,
    }


def _facts(file: BulletFile) -> Iterable[tuple[str, str]]:
    """The lines of `bullet info`: name and value."""
    shape, meta, measures = file.shape, file.metadata, _measures(file)
    yield "name", meta.get("name") or "unnamed"
    yield "licence", meta.get("license") or "not given"
    yield "languages", ", ".join(meta.get("languages", [])) or "not given"
    for number, line in enumerate(_parents(meta)):
        yield "" if number else "started from", line
    yield "parameters", f"{shape.n_parameters:,}"
    heads = f"{shape.n_heads} heads" + ("" if shape.n_kv_heads == shape.n_heads else f" ({shape.n_kv_heads} for keys and values)")
    yield "shape", f"{shape.n_layers} layers, dim {shape.dim}, {heads}, hidden {shape.hidden_dim}, context {shape.max_seq_len}"
    yield "vocabulary", f"{shape.vocab_size:,} tokens"
    everything = f"{measures['bits_per_weight_of_the_file']:.2f} with tokenizer and header"
    yield "size", f"{file.size:,} bytes; {measures['bits_per_weight']:.2f} bits per weight, {everything}"
    for kind, row in sorted(measures["types"].items()):
        bits = 8 * row["bytes"] / row["weights"]
        tensors = f"{row['tensors']:>3} tensor{' ' if row['tensors'] == 1 else 's'}"
        yield kind, f"{row['bytes']:>12,} bytes  {tensors} {row['weights']:>13,} weights {bits:5.1f} bits each"
    yield from _quality_facts(meta)
    if is_private(meta):
        yield "private", PRIVATE_NOTE
    if page := report_page(file.path):
        yield "report", str(page)
    if meta.get("sampling"):
        yield "sampling", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in meta["sampling"].items())


def _quality_facts(meta: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """How a model was trained and rounded, and its loss. Files from other sources may hold anything, so only numbers are shown."""
    training, quantized = meta.get("training", {}), meta.get("quantised", {})
    trained, rounded = _numbers(training), _numbers(quantized)
    if {"tokens_seen", "step"} <= trained.keys():
        averaged = ", averaged (EMA) weights" if training.get("weights") == "ema" else ""
        yield "trained on", f"{trained['tokens_seen']:,} tokens, best at step {trained['step']:,}{averaged}"
    if rounded.get("calibration_tokens") is not None:
        method = str(quantized.get("method"))
        fitted = f" on {rounded['calibration_tokens']:,} tokens" if rounded["calibration_tokens"] else ""
        yield "rounding", METHOD_WORDS.get(method, method) + fitted
    loss = rounded.get("fp32_val_loss", trained.get("val_loss"))
    if loss is not None:
        yield "FP32", _quality(loss)
    if {"val_loss", "perplexity_change", "kl", "val_tokens"} <= rounded.keys():
        yield "this file", _quality(rounded["val_loss"])
        spread = f" +- {rounded['loss_delta_se']:.2%}" if "loss_delta_se" in rounded else ""
        change = f"perplexity {rounded['perplexity_change']:+.2%}{spread}, KL {rounded['kl']:.5f}"
        yield "difference", f"{change}; on {rounded['val_tokens']:,} held-out tokens"


def report_page(model: Path) -> Path | None:
    """The page of the report that belongs to a .bullet file: report.html in its run folder, or NAME.report.html beside NAME.bullet."""
    page = model.parent / "report.html" if model.name == "model.bullet" else model.with_suffix(".report.html")
    return page if page.is_file() else None


def _parents(meta: dict[str, Any]) -> Iterable[str]:
    """One line for each model from which the file descends, the nearest first. The entries may hold anything."""
    parents = meta.get("parents", [])
    for entry in parents if isinstance(parents, list) else []:
        if not isinstance(entry, dict):
            continue
        facts = [str(entry.get("name") or "unnamed"), f"licence {entry.get('license') or 'not given'}"]
        if isinstance(entry.get("languages"), list):
            facts.append(" ".join(map(str, entry["languages"])))
        if type(entry.get("parameters")) is int:
            facts.append(f"{entry['parameters']:,} parameters")
        if isinstance(entry.get("sha256"), str):
            facts.append(f"sha256 {entry['sha256'][:16]}")
        if isinstance(entry.get("sources"), list):
            more = entry["more_sources"] if type(entry.get("more_sources")) is int else 0
            facts.append(f"{len(entry['sources']) + more} source files")
        yield ", ".join(fact for fact in facts if fact)


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """The entries of a JSON object that are numbers."""
    return {name: value for name, value in values.items() if type(value) in (int, float)}


def _quality(loss: float) -> str:
    return f"loss {loss:.4f}, perplexity {math.exp(min(loss, 700)):.2f}"


def _command() -> str:
    """`bullet`, or its path if it is not on PATH (a virtual environment that is not active)."""
    import shutil
    import sys

    script = Path(sys.prefix) / "bin" / "bullet"
    if shutil.which("bullet") is None and script.exists():
        return str(script.relative_to(Path.cwd())) if script.is_relative_to(Path.cwd()) else str(script)
    return "bullet"
