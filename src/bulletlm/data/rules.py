"""Making the text of one document uniform, and throwing out what is not text.

What can be told from a document alone is decided here; signals.py judges by statistics, and dedup.py by
comparing with everything else. Each rule of `CleanConfig` counts what it did in a `Log`.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bulletlm.data.encodings import WORDS_NEEDED, has_mojibake, has_private_letters, is_legacy_font, mend_mojibake, remove_private_bullets
from bulletlm.data.language import detect, is_in_other_script
from bulletlm.data.letters import broken_words, is_suspect, mend_letters
from bulletlm.data.log import Log, Rejected
from bulletlm.data.markup import decode_entities, remove_markup, shorten_rulers
from bulletlm.data.privacy import has_long_number, mask_emails, mask_numbers, mask_phones
from bulletlm.data.readers.raw import RawDocument
from bulletlm.errors import DataError
from bulletlm.text.chat import arrange
from bulletlm.text.documents import Message
from bulletlm.text.normalize import NORMALIZATIONS, is_broken, normalize_line

if TYPE_CHECKING:
    from bulletlm.config.schema import CleanConfig

Change = tuple[str, str, str]
"""A rule, the text before it and after it."""

REPEAT_CHARACTERS = 30
"""Shorter lines ("Yes." "आणि मग?") may stand in many documents; longer ones are copies or boilerplate."""

REFRAIN_CHARACTERS = 60
"""A longer paragraph may come twice in one document, as a refrain, and no more."""

_TRIGGER = re.compile("[&<\\[{'=*_#`àâÃÂð\x80-\x9f\ufffd\ud800-\udfff\ue000-\uf8ff\U000f0000-\U0010ffff]")
"""What text must have for entities, mojibake, markup, lost characters or private use: one look instead of ten."""

_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W_]")
_MESSAGE_WORDS = 8
"""Chat is full of words that look strange ("brb lolz"): only longer messages can be text of an old font."""

_FAR_TOO_LONG = 4
"""Times max_chars: what cleaning will not make short enough, and what is not worth its time."""

_LONGER_IN_PARAGRAPHS = 2
_ADDRESS_CHARACTERS = 40
"""Single paragraphs are allowed twice the mean word length of documents, and a cry of one long word passes."""


@dataclass
class Clean:
    """A document that passed: `paragraphs` or `messages`, and the lines they stood on."""

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
        """The paragraphs or the messages, a line each."""
        return "\n".join(self.paragraphs or [message["content"] for message in self.messages])


def clean_document(raw: RawDocument, config: "CleanConfig", log: Log) -> Clean | None:
    """A document with clean paragraphs or messages; None where nothing is left of it, with the reasons in `log`."""
    clean = Clean(raw.source, raw.line, raw.language, raw.group)
    if raw.messages:
        clean.messages = _clean_conversation(raw, config, log)
        judged = "\n".join(message["content"] for message in clean.messages if message["role"] == "assistant")
    else:
        _clean_paragraphs(raw, clean, config, log)
        judged = "\n".join(clean.paragraphs)
    if not judged:
        return None
    if raw.language == "auto":
        clean.language = detect(judged)
        if config.languages and clean.language not in config.languages and clean.language != "und":
            log.reject(Rejected(clean.source, clean.line, "wrong_language", clean.text, clean.rows))
            return None
    return clean


def clean_text(text: str, config: "CleanConfig", changes: list[Change]) -> tuple[str, str | None]:
    """A line after every rule that changes text, each change added to `changes`; and why it cannot be used at all, or None."""

    def apply(rule: str, function: Callable[[str], str]) -> None:
        nonlocal text
        after = function(text)
        if after != text:
            changes.append((rule, text, after))
            text = after

    if _TRIGGER.search(text):
        if config.entities and "&" in text:
            apply("entities", decode_entities)
        if config.mojibake:
            apply("mojibake", mend_mojibake)
            if has_mojibake(text):
                return text, "garbled"
        if config.broken_unicode and is_broken(text):
            return text, "broken_unicode"
        if config.markup:
            apply("markup", remove_markup)
        if config.private_use:
            apply("private_use", remove_private_bullets)
            if has_private_letters(text):
                return text, "private_letters"
    if config.rulers:
        apply("rulers", shorten_rulers)
    text = normalize_line(text, lambda *change: changes.append(change), [rule for rule in NORMALIZATIONS if not getattr(config, rule)])
    if is_suspect(text):
        if config.letters:
            apply("letters", mend_letters)
        if config.max_broken_words < 1 and broken_words(text) > config.max_broken_words:
            return text, "broken_letters"
    if config.emails and "@" in text:
        apply("emails", mask_emails)
    if has_long_number(text):
        if config.phones:
            apply("phones", mask_phones)
        if config.long_numbers:
            apply("long_numbers", lambda line: mask_numbers(line, config.long_numbers))
    return text, None


def _clean_paragraphs(raw: RawDocument, clean: Clean, config: "CleanConfig", log: Log) -> None:
    languages = config.languages if raw.language == "auto" else []
    legacy = 0
    seen: dict[str, int] = {}
    for line, paragraph in zip(raw.lines, raw.paragraphs, strict=True):
        changes: list[Change] = []
        text, reason = clean_text(paragraph, config, changes) if len(paragraph) <= _FAR_TOO_LONG * config.max_chars else ("", "too_long")
        reason = reason or _why_not(text, languages, config)
        if not reason and config.duplicates and len(text) >= REPEAT_CHARACTERS:
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
    if legacy > len(clean.paragraphs):  # the lines of it that were too short to tell
        for line, text in zip(clean.lines, clean.paragraphs, strict=True):
            log.reject(Rejected(raw.source, line, "legacy_font", text))
        clean.paragraphs, clean.lines = [], []


def _why_not(text: str, languages: list[str], config: "CleanConfig") -> str | None:
    """Why a paragraph or message is not text; None where it is."""
    if config.no_letters and not _LETTER.search(text):
        return "no_letters"
    if len(text) < config.min_chars:
        return "too_short"
    if len(text) > config.max_chars:
        return "too_long"
    return _not_language(text, languages, config)


def _not_language(text: str, languages: list[str], config: "CleanConfig", least_words: int = WORDS_NEEDED) -> str | None:
    if config.legacy_font and is_legacy_font(text, least_words):
        return "legacy_font"
    if languages and is_in_other_script(text, languages):
        return "wrong_script"
    if len(text) >= _ADDRESS_CHARACTERS and len(text) > _LONGER_IN_PARAGRAPHS * config.max_word_length * (text.count(" ") + 1):
        return "long_words"
    return None


def _clean_conversation(raw: RawDocument, config: "CleanConfig", log: Log) -> list[Message]:
    """Messages in order, each a few clean lines; an empty list, with the reason logged, where that cannot be."""
    languages = config.languages if raw.language == "auto" else []
    whole = "\n".join(message["content"] for message in raw.messages)
    changes: list[Change] = []
    messages: list[Message] = []
    for message in raw.messages:
        lines = []
        for line in message["content"].splitlines():
            text, reason = clean_text(line, config, changes)
            if reason:
                log.reject(Rejected(raw.source, raw.line, reason, whole))
                return []
            if text:
                lines.append(text)
        if not lines:
            continue
        content = "\n".join(lines)
        reason = "too_long" if len(content) > config.max_chars else _not_language(content, languages, config, _MESSAGE_WORDS)
        if reason:
            log.reject(Rejected(raw.source, raw.line, reason, whole))
            return []
        messages.append({"role": message["role"], "content": content})
    kept = _answered(messages)
    try:
        turns = arrange(kept)
    except DataError:
        turns = []
    if not any(message["role"] == "assistant" and _says_something(message["content"]) for message in turns):
        log.reject(Rejected(raw.source, raw.line, "no_answer", whole))
        return []
    for rule, before, after in changes:
        log.change(rule, raw.source, raw.line, before, after)
    if len(kept) < len(raw.messages):
        log.change("unanswered", raw.source, raw.line, _spoken(raw.messages), _spoken(kept))
        left_out = [message for message in messages if not any(message is other for other in kept)]
        log.write(Rejected(raw.source, raw.line, "unanswered", _spoken(left_out), rows=0).to_line())
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
