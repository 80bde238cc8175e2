"""report.html: one page made from the values of report.json, without scripts, fonts or links to other places.

This module has the frame of the page and the sections with numbers; page_text.py has the sections about text and answers,
page_quantization.py those about tensors. `markup` escapes all text.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bulletlm.config.schema import LimitsConfig
from bulletlm.evaluate.charts import learning_curves, loss_curves
from bulletlm.evaluate.formatting import (
    decimal,
    percent,
    percent_change,
    perplexity,
    signed,
    small,
)
from bulletlm.evaluate.markup import Html, escape, html_table, join, tag
from bulletlm.evaluate.page_quantization import fix_section, qat_section, tensors_section
from bulletlm.evaluate.page_text import answers_section, data_section, tokenizer_section
from bulletlm.evaluate.page_verdict import behaviour_section, checks_section, figures_section, verdict_section
from bulletlm.evaluate.report_types import ComparisonValues, IntervalValues, Report
from bulletlm.evaluate.summary import sentences, summary
from bulletlm.evaluate.verdicts import judge
from bulletlm.evaluate.words import Words
from bulletlm.quant.types import BITS, bits_of_file

STYLE_FILE = Path(__file__).with_name("page.css")


def render(report: Report) -> str:
    """The page as HTML in the language of report.lang; the same report gives the same bytes."""
    settings = report["settings"]["report"]
    say = Words(settings["lang"], bits_of_file(report))
    verdicts = report["verdicts"] if say.code == "en" else judge(report, LimitsConfig.model_validate(settings["limits"]), say.code)
    sections = [
        ("numbers", say("Results"), _numbers(report, say)),
        ("figures", say("All figures and limits"), figures_section(verdicts, say)),
        ("behaviour", say("Behaviour"), behaviour_section(report, say)),
        ("answers", say("Answers"), answers_section(report, say)),
        ("origin", say("Against the model it started from") if _parent_name(report) else say("On other text"), _origin(report, say)),
        ("curves", say("Training"), _curves(report, say)),
        ("checks", say("Against the training text"), checks_section(report, say)),
        ("languages", say("By language"), _by_label(report["by_language"], say("Language"), say.language, say)),
        ("sources", say("By source"), _by_label(report["by_source"], say("Source"), str, say) if len(report["by_source"]) > 1 else Html()),
        ("data", say("Training text"), data_section(report, say)),
        ("tokenizer", say("Tokenizer"), tokenizer_section(report, say)),
        ("quantization", say("Quantization by tensor"), fix_section(report, say) + qat_section(report, say) + tensors_section(report, say)),
        ("use", say("How to use the model"), _use(report)),
        ("settings", say("Settings and versions"), _settings(report, say)),
        ("words", say("Glossary"), _glossary(say)),
    ]
    sections = [section for section in sections if section[2]]
    contents = join(tag("a", title, href=f"#{name}") for name, title, _ in sections)
    missing = join(tag("p", say("Not available: {note}.", note=note), cls="missing") for note in map(say.finished, report["missing"]))
    body = join(tag("section", tag("h2", title) + body, id=name) for name, title, body in sections)
    style = STYLE_FILE.read_text(encoding="utf-8")
    english = say.code == "en"
    meaning = join(tag("p", sentence) for sentence in (report["verdict"] if english else sentences(report, say)))
    lead = report["summary"] if english else summary(report, say)
    return f"""<!DOCTYPE html>
