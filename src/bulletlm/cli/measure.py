"""The commands that measure models: `bullet benchmark`, `bullet compare` and `bullet card`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from bulletlm.cli.arguments import AnyModel, Json
from bulletlm.cli.complete import complete_any_model
from bulletlm.cli.models import find_any
from bulletlm.errors import BulletError, ConfigError
from bulletlm.terminal import echo, printable_json

if TYPE_CHECKING:
    from bulletlm.evaluate.compare import Comparison
    from bulletlm.evaluate.compare_models import AnswerComparison, ModelComparison
    from bulletlm.evaluate.language_models import LanguageModel
    from bulletlm.evaluate.report_types import EstimateValues

RESULTS_START = b'{\n  "version": 1,\n  "results"'
"""How a file of benchmark results begins."""


def benchmark(
    *models: AnyModel,
    suite: Annotated[
        tuple[str, ...],
        Parameter(
            help="A test set (a file or a folder), a .json file that lists tasks, or a name: flores, ntrex, blimp, multiblimp, tatoeba; "
            "can be repeated."
        ),
    ],
    data: Annotated[Path, Parameter(help="The folder in which the files of a named suite are searched.")] = Path("benchmarks"),
    languages: Annotated[
        str | None, Parameter(help="Codes of the languages to measure, such as mr,en; default: the languages of the first model.")
    ] = None,
    tasks: Annotated[
        str | None, Parameter(help="Kinds of tasks: halves, pairs, choice, translation, text, separated by commas; default: all.")
    ] = None,
    limit: Annotated[int | None, Parameter(help="Items of each task at most, evenly spaced; default: all.")] = None,
    out: Annotated[Path | None, Parameter(help="Also write the results to this JSON file, for `bullet card --benchmarks`.")] = None,
    json: Json = False,
) -> None:
    """Measure models on public test sets, and place them among published scores.

    The test sets are not part of BulletLM: docs/benchmarks.md says where each comes from. A run folder is measured as FP32 and in
    4 bits. No other command reads the test sets; leave them out of data.sources, or name them in data.held_out.

    Example: bullet benchmark runs/demo --suite flores --data benchmarks
    Example: bullet benchmark model.bullet other.gguf --suite pairs.jsonl
    """
    from bulletlm.evaluate.benchmark import run_benchmark, table
    from bulletlm.evaluate.benchmark_tasks import KINDS, NAMED, load_suite
    from bulletlm.evaluate.language_models import open_models
    from bulletlm.files import refuse_other_file, write_json
    from bulletlm.progress import ConsoleProgress

    if not models:
        raise ConfigError("bullet benchmark needs a model: bullet benchmark runs/demo --suite flores")
    if out is not None:
        refuse_other_file(out, lambda head: head.startswith(RESULTS_START), "file of benchmark results")
    kinds = _words(tasks) or KINDS
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        raise ConfigError(f"--tasks {wrong[0]}: it must be among {', '.join(KINDS)}")
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}: it must be 1 or more")
    opened = [model for path in models for model in open_models(find_any(path))]
    # A folder can hold a test set in two hundred languages; a single file is measured whatever its language is.
    own = [code for code in opened[0].languages if code != "und"]
    chosen = []
    for name in suite:
        wanted = _words(languages) or (own if name in NAMED or Path(name).is_dir() else [])
        chosen += load_suite(name, data, wanted, kinds, limit)
    results = run_benchmark(opened, chosen, ConsoleProgress())
    if out is not None:
        write_json(out, {"version": 1, "results": results})
    if json:
        print(printable_json({"version": 1, "results": results}))
        return
    for number, result in enumerate(results):
        for line in [*([""] if number else []), *table(result)]:
            echo(line)


def compare(
    a: AnyModel,
    b: Annotated[Path, Parameter(help="The model to compare with A, of any of these kinds.", completer=complete_any_model)],
    /,
    *,
    tokens: Annotated[Path | None, Parameter(help="A tokens folder; default: that of the run that A or B belongs to.")] = None,
    text: Annotated[
        Path | None,
        Parameter(
            help="The text to compare on: a text file or a .jsonl file; default: the validation text of the run that A or B belongs to."
        ),
    ] = None,
    prompts: Annotated[
        Path | None, Parameter(help="A .jsonl file of prompts, as in evaluate.prompts; default: those of the package.")
    ] = None,
    answers: Annotated[bool, Parameter(help="Also let both models answer the prompts.", negative="--no-answers")] = True,
    html: Annotated[Path | None, Parameter(help="Also write a page with the figures and all answers side by side.")] = None,
    json: Json = False,
) -> None:
    """Compare any two models: bits per byte of the same text, and answers to the same prompts.

    Models with the same tokenizer are also compared token by token: loss, perplexity, divergence. Of a run folder, the FP32 model is
    used. Foreign .gguf files need xllamacpp, foreign folders transformers.

    Example: bullet compare runs/demo/export/npy runs/demo/model.bullet --html compare.html
    Example: bullet compare runs/demo/model.bullet other.gguf --text held-out.txt
    """
    from bulletlm.evaluate.compare_models import compare_models, default_sampling, read_passages
    from bulletlm.evaluate.compare_page import PAGE_START, render_comparison
    from bulletlm.evaluate.language_models import open_model
    from bulletlm.evaluate.prompts import load_prompts
    from bulletlm.files import refuse_other_file, write_text
    from bulletlm.progress import ConsoleProgress

    if html is not None:
        refuse_other_file(html, lambda head: PAGE_START in head.decode("utf-8", "replace"), "page of this command")
    a, b = find_any(a), find_any(b)
    progress = ConsoleProgress()
    asked = load_prompts(prompts) if answers else []
    first, second = open_model(_weights(a)), open_model(_weights(b))
    both = _token_by_token(first, second, (a, b), tokens, text is not None)
    passages = read_passages(text or _validation_text((a, b), tokens))
    result = compare_models(first, second, passages, asked, default_sampling(first, 42), progress)
    by_token = both[1].to_dict() if both else None
    if html is not None:
        write_text(html, render_comparison(result, by_token))
    if json:
        by_language = {name: part.to_dict() for name, part in both[1].by_language.items()} if both else {}
        facts = {
            **(by_token or {}),
            "by_language": by_language,
            "models": {"a": result.a, "b": result.b},
            "text": result.text,
            "text_by_language": result.by_language,
            "answers": result.answers,
        }
        print(printable_json(facts))
        return
    if both:
        _print_tokens(a, b, *both)
    _print_text(result)
    if result.answers:
        _print_answers(result.answers)
    if html is not None:
        echo(f"\npage  {html}")


def card(
    model: AnyModel,
    /,
    *,
    benchmarks: Annotated[
        tuple[Path, ...], Parameter(help="Results of `bullet benchmark --out` for this model, which the card shows; can be repeated.")
    ] = (),
    out: Annotated[Path | None, Parameter(help="Write the card to this new file, such as README.md; default: print it.")] = None,
) -> None:
    """Print the model card of a file: README.md in the form of the Hugging Face hub, with figures, provenance and attribution.

    For the model.bullet of a run, it also shows the verdicts of the report.

    Example: bullet card runs/demo/model.bullet --out README.md
    """
    from bulletlm.evaluate.card import card_of
    from bulletlm.files import write_text
    from bulletlm.terminal import model_text

    text = card_of(find_any(model), benchmarks)
    if out is None:
        print(model_text(text), end="")
        return
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} exists: name a new file")
    write_text(out, text)
    echo(out)


def _words(value: str | None) -> list[str]:
    """The words of a list with commas; empty for None."""
    return [word.strip() for word in value.split(",") if word.strip()] if value else []


def _token_by_token(
    first: "LanguageModel", second: "LanguageModel", paths: Sequence[Path], tokens: Path | None, has_text: bool
) -> "tuple[Path, Comparison] | None":
    """The tokens folder and the comparison of two models with the same tokenizer; None for different ones, or without tokens."""
    from bulletlm.data.tokens import open_tokens
    from bulletlm.evaluate.compare import check_same_vocabulary, compare
    from bulletlm.evaluate.language_models import BulletModel
    from bulletlm.progress import ConsoleProgress

    if not isinstance(first, BulletModel) or not isinstance(second, BulletModel):
        return None
    try:
        check_same_vocabulary(first.model.tokenizer, second.model.tokenizer)
    except BulletError:
        if tokens is not None:  # tokens of one vocabulary mean nothing to the other
            raise
        return None
    folder = tokens or (None if has_text else _folder_with(paths, "tokens/index.json"))
    if folder is None:
        return None
    folder = tokens or folder / "tokens"
    return folder, compare(first.model, second.model, open_tokens(folder, "val"), ConsoleProgress())


def _validation_text(paths: Sequence[Path], tokens: Path | None) -> Path:
    """val.jsonl of the run that the tokens folder, or else one of the models, belongs to.

    Raises:
        BulletError: there is no such run.
    """
    folder = tokens.parent if tokens and (tokens.parent / "data" / "val.jsonl").is_file() else _folder_with(paths, "data/val.jsonl")
    if folder is None:
        raise BulletError("neither model is in a run folder: give the text to compare on with --text FILE")
    return folder / "data" / "val.jsonl"


def _folder_with(paths: Sequence[Path], name: str) -> Path | None:
    """The folder of the run that one of the models belongs to: the nearest one that holds `name`."""
    for path in paths:
        for folder in [path, *path.absolute().parents]:
            if (folder / name).is_file():
                return folder
    return None


def _weights(path: Path) -> Path:
    """The file or folder with the weights; for a run folder, its FP32 export."""
    return path / "export" / "npy" if (path / "export" / "npy").is_dir() else path


def _print_tokens(a: Path, b: Path, folder: Path, comparison: "Comparison") -> None:
    result = comparison.to_dict()
    echo(f"{result['tokens']:,} tokens of {folder}\n")
    echo(f"{'':<18}{'A':>12}{'B':>12}   A = {a}, B = {b}")
    for name in ("loss", "perplexity", "bits_per_byte"):
        values = [side[name] for side in (result["a"], result["b"])]
        print(f"{name:<18}" + "".join(f"{math.nan if value is None else value:>12.4f}" for value in values))
    print(f"\nloss of B - A       {_estimate(result['loss_delta'])}  (perplexity {result['perplexity_change']:+.2%})")
    print(f"KL(A || B)          {_estimate(result['kl'])}")
    print(f"same top token      {result['top1_agreement']['mean']:.1%}\n")


def _estimate(value: "EstimateValues") -> str:
    spread = f" +- {value['se']:.5f}" if value["se"] is not None else ""
    return f"{value['mean']:.5f}{spread}"


def _print_text(result: "ModelComparison") -> None:
    from bulletlm.evaluate.compare_page import conclusion, interval_text
    from bulletlm.evaluate.formatting import language_name, signed

    for letter, facts in (("A", result.a), ("B", result.b)):
        echo(f"{letter}  {facts['model']}  ({facts['engine']}, vocabulary {facts['vocab_size']:,})")
    echo(f"\n{'bits per byte':<18}{'A':>26}{'B':>26}{'B - A':>28}")
    rows: list[tuple[str, Any]] = [("all text", result.text), *((language_name(code), part) for code, part in result.by_language.items())]
    for name, part in rows:
        cells = interval_text(part["a"]), interval_text(part["b"]), interval_text(part["difference"], signed)
        echo(f"{name:<18}{cells[0]:>26}{cells[1]:>26}{cells[2]:>28}")
    echo(f"\n{conclusion(result)} ({result.text['passages']:,} passages, {result.text['bytes']:,} bytes; brackets: 95 % interval)")


def _print_answers(answers: "AnswerComparison") -> None:
    from bulletlm.evaluate.compare_page import CHECKS

    echo(f"\n{'answers to ' + str(len(answers['rows'])) + ' prompts':<40}{'A':>10}{'B':>10}")
    for label, key, form in CHECKS:
        values = [answers["checks"][side][key] for side in ("a", "b")]
        cells = ["-" if value is None else form(value).replace("\u00a0", " ") for value in values]
        echo(f"{label:<40}{cells[0]:>10}{cells[1]:>10}")
    echo(f"{'identical answers':<40}{answers['identical']:>10}")
