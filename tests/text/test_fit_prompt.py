"""Tests conversations as programs send them, and conversations that are longer than the model's context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.errors import DataError
from bulletlm.progress import SilentProgress
from bulletlm.text.chat import encode_prompt, fit_prompt
from bulletlm.text.tokenizer import ASSISTANT, BOS, END, USER, Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer

ROOMY = 100_000


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = "वेळ म्हणजे काय? वेळ म्हणजे बदल मोजण्याची रीत. The quick brown fox jumps over the lazy dog and runs home. " * 3
    return Tokenizer(train_tokenizer([text], 400, 1, SilentProgress()))


def talk(*turns: str | None) -> list[dict[str, str | None]]:
    """Messages from "u:text", "a:text", "s:text", or "a" for an answer whose content is null."""
    roles = {"u": "user", "a": "assistant", "s": "system", "d": "developer", "t": "tool"}
    return [{"role": roles[turn[0]], "content": turn[2:] if turn[1:] else None} for turn in turns if turn]


def turns_of(tokenizer: Tokenizer, ids: list[int]) -> str:
    """A prompt with its marks as letters: <U>text<E><A>."""
    marks = {BOS: "", USER: "<U>", ASSISTANT: "<A>", END: "<E>"}
    return "".join(marks[id] if id in marks else tokenizer.decode([id]) for id in ids)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (talk("u:one", "a:", "u:two"), "<U>one\ntwo<E><A>"),
        (talk("u:one", "a", "u:two"), "<U>one\ntwo<E><A>"),
        (talk("u:one", "a"), "<U>one<E><A>"),
        (talk("s:", "u:one"), "<U>one<E><A>"),
        (talk("d:rules", "u:one"), "<U>rules\n\none<E><A>"),
        (talk("u:one", "a:the"), "<U>one<E><A>the"),
        (talk("u:one", "a:two", "a:the"), "<U>one<E><A>two\nthe"),
        (talk("a:hi", "u:one"), "<A>hi<E><U>one<E><A>"),
        (talk("s:rules", "a:hi", "u:one"), "<A>hi<E><U>rules\n\none<E><A>"),
        (talk("s:rules"), "<U>rules<E><A>"),
        (talk("s:rules", "a:the"), "<U>rules<E><A>the"),
        (talk("a:the"), "<A>the"),
        (talk("u:", "u:one"), "<U>one<E><A>"),
    ],
)
def test_histories_as_programs_send_them(tokenizer: Tokenizer, messages: list[dict[str, str | None]], expected: str) -> None:
    fitted = fit_prompt(tokenizer, messages, ROOMY)
    assert turns_of(tokenizer, fitted.ids) == expected
    assert fitted.ids[0] == BOS and fitted.omitted == 0


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "no text"),
        (talk("s:", "a:"), "no text"),
        (talk("u:one", "a:two", "u:  "), "message 3 is empty"),
        (talk("u:one", "t:two"), "message 2 has the role 'tool'"),
    ],
)
def test_conversations_without_a_question(tokenizer: Tokenizer, messages: list[dict[str, str | None]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_prompt(tokenizer, messages, ROOMY)


@pytest.mark.parametrize("system", ["", "s:rules"])
def test_the_oldest_turns_are_left_out(tokenizer: Tokenizer, system: str) -> None:
    turns = [turn for number in range(40) for turn in (f"u:question {number}", f"a:answer {number}")][:-1]
    whole = talk(system, *turns)
    full = len(fit_prompt(tokenizer, whole, ROOMY).ids)
    for room in (full, full - 1, full // 2, 40, 1):
        fitted = fit_prompt(tokenizer, whole, room)
        kept = talk(system, *turns[fitted.omitted :])
        assert fitted.ids == encode_prompt(tokenizer, kept), "what is left is a conversation that begins with the user"
        assert len(fitted.ids) <= room or fitted.omitted == len(turns) - 1, "only the last question may be longer than the room"
        if fitted.omitted:
            more = talk(system, *turns[fitted.omitted - 2 :])
            assert len(encode_prompt(tokenizer, more)) > room, "no more is left out than necessary"


def test_messages_of_one_role_in_a_row_are_left_out_together(tokenizer: Tokenizer) -> None:
    fitted = fit_prompt(tokenizer, talk("u:one", "u:two", "a:three", "u:four"), 8)
    assert (turns_of(tokenizer, fitted.ids), fitted.omitted) == ("<U>four<E><A>", 3)


def test_a_started_answer_stays_with_its_question(tokenizer: Tokenizer) -> None:
    fitted = fit_prompt(tokenizer, talk("a:hi", "u:one", "a:two", "u:three", "a:the"), 1)
    assert (turns_of(tokenizer, fitted.ids), fitted.omitted) == ("<U>three<E><A>the", 3)


MESSAGES = st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text("ab मै\n", max_size=30)), max_size=8)


@given(messages=MESSAGES, room=st.integers(1, 60))
def test_ordinary_conversations_are_encoded_as_usual(tokenizer: Tokenizer, messages: list[tuple[str, str]], room: int) -> None:
    given_messages = [{"role": role, "content": content} for role, content in messages]
    try:
        usual = encode_prompt(tokenizer, given_messages)
    except DataError:
        return
    assert fit_prompt(tokenizer, given_messages, ROOMY) == (usual, 0)
    fitted = fit_prompt(tokenizer, given_messages, room)
    assert (fitted.ids == usual) == (fitted.omitted == 0)
    assert fitted.ids[-1] == ASSISTANT and len(fitted.ids) <= len(usual)
