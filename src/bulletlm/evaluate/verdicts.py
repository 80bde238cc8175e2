"""The two verdicts of the report: did quantization break the model, and is the model any good?

`judge` reads a report (report_types.py) and compares its figures with the limits of the settings. Each verdict names the three figures
that decided it, probable causes, and remedies with exact commands in the order of their cost.
"""

import json
import shlex
from collections.abc import Callable, Iterable
from typing import Any

from bulletlm.config.schema import LimitsConfig
from bulletlm.data.sources import is_embedded
from bulletlm.evaluate.formatting import NO_LANGUAGE, percent, small
from bulletlm.evaluate.report_types import (
    Cause,
    ComparisonValues,
    Cost,
    Decision,
    Figure,
    IntervalValues,
    Rate,
    Remedy,
    Report,
    Status,
    TensorRow,
    Unit,
    Verdict,
    Verdicts,
)
from bulletlm.evaluate.words import Words, bits_of_file

RUN, TEXT, MORE_TEXT = "RUN", "TEXT", "MORE-TEXT"
"""They stand for the run folder, the sources and text to add in the commands of a report, because a report names no folders."""

FEWEST_LANGUAGE_TOKENS = 300
"""A language with fewer validation tokens does not decide alone."""

TOKENS_PER_PARAMETER = 20
"""Training tokens per parameter that a model of this kind can use (Hoffmann et al. 2022); below a quarter of it, text is short."""

MANY_EPOCHS = 16
"""More passes over the same text teach little (Muennighoff et al. 2023)."""

FEWEST_LEVELS = 10
"""Fewer different values among 32 adjacent weights mean rounding to less than 4 bits (weight_checks.py)."""

FEW_EPOCHS = 4
"""Up to this number of passes, repeated text teaches nearly as much as new text (Muennighoff et al. 2023)."""

STILL_FALLING = 0.01
"""Relative improvement of the validation loss in the last fifth of the training above which the training was too short."""

OVERFIT = 0.02
"""Rise of the validation loss after its lowest value, in nats per token."""

GAP = 0.5
"""Validation loss minus training loss above which a model has learned its text by heart, in nats per token."""

SMALL_SHARE = 0.25
"""A language with a smaller share of the training text is learned badly."""

_COSTS: tuple[Cost, ...] = ("seconds", "minutes", "training", "text")
_BADNESS: dict[Status, int] = {"broken": 0, "near": 1, "ok": 2, "unknown": 3}


def judge(report: Report, limits: LimitsConfig, language: str = "en") -> Verdicts:
    """Both verdicts. Texts are in `language` ("en" or "mr"); decisions and names do not depend on it."""
    say = Words(language, bits_of_file(report))
    return {"quantization": _quantization(report, limits, say), "usefulness": _usefulness(report, limits, say)}


def _verdict(figures: list[Figure], causes: list[Cause], remedies: list[Remedy], say: Words) -> Verdict:
    ordered = sorted(
        figures, key=lambda figure: (_BADNESS[figure["status"]], -_excess(figure) if figure["status"] in ("broken", "near") else 0)
    )
    states = {figure["status"] for figure in figures}
    decision: Decision = "stop" if "broken" in states else "limited" if "near" in states else "safe"
    remedies = sorted(_distinct(remedies), key=lambda remedy: _COSTS.index(remedy["cost"]))
    if decision == "safe":
        title, causes, remedies = say("Safe to ship"), [], []
    elif decision == "limited":
        title = say("Ship with this limit: {limit}", limit=ordered[0]["text"])
    else:
        action = _first_effective(remedies, causes)
        title = say("Do not ship: {action}", action=action["text"] if action else ordered[0]["text"])
    return {
        "decision": decision,
        "title": title.rstrip("."),
        "deciding": [figure["name"] for figure in ordered[:3] if figure["status"] != "unknown"],
        "figures": ordered,
        "causes": causes,
        "remedies": remedies,
    }


def _first_effective(remedies: list[Remedy], causes: list[Cause]) -> Remedy | None:
    """The remedy for the title: the first one for the first cause, which is the most certain one; otherwise the cheapest."""
    names = {remedy["name"]: remedy for remedy in remedies}
    return next((names[cause["name"]] for cause in causes if cause["name"] in names), remedies[0] if remedies else None)


