"""Tests conversations as clients send them, and conversations that are longer than the context."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from running_server import Server, running

from bulletlm.runtime import Model
from bulletlm.text.chat import fit_prompt

Messages = list[dict[str, Any]]
QUESTION = {"role": "user", "content": "मैत्री म्हणजे काय?"}
LONG = [{"role": ("user", "assistant")[number % 2], "content": f"number {number} " + "word " * 20} for number in range(41)]


@pytest.fixture(scope="module")
def refusing(bullet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(bullet_file, tmp_path_factory.mktemp("log") / "refusing.log", "--overflow=error") as server:
        yield server


@pytest.mark.parametrize(
    ("messages", "as_if"),
    [
        ([QUESTION, {"role": "assistant", "content": ""}, QUESTION], [QUESTION, QUESTION]),
        ([QUESTION, {"role": "assistant", "content": None}, QUESTION], [QUESTION, QUESTION]),
        ([QUESTION, {"role": "assistant"}, QUESTION], [QUESTION, QUESTION]),
        ([QUESTION, {"role": "assistant", "content": [], "tool_calls": []}], [QUESTION]),
        ([{"role": "system", "content": ""}, QUESTION], [QUESTION]),
        ([{"role": "assistant", "content": "नमस्कार"}, QUESTION], [{"role": "assistant", "content": "नमस्कार"}, QUESTION]),
        ([QUESTION, {"role": "assistant", "content": "मैत्री"}], [QUESTION, {"role": "assistant", "content": "मैत्री"}]),
        ([{"role": "system", "content": "Say hello."}], [{"role": "user", "content": "Say hello."}]),
        ([{**QUESTION, "id": "1", "timestamp": 5, "cache_control": {"type": "ephemeral"}}], [QUESTION]),
        ([{"role": "user", "content": [{"type": "text", "text": QUESTION["content"], "cache_control": None}]}], [QUESTION]),
        ([{"role": "user", "content": [{"type": "input_text", "text": QUESTION["content"]}]}], [QUESTION]),
        (
            [QUESTION, {"role": "assistant", "content": "हो", "reasoning_content": "x"}, QUESTION],
            [QUESTION, {"role": "assistant", "content": "हो"}, QUESTION],
        ),
    ],
)
def test_messages_as_clients_send_them(client: OpenAI, model: Model, messages: Messages, as_if: Messages) -> None:
    answer = client.chat.completions.create(model="any", messages=messages, max_tokens=8, seed=1)  # type: ignore[arg-type]
    expected = client.completions.create(model="any", prompt=fit_prompt(model.tokenizer, as_if, 512).ids, max_tokens=8, seed=1)
    assert answer.choices[0].message.content == expected.choices[0].text
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
    assert answer.usage.prompt_tokens_details.omitted_messages == 0


def test_a_started_answer_is_continued_without_repeating_it(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="any", messages=[QUESTION], max_tokens=20, temperature=0).choices[0].message.content  # type: ignore[list-item]
    half = whole[: whole.index(" ", len(whole) // 2)]
    messages = [QUESTION, {"role": "assistant", "content": half}]
    rest = client.chat.completions.create(model="any", messages=messages, max_tokens=20, temperature=0).choices[0].message.content  # type: ignore[arg-type]
    assert not rest.startswith(half[:5])


@pytest.mark.parametrize(
    ("messages", "param", "message"),
    [
        ([QUESTION, {"role": "tool", "content": "5", "tool_call_id": "1"}], "messages[1].role", "cannot call tools"),
        ([QUESTION, {"role": "function", "content": "5", "name": "f"}], "messages[1].role", "cannot call tools"),
        ([QUESTION, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}], "messages[1].tool_calls", "cannot call tools"),
        (
            [QUESTION, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "messages[1].content[0].type",
            "text only",
        ),
        ([QUESTION, {"role": "assistant", "content": "a"}, {"role": "user", "content": ""}], "messages", "message 3 is empty"),
        ([{"role": "assistant", "content": None}], "messages", "no text"),
        ([{"content": "a"}], "messages[0].role", "Missing required parameter"),
        ([{"role": "user", "content": 5}], "messages[0].content", "valid string"),
    ],
)
def test_messages_that_cannot_be_answered(client: OpenAI, messages: Messages, param: str, message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="any", messages=messages)  # type: ignore[arg-type]
    assert caught.value.body["param"] == param
    assert message in caught.value.body["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_oldest_messages_are_left_out_and_counted(client: OpenAI, model: Model, stream: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
    system = {"role": "system", "content": "Remember this."}
    answer = client.chat.completions.create(model="any", messages=[system, *LONG], max_tokens=10, seed=1, stream=stream, **options)  # type: ignore[call-overload]
    usage = list(answer)[-1].usage if stream else answer.usage
    omitted = usage.prompt_tokens_details.omitted_messages
    assert 0 < omitted < len(LONG) and omitted % 2 == 0
    assert usage.prompt_tokens == len(fit_prompt(model.tokenizer, [system, *LONG[omitted:]], 512).ids) <= 507


def test_a_question_that_is_too_long_alone_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512"):
        client.chat.completions.create(
            model="any", messages=[*LONG, {"role": "assistant", "content": "a"}, {"role": "user", "content": "a " * 600}]
        )  # type: ignore[list-item]


def test_overflow_may_be_an_error(refusing: Server) -> None:
    with refusing.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="any", messages=LONG)  # type: ignore[arg-type]
        assert caught.value.code == "context_length_exceeded"
        assert client.chat.completions.create(model="any", messages=LONG[-3:], max_tokens=500).usage.prompt_tokens > 0  # type: ignore[arg-type]
