"""Tests the documented properties of sampling for any logits."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bulletlm.errors import BulletError, ConfigError
from bulletlm.runtime import Sampling, sample
from bulletlm.sampling_limits import SAMPLING_LIMITS

VOCAB = 24
any_logits = hnp.arrays(np.float32, VOCAB, elements=st.floats(-30, 30, width=32))
histories = st.lists(st.integers(0, VOCAB - 1), max_size=80)
settings_ = st.builds(
    Sampling,
    temperature=st.floats(0, 10),
    top_k=st.integers(0, 30),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0.5, 3),
)
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, 5])


def drawn(logits: np.ndarray, times: int = 200, history: tuple[int, ...] = (), **changes: float) -> np.ndarray:
    """How often each token comes up."""
    sampling, random = Sampling(**{**PLAIN, **changes}), rng()
    return np.bincount([sample(logits, history, sampling, random) for _ in range(times)], minlength=len(logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    likelihood = np.exp(logits.astype(np.float64) - logits.max())
    return likelihood / likelihood.sum()


@settings(max_examples=200, deadline=None)
@given(logits=any_logits, history=histories, sampling=settings_, seed=st.integers(0, 2**32 - 1))
def test_every_setting_gives_a_token_and_the_same_one_again(logits: np.ndarray, history: list[int], sampling: Sampling, seed: int) -> None:
    before = logits.copy()
    token = sample(logits, history, sampling, rng(seed))
    assert 0 <= token < VOCAB
    assert sample(logits, history, sampling, rng(seed)) == token
    np.testing.assert_array_equal(logits, before)


@settings(max_examples=100, deadline=None)
@given(logits=any_logits, k=st.integers(0, 30), p=st.floats(0, 1))
def test_temperature_zero_takes_the_likeliest(logits: np.ndarray, k: int, p: float) -> None:
    greedy = Sampling(**{**PLAIN, "temperature": 0.0, "top_k": k, "top_p": p, "min_p": p})
    assert sample(logits, [], greedy, rng()) == logits.argmax()


@settings(max_examples=60, deadline=None)
@given(logits=any_logits, k=st.integers(1, 30), seed=st.integers(0, 1000))
def test_top_k_draws_from_the_k_likeliest(logits: np.ndarray, k: int, seed: int) -> None:
    sampling = Sampling(**{**PLAIN, "temperature": 10.0, "top_k": k})
    token = sample(logits, [], sampling, rng(seed))
    likelier = np.flatnonzero((logits > logits[token]) | ((logits == logits[token]) & (np.arange(VOCAB) < token)))
    assert len(likelier) < k


@settings(max_examples=60, deadline=None)
@given(logits=any_logits, p=st.floats(0, 0.999), seed=st.integers(0, 1000))
def test_top_p_draws_from_the_nucleus(logits: np.ndarray, p: float, seed: int) -> None:
    """Everything likelier than the drawn token has less than p together, or the nucleus would have ended before it."""
    token = sample(logits, [], Sampling(**{**PLAIN, "temperature": 10.0, "top_p": p}), rng(seed))
    probability = softmax(logits)
    before = (logits > logits[token]) | ((logits == logits[token]) & (np.arange(VOCAB) < token))
    assert probability[before].sum() < p + 1e-9 or not before.any()


@settings(max_examples=60, deadline=None)
@given(logits=any_logits, p=st.floats(0, 1), seed=st.integers(0, 1000))
def test_min_p_drops_what_is_much_less_likely(logits: np.ndarray, p: float, seed: int) -> None:
    token = sample(logits, [], Sampling(**{**PLAIN, "temperature": 10.0, "min_p": p}), rng(seed))
    probability = softmax(logits)
    assert probability[token] >= p * probability.max() * (1 - 1e-9)


def test_nothing_filtered_draws_in_proportion() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], dtype=np.float32))
    for temperature in (1.0, 2.0, 0.5):
        share = drawn(logits, 4000, temperature=temperature) / 4000
        np.testing.assert_allclose(share, softmax(logits / np.float32(temperature)), atol=0.03)


def test_filters_see_the_probabilities_before_the_temperature() -> None:
    logits = np.log(np.array([0.6, 0.3, 0.1], dtype=np.float32))
    assert (drawn(logits, temperature=10.0, top_p=0.8) > 0).tolist() == [True, True, False]
    assert (drawn(logits, temperature=10.0, min_p=0.4) > 0).tolist() == [True, True, False]
    assert (drawn(logits, temperature=10.0) > 0).all()


def test_repetition_penalty() -> None:
    logits = np.array([2.0, 1.9, -1.0, -1.05], dtype=np.float32)
    greedy = Sampling(**{**PLAIN, "temperature": 0.0, "repetition_penalty": 1.2})
    assert sample(logits, [], greedy, rng()) == 0
    assert sample(logits, [0], greedy, rng()) == 1
    assert sample(logits, [0, 0, 0], greedy, rng()) == 1  # once, even if it occurs several times
    assert sample(logits, [0] + [3] * 64, greedy, rng()) == 0  # earlier tokens do not count
    assert sample(-np.abs(logits), [2], greedy, rng()) == 3  # negative logits get smaller too
    assert (drawn(logits, 400, (0, 1), repetition_penalty=3.0)[2:] > drawn(logits, 400)[2:]).all()


@settings(max_examples=60, deadline=None)
@given(logits=any_logits, history=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=64))
def test_a_penalty_never_makes_repeating_likelier(logits: np.ndarray, history: list[int]) -> None:
    greedy = {**PLAIN, "temperature": 0.0}
    plain = sample(logits, history, Sampling(**greedy), rng())
    penalized = sample(logits, history, Sampling(**{**greedy, "repetition_penalty": 1.5}), rng())
    if plain not in history:
        assert penalized == plain


def test_equal_logits_go_by_id() -> None:
    logits = np.zeros(VOCAB, dtype=np.float32)
    assert (drawn(logits, top_k=3) > 0).tolist() == [True] * 3 + [False] * (VOCAB - 3)


def test_a_tiny_temperature_is_nearly_greedy() -> None:
    logits = np.array([1.0, 1.001, 0.5], dtype=np.float32)
    assert drawn(logits, temperature=1e-300).tolist() == [0, 200, 0]


def test_impossible_tokens() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert drawn(logits, temperature=5.0).tolist() == [0, 200, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_damaged_logits(bad: float, temperature: float) -> None:
    logits = np.zeros(VOCAB, dtype=np.float32)
    logits[7] = bad
    with pytest.raises(BulletError, match="weights are damaged"):
        sample(logits, [], Sampling(temperature=temperature), rng())
    with pytest.raises(BulletError, match="weights are damaged"):
        sample(np.full(VOCAB, -np.inf, dtype=np.float32), [], Sampling(temperature=temperature), rng())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 1.1),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("max_tokens", 0),
        ("seed", -1),
    ],
)
def test_values_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is"):
        Sampling(**{name: value})


def test_limits_are_written_as_people_write_them() -> None:
    with pytest.raises(ConfigError, match=r"^max_tokens is 0: it must be a whole number from 1 to 1,048,576$"):
        Sampling(max_tokens=0)


def test_the_file_format_knows_the_same_settings() -> None:
    of_a_request = {
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "whole_letters",
    }  # no model has a reason to come with these
    assert set(SAMPLING_LIMITS) | of_a_request == set(Sampling.__dataclass_fields__)


def test_the_frequency_penalty_counts() -> None:
    logits = np.array([2.0, 1.5, 1.0, -1.0], dtype=np.float32)
    greedy, rng = Sampling(temperature=0, repetition_penalty=1, frequency_penalty=0.2), np.random.default_rng(0)
    assert [sample(logits, [0] * count, greedy, rng) for count in range(5)] == [0, 0, 0, 1, 1]
    assert sample(logits, [0, 0, 0, 1], greedy, rng) == 0  # 2 - 0.6 against 1.5 - 0.2
    assert sample(logits, [2] * 3, replace(greedy, frequency_penalty=-0.5), rng) == 2
    assert sample(logits, [0], replace(greedy, presence_penalty=0.4), rng) == 1  # both penalties
    assert sample(logits, [0] * 64 + [3] * 64, greedy, rng) == 0  # only the last 64 tokens count
    with pytest.raises(ConfigError, match="frequency_penalty is"):
        Sampling(frequency_penalty=2.5)


def test_presence_penalty_and_bias() -> None:
    logits = np.array([2.0, 1.9, 1.0, -1.0], dtype=np.float32)
    greedy = Sampling(temperature=0, repetition_penalty=1)
    rng = np.random.default_rng(0)
    assert sample(logits, [0, 0], greedy, rng) == 0
    assert sample(logits, [0, 0], replace(greedy, presence_penalty=0.2), rng) == 1  # once, even if it occurs several times
    assert sample(logits, [0, 0], replace(greedy, presence_penalty=0.05), rng) == 0
    assert sample(logits, [2], replace(greedy, presence_penalty=-1.5), rng) == 2
    assert sample(logits, [], replace(greedy, logit_bias={3: 4.0}), rng) == 3
    assert sample(logits, [], replace(greedy, logit_bias={0: -math.inf, 1: -math.inf}), rng) == 2
    assert logits[3] == -1  # the caller's logits stay as they are
    free = Sampling(temperature=10, top_k=0, top_p=1, min_p=0, logit_bias={1: -math.inf})
    assert {sample(logits, [], free, rng) for _ in range(300)} == {0, 2, 3}
    with pytest.raises(BulletError, match="logit_bias names token 4, but the vocabulary ends at 3"):
        sample(logits, [], Sampling(logit_bias={4: 1.0}), rng)
    for wrong in ({"presence_penalty": 2.5}, {"logit_bias": {-1: 1.0}}, {"logit_bias": {1: math.nan}}, {"logit_bias": {1: math.inf}}):
        with pytest.raises(ConfigError, match=r"(presence_penalty is|logit_bias has)"):
            Sampling(**wrong)