<html lang="{say.code}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{escape(say("{name}: report", name=report["name"]))}</title>
<style>
{style}</style>
</head>
<body>
<header>
<p class="eyebrow">{escape(say("BulletLM report"))}</p>
<h1>{escape(report["name"])}</h1>
<p class="lead">{escape(lead)}</p>
{verdict_section(verdicts, say)}
<div class="summary">{meaning}</div>
{missing}
<nav>{contents}</nav>
</header>
<main>
{body}
</main>
<footer><p>{escape(say("Written by bullet evaluate. report.json has the same numbers and more."))}</p></footer>
</body>
</html>
"""


def _numbers(report: Report, say: Words) -> Html:
    fp32, bq4, both = report["fp32"], report["bq4"], report["comparison"]
    bits = (fp32["bits_per_byte"], bq4["bits_per_byte"])
    bits_change = "" if bits[0] is None or bits[1] is None else signed(bits[1] - bits[0])
    intervals = both["intervals"]
    cards = [
        _pair(
            say("perplexity"),
            (fp32["perplexity"], bq4["perplexity"]),
            perplexity,
            _spread(intervals["perplexity_change"], percent_change, say),
            say,
        ),
        _pair(say("validation loss"), (fp32["loss"], bq4["loss"]), decimal, _spread(intervals["loss_delta"], signed, say), say),
        _pair(say("bits per byte"), bits, decimal, bits_change, say),
        _pair(
            say("size"),
            (fp32["bytes"], bq4["bytes"]),
            say.size,
            say("{times} times smaller", times=f"{fp32['bytes'] / bq4['bytes']:.1f}"),
            say,
        ),
        _single(
            say("same top token"),
            percent(both["top1_agreement"]["mean"]),
            say("of all positions have the same most likely next token in both"),
        ),
        _single(
            say("KL divergence"),
            small(both["kl"]["mean"]),
            say("nats per token; 0 means identical predictions") + f" ({_ends(intervals['kl'], small, say)})",
        ),
    ]
    units = say("documents") if both["units"]["kind"] == "documents" else say("blocks of windows")
    note = say(
        "Measured on {tokens} tokens ({size} of text) that are not in the training text, in {windows} windows. FP32 is the trained "
        "model, {n}-bit is the file model.bullet ({bits} bits per weight). Intervals contain the true value in 95 of 100 cases "
        "(paired bootstrap over {count} {units}).",
        tokens=f"{both['tokens']:,}",
        size=say.size(both["bytes"]),
        windows=f"{both['windows']:,}",
        bits=f"{report['model']['bits_per_weight']:.2f}",
        count=both["units"]["count"],
        units=units,
    )
    return tag("div", join(cards), cls="cards") + tag("p", note, cls="note")


def _spread(interval: IntervalValues, form: Callable[[float], str], say: Words) -> str:
    """A difference with its interval; a difference that chance explains is called noise."""
    shown = form(interval["value"])
    if interval["low"] is None or interval["high"] is None:
        return shown
    noise = say("inside the noise") + ": " if interval["low"] <= 0 <= interval["high"] else ""
    return f"{shown} ({noise}{_ends(interval, form, say)})"


def _ends(interval: IntervalValues, form: Callable[[float], str], say: Words) -> str:
    if interval["low"] is None or interval["high"] is None:
        return say("no interval: too little text")
    return say("{low} to {high}", low=form(interval["low"]), high=form(interval["high"]))


def _pair(label: str, values: tuple[Any, Any], form: Callable[[Any], str], change: str, say: Words) -> Html:
    shown = [
        tag("div", tag("span", name) + tag("b", form(value) if value is not None else "–"), cls=cls)
        for name, value, cls in (("FP32", values[0], "a"), (say("{n}-bit"), values[1], "b"))
    ]
    return tag("div", tag("h3", label) + tag("div", join(shown), cls="pair") + tag("p", change), cls="card")


def _single(label: str, value: str, note: str) -> Html:
    return tag("div", tag("h3", label) + tag("div", tag("div", tag("b", value), cls="b"), cls="pair") + tag("p", note), cls="card")


def _curves(report: Report, say: Words) -> Html:
    training = report["training"]
    if training is None:
        return Html()

    def figures(charts: list[tuple[str, str]]) -> Html:
        drawn = [Html(svg.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)) for caption, svg in charts]
        return tag("div", join(tag("figure", svg) for svg in drawn), cls="charts")

    facts = [
        say("{steps} steps", steps=f"{training['steps']:,}"),
        say("{tokens} tokens", tokens=say.count(training["tokens"])),
        say.duration(training["seconds"]),
    ]
    if training["tokens_per_s"]:
        facts.append(say("{speed} tokens per second", speed=f"{training['tokens_per_s']:,.0f}"))
    text = f"{', '.join(facts)}. "
    used = report["model"].get("step")  # reports of earlier versions have none
    if used not in (None, training["best_step"]):  # evaluate.checkpoint, or a longer run that was not better
        text += (
            say("This report describes the model of step {step}, with averaged (EMA) weights. ", step=f"{used:,}")
            if report["model"]["weights"] == "ema"
            else say("This report describes the model of step {step}. ", step=f"{used:,}")
        )
    elif training["best_step"] is not None:
        step = f"{training['best_step']:,}"
        text += (
            say("The validation loss was lowest at step {step}; this report describes that model, with averaged (EMA) weights. ", step=step)
            if report["model"]["weights"] == "ema"
            else say("The validation loss was lowest at step {step}; this report describes that model. ", step=step)
        )
    if training["ended"]:
        text += say("Reason for the end of training: {reason}.", reason=say.finished(training["ended"]))
    curves, best = training["curves"], training["best_step"]
    logarithmic = figures(loss_curves(curves, best, say, logarithmic=True))
    log = tag("details", tag("summary", say("The losses with logarithmic axes")) + logarithmic)
    has_loss = curves.get("train/loss") or curves.get("val/loss")
    return tag("p", text) + figures(learning_curves(curves, best, say)) + (log if has_loss else Html())


def _by_label(rows: Mapping[str, ComparisonValues], title: str, name: Callable[[str], str], say: Words) -> Html:
    head = [
        title,
        say("tokens"),
        say("perplexity FP32"),
        say("perplexity {n}-bit"),
        say("change"),
        say("95 % interval"),
        say("bits/byte FP32"),
        say("bits/byte {n}-bit"),
        "KL",
        say("same top token"),
    ]
    body = []
    for label, row in rows.items():
        sides = (row["a"], row["b"])
        bpb = ["–" if (bits := side["bits_per_byte"]) is None else decimal(bits) for side in sides]
        ppl = [perplexity(side["perplexity"]) for side in sides]
        change = percent_change(row["perplexity_change"])
        body.append(
            [
                name(label),
                f"{row['tokens']:,}",
                *ppl,
                change,
                _ends(row["intervals"]["perplexity_change"], percent_change, say),
                *bpb,
                small(row["kl"]["mean"]),
                percent(row["top1_agreement"]["mean"]),
            ]
        )
    return html_table(head, body)


def _parent_name(report: Report) -> str | None:
    origin = report["origin"]
    return origin["name"] if origin else None


def _origin(report: Report, say: Words) -> Html:
    """Bits per byte of the parent, the FP32 model and the 4-bit model on each text."""
    origin, name = report["origin"], _parent_name(report)
    if origin is None or not origin["texts"]:
        return Html()
    before_name, change_name = ([say("bits/byte before")], [say("change")]) if name else ([], [])
    head = [say("Text"), say("tokens"), *before_name, say("bits/byte FP32"), say("bits/byte {n}-bit"), *change_name]
    body = []
    for row in origin["texts"]:
        before, exact, after = (part["bits_per_byte"] if part else None for part in (row["parent"], row["fp32"], row["bq4"]))
        shown = ["–" if bits is None else decimal(bits) for bits in ((before, exact, after) if name else (exact, after))]
        change = [percent_change(after / before - 1) if before and after is not None else "–"] if name else []
        body.append([say.finished(row["text"]), f"{row['tokens']:,}", *shown, *change])
    note = (
        say(
            "Before: the model {name} (licence: {license}), from which the training started. A lower number is better: on the "
            "validation text it shows what the model learned, on other text a higher one shows what it forgot.",
            name=name,
            license=origin["license"],
        )
        if name
        else say("Text that is named by evaluate.also, without what the model was trained on.")
    )
    return html_table(head, body) + tag("p", note, cls="note")


def _use(report: Report) -> Html:
    return tag("pre", "\n".join(report["commands"]))


def _settings(report: Report, say: Words) -> Html:
    shape = report["model"]["shape"]
    facts = [
        [name, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)] for name, value in shape.items()
    ]
    facts = [[say("parameters"), f"{report['model']['parameters']:,}"], *facts, [say("license"), report["model"]["license"]]]
    versions = [[name, str(value)] for name, value in report["versions"].items()]
    tables = html_table([say("Model"), ""], facts) + html_table([say("Versions"), ""], versions)
    settings = tag(
        "details", tag("summary", say("All settings")) + tag("pre", json.dumps(report["settings"], ensure_ascii=False, indent=2))
    )
    return tag("div", tables, cls="columns") + settings


def _glossary(say: Words) -> Html:
    words = [
        (say("Loss"), say("Mean of -ln p(next token) over the text, in nats per token. Lower is better.")),
        (
            say("Perplexity"),
            say("exp(loss): 20 means that the model is as uncertain as if it chose between 20 equally likely tokens."),
        ),
        (
            say("Bits per byte"),
            say("The loss in bits per byte of text instead of per token; comparable between models with different vocabularies."),
        ),
        (
            say("FP32, {n}-bit"),
            say(
                "FP32 stores each weight as a 32-bit number. The .bullet file stores blocks of 32 weights, {n} bits each, with a common "
                "scale."
            )
            if say.bits in (BITS["BQ4"], BITS["BQ8"])
            else say("FP32 stores each weight as a 32-bit number. The .bullet file stores each weight as a {n}-bit number."),
        ),
        (
            say("KL divergence"),
            say("The distance between the next-token probabilities of the {n}-bit model and of FP32; 0 means they are identical."),
        ),
        (
            say("95 % interval"),
            say("The true value is in it in 95 of 100 cases. A difference whose interval contains 0 is inside the noise."),
        ),
        (say("5-gram model"), say("A simple model that predicts a token from the four tokens before it. A language model must be better.")),
        (
            say("Invented words"),
            say("Words of the answers that do not occur in the training text; people use such words, too, but not more often."),
        ),
        (say("Distinct-2"), say("The share of pairs of adjacent words that are distinct. It is low for a model that repeats itself.")),
    ]
    return tag("dl", join(tag("dt", word) + tag("dd", meaning) for word, meaning in words))
