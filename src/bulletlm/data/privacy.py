"""Masks personal data: e-mail addresses, phone numbers, and long numbers such as account and identity card numbers.

A run of digits, in any script, is split into groups at its separators. The code searches for the longest sequences of groups
that can be a phone number: a rule defines the shapes that are used, and the `phonenumbers` library knows the numbers that exist
in a country. Adjacent numbers ("98.../94...", "020-25.../25...") form one list, and every digit of the list is masked. Years,
dates, decimals, prices and counts stay.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EMAIL = "[email]"
PHONE = "[phone]"
NUMBER = "[number]"

REGIONS = {
    "mr": ("IN",), "hi": ("IN",), "gu": ("IN",), "kn": ("IN",), "ml": ("IN",), "or": ("IN",), "pa": ("IN", "PK"), "ta": ("IN", "LK"),
    "te": ("IN",), "bn": ("IN", "BD"), "ur": ("PK", "IN"), "ne": ("NP", "IN"), "si": ("LK",), "en": ("IN", "US", "GB"),
    "fr": ("FR", "BE", "CH", "CA"), "de": ("DE", "AT", "CH"), "es": ("ES", "MX", "AR", "CO"), "pt": ("BR", "PT"), "it": ("IT",),
    "nl": ("NL", "BE"), "pl": ("PL",), "ru": ("RU",), "uk": ("UA",), "el": ("GR",), "tr": ("TR",), "he": ("IL",),
    "ar": ("EG", "SA", "AE"), "fa": ("IR",), "zh": ("CN", "TW", "HK"), "ja": ("JP",), "ko": ("KR",), "th": ("TH",), "vi": ("VN",),
    "id": ("ID",), "sw": ("KE", "TZ"), "am": ("ET",), "ka": ("GE",), "hy": ("AM",), "km": ("KH",), "my": ("MM",), "lo": ("LA",),
}  # fmt: skip
"""Language -> countries where it is used; their phone numbers are recognized without a country code."""

DEFAULT_REGIONS = ("IN",)

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9_.+-])[A-Za-z0-9_०-९][A-Za-z0-9_.+०-९-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)

_SEPARATOR = r"[ \u00a0.,;/&()+\u2010-\u2015-]"
_RUN = re.compile(rf"[(+]{{0,2}}\d(?:\d|{_SEPARATOR}{{1,3}}(?=[\d(+]))*\d")
"""Digits with the separators that may occur between the groups of a number and between numbers."""

_ENOUGH = re.compile(rf"\d(?:{_SEPARATOR}{{0,3}}\d){{5}}")
_DIGITS = re.compile(r"\d+")
_CUE = re.compile(
    r"(?:\b(?:mob(?:ile)?|ph(?:one)?|tel(?:ephone)?|cell|fax|whats?app|contact|call|sms|hotline|helpline|tél|móvil|telefon)|"
    r"मो|मोबा(?:ईल|इल)|मोबाइल|फोन|फ़ोन|दूरध्वनी|दूरभाष|भ्रमणध्वनी|व्हॉट्स?अ?ॅ?प|संपर्क|हेल्पलाइन|टोल फ्री)"
    r"(?:\s*(?:no|nos|number|numbers|नं|नंबर|क्र|क्रमांक|us|me|at|on))?\s*[.:\-–)]{0,2}\s*[(+]{0,2}$",
    re.I,
)
"""Words that announce a phone number."""

_BOOK = re.compile(r"(?:ISBN|ISSN|आयएसबीएन)[\s:.-]*$", re.I)
_CUE_CHARACTERS = 30
_INSIDE = re.compile(r"^(?:[ \u00a0.\u2010-\u2015-]|\)?[ \u00a0-]?\(?)$")
"""Separators between the groups of one number."""

_LIST = re.compile(r"^[ \u00a0]?[,;/&][ \u00a0]?$|^[ \u00a0]{1,2}$")
_TIGHT_LIST = re.compile(r"^[/\u2010-\u2015-]$")
"""After a phone number, another one of which only the different digits are given: 25500001/02."""

_MONEY_BEFORE = re.compile(r"(?:[₹$€£¥]|\b(?:rs|inr|usd|eur)\.?|रु\.?|रुपये|रुपए)\s*$", re.I)
_MONEY_AFTER = re.compile(
    r"^\s*(?:/-|[₹$€£¥%]|\b(?:rupees|dollars|euros|people|persons|years|votes|copies|million|billion|crore|lakh)\b|रु\b|रुपये|रुपए|कोटी|करोड़|लाख|लोक|टक्के)",
    re.I,
)
"""A price or a count, not a phone or account number."""

_DATES = (
    re.compile(r"(?:1[89]|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3])?(?:[0-5]\d){0,2}"),
    re.compile(r"(?:1[89]|20)\d\d([./-])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])(?:[ T-]\d{2,6})?"),
    re.compile(r"(?:0?[1-9]|[12]\d|3[01])([./-])(?:0?[1-9]|1[0-2])\1(?:(?:1[89]|20)\d\d|\d\d)"),
    re.compile(r"(?:0?[1-9]|1[0-2])([./-])(?:0?[1-9]|[12]\d|3[01])\1(?:1[89]|20)\d\d"),
)
_YEAR_RANGE = re.compile(r"^(?:1[89]|20)\d\d ?[-\u2013] ?(?:(?:1[89]|20)\d\d|\d\d)(?!\d)")
_ROUND = re.compile(r"^\d{1,4}0{6,}$")
_SHORTEST, _LONGEST = 6, 15
_MOST_GROUPS = 7
_CARD_GROUP = 4


@dataclass(frozen=True)
class _Group:
    """Digits of a run as ASCII, their position in the text, and the text between them and the previous group."""

    digits: str
    start: int
    end: int
    before: str


def has_long_number(text: str) -> bool:
    """Whether there are enough digits for `mask_phones` or `mask_numbers` to have an effect."""
    return _ENOUGH.search(text) is not None


def regions_of(languages: Iterable[str]) -> tuple[str, ...]:
    """The countries whose phone numbers are recognized without a country code in text of these languages."""
    found = [region for language in languages for region in REGIONS.get(language, ())]
    return tuple(dict.fromkeys([*DEFAULT_REGIONS, *found]))


def mask_emails(text: str) -> str:
    """Replace e-mail addresses by [email]."""
    return _EMAIL.sub(EMAIL, text) if "@" in text else text


def mask_phones(text: str, regions: Sequence[str] = DEFAULT_REGIONS) -> str:
    """Replace phone numbers, in digits of any script, by [phone].

    Args:
        regions: countries (ISO 3166 alpha-2) whose numbers are recognized without a country code.
    """
    if not has_long_number(text):
        return text
    spans: list[tuple[int, int]] = []
    for run in _RUN.finditer(text):
        spans += _phones(text, run, tuple(regions))
    return _masked(text, spans, PHONE)


def mask_numbers(text: str, digits: int) -> str:
    """Replace strings of at least `digits` digits, and groups of four as on cards, by [number]; years, dates, prices, counts stay."""
    if not has_long_number(text):
        return text
    spans: list[tuple[int, int]] = []
    for run in _RUN.finditer(text):
        groups = _groups(text, run)
        if _glued(text, run.start(), run.end()):
            continue
        cards = _cards(groups)
        spans += cards
        for n, group in enumerate(groups):
            inside = any(start <= group.start < end for start, end in cards)
            if len(group.digits) >= digits and not inside and not _stays(text, groups, n):
                spans.append((group.start, group.end))
    return _masked(text, spans, NUMBER)


def _groups(text: str, run: re.Match[str]) -> list[_Group]:
    groups: list[_Group] = []
    done = run.start()
    for found in _DIGITS.finditer(text, run.start(), run.end()):
        ascii_digits = "".join(str(int(digit)) for digit in found[0])
        groups.append(_Group(ascii_digits, found.start(), found.end(), text[done : found.start()]))
        done = found.end()
    return groups


def _glued(text: str, start: int, end: int) -> bool:
    """Whether a Latin letter or an underscore is adjacent to the run: then the run is part of a name, an address or a formula."""
    before, after = text[start - 1 : start], text[end : end + 1]
    latin = [character for character in (before, after) if character.isascii() and character.isalpha()]
    return bool(latin) or before in ("_", "@", "=", "#") or after == "_"


def _masked(text: str, spans: list[tuple[int, int]], mask: str) -> str:
    pieces: list[str] = []
    done = 0
    for start, end in spans:
        pieces += [text[done:start], mask]
        done = end
    return "".join([*pieces, text[done:]]) if spans else text


def _phones(text: str, run: re.Match[str], regions: tuple[str, ...]) -> list[tuple[int, int]]:
    """Start and end of each phone number in a run; adjacent numbers of one list are merged."""
    groups = _groups(text, run)
    if sum(len(group.digits) for group in groups) < _SHORTEST or _is_date(text[run.start() : run.end()]):
        return []
    cued = _CUE.search(text[max(run.start() - _CUE_CHARACTERS, 0) : run.start()]) is not None
    if not cued and (_glued(text, run.start(), run.end()) or _BOOK.search(text[max(run.start() - 10, 0) : run.start()])):
        return []
    spans: list[tuple[int, int]] = []
    n, listed = 0, False
    while n < len(groups):
        dated = 0 if cued else _date_at(text, groups, n)
        if dated:
            n, listed = n + dated, False
            continue
        size = _phone_at(text, groups, n, cued and (n == 0 or listed), listed, regions)
        if size:
            start = groups[n].start - _opening(groups[n].before, n == 0)
            spans.append((start, groups[n + size - 1].end))
            n, listed = n + size, True
            # More numbers of which only the last digits are given.
            while n < len(groups) and _TIGHT_LIST.match(groups[n].before) and len(groups[n].digits) <= 8:
                more = _phone_at(text, groups, n, False, True, regions)
                if more and more > 1:
                    break
                spans[-1] = (spans[-1][0], groups[n].end)
                n += 1
            continue
        n, listed = n + 1, False
    return [_balanced(text, start, end) for start, end in spans]


def _opening(before: str, first: bool) -> int:
    """How many characters before a number belong to it: its plus sign and parenthesis."""
    kept = before if first else before.lstrip(" \u00a0.,;/&)-")
    return len(kept) if set(kept) <= set("(+") else 0


def _balanced(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without an opening parenthesis that is closed only after the span, as around a complete number."""
    if text[start:end].count("(") > text[start:end].count(")"):
        start += text[start:end].index("(") + 1
    while text[start] in "(+" and text[start - 1 : start].isdigit():  # it separates two numbers
        start += 1
    return start, end


