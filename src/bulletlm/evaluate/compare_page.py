"""The page of `bullet compare --html`: two models in numbers, and their answers side by side with the differences marked."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from bulletlm.evaluate.compare_models import AnswerComparison, ModelComparison, TextComparison
from bulletlm.evaluate.formatting import decimal, language_name, percent, percent_change, perplexity, plus_minus, signed, size, small
from bulletlm.evaluate.markup import Html, escape, html_table, join, tag
from bulletlm.evaluate.page import STYLE_FILE
from bulletlm.evaluate.report_types import ComparisonValues, IntervalValues

CHECKS: list[tuple[str, str, Callable[[float], str]]] = [
    ("ended with an end token", "ended", percent),
    ("distinct word pairs (distinct-2)", "distinct_2", percent),
    ("longest repeated sequence, words", "longest_repeat", lambda value: f"{value:.1f}"),
    ("letters in the script of the language", "script_share", percent),
    ("tokens per answer", "tokens", lambda value: f"{value:.0f}"),
]
"""Checks of answers: label, key and form."""


PAGE_START = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">"""
"""How a page begins; a file with another beginning is not a page of this module."""


def render_comparison(result: ModelComparison, tokens: ComparisonValues | None) -> str:
    """The page as HTML, without scripts, fonts or links to other places; the same result gives the same bytes.

    Args:
        result: of `compare_models`.
        tokens: the comparison token by token, for two models with the same tokenizer.
    """
    parts = [_text(result)]
    if tokens:
        parts.append(_tokens(tokens))
    if result.answers:
        parts.append(_answers(result.answers))
    style = STYLE_FILE.read_text(encoding="utf-8")
    names = short_names(result.a["model"], result.b["model"])
    title = " and ".join(names)
    return f"""{PAGE_START}
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{style}mark {{ background: var(--tint); color: inherit; border-bottom: 2px solid currentColor; }}
</style>
</head>
<body>
<header>
<p class="eyebrow">BulletLM comparison</p>
<h1>Two models on the same text</h1>
<p class="lead">{escape(conclusion(result))}</p>
{html_table(["", "model", "runs on", "vocabulary", "context"], [_model("A", names[0], result.a), _model("B", names[1], result.b)])}
</header>
<main>
{join(parts)}
</main>
<footer><p>Written by <code>bullet compare</code>.</p></footer>
</body>
</html>
"""


def conclusion(result: ModelComparison) -> str:
    """The result in one sentence."""
    difference = result.text["difference"]
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        if difference["value"] == 0:
            return "The two models predict this text equally well: they need exactly as many bits."
        return "There is too little text to say which of the two models predicts it better."
    if low <= 0 <= high:
        return "The two models predict this text equally well: their difference is within the noise."
    better, worse = ("A", "B") if difference["value"] > 0 else ("B", "A")
    share = abs(difference["value"]) / max(result.text[worse.lower()]["value"], 1e-12)  # type: ignore[literal-required]
    return f"Model {better} predicts this text better: it needs {percent(share)} fewer bits than model {worse}."


def short_names(a: str, b: str) -> tuple[str, str]:
    """The ends of two paths, as short as they differ: a page that is sent to others must not show the folders of this computer."""
    parts = Path(a).parts, Path(b).parts
    for count in range(1, max(map(len, parts)) + 1):
        first, second = ("/".join(side[-count:]) for side in parts)
        if first != second or parts[0] == parts[1]:
            return first, second
    return a, b


def _model(letter: str, name: str, facts: Mapping[str, object]) -> list[str]:
    return [letter, name, str(facts["engine"]), f"{facts['vocab_size']:,} tokens", f"{facts['context']:,} tokens"]


def interval_text(interval: IntervalValues, form: Callable[[float], str] = decimal) -> str:
    """1.234 [1.200, 1.268]."""
    low, high = interval["low"], interval["high"]
    return form(interval["value"]) + ("" if low is None or high is None else f" [{form(low)}, {form(high)}]")


def _text(result: ModelComparison) -> Html:
    rows = [_text_row("all", result.text), *(_text_row(language_name(code), part) for code, part in result.by_language.items())]
    note = tag("p", "Bits per byte can be compared between tokenizers. Brackets show the 95 % interval over passages.", cls="note")
    table = html_table(["Bits per byte", "passages", "text", "A", "B", "B − A"], rows)
    return tag("section", tag("h2", "Prediction of text") + table + note)


def _text_row(name: str, part: TextComparison) -> list[str]:
    sides = [interval_text(part["a"]), interval_text(part["b"]), interval_text(part["difference"], signed)]
    return [name, f"{part['passages']:,}", size(part["bytes"]), *sides]


def _tokens(both: ComparisonValues) -> Html:
    rows = [
        [
            "loss, nats per token",
            decimal(both["a"]["loss"]),
            decimal(both["b"]["loss"]),
            signed(both["loss_delta"]["mean"]) + plus_minus(both["loss_delta"]["se"], 4),
        ],
        ["perplexity", perplexity(both["a"]["perplexity"]), perplexity(both["b"]["perplexity"]), percent_change(both["perplexity_change"])],
        ["KL divergence, nats per token", "", "", small(both["kl"]["mean"]) + plus_minus(both["kl"]["se"])],
        ["same top token", "", "", percent(both["top1_agreement"]["mean"])],
    ]
    table = html_table(["Same tokenizer", "A", "B", "difference"], rows)
    return tag("section", tag("h2", "Token by token") + table + tag("p", f"{both['tokens']:,} validation tokens.", cls="note"))


def _answers(answers: AnswerComparison) -> Html:
    checks = [
        [label, *("–" if (value := answers["checks"][side][key]) is None else form(value) for side in ("a", "b"))]
        for label, key, form in CHECKS
    ]
    rows = answers["rows"]
    intro = f"{len(rows)} prompts, the same seed ({answers['seed']}) and settings for both. Identical answers: {answers['identical']}."
    parts = [tag("h2", "Answers"), tag("p", intro), html_table(["Average", "A", "B"], checks)]
    for row in rows:
        first, second = marked(row["a"]["text"].strip(), row["b"]["text"].strip())
        sides = join(
            tag(
                "div",
                tag("span", letter, cls="tag") + tag("p", text or "(no answer)", cls="answer", lang=row["language"], dir="auto"),
                cls=f"side {letter.lower()}",
            )
            for letter, text in (("A", first), ("B", second))
        )
        parts.append(tag("article", tag("p", row["prompt"], cls="prompt", dir="auto") + tag("div", sides, cls="sides")))
    return tag("section", join(parts))


def marked(a: str, b: str) -> tuple[Html, Html]:
    """Two texts, with the words that are only in one of them marked."""
    words = a.split(" "), b.split(" ")
    sides: tuple[list[Html], list[Html]] = ([], [])
    for kind, a_start, a_end, b_start, b_end in difflib.SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        for side, text in zip(sides, (" ".join(words[0][a_start:a_end]), " ".join(words[1][b_start:b_end])), strict=True):
            if text:
                side.append(escape(text) if kind == "equal" else tag("mark", text))
    return Html(" ".join(sides[0])), Html(" ".join(sides[1]))
