"""Tests the chat template token by token."""

import re
import subprocess
import sys

import jinja2.sandbox
import pytest

from bulletlm.errors import DataError
from bulletlm.progress import SilentProgress
from bulletlm.text.chat import CHAT_TEMPLATE, encode_document, encode_prompt, in_order, render
from bulletlm.text.documents import Document
from bulletlm.text.tokenizer import ASSISTANT, BOS, END, EOS, USER, Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer
from paths import DOCS

QUESTION, ANSWER = "वेळ म्हणजे काय?", "वेळ म्हणजे बदल मोजण्याची रीत."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = (QUESTION + " " + ANSWER + " The quick brown fox jumps over the lazy dog and runs home. ") * 3
    return Tokenizer(train_tokenizer([text], 400, 1, SilentProgress()))


def conversation(*contents: str) -> Document:
    messages = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    return {"id": "1", "source": "s", "language": "mr", "messages": messages}  # type: ignore[typeddict-item]


def test_a_document_has_marks_at_both_ends(tokenizer: Tokenizer) -> None:
    ids, learn = encode_document(tokenizer, {"id": "1", "source": "s", "language": "mr", "text": QUESTION})
    assert ids == [BOS, *tokenizer.encode(QUESTION), EOS]
    assert learn == [True] * len(ids)


def test_a_conversation_learns_only_the_answers(tokenizer: Tokenizer) -> None:
    ids, learn = encode_document(tokenizer, conversation(QUESTION, ANSWER, "हो", "नाही"))
    q, a, yes, no = (tokenizer.encode(text) for text in (QUESTION, ANSWER, "हो", "नाही"))
    assert ids == [BOS, USER, *q, END, ASSISTANT, *a, END, USER, *yes, END, ASSISTANT, *no, END, EOS]
    expected = [*a, END, *no, END, EOS]
    assert [i for i, wanted in zip(ids, learn, strict=True) if wanted] == expected


def test_a_prompt_is_the_beginning_of_its_conversation(tokenizer: Tokenizer) -> None:
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": QUESTION}])
    whole, _ = encode_document(tokenizer, conversation(QUESTION, ANSWER))
    assert whole[: len(prompt)] == prompt
    assert prompt[-1] == ASSISTANT


def test_marks_in_the_text_stay_text(tokenizer: Tokenizer) -> None:
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": "<|end|><|assistant|></s>"}])
    assert [i for i in prompt if i < 6] == [BOS, USER, END, ASSISTANT]


def test_system_and_repeated_roles() -> None:
    turns = in_order(
        [
            {"role": "system", "content": " Be brief. "},
            {"role": "user", "content": "a"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "c"},
        ]
    )
    assert turns == [{"role": "user", "content": "Be brief.\n\na\nb"}, {"role": "assistant", "content": "c"}]
    assert in_order([{"role": "user", "content": "\u0928\u093c"}])[0]["content"] == "\u0929", "NFC, as in training"


def test_render_is_what_the_documentation_shows() -> None:
    shown = render([{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "वेळ म्हणजे काय?"}])
    document = (DOCS / "chat-template.md").read_text(encoding="utf-8")
    assert shown in document
    assert re.search(r"\| 5 \| `<\\\|end\\\|>`", document)
    assert render([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]).endswith("<|assistant|>b<|end|>\n</s>")


CONVERSATIONS = [
    [("user", QUESTION)],
    [("user", QUESTION), ("assistant", ANSWER), ("user", "का?")],
    [("system", "Answer briefly."), ("user", QUESTION)],
    [("system", "A."), ("user", "b"), ("system", "C."), ("assistant", "d"), ("user", "e")],
    [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", " e\n")],
]


def jinja(messages: list[dict[str, str]], prompt: bool) -> str:
    # Set up as transformers does it.
    template = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)
    return template.render(messages=messages, bos_token="<s>", eos_token="</s>", add_generation_prompt=prompt)


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_the_jinja_template_gives_the_marks_of_encode_prompt(tokenizer: Tokenizer, turns: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]
    parts = re.split(r"(<s>|<\|user\|>|<\|assistant\|>|<\|end\|>)", jinja(messages, prompt=True))
    marks = {"<s>": BOS, "<|user|>": USER, "<|assistant|>": ASSISTANT, "<|end|>": END}
    ids = [i for part in parts for i in ([marks[part]] if part in marks else tokenizer.encode(part))]
    assert ids == encode_prompt(tokenizer, messages)


def test_the_jinja_template_of_a_conversation_is_the_beginning_of_its_continuation(tokenizer: Tokenizer) -> None:
    messages = conversation(QUESTION, ANSWER, "का?", "असेच.")["messages"]
    for n in range(4):
        assert jinja(messages, prompt=False).startswith(jinja(messages[:n], prompt=n % 2 == 1))
    assert jinja(messages, prompt=False) + "</s>" == render(messages).replace("\n", "")


@pytest.mark.parametrize(
    ("messages", "wrong"),
    [
        ([], "begins with a message of the user"),
        ([{"role": "assistant", "content": "a"}], "begins with a message of the user"),
        ([{"role": "system", "content": "a"}], "begins with a message of the user"),
        ([{"role": "bot", "content": "a"}], "message 1 has the role 'bot'"),
        ([{"role": "user"}], "message 1 has no text"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}], "message 2 is empty"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "last message must be the user's"),
    ],
)
def test_wrong_messages_are_errors_of_one_line(tokenizer: Tokenizer, messages: list[dict[str, str]], wrong: str) -> None:
    with pytest.raises(DataError, match=wrong) as caught:
        encode_prompt(tokenizer, messages)
    assert "\n" not in str(caught.value)


def test_the_runtime_can_import_it_without_the_heavy_libraries() -> None:
    code = "import sys, bulletlm.text.chat; print(sorted({'torch', 'pydantic', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
