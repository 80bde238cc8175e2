"""Making text uniform, and throwing out what is not text. Nothing disappears silently: each rule counts what it did.

`clean_document` changes or rejects; the `Log` holds the counts and a few examples of every rule, and the rejected rows.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bulletlm.data.chat import in_order
from bulletlm.data.documents import Message
from bulletlm.data.normalize import is_broken, normalize, normalize_line, visible
from bulletlm.data.sources import BadRow, RawDocument
from bulletlm.errors import DataError

EXAMPLES = 3
SHOWN_CHARACTERS = 500
"""Of a rejected row, so much text goes into rejected.jsonl."""

RULES = {
    "byte_order_mark": "byte order marks (U+FEFF) removed",
    "control": "control characters and noncharacters removed",
    "zero_width": "invisible characters removed; joiners stay where Devanagari or an emoji needs them",
    "nfc": "put into Unicode NFC",
    "spelling": "one spelling for letters that are written in two ways (अॅ ॲ, र्\u200d ऱ्)",
    "spaces": "tabs, no-break and repeated spaces made one space, the ends stripped",
    "unanswered": "messages left out of a conversation: empty ones, answers before the first question, questions after the last answer",
    "invalid_utf8": "lines that are not UTF-8",
    "longer_than_16_MB": "lines of more than 16 MB",
    "not_json": "lines that are not JSON",
    "not_a_json_object": "JSON that is not an object",
    "messages_without_role_and_content": "messages must be a list of {role: system, user or assistant; content: text}",
    "prompt_without_response": "a prompt or instruction needs a response or output, as text",
    "no_text_or_messages": "JSON without text, messages, prompt or instruction",
    "not_two_columns": "lines of a .tsv that are not two filled columns",
    "broken_unicode": "U+FFFD, half of a surrogate pair, or an old code page's control character in a word: letters were lost before",
    "too_short": "shorter than data.clean.min_chars",
    "too_long": "longer than data.clean.max_chars",
    "no_letters": "paragraphs without a letter, such as separators",
    "no_answer": "conversations without a question and an answer to it; punctuation alone is none",
    "repeated_paragraph": "paragraphs that an earlier document has too",
    "repeated_document": "documents and conversations that came before",
    "copy_of_validation": "copies of a validation document, kept out of training",
}
"""Every rule, in the order of the report. The first seven change text, the others reject it."""

CHANGES = ("byte_order_mark", "control", "zero_width", "nfc", "spelling", "spaces", "unanswered")


@dataclass
class Rejected:
    """A row of rejected.jsonl; `rows` is how many paragraphs or conversations it stands for."""

    source: str
    line: int
    reason: str
    text: str
    rows: int = 1


@dataclass
class Log:
    """What the rules did. Logs of several parts of the data can be added in order."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    rejected_rows: Counter[str] = field(default_factory=Counter)
    write: Callable[[Rejected], None] = field(default=lambda row: None)

    def change(self, rule: str, source: str, line: int, before: str, after: str) -> None:
        """Count a change of text."""
        self.counts[rule] += 1
        if len(self.examples.setdefault(rule, [])) < EXAMPLES:
            shown_before, shown_after = _around_difference(before, after)
            self.examples[rule].append({"source": source, "line": line, "before": shown_before, "after": shown_after})

    def reject(self, row: Rejected) -> None:
        """Count a rejected row and pass it on to rejected.jsonl."""
        self.counts[row.reason] += row.rows or 1
        self.rejected_rows[row.source] += row.rows
        if len(self.examples.setdefault(row.reason, [])) < EXAMPLES:
            self.examples[row.reason].append({"source": row.source, "line": row.line, "text": visible(row.text[:120])})
        self.write(row)

    def report(self) -> dict[str, Any]:
        """Per rule: what it does, how often it did, examples; rules without work are left out."""
        return {
            rule: {
                "rule": text,
                "changed" if rule in CHANGES else "rejected": self.counts[rule],
                "examples": self.examples.get(rule, []),
            }
            for rule, text in RULES.items()
            if self.counts[rule]
        }


