"""Tests /v1/responses with OpenAI's own client."""

from typing import Any

import openai
import pytest
from openai import OpenAI
from running_server import Server

from bulletlm.serve.errors import ApiError
from bulletlm.serve.openai.responses import ResponseStore, StoredResponse

QUESTION = "मैत्री म्हणजे काय?"
NAME = "seed-like"


def stored(item_id: str, text: str, body: bytes = b"{}", messages: int = 0) -> StoredResponse:
    empty = [{"role": "user", "content": ""}] * messages
    return StoredResponse(body, item_id, [*empty, {"role": "assistant", "content": text}])


def chat(client: OpenAI, messages: list[dict[str, str]], **options: Any) -> str:
    answer = client.chat.completions.create(model="any", messages=messages, temperature=0, **options)  # type: ignore[arg-type]
    return str(answer.choices[0].message.content)


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ({"input": QUESTION}, [("user", QUESTION)]),
        ({"input": QUESTION, "instructions": "Be brief."}, [("system", "Be brief."), ("user", QUESTION)]),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}]}, [("user", QUESTION)]),
        (
            {
                "input": [
                    {"role": "developer", "content": "Be brief."},
                    {"type": "message", "role": "user", "content": "a"},
                    {"type": "reasoning", "id": "rs_1", "summary": []},
                    {
                        "type": "message",
                        "role": "assistant",
                        "content": [{"type": "output_text", "text": "b", "annotations": []}],
                        "id": "x",
                    },
                    {"role": "user", "content": QUESTION},
                ]
            },
            [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", QUESTION)],
        ),
    ],
)
def test_the_answer_is_that_of_a_chat(client: OpenAI, options: dict[str, Any], messages: list[tuple[str, str]]) -> None:
    answer = client.responses.create(model="any", temperature=0, max_output_tokens=12, **options)
    assert answer.output_text == chat(client, [{"role": role, "content": text} for role, text in messages], max_tokens=12)
    assert (answer.object, answer.model, answer.output[0].role) == ("response", NAME, "assistant")
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.output_tokens == 12
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_a_stream_has_all_events_in_order(client: OpenAI) -> None:
    plain = client.responses.create(model="any", input=QUESTION, temperature=0, max_output_tokens=30)
    events = list(client.responses.create(model="any", input=QUESTION, temperature=0, max_output_tokens=30, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    before = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    after = ["response.output_text.done", "response.content_part.done", "response.output_item.done", f"response.{plain.status}"]
    assert kinds == [*before, *["response.output_text.delta"] * len(deltas), *after]
    assert "".join(deltas) == events[-1].response.output_text == plain.output_text == events[-4].text
    assert events[-1].response.usage == plain.usage.model_copy(
        update={"input_tokens_details": events[-1].response.usage.input_tokens_details}
    )
    with client.responses.stream(model="any", input=QUESTION, temperature=0, max_output_tokens=30) as stream:
        assert stream.get_final_response().output_text == plain.output_text


def test_an_answer_without_a_limit_always_completes(client: OpenAI) -> None:
    """The model file limits it. Clients that set no limit expect the event for complete answers only."""
    for number in range(4):
        with client.responses.stream(model="any", input=f"hello {number}") as stream:
            answer = stream.get_final_response()
        assert answer.output_text and answer.status == ("incomplete" if answer.usage.output_tokens == 24 else "completed")
    kinds = [event.type for event in client.responses.create(model="any", input="hello", max_output_tokens=2, stream=True)]
    assert kinds[-1] == "response.incomplete"


def test_a_finished_answer_is_completed(client: OpenAI, server: Server) -> None:
    for stop in range(20):
        answer = client.responses.create(model="any", input=f"hello {stop}", max_output_tokens=400, temperature=1.8)
        if answer.status == "completed":
            break
    assert answer.incomplete_details is None and answer.status == "completed"


def test_logprobs(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": "any", "input": QUESTION, "temperature": 0, "max_output_tokens": 5}
    expected = client.chat.completions.create(
        model="any", messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=5, logprobs=True, top_logprobs=2
    )
    values = [entry.logprob for entry in expected.choices[0].logprobs.content]
    answer = client.responses.create(**options, top_logprobs=2, include=["message.output_text.logprobs"])
    assert [entry.logprob for entry in answer.output[0].content[0].logprobs] == values
    assert all(len(entry.top_logprobs) == 2 for entry in answer.output[0].content[0].logprobs)
    assert client.responses.create(**options).output[0].content[0].logprobs == []


def test_a_conversation_by_the_id_of_its_last_answer(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": "any", "temperature": 0, "max_output_tokens": 10}
    first = client.responses.create(**options, input="one", instructions="Only for the first answer.")
    second = client.responses.create(**options, input="two", previous_response_id=first.id)
    third = client.responses.create(**options, input="three", previous_response_id=second.id)
    messages = [("user", "one"), ("assistant", first.output_text), ("user", "two"), ("assistant", second.output_text), ("user", "three")]
    assert third.output_text == chat(client, [{"role": role, "content": text} for role, text in messages], max_tokens=10)
    forgotten = client.responses.create(**options, input="one", store=False)
    with pytest.raises(openai.NotFoundError, match="recent answers only"):
        client.responses.create(**options, input="two", previous_response_id=forgotten.id)


def test_a_reference_to_an_answer(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": "any", "temperature": 0, "max_output_tokens": 10}
    first = client.responses.create(**options, input="one")
    reference = {"type": "item_reference", "id": first.output[0].id}
    question = {"role": "user", "content": "two"}
    second = client.responses.create(**options, input=[{"role": "user", "content": "one"}, reference, question])
    full = client.responses.create(**options, input=[{"role": "user", "content": "one"}, *first.output, question])
    assert second.output_text == full.output_text
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(**options, input=[{"type": "item_reference", "id": "msg_1"}, question])
    assert caught.value.body["param"] == "input[0].id"


def test_too_long_conversations(client: OpenAI) -> None:
    items: Any = [{"role": ("user", "assistant")[number % 2], "content": "word " * 20} for number in range(41)]
    assert client.responses.create(model="any", input=items, max_output_tokens=5).usage.input_tokens_details.omitted_messages > 0
    assert client.responses.create(model="any", input=items, max_output_tokens=5, truncation="auto").usage.input_tokens < 512
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="any", input=items, truncation="disabled")
    assert (caught.value.code, caught.value.body["param"]) == ("context_length_exceeded", "input")


TOOL = {"type": "function", "name": "f", "parameters": {}}


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"tools": [TOOL]}, "tools", 'tool_choice to "none"'),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice", "only 'none' and 'auto'"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}}, "text.format.type", "not JSON"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "5"}]}, "input[0].type", "messages"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0].type", "text only"),
        ({"input": [{"content": "a"}]}, "input[0].role", "Missing"),
        ({"input": []}, "input", "at least 1"),
        ({"background": True}, "background", "background"),
        ({"conversation": "conv_1"}, "conversation", "stores no conversations"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "stores no prompts"),
        ({"extra_body": {"nobody_knows": 1}}, "nobody_knows", "Unrecognized"),
    ],
)
def test_what_is_unsupported_is_refused_by_name(client: OpenAI, options: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "any", "input": "hello", **options})
    assert caught.value.body["param"] == param
    assert message in caught.value.body["message"]


