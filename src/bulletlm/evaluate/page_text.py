"""The sections of report.html about text: answers, training text, tokenizer."""

import re
from collections.abc import Callable
from difflib import SequenceMatcher
from typing import Any

from bulletlm.evaluate.formatting import percent
from bulletlm.evaluate.markup import Html, escape, html_table, join, tag
from bulletlm.evaluate.report_types import AnswerChecks, AnswerValues, Exchange, Report
from bulletlm.evaluate.words import Words

SKIPPED_SHOWN = 5


def answers_section(report: Report, say: Words) -> Html:
    """Mean checks, and the answers of both models to every prompt with their differences marked."""
    generations = report["generations"]
    rows, checks = generations["rows"], generations["checks"]
    sampling = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in generations["sampling"].items())
    intro = say(
        "{prompts} prompts, the same for every model, given to both versions with the same seed ({seed}; {sampling}). Identical answers: "
        "{identical} of {prompts}. The answers are not cherry-picked. Words that only one version has are marked.",
        prompts=len(rows),
        seed=generations["seed"],
        sampling=sampling,
        identical=generations["identical"],
    )
    lines: list[tuple[str, str, Callable[[float], str]]] = [
        (say("ended with an end token"), "ended", percent),
        (say("distinct word pairs (distinct-2)"), "distinct_2", percent),
        (say("longest repeated sequence, words"), "longest_repeat", lambda value: f"{value:.1f}"),
        (say("letters in the script of the language"), "script_share", percent),
        (say("tokens per answer"), "tokens", lambda value: f"{value:.0f}"),
    ]
    table = [
        [label, *("–" if (value := side[key]) is None else form(value) for side in (checks["fp32"], checks["bq4"]))]
        for label, key, form in lines
    ]
    parts = [tag("p", intro), html_table([say("Average"), "FP32", say("{n}-bit")], table)]
    kinds = {"short": say("Short questions"), "long": say("Long questions"), "translation": say("Translations")}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        parts.append(tag("h3", kinds.get(kind, kind)))
        parts += [_exchange(row, say) for row in rows if row["kind"] == kind]
    return join(parts)


def _exchange(row: Exchange, say: Words) -> Html:
    fp32, bq4, language, checks = row["fp32"], row["bq4"], row["language"], row["checks"]
    if fp32["text"] == bq4["text"]:
        sides = _side(say("FP32 and {n}-bit (identical)"), "both", bq4, escape(bq4["text"].strip()), language, checks["bq4"], say)
    else:
        marked = mark_differences(fp32["text"].strip(), bq4["text"].strip())
        sides = _side("FP32", "a", fp32, marked[0], language, checks["fp32"], say)
        sides += _side(say("{n}-bit"), "b", bq4, marked[1], language, checks["bq4"], say)
    return tag("article", tag("p", row["prompt"], cls="prompt", dir="auto") + tag("div", sides, cls="sides"))


def mark_differences(a: str, b: str) -> tuple[Html, Html]:
    """Both texts, with <mark> around the words that the other one does not have in this place."""
    first, second = (_WORDS.findall(text) for text in (a, b))
    left: list[Html] = []
    right: list[Html] = []
    for kind, i, j, k, m in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        one, other = "".join(first[i:j]), "".join(second[k:m])
        left.append(escape(one) if kind == "equal" or not one.strip() else tag("mark", one))
        right.append(escape(other) if kind == "equal" or not other.strip() else tag("mark", other))
    return join(left), join(right)


_WORDS = re.compile(r"\s+|[^\s]+")


def _side(label: str, cls: str, answer: AnswerValues, text: Html, language: str, checks: AnswerChecks, say: Words) -> Html:
    shown = tag("p", text, cls="answer", lang=language, dir="auto") if text else tag("p", say("(no answer)"), cls="answer empty")
    ended = say("ended with an end token") if answer["ended"] else say("stopped at the token limit")
    facts = [say("{count} tokens", count=answer["tokens"]), ended]
    if not checks["right_language"]:
        facts.append(say("not in {language}", language=say.language(language)))
    if checks["loop"]:
        facts.append(say("repeats itself"))
    elif answer["longest_repeat"] > 2:
        facts.append(say("repeats {count} words", count=answer["longest_repeat"]))
    if checks["broken_letters"]:
        facts.append(say("{count} broken letters", count=checks["broken_letters"]))
    if checks["invented_words"]:
        facts.append(say("{count} invented words", count=checks["invented_words"]))
    if checks["copied"]:
        facts.append(say("copied from the training text"))
    if checks["on_topic"] is False:
        facts.append(say("no word of the question"))
    if checks["chrf"] is not None:
        facts.append(f"chrF {checks['chrf']:.0f}")
    return tag("div", tag("span", label, cls="tag") + shown + tag("p", " · ".join(facts), cls="facts"), cls=f"side {cls}")


