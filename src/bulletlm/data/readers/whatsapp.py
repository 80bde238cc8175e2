"""Reads WhatsApp chats exported as text.

Each message is an answer to the messages of the previous sender. A chat gives two conversations, with each side once in the
assistant role, so that the model learns the messages of both people as answers. Sender names, phone numbers, times, system
notices, media placeholders and deleted messages are left out. Names inside messages become [name] if the export says whose they are:
names of senders, of people in notices ("A added B", "B left"), of contact cards and of mentions.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from bulletlm.data.readers.opened import pieces
from bulletlm.data.readers.raw import BadRow, Block, Listener, NotReadError, RawDocument
from bulletlm.data.sources import SourceFile
from bulletlm.text.documents import Message

PRIVATE = "private messages"
"""The description of a chat begins with this; the report counts such files."""

NAME = "[name]"

_MOST_BYTES = 256 << 20
_TURNS = 12
"""A conversation is cut after this many turns; the next one begins with the last of them, so that its first answer has a request."""

_HEAD = re.compile(
    r"^[\u200e\u200f\ufeff]*\[?(\d{1,4})[./-](\d{1,2})[./-](\d{1,4}),?[\s\u202f]+(\d{1,2})[:.](\d{2})(?:[:.](\d{2}))?"
    r"(?:[\s\u202f]*([^\W\d_][^\s\]\d:–-]{0,7}(?:[\s\u202f][^\W\d_][.\u093e-\u094d]{0,3})?))?(?:\]|[\s\u202f]+[-–])[\s\u202f]*(.*)$"
)
"""Date, time, "am" or "pm" in any language, and the rest: "12/03/24, 9:15 pm - Name: text" or "[12/03/24, 9:15:33 PM] Name: text"."""

_LEAST_HEADS = 3
_LEAST_SHARE = 0.3
_NAME_CHARACTERS = 60
_MARKS = "\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069"
_AFTERNOON = ("pm", "p.m", "p. m", "म.उ", "अप", "अपराह्न", "pm.", "nachm")

_MEDIA = re.compile(
    r"^(?:<[^<>\n]{3,60}>|.{0,80}\((?:file attached|फाइल संलग्न|फाईल जोडली)[^)]*\)|(?:image|video|audio|sticker|GIF|document|contact card|"
    r"video note|voice message) omitted|(?:missed (?:voice|video|group).{0,30}call.{0,40})|live location shared|location: https?://\S+|"
    r"null|POLL:.*)$",
    re.IGNORECASE | re.DOTALL,
)
_DELETED = re.compile(
    r"^(?:this message was deleted|you deleted this message|this message was deleted by .{1,40}|हा (?:मेसेज|संदेश) (?:हटवला|हटवण्यात आला).*|"
    r"तुम्ही हा (?:मेसेज|संदेश) हटवला.*|(?:यह|आपने यह) (?:मैसेज|संदेश) (?:हटा|डिलीट).*)\.?$",
    re.IGNORECASE,
)
_NOTICE = re.compile(
    r"\b(?:changed (?:the|this|their)|added|removed|left|joined using|created group|end-to-end encrypted|security code|is a contact|"
    r"pinned a message|turned (?:on|off)|started a call|disappearing messages|was added)\b",
    re.IGNORECASE,
)
_ADDED = re.compile(r"^(.{1,60}?) (?:added|removed|invited) (.{1,400}?)(?: to (?:the|this) .{1,40})?\.?$", re.IGNORECASE)
_DID = re.compile(
    r"^(.{1,60}?)(?:'s|’s)? (?:left|joined|was (?:added|removed)|created (?:the |this )?group|changed|is now an admin|"
    r"is no longer an admin|pinned|started a|turned o|deleted this group|reset this group|security code|requested to join|is a contact)\b",
    re.IGNORECASE,
)
_CODE = re.compile(r"^your security code with (.{1,60}?) (?:has )?changed", re.IGNORECASE)
_NATIVE = re.compile(r" (?:यांनी|यांना|ने|को) ")
_AND = re.compile(r", | and | आणि | और ")
"""People in system notices: in English, and "A यांनी B यांना जोडले" in Marathi and Hindi."""
_CARD = re.compile(r"([^/\\\n]{1,60}?)\.vcf\b", re.IGNORECASE)
_MENTIONED = re.compile(r"@\u2068~?([^\u2069\n]{1,60})\u2069")
_SAME_PERSON = frozenset("you your someone they admin an the this group messages calls तुम्ही तुम्हाला आपण आप आपने आपको कोणी किसी".split())
_EDITED = re.compile(r"\s*<(?:this message was edited|हा मेसेज संपादित केला|यह मैसेज एडिट किया गया)>\s*$", re.IGNORECASE)
_MENTION = re.compile(r"@(?:\u2068[^\u2069\n]{1,60}\u2069|~?[\w+][\w.]*)")
_NUMBER = re.compile(r"\+?\d[\d\s()-]{7,}\d")
_SUFFIXES = "ला|ने|नी|ना|चा|ची|चे|च्या|शी|कडे|साठी|वर|को|का|की|के|से|जी|बाई|राव|ताई|दादा|भाऊ"
_LATIN_SUFFIXES = "la|ne|ni|na|cha|chi|che|chya|shi|ko|ka|ki|ke|se|ji|s"
_TITLES = frozenset(
    "mr mrs ms dr prof sir madam office home work new old mobile phone whatsapp the and for with from श्री श्रीमती सौ डॉ".split()
)


@dataclass
class _Said:
    line: int
    date: tuple[int, int, int, int, int]
    sender: str
    lines: list[str] = field(default_factory=list)


def recognize(sample: str) -> bool:
    """Whether a text is an exported WhatsApp chat."""
    lines = [line for line in sample.split("\n")[:400] if line.strip()]
    heads = sum(_HEAD.match(line) is not None for line in lines)
    with_sender = sum((found := _HEAD.match(line)) is not None and ": " in found[8] for line in lines)
    begins = bool(lines) and any(_HEAD.match(line) for line in lines[:2])
    return begins and heads >= _LEAST_HEADS and with_sender >= 2 and heads >= _LEAST_SHARE * len(lines)


def blocks(file: SourceFile, encoding: str, listener: Listener) -> Iterator[Block | BadRow]:
    """Read the conversations of the chat as JSON lines: [line, group, messages], and the rows that are left out."""
    data = bytearray()
    for piece in pieces(file, encoding, listener.advance):
        data += piece
        if len(data) > _MOST_BYTES:
            raise NotReadError(f"a chat of more than {_MOST_BYTES >> 20} MB: split it")
    text = data.decode("utf-8", "replace")
    said, left_out = _parse(text)
    day_first = _day_first(said)
    senders = {item.sender for item in said}
    hide = _name_pattern(senders | _people(text))
    conversations = list(_conversations(said, hide))
    times = [time for item in said if (time := _time(item.date, day_first)) is not None]
    dates = f" from {min(times):%Y-%m-%d} to {max(times):%Y-%m-%d}" if times else ""
    listener.taken_for(f"{PRIVATE}: a WhatsApp chat of {len(senders)} people, {len(said):,} messages{dates}")
    for reason, count in left_out.items():
        # The text of a notice contains names: only the kind and the number of notices are kept.
        yield BadRow(file.name, 1, reason, f"{count:,} lines", 0)
    lines = [json.dumps(item, ensure_ascii=False).encode("utf-8", "replace") for item in conversations]
    for start in range(0, len(lines), 200):
        first, last = conversations[start][0], conversations[min(start + 199, len(lines) - 1)][0]
        yield Block(file, first, max(first, last), b"\n".join(lines[start : start + 200]), kind="whatsapp")


def documents(block: Block, seed: int) -> Iterator[RawDocument | BadRow]:
    """The conversations of a block."""
    for line in block.data.decode().split("\n"):
        number, group, messages = json.loads(line)
        yield RawDocument(block.file.name, number, block.file.language, messages=messages, group=f"{block.file.label}:{group}")


def _parse(text: str) -> tuple[list[_Said], Counter[str]]:
    said: list[_Said] = []
    left_out: Counter[str] = Counter()
    current: _Said | None = None
    names = Counter(
        found[8].partition(": ")[0] for line in text.split("\n") if (found := _HEAD.match(line)) is not None and ": " in found[8]
    )
    for number, line in enumerate(text.split("\n"), 1):
        found = _HEAD.match(line)
        if not found:
            if current:
                current.lines.append(line)
            elif line.strip():
                left_out["chat_notice"] += 1
            continue
        current = None
        sender, separator, content = found[8].partition(": ")
        if not separator and found[8].endswith(":"):
            sender, separator, content = found[8][:-1], ":", ""
        sender = sender.strip(_MARKS + " ~")
        rare = names[found[8].partition(": ")[0]] < 2
        if not separator or len(sender) > _NAME_CHARACTERS or (rare and _NOTICE.search(sender)):
            left_out["chat_notice"] += 1
            current = _Said(number, (0, 0, 0, 0, 0), "")  # the lines that follow belong to it
            continue
        current = _Said(number, _numbers(found), sender, [content])
        said.append(current)
    kept = []
    for item in said:
        content = _EDITED.sub("", "\n".join(item.lines)).strip()
        if content.startswith("\u200e") or _MEDIA.match(content.strip(_MARKS)):
            left_out["chat_media"] += 1
        elif _DELETED.match(content.strip(_MARKS)):
            left_out["chat_deleted"] += 1
        elif content.strip(_MARKS + " \n"):
            item.lines = [line for line in content.split("\n") if line.strip()]
            kept.append(item)
    return kept, left_out


def _people(text: str) -> set[str]:
    """Names of people who need not have written: in system notices, contact cards and mentions."""
    people = {name for pattern in (_CARD, _MENTIONED) for name in pattern.findall(text)}
    for line in text.split("\n"):
        found = _HEAD.match(line)
        if not found or ": " in found[8]:
            continue
        notice = found[8].strip(_MARKS + " ")
        if added := _ADDED.match(notice):
            people |= {added[1], *_AND.split(added[2])}
        elif code := _CODE.match(notice) or _DID.match(notice):
            people.add(code[1])
        else:
            people.update(name for part in _NATIVE.split(notice)[:-1] for name in _AND.split(part))
    names = (re.split(r" - |: ", name)[-1].strip(_MARKS + " ~\"'") for name in people)
    return {name for name in names if name and not _SAME_PERSON & set(name.lower().split())}


def _numbers(found: "re.Match[str]") -> tuple[int, int, int, int, int]:
    first, second, third, hour, minute = (int(found[group]) for group in range(1, 6))
    half = (found[7] or "").lower().replace("\u202f", " ").rstrip(".")
    if half:
        hour = hour % 12 + (12 if half.startswith(_AFTERNOON) or half.replace(".", "") == "pm" else 0)
    return first, second, third, hour % 24, minute % 60


def _time(date: tuple[int, int, int, int, int], day_first: bool) -> datetime | None:
    first, second, third, hour, minute = date
    year, month, day = (first, second, third) if first > 31 else (third, second, first) if day_first else (third, first, second)
    try:
        return datetime(year + 2000 if year < 100 else year, month, day, hour, minute)
    except ValueError:
        return None


def _day_first(said: list[_Said]) -> bool:
    """Whether 05/03 is the fifth of March: numbers above twelve decide, else the order with fewer backward steps and smaller gaps."""
    if any(item.date[0] > 12 for item in said):
        return True
    if any(item.date[1] > 12 for item in said):
        return False

    def doubt(day_first: bool) -> tuple[int, float]:
        times = [time for item in said if (time := _time(item.date, day_first)) is not None]
        steps_back = sum(later < earlier for earlier, later in itertools.pairwise(times))
        return steps_back, (max(times) - min(times)).total_seconds() if times else 0.0

    return doubt(True) <= doubt(False)


def _conversations(said: list[_Said], hide: "re.Pattern[str] | None") -> Iterator[tuple[int, str, list[Message]]]:
    """The conversations in both directions for each part of the chat."""
    turns: list[tuple[int, list[str]]] = []
    sender = ""
    for item in said:
        if turns and item.sender == sender:
            turns[-1][1].extend(item.lines)
        else:
            turns.append((item.line, list(item.lines)))
        sender = item.sender
    texts = [_without_names("\n".join(lines), hide) for _, lines in turns]
    for begin in range(0, max(len(turns) - 1, 1), _TURNS - 1):
        part = texts[begin : begin + _TURNS]
        for start in range(2):
            messages: list[Message] = [
                {"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(part[start:])
            ]
            if len(messages) >= 2 or (start == 0 and messages):
                yield turns[begin + start][0], str(turns[begin][0]), messages


def _name_pattern(senders: set[str]) -> "re.Pattern[str] | None":
    """A pattern that finds full or partial names of senders, also with Marathi and Hindi case endings."""
    names: set[str] = set()
    for sender in senders:
        names.add(sender)
        outside = re.sub(r"\([^)]*\)", " ", sender)
        for part in re.findall(r"[^\W\d_][\w\u0900-\u097f\u200c\u200d'’.-]*", outside):
            part = part.strip(".-'’")
            if len(part) > 1 and part.lower() not in _TITLES:
                names.add(part)
    names = {name for name in names if re.search(r"[^\W\d_]", name)}
    if not names:
        return None
    joined = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(
        rf"(?<![\w\u0900-\u097f])@?(?:{joined})(?P<suffix>(?:{_SUFFIXES})?|(?:{_LATIN_SUFFIXES})?)(?![\w\u0900-\u097f])", re.IGNORECASE
    )


def _without_names(text: str, hide: "re.Pattern[str] | None") -> str:
    text = _MENTION.sub(NAME, text)
    if hide:
        text = hide.sub(lambda found: NAME + (found["suffix"] or ""), text)
    return _NUMBER.sub("[phone]", text.translate(dict.fromkeys(map(ord, _MARKS))))
