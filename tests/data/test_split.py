"""Tests the validation set: it has about the requested size, has text of every source, and does not depend on the order of files."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bulletlm.data.split import choose_validation


def choose(sizes: list[list[int]], strata: list[int], ranks: list[int], target: int) -> dict[int, int]:
    """`sizes` holds the paragraph sizes of each document; a single size of 0 in front marks a conversation."""
    return choose_validation(
        np.array([sum(paragraphs) for paragraphs in sizes]),
        np.array(strata),
        np.array(ranks, dtype=np.uint64),
        target,
        lambda n: sizes[n],
    )


def amount(sizes: list[list[int]], chosen: dict[int, int]) -> int:
    return sum(sum(sizes[document][first:]) for document, first in chosen.items())


def test_every_stratum_gives_its_share() -> None:
    rng = np.random.default_rng(1)
    strata = [n % 3 for n in range(3000)]
    sizes = [[int(rng.integers(50, 150)) for _ in range(1 + 2 * (s == 0))] for s in strata]
    chosen = choose(sizes, strata, rng.permutation(3000).tolist(), 20_000)
    total = [sum(sum(size) for size, s in zip(sizes, strata, strict=True) if s == which) for which in range(3)]
    for which in range(3):
        got = amount(sizes, {d: f for d, f in chosen.items() if strata[d] == which})
        assert abs(got - 20_000 * total[which] / sum(total)) < 500


def test_the_choice_follows_the_ranks_and_not_the_order() -> None:
    rng = np.random.default_rng(2)
    sizes = [[int(n)] for n in rng.integers(80, 400, 500)]
    strata, ranks = [n % 2 for n in range(500)], rng.permutation(500).tolist()
    chosen = {ranks[d] for d in choose(sizes, strata, ranks, 5_000)}
    shuffle = rng.permutation(500).tolist()
    again = choose([sizes[n] for n in shuffle], [strata[n] for n in shuffle], [ranks[n] for n in shuffle], 5_000)
    assert {ranks[shuffle[d]] for d in again} == chosen


def test_long_documents_are_cut_and_the_rest_stays() -> None:
    sizes = [[200] * 40 for _ in range(5)]
    chosen = choose(sizes, [0] * 5, [3, 1, 4, 0, 2], 2_000)
    assert all(first > 0 for first in chosen.values())
    assert 1_800 <= amount(sizes, chosen) <= 2_000


def test_a_source_of_one_document_is_not_taken_whole() -> None:
    sizes = [[100]] + [[90, 90] for _ in range(300)]
    chosen = choose(sizes, [0] + [1] * 300, list(range(301)), 3_000)
    assert 0 not in chosen
    assert 2_700 <= amount(sizes, chosen) <= 3_300


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(1, 3000), min_size=1, max_size=6), st.integers(0, 3)), min_size=1, max_size=60),
    st.integers(1, 5000),
    st.randoms(use_true_random=False),
)
def test_never_much_more_than_asked(documents: list[tuple[list[int], int]], target: int, random: object) -> None:
    sizes, strata = [d[0] for d in documents], [d[1] for d in documents]
    ranks = list(range(len(sizes)))
    random.shuffle(ranks)  # type: ignore[attr-defined]
    target = min(target, sum(map(sum, sizes)) // 10)
    chosen = choose(sizes, strata, ranks, target)
    smallest = min(min(map(sum, sizes)), sizes[0][-1] if len(sizes) == 1 else sum(map(sum, sizes)))
    assert amount(sizes, chosen) <= max(1.5 * target + 1, smallest)
    assert all(0 <= first < len(sizes[document]) for document, first in chosen.items())
