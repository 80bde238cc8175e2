"""Tests the server with OpenAI's own client."""

import itertools
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import openai
import pytest
from openai import OpenAI

from bulletlm.runtime import Model, Session
from bulletlm.text.chat import encode_prompt
from bulletlm.text.normalize import normalize
from bulletlm.text.tokenizer import BOS, END, EOS

NAME = "seed-like"
QUESTIONS = ["मैत्री म्हणजे काय?", "शेतकऱ्याने काय पेरले?", "Who lived in the old house?", "त्र्यंबकच्या दुकानात काय मिळते?"]
FOREVER = {str(END): -100.0, str(EOS): -100.0}


def ask(client: OpenAI, question: str, **options: object) -> object:
    return client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": question}], **options)  # type: ignore[call-overload]


def directly(model: Model, prompt: list[int], **changes: object) -> str:
    """The same answer, generated without a server."""
    sampling = replace(model.sampling, **changes)  # type: ignore[arg-type]
    return "".join(token.text for token in Session(model, shift=False).generate(prompt, sampling))


def test_models(client: OpenAI) -> None:
    (card,) = client.models.list().data
    assert (card.id, card.object, card.owned_by) == (NAME, "model", "bulletlm")
    assert client.models.retrieve(NAME) == card
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("gpt-4")


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_chat_answer_is_what_the_model_generates(client: OpenAI, model: Model, question: str) -> None:
    answer = ask(client, question, seed=7, temperature=1.2, max_tokens=40)
    prompt = encode_prompt(model.tokenizer, [{"role": "user", "content": question}])
    assert answer.choices[0].message.content == directly(model, prompt, seed=7, temperature=1.2, max_tokens=40)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.total_tokens == len(prompt) + answer.usage.completion_tokens
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_stream_is_the_same_text_in_whole_letters(client: OpenAI, question: str) -> None:
    options = {"seed": 3, "max_tokens": 200, "logit_bias": FOREVER}
    plain = ask(client, question, **options)
    chunks = list(ask(client, question, stream=True, stream_options={"include_usage": True}, **options))
    assert chunks[0].choices[0].delta.role == "assistant"
    parts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(parts) == plain.choices[0].message.content
    for before, part in itertools.pairwise(parts):
        assert not unicodedata.category(part[0]).startswith("M"), part
        assert not (unicodedata.combining(before[-1]) == 9 and part[0].isalpha()), (before, part)
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == plain.choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens == 200
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_a_stream_has_no_usage_unless_requested(client: OpenAI) -> None:
    assert all(chunk.usage is None and chunk.choices for chunk in ask(client, "hello", stream=True, max_tokens=3))


