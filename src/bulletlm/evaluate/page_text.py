"""The sections of report.html about text: answers, training text, tokenizer."""

from collections.abc import Callable
from typing import Any

from bulletlm.evaluate.formatting import language_name, percent, size
from bulletlm.evaluate.markup import Html, escape, html_table, join, tag
from bulletlm.evaluate.report_types import AnswerValues, Exchange, Report

KINDS = {"short": "Short questions", "long": "Long questions", "translation": "Translations"}
SKIPPED_SHOWN = 5


def answers_section(report: Report) -> Html:
    generations = report["generations"]
    rows, checks = generations["rows"], generations["checks"]
    sampling = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in generations["sampling"].items())
    intro = (
        f"{len(rows)} prompts, the same for every model, given to both versions with the same seed ({generations['seed']}; {sampling}). "
        f"Identical answers: {generations['identical']} of {len(rows)}. The answers are not cherry-picked."
    )
    lines: list[tuple[str, str, Callable[[float], str]]] = [
        ("ended with an end token", "ended", percent),
        ("distinct word pairs (distinct-2)", "distinct_2", percent),
        ("longest repeated sequence, words", "longest_repeat", lambda value: f"{value:.1f}"),
        ("letters in the script of the language", "script_share", percent),
        ("tokens per answer", "tokens", lambda value: f"{value:.0f}"),
    ]
    table = [
        [label, *("–" if (value := side[key]) is None else form(value) for side in (checks["fp32"], checks["bq4"]))]
        for label, key, form in lines
    ]
    parts = [tag("p", intro), html_table(["Average", "FP32", "4-bit"], table)]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        parts.append(tag("h3", KINDS.get(kind, kind)))
        parts += [_exchange(row) for row in rows if row["kind"] == kind]
    return join(parts)


def _exchange(row: Exchange) -> Html:
    fp32, bq4, language = row["fp32"], row["bq4"], row["language"]
    if fp32["text"] == bq4["text"]:
        sides = _side("FP32 and 4-bit (identical)", "both", bq4, language)
    else:
        sides = _side("FP32", "a", fp32, language) + _side("4-bit", "b", bq4, language)
    return tag("article", tag("p", row["prompt"], cls="prompt", dir="auto") + tag("div", sides, cls="sides"))


def _side(label: str, cls: str, answer: AnswerValues, language: str) -> Html:
    text = (
        tag("p", answer["text"].strip(), cls="answer", lang=language, dir="auto")
        if answer["text"].strip()
        else tag("p", "(no answer)", cls="answer empty")
    )
    facts = [f"{answer['tokens']} tokens", "ended with an end token" if answer["ended"] else "stopped at the token limit"]
    if answer["longest_repeat"] > 2:
        facts.append(f"repeats {answer['longest_repeat']} words")
    if answer["script_share"] is not None and answer["script_share"] < 0.9:
        facts.append(f"{percent(answer['script_share'], 0)} in the right script")
    return tag("div", tag("span", label, cls="tag") + text + tag("p", " · ".join(facts), cls="facts"), cls=f"side {cls}")


def data_section(report: Report) -> Html:
    tokens, cleaning = report["tokens"], report["data"]
    rows = []
    for split, title in (("train", "training"), ("val", "validation")):
        for language, row in tokens[split]["by_language"].items():
            rows.append([f"{language_name(language)}, {title}", f"{row['documents']:,}", size(row["bytes"]), f"{row['tokens']:,}"])
    table = html_table(["Text", "documents and conversations", "size", "tokens"], rows)
    return table if cleaning is None else table + _cleaning(cleaning)


def _cleaning(cleaning: dict[str, Any]) -> Html:
    sources, rules, skipped = cleaning["sources"], cleaning["rules"], cleaning["skipped_files"]
    seen, kept = sum(row["rows_in"] for row in sources), sum(row["rows_out"] for row in sources)
    text = f"Of {seen:,} paragraphs and conversations in the sources, {kept:,} were kept ({percent(kept / max(seen, 1))})."
    rows = []
    for row in sources:
        counts = [row["rows_in"], row["rows_out"], row["rows_in"] - row["rows_out"], row["characters_out"]]
        rows.append([row["source"], *(f"{number:,}" for number in counts)])
    parts = [tag("p", text), html_table(["Source", "rows read", "kept", "removed", "characters kept"], rows), _mixture(cleaning)]
    for title, verb in (("Removed, by rule", "rejected"), ("Changed, by rule", "changed")):
        found = [rule for rule in rules.values() if rule.get(verb)]
        if found:
            parts += [tag("h3", title), tag("dl", join(_rule(rule, verb) for rule in found), cls="rules")]
    idle = [name.replace("_", " ") for name, rule in rules.items() if not rule.get("rejected") and not rule.get("changed")]
    if idle:
        parts.append(tag("p", f"Rules that did not apply or are turned off: {', '.join(idle)}.", cls="note"))
    parts.append(_augmentation(cleaning.get("augmentation")))
    if skipped:
        names = [f"{item['file']} ({item['reason']})" for item in skipped[:SKIPPED_SHOWN]]
        more = f", and {len(skipped) - SKIPPED_SHOWN:,} more" if len(skipped) > SKIPPED_SHOWN else ""
        parts.append(tag("p", f"Not read: {', '.join(names)}{more}.", cls="note"))
    return join(parts)


