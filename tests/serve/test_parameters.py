"""Tests parameters of other servers: neutral values are accepted, and unsupported parameters are refused by name."""

from typing import Any

import openai
import pytest
from openai import OpenAI

from bulletlm.runtime import Model
from bulletlm.text.tokenizer import END, EOS

FOREVER = {str(END): -100.0, str(EOS): -100.0}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}


def ask(client: OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(
        model="any", messages=[{"role": "user", "content": "hello"}], **{"max_tokens": 6, "seed": 1, **options}
    )


@pytest.mark.parametrize(
    "options",
    [
        {"tools": [TOOL], "tool_choice": "none"},
        {"tools": [], "tool_choice": "auto"},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"response_format": {"type": "text"}},
        {"max_completion_tokens": 6},
        {"top_logprobs": 0},
        {"stream_options": None, "logit_bias": {}, "stop": []},
        {"frequency_penalty": 0, "n": 1, "logprobs": False, "modalities": ["text"]},
        {
            "user": "me",
            "store": True,
            "metadata": {"a": "b"},
            "service_tier": "auto",
            "parallel_tool_calls": True,
            "reasoning_effort": "low",
        },
        {"extra_body": {"cache_prompt": True, "keep_alive": "5m", "options": {"num_ctx": 4096}, "id_slot": -1}},
        {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}, "add_generation_prompt": True, "think": False}},
        {"extra_body": {"mirostat": 0, "tfs_z": 1.0, "typical_p": 1, "min_tokens": 0, "ignore_eos": False, "best_of": 1, "grammar": ""}},
        {"extra_body": {"repeat_last_n": 64, "dry_multiplier": 0.0, "xtc_probability": 0, "use_beam_search": False}},
        {"stop": [f"never {number}" for number in range(16)]},
        {"extra_body": {"top_k": -1, "top_p": 1.0, "min_p": 0.0}},
    ],
)
def test_neutral_values_change_nothing(client: OpenAI, options: dict[str, Any]) -> None:
    plain = {"extra_body": {"top_k": 0, "top_p": 1, "min_p": 0}} if "top_k" in options.get("extra_body", ()) else {}
    assert ask(client, **options).choices[0].message.content == ask(client, **plain).choices[0].message.content


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"tools": [TOOL]}, "tools", 'set tool_choice to "none"'),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tools", "cannot call tools"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice", "only 'none' and 'auto'"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "cannot call tools"),
        ({"functions": [{"name": "f"}]}, "functions", 'set function_call to "none"'),
        ({"response_format": {"type": "json_object"}}, "response_format.type", "not JSON"),
        ({"response_format": SCHEMA}, "response_format.type", "not JSON"),
        ({"modalities": ["text", "audio"]}, "modalities", "text only"),
        ({"extra_body": {"guided_json": {}}}, "guided_json", "not JSON"),
        ({"extra_body": {"grammar": "root ::= a"}}, "grammar", "grammar"),
        ({"extra_body": {"mirostat": 2}}, "mirostat", "sampling method"),
        ({"extra_body": {"typical_p": 0.5}}, "typical_p", "sampling method"),
        ({"extra_body": {"best_of": True}}, "best_of", "only 1"),
        ({"extra_body": {"ignore_eos": True}}, "ignore_eos", "logit_bias"),
        ({"extra_body": {"repeat_last_n": 256}}, "repeat_last_n", "last 64 tokens"),
        ({"extra_body": {"options": {"mirostat": 1}}}, "options.mirostat", "sampling method"),
        ({"extra_body": {"nobody_knows": 1}}, "nobody_knows", "Unrecognized request argument"),
        ({"stop": [f"never {number}" for number in range(17)]}, "stop", "it has 17 items: at most 16 are allowed"),
        ({"stop": ["a", 5]}, "stop[1]", "valid string"),
        ({"stop": 5}, "stop", "valid string"),
        ({"max_tokens": -2}, "max_tokens", "greater than or equal to -1"),
        ({"extra_body": {"top_k": -2}}, "top_k", "greater than or equal to -1"),
    ],
)
def test_what_changes_the_answer_is_refused_by_name(client: OpenAI, options: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **options)
    assert caught.value.body["param"] == param
    assert message in caught.value.body["message"]
    assert caught.value.body["message"].count("{") == caught.value.body["message"].count("}")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [(["a"] * 17, "it has 17 items: at most 16"), ([1, "a"], "valid integer"), (5, "valid string"), ([], "at least 1 is needed")],
)
def test_a_wrong_list_says_what_is_wrong(client: OpenAI, prompt: Any, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        client.completions.create(model="any", prompt=prompt)


def test_unlimited_answers_end_with_the_context(client: OpenAI) -> None:
    for options in (
        {"max_tokens": -1},
        {"max_completion_tokens": -1, "max_tokens": None},
        {"extra_body": {"options": {"num_predict": -2}}, "max_tokens": None},
    ):
        answer = ask(client, logit_bias=FOREVER, **options)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.total_tokens in (512, 513)


def test_other_names_of_settings(client: OpenAI) -> None:
    expected = ask(client, temperature=0, max_tokens=20, extra_body={"repetition_penalty": 0.2}).choices[0].message.content
    assert expected != ask(client, temperature=0, max_tokens=20).choices[0].message.content
    assert ask(client, temperature=0, max_tokens=20, extra_body={"repeat_penalty": 0.2}).choices[0].message.content == expected
    options = {"temperature": 0, "num_predict": 20, "repeat_penalty": 0.2, "num_gpu": 1, "stop": ["never"]}
    assert ask(client, max_tokens=None, extra_body={"options": options}).choices[0].message.content == expected


def test_many_texts_at_once(client: OpenAI) -> None:
    """langchain sends up to 1,000 texts for embeddings in one request, OpenAI allows 2,048."""
    assert len(client.embeddings.create(model="any", input=["a"] * 2048).data) == 2048
    with pytest.raises(openai.BadRequestError, match="at most 2048 are allowed"):
        client.embeddings.create(model="any", input=["a"] * 2049)


def test_no_tokens_at_all(client: OpenAI) -> None:
    answer = client.completions.create(model="any", prompt="hello", max_tokens=0)
    assert (answer.choices[0].text, answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("", "length", 0)
    assert client.completions.create(model="any", prompt="hello", max_tokens=0, echo=True).choices[0].text == "hello"


def test_echoed_logprobs_are_those_of_the_model(client: OpenAI, model: Model) -> None:
    import numpy as np

    prompt = [1, *model.tokenizer.encode("एका गावात एक शेतकरी राहत होता. Once upon a time.")]
    logits = model.engine.forward(prompt, model.engine.new_cache()).astype(float)
    logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    expected = [float(logs[at, token]) for at, token in enumerate(prompt[1:])]
    for max_tokens in (0, 3):
        answer = client.completions.create(model="any", prompt=prompt, echo=True, logprobs=2, max_tokens=max_tokens, logit_bias=FOREVER)
        choice, count = answer.choices[0], len(prompt) + max_tokens
        kept = choice.logprobs
        assert kept.token_logprobs[0] is None and kept.top_logprobs[0] is None
        assert kept.token_logprobs[1 : len(prompt)] == pytest.approx(expected, abs=0.01)
        assert len(kept.tokens) == len(kept.token_logprobs) == len(kept.top_logprobs) == len(kept.text_offset) == count
        assert choice.text.startswith(model.tokenizer.decode(prompt))
        assert (answer.usage.completion_tokens, answer.usage.prompt_tokens_details.cached_tokens) == (max_tokens, 0)
        for token, offset in list(zip(kept.tokens, kept.text_offset, strict=True))[1:]:
            assert token.startswith("bytes:") or choice.text.startswith(token, offset)
    streamed = client.completions.create(
        model="any", prompt=prompt, echo=True, logprobs=2, max_tokens=3, logit_bias=FOREVER, seed=1, stream=True
    )
    whole = client.completions.create(model="any", prompt=prompt, echo=True, logprobs=2, max_tokens=3, logit_bias=FOREVER, seed=1)
    chunks = [chunk.choices[0] for chunk in streamed]
    assert "".join(chunk.text for chunk in chunks) == whole.choices[0].text
    assert [value for chunk in chunks if chunk.logprobs for value in chunk.logprobs.token_logprobs] == whole.choices[
        0
    ].logprobs.token_logprobs


@pytest.mark.parametrize("max_tokens", [1, 5])
def test_a_scored_prompt_is_followed_by_the_end_token(client: OpenAI, model: Model, max_tokens: int) -> None:
    """Programs that score texts request one more token and ignore the last one."""
    prompt = [1, *model.tokenizer.encode("The farmer")]
    options: dict[str, Any] = {"model": "any", "prompt": prompt, "max_tokens": max_tokens, "logit_bias": {str(END): 100}}
    answer = client.completions.create(**options, echo=True, logprobs=1)
    kept = answer.choices[0].logprobs
    assert kept.tokens[len(prompt) :] == ["<|end|>"] and len(kept.token_logprobs) == len(kept.text_offset) == len(prompt) + 1
    assert kept.token_logprobs[-1] < 0 and kept.text_offset[-1] == len("The farmer")
    assert (answer.choices[0].text, answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("The farmer", "stop", 1)
    assert client.completions.create(**options, logprobs=1).choices[0].logprobs.tokens == []


def test_a_loglikelihood_request_as_lm_evaluation_harness_sends_it(client: OpenAI, model: Model) -> None:
    """Context and continuation as token ids. The harness asks for one more token, so it reads the values from len(context) to -1."""
    context, continuation = [1, *model.tokenizer.encode("The farmer")], model.tokenizer.encode(" lived in a village")
    body = {
        "model": "x",
        "prompt": [[*context, *continuation]],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    (choice,) = client.completions.create(**body).choices
    scores, top = choice.logprobs.token_logprobs[len(context) : -1], choice.logprobs.top_logprobs[len(context) : -1]
    assert len(scores) == len(continuation)
    assert all(value <= 0 for value in scores)
    assert all(max(likeliest.values()) >= value for likeliest, value in zip(top, scores, strict=True))


@pytest.mark.parametrize("stream", [False, True])
def test_no_tokens_are_generated_for_num_predict_0(client: OpenAI, stream: bool) -> None:
    """In every interface, as in Ollama's own."""
    none = {"options": {"num_predict": 0}}
    text = {"model": "any", "prompt": "hello"}
    chat = {"model": "any", "messages": [{"role": "user", "content": "hello"}]}
    if not stream:
        assert client.chat.completions.create(**chat, extra_body=none).usage.completion_tokens == 0  # type: ignore[call-overload]
        assert client.completions.create(**text, extra_body=none).usage.completion_tokens == 0  # type: ignore[call-overload]
        assert client.completions.create(**text, max_tokens=2, extra_body=none).usage.completion_tokens == 2  # type: ignore[call-overload]
        return
    chunks = list(client.chat.completions.create(**chat, stream=True, extra_body=none))  # type: ignore[call-overload]
    assert chunks[-1].choices[0].finish_reason == "length" and not any(chunk.choices[0].delta.content for chunk in chunks)