def _distinct(remedies: Iterable[Remedy]) -> list[Remedy]:
    found: dict[tuple[str | None, str], Remedy] = {}
    for remedy in remedies:
        found.setdefault((remedy["command"], remedy["text"]), remedy)
    return list(found.values())


def _excess(figure: Figure) -> float:
    """How far a figure is beyond its limit, as a share of the limit."""
    value = figure["value"]
    if value is None:
        return 0.0
    distance = value - figure["limit"] if figure["better"] == "lower" else figure["limit"] - value
    return distance / max(abs(figure["limit"]), 0.01)


def _figure(
    name: str,
    label: str,
    unit: Unit,
    found: IntervalValues | None,
    limit: float,
    text: Callable[[], str],
    *,
    higher: bool = False,
    noise_is_fine: bool = False,
) -> Figure:
    """A figure with its status.

    Args:
        text: the sentence; it is only made if there is a value.
        higher: whether higher values are better.
        noise_is_fine: for a difference from few answers: no limit is exceeded while the interval reaches 0.
    """
    if found is None:
        return _plain_figure(name, label, unit, None, None, None, limit, higher, "unknown", "")
    value, low, high = found["value"], found["low"], found["high"]
    beyond = value < limit if higher else value > limit
    nearest = high if higher else low
    status: Status = "ok"
    if beyond:
        status = "broken" if nearest is None or (nearest < limit if higher else nearest > limit) else "near"
        if noise_is_fine and status == "near" and low is not None and low <= 0:
            status = "ok"
    return _plain_figure(name, label, unit, value, low, high, limit, higher, status, text())


def _plain_figure(
    name: str,
    label: str,
    unit: Unit,
    value: float | None,
    low: float | None,
    high: float | None,
    limit: float,
    higher: bool,
    status: Status,
    text: str,
) -> Figure:
    return {
        "name": name,
        "label": label,
        "unit": unit,
        "value": value,
        "low": low,
        "high": high,
        "limit": limit,
        "better": "higher" if higher else "lower",
        "setting": f"report.limits.{name}",
        "status": status,
        "text": text,
    }


def show(value: float, unit: Unit, say: Words, digits: int | None = None) -> str:
    """A figure with its unit, for people."""
    if unit == "share":
        return percent(value, 1 if digits is None else digits)
    if unit == "change":
        return f"{100 * value:+.2f}\u00a0%".replace("-", "\u2212")
    if unit == "points":
        return say("{points} points", points=f"{100 * value:+.1f}".replace("-", "\u2212"))
    text = small(abs(value)) if unit == "nats" else f"{abs(value):.3f}"
    sign = "\u2212" if value < 0 else ""
    return say("{number} nats", number=sign + text) if unit == "nats" else say("{number} bits per byte", number=sign + text)


def _exact(value: float) -> IntervalValues:
    return {"value": value, "low": value, "high": value}


# Quantization


def _quantization(report: Report, limits: LimitsConfig, say: Words) -> Verdict:
    both, behaviour = report["comparison"], report["behaviour"]
    change = both["intervals"]["perplexity_change"]
    kl = both["intervals"]["kl"]
    figures = [
        _figure(
            "perplexity_change",
            say("Rise of the perplexity"),
            "change",
            change,
            limits.perplexity_change,
            lambda: _change_text(change, say),
        ),
        _figure(
            "kl",
            say("KL divergence from FP32"),
            "nats",
            kl,
            limits.kl,
            lambda: say("the predictions differ from FP32 by a KL divergence of {kl}", kl=show(kl["value"], "nats", say)),
        ),
        _language_figure(report, limits, say),
        _weight_figure(report, limits, say),
        _far_rows_figure(report, limits, say),
        _answers_figure(behaviour["rates"]["faults"], limits, say),
        _facts_figure(report, limits, say),
    ]
    causes, remedies = _quantization_causes(report, limits, figures, say)
    return _verdict(figures, causes, remedies, say)


def _change_text(change: IntervalValues, say: Words) -> str:
    shown = show(change["value"], "change", say)
    if change["low"] is not None and change["high"] is not None:
        if change["low"] <= 0 <= change["high"]:
            return say("the perplexity changes by {change}, which is inside the noise", change=shown)
        return say(
            "the perplexity changes by {change} (95 % interval {low} to {high})",
            change=shown,
            low=show(change["low"], "change", say),
            high=show(change["high"], "change", say),
        )
    return say("the perplexity changes by {change}", change=shown)


