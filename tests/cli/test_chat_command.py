"""Tests `bullet chat` in a real terminal and in a pipe."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bulletlm.cli.chat import Conversation, _answer, _command
from bulletlm.errors import BulletError
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.quant.types import standard_types
from bulletlm.runtime import Model, Sampling, Session, load
from bulletlm.shape import ModelShape
from bulletlm.terminal import printable
from bulletlm.text.chat import encode_prompt
from bulletlm.text.tokenizer import END, EOS, Tokenizer
from pseudo_terminal import Terminal
from tiny_model import random_tensors


@pytest.fixture(scope="module")
def chat_path(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A model with room for a conversation, which never ends an answer by itself."""
    shape = ModelShape(tokenizer.vocab_size, 64, 2, 4, 2, 96, 256)
    weights = random_tensors(shape)
    weights["token_embedding.weight"][[END, EOS]] = 0
    path = tmp_path_factory.mktemp("chat") / "tiny.bullet"
    write_bullet(
        path,
        ModelContents(
            shape=shape,
            tensors=weights,
            types=standard_types(shape),
            tokenizer_proto=tokenizer.proto,
            pieces=tokenizer.pieces(),
            metadata={"name": "tiny"},
        ),
    )
    return path


@pytest.fixture(scope="module")
def chat_model(chat_path: Path) -> Model:
    return load(chat_path, engine="numpy")


HOT = Sampling(temperature=1.2, max_tokens=12, seed=5)


def test_a_turn_reads_only_what_is_new(chat_model: Model) -> None:
    conversation = Conversation(chat_model, HOT, "Be kind.")
    answers = []
    for question in ("नमस्कार", "आणि?", "Goodbye"):
        messages = [{"role": "system", "content": "Be kind."}, *conversation.messages, {"role": "user", "content": question}]
        ids = encode_prompt(chat_model.tokenizer, messages)
        answers.append("".join(conversation.ask(question)))
        fresh = Session(chat_model).generate(ids, replace(HOT, seed=5 + len(answers) - 1), keep=9)
        assert answers[-1] == "".join(token.text for token in fresh)
        assert conversation.session.prompt_tokens == len(ids)
        assert len(answers) == 1 or conversation.session.reused > 10
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 3
    conversation.reset()
    assert "".join(conversation.ask("नमस्कार")) == answers[0]


def test_old_turns_are_dropped_and_the_system_text_stays(chat_model: Model) -> None:
    system = "You are a patient teacher."
    conversation = Conversation(chat_model, replace(HOT, max_tokens=40), system)
    beginning = [1, 3, *chat_model.tokenizer.encode(system)]
    for n in range(12):
        "".join(conversation.ask(f"Question {n}: what did the old teacher say?"))
        assert conversation.session._read[: len(beginning)] == beginning
        assert conversation.session.prompt_tokens <= 256 - 20
    assert len(conversation.messages) == 24


def test_what_has_come_of_an_answer_counts(chat_model: Model) -> None:
    conversation = Conversation(chat_model, HOT)
    pieces = conversation.ask("एक")
    said = "".join(next(pieces) for _ in range(6))
    pieces.close()
    assert conversation.messages[-1] == {"role": "assistant", "content": said.strip()} or not said.strip()
    before = list(conversation.messages)
    pieces = conversation.ask("दोन")
    pieces.close()
    assert "".join(conversation.ask("तीन"))
    assert conversation.messages[: len(before)] == before


def test_saving(chat_model: Model, tmp_path: Path) -> None:
    conversation = Conversation(chat_model, HOT, "दयाळू रहा.")
    with pytest.raises(BulletError, match="there is nothing to save"):
        conversation.save(tmp_path / "empty.txt")
    answer = "".join(conversation.ask("नमस्कार")).strip()
    conversation.save(tmp_path / "talk.json")
    assert json.loads((tmp_path / "talk.json").read_text(encoding="utf-8")) == {
        "messages": [
            {"role": "system", "content": "दयाळू रहा."},
            {"role": "user", "content": "नमस्कार"},
            {"role": "assistant", "content": answer},
        ]
    }
    conversation.save(tmp_path / "talk.txt")
    assert (tmp_path / "talk.txt").read_text(encoding="utf-8") == f"system: दयाळू रहा.\n\nuser: नमस्कार\n\nassistant: {answer}\n\n"


