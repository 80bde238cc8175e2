"""Tests the shares, weights and token budgets of the data mixture."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bulletlm.config.schema import DataConfig, MixConfig, Source
from bulletlm.data.mixture import Cells, copies, mixture_table, rates
from bulletlm.data.prepare import prepare_data
from bulletlm.progress import SilentProgress

KEYS = [("a", "en", False), ("a", "en", True), ("b", "mr", False), ("b", "mr", True)]


def cells(sizes: list[int], keys: list[tuple[str, str, bool]] = KEYS) -> tuple[Cells, np.ndarray, np.ndarray]:
    """Cells of documents of 300 characters, that is 100 tokens, each."""
    of = np.repeat(np.arange(len(sizes)), sizes)
    characters = np.full(len(of), 300)
    ranks = np.random.default_rng(1).permutation(len(of)).astype(np.uint64)
    return Cells(keys, of, np.bincount(of, weights=characters, minlength=len(sizes)).astype(float)), characters, ranks


def stream(sizes: list[int], sources: list[Source] | None = None, **mix: object) -> list[int]:
    """Documents of each cell in the stream."""
    found, characters, ranks = cells(sizes)
    sources = sources or [Source(path="a"), Source(path="b")]
    taken = copies(found, characters, ranks, rates(found, sources, {"a": 0, "b": 1}, MixConfig(**mix)))  # type: ignore[arg-type]
    return np.bincount(found.of, weights=taken, minlength=len(sizes)).astype(int).tolist()


def test_by_default_everything_goes_in_once() -> None:
    found, characters, ranks = cells([700, 311, 205, 17])
    rate = rates(found, [Source(path="a"), Source(path="b")], {"a": 0, "b": 1}, MixConfig())
    assert (copies(found, characters, ranks, rate) == 1).all()


def test_weights_repeat_and_leave_out() -> None:
    sources = [Source(path="a", weight=0.25), Source(path="b", weight=2.5)]
    assert stream([800, 400, 200, 100], sources) == [200, 100, 500, 250]
    assert stream([800, 400, 200, 100], [Source(path="a", weight=0), Source(path="b")]) == [0, 0, 200, 100]


def test_budgets() -> None:
    assert stream([800, 200, 100, 100], [Source(path="a", tokens=10_000), Source(path="b")]) == [80, 20, 100, 100]
    assert stream([800, 200, 100, 100], tokens=60_000) == [400, 100, 50, 50]
    assert stream([80, 20, 50, 50], tokens=40_000) == [160, 40, 100, 100], "a longer stream repeats"


def test_temperature_lifts_the_small_language() -> None:
    assert stream([800, 100, 50, 50]) == [800, 100, 50, 50]
    lifted = stream([800, 100, 50, 50], temperature=2, max_repeats=100)
    assert sum(lifted) == pytest.approx(1000, abs=3)
    assert sum(lifted[:2]) / 1000 == pytest.approx(0.9**0.5 / (0.9**0.5 + 0.1**0.5), abs=0.005)
    assert lifted[0] / lifted[1] == pytest.approx(8, abs=0.2), "inside a language nothing changes"
    assert sum(stream([800, 100, 50, 50], temperature=100, max_repeats=100)[:2]) == pytest.approx(500, abs=12)


def test_shares_of_languages_and_conversations() -> None:
    found = stream([800, 100, 60, 40], languages={"mr": 0.4, "en": 0.6}, max_repeats=100)
    assert sum(found[:2]) == pytest.approx(600, abs=3) and sum(found[2:]) == pytest.approx(400, abs=3)
    found = stream([800, 100, 60, 40], conversations=0.3, max_repeats=100)
    assert found[1] + found[3] == pytest.approx(300, abs=4)
    assert found[0] + found[1] == pytest.approx(900, abs=4), "the languages keep their shares"
    found = stream([800, 100, 60, 40], languages={"mr": 0.5}, conversations=0.25, max_repeats=100)
    assert found[2] + found[3] == pytest.approx(500, abs=4) and found[1] + found[3] == pytest.approx(250, abs=4)
    assert stream([100, 100, 50, 50], languages={"mr": 1.0}, max_repeats=100) == [0, 0, 150, 150]


def test_nothing_is_repeated_too_often() -> None:
    found = stream([800, 100, 60, 40], languages={"mr": 0.5, "en": 0.5}, max_repeats=3)
    assert found[2:] == [180, 120]
    assert sum(found) == pytest.approx(1000, abs=3), "the others make up for it"
    assert stream([10, 10, 10, 10], tokens=100_000, max_repeats=4) == [40, 40, 40, 40]
    assert stream([10, 10, 10, 10], [Source(path="a", weight=7), Source(path="b")], max_repeats=4) == [70, 70, 10, 10]


def test_a_budget_holds_whatever_the_shares_ask_for() -> None:
    sources = [Source(path="a", tokens=20_000), Source(path="b")]
    found = stream([800, 100, 300, 100], sources, languages={"en": 0.6, "mr": 0.4})
    assert sum(found[:2]) == pytest.approx(200, abs=2) and sum(found) == pytest.approx(600, abs=3), "the others make up for it"
    keys = [("a", "en", False), ("a", "mr", False), ("b", "en", False), ("b", "mr", False)]
    cell, characters, ranks = cells([500, 500, 500, 500], keys)
    mix = MixConfig(languages={"mr": 0.7, "en": 0.3})
    rate = rates(cell, [Source(path="a", tokens=30_000), Source(path="b")], {"a": 0, "b": 1}, mix)
    taken = np.bincount(cell.of, weights=copies(cell, characters, ranks, rate), minlength=4)
    assert taken[0] + taken[1] <= 301
    assert taken[1] + taken[3] == pytest.approx(0.7 * 1300, abs=4), "inside and outside of it"


def test_shares_that_a_budget_makes_impossible_empty_nothing() -> None:
    """English documents are few: English conversations make up for them, and Marathi ones stay."""
    keys = [("a", "en", False), ("b", "en", True), ("b", "mr", True), ("c", "mr", False)]
    cell, _, _ = cells([2000, 400, 400, 1200], keys)
    sources = [Source(path="a", tokens=100_000), Source(path="b"), Source(path="c", weight=3)]
    mix = MixConfig(languages={"mr": 0.6, "en": 0.4}, conversations=0.2)
    stream = rates(cell, sources, {"a": 0, "b": 1, "c": 2}, mix) * cell.sizes / 300
    assert stream[0] == pytest.approx(1000, abs=1)
    assert stream[0] + stream[1] == pytest.approx(0.4 * 5400, abs=5)
    assert stream[2] > 300


def test_a_share_of_what_is_not_there() -> None:
    keys = [("a", "en", False), ("b", "mr", False)]
    found, characters, ranks = cells([100, 50], keys)
    mix = MixConfig(conversations=0.3, languages={"hi": 0.5, "mr": 0.25})
    taken = copies(found, characters, ranks, rates(found, [Source(path="a")], {"a": 0, "b": 0}, mix))
    assert np.bincount(found.of, weights=taken).tolist() == [75, 75], "en has the rest, 1 - 0.75, which is as much as mr"


def test_which_documents_repeat_follows_their_ranks() -> None:
    found, characters, ranks = cells([40, 10, 10, 10])
    rate = np.array([1.5, 0.2, 1, 1])
    taken = copies(found, characters, ranks, rate)
    own = found.of == 0
    assert sorted(ranks[own][taken[own] == 2]) == sorted(ranks[own])[:20]
    shuffle = np.random.default_rng(2).permutation(len(ranks))
    again = copies(Cells(KEYS, found.of[shuffle], found.sizes), characters, ranks[shuffle], rate)
    assert (again == taken[shuffle]).all()


def test_the_table() -> None:
    found, characters, ranks = cells([80, 20, 10, 10])
    table = mixture_table(found, characters, copies(found, characters, ranks, np.array([1, 0.5, 3, 0])))
    assert table[0] == {
        "source": "a",
        "language": "en",
        "kind": "documents",
        "documents": 80,
        "tokens": 8000,
        "times": 1.0,
        "stream_tokens": 8000,
        "share": round(80 / 120, 4),
    }
    assert [(row["kind"], row["times"], row["stream_tokens"]) for row in table[1:]] == [
        ("conversations", 0.5, 1000),
        ("documents", 3.0, 3000),
        ("conversations", 0.0, 0),
    ]
    assert sum(row["share"] for row in table) == pytest.approx(1, abs=1e-3)


def test_general_text_is_mixed_in_and_not_held_out(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("".join(f"The tide of day {n} rose by {n % 7} feet at the old pier.\n\n" for n in range(3_000)))
    config = DataConfig.model_validate({"sources": [str(tmp_path / "own.txt")], "val_tokens": 1_000, "mix": {"general": 0.25}})
    report = prepare_data(config, 1, tmp_path / "data", SilentProgress())
    shares = Counter[str]()
    for row in report["mixture"]:
        shares["own" if row["source"] == "own.txt" else "general"] += row["share"]
    assert shares["general"] == pytest.approx(0.25, abs=0.01)
    assert {json.loads(line)["source"] for line in (tmp_path / "data" / "val.jsonl").read_text().splitlines()} == {"own.txt"}
    own = [row for row in report["mixture"] if row["source"] == "own.txt"]
    assert [row["times"] for row in own] == [1.0]
