"""chrF2 of one text against another (Popović 2015, 2016): how many character sequences they share.

The values are those of sacrebleu with its default settings. sacrebleu is an extra, but a figure that decides a verdict must not depend
on what is installed.
"""

from collections import Counter
from collections.abc import Sequence

ORDER = 6
_BETA2 = 2.0**2
"""Recall counts twice as much as precision."""

Counts = Sequence[Counter[str]]


def sequences(text: str) -> Counts:
    """How often each sequence of 1 to ORDER characters occurs in `text` without its white space."""
    joined = "".join(text.split())
    return [Counter(joined[start : start + n] for start in range(len(joined) - n + 1)) for n in range(1, ORDER + 1)]


def chrf(text: str, reference: str) -> float:
    """chrF2 of `text` against `reference`, 0 to 100."""
    return chrf_of_sequences(sequences(text), sequences(reference))


def chrf_of_sequences(text: Counts, reference: Counts) -> float:
    """The same for two texts whose sequences are known."""
    precision = recall = 0.0
    orders = 0
    for own, wanted in zip(text, reference, strict=True):
        if own and wanted:
            shared = (own & wanted).total()
            precision += shared / own.total()
            recall += shared / wanted.total()
            orders += 1
    if not precision or not recall:
        return 0.0
    precision, recall = precision / orders, recall / orders
    return 100 * (1 + _BETA2) * precision * recall / (_BETA2 * precision + recall)
