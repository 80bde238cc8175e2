"""Tokens in the shapes of OpenAI's answers."""

import codecs
from collections.abc import Iterator, Sequence
from typing import Any

from bulletlm.runtime import Token
from bulletlm.text.tokenizer import SPECIAL_TOKENS, Tokenizer

FLOOR = -9999.0
"""What OpenAI says for minus infinity, which JSON does not have."""


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; bytes that are not whole characters as `bytes:\\xe0\\xa4`, and marks by their names."""
    raw = tokenizer.decode_bytes([token])
    try:
        return raw.decode() or SPECIAL_TOKENS[token]
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class ChatShape:
    """Answers of /v1/chat/completions. `top` likeliest tokens go with each token; None: no log-probabilities."""

    plain, chunk, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, tokenizer: Tokenizer, top: int | None) -> None:
        self.tokenizer, self.top = tokenizer, top

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a stream begins with."""
        return {"index": index, "delta": {"role": "assistant", "content": "", "refusal": None}, "logprobs": None, "finish_reason": None}

    def part(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        """What a stream says about new tokens."""
        text = "".join(token.text for token in tokens)
        return {"index": index, "delta": {"content": text}, "logprobs": self._logprobs(tokens), "finish_reason": None}

    def closing(self, index: int, finish_reason: str) -> dict[str, Any]:
        """What a stream ends with."""
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish_reason}

    def whole(self, index: int, tokens: Sequence[Token], finish_reason: str) -> dict[str, Any]:
        """A choice of a plain answer."""
        message = {"role": "assistant", "content": "".join(token.text for token in tokens), "refusal": None}
        return {"index": index, "message": message, "logprobs": self._logprobs(tokens), "finish_reason": finish_reason}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.top is None:
            return None
        content = [
            {**self._entry(token.id, token.logprob), "top_logprobs": [self._entry(id, value) for id, value in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        assert logprob is not None
        raw = list(self.tokenizer.decode_bytes([token]))
        return {"token": token_text(self.tokenizer, token), "logprob": max(logprob, FLOOR), "bytes": raw}


class TextShape:
    """Answers of /v1/completions; `echo` holds the texts that come before each choice."""

    plain = chunk = "text_completion"
    prefix = "cmpl"

    def __init__(self, tokenizer: Tokenizer, top: int | None, echo: Sequence[str]) -> None:
        self.tokenizer, self.top, self.echo = tokenizer, top, echo
        self._places = [_Places(tokenizer) for _ in echo]

    def opening(self, index: int) -> dict[str, Any] | None:
        return {"index": index, "text": self.echo[index], "logprobs": None, "finish_reason": None} if self.echo[index] else None

    def part(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        text = "".join(token.text for token in tokens)
        return {"index": index, "text": text, "logprobs": self._logprobs(index, tokens), "finish_reason": None}

    def closing(self, index: int, finish_reason: str) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": finish_reason}

    def whole(self, index: int, tokens: Sequence[Token], finish_reason: str) -> dict[str, Any]:
        choice = self.part(index, tokens)
        return {**choice, "text": self.echo[index] + choice["text"], "finish_reason": finish_reason}

    def _logprobs(self, index: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.top is None:
            return None
        texts = [token_text(self.tokenizer, token.id) for token in tokens]
        values = [max(token.logprob or 0.0, FLOOR) for token in tokens]
        likeliest = None
        if self.top:
            # As in OpenAI's answers, the token that was chosen is always among them.
            likeliest = [
                {text: value, **{token_text(self.tokenizer, id): max(other, FLOOR) for id, other in reversed(token.top)}}
                for token, text, value in zip(tokens, texts, values, strict=True)
            ]
        return {
            "tokens": texts,
            "token_logprobs": values,
            "top_logprobs": likeliest,
            "text_offset": list(self._places[index].of(tokens)),
        }


class _Places:
    """Where each token begins in the text so far, in characters; a token inside a character begins with that character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._decoder, self._at = tokenizer, codecs.getincrementaldecoder("utf-8")(errors="replace"), 0

    def of(self, tokens: Sequence[Token]) -> Iterator[int]:
        for token in tokens:
            raw = self._tokenizer.decode_bytes([token.id])
            new = self._decoder.decode(raw)
            # Broken bytes before a token only now became U+FFFD, and the token itself begins behind that.
            own = len(raw.decode(errors="replace"))
            yield self._at + max(0, len(new) - own)
            self._at += len(new)
