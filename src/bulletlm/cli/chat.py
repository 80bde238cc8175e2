"""`bullet chat`: a conversation in a terminal, or in a plain pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bulletlm.cli.generate import HARMLESS, sampling_for
from bulletlm.errors import BulletError
from bulletlm.runtime.model import Model, load
from bulletlm.runtime.sampling import Sampling
from bulletlm.runtime.session import Session
from bulletlm.text.chat import encode_prompt
from bulletlm.text.normalize import normalize

SETTINGS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "max_tokens", "seed")

HELP = f"""/reset             forget the conversation
/save FILE         write the conversation to a file: readable text, or JSON if it ends in .json
/set               show the settings
/set NAME VALUE    change one: {", ".join(SETTINGS)}
/help              this list
/exit              leave (Ctrl-D does too); Ctrl-C stops an answer"""


def chat(
    file: Path,
    /,
    *,
    system: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    turbo: bool = False,
) -> None:
    """Talk with a model. /help lists what you can type besides.

    Example: bullet chat runs/demo/model.bullet

    Args:
        file: A .bullet file, or the export/npy folder of a run.
        system: What the model is told before the conversation, and never forgets.
        temperature: 0 always takes the likeliest token.
        max_tokens: Tokens of an answer at most.
        seed: Same seed and same questions, same answers.
        turbo: 8-bit activations in the native engine: faster, slightly less exact.
    """
    model = load(file, turbo=turbo)
    sampling = sampling_for(model, {"temperature": temperature, "max_tokens": max_tokens, "seed": seed})
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if terminal:
        name = str(model.header.get("name", file.name)).translate(HARMLESS)
        print(f"{name}, {model.shape.n_parameters / 1e6:.1f}M parameters. /help lists the commands, Ctrl-D leaves.\n")
    conversation = Conversation(model, sampling, system)
    for line in _lines(terminal):
        if line in ("/exit", "/quit"):
            return
        if line.startswith("/"):
            try:
                print(_command(line, conversation))
            except BulletError as error:
                print(error)
        else:
            _answer(conversation, line, terminal)


class Conversation:
    """What has been said, and the session that has read it.

    Attributes:
        sampling: how answers are generated; the seed moves on with each, so that a repeated question gets another answer.
        messages: user and assistant in turn.
        session: of the last answer: tokens, reused ones, finish reason.
    """

    def __init__(self, model: Model, sampling: Sampling, system: str | None = None) -> None:
        self.sampling = sampling
        self.messages: list[dict[str, str]] = []
        self.session = Session(model)
        self._model = model
        self._system = [{"role": "system", "content": system}] if system else []
        self._keep = 2 + len(model.tokenizer.encode(normalize(system))) if system else 1  # <s> <|user|> and the system text
        self._turn = 0

    def ask(self, text: str) -> Iterator[str]:
        """The answer in pieces. What has come until it is closed (or Ctrl-C) counts as the answer; without any, nothing was said."""
        self.messages.append({"role": "user", "content": text})
        parts: list[str] = []
        try:
            sampling = replace(self.sampling, seed=self.sampling.seed + self._turn)
            for token in self.session.generate(self._prompt(), sampling, keep=self._keep):
                parts.append(token.text)
                yield token.text
        finally:
            self._turn += 1
            if answer := "".join(parts).strip():
                self.messages.append({"role": "assistant", "content": answer})
            else:
                self.messages.pop()

    def reset(self) -> None:
        """Forget everything but the system text."""
        self.messages, self._turn = [], 0

    def save(self, path: Path) -> None:
        """Write the conversation as JSON (.json) or for reading."""
        import json

        from bulletlm.files import write_text

        messages = [*self._system, *self.messages]
        if not self.messages:
            raise BulletError("nothing has been said yet: there is nothing to save")
        as_json = path.suffix == ".json"
        write_text(path, json.dumps({"messages": messages}, ensure_ascii=False, indent=2) + "\n" if as_json else _readable(messages))

    def _prompt(self) -> list[int]:
        """Of as many of the last turns as leave room for half an answer in the model's context."""
        window = self._model.shape.max_seq_len
        room, messages = window - min(self.sampling.max_tokens, window) // 2, self.messages
        while True:
            ids = encode_prompt(self._model.tokenizer, [*self._system, *messages])
            if len(ids) <= room or len(messages) <= 2:
                return ids
            messages = messages[2:]


def _answer(conversation: Conversation, question: str, terminal: bool) -> None:
    """Stream an answer; Ctrl-C ends this answer, not the chat."""
    started = time.monotonic()
    pieces = conversation.ask(question)
    try:
        for text in pieces:
            sys.stdout.write(text.translate(HARMLESS) if terminal else text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        if not terminal:
            raise
    except BulletError as error:
        print(error, end="")
    finally:
        pieces.close()  # type: ignore[attr-defined]
    count, seconds = conversation.session.completion_tokens, max(time.monotonic() - started, 1e-9)
    print(f"\n\033[2m{count} tokens, {count / seconds:,.0f} tokens/s\033[0m\n" if terminal else "")


def _lines(terminal: bool) -> Iterator[str]:
    """Non-empty lines of the input."""
    if terminal:
        import readline  # noqa: F401 - gives input() its history and editing keys
    while True:
        try:
            line = input("> " if terminal else "")
        except EOFError:
            if terminal:
                print()
            return
        except KeyboardInterrupt:
            if not terminal:
                raise
            print("\n(/exit or Ctrl-D leaves)")
            continue
        except UnicodeDecodeError:
            raise BulletError("the input is not UTF-8 text: send UTF-8") from None
        if line.strip():
            yield line.strip()


def _command(line: str, conversation: Conversation) -> str:
    """Do what a line that begins with / says; what to print."""
    name, _, rest = line.partition(" ")
    words = rest.split()
    if name == "/reset" and not words:
        conversation.reset()
        return "forgotten"
    if name == "/save" and words:
        path = Path(rest.strip()).expanduser()
        conversation.save(path)
        return f"wrote {path}"
    if name == "/set" and not words:
        return "\n".join(f"{setting} {getattr(conversation.sampling, setting):g}" for setting in SETTINGS)
    if name == "/set" and len(words) == 2:
        conversation.sampling = _changed(conversation.sampling, words[0].replace("-", "_"), words[1])
        return f"{words[0]} {words[1]}"
    return HELP if name == "/help" else f"{line}: not a command\n{HELP}"


def _changed(sampling: Sampling, setting: str, value: str) -> Sampling:
    if setting not in SETTINGS:
        raise BulletError(f"there is no {setting}: /help lists what can be set")
    try:
        number: float | int = int(value) if isinstance(getattr(sampling, setting), int) else float(value)
    except ValueError:
        raise BulletError(f"{value} is not a number that {setting} can be") from None
    return replace(sampling, **{setting: number})  # type: ignore[arg-type]


def _readable(messages: list[dict[str, str]]) -> str:
    return "".join(f"{message['role']}: {message['content']}\n\n" for message in messages)