def test_saving_replaces_only_what_this_chat_has_saved(chat_model: Model, tmp_path: Path) -> None:
    conversation = Conversation(chat_model, HOT)
    "".join(conversation.ask("नमस्कार"))
    conversation.save(tmp_path / "talk.txt")
    first = (tmp_path / "talk.txt").read_text(encoding="utf-8")
    "".join(conversation.ask("पुन्हा"))
    conversation.save(tmp_path / "talk.txt")
    assert (tmp_path / "talk.txt").read_text(encoding="utf-8").startswith(first[:-2])
    (tmp_path / "mine.txt").write_text("my notes")
    (tmp_path / "link.txt").symlink_to("nowhere")
    for name in ("mine.txt", "link.txt"):
        with pytest.raises(BulletError, match="exists and is not overwritten: choose another name"):
            conversation.save(tmp_path / name)
    assert (tmp_path / "mine.txt").read_text() == "my notes" and not (tmp_path / "nowhere").exists()


def command(path: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "bulletlm", "chat", str(path), "--seed", "1", *words]


def test_a_pipe(chat_path: Path, tmp_path: Path) -> None:
    lines = ["नमस्कार", "/set temperature 0.5", "/set temperature", "/set speed 3", "/nonsense", f"/save {tmp_path}/talk.json", "", "one"]
    words = command(chat_path, "--max-tokens", "8")
    done = subprocess.run(words, input="\n".join(lines), capture_output=True, text=True, timeout=240, check=True)
    assert done.stderr == ""
    assert "\033" not in done.stdout and "tokens/s" not in done.stdout
    for said in ("temperature 0.5", "there is no setting speed: /help lists", "/nonsense: not a command", "wrote "):
        assert said in done.stdout
    assert len(json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))["messages"]) == 2
    again = subprocess.run(
        command(chat_path, "--max-tokens", "8"), input="नमस्कार\n", capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout.startswith(again.stdout.rstrip("\n"))


@pytest.fixture(params=["xterm", "dumb"])
def terminal(chat_path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    """A chat with prompt_toolkit, and one with Python's own input."""
    program = Terminal(command(chat_path, "--max-tokens", "1000000"), TERM=request.param, XDG_STATE_HOME=str(tmp_path))
    yield program
    program.close()


def test_a_terminal_gets_no_control_characters_of_the_model(chat_path: Path) -> None:
    """The output has no control characters, as text or as JSON, where \\u009b would act like Escape."""
    model = load(chat_path)
    ids = encode_prompt(model.tokenizer, [{"role": "user", "content": "नमस्कार"}])
    seed, text = 0, ""
    while "\x1b" not in text:
        seed += 1
        sampling = replace(model.sampling, seed=seed, max_tokens=60)
        text = "".join(token.text for token in Session(model).generate(ids, sampling))
    words = [sys.executable, "-m", "bulletlm", "generate", str(chat_path), "-p", "नमस्कार", "--seed", str(seed), "--max-tokens", "60"]
    assert subprocess.run(words, capture_output=True, timeout=240, check=True).stdout.decode() == text + "\n"
    for more in ([], ["--json"]):
        program = Terminal([*words, *more])
        with contextlib.suppress(OSError):  # the program has ended
            while part := os.read(program.screen, 4096):
                program.seen += program.decode(part)
        assert program.exit_code() == 0
        os.close(program.screen)
        shown = program.seen.replace("\r\n", "\n")
        assert shown == printable(shown, lines=True)
        assert (json.loads(shown)["text"] if more else shown) == (text if more else printable(text, lines=True) + "\n")


def test_settings_of_a_file_that_says_1(tmp_path: Path, tokenizer: Tokenizer) -> None:
    shape = ModelShape(tokenizer.vocab_size, 32, 1, 2, 1, 32, 32)
    metadata = {"sampling": {"temperature": 1, "top_p": 1, "top_k": 3}}
    write_bullet(
        tmp_path / "m.bullet",
        ModelContents(
            shape=shape,
            tensors=random_tensors(shape),
            types=standard_types(shape),
            tokenizer_proto=tokenizer.proto,
            pieces=tokenizer.pieces(),
            metadata=metadata,
        ),
    )
    conversation = Conversation(load(tmp_path / "m.bullet"), load(tmp_path / "m.bullet").sampling)
    assert _command("/set temperature 0.5", conversation) == "temperature 0.5"
    assert (conversation.sampling.temperature, conversation.sampling.top_p, conversation.sampling.top_k) == (0.5, 1.0, 3)
    with pytest.raises(BulletError, match="not a valid number for top_k"):
        _command("/set top_k 0.5", conversation)


def test_a_terminal(terminal: Terminal) -> None:
    assert "tiny, 0." in terminal.read_until(r"> ")
    terminal.type("/help\n")
    assert "/reset" in terminal.read_until(r"Ctrl-C stops an answer\r?\n.*> ")
    terminal.type("/set max_tokens 5\n")
    terminal.read_until(r"max_tokens 5\r?\n.*> ")
    terminal.type("नमस्कार\n")
    assert "tokens/s" in terminal.read_until(r"\d+ tokens, [\d,]+ tokens/s[^>]*> ")
    terminal.type("\033[A")  # the arrow up
    terminal.read_until("नमस्कार")
    terminal.type("\n")
    terminal.read_until(r"tokens/s[^>]*> ")
    # Ctrl-C stops an answer, and the chat goes on.
    terminal.type("/set max_tokens 1000000\n")
    terminal.read_until(r"max_tokens 1000000\r?\n.*> ")
    terminal.type("लांब\n")
    terminal.read_until(r"लांब[^\n]*\n(.|\s){60}")
    time.sleep(0.3)
    terminal.type("\x03")
    shown = terminal.read_until(r"\d+ tokens, [\d,]+ tokens/s[^>]*> ")
    assert "Traceback" not in shown
    # If there is nothing to stop, the program says how to leave. If a Ctrl-C arrives after input() has printed its prompt and before it
    # waits, Python handles it only at the next key: here another Ctrl-C.
    terminal.type_until("\x03", "Ctrl-D quits.*\r?\n.*> ")
    terminal.type("/reset\n")
    terminal.read_until("started a new conversation.*\r?\n.*> ")
    terminal.type("\x04")
    assert terminal.exit_code() == 0


def test_every_setting_that_is_shown_can_be_set_again(chat_model: Model) -> None:
    """A seed has ten digits, and another one is another conversation."""
    sampling = Sampling(seed=1_234_567_891, max_tokens=1 << 20, temperature=0.55)
    conversation = Conversation(chat_model, sampling)
    for line in _command("/set", conversation).splitlines():
        _command(f"/set {line}", conversation)
    assert conversation.sampling == sampling


def test_a_seed_that_is_set_again_gives_the_same_answer(chat_model: Model) -> None:
    conversation = Conversation(chat_model, HOT)
    first = "".join(conversation.ask("नमस्कार"))
    assert "".join(conversation.ask("नमस्कार")) != first
    conversation.messages.clear()
    _command("/set seed 5", conversation)
    assert "".join(conversation.ask("नमस्कार")) == first


def test_the_next_conversation_does_not_replace_the_file_of_the_last(chat_model: Model, tmp_path: Path) -> None:
    conversation = Conversation(chat_model, HOT)
    "".join(conversation.ask("नमस्कार"))
    conversation.save(tmp_path / "talk.txt")
    first = (tmp_path / "talk.txt").read_bytes()
    conversation.reset()
    "".join(conversation.ask("दुसरा संवाद"))
    with pytest.raises(BulletError, match="exists and is not overwritten"):
        conversation.save(tmp_path / "talk.txt")
    assert (tmp_path / "talk.txt").read_bytes() == first


@pytest.mark.parametrize("name", ["~no-such-user/talk.txt", "talk\0.txt", "x" * 300, "."])
def test_any_name_after_save_leaves_the_chat_running(chat_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    conversation = Conversation(chat_model, HOT)
    "".join(conversation.ask("नमस्कार"))
    with contextlib.suppress(BulletError):
        assert _command(f"/save {name}", conversation) == f"wrote {name}"


def test_a_question_that_fails_has_no_count_of_tokens(chat_model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    conversation = Conversation(chat_model, HOT)
    _answer(conversation, "नमस्कार", terminal=True)
    assert "12 tokens" in capsys.readouterr().out
    conversation._system = [{"role": "system", "content": "one two three " * 100}]
    _answer(conversation, "आणि?", terminal=True)
    said = capsys.readouterr().out
    assert "shorten it" in said and "tokens/s" not in said
