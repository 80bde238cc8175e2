"""What the rules did: counts, a few examples of each, and every rejected row. Nothing disappears silently."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bulletlm.data.letters import snippet
from bulletlm.text.normalize import visible

EXAMPLES = 3
EXAMPLE_CHARACTERS = 120
SHOWN_CHARACTERS = 500
"""Of a rejected row, so much text goes into rejected.jsonl."""

CHANGES = {
    "unwrapped": "the lines of a paragraph that was wrapped at a fixed width joined",
    "entities": "HTML entities decoded",
    "mojibake": "UTF-8 that was read as another code page put back",
    "markup": "HTML tags, wiki and Markdown marks removed",
    "private_use": "bullets of private use removed",
    "rulers": "rows of one sign shortened: ------ ...... !!!!!!",
    "byte_order_mark": "byte order marks (U+FEFF) removed",
    "control": "control characters and noncharacters removed",
    "zero_width": "invisible characters removed; joiners stay where Devanagari or an emoji needs them",
    "nfc": "put into Unicode NFC",
    "spelling": "one spelling for letters that are written in two ways (अॅ ॲ, र्\u200d ऱ्)",
    "spaces": "tabs, no-break and repeated spaces made one space, the ends stripped",
    "letters": "Devanagari that a font conversion broke mended (उद्भ्ावत, मंुबई, लाभाथ्र्य)",
    "emails": "e-mail addresses written as [email]",
    "phones": "phone numbers written as [phone]",
    "long_numbers": "long digit strings written as [number]",
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
    "no_text_or_messages": "rows of a layout that is not known; data.sources[].columns maps it",
    "wrong_number_of_columns": "rows of a table with more or fewer cells than the others",
    "empty_cell": "rows of a table in which a cell of text is empty",
    "question_without_answer": "questions of a list without their answer",
    "chat_notice": "notices of the program in an exported chat",
    "chat_media": "notes on pictures, sound and files in an exported chat",
    "chat_deleted": "deleted messages in an exported chat",
    "page_furniture": "page numbers, and lines at the top or bottom of a PDF that come again on many pages",
    "gutenberg": "header, credits and licence of Project Gutenberg",
    "broken_unicode": "U+FFFD, half of a surrogate pair, or an old code page's control character in a word: letters were lost before",
    "garbled": "mojibake that cannot be put back",
    "private_letters": "letters of private use, which only one font can show",
    "too_short": "paragraphs that are too short to say anything",
    "too_long": "paragraphs that are too long, such as tables in one line",
    "no_letters": "paragraphs without a letter, such as separators",
    "broken_letters": "too many words that no Devanagari spelling has",
    "legacy_font": "Devanagari of an old font saved as Latin letters",
    "wrong_script": "mostly in a script that none of the languages asked for has",
    "wrong_language": "in another language than those asked for",
    "repeated_characters": "the same characters over and over",
    "repeated_words": "the same sequences of words over and over",
    "few_letters": "documents with too few letters",
    "many_digits": "documents with too many digits",
    "few_letter_words": "documents in which too few words have a letter",
    "short_words": "documents of very short words",
    "long_words": "text of very long words, such as addresses of web pages",
    "few_common_words": "documents without the little words that sentences need",
    "no_answer": "conversations without a question and an answer to it; punctuation alone is none",
    "boilerplate": "short lines that many documents of a source have, save the first",
    "repeated_in_document": "paragraphs that come again directly, or long ones for the third time, in one document",
    "repeated_paragraph": "paragraphs that an earlier document has too",
    "repeated_document": "documents and conversations that came before",
    "near_duplicate": "paragraphs, documents and conversations that are nearly the same as an earlier one",
    "short_outlier": "shorter than nearly everything else",
    "long_outlier": "longer than nearly everything else",
    "copy_of_validation": "copies of validation text, kept out of training",
    "near_copy_of_validation": "text that shares half of its word sequences with validation text, kept out of training",
    "left_out_by_mix": "documents for which the weights, shares and budgets of the mixture have no room",
}
"""The rules that reject, in the order they are applied."""

SETTINGS = {
    **{rule: rule for rule in CHANGES if rule not in ("unwrapped", "unanswered")},
    "broken_unicode": "broken_unicode",
    "garbled": "mojibake",
    "private_letters": "private_use",
    "too_short": "min_chars",
    "too_long": "max_chars",
    "no_letters": "no_letters",
    "broken_letters": "max_broken_words",
    "legacy_font": "legacy_font",
    "wrong_script": "languages",
    "wrong_language": "languages",
    "repeated_characters": "repeated_characters",
    "repeated_words": "repeated_words",
    "few_letters": "min_letters",
    "many_digits": "max_digits",
    "few_letter_words": "min_letter_words",
    "short_words": "min_word_length",
    "long_words": "max_word_length",
    "few_common_words": "min_common_words",
    "boilerplate": "boilerplate",
    "repeated_in_document": "duplicates",
    "repeated_paragraph": "duplicates",
    "repeated_document": "duplicates",
    "near_duplicate": "near_duplicates",
    "short_outlier": "short_percentile",
    "long_outlier": "long_percentile",
}
"""The setting under data.clean that switches or tunes a rule. The others are about what is no row of its file, what is no
conversation, and what would spoil the validation set: there is nothing to choose."""

MASKS = ("emails", "phones", "long_numbers")
"""Their examples must not show what they mask."""

_ADDRESS_OR_NUMBER = re.compile(r"\S*@\S*|\d[\d ()/-]{4,}\d")


@dataclass
class Rejected:
    """A row of rejected.jsonl; `rows` is how many paragraphs or conversations it stands for."""

    source: str
    line: int
    reason: str
    text: str
    rows: int = 1

    def to_line(self) -> bytes:
        """The row as JSON, newline included."""
        shown = snippet(self.text, 0, SHOWN_CHARACTERS).encode("utf-8", "replace").decode()
        value = {"reason": self.reason, "source": self.source, "line": self.line, "characters": len(self.text), "text": shown}
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"


@dataclass
class Log:
    """What the rules did; `write` is given each rejected row as a line of JSON."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    write: Callable[[bytes], object] = field(default=lambda line: None)

    def change(self, rule: str, source: str, line: int, before: str, after: str) -> None:
        """Count a change of text."""
        self.counts[rule] += 1
        if self._wants_example(rule):
            shown_before, shown_after = _around_difference(_hidden(before) if rule in MASKS else before, after)
            self.examples[rule].append({"source": source, "line": line, "before": shown_before, "after": shown_after})

    def reject(self, row: Rejected) -> None:
        """Count a rejected row and pass it on to rejected.jsonl."""
        self.counts[row.reason] += row.rows
        if self._wants_example(row.reason):
            self.examples[row.reason].append({"source": row.source, "line": row.line, "text": _part(row.text, 0, EXAMPLE_CHARACTERS)})
        self.write(row.to_line())

    def add(self, counts: Counter[str], examples: dict[str, list[dict[str, Any]]]) -> None:
        """Take over what the log of a later part of the data holds."""
        self.counts.update(counts)
        for rule, found in examples.items():
            own = self.examples.setdefault(rule, [])
            own += found[: EXAMPLES - len(own)]

    def report(self) -> dict[str, Any]:
        """Per rule: what it does, the setting it obeys (None: none), how often it did something, examples."""
        return {
            rule: {
                "rule": text,
                "setting": f"data.clean.{SETTINGS[rule]}" if rule in SETTINGS else None,
                "changed" if rule in CHANGES else "rejected": self.counts[rule],
                "examples": self.examples.get(rule, []),
            }
            for rule, text in (CHANGES | REJECTIONS).items()
        }

    def _wants_example(self, rule: str) -> bool:
        return len(self.examples.setdefault(rule, [])) < EXAMPLES


def _around_difference(before: str, after: str) -> tuple[str, str]:
    """The places where two texts begin to differ, with some text around them."""
    at = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    start = max(at - 30, 0)
    return _part(before, start, at + 50), _part(after, start, at + 50)


def _part(text: str, start: int, end: int) -> str:
    return ("…" if start > 0 else "") + visible(snippet(text, start, end)) + ("…" if end < len(text) else "")


def _hidden(text: str) -> str:
    """Words with @ and numbers, save for their first two characters."""
    return _ADDRESS_OR_NUMBER.sub(lambda found: found[0][:2] + re.sub(r"[^\W_]", "•", found[0][2:]), text)