def data_section(report: Report, say: Words) -> Html:
    """The training and validation text, and what cleaning has done."""
    tokens, cleaning = report["tokens"], report["data"]
    rows = []
    for split, title in (("train", say("training")), ("val", say("validation"))):
        for language, row in tokens[split]["by_language"].items():
            rows.append([f"{say.language(language)}, {title}", f"{row['documents']:,}", say.size(row["bytes"]), f"{row['tokens']:,}"])
    table = html_table([say("Text"), say("documents and conversations"), say("size"), say("tokens")], rows)
    return table if cleaning is None else table + _cleaning(cleaning, say)


def _cleaning(cleaning: dict[str, Any], say: Words) -> Html:
    sources, rules, skipped = cleaning["sources"], cleaning["rules"], cleaning["skipped_files"]
    seen, kept = sum(row["rows_in"] for row in sources), sum(row["rows_out"] for row in sources)
    text = say(
        "Of {seen} paragraphs and conversations in the sources, {kept} were kept ({share}).",
        seen=f"{seen:,}",
        kept=f"{kept:,}",
        share=percent(kept / max(seen, 1)),
    )
    rows = []
    for row in sources:
        counts = [row["rows_in"], row["rows_out"], row["rows_in"] - row["rows_out"], row["characters_out"]]
        rows.append([row["source"], *(f"{number:,}" for number in counts)])
    parts = [
        tag("p", text),
        html_table([say("Source"), say("rows read"), say("kept"), say("removed"), say("characters kept")], rows),
        _mixture(cleaning, say),
    ]
    for title, verb in ((say("Removed, by rule"), "rejected"), (say("Changed, by rule"), "changed")):
        found = [rule for rule in rules.values() if rule.get(verb)]
        if found:
            parts += [tag("h3", title), tag("dl", join(_rule(rule, verb, say) for rule in found), cls="rules")]
    idle = [
        name.replace("_", " ") if say.code == "en" else say.finished(rule["rule"])
        for name, rule in rules.items()
        if not rule.get("rejected") and not rule.get("changed")
    ]
    if idle:
        parts.append(tag("p", say("Rules that did not apply or are turned off: {rules}.", rules=", ".join(idle)), cls="note"))
    parts.append(_augmentation(cleaning.get("augmentation"), say))
    if skipped:
        names = [f"{item['file']} ({say.finished(item['reason'])})" for item in skipped[:SKIPPED_SHOWN]]
        more = say(", and {count} more", count=f"{len(skipped) - SKIPPED_SHOWN:,}") if len(skipped) > SKIPPED_SHOWN else ""
        parts.append(tag("p", say("Not read: {files}.", files=", ".join(names) + more), cls="note"))
    return join(parts)


def _mixture(cleaning: dict[str, Any], say: Words) -> Html:
    """The mixture of the training stream, and the check that it has no validation text."""
    if "mixture" not in cleaning:
        return Html()
    rows = []
    for row in cleaning["mixture"]:
        numbers = [f"{row['tokens']:,}", f"{row['times']:.2f}", f"{row['stream_tokens']:,}", percent(row["share"])]
        rows.append([row["source"], say.language(row["language"]), say.finished(row["kind"]), *numbers])
    head = [
        say("Source"),
        say("language"),
        say("kind"),
        say("tokens (estimated)"),
        say("repetitions"),
        say("tokens in training"),
        say("share"),
    ]
    checked = say(
        "{count} passages of training text were compared with the validation text; none repeats it.",
        count=f"{cleaning['leaks']['passages']:,}",
    )
    return join([tag("h3", say("Training mixture")), html_table(head, rows), tag("p", checked, cls="note")])


def _rule(rule: dict[str, Any], verb: str, say: Words) -> Html:
    examples = []
    for example in rule["examples"]:
        shown = tag("q", example["before"]) + " → " + tag("q", example["after"]) if verb == "changed" else tag("q", example["text"])
        where = ", " + say("line {number}", number=example["line"]) if example["line"] else ""
        examples.append(tag("p", shown + f" {example['source']}{where}"))
    setting = join([" ", tag("code", rule["setting"])]) if rule.get("setting") else Html()
    return tag("dt", f"{rule[verb]:,}") + tag(
        "dd", tag("p", escape(say.finished(rule["rule"])) + setting) + tag("div", join(examples), cls="facts")
    )


