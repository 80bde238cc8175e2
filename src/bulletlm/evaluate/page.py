"""report.html: one page made from the values of report.json, without scripts, fonts or links to other places.

This module has the frame of the page and the sections with numbers; page_text.py has the sections about text and answers,
page_quantization.py those about tensors. `markup` escapes all text.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bulletlm.evaluate.charts import learning_curves
from bulletlm.evaluate.formatting import (
    count,
    decimal,
    duration,
    language_name,
    percent,
    percent_change,
    perplexity,
    plus_minus,
    signed,
    size,
    small,
)
from bulletlm.evaluate.markup import Html, escape, html_table, join, tag
from bulletlm.evaluate.page_quantization import qat_section, tensors_section
from bulletlm.evaluate.page_text import answers_section, data_section, tokenizer_section
from bulletlm.evaluate.report_types import ComparisonValues, Report

STYLE_FILE = Path(__file__).with_name("page.css")


def render(report: Report) -> str:
    """The page as HTML; the same report gives the same bytes."""
    sections = [
        ("numbers", "Results", _numbers(report)),
        ("origin", "Against the model it started from" if _parent_name(report) else "On other text", _origin(report)),
        ("curves", "Training", _curves(report)),
        ("languages", "By language", _by_label(report["by_language"], "Language", language_name)),
        ("sources", "By source", _by_label(report["by_source"], "Source", str) if len(report["by_source"]) > 1 else Html()),
        ("answers", "Answers", answers_section(report)),
        ("data", "Training text", data_section(report)),
        ("tokenizer", "Tokenizer", tokenizer_section(report)),
        ("quantization", "Quantization by tensor", qat_section(report) + tensors_section(report)),
        ("use", "How to use the model", _use(report)),
        ("settings", "Settings and versions", _settings(report)),
        ("words", "Glossary", _glossary()),
    ]
    sections = [section for section in sections if section[2]]
    contents = join(tag("a", title, href=f"#{name}") for name, title, _ in sections)
    missing = join(tag("p", f"Not available: {note}.", cls="missing") for note in report["missing"])
    body = join(tag("section", tag("h2", title) + body, id=name) for name, title, body in sections)
    style = STYLE_FILE.read_text(encoding="utf-8")
    verdict = join(tag("p", sentence) for sentence in report["verdict"])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{escape(report["name"])}: report</title>
<style>
{style}</style>
</head>
<body>
<header>
<p class="eyebrow">BulletLM report</p>
<h1>{escape(report["name"])}</h1>
<p class="lead">{escape(report["summary"])}</p>
<div class="verdict">{verdict}</div>
{missing}
<nav>{contents}</nav>
</header>
<main>
{body}
</main>
<footer><p>Written by <code>bullet evaluate</code>. <code>report.json</code> has the same numbers and more.</p></footer>
</body>
</html>
"""


def _numbers(report: Report) -> Html:
    fp32, bq4, both = report["fp32"], report["bq4"], report["comparison"]
    delta = both["loss_delta"]
    bits = (fp32["bits_per_byte"], bq4["bits_per_byte"])
    bits_change = "" if bits[0] is None or bits[1] is None else signed(bits[1] - bits[0])
    cards = [
        _pair("perplexity", fp32["perplexity"], bq4["perplexity"], perplexity, percent_change(both["perplexity_change"])),
        _pair("validation loss", fp32["loss"], bq4["loss"], decimal, signed(delta["mean"]) + plus_minus(delta["se"], 4)),
        _pair("bits per byte", *bits, decimal, bits_change),
        _pair("size", fp32["bytes"], bq4["bytes"], size, f"{fp32['bytes'] / bq4['bytes']:.1f} times smaller"),
        _single(
            "same top token",
            percent(both["top1_agreement"]["mean"]),
            "of all positions have the same most likely next token in both",
        ),
        _single("KL divergence", small(both["kl"]["mean"]), f"nats per token{plus_minus(both['kl']['se'])}; 0 means identical predictions"),
    ]
    note = (
        f"Measured on {both['tokens']:,} tokens ({size(both['bytes'])} of text) that are not in the training text, "
        f"in {both['windows']:,} windows. "
        f"FP32 is the trained model, 4-bit is the file model.bullet ({report['model']['bits_per_weight']:.2f} bits per weight). "
        "± is one standard error of the paired difference."
    )
    return tag("div", join(cards), cls="cards") + tag("p", note, cls="note")


def _pair(label: str, fp32: Any, bq4: Any, form: Callable[[Any], str], change: str) -> Html:
    shown = [
        tag("div", tag("span", name) + tag("b", form(value) if value is not None else "–"), cls=cls)
        for name, value, cls in (("FP32", fp32, "a"), ("4-bit", bq4, "b"))
    ]
    return tag("div", tag("h3", label) + tag("div", join(shown), cls="pair") + tag("p", change), cls="card")


