"""The damaged files that other tests make, for the JavaScript library."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from paths import ROOT

sys.path[:0] = [str(ROOT / "tests" / "native"), str(ROOT / "tests" / "formats" / "bullet")]

import example_file  # noqa: E402
import mutate  # noqa: E402
import test_hostile  # noqa: E402


def mutated_files(folder: Path, count: int) -> Iterator[bytes]:
    """Files with a few changed bytes or numbers, the same in every run."""
    rng = np.random.default_rng(mutate.SEED)
    files = mutate.seeds(folder)
    for i in range(count):
        yield mutate.mutated(files[i % len(files)], rng)


def hostile_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Rule of docs/bullet-format.md, and a file that breaks only this rule."""
    good = example_file.write(folder / "good.bullet")
    for rule, forgery, _ in test_hostile.HOSTILE:
        yield rule, forgery(good)
