"""The log of the cleaning rules: row and character counts by source and rule, examples, and all rejected rows.

All text is accounted for: for every source, characters in = characters out + characters dropped + characters changed, where

    in        the characters of the texts and messages that the readers found, and of the lines that are not text
    out       the characters of the rows that may go into train.jsonl and val.jsonl, each counted once
    dropped   the characters of the rows that a rule of REJECTIONS rejected
    changed   characters that a rule of CHANGES removed from kept text; negative if it added more than it removed, as a mask can

Line ends and blank lines are not counted (`characters_of`). A reader that converts something else to text reports the
difference in `RawDocument.changed`, under a rule of its own, and lines that are not text as `BadRow`.

Stable interface for code that displays the log: `Log.rows[source][rule]` and `Log.characters[source][rule]` for every rule
that had an effect, `is_change(rule)`, `keep_with(rule)`: the setting that keeps what the rule drops, or "" if there is none.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bulletlm.data.letters import snippet
from bulletlm.text.normalize import visible

if TYPE_CHECKING:
    from bulletlm.data.sources import SourceFile

EXAMPLES = 3
EXAMPLE_CHARACTERS = 120
SHOWN_CHARACTERS = 500
"""Number of characters of a rejected row that rejected.jsonl contains."""

CHANGES = {
    "unwrapped": "joined the lines of a paragraph that was wrapped at a fixed width",
    "split_long": "paragraphs of more than max_chars split at the ends of sentences",
    "entities": "HTML entities decoded",
    "mojibake": "repaired UTF-8 that was decoded with another code page",
    "markup": "HTML tags, wiki and Markdown marks removed",
    "private_use": "private-use bullet characters removed",
    "rulers": "rows of one repeated symbol shortened: ------ ...... !!!!!!",
    "byte_order_mark": "byte order marks (U+FEFF) removed",
    "control": "control characters and noncharacters removed",
    "zero_width": "invisible characters removed; joiners stay where a script or an emoji needs them",
    "nfc": "converted to Unicode NFC",
    "spelling": "letters with two encodings unified (अॅ ॲ, र्\u200d ऱ्)",
    "spaces": "tabs, no-break spaces and repeated spaces replaced by one space, line ends stripped",
    "letters": "repaired Devanagari that was broken by a font conversion (उद्भ्ावत, मंुबई, लाभाथ्र्य)",
    "emails": "e-mail addresses replaced by [email]",
    "phones": "phone numbers replaced by [phone]",
    "long_numbers": "long digit strings replaced by [number]",
    "unanswered": "messages left out of a conversation: empty ones, answers before the first question, questions after the last answer",
}
"""The rules that change text, in the order they are applied."""

REJECTIONS = {
    "invalid_utf8": "lines that are not UTF-8",
    "longer_than_16_MB": "lines of more than 16 MB",
    "not_json": "lines that are not JSON",
    "not_a_json_object": "JSON that is not an object",
    "messages_without_role_and_content": "messages must be a list of {role: system, user or assistant; content: text}",
    "prompt_without_response": "a prompt or instruction needs a response or output, as text",
    "no_text_or_messages": "rows of an unknown layout; data.sources[].columns maps it",
    "wrong_number_of_columns": "rows of a table with more or fewer cells than the others",
    "empty_cell": "rows of a table in which a text cell is empty",
    "no_time": "lines of subtitles without a time",
    "question_without_answer": "questions in a list that have no answer",
    "chat_notice": "system notices in an exported chat",
    "chat_media": "placeholders for pictures, audio and files in an exported chat",
    "chat_deleted": "deleted messages in an exported chat",
    "wikitext_not_read": "pages of a wiki that take the parser too long or too much memory",
    "page_furniture": "page numbers, and lines at the top or bottom of a PDF that are repeated on many pages",
    "gutenberg": "header, credits and licence of Project Gutenberg",
    "broken_unicode": "U+FFFD, an unpaired surrogate, or a control character of a legacy code page in a word: letters are lost",
    "garbled": "text decoded with the wrong code page that cannot be repaired",
    "private_letters": "private-use letters, which only one font can display",
    "empty": "lines that are empty after the changes, such as a line of control characters",
    "too_short": "paragraphs that are too short",
    "too_long": "paragraphs that are too long and cannot be split, such as encoded files",
    "no_letters": "paragraphs without a letter, such as separators",
    "broken_letters": "too many words with sequences that do not occur in Devanagari spelling",
    "legacy_font": "Devanagari in a legacy font, stored as Latin letters",
    "wrong_script": "mostly in a script that none of the languages to keep uses",
    "wrong_language": "not in one of the languages to keep",
    "repeated_characters": "the same characters many times in a row",
    "repeated_words": "many repetitions of the same word sequences",
    "few_letters": "documents with too few letters",
    "many_digits": "documents with too many digits",
    "few_letter_words": "documents in which too few words have a letter",
    "short_words": "documents of very short words",
    "long_words": "text of very long words, such as web addresses",
    "few_common_words": "documents with too few of the most common words of their language",
    "no_answer": "conversations without a question that has an answer",
    "boilerplate": "short lines that occur in many documents of a source, except the first occurrence",
    "repeated_in_document": "in one document: paragraphs repeated directly, or long paragraphs that occur a third time",
    "repeated_paragraph": "lines that an earlier document has too",
    "repeated_document": "exact copies of earlier documents and conversations",
    "near_duplicate": "paragraphs, documents and conversations that are nearly the same as an earlier one",
    "short_outlier": "shorter than nearly all other rows",
    "long_outlier": "longer than nearly all other rows",
    "held_out": "text of data.held_out",
    "shared_with_training": "lines of validation text that also occur in training text, such as a refrain",
    "copy_of_validation": "copies of validation text, kept out of training",
    "near_copy_of_validation": "text that shares half of its word sequences with validation text, kept out of training",
    "left_out_by_mix": "documents that the weights, shares and budgets of the mixture leave out",
}
"""The rules that reject, in the order they are applied."""

KEEP = {
    "split_long": "max_chars=1000000",
    "entities": "entities=off",
    "mojibake": "mojibake=false",
    "markup": "markup=off",
    "private_use": "private_use=false",
    "rulers": "rulers=false",
    "byte_order_mark": "byte_order_mark=false",
    "control": "control=false",
    "zero_width": "zero_width=false",
    "nfc": "nfc=false",
    "spelling": "spelling=false",
    "spaces": "spaces=false",
    "letters": "letters=false",
    "emails": "emails=false",
    "phones": "phones=false",
    "long_numbers": "long_numbers=0",
    "broken_unicode": "broken_unicode=false",
    "garbled": "mojibake=false",
    "private_letters": "private_letters=false",
    "too_short": "min_chars=1",
    "too_long": "max_chars=1000000",
    "no_letters": "no_letters=false",
    "broken_letters": "max_broken_words=1",
    "legacy_font": "legacy_font=off",
    "wrong_script": "languages=[]",
    "wrong_language": "languages=[]",
    "repeated_characters": "repeated_characters=1",
    "repeated_words": "repeated_words=1",
    "few_letters": "min_letters=0",
    "many_digits": "max_digits=1",
    "few_letter_words": "min_letter_words=0",
    "short_words": "min_word_length=0",
    "long_words": "max_word_length=0",
    "few_common_words": "min_common_words=0",
    "no_answer": "no_answer=empty",
    "boilerplate": "boilerplate=0",
    "repeated_in_document": "repeated_in_document=false",
    "repeated_paragraph": "duplicate_lines=off",
    "repeated_document": "duplicates=false",
    "near_duplicate": "near_duplicates=0",
    "short_outlier": "short_percentile=0",
    "long_outlier": "long_percentile=100",
}
"""Rule -> setting under data.clean, and the value with which the rule keeps everything. The other rules have no setting: they
reject invalid rows of a file, invalid conversations, and text that would invalidate the validation set."""

SETTINGS = {rule: keep.partition("=")[0] for rule, keep in KEEP.items()}
"""Rule -> the setting under data.clean that controls it."""

MASKS = ("emails", "phones", "long_numbers")
"""Rules whose examples must not show the masked text."""

_ADDRESS_OR_NUMBER = re.compile(r"\S*@\S*|\d[\d ()/-]{4,}\d")


def characters_of(text: str) -> int:
    """Number of characters of a text without blank lines; line ends are not counted."""
    return len(text) - text.count("\n")


def is_change(rule: str) -> bool:
    """Whether a rule changes text; the others reject it."""
    return rule in CHANGES


def keep_with(rule: str) -> str:
    """The setting that keeps what a rule rejects or changes, as "data.clean.min_chars=1"; "" if there is none."""
    return f"data.clean.{KEEP[rule]}" if rule in KEEP else ""


@dataclass
class Rejected:
    """A row of rejected.jsonl.

    Attributes:
        rows: number of paragraphs or conversations that it represents.
        characters: number of characters for the log; by default all of `text` except its line ends.
    """

    source: str
    line: int
    reason: str
    text: str
    rows: int = 1
    characters: int = -1

    def to_line(self) -> bytes:
        """The row as JSON, newline included."""
        shown = snippet(self.text, 0, SHOWN_CHARACTERS).encode("utf-8", "replace").decode()
        value = {"reason": self.reason, "source": self.source, "line": self.line, "characters": len(self.text), "text": shown}
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"


@dataclass
class Log:
    """The log of the cleaning rules.

    Attributes:
        write: called with each rejected row as a line of JSON.
        examples: rule -> a few examples.
        rows: source -> rule -> how many rows the rule changed or rejected.
        characters: source -> rule -> how many characters it removed; negative where a change added more.
    """

    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    rows: dict[str, Counter[str]] = field(default_factory=dict)
    characters: dict[str, Counter[str]] = field(default_factory=dict)
    write: Callable[[bytes], object] = field(default=lambda line: None)

    @property
    def counts(self) -> Counter[str]:
        """Rule -> how many rows it changed or rejected in all sources."""
        return _totals(self.rows)

    def count(self, rule: str, source: str, rows: int, characters: int) -> None:
        """Count the effect of a rule, without an example."""
        self.rows.setdefault(source, Counter())[rule] += rows
        self.characters.setdefault(source, Counter())[rule] += characters

    def change(self, rule: str, source: str, line: int, before: str, after: str, characters: int | None = None) -> None:
        """Count a change of text; `characters`: how many it removed, by default the difference of the two texts."""
        self.count(rule, source, 1, characters_of(before) - characters_of(after) if characters is None else characters)
        if self._wants_example(rule):
            shown_before, shown_after = _around_difference(_hidden(before) if rule in MASKS else before, after)
            self.examples[rule].append({"source": source, "line": line, "before": shown_before, "after": shown_after})

    def reject(self, row: Rejected) -> None:
        """Count a rejected row and write it to rejected.jsonl."""
        self.count(row.reason, row.source, row.rows, characters_of(row.text) if row.characters < 0 else row.characters)
        if self._wants_example(row.reason):
            self.examples[row.reason].append({"source": row.source, "line": row.line, "text": _part(row.text, 0, EXAMPLE_CHARACTERS)})
        self.write(row.to_line())

    def add(self, later: "Log") -> None:
        """Add the log of a later part of the data."""
        for mine, theirs in ((self.rows, later.rows), (self.characters, later.characters)):
            for source, counts in theirs.items():
                mine.setdefault(source, Counter()).update(counts)
        for rule, found in later.examples.items():
            own = self.examples.setdefault(rule, [])
            own += found[: EXAMPLES - len(own)]

    def report(self) -> dict[str, Any]:
        """Per rule: description, its setting (None: no setting), number of affected rows and characters, examples."""
        rows, characters = _totals(self.rows), _totals(self.characters)
        return {
            rule: {
                "rule": text,
                "setting": f"data.clean.{SETTINGS[rule]}" if rule in SETTINGS else None,
                "changed" if rule in CHANGES else "rejected": rows[rule],
                "characters": characters[rule],
                "examples": self.examples.get(rule, []),
            }
            for rule, text in (CHANGES | REJECTIONS).items()
        }

    def of_source(self, source: str) -> dict[str, dict[str, int]]:
        """Characters of one source that rules rejected ("dropped") and removed by changing text ("changed"), by rule."""
        counts = self.characters.get(source, Counter())
        return {
            "dropped": {rule: counts[rule] for rule in REJECTIONS if rule in counts},
            "changed": {rule: counts[rule] for rule in CHANGES if rule in counts},
        }

    def _wants_example(self, rule: str) -> bool:
        return len(self.examples.setdefault(rule, [])) < EXAMPLES


def _totals(by_source: Mapping[str, Counter[str]]) -> Counter[str]:
    totals = Counter[str]()
    for counts in by_source.values():
        for rule, count in counts.items():
            totals[rule] += count
    return totals


SHOWN_SHARE = 0.01
"""Minimum share of a source's characters at which the screen shows a rule."""