def test_neutral_values(client: OpenAI) -> None:
    client.responses.create(
        model="any",
        input="hello",
        max_output_tokens=1,
        tools=[TOOL],
        tool_choice="none",
        store=False,
        metadata={"a": "b"},
        user="me",
        reasoning={"effort": "low"},
        text={"format": {"type": "text"}, "verbosity": "low"},
        include=["reasoning.encrypted_content"],
        parallel_tool_calls=True,
        background=False,
        service_tier="auto",
        max_tool_calls=3,
    )


def test_the_store_keeps_the_latest_answers() -> None:
    store = ResponseStore(max_answers=3)
    for number in range(5):
        store.remember(f"r{number}", stored(f"i{number}", f"{number}"))
    assert store.item("i4", "")["content"] == "4"
    for lost in ("0", "1"):
        with pytest.raises(ApiError):
            store.item(f"i{lost}", "")
        with pytest.raises(ApiError):
            store.response(f"r{lost}")


@pytest.mark.parametrize(
    "large",
    [
        stored("large", "x" * 60_000),
        stored("large", "म" * 20_000),
        stored("large", "x", body=b"x" * 60_000),
        stored("large", "x", messages=120),
    ],
    ids=["text", "Marathi", "body", "messages"],
)
def test_the_memory_of_the_store_is_bounded(large: StoredResponse) -> None:
    store = ResponseStore(max_bytes=100_000)
    store.remember("small", stored("small", "x"))
    store.remember("first", large)
    assert store.response("small") and store.response("first")
    store.remember("second", large._replace(item_id="second"))
    for lost in ("small", "first"):
        with pytest.raises(ApiError):
            store.response(lost)
    assert store.response("second")
    store.forget("second")
    store.remember("again", large)
    assert store.response("again"), "an answer that is forgotten frees its memory"
    store.remember("too large", stored("too large", "x" * 100_000))
    for lost in ("again", "too large"):
        with pytest.raises(ApiError):
            store.response(lost)


def test_end_tokens_do_not_show(client: OpenAI) -> None:
    text = client.responses.create(model="any", input="hello", max_output_tokens=50, temperature=1.5).output_text
    assert "<|end|>" not in text and "</s>" not in text


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_can_be_fetched_again_and_deleted(client: OpenAI, stream: bool) -> None:
    made = client.responses.create(model="any", input=QUESTION, temperature=0, max_output_tokens=5, stream=stream)
    answer = list(made)[-1].response if stream else made
    again = client.responses.retrieve(answer.id)
    assert again.to_dict() == answer.to_dict()
    client.responses.delete(answer.id)
    for call in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError, match="the server remembers recent answers only"):
            call(answer.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="any", input="a", previous_response_id=answer.id)
    unkept = client.responses.create(model="any", input=QUESTION, max_output_tokens=2, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


def test_a_continued_answer_is_one_message_of_the_next_turn(client: OpenAI) -> None:
    """The start that the client wrote and the rest that the model wrote: a line break between them would be neither's."""
    options: dict[str, Any] = {"model": "any", "temperature": 0, "max_output_tokens": 8}
    start: Any = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "एका गावात"}]
    first = client.responses.create(**options, input=start)
    second = client.responses.create(**options, input="two", previous_response_id=first.id)
    whole = {"role": "assistant", "content": "एका गावात" + first.output_text}
    assert second.output_text == chat(client, [start[0], whole, {"role": "user", "content": "two"}], max_tokens=8)
    reference: Any = [{"type": "item_reference", "id": first.output[0].id}, {"role": "user", "content": "two"}]
    same: Any = [{"role": "assistant", "content": first.output_text}, {"role": "user", "content": "two"}]
    assert client.responses.create(**options, input=reference).output_text == client.responses.create(**options, input=same).output_text
