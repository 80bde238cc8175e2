"""Tests prompts that are longer than the context: what is left out, in which order, and that this is reported."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulletlm.cli.chat import Conversation
from bulletlm.errors import DataError
from bulletlm.runtime import Model
from bulletlm.runtime.prompt import chat_prompt, text_prompt
from bulletlm.text.chat import encode_prompt
from bulletlm.text.normalize import normalize
from bulletlm.text.tokenizer import ASSISTANT, BOS, END, USER

LONG = "नदीला पूर आला की मुले शाळेत जाऊ शकत नसत, and so they stayed at home. " * 40
TEXT = st.text("नदीला पूर आ hi, \n", min_size=1, max_size=400).filter(lambda text: normalize(text) != "")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_what_fits_is_what_encode_prompt_gives(model: Model) -> None:
    messages = [{"role": "system", "content": "S"}, user("नमस्ते")]
    prompt = chat_prompt(model, messages, 16)
    assert prompt.ids == encode_prompt(model.tokenizer, messages) and prompt.note(model) is None
    assert prompt.ids[: prompt.keep] == [BOS, USER, *model.tokenizer.encode("S\n\n")]


def test_the_oldest_turns_are_left_out_first(model: Model) -> None:
    messages = [{"role": "system", "content": "S"}]
    for number in range(40):
        messages += [user(f"प्रश्न {number}"), {"role": "assistant", "content": f"उत्तर {number}"}]
    messages.append(user("शेवट"))
    prompt = chat_prompt(model, messages, 16)
    assert prompt.omitted_messages > 0 and not prompt.omitted_tokens and len(prompt.ids) <= model.shape.max_seq_len
    assert prompt.ids == encode_prompt(model.tokenizer, [messages[0], *messages[1 + prompt.omitted_messages :]])
    note = prompt.note(model)
    assert note is not None and f"the oldest {prompt.omitted_messages} messages were left out" in note


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXT, repeats=st.integers(1, 60), system=st.sampled_from(["", "नियम"]), max_tokens=st.integers(1, 300))
def test_the_end_of_a_long_message_is_kept_with_its_marks(model: Model, text: str, repeats: int, system: str, max_tokens: int) -> None:
    window = model.shape.max_seq_len
    text = text * repeats
    messages = [
        *([{"role": "system", "content": system}] if system else []),
        user("earlier"),
        {"role": "assistant", "content": "x"},
        user(text),
    ]
    prompt = chat_prompt(model, messages, max_tokens)
    head = [BOS, USER, *(model.tokenizer.encode(f"{system}\n\n") if system else [])]
    assert len(prompt.ids) <= window
    if not prompt.omitted_tokens:
        assert prompt.ids == encode_prompt(
            model.tokenizer, messages[: 1 if system else 0] + messages[-1 - 2 * (not prompt.omitted_messages) :]
        )
        return
    assert prompt.omitted_messages == 2, "the turns before it went first"
    assert prompt.ids[: prompt.keep] == head and prompt.ids[-2:] == [END, ASSISTANT]
    kept = model.tokenizer.decode(prompt.ids[len(head) : -2])
    assert normalize(text).endswith(kept) and not kept.startswith(("\ufffd", "्", "ा"))
    assert len(prompt.ids) <= window - min(max_tokens, window) // 2, "room for half of the answer"
    assert len(prompt.ids) > window - min(max_tokens, window) // 2 - 16, "no more than needed is left out"
    assert prompt.omitted_tokens == len(model.tokenizer.encode(normalize(text))) - (len(prompt.ids) - len(head) - 2)
    assert "tokens of the text were left out" in str(prompt.note(model))


def test_a_system_text_longer_than_the_context(model: Model) -> None:
    with pytest.raises(DataError, match=r"the system text has [\d,]+ tokens, but the context of this model has \d+"):
        chat_prompt(model, [{"role": "system", "content": LONG}, user("hi")], 16)


def test_a_text_to_continue(model: Model) -> None:
    prompt = text_prompt(model, LONG, 16)
    ids = model.tokenizer.encode(normalize(LONG))
    assert (
        prompt.ids[0] == BOS and prompt.ids[1:] == ids[-len(prompt.ids) + 1 :] and prompt.omitted_tokens == len(ids) - len(prompt.ids) + 1
    )
    short = text_prompt(model, "hi", 16)
    assert short.ids == [BOS, *model.tokenizer.encode("hi")] and short.note(model) is None


def run(*words: object, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bulletlm", *map(str, words)], input=text, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_generate_says_so(bullet_path: Path, raw: list[str]) -> None:
    done = run("generate", bullet_path, "-p", LONG, "--max-tokens", 4, "--seed", 1, "--json", *raw)
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["omitted_prompt_tokens"] > 0 and result["prompt_tokens"] > 0
    assert done.stderr.startswith("note: the prompt is longer than the context") and done.stderr.count("\n") == 1
    assert f"the first {result['omitted_prompt_tokens']:,} tokens" in done.stderr
    done = run("generate", bullet_path, "-p", "hi", "--max-tokens", 4, "--seed", 1, "--json", *raw)
    assert json.loads(done.stdout)["omitted_prompt_tokens"] == 0 and not done.stderr


def test_chat_says_so(bullet_path: Path, model: Model) -> None:
    done = run("chat", bullet_path, "--max-tokens", 4, "--seed", 1, text=f"hi\n{LONG}\nhi\n")
    assert done.returncode == 0 and done.stderr.count("note: ") >= 1 and "tokens of the text were left out" in done.stderr
    conversation = Conversation(model, replace(model.sampling, max_tokens=4))
    for _ in conversation.ask("hi"):
        pass
    assert conversation.note is None
    for _ in conversation.ask(LONG):
        pass
    assert conversation.note is not None and "the first" in conversation.note
