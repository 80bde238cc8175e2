"""Tests that sessions give the same answers as computing everything from the start, on both engines."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bulletlm.errors import BulletError, ConfigError
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.quant.types import standard_types
from bulletlm.runtime import Model, Sampling, Session, Token, load
from bulletlm.runtime.native import Unavailable, library
from bulletlm.runtime.session import _spellings
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import BOS, END, EOS, FIRST_BYTE, USER, Tokenizer
from tiny_model import random_tensors

GREEDY = Sampling(temperature=0, repetition_penalty=1, max_tokens=12)
HOT = Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0, repetition_penalty=1.2, max_tokens=24, seed=3)


@pytest.fixture(scope="module", params=["numpy", "native"])
def model(request: pytest.FixtureRequest, bullet_path: Path) -> Model:
    if request.param == "native":
        try:
            library()
        except Unavailable as error:
            pytest.skip(str(error))
    return load(bullet_path, engine=request.param)


def ids_of(tokens: Sequence[Token] | Iterator[Token]) -> list[int]:
    return [token.id for token in tokens]


def from_start(model: Model, context: Sequence[int]) -> np.ndarray:
    """Logits after the last of `context`, float32[vocab_size], without any cache."""
    return model.engine.score(np.array([context]))[0, -1]


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "hot"])
def test_the_beginning_of_a_prompt_is_not_read_twice(model: Model, sampling: Sampling) -> None:
    session = Session(model)
    sampling = replace(sampling, max_tokens=6)  # short enough for the context
    first = [BOS, USER, *range(300, 308)]
    answer = ids_of(session.generate(first, sampling, stop_ids=()))
    assert session.reused == 0 and session.prompt_tokens == 10 and session.completion_tokens == 6
    for prompt, reused in (
        ([*first, *answer, END, USER, 310], 15),  # the last token of an answer has not been read
        ([*first, 320], 10),
        (first, 9),  # the last one is read again: its logits are needed
        ([BOS, 299], 1),
        ([EOS, USER], 0),
    ):
        again = ids_of(session.generate(prompt, sampling, stop_ids=()))
        assert session.reused == reused
        assert again == ids_of(Session(model).generate(prompt, sampling, stop_ids=()))


@pytest.mark.parametrize("keep", [0, 1, 5, 16, 30])
def test_a_full_context_is_shortened_and_read_anew(model: Model, keep: int) -> None:
    window = model.shape.max_seq_len
    prompt = [BOS, *range(300, 309)]
    session = Session(model)
    tokens = ids_of(session.generate(prompt, replace(GREEDY, max_tokens=3 * window), stop_ids=(), keep=keep))
    assert session.finish_reason == "length" and len(tokens) == session.completion_tokens == 3 * window
    kept = min(keep, window // 2)
    context, shifts = list(prompt), 0
    while tokens:  # the documented rule, without a cache: what follows a shift is what follows a fresh prompt
        now = tokens[: window - len(context) + 1]
        logits = model.engine.score(np.array([context + now[:-1]]))[0, len(context) - 1 :]
        assert now == logits.argmax(axis=1).tolist()
        context, tokens, shifts = context + now, tokens[len(now) :], shifts + 1
        context = context[:kept] + context[-((window - kept) // 2) :]
    assert shifts > 2


@pytest.mark.parametrize(("engine", "threads"), [("numpy", 1), ("native", 1), ("native", 2)])
def test_reading_in_parts_gives_the_same_bits(tmp_path: Path, tokenizer: Tokenizer, engine: str, threads: int) -> None:
    if engine == "native":
        try:
            library()
        except Unavailable as error:
            pytest.skip(str(error))
    shape = ModelShape(tokenizer.vocab_size, 64, 1, 4, 2, 96, 2048)
    write_bullet(
        tmp_path / "m.bullet",
        ModelContents(
            shape=shape,
            tensors=random_tensors(shape),
            types=standard_types(shape),
            tokenizer_proto=tokenizer.proto,
            pieces=tokenizer.pieces(),
            metadata={},
        ),
    )
    model = load(tmp_path / "m.bullet", engine=engine, threads=threads)
    prompt = np.random.default_rng(0).integers(10, shape.vocab_size, 1600).tolist()
    in_parts, at_once, parts = Session(model), Session(model), 0
    few = replace(HOT, max_tokens=6)
    for length, other in ((1, 0), (97, 50), (193, 10), (513, 100), (257, 90), (1600, 100), (289, 1)):
        mixed = [*prompt[:other], *reversed(prompt[other:length])]  # begins as the one before, so that some of it is reused
        answer = in_parts.generate(mixed, few, logprobs=3, stop_ids=())
        while in_parts.read():
            parts += 1
        assert list(answer) == list(at_once.generate(mixed, few, logprobs=3, stop_ids=()))
        assert vars_of(in_parts) == vars_of(at_once)
        assert not in_parts.read()
    assert parts


def test_a_prompt_longer_than_the_context(model: Model) -> None:
    window = model.shape.max_seq_len
    prompt = [BOS, *(300 + n % 50 for n in range(3 * window))]
    kept = prompt[:4] + prompt[-((window - 4) // 2) :]
    session = Session(model)
    assert next(session.generate(prompt, GREEDY, keep=4)).id == from_start(model, kept).argmax()
    assert session.prompt_tokens == len(prompt)
    with pytest.raises(BulletError, match=f"the prompt has {len(prompt)} tokens, but the model's context is {window}"):
        Session(model, shift=False).generate(prompt, GREEDY)


def test_without_shift_the_context_is_the_limit(model: Model) -> None:
    window = model.shape.max_seq_len
    session = Session(model, shift=False)
    prompt = [BOS, *range(300, 310)]
    tokens = ids_of(session.generate(prompt, replace(GREEDY, max_tokens=3 * window), stop_ids=()))
    assert session.finish_reason == "length"
    assert len(prompt) + len(tokens) == window + 1  # the last one is drawn, and never read
    assert len(ids_of(session.generate(list(range(300, 300 + window)), GREEDY, stop_ids=()))) == 1


def test_stop_tokens(model: Model) -> None:
    session = Session(model)
    free = ids_of(session.generate([BOS, 300], GREEDY, stop_ids=()))
    stop = free[5]
    assert ids_of(session.generate([BOS, 300], GREEDY, stop_ids=(stop,))) == free[: free.index(stop)]
    assert session.finish_reason == "stop" and session.completion_tokens == free.index(stop)


def test_stop_strings(model: Model) -> None:
    session = Session(model)
    letter = replace(HOT, max_tokens=200, logit_bias={FIRST_BYTE + byte: 50.0 for byte in b"ab"})
    free = "".join(token.text for token in Session(model).generate([BOS, 300], letter))
    assert set(free) == set("ab") and len(free) == 200
    for stop in (["abba"], ["bb", "aaa"], ["zzz"], ["a", "b"], ["b" * 9, "a" * 7]):
        tokens = list(session.generate([BOS, 300], letter, stop=stop))
        text = "".join(token.text for token in tokens)
        ends = sorted((free.index(s) + len(s), free.index(s)) for s in stop if s in free)
        assert text == (free[: ends[0][1]] if ends else free)
        assert session.finish_reason == ("stop" if ends else "length")
        assert session.completion_tokens == len(tokens)
        assert len(tokens) >= len(text)


def test_the_text_is_whole_and_the_ids_say_the_same(model: Model) -> None:
    for seed in range(20):
        session = Session(model)
        tokens = list(session.generate([BOS, 300 + seed], replace(HOT, seed=seed)))
        text = "".join(token.text for token in tokens)
        whole = model.tokenizer.decode(ids_of(tokens))
        assert whole.startswith(text) and set(whole[len(text) :]) <= {"\ufffd"}


def test_log_probabilities(model: Model) -> None:
    prompt = [BOS, USER, 300, 301]
    session = Session(model)
    tokens = list(session.generate(prompt, HOT, logprobs=5, stop_ids=()))
    assert ids_of(tokens) == ids_of(Session(model).generate(prompt, HOT, stop_ids=()))
    context = list(prompt)
    for token in tokens:
        if len(context) > model.shape.max_seq_len:
            break
        logits = from_start(model, context).astype(np.float64)
        logs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        assert token.logprob == pytest.approx(logs[token.id], abs=1e-4)
        assert [p for _, p in token.top] == pytest.approx(sorted(logs, reverse=True)[:5], abs=1e-4)
        assert [logs[i] for i, _ in token.top] == pytest.approx([p for _, p in token.top], abs=1e-4)
        context.append(token.id)
    [only] = session.generate(prompt, replace(HOT, max_tokens=1), logprobs=0)
    assert only.top == () and only.logprob == pytest.approx(tokens[0].logprob)
    [none] = session.generate(prompt, replace(HOT, max_tokens=1))
    assert none.logprob is None


def test_closing_cancels_and_the_session_goes_on(model: Model) -> None:
    session = Session(model)
    expected = ids_of(Session(model).generate([BOS, 300], GREEDY, stop_ids=()))
    for count in (0, 1, 2, 7):
        answer = session.generate([BOS, 300], GREEDY, stop_ids=())
        assert [next(answer).id for _ in range(count)] == expected[:count]
        answer.close()
        assert session.finish_reason is None and session.completion_tokens == count
    assert ids_of(session.generate([BOS, 300], GREEDY, stop_ids=())) == expected


def test_an_interrupt_anywhere_leaves_the_session_sound(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is raised between any two instructions: here, on each way in and out of the engine."""
    name = "generate" if hasattr(model.engine, "generate") else "prefill"
    real = getattr(model.engine, name)
    for when in ("before", "after"):
        session = Session(model)
        answer = session.generate([BOS, *range(300, 310)], replace(GREEDY, max_tokens=40), stop_ids=())
        next(answer)

        def interrupted(*arguments: object, when: str = when) -> object:
            if when == "after":
                real(*arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(model.engine, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(answer)
        monkeypatch.undo()
        for prompt in ([BOS, *range(300, 315)], [BOS, 300, 400]):
            assert ids_of(session.generate(prompt, HOT)) == ids_of(Session(model).generate(prompt, HOT))


def test_many_sessions_in_threads(model: Model) -> None:
    prompts = [[BOS, 300 + n, 301 + n] for n in range(8)]
    expected = [ids_of(Session(model).generate(p, replace(HOT, seed=n, max_tokens=60))) for n, p in enumerate(prompts)]
    got: list[list[int]] = [[] for _ in prompts]

    def work(n: int) -> None:
        session = Session(model)
        for _ in range(3):
            got[n] = ids_of(session.generate(prompts[n], replace(HOT, seed=n, max_tokens=60)))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == expected


def test_both_engines_say_the_same(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """With float32 weights, where their logits are so near that no draw falls between them."""
    try:
        library()
    except Unavailable as error:
        pytest.skip(str(error))
    shape = ModelShape(tokenizer.vocab_size, 64, 2, 4, 2, 96, 32)
    types = dict.fromkeys(shape.tensors(), "F32")
    write_bullet(
        tmp_path / "f32.bullet",
        ModelContents(
            shape=shape, tensors=random_tensors(shape), types=types, tokenizer_proto=tokenizer.proto, pieces=tokenizer.pieces(), metadata={}
        ),
    )
    engines = [load(tmp_path / "f32.bullet", engine=name) for name in ("numpy", "native")]
    for sampling in (replace(GREEDY, max_tokens=80), HOT, replace(HOT, seed=9, presence_penalty=0.5, logit_bias={301: 2.0})):
        sessions = [Session(model) for model in engines]
        for prompt in ([BOS, *range(300, 310)], [BOS, *range(300, 306), 350], [BOS, *range(310, 350)]):
            for logprobs in (None, 2):
                answers = [list(session.generate(prompt, sampling, stop=["xyz"], keep=3, logprobs=logprobs)) for session in sessions]
                assert [(t.id, t.text) for t in answers[0]] == [(t.id, t.text) for t in answers[1]]
                assert [t.logprob for t in answers[0] if logprobs] == pytest.approx([t.logprob for t in answers[1] if logprobs], abs=1e-3)
                assert vars_of(sessions[0]) == vars_of(sessions[1])


def vars_of(session: Session) -> tuple[object, ...]:
    return session.finish_reason, session.reused, session.prompt_tokens, session.completion_tokens


@pytest.mark.parametrize(
    ("prompt", "arguments", "message"),
    [
        ([], {}, "prompt is empty"),
        ([BOS, 480], {}, "ids are from 0 to 479"),
        ([-1], {}, "ids are from 0 to 479"),
        ([BOS], {"stop": ["a", ""]}, "stop string is empty"),
        ([BOS], {"logprobs": 481}, "logprobs is 481: it must be from 0 to 480"),
        ([BOS], {"logprobs": -1}, "logprobs is -1"),
    ],
)
def test_mistakes_are_told_at_once(model: Model, prompt: list[int], arguments: dict[str, object], message: str) -> None:
    with pytest.raises((BulletError, ConfigError), match=message):
        Session(model).generate(prompt, GREEDY, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="logit_bias names token 480, but the vocabulary ends at 479"):
        Session(model).generate([BOS], replace(GREEDY, logit_bias={480: 1.0}))


def test_tokens_that_are_ahead_come_without_computing(bullet_path: Path) -> None:
    session = Session(load(bullet_path))
    tokens = session.generate([BOS], Sampling(max_tokens=400, seed=1), stop_ids=())
    ahead, read = 0, 0
    for _ in tokens:
        assert ahead == 0 or session._cache.length == read
        ahead, read = session.ahead, session._cache.length
    assert session.ahead == 0


@pytest.mark.parametrize("logits_in_memory", [1 << 22, 5 * 600, 1])
def test_a_prompt_is_scored_in_parts(model: Model, monkeypatch: pytest.MonkeyPatch, logits_in_memory: int) -> None:
    monkeypatch.setattr("bulletlm.runtime.session.MAX_LOGITS", logits_in_memory)
    prompt = [BOS, *model.tokenizer.encode("एका गावात एक शेतकरी राहत होता. Once")][: model.shape.max_seq_len]
    logits = model.engine.score(np.array([prompt]))[0].astype(float)
    logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    session = Session(model)
    list(session.generate([BOS, 300, 301], replace(GREEDY, max_tokens=2)))  # what a session has read before does not matter
    parts = list(session.score(prompt, 3))
    tokens = [token for part in parts for token in part]
    assert len(parts) == (1 if logits_in_memory > 10_000 else -(-len(prompt) // max(1, logits_in_memory // model.shape.vocab_size)))
    assert ids_of(tokens) == prompt
    assert "".join(token.text for token in tokens) == model.tokenizer.decode(prompt)
    assert tokens[0].logprob is None and tokens[0].top == ()
    for at, token in enumerate(tokens[1:]):
        assert token.logprob == pytest.approx(logs[at, token.id], abs=1e-3)
        assert [value for _, value in token.top] == pytest.approx(sorted(logs[at], reverse=True)[:3], abs=1e-3)
    if len(prompt) < model.shape.max_seq_len:
        assert ids_of(session.generate(prompt, GREEDY)) == ids_of(Session(model).generate(prompt, GREEDY))
        assert session.reused == len(prompt) - 1


@pytest.mark.parametrize("prompt", [[], [-1], [BOS, 10**6], [BOS] * 10**5])
def test_prompts_that_cannot_be_scored(model: Model, prompt: list[int]) -> None:
    with pytest.raises(BulletError, match="tokens with ids from 0 to"):
        Session(model).score(prompt, 0)
    with pytest.raises(ConfigError, match="logprobs is -1"):
        Session(model).score([BOS], -1)
    assert [token.logprob for part in Session(model).score([BOS], 0) for token in part] == [None]


@pytest.mark.parametrize("stop", ["K", "\u212a"], ids=["as written", "the Kelvin sign, which NFC writes as K"])
def test_a_stop_string_is_found_in_any_spelling(model: Model, stop: str) -> None:
    session = Session(model)
    sampling = replace(GREEDY, logit_bias={FIRST_BYTE + ord("K"): 100.0})
    answer = list(session.generate([BOS, USER], sampling, stop=[stop]))
    assert "".join(token.text for token in answer) == "" and session.finish_reason == "stop"


def test_what_an_input_method_types_stops_what_a_model_writes() -> None:
    assert _spellings(["\u095b", "x"]) == ["\u095b", "x", "\u091c\u093c"]