def _phone_at(text: str, groups: list[_Group], n: int, cued: bool, listed: bool, regions: tuple[str, ...]) -> int:
    """The number of groups from `n` on that form a phone number, the longest possible; 0 for none."""
    first = groups[n]
    plus = "+" in first.before
    if n and not plus and not listed and not _may_begin(first.before, groups[n - 1]):
        return 0
    if not plus and _MONEY_BEFORE.search(text[max(first.start - 10, 0) : first.start]):
        return 0
    for size in range(min(_MOST_GROUPS, len(groups) - n), 0, -1):
        parts = groups[n : n + size]
        inside = [part.before for part in parts[1:]]
        if any("+" in before or not _INSIDE.match(before) for before in inside):
            continue
        digits = [part.digits for part in parts]
        alone = (n == 0 or listed or groups[n].before.strip(" \u00a0") != "") and (n + size == len(groups) or not _is_row(groups, n + size))
        alone = alone or _pairs_of_five(groups)
        opening = "(" if "(" in first.before and any(")" in before for before in inside) else ""
        if not _is_phone(digits, inside, opening, plus, cued, alone, regions) or _is_price(text, parts[-1].end, plus or cued):
            continue
        listed_next = n + size < len(groups) and groups[n + size].before == ","
        if _may_end(groups, n + size) or (listed_next and _phone_at(text, groups, n + size, cued, True, regions)):
            return size
    return 0


