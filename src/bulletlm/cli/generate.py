"""`bullet generate`: generate one text from one prompt."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bulletlm.cli.models import find_model
from bulletlm.runtime.model import Model, load
from bulletlm.runtime.prompt import chat_prompt, text_prompt
from bulletlm.runtime.sampling import Sampling
from bulletlm.runtime.session import Session
from bulletlm.terminal import echo, model_text, printable_json


def generate(
    file: Path,
    /,
    *,
    prompt: str,
    raw: bool = False,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    stop: tuple[str, ...] = (),
    seed: int | None = None,
    whole_letters: bool = False,
    turbo: bool = False,
    json: bool = False,
) -> None:
    """Generate text from a model file.

    Example: bullet generate demo -p "मैत्री म्हणजे काय?" --seed 1

    Args:
        file: The name of a run or model here (`bullet list` shows them), a .bullet file, or the export/npy folder of a run.
        prompt: The question to answer; with --raw, the text to continue.
        raw: Continue the prompt as plain text instead of answering it as a chat message.
        max_tokens: Largest number of tokens to generate.
        temperature: Randomness of the choice of tokens; 0 always takes the most likely token.
        top_k: Keep only the k most likely tokens; 0 keeps all.
        top_p: Keep the most likely tokens that together reach this probability.
        min_p: Drop tokens whose probability is below this share of the most likely token's.
        repetition_penalty: Values above 1 make recent tokens less likely.
        presence_penalty: Subtracted from the logits of recent tokens; values below 0 make them more likely.
        frequency_penalty: Subtracted from the logits of recent tokens as often as they occur.
        stop: Stop before this text; can be given several times.
        seed: The same seed gives the same text; default: a new seed each time.
        whole_letters: Never start a token with a Devanagari combining mark that has no base letter.
        turbo: Use 8-bit activations in the native engine: faster, slightly less exact.
        json: Print the text, token counts, time and seed as JSON.
    """
    model = load(find_model(file), turbo=turbo)
    given = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "seed": seed,
    }
    sampling = replace(sampling_for(model, given), whole_letters=whole_letters)
    session = Session(model)
    if raw:
        fitted = text_prompt(model, prompt, sampling.max_tokens)
    else:
        fitted = chat_prompt(model, [{"role": "user", "content": prompt}], sampling.max_tokens)
    if note := fitted.note(model):
        echo(f"note: {note}", to_stderr=True)
    started = time.monotonic()
    parts = []
    for token in session.generate(fitted.ids, sampling, stop=stop, keep=fitted.keep):
        parts.append(token.text)
        if not json and token.text:
            sys.stdout.write(model_text(token.text))
            sys.stdout.flush()
    seconds = time.monotonic() - started
    if json:
        result = {
            "text": "".join(parts),
            "finish_reason": session.finish_reason,
            "prompt_tokens": session.prompt_tokens,
            "omitted_prompt_tokens": fitted.omitted_tokens,
            "completion_tokens": session.completion_tokens,
            "seconds": round(seconds, 4),
            "seed": sampling.seed,
        }
        sys.stdout.write(printable_json(result))
    print()


def sampling_for(model: Model, given: Mapping[str, Any]) -> Sampling:
    """The file's sampling defaults overridden by the options in `given` that are not None; without a seed, a random one."""
    wanted = {name: value for name, value in given.items() if value is not None}
    return replace(model.sampling, **{"seed": int.from_bytes(os.urandom(4), "little") >> 1, **wanted})
