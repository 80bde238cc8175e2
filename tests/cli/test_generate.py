"""Tests `bullet generate`: text is generated token by token."""

import numpy as np
import pytest

from bulletlm.errors import BulletError
from bulletlm.runtime import Model, Sampling, generate
from bulletlm.text.tokenizer import BOS

GREEDY = Sampling(temperature=0, repetition_penalty=1, max_tokens=12)


def prompt(model: Model) -> list[int]:
    return [BOS, *model.tokenizer.encode("एका गावात एक")]


def test_greedy_generation_is_the_likeliest_path(model: Model) -> None:
    ids = prompt(model)
    for token in generate(model, ids, GREEDY, []):
        assert token == model.engine.score(np.array([ids]))[0, -1].argmax()
        ids = [*ids, token]
    assert len(ids) == len(prompt(model)) + 12


def test_the_seed_decides(model: Model) -> None:
    def text(seed: int) -> list[int]:
        return list(generate(model, prompt(model), Sampling(temperature=1.5, top_k=0, seed=seed, max_tokens=20), []))

    assert text(1) == text(1)
    assert len({tuple(text(seed)) for seed in range(5)}) == 5


def test_stop_tokens_end_it_and_are_not_given_out(model: Model) -> None:
    free = list(generate(model, prompt(model), GREEDY, []))
    stop = free[5]
    assert list(generate(model, prompt(model), GREEDY, {stop})) == free[: free.index(stop)]


def test_stop_tokens_are_not_penalized(model: Model) -> None:
    """In a chat with many finished turns, the model still ends the next turn."""
    rng = np.random.default_rng(0)
    while True:  # until the likeliest token is one that the prompt has already
        ids = rng.integers(0, model.shape.vocab_size, 24)
        best = int(model.engine.score(ids[None])[0, -1].argmax())
        if best in ids:
            break
    strong = Sampling(temperature=0, repetition_penalty=10, max_tokens=1)
    assert list(generate(model, ids.tolist(), strong, [])) != [best]
    assert list(generate(model, ids.tolist(), strong, [best])) == []


def test_an_empty_prompt(model: Model) -> None:
    with pytest.raises(BulletError, match="prompt is empty"):
        next(generate(model, [], GREEDY, []))


def test_generation_goes_on_when_the_context_is_full(model: Model) -> None:
    window = model.shape.max_seq_len
    sampling = Sampling(temperature=0, repetition_penalty=1, max_tokens=3 * window)
    ids = prompt(model)
    given_out = list(generate(model, ids, sampling, []))
    assert len(given_out) == 3 * window
    beginning = min(len(ids), window // 4)
    context, left = list(ids), given_out
    while left:  # the documented rule, without a cache
        now = left[: window - len(context) + 1]
        assert now == model.engine.score(np.array([context + now[:-1]]))[0, len(context) - 1 :].argmax(axis=1).tolist()
        context, left = context + now, left[len(now) :]
        context = context[:beginning] + context[-((window - beginning) // 2) :]


def test_a_prompt_longer_than_the_context(model: Model) -> None:
    window = model.shape.max_seq_len
    ids = ([BOS, *model.tokenizer.encode("नदीला पूर आला की मुले शाळेत जाऊ शकत नसत ")] * 9)[: 3 * window]
    kept = ids[: window // 4] + ids[-((window - window // 4) // 2) :]
    assert next(generate(model, ids, GREEDY, [])) == model.engine.score(np.array([kept]))[0, -1].argmax()
