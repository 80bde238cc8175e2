"""report.html: one page without links, scripts or fonts from elsewhere, drawn from the dictionary of report.json.

Texts come from data files and models, so nothing reaches the page unescaped: every helper takes plain text and
escapes it, unless it is `Html` already.
"""

import html
import json
import math
from collections.abc import Callable
from typing import Any

from bulletlm.evaluate.charts import learning_curves

LANGUAGES = {
    "mr": "Marathi",
    "en": "English",
    "hi": "Hindi",
    "sa": "Sanskrit",
    "gu": "Gujarati",
    "kn": "Kannada",
    "ta": "Tamil",
    "te": "Telugu",
}
KINDS = {"short": "Short questions", "long": "Long questions", "translation": "Translations"}
SKIPPED_SHOWN = 5
_PARTS = {
    "attention.q_proj": "query",
    "attention.k_proj": "key",
    "attention.v_proj": "value",
    "attention.o_proj": "output",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}


class Html(str):
    """Text that is markup already; what is added to it is escaped unless it is markup too."""

    def __add__(self, other: str) -> "Html":
        return Html(str.__add__(self, _text(other)))


def render(report: dict[str, Any]) -> str:
    """The whole page."""
    sections = [
        ("numbers", "In numbers", _numbers(report)),
        ("curves", "How it learned", _curves(report)),
        ("languages", "By language", _by_label(report["by_language"], "Language", language_name)),
        ("sources", "By source", _by_label(report["by_source"], "Source", str) if len(report["by_source"]) > 1 else Html()),
        ("answers", "What it says", _answers(report)),
        ("data", "What it read", _data(report)),
        ("tokenizer", "How it cuts words", _tokenizer(report)),
        ("quantisation", "What 4 bits cost, tensor by tensor", _qat(report) + _tensors(report)),
        ("use", "How to use the file", _use(report)),
        ("settings", "Settings and versions", _settings(report)),
        ("words", "What the words mean", _glossary()),
    ]
    sections = [section for section in sections if section[2]]
    contents = _join(_tag("a", title, href=f"#{name}") for name, title, _ in sections)
    missing = _join(_tag("p", f"Left out: {note}.", cls="missing") for note in report["missing"])
    body = _join(_tag("section", _tag("h2", title) + body, id=name) for name, title, body in sections)
    verdict = _join(_tag("p", sentence) for sentence in report["verdict"])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{_text(report["name"])}: report</title>
