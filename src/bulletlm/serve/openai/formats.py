"""Answers of /v1/chat/completions and /v1/completions in OpenAI's format."""

import codecs
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bulletlm import __version__
from bulletlm.runtime import Token
from bulletlm.serve.answers import Choice, Usage
from bulletlm.serve.errors import ApiError
from bulletlm.text.tokenizer import SPECIAL_TOKENS, Tokenizer

FINGERPRINT = f"bulletlm-{__version__}"

MIN_LOGPROB = -9999.0
"""OpenAI's value for minus infinity, which JSON cannot express."""


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token's text. Bytes that are not whole characters become `bytes:\\xe0\\xa4`, special tokens their names."""
    raw = tokenizer.decode_bytes([token])
    try:
        return raw.decode() or SPECIAL_TOKENS[token]
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def logprob_entries(tokenizer: Tokenizer, tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """The log-probabilities of tokens and of the likeliest ones in their places, as answers to chats have them."""

    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        assert logprob is not None
        raw = list(tokenizer.decode_bytes([token]))
        return {"token": token_text(tokenizer, token), "logprob": max(logprob, MIN_LOGPROB), "bytes": raw}

    return [{**entry(token.id, token.logprob), "top_logprobs": [entry(id, value) for id, value in token.top]} for token in tokens]


def server_sent_event(data: dict[str, Any]) -> bytes:
    """One `data:` line of JSON."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def usage_object(usage: Usage) -> dict[str, Any]:
    """The token counts as OpenAI's clients expect them."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "omitted_messages": usage.omitted},
    }


class OpenAIFormat:
    """The parts that both interfaces share; tokens that arrive together are one event of a stream.

    Args:
        tokenizer: the model's.
        model: the model's name.
        choices: number of choices.
        top: number of likeliest tokens reported with each token; None reports no log-probabilities.
        include_usage: whether a stream ends with the token counts.
    """

    media_type = "text/event-stream"
    id_prefix: str
    object_name: str
    chunk_name: str

    def __init__(self, tokenizer: Tokenizer, model: str, choices: int, top: int | None, include_usage: bool) -> None:
        self.tokenizer, self.choices, self.top, self.include_usage = tokenizer, choices, top, include_usage
        self._head = {"id": f"{self.id_prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._head["system_fingerprint"] = FINGERPRINT

    def body(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        objects = [self._whole(index, choice) for index, choice in enumerate(choices)]
        return {**self._head, "object": self.object_name, "choices": objects, "usage": usage_object(usage)}

    def opening(self) -> bytes:
        return self._chunks(filter(None, map(self._first, range(self.choices))))

    def batch(self, index: int, tokens: Sequence[Token]) -> bytes:
        if self.top is None and not any(token.text for token in tokens):
            return b""
        return self._chunks([self._delta(index, tokens)])

    def finish(self, index: int, finish_reason: str) -> bytes:
        return self._chunks([self._last(index, finish_reason)])

    def closing(self, usage: Usage) -> bytes:
        done = b"data: [DONE]\n\n"
        if not self.include_usage:
            return done
        return server_sent_event({**self._head, "object": self.chunk_name, "choices": [], "usage": usage_object(usage)}) + done

    def error(self, error: ApiError) -> bytes:
        return server_sent_event(error.body())

    def _chunks(self, choices: Iterable[dict[str, Any]]) -> bytes:
        head: dict[str, Any] = {**self._head, "object": self.chunk_name}
        usage = {"usage": None} if self.include_usage else {}
        return b"".join(server_sent_event({**head, "choices": [choice], **usage}) for choice in choices)

    def _whole(self, index: int, choice: Choice) -> dict[str, Any]:
        raise NotImplementedError

    def _first(self, index: int) -> dict[str, Any] | None:
        raise NotImplementedError

    def _delta(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        raise NotImplementedError

    def _last(self, index: int, finish_reason: str) -> dict[str, Any]:
        raise NotImplementedError


class ChatFormat(OpenAIFormat):
    """Answers of /v1/chat/completions."""

    id_prefix, object_name, chunk_name = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _whole(self, index: int, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(token.text for token in choice.tokens), "refusal": None}
        return {"index": index, "message": message, "logprobs": self._logprobs(choice.tokens), "finish_reason": choice.finish_reason}

    def _first(self, index: int) -> dict[str, Any] | None:
        return {"index": index, "delta": {"role": "assistant", "content": "", "refusal": None}, "logprobs": None, "finish_reason": None}

    def _delta(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        text = "".join(token.text for token in tokens)
        return {"index": index, "delta": {"content": text}, "logprobs": self._logprobs(tokens), "finish_reason": None}

    def _last(self, index: int, finish_reason: str) -> dict[str, Any]:
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish_reason}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.top is None:
            return None
        return {"content": logprob_entries(self.tokenizer, tokens), "refusal": None}


class TextFormat(OpenAIFormat):
    """Answers of /v1/completions.

    Args:
        echo: the text before each choice. It is empty for a scored prompt, whose tokens come with the others.
    """

    id_prefix, object_name, chunk_name = "cmpl", "text_completion", "text_completion"

    def __init__(self, tokenizer: Tokenizer, model: str, echo: Sequence[str], top: int | None, include_usage: bool) -> None:
        super().__init__(tokenizer, model, len(echo), top, include_usage)
        self.echo = echo
        self._offsets = [_TextOffsets(tokenizer) for _ in echo]

    def _whole(self, index: int, choice: Choice) -> dict[str, Any]:
        delta = self._delta(index, choice.tokens)
        return {**delta, "text": self.echo[index] + delta["text"], "finish_reason": choice.finish_reason}

    def _first(self, index: int) -> dict[str, Any] | None:
        return {"index": index, "text": self.echo[index], "logprobs": None, "finish_reason": None} if self.echo[index] else None

    def _delta(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        text = "".join(token.text for token in tokens)
        return {"index": index, "text": text, "logprobs": self._logprobs(index, tokens), "finish_reason": None}

    def _last(self, index: int, finish_reason: str) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": finish_reason}

    def _logprobs(self, index: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.top is None:
            return None
        texts = [token_text(self.tokenizer, token.id) for token in tokens]
        # The first token of a scored prompt has no log-probability.
        values = [None if token.logprob is None else max(token.logprob, MIN_LOGPROB) for token in tokens]
        likeliest = None
        if self.top:
            # As in OpenAI's answers, the chosen token is always among the likeliest ones.
            likeliest = [
                None
                if value is None
                else {text: value, **{token_text(self.tokenizer, id): max(other, MIN_LOGPROB) for id, other in reversed(token.top)}}
                for token, text, value in zip(tokens, texts, values, strict=True)
            ]
        return {
            "tokens": texts,
            "token_logprobs": values,
            "top_logprobs": likeliest,
            "text_offset": list(self._offsets[index].of(tokens)),
        }


class _TextOffsets:
    """Return where each token begins in the text so far, in characters. A token inside a character begins where that character begins."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._decoder, self._at = tokenizer, codecs.getincrementaldecoder("utf-8")(errors="replace"), 0

    def of(self, tokens: Sequence[Token]) -> Iterator[int]:
        for token in tokens:
            raw = self._tokenizer.decode_bytes([token.id])
            new = self._decoder.decode(raw)
            # Broken bytes of earlier tokens become U+FFFD only now; this token begins after them.
            own = len(raw.decode(errors="replace"))
            yield self._at + max(0, len(new) - own)
            self._at += len(new)
