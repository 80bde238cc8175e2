"""`bullet chat`: a conversation with a model, in a terminal or through a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bulletlm.cli.generate import sampling_for
from bulletlm.cli.models import default_model, find_model, find_models
from bulletlm.cli.wrap import WordWrapper
from bulletlm.errors import BulletError
from bulletlm.files import expand_home
from bulletlm.runtime.model import Model, load
from bulletlm.runtime.prompt import chat_prompt
from bulletlm.runtime.sampling import Sampling
from bulletlm.runtime.session import Session
from bulletlm.terminal import echo, model_text, printable

SETTINGS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "max_tokens", "seed")

COMMANDS = ("/exit", "/help", "/reset", "/save", "/set")

PROMPT = "> "

HELP = f"""/reset             start a new conversation
/save FILE         write the conversation to a file: JSON if its name ends in .json, plain text otherwise
/set               show the settings
/set NAME VALUE    change a setting: {", ".join(SETTINGS)}
/help              show this list
/exit              quit (also Ctrl-D); Ctrl-C stops an answer"""


def chat(
    file: Path | None = None,
    /,
    *,
    system: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    turbo: bool = False,
) -> None:
    """Chat with a model. Type /help to see the commands.

    Example: bullet chat demo

    Args:
        file: The name of a run or model here (`bullet list` shows them), a .bullet file, or the export/npy folder of a run. Without it,
            the model of the package answers.
        system: System message; it stays in the context for the whole conversation.
        temperature: Randomness of the choice of tokens; 0 always takes the most likely token.
        max_tokens: Largest number of tokens in an answer.
        seed: The same seed and the same questions give the same answers.
        turbo: Use 8-bit activations in the native engine: faster, slightly less exact.
    """
    path = find_model(file) if file else default_model()
    model = load(path, turbo=turbo)
    sampling = sampling_for(model, {"temperature": temperature, "max_tokens": max_tokens, "seed": seed})
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if terminal:
        name = printable(str(model.header.get("name", path.name)))
        print(f"{name}, {model.shape.n_parameters / 1e6:.1f}M parameters. /help lists the commands, Ctrl-D quits.")
        print(f"{others}\n" if not file and (others := _other_models()) else "")
    conversation = Conversation(model, sampling, system)
    for line in _lines(terminal):
        if line in ("/exit", "/quit"):
            return
        if line.startswith("/") and "\n" not in line:
            try:
                print(printable(_command(line, conversation), lines=True))
            except BulletError as error:
                print(printable(str(error)))
        else:
            _answer(conversation, line, terminal)


def _other_models() -> str:
    """One line that names the models in this folder, for a user who named none; empty if there are none."""
    names = [printable(item.name) for item in find_models() if item.model.exists()]
    more = f" and {len(names) - 3} more (bullet list)" if len(names) > 3 else ""
    return f"To talk with a model of this folder: bullet chat NAME, with the name {', '.join(names[:3])}{more}." if names else ""


class Conversation:
    """The messages of a conversation and the session whose KV cache holds them.

    Attributes:
        sampling: how answers are generated; each turn uses the next seed, so that a repeated question gets another answer. The first
            turn after a change of the seed uses the seed itself.
        messages: user and assistant messages in turn.
        session: state of the last answer: token counts, reused tokens, finish reason.
        note: what was left out of the prompt of the last answer because the context is too small; None if nothing was.
    """

    def __init__(self, model: Model, sampling: Sampling, system: str | None = None) -> None:
        self.sampling = sampling
        self.messages: list[dict[str, str]] = []
        self.session = Session(model)
        self._model = model
        self._saved: set[Path] = set()
        self._system = [{"role": "system", "content": system}] if system else []
        self.note: str | None = None
        self._turn = 0

    def ask(self, text: str) -> Iterator[str]:
        """Yield the answer in pieces.

        If the generator is closed early (Ctrl-C), the text generated so far is kept as the answer; if there is none, the question
        is removed as well.
        """
        self.messages.append({"role": "user", "content": text})
        parts: list[str] = []
        try:
            sampling = replace(self.sampling, seed=self.sampling.seed + self._turn)
            prompt = chat_prompt(self._model, [*self._system, *self.messages], sampling.max_tokens)
            self.note = prompt.note(self._model)
            for token in self.session.generate(prompt.ids, sampling, keep=prompt.keep):
                parts.append(token.text)
                yield token.text
        finally:
            self._turn += 1
            if answer := "".join(parts).strip():
                self.messages.append({"role": "assistant", "content": answer})
            else:
                self.messages.pop()

    def change(self, setting: str, value: str) -> None:
        """Give a setting, which is one of SETTINGS, another value.

        Raises:
            BulletError: there is no such setting, or the value is not a number or out of range.
        """
        self.sampling = _changed(self.sampling, setting, value)
        if setting == "seed":
            self._turn = 0

    def reset(self) -> None:
        """Remove all messages except the system message. The next conversation does not replace the files of this one."""
        self.messages, self._turn = [], 0
        self._saved.clear()

    def save(self, path: Path) -> None:
        """Write the conversation as JSON (if `path` ends in .json) or as plain text.

        Raises:
            BulletError: there is nothing to write, or a file of this name that this chat has not written; or it cannot be written.
        """
        import json

        from bulletlm.files import write_text

        messages = [*self._system, *self.messages]
        if not self.messages:
            raise BulletError("there is nothing to save: the conversation is empty")
        if "\0" in str(path):
            raise BulletError(f"{path} has a character that no file name can have: choose another name")
        place = path.absolute()
        if os.path.lexists(path) and place not in self._saved:
            raise BulletError(f"{path} exists and is not overwritten: choose another name")
        as_json = path.suffix == ".json"
        write_text(path, json.dumps({"messages": messages}, ensure_ascii=False, indent=2) + "\n" if as_json else _readable(messages))
        self._saved.add(place)


def _answer(conversation: Conversation, question: str, terminal: bool) -> None:
    """Print an answer while it is generated; in a terminal Ctrl-C ends this answer and the chat continues."""
    started = time.monotonic()
    pieces = conversation.ask(question)
    wrapper, failed = WordWrapper(_columns) if terminal else None, False
    try:
        for text in pieces:
            if conversation.note:
                echo(f"note: {conversation.note}", to_stderr=True)
                conversation.note = None
            sys.stdout.write(wrapper.feed(model_text(text)) if wrapper else model_text(text))
            sys.stdout.flush()
    except KeyboardInterrupt:
        if not terminal:
            raise
    except BulletError as error:
        failed = True
        print(printable(str(error)), end="")
    finally:
        pieces.close()  # type: ignore[attr-defined]
        if wrapper:
            sys.stdout.write(wrapper.finish())
    count, seconds = conversation.session.completion_tokens, max(time.monotonic() - started, 1e-9)
    print(f"\n\033[2m{count} tokens, {count / seconds:,.0f} tokens/s\033[0m\n" if terminal and not failed else "")


def _columns() -> int:
    """The present width of the terminal."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except OSError:
        return 80