def _language_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    rows = {code: row for code, row in report["by_language"].items() if row["tokens"] >= FEWEST_LANGUAGE_TOKENS}
    label = say("Rise of the perplexity in the worst language")
    if not rows:
        return _figure("language_change", label, "change", None, limits.language_change, str)

    def lowest(row: ComparisonValues) -> float:
        found = row["intervals"]["perplexity_change"]
        return found["value"] if found["low"] is None else found["low"]

    worst = max(rows, key=lambda code: lowest(rows[code]))
    found = rows[worst]["intervals"]["perplexity_change"]

    def text() -> str:
        return say(
            "in {language} the perplexity changes by {change}", language=say.language(worst), change=show(found["value"], "change", say)
        )

    return _figure("language_change", label, "change", found, limits.language_change, text)


def _weight_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    rows = [row for row in report["tensors"] if row["type"] in ("BQ4", "BQ8")]
    label = say("Largest error of a matrix")
    if not rows or _has_qat(report):  # QAT moves the weights away from FP32 on purpose
        return _figure("weight_error", label, "share", None, limits.weight_error, str)
    worst = max(rows, key=lambda row: row["relative_rmse"])

    def text() -> str:
        return say("the weights of {tensor} differ from FP32 by {error}", tensor=worst["name"], error=percent(worst["relative_rmse"]))

    return _figure("weight_error", label, "share", _exact(worst["relative_rmse"]), limits.weight_error, text)


def _has_qat(report: Report) -> bool:
    return bool((report["quantised"] or {}).get("qat"))


def _is_coarse(row: TensorRow, report: Report, limits: LimitsConfig) -> bool:
    """Whether the weights of a matrix are rounded to less than its type allows."""
    few_levels = row["type"] == "BQ4" and row["levels"] is not None and row["levels"] < FEWEST_LEVELS
    return few_levels or (not _has_qat(report) and row["relative_rmse"] > limits.weight_error)


def _far_rows_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    far, rows = (sum(row[key] for row in report["tensors"]) for key in ("far_rows", "rows"))
    named = [row["name"] for row in report["tensors"] if row["far_rows"]]

    def text() -> str:
        if not far:
            return say("all {rows} rows of weights are close to FP32", rows=f"{rows:,}")
        return say("{far} of {rows} rows of weights are not those of FP32 ({names})", far=f"{far:,}", rows=f"{rows:,}", names=_some(named))

    return _figure("far_rows", say("Rows of weights that are far from FP32"), "share", _exact(far / max(rows, 1)), limits.far_rows, text)


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" +{len(names) - most}" if len(names) > most else "")


def _answers_figure(rate: Rate | None, limits: LimitsConfig, say: Words) -> Figure:
    def text() -> str:
        assert rate
        a, b = (percent(rate[side]["value"], 0) for side in ("fp32", "bq4"))
        return say("answers with a fault: FP32 {a}, {n}-bit {b}", a=a, b=b)

    found = rate["change"] if rate else None
    return _figure("worse_answers", say("More answers with a fault"), "points", found, limits.worse_answers, text, noise_is_fine=True)


def _facts_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    facts = report["behaviour"]["facts"]

    def text() -> str:
        assert facts
        a, b = (percent(facts["wrong"][side]["value"], 0) for side in ("fp32", "bq4"))
        return say("wrong answers to {asked} facts of the training text: FP32 {a}, {n}-bit {b}", asked=facts["asked"], a=a, b=b)

    found = facts["wrong"]["change"] if facts else None
    return _figure("wrong_facts", say("More wrong answers to facts"), "points", found, limits.wrong_facts, text, noise_is_fine=True)


