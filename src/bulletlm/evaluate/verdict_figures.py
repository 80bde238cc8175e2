"""The figures of the verdicts: what a report measured, compared with the limits of the settings, each in a sentence."""

from collections.abc import Callable

from bulletlm.config.schema import LimitsConfig
from bulletlm.evaluate.formatting import percent, small
from bulletlm.evaluate.report_types import ComparisonValues, Figure, IntervalValues, Rate, Report, Status, TensorRow, Unit
from bulletlm.evaluate.weight_checks import is_as_built
from bulletlm.evaluate.words import Words

FEWEST_LANGUAGE_TOKENS = 300
"""A language with fewer validation tokens does not decide alone."""

LEVELS_OF_4_BITS = 12.5
"""Different values among 32 adjacent weights that 4 bits give, where the report does not say what they give for these weights."""

FEWEST_LEVELS = 0.8
"""Less than this share of the values that 4 bits give means rounding to less than 4 bits (weight_checks.py): 3 bits give 0.6."""

PLAIN_ERROR = 2
"""Rounding that multiplies the error of plain rounding by less is no damage: no rounding of these weights would be much better."""

RATE_TEXTS = {
    "right_language": "{share} of the answers are in the right language",
    "loops": "{share} of the answers repeat themselves",
    "on_topic": "{share} of the answers have a word that belongs to the question",
    "broken_letters": "{share} of the letters are broken",
    "finished": "{share} of the answers end by themselves",
    "copied": "{share} of the answers are copied from the training text",
}
"""Figure of the answers -> its sentence."""