def test_seeds(client: OpenAI) -> None:
    texts = [ask(client, "hello", seed=seed, temperature=1.5).choices[0].message.content for seed in (1, 1, 2, -1, -1)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[3] == texts[4]
    unseeded = {ask(client, "hello", temperature=1.5).choices[0].message.content for _ in range(3)}
    assert len(unseeded) > 1


def test_stop_strings_end_the_text_and_are_not_part_of_it(client: OpenAI) -> None:
    options = {"seed": 5, "max_tokens": 100, "logit_bias": FOREVER}
    whole = ask(client, "hello", **options).choices[0].message.content
    stop = whole[20:23]
    answer = ask(client, "hello", stop=["never seen in it", stop], **options)
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    streamed = ask(client, "hello", stop=stop, stream=True, **options)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == whole[: whole.index(stop)]


def test_chat_logprobs_are_those_of_the_model(client: OpenAI, model: Model) -> None:
    answer = ask(client, QUESTIONS[0], seed=1, max_tokens=12, logprobs=True, top_logprobs=3, logit_bias=FOREVER)
    content = answer.choices[0].logprobs.content
    assert len(content) == 12
    assert b"".join(bytes(entry.bytes) for entry in content).decode(errors="ignore").startswith(answer.choices[0].message.content[:5])
    logits = model.engine.forward(encode_prompt(model.tokenizer, [{"role": "user", "content": QUESTIONS[0]}]), model.engine.new_cache())[-1]
    expected = logits.astype(float) - np.logaddexp.reduce(logits.astype(float))
    first = content[0]
    likeliest = np.argsort(-expected)[:3]
    assert [entry.logprob for entry in first.top_logprobs] == pytest.approx(expected[likeliest], abs=0.01)
    assert [bytes(entry.bytes) for entry in first.top_logprobs] == [model.tokenizer.decode_bytes([int(id)]) for id in likeliest]
    assert ask(client, "hello", max_tokens=2).choices[0].logprobs is None
    streamed = ask(client, QUESTIONS[0], seed=1, max_tokens=12, logprobs=True, stream=True, logit_bias=FOREVER)
    entries = [entry for chunk in streamed if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert [entry.logprob for entry in entries] == [entry.logprob for entry in content]
    assert all(entry.top_logprobs == [] for entry in entries)


def test_completion_logprobs(client: OpenAI) -> None:
    (choice,) = client.completions.create(model=NAME, prompt="एका गावात", max_tokens=30, seed=1, logprobs=2, logit_bias=FOREVER).choices
    kept = choice.logprobs
    assert len(kept.tokens) == len(kept.token_logprobs) == len(kept.top_logprobs) == len(kept.text_offset) == 30
    for text, value, likeliest, at in zip(kept.tokens, kept.token_logprobs, kept.top_logprobs, kept.text_offset, strict=True):
        assert likeliest[text] == value
        assert 2 <= len(likeliest) <= 3
        assert text.startswith("bytes:") or choice.text.startswith(text, at) or at + len(text) > len(choice.text)
    assert client.completions.create(model=NAME, prompt="a", max_tokens=3, logprobs=0).choices[0].logprobs.top_logprobs is None


def test_completions_continue_text_and_tokens(client: OpenAI, model: Model) -> None:
    text = "एका गावात एक शेतकरी"
    prompt = [BOS, *model.tokenizer.encode(text)]
    expected = directly(model, prompt, seed=2, max_tokens=20)
    options = {"model": NAME, "seed": 2, "max_tokens": 20}
    assert client.completions.create(prompt=text, **options).choices[0].text == expected
    assert client.completions.create(prompt=prompt, **options).choices[0].text == expected
    assert client.completions.create(prompt=text, echo=True, **options).choices[0].text == text + expected
    streamed = client.completions.create(prompt=text, echo=True, stream=True, **options)
    assert "".join(chunk.choices[0].text for chunk in streamed) == text + expected


def test_several_prompts_and_choices(client: OpenAI) -> None:
    options = {"model": NAME, "seed": 4, "max_tokens": 10, "logit_bias": FOREVER}
    alone = [client.completions.create(prompt=text, **options).choices[0].text for text in ("one", "दोन")]
    both = client.completions.create(prompt=["one", "दोन"], n=2, **options)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert [both.choices[0].text, both.choices[2].text] == alone
    assert both.choices[0].text != both.choices[1].text
    assert both.usage.completion_tokens == 40
    texts = ["", "", "", ""]
    for chunk in client.completions.create(prompt=["one", "दोन"], n=2, **options, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in both.choices]


def test_logit_bias_presence_penalty_and_top_p(client: OpenAI, model: Model) -> None:
    token = model.tokenizer.encode(" a")[0]
    forced = ask(client, "hello", logit_bias={str(token): 100}, max_tokens=4, temperature=0)
    assert forced.choices[0].message.content == model.tokenizer.decode([token] * 4)
    greedy = ask(client, "hello", temperature=0, max_tokens=20).choices[0].message.content
    assert ask(client, "hello", top_p=0, max_tokens=20).choices[0].message.content == greedy
    assert ask(client, "hello", temperature=0, presence_penalty=2, max_tokens=60).choices[0].message.content != greedy
    penalized = ask(client, "hello", temperature=0, frequency_penalty=1.5, max_tokens=100).choices[0].message.content
    prompt = encode_prompt(model.tokenizer, [{"role": "user", "content": "hello"}])
    assert penalized == directly(model, prompt, temperature=0, frequency_penalty=1.5, max_tokens=100)
    assert penalized != directly(model, prompt, temperature=0, max_tokens=100)


def test_the_settings_of_the_file_are_the_defaults(client: OpenAI) -> None:
    answer = ask(client, "hello", logit_bias=FOREVER)
    assert answer.usage.completion_tokens == 24
    assert answer.choices[0].finish_reason == "length"


def test_the_context_ends_an_answer(client: OpenAI) -> None:
    answer = ask(client, "hello", logit_bias=FOREVER, max_tokens=100_000)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens in (512, 513)


def test_the_next_turn_reads_only_new_tokens(client: OpenAI, model: Model) -> None:
    messages = [{"role": "system", "content": "थोडक्यात उत्तर दे."}, {"role": "user", "content": QUESTIONS[0] * 5}]
    first = client.chat.completions.create(model=NAME, messages=messages, seed=9, max_tokens=30)
    messages += [first.choices[0].message.model_dump(), {"role": "user", "content": QUESTIONS[1]}]
    second = client.chat.completions.create(model=NAME, messages=messages, seed=10, max_tokens=30)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens - 1
    assert second.choices[0].message.content == directly(model, encode_prompt(model.tokenizer, messages), seed=10, max_tokens=30)


def test_simultaneous_clients_get_their_own_answers(client: OpenAI) -> None:
    def one(number: int) -> str:
        return ask(client, QUESTIONS[number % 4], seed=number, max_tokens=60).choices[0].message.content

    with ThreadPoolExecutor(24) as clients:
        at_once = list(clients.map(one, range(24)))
    assert at_once == [one(number) for number in range(24)]


def test_message_parts_and_developer_messages(client: OpenAI) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    as_parts = client.chat.completions.create(
        model=NAME, messages=[{"role": "developer", "content": "x"}, {"role": "user", "content": parts}], seed=1
    )
    plain = client.chat.completions.create(
        model=NAME, messages=[{"role": "system", "content": "x"}, {"role": "user", "content": "one\ntwo"}], seed=1
    )
    assert as_parts.choices[0].message.content == plain.choices[0].message.content


def test_text_is_normalized_as_in_training(client: OpenAI) -> None:
    assert normalize("दुसर्‍या") != "दुसर्‍या"
    assert ask(client, "दुसर्‍या", seed=1).usage.prompt_tokens == ask(client, normalize("दुसर्‍या"), seed=1).usage.prompt_tokens


def test_neutral_fields_are_ignored(client: OpenAI) -> None:
    ask(client, "hello", user="me", store=False, metadata={"a": "b"}, service_tier="auto", parallel_tool_calls=True, frequency_penalty=0)
    ask(client, "hello", tools=[], tool_choice="auto", response_format={"type": "text"}, reasoning_effort="low")


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "1"}, "temperature", "valid number"),
        ({"max_tokens": 0}, "max_tokens", "1 or more"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "give one of them"),
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "for streams only"),
        ({"n": 17}, "n", "less than or equal to 16"),
        ({"tools": [{"type": "function"}]}, "tools", "cannot call tools"),
        ({"response_format": {"type": "json_object"}}, "response_format.type", "only plain text"),
        ({"logit_bias": {"700": 1}}, "logit_bias", "from 0 to 699"),
        ({"logit_bias": {"cat": 1}}, "logit_bias.cat", "pattern"),
        ({"extra_body": {"temprature": 1}}, "temprature", "Unrecognized request argument"),
        ({"messages": []}, "messages", "at least 1 is needed"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "cannot call tools"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role", "system, developer, user or assistant"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages", "empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content[0].type", "text only"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, "messages", "maximum context length is 512"),
        ({"stop": [""]}, "stop[0]", "at least 1 character"),
    ],
)
def test_an_error_names_the_field(client: OpenAI, options: dict[str, object], param: str, message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": NAME, "messages": [{"role": "user", "content": "hello"}], **options})  # type: ignore[call-overload]
    assert caught.value.body["param"] == param
    assert message in caught.value.body["message"]
    assert caught.value.body["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"prompt": [700]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 9, "n": 2}, "n"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
    ],
)
def test_an_error_of_a_completion_names_the_field(client: OpenAI, options: dict[str, object], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": NAME, "prompt": "hello", **options})  # type: ignore[call-overload]
    assert caught.value.body["param"] == param


def test_any_name_of_a_model_is_accepted(client: OpenAI) -> None:
    assert client.completions.create(model="gpt-4", prompt="hello", max_tokens=1).model == NAME
    assert client.embeddings.create(model="text-embedding-3-small", input="hello").model == NAME
    assert ask(client, "hello", max_tokens=1, extra_body={"model": None}).model == NAME


def test_embeddings(client: OpenAI, model: Model) -> None:
    texts = ["मैत्री म्हणजे काय?", "Who lived in the old house?"]
    answer = client.embeddings.create(model=NAME, input=texts)
    expected = model.engine.hidden([BOS, *model.tokenizer.encode(texts[0])]).mean(axis=0)
    vectors = [np.array(item.embedding) for item in answer.data]
    assert vectors[0] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)
    assert [float(np.linalg.norm(vector)) for vector in vectors] == pytest.approx([1, 1], abs=1e-5)
    assert answer.usage.prompt_tokens == sum(len(model.tokenizer.encode(text)) + 1 for text in texts)
    alone = client.embeddings.create(model=NAME, input=texts[1], encoding_format="float")
    assert np.array(alone.data[0].embedding) == pytest.approx(vectors[1], abs=1e-6)
    with pytest.raises(openai.BadRequestError, match="256 dimensions"):
        client.embeddings.create(model=NAME, input="a", dimensions=3)
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.embeddings.create(model=NAME, input=[300] * 513)