def _may_begin(before: str, previous: _Group) -> bool:
    """Whether a number may begin after another group: not in a decimal, a date or a longer number."""
    before = before.strip("()+")
    return bool(_LIST.match(before)) and not (before in (",", ".", "/", "-") and len(previous.digits) < _SHORTEST)


def _may_end(groups: list[_Group], after: int) -> bool:
    """Whether a number may end before group `after`: a decimal point or a hyphen there means that the number continues."""
    if after == len(groups):
        return True
    written, digits = groups[after].before, groups[after].digits
    separator = written.strip("()+")
    if "+" in written or "(" in written:
        return True
    if separator in (".", ","):
        return separator == "," and len(digits) >= 3 and len(groups[after - 1].digits) >= 3
    if separator == "/":
        return True
    if _TIGHT_LIST.match(separator):  # an extension, or the last digits of the next number
        return after + 1 == len(groups) and len(digits) <= 2 and len(groups[after - 1].digits) >= 5
    return bool(_LIST.match(separator))


def _is_row(groups: list[_Group], after: int) -> bool:
    """Whether more groups follow that are separated by spaces, as in the cells of a table."""
    return not groups[after].before.strip(" \u00a0") and "+" not in groups[after].before and len(groups[after].digits) < 10


def _pairs_of_five(groups: list[_Group]) -> bool:
    """Whether a run consists only of mobile numbers in two groups of five digits."""
    fives = len(groups) % 2 == 0 and all(len(group.digits) == 5 for group in groups)
    return fives and all(group.digits[0] in "6789" for group in groups[::2])