def _single(label: str, value: str, note: str) -> Html:
    return tag("div", tag("h3", label) + tag("div", tag("div", tag("b", value), cls="b"), cls="pair") + tag("p", note), cls="card")


def _curves(report: Report) -> Html:
    training = report["training"]
    if training is None:
        return Html()
    charts = learning_curves(training["curves"], training["best_step"])
    figures = join(
        tag("figure", Html(svg.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1))) for caption, svg in charts
    )
    facts = [f"{training['steps']:,} steps", f"{count(training['tokens'])} tokens", f"{duration(training['seconds'])}"]
    if training["tokens_per_s"]:
        facts.append(f"{training['tokens_per_s']:,.0f} tokens per second")
    text = f"{', '.join(facts)}. "
    if training["best_step"] is not None:
        text += f"The validation loss was lowest at step {training['best_step']:,}; this report describes that model"
        text += ", with averaged (EMA) weights. " if report["model"]["weights"] == "ema" else ". "
    if training["ended"]:
        text += f"Reason for the end of training: {training['ended']}."
    return tag("p", text) + tag("div", figures, cls="charts")


def _by_label(rows: Mapping[str, ComparisonValues], title: str, name: Callable[[str], str]) -> Html:
    head = [
        title,
        "tokens",
        "perplexity FP32",
        "perplexity 4-bit",
        "change",
        "bits/byte FP32",
        "bits/byte 4-bit",
        "KL",
        "same top token",
    ]
    body = []
    for label, row in rows.items():
        sides = (row["a"], row["b"])
        bpb = ["–" if (bits := side["bits_per_byte"]) is None else decimal(bits) for side in sides]
        ppl = [perplexity(side["perplexity"]) for side in sides]
        change = percent_change(row["perplexity_change"])
        body.append(
            [name(label), f"{row['tokens']:,}", *ppl, change, *bpb, small(row["kl"]["mean"]), percent(row["top1_agreement"]["mean"])]
        )
    return html_table(head, body)


def _parent_name(report: Report) -> str | None:
    origin = report["origin"]
    return origin["name"] if origin else None


def _origin(report: Report) -> Html:
    """Bits per byte of the parent, the FP32 model and the 4-bit model on each text."""
    origin, name = report["origin"], _parent_name(report)
    if origin is None or not origin["texts"]:
        return Html()
    head = ["Text", "tokens", *(["bits/byte before"] if name else []), "bits/byte FP32", "bits/byte 4-bit", *(["change"] if name else [])]
    body = []
    for row in origin["texts"]:
        before, exact, after = (row[which]["bits_per_byte"] if row[which] else None for which in ("parent", "fp32", "bq4"))
        shown = ["–" if bits is None else decimal(bits) for bits in ((before, exact, after) if name else (exact, after))]
        change = [percent_change(after / before - 1) if before and after is not None else "–"] if name else []
        body.append([row["text"], f"{row['tokens']:,}", *shown, *change])
    note = (
        f"Before: the model {name} (licence: {origin['license']}), from which the training started. A lower number is better: on the "
        "validation text it shows what the model learned, on other text a higher one shows what it forgot."
        if name
        else "Text that is named by evaluate.also, without what the model was trained on."
    )
    return html_table(head, body) + tag("p", note, cls="note")


def _use(report: Report) -> Html:
    return tag("pre", "\n".join(report["commands"]))


def _settings(report: Report) -> Html:
    shape = report["model"]["shape"]
    facts = [
        [name, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)] for name, value in shape.items()
    ]
    facts = [["parameters", f"{report['model']['parameters']:,}"], *facts, ["license", report["model"]["license"]]]
    versions = [[name, str(value)] for name, value in report["versions"].items()]
    tables = html_table(["Model", ""], facts) + html_table(["Versions", ""], versions)
    settings = tag("details", tag("summary", "All settings") + tag("pre", json.dumps(report["settings"], ensure_ascii=False, indent=2)))
    return tag("div", tables, cls="columns") + settings


def _glossary() -> Html:
    words = [
        ("Loss", "Mean of -ln p(next token) over the text, in nats per token. Lower is better."),
        ("Perplexity", "exp(loss): 20 means that the model is as uncertain as if it chose between 20 equally likely tokens."),
        (
            "Bits per byte",
            "The loss in bits per byte of text instead of per token; comparable between models with different vocabularies.",
        ),
        (
            "FP32, 4-bit",
            "FP32 stores each weight as a 32-bit number. The .bullet file stores blocks of 32 weights, 4 bits each, with a common scale.",
        ),
        ("KL divergence", "The distance between the next-token probabilities of the 4-bit model and of FP32; 0 means they are identical."),
        ("Distinct-2", "The share of pairs of adjacent words that are distinct. It is low for a model that repeats itself."),
    ]
    return tag("dl", join(tag("dt", word) + tag("dd", meaning) for word, meaning in words))