def _augmentation(found: dict[str, Any] | None, say: Words) -> Html:
    """The paraphrases of each method: how many were kept, and why the others were dropped."""
    if not found or not found["methods"]:
        return Html()
    rows, details = [], []
    for method in found["methods"]:
        name = say.finished(method["method"]) + (f", {say.language(method['language'])}" if method["language"] else "")
        numbers = [method["documents"], method["sentences"], method["kept"], method["documents_added"], method["characters_added"]]
        rows.append([name, *(f"{number:,}" for number in numbers)])
        dropped = [f"{say.finished(each['description'])} {each['dropped']:,}" for each in method["filters"] if each["dropped"]]
        kept = method["examples"].get("kept", [])
        examples = [tag("p", tag("q", each["before"]) + " → " + tag("q", each["after"])) for each in kept]
        why = say("Sentences dropped: {reasons}.", reasons="; ".join(dropped)) if dropped else say("No sentence was dropped.")
        details.append(tag("dt", name) + tag("dd", tag("p", why) + tag("div", join(examples), cls="facts")))
    head = [
        say("Method"),
        say("documents used"),
        say("sentences"),
        say("sentences kept"),
        say("documents added"),
        say("characters added"),
    ]
    return join([tag("h3", say("Augmentation")), html_table(head, rows), tag("dl", join(details))])


def tokenizer_section(report: Report, say: Words) -> Html:
    """The statistics of the tokenizer."""
    facts = report["tokenizer"]
    if facts is None:
        return Html()
    rows = []
    for code, row in facts["languages"].items():
        numbers = [f"{row['tokens_per_word']:.2f}", f"{row['chars_per_token']:.2f}", f"{row['bytes_per_token']:.2f}"]
        rows.append([say.language(code), *numbers, percent(row["share_in_bytes"], 2), percent(row["share_starting_with_mark"], 2)])
    head = [
        say("Language"),
        say("tokens per word"),
        say("characters per token"),
        say("bytes per token"),
        say("characters encoded as bytes"),
        say("tokens that start with a combining mark"),
    ]
    text = say(
        "A vocabulary of {size} tokens. With fewer tokens per word (fertility), more text fits into the model's context.",
        size=f"{facts['vocab_size']:,}",
    )
    longest = dict.fromkeys(piece.strip() for piece in facts["longest_pieces"])
    pieces = join([say("The longest tokens: "), *(tag("code", piece) + " " for piece in list(longest)[:12])])
    parts = [tag("p", text), html_table(head, rows), tag("p", pieces, cls="pieces")]
    if facts.get("rarest_pieces"):
        rarest = join([tag("code", each["piece"]) + f" {each['count']:,}, " for each in facts["rarest_pieces"][:12]])
        unused = say("and {count} tokens that do not occur in it.", count=f"{facts['unused_pieces']:,}")
        parts.append(tag("p", join([say("The rarest tokens in the training text, with their counts: "), rarest, unused]), cls="pieces"))
    return join([*parts, _sizes(report.get("vocabulary_sizes"), say)])


def _sizes(compared: dict[str, Any] | None, say: Words) -> Html:
    """The table that `bullet tokenizer --compare` wrote."""
    if compared is None:
        return Html()
    rows, problems = [], []
    for row in compared["rows"]:
        mark = f" ({say('this run')})" if row["vocab_size"] == compared["configured"] else ""
        first = [f"{row['vocab_size']:,}{mark}", f"{row['embedding_parameters']:,}", percent(row["embedding_share"], 0)]
        for code, each in row.get("languages", {}).items():
            words = f"{row['context_words'][code]:,}"
            rows.append([*first, say.language(code), f"{each['tokens_per_word']:.2f}", f"{each['bytes_per_token']:.2f}", words])
        if "problem" in row:
            problems.append(tag("p", say.finished(row["problem"]), cls="note"))
    head = [
        say("Vocabulary"),
        say("embedding parameters"),
        say("share of the model"),
        say("language"),
        say("tokens per word"),
        say("bytes per token"),
        say("words in the context"),
    ]
    return join([tag("h3", say("Other vocabulary sizes")), html_table(head, rows), *problems])
