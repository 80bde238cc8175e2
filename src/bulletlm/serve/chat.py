"""Generation and chat in a terminal, or in a plain pipe."""

import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bulletlm.data.chat import encode_prompt
from bulletlm.data.normalize import normalize
from bulletlm.errors import BulletError
from bulletlm.runtime import Model, Sampling, Session, load
from bulletlm.tokenizer import BOS

HELP = """/reset             forget the conversation
/set NAME VALUE    change temperature, top_k, top_p, min_p, repetition_penalty or max_tokens
/help              this list
/exit              leave (Ctrl-D does too)"""


def generate_once(file: Path, prompt: str, raw: bool, **changes: Any) -> None:
    """Print one generation as it comes."""
    model = load(file)
    sampling = _sampling(model, changes)
    message = {"role": "user", "content": prompt}
    ids = [BOS, *model.tokenizer.encode(normalize(prompt))] if raw else encode_prompt(model.tokenizer, [message])
    for token in Session(model).generate(ids, sampling):
        print(token.text, end="", flush=True)
    print()


def chat_loop(file: Path, **changes: Any) -> None:
    """Read questions and stream answers until the input ends."""
    model = load(file)
    sampling = _sampling(model, changes)
    interactive = sys.stdin.isatty()
    if interactive:
        name = model.header.get("name", file.name)
        print(f"{name}, {model.shape.n_parameters / 1e6:.1f}M parameters. /help lists the commands, Ctrl-D leaves.\n")
    messages: list[dict[str, str]] = []
    turn = 0
    for line in _lines(interactive):
        if line.startswith("/"):
            if line in ("/exit", "/quit"):
                return
            try:
                messages, sampling = _command(line, messages, sampling)
            except BulletError as error:
                print(error)
            continue
        messages.append({"role": "user", "content": line})
        answer = _answer(model, messages, replace(sampling, seed=sampling.seed + turn), interactive)
        messages = [*messages, {"role": "assistant", "content": answer}] if answer else messages[:-1]
        turn += 1


def _answer(model: Model, messages: list[dict[str, str]], sampling: Sampling, interactive: bool) -> str:
    """Stream the answer; Ctrl-C ends this answer, not the program."""
    parts: list[str] = []
    started, session = time.monotonic(), Session(model)
    try:
        for token in session.generate(_fitting_prompt(model, messages, sampling), sampling):
            parts.append(token.text)
            print(token.text, end="", flush=True)
    except KeyboardInterrupt:
        if not interactive:
            raise
    print(f"\n({session.completion_tokens / max(time.monotonic() - started, 1e-9):,.0f} tokens/s)\n" if interactive else "")
    return "".join(parts).strip()


def _fitting_prompt(model: Model, messages: list[dict[str, str]], sampling: Sampling) -> list[int]:
    """The prompt of as many of the last turns as leave room for half an answer in the model's context."""
    room = model.shape.max_seq_len - min(sampling.max_tokens, model.shape.max_seq_len) // 2
    ids = encode_prompt(model.tokenizer, messages)
    while len(ids) > room and len(messages) > 2:
        messages = messages[2:]
        ids = encode_prompt(model.tokenizer, messages)
    return ids


def _lines(interactive: bool) -> Iterator[str]:
    """Non-empty lines of the input."""
    if interactive:
        import readline  # noqa: F401 - gives input() its history and editing keys
    while True:
        try:
            line = input("> " if interactive else "")
        except EOFError:
            if interactive:
                print()
            return
        except KeyboardInterrupt:
            print("\n(/exit or Ctrl-D leaves)")
            continue
        except UnicodeDecodeError:
            raise BulletError("the input is not UTF-8 text: send UTF-8") from None
        if line.strip():
            yield line.strip()


def _command(line: str, messages: list[dict[str, str]], sampling: Sampling) -> tuple[list[dict[str, str]], Sampling]:
    name, *words = line.split()
    if name == "/reset":
        print("forgotten")
        return [], sampling
    if name == "/set" and len(words) == 2:
        field, value = words[0].replace("-", "_"), words[1]
        if field not in Sampling.__dataclass_fields__:
            raise BulletError(f"there is no {field}: /help lists what can be set")
        try:
            number: float | int = int(value) if isinstance(getattr(sampling, field), int) else float(value)
        except ValueError:
            raise BulletError(f"{value} is not a number that {field} can be") from None
        return messages, replace(sampling, **{field: number})  # type: ignore[arg-type]
    print(HELP if name == "/help" else f"{line}: not a command\n{HELP}")
    return messages, sampling


def _sampling(model: Model, changes: dict[str, Any]) -> Sampling:
    """The file's defaults with what the user asked for; a new seed each time unless one is given."""
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(model.sampling, **{"seed": secrets.randbits(31), **given})
