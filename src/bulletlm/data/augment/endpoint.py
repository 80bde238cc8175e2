"""Client for a model behind an OpenAI-compatible endpoint: llama.cpp, vLLM, Ollama, LM Studio, or a hosted service."""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bulletlm.errors import BulletError, ConfigError
from bulletlm.files import sha256_of_json

LANGUAGES = {
    "en": "English",
    "mr": "Marathi",
    "hi": "Hindi",
    "sa": "Sanskrit",
    "ne": "Nepali",
    "bn": "Bengali",
    "gu": "Gujarati",
    "pa": "Punjabi",
    "or": "Odia",
    "ta": "Tamil",
    "te": "Telugu",
    "kn": "Kannada",
    "ml": "Malayalam",
    "ur": "Urdu",
    "de": "German",
    "es": "Spanish",
    "fr": "French",
    "pt": "Portuguese",
    "ru": "Russian",
    "zh": "Chinese",
}

TRANSLATE = "Translate this sentence from {source} into {target}. Answer with the translation only.\n\n{sentence}"
PARAPHRASE = "Say this {source} sentence in other words, with the same meaning. Answer with the new sentence only.\n\n{sentence}"

REQUESTS_AT_ONCE = 4
TRIES = 3
_BUSY = (408, 429, 500, 502, 503, 504)
_LONGEST_ANSWER = 1 << 20
_QUOTES = {'"': '"', "“": "”"}


class ChatEndpoint:
    """Sends POST {base}/chat/completions with one message per request and temperature 0.

    Args:
        base: base URL such as http://localhost:8080/v1.
        model: name of the model in the requests.
        key_variable: environment variable that holds the API key, which is never written to a file or log; None for no key.
        timeout: seconds to wait for one answer.
        names: what the user calls the last three, for messages: "key_variable", "model" and "timeout" -> the name.
    """

    def __init__(self, base: str, model: str, key_variable: str | None, timeout: float, names: Mapping[str, str]) -> None:
        self.url = base.rstrip("/") + "/chat/completions"
        self.model, self._key_variable, self._timeout, self._names = model, key_variable, timeout, names

    def complete(self, prompts: Sequence[str]) -> list[str]:
        """Return the answer to each prompt; "" where the model gives no text.

        Raises:
            ConfigError: the environment variable of the key is not set.
            BulletError: there is no answer, or it is not valid. A request to a busy server is made three times.
        """
        headers = {"Content-Type": "application/json"}
        if self._key_variable is not None:
            key = os.environ.get(self._key_variable)
            if not key:
                raise ConfigError(f"{self._names['key_variable']}: there is no environment variable {self._key_variable}: export it first")
            headers["Authorization"] = f"Bearer {key}"
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
            asked = [threads.submit(self._ask, prompt, headers) for prompt in prompts]
            try:
                return [answer.result() for answer in asked]
            except BaseException:  # cancel the rest of the batch when one request fails, or on Ctrl-C
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, prompt: str, headers: dict[str, str]) -> str:
        question = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "seed": 0}
        answer = self._post(json.dumps(question).encode(), headers)
        try:
            text = json.loads(answer)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            shown = answer[:100].decode("utf-8", errors="replace")
            raise BulletError(f"{self.url} does not answer as an OpenAI-compatible endpoint does, but with {shown!r}") from None
        return text if isinstance(text, str) else ""

    def _post(self, body: bytes, headers: dict[str, str]) -> bytes:
        request = urllib.request.Request(self.url, body, headers)
        for attempt in range(1, TRIES + 1):
            if attempt > 1:
                time.sleep(2 ** (attempt - 2))
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as response:
                    content: bytes = response.read(_LONGEST_ANSWER)
                    return content
            except urllib.error.HTTPError as error:
                if error.code not in _BUSY or attempt == TRIES:
                    raise BulletError(_refusal(self.url, error, self.model, self._names)) from None
            except TimeoutError:
                raise BulletError(
                    f"{self.url} gave no answer in {self._timeout:g} s: raise {self._names['timeout']}, or use a faster model"
                ) from None
            except (OSError, http.client.HTTPException) as error:
                if isinstance(getattr(error, "reason", None), TimeoutError):
                    raise BulletError(f"{self.url} cannot be reached in {self._timeout:g} s: is the server running?") from None
                reason: Any = getattr(error, "reason", error)
                reason = getattr(reason, "strerror", None) or reason or type(error).__name__
                raise BulletError(f"{self.url} cannot be reached ({reason}): is the server running, and is this its base URL?") from None
        raise AssertionError("the last attempt returns or raises")


class Endpoint(ChatEndpoint):
    """Rewrites one sentence per request; the arguments are those of `ChatEndpoint`, from the settings augment.endpoint_*."""

    def __init__(self, base: str, model: str, key_variable: str | None, timeout: float) -> None:
        names = {name: f"augment.endpoint_{name}" for name in ("key_variable", "model", "timeout")}
        super().__init__(base, model, key_variable, timeout, names)
        self.identity = sha256_of_json({"base": base.rstrip("/"), "model": model, "prompts": [TRANSLATE, PARAPHRASE]})

    def rewrite(self, sentences: Sequence[str], source: str, target: str) -> list[str]:
        """Return an answer for each sentence, as `Backend.rewrite` does.

        Raises:
            ConfigError, BulletError: as `complete`.
        """
        template = PARAPHRASE if source == target else TRANSLATE
        names = {"source": LANGUAGES.get(source, source), "target": LANGUAGES.get(target, target)}
        return [_plain(answer) for answer in self.complete([template.format(sentence=sentence, **names) for sentence in sentences])]


def _refusal(url: str, error: urllib.error.HTTPError, model: str, names: Mapping[str, str]) -> str:
    hints = {
        401: f"it requires a key: set {names['key_variable']} to the environment variable that holds one",
        403: "the key is not accepted",
        404: f"is this the base URL (it often ends in /v1), and is there a model {model!r} ({names['model']})?",
    }
    try:
        said = " ".join(error.read(300).decode("utf-8", errors="replace").split())
    except OSError:
        said = ""
    return f"{url} answers {error.code} {error.reason}: {hints.get(error.code) or said or 'see its log'}"


def _plain(text: str) -> str:
    """The answer in one line, without the quotation marks that models often add."""
    text = " ".join(text.split())
    inside = text[1:-1].strip()
    quoted = text[:1] in _QUOTES and text[-1:] == _QUOTES[text[0]] and inside and not {text[0], text[-1]} & set(inside)
    return inside if quoted else text