def _is_price(text: str, end: int, sure: bool) -> bool:
    return not sure and _MONEY_AFTER.match(text[end : end + 12]) is not None


def _is_phone(digits: list[str], inside: list[str], opening: str, plus: bool, cued: bool, alone: bool, regions: tuple[str, ...]) -> bool:
    parenthesis = bool(opening) or any(")" in before for before in inside)
    joined = "".join(digits)
    if not _SHORTEST <= len(joined) <= _LONGEST:
        return False
    if plus:
        return len(joined) >= 7 and _possible("+" + joined)
    written = "".join(a + b for a, b in zip(digits, [*inside, ""], strict=True))
    if _years(digits) or _is_date(written) or (len(joined) == 13 and joined.startswith(("978", "979"))):  # the last: a book's ISBN
        return False
    if cued:
        return len(joined) >= 7 or len(digits) > 1
    if _ROUND.match(joined) or (opening + written).count("(") != written.count(")"):
        return False
    if min(map(len, digits)) < 2 and not parenthesis:
        return False
    if len(set(inside)) > 1 and not joined.startswith(("0", "91", "1")) and not parenthesis:
        return False
    if inside.count(".") == 1:
        return False
    spaced = bool(inside) and all(not before.strip(" \u00a0") for before in inside)
    if spaced and not alone and not parenthesis and not joined.startswith(("0", "91", "1800", "1860")):
        return False
    if joined.startswith("00"):
        return len(joined) >= 10 and _valid("+" + joined[2:], "ZZ")
    if _YEAR_RANGE.match(written):
        return False
    if "IN" in regions and "." not in inside and _is_indian(digits, joined, spaced, alone):
        return True
    formatted = parenthesis or joined.startswith("0") or (bool(inside) and not spaced)
    others = tuple(region for region in regions if region != "IN")
    return formatted and len(joined) >= 9 and any(_as_written(opening + written, region) for region in others)