def quantization_figures(report: Report, limits: LimitsConfig, say: Words) -> list[Figure]:
    """What decides whether quantization broke the model."""
    both, behaviour = report["comparison"], report["behaviour"]
    change = both["intervals"]["perplexity_change"]
    kl = both["intervals"]["kl"]
    return [
        make_figure(
            "perplexity_change",
            say("Rise of the perplexity"),
            "change",
            change,
            limits.perplexity_change,
            lambda: _change_text(change, say),
        ),
        make_figure(
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


def usefulness_figures(report: Report, limits: LimitsConfig, say: Words) -> list[Figure]:
    """What decides whether the model is any good."""
    rates = report["behaviour"]["rates"]
    return [
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
        _contamination_figure(report, limits, say),
        _below_training_figure(report, limits, say),
    ]


def make_figure(
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
    """A figure with its status; "unknown" if it was not measured.

    Args:
        name: of the figure, and of its setting in report.limits.
        label: a few words for a table.
        unit: see `show`.
        found: the value and its 95 % interval; None if it was not measured.
        limit: the value that must not be exceeded, or must be reached if higher values are better.
        text: the sentence; it is only made if there is a value.
        higher: whether higher values are better.
        noise_is_fine: for a difference from few answers: no limit is exceeded while the interval reaches 0.
    """
    value, low, high = (found["value"], found["low"], found["high"]) if found else (None, None, None)
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
        "status": _status(found, limit, higher, noise_is_fine) if found else "unknown",
        "text": text() if found else "",
    }


def _status(found: IntervalValues, limit: float, higher: bool, noise_is_fine: bool) -> Status:
    """Whether a value holds its limit: broken if its whole interval is beyond the limit, near if only a part is."""
    value, low, high = found["value"], found["low"], found["high"]
    if not (value < limit if higher else value > limit):
        return "ok"
    nearest = high if higher else low
    if nearest is None or (nearest < limit if higher else nearest > limit):
        return "broken"
    return "ok" if noise_is_fine and low is not None and low <= 0 else "near"


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
        return make_figure("language_change", label, "change", None, limits.language_change, str)

    def lowest(row: ComparisonValues) -> float:
        found = row["intervals"]["perplexity_change"]
        return found["value"] if found["low"] is None else found["low"]

    worst = max(rows, key=lambda code: lowest(rows[code]))
    found = rows[worst]["intervals"]["perplexity_change"]

    def text() -> str:
        return say(
            "in {language} the perplexity changes by {change}", language=say.language(worst), change=show(found["value"], "change", say)
        )

    return make_figure("language_change", label, "change", found, limits.language_change, text)


def _weight_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    rows = [row for row in report["tensors"] if row["type"] in ("BQ4", "BQ8") and _has_error(row, report, limits)]
    label = say("Largest error of a matrix")
    if not rows or _has_qat(report):  # QAT moves the weights away from FP32 on purpose
        return make_figure("weight_error", label, "share", None, limits.weight_error, str)
    worst = max(rows, key=lambda row: row["relative_rmse"])

    def text() -> str:
        return say("the weights of {tensor} differ from FP32 by {error}", tensor=worst["name"], error=percent(worst["relative_rmse"]))

    return make_figure("weight_error", label, "share", _exact(worst["relative_rmse"]), limits.weight_error, text)


def _has_qat(report: Report) -> bool:
    return bool((report["quantised"] or {}).get("qat"))


def _has_error(row: TensorRow, report: Report, limits: LimitsConfig) -> bool:
    """Whether the error of a matrix says how well it is rounded.

    It does not where weight decay has set the weights to nearly zero, so that no rounding is better. Neither does it where calibration
    has moved the weights far, because they hardly act: the file is as the build stage wrote it, and if all matrices changed the
    predictions as much as this one alone, the limit of the KL divergence would still hold.
    """
    error, plain, kl = row["relative_rmse"], row.get("plain_rmse"), row["kl"]
    if error <= limits.weight_error:
        return True
    if plain is not None and error < PLAIN_ERROR * plain:
        return False
    matrices = sum(each["kl"] is not None for each in report["tensors"])
    return kl is None or kl * matrices > limits.kl or not is_as_built(error, row.get("built_rmse"))


def is_coarse(row: TensorRow, report: Report, limits: LimitsConfig) -> bool:
    """Whether the weights of a matrix are rounded to less than its type allows."""
    usual = row.get("plain_levels") or LEVELS_OF_4_BITS
    few_levels = row["type"] == "BQ4" and row["levels"] is not None and row["levels"] < FEWEST_LEVELS * usual
    return few_levels or (not _has_qat(report) and row["relative_rmse"] > limits.weight_error and _has_error(row, report, limits))


def _far_rows_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    far, rows = (sum(row[key] for row in report["tensors"]) for key in ("far_rows", "rows"))
    named = [row["name"] for row in report["tensors"] if row["far_rows"]]

    def text() -> str:
        if not far:
            return say("all {rows} rows of weights are close to FP32", rows=f"{rows:,}")
        return say(
            "{far} of {rows} rows of weights are not those of FP32 ({names})", far=f"{far:,}", rows=f"{rows:,}", names=some_names(named)
        )

    return make_figure(
        "far_rows", say("Rows of weights that are far from FP32"), "share", _exact(far / max(rows, 1)), limits.far_rows, text
    )


def some_names(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" +{len(names) - most}" if len(names) > most else "")


def _answers_figure(rate: Rate | None, limits: LimitsConfig, say: Words) -> Figure:
    def text() -> str:
        assert rate
        a, b = (percent(rate[side]["value"], 0) for side in ("fp32", "bq4"))
        return say("answers with a fault: FP32 {a}, {n}-bit {b}", a=a, b=b)

    found = rate["change"] if rate else None
    return make_figure("worse_answers", say("More answers with a fault"), "points", found, limits.worse_answers, text, noise_is_fine=True)


def _facts_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    facts = report["behaviour"]["facts"]

    def text() -> str:
        assert facts
        a, b = (percent(facts["wrong"][side]["value"], 0) for side in ("fp32", "bq4"))
        return say("wrong answers to {asked} facts of the training text: FP32 {a}, {n}-bit {b}", asked=facts["asked"], a=a, b=b)

    found = facts["wrong"]["change"] if facts else None
    return make_figure("wrong_facts", say("More wrong answers to facts"), "points", found, limits.wrong_facts, text, noise_is_fine=True)


def _rate_figure(
    name: str, label: str, rates: dict[str, Rate | None], limit: float, say: Words, *, higher: bool = False, rate_name: str | None = None
) -> Figure:
    rate = rates[rate_name or name]

    def text() -> str:
        return say(RATE_TEXTS[name], share=percent(rate["bq4"]["value"], 2 if name == "broken_letters" else 0) if rate else "")

    return make_figure(name, label, "share", rate["bq4"] if rate else None, limit, text, higher=higher)


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

    return make_figure("invented_words", say("Invented words, above text of people"), "points", found, limits.invented_words, text)


def _ngram_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    baseline = report["data_checks"]["ngram"]

    def text() -> str:
        assert baseline
        return say(
            "the model needs {model} bits per byte, a 5-gram model of the same text {ngram}",
            model=f"{report['bq4']['bits_per_byte'] or 0:.3f}",
            ngram=f"{baseline['bits_per_byte']:.3f}",
        )

    return make_figure(
        "over_ngram",
        say("Bits per byte above a 5-gram model"),
        "bits_per_byte",
        baseline["margin"] if baseline else None,
        limits.over_ngram,
        text,
    )


def _fit_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    fit = report["behaviour"]["answer_fit"]

    def text() -> str:
        return say(
            "the model's answers are closer to a person's answer to the same question than to one to another question in {share} of the "
            "comparisons (chance: 50 %)",
            share=percent(fit["rate"]["bq4"]["value"], 0) if fit else "",
        )

    found = fit["rate"]["bq4"] if fit else None
    return make_figure("answer_fit", say("Answers that belong to their question"), "share", found, limits.answer_fit, text, higher=True)


def _question_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    found = report["behaviour"]["question_use"]

    def text() -> str:
        share = percent(found["bq4"]["value"], 0) if found else ""
        return say("the model chooses the right one of two questions for an answer in {share} of the cases (chance: 50 %)", share=share)

    label = say("Answers that depend on the question")
    return make_figure("question_use", label, "share", found["bq4"] if found else None, limits.question_use, text, higher=True)


def _contamination_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    found = report["data_checks"]["contamination"]

    def text() -> str:
        return say("{share} of the validation text is in the training text, too", share=percent(found["share"]) if found else "")

    label = say("Validation text that the training text has, too")
    return make_figure("contamination", label, "share", _exact(found["share"]) if found else None, limits.contamination, text)


def _below_training_figure(report: Report, limits: LimitsConfig, say: Words) -> Figure:
    below, by_parent = below_training(report)

    def text() -> str:
        gap = show(below["value"], "nats", say) if below else ""
        if by_parent:
            return say(
                "the loss of {parent}, from which the run started, is {gap} lower on the validation text than on the training text",
                parent=parent_name(report),
                gap=gap,
            )
        return say("the loss on the validation text is {gap} below that on the training text", gap=gap)

    return make_figure("below_training", say("Training loss minus validation loss"), "nats", below, limits.below_training, text)


def parent_name(report: Report) -> str:
    origin = report["origin"]
    return (origin["name"] if origin else None) or "the model"


def below_training(report: Report) -> tuple[IntervalValues | None, bool]:
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