@dataclass
class Clean:
    """A document that passed: `paragraphs` or `messages`, and the rows (paragraphs or conversations) it stands for."""

    source: str
    line: int
    language: str
    group: str
    paragraphs: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Paragraphs, or 1 for a conversation."""
        return len(self.paragraphs) or 1


def clean_document(raw: RawDocument, min_chars: int, max_chars: int, log: Log) -> Clean | None:
    """A document with clean paragraphs or messages; None where nothing is left of it."""
    if raw.messages:
        messages = _clean_conversation(raw, max_chars, log)
        return Clean(raw.source, raw.line, raw.language, raw.group, messages=messages) if messages else None
    clean = Clean(raw.source, raw.line, raw.language, raw.group)
    for line, paragraph in zip(raw.lines, raw.paragraphs, strict=True):
        text = normalize_line(paragraph, _logger(log, raw.source, line))
        reason = _why_not(text, min_chars, max_chars)
        if reason:
            log.reject(Rejected(raw.source, line, reason, paragraph))
        else:
            clean.paragraphs.append(text)
            clean.lines.append(line)
    return clean if clean.paragraphs else None


def _why_not(text: str, min_chars: int, max_chars: int) -> str | None:
    if is_broken(text):
        return "broken_unicode"
    if len(text) < min_chars:
        return "too_short"
    if len(text) > max_chars:
        return "too_long"
    if not _LETTER.search(text):
        return "no_letters"
    return None


_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W_]")


def _logger(log: Log, source: str, line: int) -> Callable[[str, str, str], None]:
    return lambda rule, before, after: log.change(rule, source, line, before, after)


def _clean_conversation(raw: RawDocument, max_chars: int, log: Log) -> list[Message]:
    """Messages in order, each a few clean lines; an empty list, with the reason logged, where that cannot be."""
    messages: list[Message] = []
    whole = "\n".join(message["content"] for message in raw.messages)
    if is_broken(whole):
        log.reject(Rejected(raw.source, raw.line, "broken_unicode", whole))
        return []
    for message in raw.messages:
        content = normalize(message["content"], _logger(log, raw.source, raw.line))
        if len(content) > max_chars:
            log.reject(Rejected(raw.source, raw.line, "too_long", whole))
            return []
        if content:
            messages.append({"role": message["role"], "content": content})
    kept = _answered(messages)
    try:
        turns = in_order(kept)
    except DataError:
        turns = []
    if not any(message["role"] == "assistant" and _says_something(message["content"]) for message in turns):
        log.reject(Rejected(raw.source, raw.line, "no_answer", whole))
        return []
    if len(kept) < len(raw.messages):
        log.change("unanswered", raw.source, raw.line, _spoken(raw.messages), _spoken(kept))
        left_out = [message for message in messages if not any(message is other for other in kept)]
        log.write(Rejected(raw.source, raw.line, "unanswered", _spoken(left_out), rows=0))
    return turns


def _says_something(text: str) -> bool:
    """Whether there is a letter, a digit or a symbol such as an emoji: more than punctuation."""
    return bool(_WORD.search(text)) or any(unicodedata.category(character) == "So" for character in text)


def _answered(messages: list[Message]) -> list[Message]:
    """Without answers before the first question and questions after the last answer."""
    system = [message for message in messages if message["role"] == "system"]
    talk = [message for message in messages if message["role"] != "system"]
    while talk and talk[0]["role"] != "user":
        talk = talk[1:]
    while talk and talk[-1]["role"] != "assistant":
        talk = talk[:-1]
    return system + talk


def _spoken(messages: list[Message]) -> str:
    return " / ".join(f"{message['role']}: {message['content']}" for message in messages)


def bad_row(row: BadRow, log: Log) -> None:
    """Log a line that could not be read as a document."""
    log.reject(Rejected(row.source, row.line, row.reason, row.text))


def _around_difference(before: str, after: str) -> tuple[str, str]:
    """The places where two texts begin to differ, with some text around them."""
    at = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    start = max(at - 30, 0)
    return visible(before[start : at + 50]), visible(after[start : at + 50])
