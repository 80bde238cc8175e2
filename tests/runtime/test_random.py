"""Tests that the random generator's state is the same without numpy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.runtime.random import seeded, state_of


@given(st.lists(st.integers(0, 1 << 200), min_size=1, max_size=6))
def test_the_same_state_as_numpy(seeds: list[int]) -> None:
    assert seeded(seeds) == state_of(np.random.default_rng(seeds))
