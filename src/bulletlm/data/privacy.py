"""Masking what points at a person: e-mail addresses, phone numbers, long numbers such as accounts and identity cards."""

import re
from collections.abc import Callable

EMAIL = "[email]"
PHONE = "[phone]"
NUMBER = "[number]"

_D = "[0-9०-९]"
_BEFORE = r"(?<![\w+@.,/=-])"
_AFTER = rf"(?!{_D}|[.,/-]{_D}|[A-Za-z_])"
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9_.+-])[A-Za-z0-9_०-९][A-Za-z0-9_.+०-९-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)
# Groups divided by spaces alone are as often cells of a table: those need a prefix.
_PHONES = (
    # A mobile number of India: ten digits from 6 on, with or without 91 or 0 before it.
    rf"{_BEFORE}(?:(?:\+|[0०]{{2}})?(?:91|९१)[ -]?|[0०])[6-9६-९]{_D}{{4}}[ -]?{_D}{{5}}{_AFTER}",
    rf"{_BEFORE}[6-9६-९](?:{_D}{{4}}-?{_D}{{5}}|{_D}{{2}}-{_D}{{3}}-{_D}{{4}}){_AFTER}",
    # A landline with its area code, a free number.
    rf"{_BEFORE}(?:\([0०]{_D}{{2,4}}\) ?|[0०]{_D}{{2,4}}[ -])(?:{_D}{{6,8}}|{_D}{{3,4}}[ -]{_D}{{4}}){_AFTER}",
    rf"{_BEFORE}(?:1800|१८००)[ -]?{_D}{{2,4}}[ -]?{_D}{{3,4}}{_AFTER}",
    # Any other country.
    rf"(?<![\w+])\+{_D}{{1,3}}(?:[ -]?\(?{_D}{{2,5}}\)?){{2,4}}{_AFTER}",
)
_PHONE = re.compile("|".join(_PHONES))
_RUN = re.compile(rf"{_D}[0-9०-९ ()-]{{5,}}{_D}")
"""Where a number can be, but for a + or ( before it: quicker than looking for each kind everywhere."""
# The twelve digits of an Indian identity card, the sixteen of a bank card; not a row of a table, not years.
_CARD = re.compile(rf"(?<!{_D} ){_BEFORE}[2-9२-९]{_D}{{3}}([ -]){_D}{{4}}\1{_D}{{4}}(?:\1{_D}{{4}})?{_AFTER}(?! {_D})")
_YEARS = re.compile("[1१2२][0-9०-९]{3}(?:[ -][1१2२][0-9०-९]{3})*")


def has_long_number(text: str) -> bool:
    """Whether there are digits enough in a row for `mask_phones` or `mask_numbers`."""
    return _RUN.search(text) is not None


def mask_emails(text: str) -> str:
    """E-mail addresses as [email]."""
    return _EMAIL.sub(EMAIL, text) if "@" in text else text


def mask_phones(text: str) -> str:
    """Phone numbers, in digits of either script, as [phone]."""
    return _in_runs(text, lambda run: _PHONE.sub(PHONE, run))


def mask_numbers(text: str, digits: int) -> str:
    """Strings of at least `digits` digits, and groups of four as on cards, as [number]; years and sums of money (12400000/-) stay."""

    def mask(run: str) -> str:
        run = re.sub(rf"(?<![.,0-9०-९]){_D}{{{digits},}}(?![./][0-9०-९-])", NUMBER, run)
        return _CARD.sub(lambda found: found[0] if _YEARS.fullmatch(found[0]) else NUMBER, run)

    return _in_runs(text, mask)


def _in_runs(text: str, mask: Callable[[str], str]) -> str:
    """`mask` applied to each run of digits in `text`, with the two characters on either side that decide about it."""
    pieces: list[str] = []
    done = 0
    for found in _RUN.finditer(text):
        start, end = max(found.start() - 2, done), found.end() + 2
        pieces += [text[done:start], mask(text[start:end])]
        done = end
    return "".join([*pieces, text[done:]]) if pieces else text