_SHOWN_RULES = 12
_NOT_SHOWN = frozenset({"left_out_by_mix"})
"""Rules that the user requested with a setting."""


def loss_table(
    files: "Sequence[SourceFile]", sources: Sequence[str], read: Mapping[str, int], kept: Mapping[str, int], log: Log
) -> list[str]:
    """Lines for the screen: rules that dropped or changed a large share of a source, and files of which nothing is left.

    Args:
        sources: the name of each entry of data.sources for the screen (`shown_source`).
        read, kept: characters in and out, by file.
    """
    of_source = Counter[int]()
    lost: dict[str, Counter[int]] = {}
    for file in files:
        of_source[file.source] += read.get(file.name, 0)
        for rule, characters in log.characters.get(file.name, {}).items():
            if rule not in _NOT_SHOWN:
                lost.setdefault(rule, Counter())[file.source] += abs(characters)
    rows: list[tuple[float, str, str]] = []
    for rule, by_source in lost.items():
        shares = {source: count / of_source[source] for source, count in by_source.items() if of_source[source]}
        large = {source: share for source, share in shares.items() if share > SHOWN_SHARE}
        if large:
            worst = max(large, key=lambda source: large[source])
            where = sources[worst] + (f" and {len(large) - 1} more" if len(large) > 1 else "")
            what = "changed" if is_change(rule) else "left out"
            keep = f" (to keep it: {keep_with(rule)})" if keep_with(rule) else ""
            rows.append((large[worst], f"{large[worst]:>6.1%} of {where} {what}", f"{rule}: {(CHANGES | REJECTIONS)[rule]}{keep}"))
    rows.sort(key=lambda row: -row[0])
    lines: list[str] = []
    if rows:
        width = min(max(len(place) for _, place, _ in rows[:_SHOWN_RULES]), 60)
        lines.append("data: rules that left out or changed more than 1 % of a source:")
        lines += [f"  {place:<{width}}  {text}" for _, place, text in rows[:_SHOWN_RULES]]
        if len(rows) > _SHOWN_RULES:
            lines.append(f"  and {len(rows) - _SHOWN_RULES} rules more: see data/clean-report.json")
    empty = [file.name for file in files if read.get(file.name, 0) and not kept.get(file.name, 0)]
    for name in empty[:_SHOWN_RULES]:
        counts = Counter({rule: count for rule, count in log.characters.get(name, {}).items() if not is_change(rule)})
        rule = counts.most_common(1)[0][0] if counts else ""
        keep = f" (to keep it: {keep_with(rule)})" if keep_with(rule) else ""
        lines.append(f"data: nothing is left of {name}: {rule}: {REJECTIONS.get(rule, 'all of it was changed')}{keep}")
    if len(empty) > _SHOWN_RULES:
        lines.append(f"data: nothing is left of {len(empty) - _SHOWN_RULES} more files: see data/clean-report.json")
    return lines


def _around_difference(before: str, after: str) -> tuple[str, str]:
    """The first difference of two texts, with some text around it."""
    at = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    start = max(at - 30, 0)
    return _part(before, start, at + 50), _part(after, start, at + 50)


def _part(text: str, start: int, end: int) -> str:
    return ("…" if start > 0 else "") + visible(snippet(text, start, end)) + ("…" if end < len(text) else "")


def _hidden(text: str) -> str:
    """Replace words with @ and numbers by their first two characters and dots."""
    return _ADDRESS_OR_NUMBER.sub(lambda found: found[0][:2] + re.sub(r"[^\W_]", "•", found[0][2:]), text)
