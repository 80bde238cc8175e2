"""Answers of /api/chat and /api/generate in Ollama's format: one JSON object, or a stream of one JSON object per line."""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from bulletlm.runtime import Token
from bulletlm.serve.answers import Choice, Usage
from bulletlm.serve.errors import ApiError
from bulletlm.serve.openai.formats import logprob_entries
from bulletlm.text.tokenizer import Tokenizer


def timestamp(seconds: float | None = None) -> str:
    """A time (by default the present) as RFC 3339, with Z for UTC."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


class OllamaFormat:
    """Answers of /api/chat and /api/generate.

    Args:
        tokenizer: the model's.
        model: the model's name.
        chat: whether the answer is a message (/api/chat) or a text (/api/generate).
        arrived: when the request arrived, by time.monotonic().
        top: number of likeliest tokens reported with each token; None reports no log-probabilities.
    """

    media_type = "application/x-ndjson"

    def __init__(self, tokenizer: Tokenizer, model: str, chat: bool, arrived: float, top: int | None) -> None:
        self.tokenizer, self.model, self.chat, self.arrived, self.top = tokenizer, model, chat, arrived, top
        self._begun: float | None = None
        self._reason = ""

    def body(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        self._reason = choices[0].finish_reason
        return {**self._line(choices[0].tokens), **self._end(usage)}

    def opening(self) -> bytes:
        self._begun = time.monotonic()
        return b""

    def batch(self, index: int, tokens: Sequence[Token]) -> bytes:
        if self.top is None and not any(token.text for token in tokens):
            return b""
        return _encode({**self._line(tokens), "done": False})

    def finish(self, index: int, finish_reason: str) -> bytes:
        self._reason = finish_reason
        return b""

    def closing(self, usage: Usage) -> bytes:
        return _encode({**self._line(()), **self._end(usage)})

    def error(self, error: ApiError) -> bytes:
        return _encode({"error": error.message})

    def _line(self, tokens: Sequence[Token]) -> dict[str, Any]:
        text = "".join(token.text for token in tokens)
        answer: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"response": text}
        if self.top is not None and tokens:
            answer["logprobs"] = logprob_entries(self.tokenizer, tokens)
        return {"model": self.model, "created_at": timestamp(), **answer}

    def _end(self, usage: Usage) -> dict[str, Any]:
        now = time.monotonic()
        begun = self._begun or now
        return {
            "done": True,
            "done_reason": self._reason,
            "total_duration": _nanoseconds(now - self.arrived),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt,
            "prompt_eval_duration": _nanoseconds(begun - self.arrived),
            "eval_count": usage.completion,
            "eval_duration": _nanoseconds(now - begun),
            "omitted_messages": usage.omitted,
        }


def _nanoseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


def _encode(line: dict[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