def _quantization_causes(report: Report, limits: LimitsConfig, figures: list[Figure], say: Words) -> tuple[list[Cause], list[Remedy]]:
    settings = report["settings"]
    quant = settings["quant"]
    causes: list[Cause] = []
    remedies: list[Remedy] = []
    rebuild = f"bullet evaluate {RUN}"

    scaled = [row for row in report["tensors"] if row["scale"] is not None and row["type"] in ("BQ4", "BQ8")]
    for layer, rows in _by_layer(scaled).items():
        factor = sum(row["scale"] or 1 for row in rows) / len(rows)
        text = say(
            "the weights of {where} ({names}) are {factor} times those of FP32: their scales are wrong",
            where=say.layer(layer),
            names=_some([row["name"] for row in rows], 2),
            factor=f"{factor:.1f}",
        )
        causes.append({"name": "wrong_scales", "text": text})
    for row in report["tensors"]:
        for i, j in row["exchanged"]:
            text = say("rows {i} and {j} of {tensor} are exchanged{tokens}", i=i, j=j, tensor=row["name"], tokens=_tokens(row, i, j))
            causes.append({"name": "exchanged_rows", "text": text})
        if row["far_rows"] and not row["exchanged"] and row["scale"] is None and row["relative_rmse"] <= limits.weight_error:
            rows_named = ", ".join(map(str, row["first_far"]))
            causes.append(
                {"name": "wrong_rows", "text": say("rows {rows} of {tensor} are not those of FP32", rows=rows_named, tensor=row["name"])}
            )
    names = {row["name"] for row in scaled}
    coarse = [
        row for row in report["tensors"] if row["type"] in ("BQ4", "BQ8") and _is_coarse(row, report, limits) and row["name"] not in names
    ]
    if coarse:
        mean = sum(row["relative_rmse"] for row in coarse) / len(coarse)
        text = say(
            "{count} matrices are rounded more coarsely than 4 bits need (error {error}, 4 bits give about 10 %): {names}",
            count=len(coarse),
            error=percent(mean, 0),
            names=_some([row["name"] for row in sorted(coarse, key=lambda row: -row["relative_rmse"])]),
        )
        causes.append({"name": "coarse_rounding", "text": text})
    if causes:
        text = say("build the model file again from the FP32 weights")
        remedies += [{"name": cause["name"], "text": text, "command": rebuild, "cost": "minutes"} for cause in causes[:1]]
        return causes, remedies

    if quant["weights"] == "BQ4":
        if not quant["auto_fix"] and settings["qat"]["start"] is None:
            text = say("let the builder try the steps below in turn")
            remedies.append(_remedy("auto_fix", text, f"{rebuild} --quant.auto-fix=true", "minutes"))
        if quant["calibration"] == "none" and settings["qat"]["start"] is None:
            causes.append({"name": "no_calibration", "text": say("the weights were rounded to the nearest value, without calibration")})
            remedies.append(
                _remedy("no_calibration", say("calibrate the 4-bit weights on your text"), rebuild + " --calibration=gptq", "minutes")
            )
        elif any(figure["name"] == "language_change" and figure["status"] == "broken" for figure in figures):
            causes.append(
                {
                    "name": "calibration_text",
                    "text": say("one language loses more than the others: the calibration text has too little of it"),
                }
            )
        more = 4 * int(quant["calibration_tokens"])
        remedies.append(_remedy("calibration", say("calibrate on more text"), f"{rebuild} --calibration-tokens={more}", "minutes"))
        worst = sorted((row for row in report["tensors"] if row["kl"] and row["type"] == "BQ4"), key=lambda row: -(row["kl"] or 0))
        if worst:
            total = sum(row["kl"] or 0 for row in worst)
            first = worst[: max(1, len(worst) // 10)]
            share = sum(row["kl"] or 0 for row in first) / total
            names_text = _some([row["name"] for row in first])
            causes.append({"name": "tensors", "text": say("{names} carry {share} of the error", names=names_text, share=percent(share, 0))})
            rules = [*quant["keep"], *(f"{row['name']}=BQ8" for row in first)]
            command = f"{rebuild} {shlex.quote('--quant.keep=' + json.dumps(rules))}"
            remedies.append(_remedy("tensors", say("store {names} with 8 bits", names=names_text), command, "minutes"))
        steps = max(200, 2 * int(((report["quantised"] or {}).get("qat") or {}).get("steps") or 0))
        remedies.append(
            _remedy(
                "qat",
                say("train the 4-bit weights (QAT) for {steps} steps", steps=steps),
                f"bullet qat {RUN} --steps={steps}",
                "training",
            )
        )
    else:
        remedies.append(_remedy("rebuild", say("build the model file again from the FP32 weights"), rebuild, "minutes"))
    return causes, remedies


def _remedy(name: str, text: str, command: str | None, cost: Cost) -> Remedy:
    return {"name": name, "text": text, "command": command, "cost": cost}


def _by_layer(rows: list[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        layer = ".".join(row["name"].split(".")[:2]) if row["name"].startswith("layers.") else row["name"]
        found.setdefault(layer, []).append(row)
    return found


def _tokens(row: Any, i: int, j: int) -> str:
    pieces = row.get("far_pieces") or {}
    return f" ({pieces[str(i)]!r}, {pieces[str(j)]!r})" if str(i) in pieces and str(j) in pieces else ""


# Usefulness


def _usefulness(report: Report, limits: LimitsConfig, say: Words) -> Verdict:
    rates, checks = report["behaviour"]["rates"], report["data_checks"]
    figures = [
        _rate_figure("right_language", say("Answers in the right language"), rates, limits.right_language, say, higher=True),
        _rate_figure("loops", say("Answers that repeat themselves"), rates, limits.loops, say),
        _invented_figure(rates["invented_words"], limits, say),
        _ngram_figure(report, limits, say),
        _fit_figure(report, limits, say),
        _question_figure(report, limits, say),
        _rate_figure("on_topic", say("Answers about the question"), rates, limits.on_topic, say, higher=True),
        _rate_figure("broken_letters", say("Broken letters"), rates, limits.broken_letters, say),
        _rate_figure("finished", say("Answers that the model ends itself"), rates, limits.finished, say, higher=True, rate_name="ended"),
        _rate_figure("copied", say("Answers copied from the training text"), rates, limits.copied, say),
    ]
    contamination = checks["contamination"]
    figures.append(
        _figure(
            "contamination",
            say("Validation text that the training text has, too"),
            "share",
            _exact(contamination["share"]) if contamination else None,
            limits.contamination,
            lambda: say(
                "{share} of the validation text is in the training text, too",
                share=percent(contamination["share"]) if contamination else "",
            ),
        )
    )
    below, by_parent = _below_training(report)
    figures.append(
        _figure(
            "below_training",
            say("Training loss minus validation loss"),
            "nats",
            below,
            limits.below_training,
            lambda: (
                say(
                    "the loss of {parent}, from which the run started, is {gap} lower on the validation text than on the training text",
                    parent=_parent_name(report),
                    gap=show(below["value"], "nats", say) if below else "",
                )
                if by_parent
                else say(
                    "the loss on the validation text is {gap} below that on the training text",
                    gap=show(below["value"], "nats", say) if below else "",
                )
            ),
        )
    )
    causes, remedies = _usefulness_causes(report, figures, say)
    verdict = _verdict(figures, causes, remedies, say)
    languages = [say.language(code) for code in report["behaviour"]["not_judged"]]
    if verdict["decision"] == "safe" and languages:
        verdict["decision"] = "limited"
        limit = say("the training text has no {languages}, so the model cannot answer in it", languages=", ".join(languages))
        verdict["title"] = say("Ship with this limit: {limit}", limit=limit)
    return verdict


def _parent_name(report: Report) -> str:
    origin = report["origin"]
    return (origin["name"] if origin else None) or "the model"


def _below_training(report: Report) -> tuple[IntervalValues | None, bool]:
    """How far the validation loss is below the training loss, and whether that is a figure of the model from which the run started.

    If that model has seen the validation text, its own figure shows it more clearly than that of the new model, which has also
    learned the training text.
    """
    sample, origin = report["data_checks"]["training_sample"], report["origin"]
    gap = origin.get("gap") if origin else None  # earlier versions did not measure it
    parent = _negative(gap) if gap else None
    if parent and parent["low"] is not None and parent["low"] > 0:
        return parent, True
    return (_negative(sample["gap"]) if sample else None), False


def _negative(gap: IntervalValues) -> IntervalValues:
    return {
        "value": -gap["value"],
        "low": None if gap["high"] is None else -gap["high"],
        "high": None if gap["low"] is None else -gap["low"],
    }


def _question_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    found = report["behaviour"]["question_use"]

    def text() -> str:
        share = percent(found["bq4"]["value"], 0) if found else ""
        return say("the model chooses the right one of two questions for an answer in {share} of the cases (chance: 50 %)", share=share)

    label = say("Answers that depend on the question")
    return _figure("question_use", label, "share", found["bq4"] if found else None, limits.question_use, text, higher=True)


def _fit_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    fit = report["behaviour"]["answer_fit"]

    def text() -> str:
        return say(
            "the model's answers are closer to a person's answer to the same question than to one to another question in {share} of the "
            "comparisons (chance: 50 %)",
            share=percent(fit["rate"]["bq4"]["value"], 0) if fit else "",
        )

    found = fit["rate"]["bq4"] if fit else None
    return _figure("answer_fit", say("Answers that belong to their question"), "share", found, limits.answer_fit, text, higher=True)


_RATE_TEXTS = {
    "right_language": "{share} of the answers are in the right language",
    "loops": "{share} of the answers repeat themselves",
    "on_topic": "{share} of the answers have a word that belongs to the question",
    "broken_letters": "{share} of the letters are broken",
    "finished": "{share} of the answers end by themselves",
    "copied": "{share} of the answers are copied from the training text",
}


def _rate_figure(
    name: str, label: str, rates: dict[str, Rate | None], limit: float, say: Words, *, higher: bool = False, rate_name: str | None = None
) -> Figure:
    rate = rates[rate_name or name]

    def text() -> str:
        return say(_RATE_TEXTS[name], share=percent(rate["bq4"]["value"], 2 if name == "broken_letters" else 0) if rate else "")

    return _figure(name, label, "share", rate["bq4"] if rate else None, limit, text, higher=higher)


def _invented_figure(rate: Rate | None, limits: LimitsConfig, say: Words) -> Figure:
    found: IntervalValues | None = None
    if rate and rate["human"] is not None:
        value, human = rate["bq4"], rate["human"]
        found = {
            "value": value["value"] - human,
            "low": None if value["low"] is None else value["low"] - human,
            "high": None if value["high"] is None else value["high"] - human,
        }

    def text() -> str:
        assert rate and rate["human"] is not None
        return say(
            "{model} of the words are not in the training text; in held-out text of people {human}",
            model=percent(rate["bq4"]["value"]),
            human=percent(rate["human"]),
        )

    return _figure("invented_words", say("Invented words, above text of people"), "points", found, limits.invented_words, text)


def _ngram_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    baseline = report["data_checks"]["ngram"]

    def text() -> str:
        assert baseline
        return say(
            "the model needs {model} bits per byte, a 5-gram model of the same text {ngram}",
            model=f"{report['bq4']['bits_per_byte'] or 0:.3f}",
            ngram=f"{baseline['bits_per_byte']:.3f}",
        )

    return _figure(
        "over_ngram",
        say("Bits per byte above a 5-gram model"),
        "bits_per_byte",
        baseline["margin"] if baseline else None,
        limits.over_ngram,
        text,
    )


def _usefulness_causes(report: Report, figures: list[Figure], say: Words) -> tuple[list[Cause], list[Remedy]]:
    status = {figure["name"]: figure["status"] for figure in figures}
    bad = {name for name, value in status.items() if value in ("near", "broken")}
    settings, training, checks = report["settings"], report["training"], report["data_checks"]
    evaluate = f"bullet evaluate {RUN}"
    causes: list[Cause] = []
    remedies: list[Remedy] = []

    def add(name: str, text: str) -> None:
        causes.append({"name": name, "text": text})

    if "contamination" in bad and checks["contamination"]:
        add("contamination", say("validation text stands in the training text, so the loss says nothing about new text"))
        command = shlex.join(["bullet", "run", f"{RUN}/config.json", "--restart"])
        remedies.append(
            _remedy("contamination", say("prepare the text and train again, so that the validation text is left out"), command, "training")
        )
    if "below_training" in bad:
        restart = shlex.join(["bullet", "run", f"{RUN}/config.json", "--restart"])
        if _below_training(report)[1]:
            add(
                "parent_trained_on_validation",
                say(
                    "{parent}, from which the run started, predicts the validation text better than the training text: it was probably "
                    "trained on it",
                    parent=_parent_name(report),
                ),
            )
            remedies.append(
                _remedy(
                    "parent_trained_on_validation",
                    say("start from a model that has not seen the validation text, or from random weights"),
                    shlex.join([*_run_again(report, "from-none"), "--model.start-from=none"]),
                    "training",
                )
            )
        else:
            add(
                "trained_on_validation",
                say("the model predicts the validation text better than its training text: it was probably trained on it"),
            )
            remedies.append(_remedy("trained_on_validation", say("train again without the validation text"), restart, "training"))
    if bad & {"answer_fit", "question_use"}:
        add("answers_do_not_fit", say("the answers are often not about their question: many would serve another question as well"))
    if "copied" in bad:
        add("repeats_training_text", say("the model repeats its training text instead of answering"))
        remedies.append(_remedy("repeats_training_text", say("add more varied text"), _with_text(report), "text"))
    wrong = report["behaviour"]["wrong_languages"]
    if "right_language" in bad:
        for expected, found in wrong.items():
            total = sum(row["language"] == expected for row in report["generations"]["rows"])
            for got, number in sorted(found.items(), key=lambda item: -item[1])[:1]:
                text = (
                    say(
                        "{number} of {total} answers that should be in {expected} have no words",
                        number=number,
                        total=total,
                        expected=say.language(expected),
                    )
                    if got == NO_LANGUAGE
                    else say(
                        "{number} of {total} answers that should be in {expected} are in {got}",
                        number=number,
                        total=total,
                        expected=say.language(expected),
                        got=say.language(got),
                    )
                )
                add("wrong_language", text)
        others = {code: sum(number for got, number in found.items() if got != NO_LANGUAGE) for code, found in wrong.items()}
        if any(others.values()):
            remedies += _language_remedies(report, max(others, key=lambda code: others[code]), say)
    if bad & {"loops", "finished"}:
        penalty = float(settings["sampling"]["repetition_penalty"])
        if "loops" in bad and penalty < 1.3:
            add("repetition_penalty", say("the repetition penalty is low ({penalty})", penalty=f"{penalty:g}"))
            remedies.append(
                _remedy(
                    "repetition_penalty",
                    say("raise the repetition penalty"),
                    f"{evaluate} --repetition-penalty={min(1.5, penalty + 0.2):.2g}",
                    "seconds",
                )
            )
    if bad & {"invented_words", "broken_letters"} and float(settings["sampling"]["temperature"]) > 0.5:
        remedies.append(_remedy("temperature", say("answer with a lower temperature"), f"{evaluate} --temperature=0.4", "seconds"))
    if bad - {"contamination", "below_training"}:
        _training_causes(report, add, remedies, say)
    if bad and training is not None and training["best_step"] is not None and any(cause["name"] == "overfitting" for cause in causes):
        remedies.append(
            _remedy(
                "checkpoints", say("compare the kept checkpoints: another one may answer better"), f"{evaluate} --checkpoints", "minutes"
            )
        )
    if bad and not remedies:
        remedies.append(_remedy("text", say("add more text"), _with_text(report), "text"))
    return causes, remedies


def _language_remedies(report: Report, code: str, say: Words) -> list[Remedy]:
    name = say.language(code)
    text = report["tokens"]["train"]["by_language"]
    share = text[code]["bytes"] / max(1, report["tokens"]["train"]["bytes"]) if code in text else 0.0
    found = []
    if 0 < share < 0.6:
        rule = "--data.mix.languages=" + json.dumps({code: min(0.8, round(share + 0.25, 2))})
        found.append(
            _remedy(
                "language_share",
                say("give {language} a larger share of the training", language=name),
                shlex.join([*_run_again(report, f"more-{code}"), rule]),
                "training",
            )
        )
    found.append(_remedy("wrong_language", say("add conversations in {language}", language=name), _with_text(report), "text"))
    return found


def _training_causes(report: Report, add: Callable[[str, str], None], remedies: list[Remedy], say: Words) -> None:
    """What the learning curve and the amount of text explain."""
    training, tokens, settings = report["training"], report["tokens"]["train"], report["settings"]
    parameters = report["model"]["parameters"]
    wanted = TOKENS_PER_PARAMETER * parameters
    short_text = tokens["tokens"] < wanted / 4
    epochs = training["tokens"] / max(1, tokens["tokens"]) if training else 0.0
    sample = report["data_checks"]["training_sample"]
    gap = sample["gap"] if sample else None
    rose = (
        training is not None and training["best_step"] is not None and (training["last_val_loss"] or 0) > report["fp32"]["loss"] + OVERFIT
    )
    by_heart = training is None or _passes(report, epochs) > FEW_EPOCHS
    if rose or (by_heart and gap is not None and gap["value"] > GAP and (gap["low"] or 0) > GAP / 2):
        if gap is not None and gap["value"] > OVERFIT:
            text = say(
                "the validation loss is {gap} above the training loss: the model learned its text by heart",
                gap=show(gap["value"], "nats", say),
            )
        else:
            text = say(
                "the validation loss rose again after step {step}: the model learned its text by heart",
                step=training["best_step"] if training else 0,
            )
        add("overfitting", text)
    elif training is not None and (fall := still_falling(training["curves"])) > STILL_FALLING and epochs < MANY_EPOCHS:
        add("too_few_steps", say("the validation loss still fell by {fall} in the last fifth of the training", fall=percent(fall)))
        remedies.append(
            _remedy(
                "too_few_steps",
                say("train twice as long"),
                shlex.join([*_run_again(report, "longer"), _twice(settings, training["steps"], epochs)]),
                "training",
            )
        )
    if epochs > MANY_EPOCHS:
        add(
            "too_many_epochs",
            say("the text was read {epochs} times; more than {most} times teach little", epochs=f"{epochs:.0f}", most=MANY_EPOCHS),
        )
        remedies.append(
            _remedy(
                "too_many_epochs",
                say("read the text less often"),
                shlex.join([*_run_again(report, "8-epochs"), "--epochs=8", *_no_steps(settings)]),
                "training",
            )
        )
    if short_text:
        text = say(
            "{tokens} tokens of text are little for {parameters} parameters, which can use {wanted}",
            tokens=say.count(tokens["tokens"]),
            parameters=say.count(parameters),
            wanted=say.count(wanted),
        )
        add("too_little_data", text)
        remedies.append(_remedy("too_little_data", say("add more text"), _with_text(report), "text"))
    if training is not None and training["tokens"] < wanted / 4 and epochs < FEW_EPOCHS:
        add(
            "too_little_training",
            say(
                "{tokens} training tokens are little for {parameters} parameters",
                tokens=say.count(training["tokens"]),
                parameters=say.count(parameters),
            ),
        )
        remedies.append(
            _remedy(
                "too_little_training",
                say("train twice as long"),
                shlex.join([*_run_again(report, "longer"), _twice(settings, training["steps"], epochs)]),
                "training",
            )
        )


def _passes(report: Report, epochs: float) -> float:
    """How often a token of the training text was read on average. The mixture repeats sources with a high weight."""
    rows = (report["data"] or {}).get("mixture") or []
    tokens = sum(row["stream_tokens"] for row in rows)
    repeats = sum(row["stream_tokens"] * row["times"] for row in rows) / tokens if tokens else 1.0
    return epochs * max(1.0, repeats)


def still_falling(curves: dict[str, list[list[float]]]) -> float:
    """Relative fall of the validation loss in the last fifth of the training; 0 if there are too few evaluations."""
    points = curves.get("val/loss_ema") or curves.get("val/loss") or []
    if len(points) < 3:
        return 0.0
    last_step, last = points[-1]
    before = [value for step, value in points[:-1] if step <= 0.8 * last_step]
    return (before[-1] - last) / before[-1] if before and before[-1] > 0 else 0.0


def _run_again(report: Report, suffix: str) -> list[str]:
    """The command that trains again under another name, so that the old model stays; each remedy has a name of its own."""
    return ["bullet", "run", f"{RUN}/config.json", f"--name={report['settings']['name']}-{suffix}"]


def _twice(settings: dict[str, Any], steps: int, epochs: float) -> str:
    return f"--total-steps={2 * steps}" if settings["train"]["total_steps"] is not None else f"--epochs={max(1, round(2 * epochs))}"


def _no_steps(settings: dict[str, Any]) -> list[str]:
    return ["--total-steps=null"] if settings["train"]["total_steps"] is not None else []


def _with_text(report: Report) -> str:
    """The command that trains on more text: the simple conversations of the package if the run lacks them, else the user's own."""
    paths = [source["path"] for source in report["settings"]["data"]["sources"]]
    own = list(dict.fromkeys(path if is_embedded(path) else TEXT for path in paths))
    # Never "sample" on top of "simple": its rich text made the answers of small models worse.
    extra = "simple" if "simple" not in own and set(report["model"]["languages"]) & {"mr", "en"} else MORE_TEXT
    return shlex.join([*_run_again(report, "more-text"), f"--data.sources={json.dumps([*own, extra], ensure_ascii=False)}"])