<style>{_CSS}</style>
</head>
<body>
<header>
<p class="eyebrow">BulletLM report</p>
<h1>{_text(report["name"])}</h1>
<p class="lead">{_text(report["summary"])}</p>
<div class="verdict">{verdict}</div>
{missing}
<nav>{contents}</nav>
</header>
<main>
{body}
</main>
<footer><p>Written by <code>bullet evaluate</code>. The same numbers, and more of them, are in <code>report.json</code>.</p></footer>
</body>
</html>
"""


def language_name(code: str) -> str:
    """ "Marathi" for "mr"; unknown codes stay as they are."""
    return LANGUAGES.get(code, code)


# Sections


def _numbers(report: dict[str, Any]) -> Html:
    fp32, bq4, both = report["fp32"], report["bq4"], report["comparison"]
    delta = both["loss_delta"]
    bpb = _pair("bits per byte", fp32["bits_per_byte"], bq4["bits_per_byte"], decimal, "")
    if fp32["bits_per_byte"] is not None:
        bpb = _pair(
            "bits per byte", fp32["bits_per_byte"], bq4["bits_per_byte"], decimal, signed(bq4["bits_per_byte"] - fp32["bits_per_byte"])
        )
    cards = [
        _pair("perplexity", fp32["perplexity"], bq4["perplexity"], perplexity, percent_change(both["perplexity_change"])),
        _pair("validation loss", fp32["loss"], bq4["loss"], decimal, signed(delta["mean"]) + plus_minus(delta["se"], 4)),
        bpb,
        _pair("size", fp32["bytes"], bq4["bytes"], size, f"{fp32['bytes'] / bq4['bytes']:.1f} times smaller"),
        _single(
            "same first choice", percent(both["top1_agreement"]["mean"]), "of all places in the text have the same likeliest next token"
        ),
        _single("KL divergence", small(both["kl"]["mean"]), f"nats a token{plus_minus(both['kl']['se'])}; 0 would be no difference at all"),
    ]
    note = (
        f"Measured on {both['tokens']:,} tokens ({size(both['bytes'])} of text) that the model never saw in training, "
        f"in {both['windows']:,} windows. "
        f"FP32 is the model as it was trained, 4-bit the file model.bullet ({report['model']['bits_per_weight']:.2f} bits a weight). "
        f"± is one standard error of the paired difference."
    )
    return _tag("div", _join(cards), cls="cards") + _tag("p", note, cls="note")


def _pair(label: str, fp32: Any, bq4: Any, form: Any, change: str) -> Html:
    shown = [
        _tag("div", _tag("span", name) + _tag("b", form(value) if value is not None else "–"), cls=cls)
        for name, value, cls in (("FP32", fp32, "a"), ("4-bit", bq4, "b"))
    ]
    return _tag("div", _tag("h3", label) + _tag("div", _join(shown), cls="pair") + _tag("p", change), cls="card")


def _single(label: str, value: str, note: str) -> Html:
    return _tag("div", _tag("h3", label) + _tag("div", _tag("div", _tag("b", value), cls="b"), cls="pair") + _tag("p", note), cls="card")


def _curves(report: dict[str, Any]) -> Html:
    training = report["training"]
    if training is None:
        return Html()
    charts = learning_curves(training["curves"], training["best_step"])
    figures = _join(
        _tag("figure", Html(svg.replace("<svg", f'<svg role="img" aria-label="{_text(caption)}"', 1))) for caption, svg in charts
    )
    facts = [f"{training['steps']:,} steps", f"{count(training['tokens'])} tokens", f"{duration(training['seconds'])}"]
    if training["tokens_per_s"]:
        facts.append(f"{training['tokens_per_s']:,.0f} tokens a second")
    text = f"{', '.join(facts)}. "
    if training["best_step"] is not None:
        text += f"The validation loss was lowest at step {training['best_step']:,}; that is the model in this report"
        text += ", with averaged (EMA) weights. " if report["model"]["weights"] == "ema" else ". "
    if training["ended"]:
        text += f"Training stopped by: {training['ended']}."
    return _tag("p", text) + _tag("div", figures, cls="charts")


def _by_label(rows: dict[str, Any], title: str, name: Any) -> Html:
    head = [
        title,
        "tokens",
        "perplexity FP32",
        "perplexity 4-bit",
        "change",
        "bits/byte FP32",
        "bits/byte 4-bit",
        "KL",
        "same first choice",
    ]
    body = []
    for label, row in rows.items():
        bpb = [decimal(row[side]["bits_per_byte"]) if row[side]["bits_per_byte"] is not None else "–" for side in "ab"]
        ppl = [perplexity(row[side]["perplexity"]) for side in "ab"]
        change = percent_change(row["perplexity_change"])
        body.append(
            [name(label), f"{row['tokens']:,}", *ppl, change, *bpb, small(row["kl"]["mean"]), percent(row["top1_agreement"]["mean"])]
        )
    return _table(head, body)


def _answers(report: dict[str, Any]) -> Html:
    generations = report["generations"]
    rows, checks = generations["rows"], generations["checks"]
    sampling = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in generations["sampling"].items())
    intro = (
        f"{len(rows)} prompts, the same for every model, asked of both versions with the same seed ({generations['seed']}; {sampling}). "
        f"Word for word the same answer: {generations['identical']} of {len(rows)}. Nobody chose the best ones."
    )
    lines: list[tuple[str, str, Callable[[float], str]]] = [
        ("ended by itself", "ended", percent),
        ("different word pairs (distinct-2)", "distinct_2", percent),
        ("longest repeated run, words", "longest_repeat", lambda value: f"{value:.1f}"),
        ("letters in the script of the language", "script_share", percent),
        ("tokens an answer", "tokens", lambda value: f"{value:.0f}"),
    ]
    table = [
        [label, *("–" if checks[side][key] is None else form(checks[side][key]) for side in ("fp32", "bq4"))] for label, key, form in lines
    ]
    parts = [_tag("p", intro), _table(["On average", "FP32", "4-bit"], table)]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        parts.append(_tag("h3", KINDS.get(kind, kind)))
        parts += [_exchange(row) for row in rows if row["kind"] == kind]
    return _join(parts)


def _exchange(row: dict[str, Any]) -> Html:
    fp32, bq4, language = row["fp32"], row["bq4"], row["language"]
    if fp32["text"] == bq4["text"]:
        sides = _side("FP32 and 4-bit alike", "both", bq4, language)
    else:
        sides = _side("FP32", "a", fp32, language) + _side("4-bit", "b", bq4, language)
    return _tag("article", _tag("p", row["prompt"], cls="prompt", dir="auto") + _tag("div", sides, cls="sides"))


def _side(label: str, cls: str, answer: dict[str, Any], language: str) -> Html:
    text = (
        _tag("p", answer["text"].strip(), cls="answer", lang=language, dir="auto")
        if answer["text"].strip()
        else _tag("p", "(no answer)", cls="answer empty")
    )
    facts = [f"{answer['tokens']} tokens", "ended by itself" if answer["ended"] else "cut at the limit"]
    if answer["longest_repeat"] > 2:
        facts.append(f"repeats {answer['longest_repeat']} words")
    if answer["script_share"] is not None and answer["script_share"] < 0.9:
        facts.append(f"{percent(answer['script_share'], 0)} in the right script")
    return _tag("div", _tag("span", label, cls="tag") + text + _tag("p", " · ".join(facts), cls="facts"), cls=f"side {cls}")


def _data(report: dict[str, Any]) -> Html:
    tokens, cleaning = report["tokens"], report["data"]
    rows = []
    for split, title in (("train", "training"), ("val", "validation")):
        for language, row in tokens[split]["by_language"].items():
            rows.append([f"{language_name(language)}, {title}", f"{row['documents']:,}", size(row["bytes"]), f"{row['tokens']:,}"])
    table = _table(["Text", "documents and conversations", "size", "tokens"], rows)
    return table if cleaning is None else table + _cleaning(cleaning)


def _cleaning(cleaning: dict[str, Any]) -> Html:
    sources, rules, skipped = cleaning["sources"], cleaning["rules"], cleaning["skipped_files"]
    seen, kept = sum(row["rows_in"] for row in sources), sum(row["rows_out"] for row in sources)
    text = f"Of {seen:,} paragraphs and conversations in the sources, {kept:,} were kept ({percent(kept / max(seen, 1))})."
    rows = []
    for row in sources:
        counts = [row["rows_in"], row["rows_out"], row["rows_in"] - row["rows_out"], row["characters_out"]]
        rows.append([row["source"], *(f"{number:,}" for number in counts)])
    parts = [_tag("p", text), _table(["Source", "rows read", "kept", "left out", "characters kept"], rows), _mixture(cleaning)]
    for title, verb in (("Left out, and why", "rejected"), ("Made uniform", "changed")):
        found = [rule for rule in rules.values() if rule.get(verb)]
        if found:
            parts += [_tag("h3", title), _tag("dl", _join(_rule(rule, verb) for rule in found), cls="rules")]
    idle = [name.replace("_", " ") for name, rule in rules.items() if not rule.get("rejected") and not rule.get("changed")]
    if idle:
        parts.append(_tag("p", f"Rules that found nothing, or are switched off: {', '.join(idle)}.", cls="note"))
    parts.append(_augmentation(cleaning.get("augmentation")))
    if skipped:
        names = [f"{item['file']} ({item['reason']})" for item in skipped[:SKIPPED_SHOWN]]
        more = f", and {len(skipped) - SKIPPED_SHOWN:,} more" if len(skipped) > SKIPPED_SHOWN else ""
        parts.append(_tag("p", f"Not read: {', '.join(names)}{more}.", cls="note"))
    return _join(parts)


def _mixture(cleaning: dict[str, Any]) -> Html:
    """What the training stream is made of, and that validation text is not."""
    if "mixture" not in cleaning:
        return Html()
    rows = []
    for row in cleaning["mixture"]:
        numbers = [f"{row['tokens']:,}", f"{row['times']:.2f}", f"{row['stream_tokens']:,}", percent(row["share"])]
        rows.append([row["source"], language_name(row["language"]), row["kind"], *numbers])
    head = ["Source", "language", "", "tokens there (estimated)", "times", "tokens in training", "share"]
    checked = f"{cleaning['leaks']['passages']:,} passages of training text were compared with the validation text: none repeats it."
    return _join([_tag("h3", "What goes into training"), _table(head, rows), _tag("p", checked, cls="note")])


def _rule(rule: dict[str, Any], verb: str) -> Html:
    examples = []
    for example in rule["examples"]:
        shown = _tag("q", example["before"]) + " → " + _tag("q", example["after"]) if verb == "changed" else _tag("q", example["text"])
        where = f", line {example['line']}" if example["line"] else ""
        examples.append(_tag("p", shown + f" {example['source']}{where}"))
    setting = _join([" ", _tag("code", rule["setting"])]) if rule.get("setting") else Html()
    return _tag("dt", f"{rule[verb]:,}") + _tag("dd", _tag("p", _text(rule["rule"]) + setting) + _tag("div", _join(examples), cls="facts"))


def _augmentation(found: dict[str, Any] | None) -> Html:
    """What models or pairs said in other words, how much of it was kept, and why the rest was not."""
    if not found or not found["methods"]:
        return Html()
    rows, details = [], []
    for method in found["methods"]:
        name = method["method"] + (f", {language_name(method['language'])}" if method["language"] else "")
        numbers = [method["documents"], method["sentences"], method["kept"], method["documents_added"], method["characters_added"]]
        rows.append([name, *(f"{number:,}" for number in numbers)])
        dropped = [f"{each['description']} {each['dropped']:,}" for each in method["filters"] if each["dropped"]]
        kept = method["examples"].get("kept", [])
        examples = [_tag("p", _tag("q", each["before"]) + " → " + _tag("q", each["after"])) for each in kept]
        why = f"Sentences dropped: {'; '.join(dropped)}." if dropped else "No sentence was dropped."
        details.append(_tag("dt", name) + _tag("dd", _tag("p", why) + _tag("div", _join(examples), cls="facts")))
    head = ["Said in other words", "documents taken", "sentences", "sentences kept", "documents added", "characters added"]
    return _join([_tag("h3", "Augmentation"), _table(head, rows), _tag("dl", _join(details))])


def _tokenizer(report: dict[str, Any]) -> Html:
    facts = report["tokenizer"]
    if facts is None:
        return Html()
    rows = []
    for code, row in facts["languages"].items():
        numbers = [f"{row['tokens_per_word']:.2f}", f"{row['chars_per_token']:.2f}", f"{row['bytes_per_token']:.2f}"]
        rows.append([language_name(code), *numbers, percent(row["share_in_bytes"], 2), percent(row["share_starting_with_mark"], 2)])
    head = [
        "Language",
        "tokens a word",
        "characters a token",
        "bytes a token",
        "characters spelled in bytes",
        "tokens that begin inside a letter",
    ]
    text = (
        f"A vocabulary of {facts['vocab_size']:,} tokens. "
        "Fewer tokens a word (the fertility) means that more text fits into the model's window."
    )
    longest = dict.fromkeys(piece.strip() for piece in facts["longest_pieces"])
    pieces = _join([Html("The longest tokens: "), *(_tag("code", piece) + " " for piece in list(longest)[:12])])
    parts = [_tag("p", text), _table(head, rows), _tag("p", pieces, cls="pieces")]
    if facts.get("rarest_pieces"):
        rarest = _join([_tag("code", each["piece"]) + f" {each['count']:,}, " for each in facts["rarest_pieces"][:12]])
        unused = f"and {facts['unused_pieces']:,} that do not occur there at all."
        parts.append(_tag("p", _join(["The rarest in the training text, and how often they occur: ", rarest, unused]), cls="pieces"))
    return _join([*parts, _sizes(report.get("vocabulary_sizes"))])


def _sizes(compared: dict[str, Any] | None) -> Html:
    """The table of `bullet tokenizer --compare`."""
    if compared is None:
        return Html()
    rows, problems = [], []
    for row in compared["rows"]:
        mark = " (this run)" if row["vocab_size"] == compared["configured"] else ""
        first = [f"{row['vocab_size']:,}{mark}", f"{row['embedding_parameters']:,}", percent(row["embedding_share"], 0)]
        for code, each in row.get("languages", {}).items():
            words = f"{row['context_words'][code]:,}"
            rows.append([*first, language_name(code), f"{each['tokens_per_word']:.2f}", f"{each['bytes_per_token']:.2f}", words])
        if "problem" in row:
            problems.append(_tag("p", row["problem"], cls="note"))
    head = ["Tokens", "embedding parameters", "of the model", "language", "tokens a word", "bytes a token", "words in the window"]
    return _join([_tag("h3", "Other sizes of vocabulary"), _table(head, rows), *problems])


def _qat(report: dict[str, Any]) -> Html:
    """How training on the 4-bit grid (docs/quantization.md) changed the KL from FP32."""
    facts = (report["quantised"] or {}).get("qat")
    if facts is None:
        return Html()
    names = {"start": "before QAT", "raw": "after QAT", "ema": "after QAT, averaged"}
    rows = [[name + (" (this file)" if key == facts["chosen"] else ""), small(facts["kl"][key])] for key, name in names.items()]
    text = (
        f"In {facts['steps']:,} steps on {count(facts['tokens'])} tokens the FP32 model taught the 4-bit one to predict as it does "
        "itself (QAT: quantisation-aware training). The best weights are in the file, judged by the divergence on the validation text."
    )
    return _tag("p", text) + _table(["Weights", "KL divergence, nats a token"], rows)


def _tensors(report: dict[str, Any]) -> Html:
    tensors = [tensor for tensor in report["tensors"] if tensor["type"] != "F32"]
    if not tensors:
        return Html()
    maps = [
        _map(
            "What each matrix alone costs",
            "The divergence (KL) from FP32 if only this matrix were rounded and all others were exact, in thousandths of a nat a token. "
            "Without what later matrices make good: in the whole file each costs less.",
            tensors,
            "kl",
            lambda cost: f"{1000 * cost:.3f}" if cost < 0.01 else f"{1000 * cost:.1f}",
            report["sensitivity"],
        ),
        _map(
            "How far the outputs moved",
            "Mean square error of the outputs of each matrix on the calibration text, all before it being rounded too, as a share of "
            "their mean square. Output and down are also to make good what the hidden state lacks by then.",
            tensors,
            "output_error",
            lambda share: percent(share, 2),
        ),
        _map(
            "How far the weights moved",
            "Root mean square error of the weights, relative to their size. Fitted weights may move further than rounded ones: it is "
            "the outputs that count.",
            tensors,
            "relative_rmse",
            lambda share: percent(share, 1),
        ),
    ]
    rows = []
    for kind in dict.fromkeys(tensor["type"] for tensor in report["tensors"]):
        same = [tensor for tensor in report["tensors"] if tensor["type"] == kind]
        weights, stored = sum(t["weights"] for t in same), sum(t["bytes"] for t in same)
        error = math.sqrt(sum(t["relative_rmse"] ** 2 for t in same) / len(same))
        rows.append([kind, f"{len(same):,}", f"{weights:,}", size(stored), f"{8 * stored / weights:.2f}", percent(error, 2)])
    table = _table(["Type", "tensors", "weights", "stored in", "bits a weight", "mean error"], rows)
    return table + _join(maps)


def _map(
    title: str, text: str, tensors: list[dict[str, Any]], key: str, form: Callable[[float], str], whole: dict[str, float] | None = None
) -> Html:
    """A number for every matrix, one row a layer; the higher, the darker. `whole` adds a column for all matrices of a layer at once."""
    values = {tensor["name"]: tensor[key] for tensor in tensors if tensor[key] is not None}
    if not values:
        return Html()
    most = max(values.values()) or 1.0

    def cell(value: float | None) -> Html:
        if value is None:
            return _tag("td", "–")
        # The square root, so that the many small ones differ as well.
        return _tag("td", form(value), cls="heat", style=f"--heat:{100 * math.sqrt(max(value, 0) / most):.0f}%")

    by_layer: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        by_layer.setdefault(_layer_of(name), {})[_part_of(name)] = value
    parts = list(dict.fromkeys(_part_of(name) for name in values if name.startswith("layers.")))
    head = ["", *parts, *(["whole layer"] if whole else [])]
    rows, outside = [], []
    for layer, found in by_layer.items():
        if "matrix" in found:
            outside.append(f"{layer} {form(found['matrix'])}")
            continue
        cells = [cell(found.get(part)) for part in parts]
        if whole:
            cost = whole.get(layer.replace("layer ", "layers."))
            cells.append(_tag("td", "–" if cost is None else form(cost)))
        rows.append(_tag("tr", _tag("th", layer, scope="row") + _join(cells)))
    top = _join(_tag("th", name, scope="col") for name in head)
    table = _tag("table", _tag("thead", _tag("tr", top)) + _tag("tbody", _join(rows)), cls="map")
    note = _tag("p", f"Besides: {', '.join(outside)}.", cls="note") if outside else Html()
    return _tag("h3", title) + _tag("p", text, cls="note") + _tag("div", table, cls="scroll") + note


def _layer_of(name: str) -> str:
    return f"layer {name.split('.')[1]}" if name.startswith("layers.") else "embedding" if name.startswith("token_embedding") else "output"


def _part_of(name: str) -> str:
    part = ".".join(name.split(".")[2:-1])
    return _PARTS.get(part, part) if part else "matrix"


def _use(report: dict[str, Any]) -> Html:
    return _tag("pre", "\n".join(report["commands"]))


def _settings(report: dict[str, Any]) -> Html:
    shape = report["model"]["shape"]
    facts = [
        [name, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)] for name, value in shape.items()
    ]
    facts = [["parameters", f"{report['model']['parameters']:,}"], *facts, ["license", report["model"]["license"]]]
    versions = [[name, str(value)] for name, value in report["versions"].items()]
    tables = _table(["Model", ""], facts) + _table(["Made with", ""], versions)
    settings = _tag("details", _tag("summary", "All settings") + _tag("pre", json.dumps(report["settings"], ensure_ascii=False, indent=2)))
    return _tag("div", tables, cls="columns") + settings


def _glossary() -> Html:
    words = [
        ("Loss", "How surprised the model is by the true next token, on average, in nats. Lower is better."),
        ("Perplexity", "The same as a count: 20 means the model hesitates as if between 20 equally likely tokens."),
        ("Bits per byte", "The same again, per byte of text instead of per token, so that models with other vocabularies can be compared."),
        (
            "FP32, 4-bit",
            "FP32 keeps each weight as a 32-bit number. The .bullet file keeps blocks of 32 weights, 4 bits each, with a common scale.",
        ),
        ("KL divergence", "How far the 4-bit model's guesses for the next token are from those of FP32; 0 means they are the same."),
        ("Distinct-2", "The share of neighbouring word pairs that are different from each other. A model stuck in a loop has a low one."),
    ]
    return _tag("dl", _join(_tag("dt", word) + _tag("dd", meaning) for word, meaning in words))


# Numbers as people read them


def decimal(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def signed(value: float) -> str:
    """Three decimals (four where there is little) and a sign."""
    return f"{value:+.4f}".replace("-", "−") if abs(value) < 0.01 else f"{value:+.3f}".replace("-", "−")


def plus_minus(value: float | None, digits: int | None = None) -> str:
    """ " ± 0.002", or nothing where the error is not known."""
    if value is None:
        return ""
    return f" ± {small(value) if digits is None else f'{value:.{digits}f}'}"


def percent(value: float, digits: int = 1) -> str:
    """A share as a percentage."""
    return f"{100 * value:.{digits}f}\u00a0%"


def percent_change(value: float) -> str:
    """A relative change as a percentage with a sign."""
    return f"{100 * value:+,.2f}\u00a0%".replace("-", "−") if abs(value) < 0.1 else f"{100 * value:+,.0f}\u00a0%".replace("-", "−")


def perplexity(value: float) -> str:
    """Four significant digits or so."""
    if value >= 1e6:
        return scientific(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def small(value: float) -> str:
    """Two significant digits."""
    if value == 0:
        return "0"
    if abs(value) < 1e-5:
        return scientific(value)
    digits = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def scientific(value: float) -> str:
    """2.3 × 10⁻⁶."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def size(value: int) -> str:
    """Bytes in decimal units, as file managers show them."""
    amount = float(value)
    for unit in ("bytes", "KB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{value:,} bytes" if unit == "bytes" else f"{amount:.1f} {unit}" if amount < 100 else f"{amount:.0f} {unit}"


def count(value: int) -> str:
    """1.4 million."""
    return f"{value / 1e9:.2f} billion" if value >= 1e9 else f"{value / 1e6:.1f} million" if value >= 1e6 else f"{value:,}"


def duration(seconds: float) -> str:
    """2 h 05 min, 3 min 20 s, 12 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"


# Markup

_CONTROLS = {
    **{n: 0x2400 + n for n in range(32) if n not in (9, 10)},
    **dict.fromkeys((127, *range(128, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),
}
"""A model can write any byte: characters that HTML forbids, or that turn the direction of the text around, are shown as pictures."""


def _text(value: object) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(str(value).translate(_CONTROLS)))


def _tag(name: str, content: object, cls: str = "", **attributes: str) -> Html:
    if cls:
        attributes["class"] = cls
    written = "".join(f' {key}="{_text(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{written}>{_text(content)}</{name}>")


def _join(parts: Any) -> Html:
    return Html("".join(_text(part) for part in parts))


def _table(head: list[str], rows: list[list[Any]]) -> Html:
    top = _join(_tag("th", cell, scope="col") for cell in head)
    body = _join(_tag("tr", _tag("th", row[0], scope="row") + _join(_tag("td", cell) for cell in row[1:])) + "\n" for row in rows)
    return _tag("div", _tag("table", _tag("thead", _tag("tr", top)) + _tag("tbody", Html(body))), cls="scroll")


_CSS = """
:root {
  --paper: #fbfaf6; --card: #ffffff; --ink: #1d2026; --muted: #646974; --line: #e4e1d8;
  --a: #3f67a3; --b: #b5452f; --c: #5d7d2c; --tint: #f3efe6;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171b; --card: #1d2026; --ink: #e9e6df; --muted: #9da3ad; --line: #30343c;
    --a: #8fb2e4; --b: #f0907a; --c: #b3cf7e; --tint: #23262d;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 3rem 1.25rem 4rem; max-width: 66rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "Noto Sans Devanagari", "Kohinoor Devanagari", "Nirmala UI", Mangal, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
h1 { font-size: clamp(2rem, 6vw, 3rem); line-height: 1.15; margin: 0 0 .75rem; letter-spacing: -.015em; }
h2 { font-size: 1.45rem; line-height: 1.25; margin: 0 0 1rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 2rem 0 .75rem; }
p { margin: 0 0 1rem; }
section { padding-top: 2.25rem; margin-top: 2.25rem; border-top: 1px solid var(--line); }
.eyebrow { margin: 0 0 .5rem; color: var(--muted); font-size: .8rem; letter-spacing: .08em; text-transform: uppercase; }
.lead { font-size: 1.2rem; line-height: 1.5; max-width: 46rem; }
.verdict { border-left: 4px solid var(--b); padding: .1rem 0 .1rem 1.1rem; max-width: 46rem; margin: 1.5rem 0; }
.verdict p { margin: .35rem 0; }
.missing { color: var(--muted); font-size: .9rem; margin: .25rem 0; }
.note, .facts, .pieces { color: var(--muted); font-size: .875rem; }
nav { display: flex; flex-wrap: wrap; gap: .4rem 1.1rem; margin-top: 1.5rem; font-size: .9rem; }
a { color: var(--a); text-decoration-thickness: 1px; text-underline-offset: .2em; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; margin-bottom: 1.25rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1rem 1.15rem; break-inside: avoid; }
.card h3 { margin: 0 0 .5rem; font-size: .9rem; font-weight: 600; color: var(--muted); }
.card p { margin: .4rem 0 0; font-size: .875rem; color: var(--muted); }
.pair { display: flex; gap: 1.75rem; }
.pair span { display: block; font-size: .75rem; color: var(--muted); }
.pair b { font-size: 1.7rem; line-height: 1.2; font-weight: 650; white-space: nowrap; }
.a b, .a .tag { color: var(--a); }
.b b, .b .tag { color: var(--b); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: .75rem; break-inside: avoid; }
figure svg { display: block; width: 100%; height: auto; stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; margin: 0 0 1.25rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; overflow-wrap: normal; }
th, td { padding: .45rem .75rem .45rem 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
th:last-child, td:last-child { padding-right: 0; }
td { white-space: nowrap; }
.words td { white-space: normal; }
thead th { color: var(--muted); font-weight: 500; font-size: .8rem; line-height: 1.3; vertical-align: bottom; }
tbody th { font-weight: 500; }
article {
  background: var(--card); border: 1px solid var(--line); border-radius: .75rem; margin: 0 0 1rem; overflow: hidden; break-inside: avoid;
}
.prompt { margin: 0; padding: .8rem 1.15rem; background: var(--tint); font-weight: 550; line-height: 1.65; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }
.side { padding: .8rem 1.15rem .7rem; box-shadow: -1px -1px 0 var(--line); }
.tag { font-size: .75rem; font-weight: 650; color: var(--muted); }
.answer { margin: .2rem 0 .5rem; line-height: 1.75; white-space: pre-line; unicode-bidi: isolate; }
.empty { color: var(--muted); font-style: italic; }
.facts { margin: 0; font-size: .8rem; }
.map { border-collapse: separate; border-spacing: 2px; font-size: .85rem; table-layout: fixed; min-width: 34rem; }
.map th, .map td { border: 0; padding: .3rem .6rem; }
.map .heat { background: color-mix(in srgb, var(--b) calc(var(--heat) * .55), var(--tint)); border-radius: .25rem; }
pre { background: var(--tint); border-radius: .5rem; padding: .9rem 1.1rem; overflow-x: auto; font-size: .85rem; line-height: 1.55; }
code, pre { font-family: ui-monospace, "Cascadia Mono", "Noto Sans Mono", Menlo, Consolas, "Noto Sans Devanagari", monospace; }
code { background: var(--tint); border-radius: .25rem; padding: .05rem .3rem; font-size: .9em; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 0 2.5rem; }
summary { cursor: pointer; color: var(--a); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .5rem 1.5rem; margin: 0; }
dt { font-weight: 600; }
.rules { grid-template-columns: minmax(3rem, max-content) 1fr; gap: .6rem 1.25rem; }
.rules dt { text-align: right; }
.rules p { margin: 0 0 .25rem; }
.rules q { color: var(--ink); unicode-bidi: isolate; }
q { quotes: "\\201c" "\\201d"; }
dd { margin: 0; }
footer { margin-top: 3rem; color: var(--muted); font-size: .85rem; }
@media (max-width: 40rem) {
  body { padding-top: 1.75rem; }
  dl:not(.rules) { grid-template-columns: 1fr; gap: 0; }
  dl:not(.rules) dd { margin-bottom: .75rem; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --muted: #444; --line: #bbb;
    --a: #27508f; --b: #9c3520; --c: #4a6720; --tint: #f2f2f2; }
  html { font-size: 9pt; }
  body { max-width: none; padding: 0; }
  .scroll { overflow: visible; }
  .cards { grid-template-columns: repeat(3, 1fr); }
  .charts, .sides { grid-template-columns: 1fr 1fr; }
  .side.both { grid-column: span 2; }
  td, th { padding-right: .5rem; }
  nav { display: none; }
  section { margin-top: 1.25rem; padding-top: 1.25rem; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  @page { margin: 16mm 14mm; }
}
"""