def _is_indian(digits: list[str], joined: str, spaced: bool, alone: bool) -> bool:
    national = joined
    if len(joined) == 12 and joined.startswith("91"):
        national = joined[2:]
    elif len(joined) == 11 and joined.startswith("0"):
        national = joined[1:]
    if len(national) == 10 and national[0] in "6789" and (len(digits) <= 4):
        trunk = national is not joined
        # Mobile numbers are written in two groups of five; other groups separated by spaces are table cells.
        shape = [len(group) for group in digits]
        return (trunk or not spaced or (alone and shape == [5, 5])) and _valid(joined, "IN")
    if digits[0][:4] in ("1800", "1860") and 10 <= len(joined) <= 13:
        return not (spaced and not alone)
    if joined.startswith("0") and 2 <= len(digits) <= 3 and 3 <= len(digits[0]) <= 5:
        return 10 <= len(joined) <= 12 and joined[1] != "0"
    return False


def _years(digits: list[str]) -> bool:
    return all(len(group) == 4 and "1000" <= group <= "2199" for group in digits)


def _is_date(written: str) -> bool:
    """Whether digits with their separators are a date, a date and a time, or two dates."""
    plain = _ascii(written).strip()
    return any(pattern.fullmatch(plain) for pattern in _DATES) or _two_dates(plain)


def _date_at(text: str, groups: list[_Group], n: int) -> int:
    """The number of groups from `n` on that form a date; 0 for none."""
    if n + 3 > len(groups) or (n + 3 < len(groups) and groups[n + 3].before == groups[n + 1].before):
        return 0
    return 3 if any(pattern.fullmatch(_ascii(text[groups[n].start : groups[n + 2].end])) for pattern in _DATES) else 0


def _ascii(written: str) -> str:
    return "".join(str(int(c)) if c.isdecimal() else c for c in written).replace("\u2013", "-")


def _two_dates(plain: str) -> bool:
    for separator in (" - ", "-", " "):
        first, _, second = plain.partition(separator)
        if second and any(p.fullmatch(first) for p in _DATES) and any(p.fullmatch(second) for p in _DATES):
            return True
    return False


def _cards(groups: list[_Group]) -> list[tuple[int, int]]:
    """Find the twelve digits of an Indian identity card or the sixteen of a bank card, but not rows of a table or years."""
    if len(groups) not in (3, 4) or any(len(group.digits) != _CARD_GROUP for group in groups) or _years([g.digits for g in groups]):
        return []
    separators = {group.before for group in groups[1:]}
    if len(separators) != 1 or not separators <= {" ", "-"} or groups[0].digits[0] in "01":
        return []
    return [(groups[0].start, groups[-1].end)]


def _stays(text: str, groups: list[_Group], n: int) -> bool:
    """Whether a long string of digits is a decimal, a date, a price or a count."""
    group = groups[n]
    before = group.before if n else text[max(group.start - 1, 0) : group.start]
    after = groups[n + 1].before if n + 1 < len(groups) else text[group.end : group.end + 1]
    if (n and before in (".", ",")) or (n + 1 < len(groups) and after in (".", "/")):
        return True
    if _ROUND.match(group.digits) or _is_date(group.digits):
        return True
    money = _MONEY_BEFORE.search(text[max(group.start - 10, 0) : group.start]) or _MONEY_AFTER.match(text[group.end : group.end + 12])
    return money is not None


@functools.lru_cache(maxsize=1 << 14)
def _possible(number: str) -> bool:
    """Whether an international number with a plus sign has a valid length for its country."""
    import phonenumbers

    try:
        return bool(phonenumbers.is_possible_number(phonenumbers.parse(number, None)))
    except phonenumbers.NumberParseException:
        return False


@functools.lru_cache(maxsize=1 << 14)
def _as_written(written: str, region: str) -> bool:
    """Whether a number is valid in a country and is grouped in the usual way there."""
    import phonenumbers

    matcher = phonenumbers.PhoneNumberMatcher(written, region, leniency=phonenumbers.Leniency.STRICT_GROUPING)
    return any(match.start == 0 and match.end == len(written) for match in matcher)


@functools.lru_cache(maxsize=1 << 14)
def _valid(digits: str, region: str) -> bool:
    """Whether digits are a valid phone number of a country."""
    import phonenumbers

    try:
        number = phonenumbers.parse(digits, region)
    except phonenumbers.NumberParseException:
        return False
    return bool(phonenumbers.is_valid_number(number))