def _lines(terminal: bool) -> Iterator[str]:
    """Yield the messages of the input that are not empty. In a pipe, each line is one."""
    read = _reader() if terminal else input
    while True:
        try:
            line = read()
        except EOFError:
            if terminal:
                print()
            return
        except KeyboardInterrupt:
            if not terminal:
                raise
            print("\n(/exit or Ctrl-D quits)")
            continue
        except UnicodeDecodeError:
            raise BulletError("standard input is not UTF-8 text: send UTF-8") from None
        if line.strip():
            yield line.strip()


def _reader() -> Callable[[], str]:
    """A function that reads a message in a terminal: with prompt_toolkit if it is installed, else with Python's own `input`."""
    if os.environ.get("TERM", "dumb") != "dumb":
        with contextlib.suppress(ImportError):
            from bulletlm.cli.editor import open_editor

            return open_editor(PROMPT, COMMANDS, SETTINGS, sys.stdout)
    with contextlib.suppress(ImportError):  # Windows has its own editing keys
        import readline  # noqa: F401 - gives input() its history and editing keys
    return lambda: input(PROMPT)


def _command(line: str, conversation: Conversation) -> str:
    """Run a line that begins with / and return the text to print."""
    name, _, rest = line.partition(" ")
    words = rest.split()
    if name == "/reset" and not words:
        conversation.reset()
        return "started a new conversation"
    if name == "/save" and words:
        path = expand_home(rest.strip())
        conversation.save(path)
        return f"wrote {path}"
    if name == "/set" and not words:
        return "\n".join(f"{setting} {_shown(getattr(conversation.sampling, setting))}" for setting in SETTINGS)
    if name == "/set" and len(words) == 2:
        conversation.change(words[0].replace("-", "_"), words[1])
        return f"{words[0]} {words[1]}"
    return HELP if name == "/help" else f"{line}: not a command\n{HELP}"


def _shown(value: float) -> str:
    """A setting as /set accepts it: every digit of a whole number, since a seed has ten."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _changed(sampling: Sampling, setting: str, value: str) -> Sampling:
    """The sampling with another value of a setting, which is one of SETTINGS.

    Raises:
        BulletError: there is no such setting, or the value is not a number or out of range.
    """
    if setting not in SETTINGS:
        raise BulletError(f"there is no setting {setting}: /help lists the settings")
    try:
        number: float | int = int(value) if isinstance(getattr(sampling, setting), int) else float(value)
    except ValueError:
        raise BulletError(f"{value} is not a valid number for {setting}") from None
    return replace(sampling, **{setting: number})  # type: ignore[arg-type]


def _readable(messages: list[dict[str, str]]) -> str:
    """The messages as plain text, each after its role."""
    return "".join(f"{message['role']}: {message['content']}\n\n" for message in messages)
