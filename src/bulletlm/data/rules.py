"""The cleaning rules for one document: normalize its text and remove what is not text.

These rules look at one document only; signals.py filters by statistics, and dedup.py compares documents with each other.
Each rule of `CleanConfig` records its effects in a `Log`. Lines of code and conversations keep their spaces, symbols and tags.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from bulletlm.data.encodings import (
    WORDS_NEEDED,
    has_mojibake,
    has_private_letters,
    is_legacy_font,
    legacy_words,
    mend_mojibake,
    remove_private_bullets,
)
from bulletlm.data.language import detect, is_in_other_script
from bulletlm.data.language_names import ROMANIZED
from bulletlm.data.letters import broken_words, is_suspect, mend_letters
from bulletlm.data.log import Log, Rejected, characters_of
from bulletlm.data.long_lines import split_long
from bulletlm.data.markup import EVERY_KIND, decode_entities, markup_of, remove_markup, shorten_rulers
from bulletlm.data.privacy import has_long_number, mask_emails, mask_numbers, mask_phones, regions_of
from bulletlm.data.readers.raw import RawDocument
from bulletlm.errors import DataError
from bulletlm.text.chat import arrange
from bulletlm.text.code import code_lines
from bulletlm.text.documents import Message
from bulletlm.text.normalize import NORMALIZATIONS, is_broken, normalize_code, normalize_line

if TYPE_CHECKING:
    from bulletlm.config.schema import CleanConfig

Change = tuple[str, str, str]
"""A rule, the text before it and after it."""

REPEAT_CHARACTERS = 30
"""Shorter lines ("Yes." "आणि मग?") may occur in many documents; longer ones are copies or boilerplate."""

REFRAIN_CHARACTERS = 60
"""A longer paragraph may occur at most twice in one document, as a refrain does."""

_TRIGGER = re.compile("[&<\\[{'=*_#`àâÃÂð\x80-\x9f\ufffd\ud800-\udfff\ue000-\uf8ff\U000f0000-\U0010ffff]")
"""Characters of which text with entities, mojibake, markup, lost or private-use characters has one: one test instead of ten."""

_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W_]")
_MESSAGE_WORDS = 8
"""Chats have many unusual words ("brb lolz"): only longer messages are tested for legacy fonts."""

PIECE_CHARACTERS = 2_000
"""Size of the pieces of a line that is too long: about the size of long paragraphs in a book."""

_FAR_TOO_LONG = 4
"""Factor of max_chars; longer lines are rejected before cleaning, which would not make them short enough."""

_LONGER_IN_PARAGRAPHS = 2
_ADDRESS_CHARACTERS = 40
"""A single paragraph may have twice the mean word length of documents, so that an exclamation of one long word passes."""

_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u3040-\u30ff\u3400-\u9fff\ua960-\uaa7f\U00020000-\U0003ffff]"
)
"""Letters of Thai, Lao, Tibetan, Myanmar, Khmer, Japanese, Chinese and Tai scripts, which have no spaces between words."""

_LEGACY_WORDS_NEEDED = 20
_LEGACY_KNOWN_WORDS = 4
_LEGACY_SHARE = 0.05


@dataclass
class Clean:
    """A document that passed: `paragraphs` or `messages`, and their line numbers."""

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

    @property
    def text(self) -> str:
        """The paragraphs or the messages, one per line."""
        return "\n".join(self.paragraphs or [message["content"] for message in self.messages])


class _Context:
    """Properties of a whole document that the rules need; computed on first use."""

    def __init__(self, raw: RawDocument, config: "CleanConfig") -> None:
        self.config = config
        self.conversation = bool(raw.messages)
        self._raw = raw
        lines = [line for message in raw.messages for line in message["content"].splitlines()] if raw.messages else raw.paragraphs
        self._lines = lines

    @cached_property
    def languages(self) -> list[str]:
        """The languages to keep; "mr" keeps romanized Marathi too."""
        if self._raw.language != "auto" or not self.config.languages:
            return []
        romanized = [code for code, language in ROMANIZED.items() if language in self.config.languages]
        found = detect("\n".join(self._lines)) if romanized else ""
        return [*self.config.languages, found] if found in romanized else self.config.languages

    @cached_property
    def regions(self) -> Sequence[str]:
        """Countries whose phone numbers are recognized."""
        if self.config.phone_regions:
            return self.config.phone_regions
        own = self._raw.language if self._raw.language != "auto" else detect("\n".join(self._lines))
        return regions_of([own, *self.config.languages])

    @cached_property
    def markup(self) -> frozenset[str]:
        """The markup languages that are removed from its lines."""
        if self.conversation or self.config.markup == "off":
            return frozenset()
        if self.config.markup == "everywhere":
            return EVERY_KIND
        return markup_of([line for line, code in zip(self._lines, code_lines(self._lines), strict=True) if not code])

    @property
    def entities(self) -> bool:
        """Whether HTML entities are decoded."""
        return self.config.entities == "everywhere" or (self.config.entities == "documents" and not self.conversation)

    @cached_property
    def legacy_words(self) -> bool:
        """Whether any of the most common words of legacy fonts occur; without them, an unusual line is not legacy-font text."""
        return legacy_words("\n".join(self._lines))[0] > 0


def clean_document(raw: RawDocument, config: "CleanConfig", log: Log) -> Clean | None:
    """Clean a document; None if nothing is left of it. The reasons are in `log`."""
    for rule, characters in raw.changed.items():
        log.count(rule, raw.source, 1, characters)
    split_paragraphs(raw, config, log)
    clean = Clean(raw.source, raw.line, raw.language, raw.group)
    if raw.messages:
        clean.messages = _clean_conversation(raw, config, log)
        judged = "\n".join(message["content"] for message in clean.messages if message["role"] == "assistant")
    else:
        _clean_paragraphs(raw, clean, config, log)
        judged = "\n".join(clean.paragraphs)
    if not judged:
        return None
    if config.legacy_font == "certain" and not raw.messages and _is_legacy_document(judged):
        log.reject(Rejected(clean.source, clean.line, "legacy_font", clean.text, clean.rows))
        return None
    if raw.language == "auto":
        clean.language = detect(judged)
        wanted = clean.language in config.languages or ROMANIZED.get(clean.language) in config.languages
        if config.languages and not wanted and clean.language != "und":
            log.reject(Rejected(clean.source, clean.line, "wrong_language", clean.text, clean.rows))
            return None
    return clean


def _apply(rule: str, text: str, function: Callable[[str], str], changes: list[Change]) -> str:
    """The text after a rule, which is added to `changes` if it changed something."""
    after = function(text)
    if after != text:
        changes.append((rule, text, after))
    return after


def clean_text(text: str, config: "CleanConfig", changes: list[Change], context: _Context | None = None) -> tuple[str, str | None]:
    """Apply every rule that changes text to a line and add the changes to `changes`; also return the reason for rejection, or None.

    Without `context` the line is treated as a separate document.
    """
    context = context or _Context(RawDocument("", 1, "auto", [text], [1]), config)

    if _TRIGGER.search(text):
        if "&" in text and context.entities:
            text = _apply("entities", text, decode_entities, changes)
        text, reason = _repair_encoding(text, config, changes)
        if reason:
            return text, reason
        if context.markup:
            text = _apply("markup", text, lambda line: remove_markup(line, context.markup), changes)
        if config.private_use:
            text = _apply("private_use", text, remove_private_bullets, changes)
        if config.private_letters and has_private_letters(remove_private_bullets(text)):
            return text, "private_letters"
    if config.rulers:
        text = _apply("rulers", text, shorten_rulers, changes)
    text = normalize_line(text, lambda *change: changes.append(change), _skipped(config))
    if is_suspect(text):
        if config.letters:
            text = _apply("letters", text, mend_letters, changes)
        if config.max_broken_words < 1 and broken_words(text) > config.max_broken_words:
            return text, "broken_letters"
    if config.emails and "@" in text:
        text = _apply("emails", text, mask_emails, changes)
    if has_long_number(text):
        if config.phones:
            text = _apply("phones", text, lambda line: mask_phones(line, context.regions), changes)
        if config.long_numbers:
            text = _apply("long_numbers", text, lambda line: mask_numbers(line, config.long_numbers), changes)
    return text, None


def clean_code(text: str, config: "CleanConfig", changes: list[Change]) -> tuple[str, str | None]:
    """`clean_text` for a line of code: its spaces, symbols, tags and long numbers stay."""

    text, reason = _repair_encoding(text, config, changes)
    if reason:
        return text, reason
    text = normalize_code(text, lambda *change: changes.append(change), _skipped(config))
    if config.emails and "@" in text:
        text = _apply("emails", text, mask_emails, changes)
    if config.phones and has_long_number(text):
        # only with a country code or a word before them
        text = _apply("phones", text, lambda line: mask_phones(line, ()), changes)
    return text, None


def _repair_encoding(text: str, config: "CleanConfig", changes: list[Change]) -> tuple[str, str | None]:
    """Repair text that was decoded with another code page; also return the reason for rejection, or None."""
    if config.mojibake and has_mojibake(text):
        text = _apply("mojibake", text, mend_mojibake, changes)
        if has_mojibake(text):
            return text, "garbled"
    return text, "broken_unicode" if config.broken_unicode and is_broken(text) else None


def _skipped(config: "CleanConfig") -> list[str]:
    return [rule for rule in NORMALIZATIONS if not getattr(config, rule)]


def _clean_paragraphs(raw: RawDocument, clean: Clean, config: "CleanConfig", log: Log) -> None:
    context = _Context(raw, config)
    legacy = 0
    seen: dict[str, int] = {}
    for line, paragraph, code in zip(raw.lines, raw.paragraphs, code_lines(raw.paragraphs), strict=True):
        changes: list[Change] = []
        reason: str | None
        if len(paragraph) > _FAR_TOO_LONG * config.max_chars:
            text, reason = "", "too_long"
        else:
            text, why = clean_code(paragraph, config, changes) if code else clean_text(paragraph, config, changes, context)
            reason = why or _why_not(text, context, config, code)
        if not reason and config.duplicates and config.repeated_in_document and len(text) >= REPEAT_CHARACTERS:
            times = seen.get(text, 0)
            if times and (text == clean.paragraphs[-1] or (times > 1 and len(text) >= REFRAIN_CHARACTERS)):
                reason = "repeated_in_document"
            else:
                seen[text] = times + 1
        if reason:
            legacy += reason == "legacy_font"
            log.reject(Rejected(raw.source, line, reason, paragraph))
        else:
            clean.paragraphs.append(text)
            clean.lines.append(line)
            for rule, before, after in changes:
                log.change(rule, raw.source, line, before, after)
    if legacy > len(clean.paragraphs):  # its lines that were too short to be recognized
        for line, text in zip(clean.lines, clean.paragraphs, strict=True):
            log.reject(Rejected(raw.source, line, "legacy_font", text))
        clean.paragraphs, clean.lines = [], []


def split_paragraphs(raw: RawDocument, config: "CleanConfig", log: Log) -> None:
    """Split paragraphs that are too long; a second call changes nothing."""
    if not config.split_long or all(len(paragraph) <= config.max_chars for paragraph in raw.paragraphs):
        return
    paragraphs, lines = raw.paragraphs, raw.lines
    raw.paragraphs, raw.lines = [], []
    for line, paragraph in zip(lines, paragraphs, strict=True):
        pieces = [paragraph]
        if len(paragraph) > config.max_chars:
            pieces = split_long(paragraph, min(config.max_chars, PIECE_CHARACTERS))
            if len(pieces) > 1:
                log.change("split_long", raw.source, line, paragraph, "\n".join(pieces), len(paragraph) - sum(map(len, pieces)))
            else:
                pieces = [paragraph]
        raw.paragraphs += pieces
        raw.lines += [line] * len(pieces)


def _why_not(text: str, context: _Context, config: "CleanConfig", code: bool) -> str | None:
    """The reason why a paragraph is not text, or None if it is text."""
    if config.no_letters and not _LETTER.search(text):
        return "no_letters"
    if not text:
        return "empty"
    if len(text) < config.min_chars:
        return "too_short"
    if len(text) > config.max_chars:
        return "too_long"
    return None if code else _not_language(text, context, config)


def _not_language(text: str, context: _Context, config: "CleanConfig", least_words: int = WORDS_NEEDED) -> str | None:
    if config.legacy_font == "likely" and is_legacy_font(text, least_words) and context.legacy_words:
        return "legacy_font"
    if context.languages and is_in_other_script(text, context.languages):
        return "wrong_script"
    long = config.max_word_length > 0 and len(text) >= _ADDRESS_CHARACTERS
    if long and len(text) > _LONGER_IN_PARAGRAPHS * config.max_word_length * (text.count(" ") + 1) and not writes_no_spaces(text):
        return "long_words"
    return None


def writes_no_spaces(text: str) -> bool:
    """Whether a fifth of the characters or more belong to a script that does not separate words by spaces."""
    return not text.isascii() and 5 * len(_WITHOUT_SPACES.findall(text)) >= len(text)


def _is_legacy_document(text: str) -> bool:
    """Whether a document is certainly legacy-font text: several of the most common words of such fonts occur often."""
    known, distinct, words = legacy_words(text)
    return words >= _LEGACY_WORDS_NEEDED and distinct >= _LEGACY_KNOWN_WORDS and known >= _LEGACY_SHARE * words


def _clean_conversation(raw: RawDocument, config: "CleanConfig", log: Log) -> list[Message]:
    """The cleaned messages in order; an empty list, with the reason logged, if the conversation is rejected."""
    context = _Context(raw, config)
    whole = "\n".join(line for message in raw.messages for line in message["content"].splitlines() if line.strip())
    changes: list[Change] = []
    messages: list[Message] = []
    for message in raw.messages:
        content, reason = _clean_message(message["content"].splitlines(), config, context, changes)
        if content and not reason:
            reason = _not_language(content, context, config, _MESSAGE_WORDS)
            if len(content) > config.max_chars and not config.split_long:
                reason = "too_long"
        if reason:
            log.reject(Rejected(raw.source, raw.line, reason, whole))
            return []
        if content:
            messages.append({"role": message["role"], "content": content})
    kept = _answered(messages)
    try:
        turns = arrange(kept)
    except DataError:
        turns = []
    said = _says_something if config.no_answer == "words" else bool
    if not any(message["role"] == "assistant" and said(message["content"]) for message in turns):
        log.reject(Rejected(raw.source, raw.line, "no_answer", whole))
        return []
    for rule, before, after in changes:
        log.change(rule, raw.source, raw.line, before, after)
    if len(kept) < len(raw.messages):
        left_out = [message for message in messages if not any(message is other for other in kept)]
        characters = sum(characters_of(message["content"]) for message in left_out)
        log.change("unanswered", raw.source, raw.line, _spoken(raw.messages), _spoken(kept), characters)
        log.write(Rejected(raw.source, raw.line, "unanswered", _spoken(left_out), rows=0).to_line())
    return turns


def _clean_message(lines: list[str], config: "CleanConfig", context: _Context, changes: list[Change]) -> tuple[str, str | None]:
    """The clean text of a message, with empty lines only in code; and the reason for rejection, or None."""
    kept: list[str] = []
    for line, code in zip(lines, code_lines(lines), strict=True):
        if not line.strip():
            if code and kept:
                kept.append("")
            continue
        if config.split_long and len(line) > config.max_chars and max(map(len, split_long(line, config.max_chars))) > config.max_chars:
            return "", "too_long"
        text, reason = clean_code(line, config, changes) if code else clean_text(line, config, changes, context)
        if reason:
            return "", reason
        if text:
            kept.append(text)
    return "\n".join(kept).rstrip("\n"), None


def _says_something(text: str) -> bool:
    """Whether there is a letter, a digit or a symbol such as an emoji, and not only punctuation."""
    return bool(_WORD.search(text)) or any(unicodedata.category(character)[0] == "S" for character in text)


def _answered(messages: list[Message]) -> list[Message]:
    """Remove answers before the first question and questions after the last answer."""
    system = [message for message in messages if message["role"] == "system"]
    talk = [message for message in messages if message["role"] != "system"]
    while talk and talk[0]["role"] != "user":
        talk = talk[1:]
    while talk and talk[-1]["role"] != "assistant":
        talk = talk[:-1]
    return system + talk


def _spoken(messages: list[Message]) -> str:
    return " / ".join(f"{message['role']}: {message['content']}" for message in messages)