def _mixture(cleaning: dict[str, Any]) -> Html:
    """The mixture of the training stream, and the check that it has no validation text."""
    if "mixture" not in cleaning:
        return Html()
    rows = []
    for row in cleaning["mixture"]:
        numbers = [f"{row['tokens']:,}", f"{row['times']:.2f}", f"{row['stream_tokens']:,}", percent(row["share"])]
        rows.append([row["source"], language_name(row["language"]), row["kind"], *numbers])
    head = ["Source", "language", "kind", "tokens (estimated)", "repetitions", "tokens in training", "share"]
    checked = f"{cleaning['leaks']['passages']:,} passages of training text were compared with the validation text; none repeats it."
    return join([tag("h3", "Training mixture"), html_table(head, rows), tag("p", checked, cls="note")])


def _rule(rule: dict[str, Any], verb: str) -> Html:
    examples = []
    for example in rule["examples"]:
        shown = tag("q", example["before"]) + " → " + tag("q", example["after"]) if verb == "changed" else tag("q", example["text"])
        where = f", line {example['line']}" if example["line"] else ""
        examples.append(tag("p", shown + f" {example['source']}{where}"))
    setting = join([" ", tag("code", rule["setting"])]) if rule.get("setting") else Html()
    return tag("dt", f"{rule[verb]:,}") + tag("dd", tag("p", escape(rule["rule"]) + setting) + tag("div", join(examples), cls="facts"))


def _augmentation(found: dict[str, Any] | None) -> Html:
    """The paraphrases of each method: how many were kept, and why the others were dropped."""
    if not found or not found["methods"]:
        return Html()
    rows, details = [], []
    for method in found["methods"]:
        name = method["method"] + (f", {language_name(method['language'])}" if method["language"] else "")
        numbers = [method["documents"], method["sentences"], method["kept"], method["documents_added"], method["characters_added"]]
        rows.append([name, *(f"{number:,}" for number in numbers)])
        dropped = [f"{each['description']} {each['dropped']:,}" for each in method["filters"] if each["dropped"]]
        kept = method["examples"].get("kept", [])
        examples = [tag("p", tag("q", each["before"]) + " → " + tag("q", each["after"])) for each in kept]
        why = f"Sentences dropped: {'; '.join(dropped)}." if dropped else "No sentence was dropped."
        details.append(tag("dt", name) + tag("dd", tag("p", why) + tag("div", join(examples), cls="facts")))
    head = ["Method", "documents used", "sentences", "sentences kept", "documents added", "characters added"]
    return join([tag("h3", "Augmentation"), html_table(head, rows), tag("dl", join(details))])


def tokenizer_section(report: Report) -> Html:
    facts = report["tokenizer"]
    if facts is None:
        return Html()
    rows = []
    for code, row in facts["languages"].items():
        numbers = [f"{row['tokens_per_word']:.2f}", f"{row['chars_per_token']:.2f}", f"{row['bytes_per_token']:.2f}"]
        rows.append([language_name(code), *numbers, percent(row["share_in_bytes"], 2), percent(row["share_starting_with_mark"], 2)])
    head = [
        "Language",
        "tokens per word",
        "characters per token",
        "bytes per token",
        "characters encoded as bytes",
        "tokens that start with a combining mark",
    ]
    text = (
        f"A vocabulary of {facts['vocab_size']:,} tokens. With fewer tokens per word (fertility), more text fits into the model's context."
    )
    longest = dict.fromkeys(piece.strip() for piece in facts["longest_pieces"])
    pieces = join([Html("The longest tokens: "), *(tag("code", piece) + " " for piece in list(longest)[:12])])
    parts = [tag("p", text), html_table(head, rows), tag("p", pieces, cls="pieces")]
    if facts.get("rarest_pieces"):
        rarest = join([tag("code", each["piece"]) + f" {each['count']:,}, " for each in facts["rarest_pieces"][:12]])
        unused = f"and {facts['unused_pieces']:,} tokens that do not occur in it."
        parts.append(tag("p", join(["The rarest tokens in the training text, with their counts: ", rarest, unused]), cls="pieces"))
    return join([*parts, _sizes(report.get("vocabulary_sizes"))])


def _sizes(compared: dict[str, Any] | None) -> Html:
    """The table that `bullet tokenizer --compare` wrote."""
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
            problems.append(tag("p", row["problem"], cls="note"))
    head = [
        "Vocabulary",
        "embedding parameters",
        "share of the model",
        "language",
        "tokens per word",
        "bytes per token",
        "words in the context",
    ]
    return join([tag("h3", "Other vocabulary sizes"), html_table(head, rows), *problems])
