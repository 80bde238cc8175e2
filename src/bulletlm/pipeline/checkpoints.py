"""The kept checkpoints of a run: what each is worth, and its weights for the export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from bulletlm.config.schema import Config
from bulletlm.data.tokens import open_tokens, read_index, vocabulary_size
from bulletlm.errors import BulletError, ConfigError
from bulletlm.evaluate.behaviour import Questions, ask, describe
from bulletlm.evaluate.perplexity import score
from bulletlm.evaluate.prompts import load_prompts
from bulletlm.evaluate.question_pairs import choose_pairs
from bulletlm.evaluate.report import read_texts, trained_languages
from bulletlm.progress import Progress
from bulletlm.runtime import Model, NumpyEngine, Sampling
from bulletlm.shape import ModelShape
from bulletlm.terminal import printable
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.train.checkpoint import list_checkpoints, load_checkpoint

BEST = "best"

RATES = ("right_language", "loops", "invented_words", "on_topic", "copied")
"""Checks of the answers that the list shows."""


class CheckpointRow(TypedDict):
    """A kept checkpoint: its losses on the validation text, and checks of its answers (None where a check does not apply)."""

    name: str
    step: int
    weights: str
    loss: float
    perplexity: float
    bits_per_byte: float | None
    question_use: float | None
    answer_fit: float | None
    rates: dict[str, float | None]
    used: bool


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The better weights of a checkpoint.

    Attributes:
        tensors: float32 arrays by name.
        facts: step, val_loss (nats per token) and weights ("raw" or "ema"), for the metadata of a model.
    """

    tensors: dict[str, npt.NDArray[np.float32]]
    facts: dict[str, Any]


def checkpoint_names(folder: Path) -> list[str]:
    """The names of the kept checkpoints of a run folder, the best first and then by step."""
    checkpoints = folder / "checkpoints"
    best = [BEST] if (checkpoints / BEST / "state.json").is_file() else []
    return [*best, *(path.name for _, path in list_checkpoints(checkpoints))]


def read_weights(folder: Path, name: str, shape: ModelShape, progress: Progress) -> Weights:
    """The weights of a checkpoint. If it has raw and averaged weights, those with the lower loss on the validation text.

    Args:
        folder: the run folder.
        name: "best", or a numbered one such as "step-002500"; leading zeros may be missing.
        shape: shape of the model.
        progress: shows the bar.

    Raises:
        ConfigError: there is no such checkpoint, or the run trains with rounded weights, so that only the best ones are exact.
        BulletError: it is damaged.
    """
    names = {_without_zeros(each): each for each in checkpoint_names(folder)}
    if _without_zeros(name) not in names:
        kept = ", ".join(names.values()) or "none"
        raise ConfigError(f"evaluate.checkpoint: {printable(name)} is not kept in {folder / 'checkpoints'} (there are: {kept})")
    name = names[_without_zeros(name)]
    found = load_checkpoint(folder / "checkpoints" / name)
    if name == BEST:
        tensors = {each: found.tensors["model"][each].numpy() for each in shape.tensors()}
        return Weights(tensors=tensors, facts={key: value for key, value in found.state.items() if key != "key"})
    best = load_checkpoint(folder / "checkpoints" / BEST).state if (folder / "checkpoints" / BEST / "state.json").is_file() else {}
    if best.get("qat_start") is not None:
        raise ConfigError(f"evaluate.checkpoint: this run trains with 4-bit weights (qat.start), so only {BEST} can be exported")
    tokenizer, held_out = Tokenizer.load(folder / "tokenizer" / "tokenizer.model"), open_tokens(folder / "tokens", "val")
    scored = []
    for which, file in (("raw", "model"), ("ema", "ema")):
        if file in found.tensors:
            tensors = {each: found.tensors[file][each].float().numpy() for each in shape.tensors()}
            loss = score(NumpyEngine(shape, tensors), held_out, tokenizer, progress).total.loss
            scored.append((loss, which, tensors))
    loss, which, tensors = min(scored, key=lambda each: each[0])
    step = int(found.state["position"]["step"])
    facts: dict[str, Any] = {"step": step, "val_loss": loss, "weights": which}
    if best.get("step"):
        facts["tokens_seen"] = int(best["tokens_seen"]) * step // int(best["step"])
    return Weights(tensors=tensors, facts=facts)


def _without_zeros(name: str) -> str:
    head, dash, number = name.partition("-")
    return f"{head}-{int(number)}" if dash and number.isdecimal() else name


def evaluate_checkpoints(folder: Path, config: Config, progress: Progress) -> list[CheckpointRow]:
    """Measure every kept checkpoint: loss on the validation text, and checks of its answers to the prompts.

    Raises:
        BulletError: `folder` has no checkpoints, or one is damaged.
    """
    names = checkpoint_names(folder)
    if not names:
        raise BulletError(f"{folder} has no checkpoints: run its configuration")
    shape = config.model.shape(vocabulary_size(folder / "tokens"))
    tokenizer, held_out = Tokenizer.load(folder / "tokenizer" / "tokenizer.model"), open_tokens(folder / "tokens", "val")
    sampling = Sampling(**config.sampling.model_dump(), seed=config.seed)
    texts, languages = read_texts(folder / "data"), trained_languages(read_index(folder / "tokens"))
    questions = Questions(
        prompts=load_prompts(config.evaluate.prompts),
        facts=[],
        pairs=choose_pairs(texts.held_out, languages, tokenizer, shape.max_seq_len, config.seed),
        sampling=sampling,
        seed=config.seed,
    )
    rows: list[CheckpointRow] = []
    for name in names:
        if name != BEST and rows and rows[0]["name"] == BEST and _without_zeros(name) == f"step-{rows[0]['step']}":
            continue  # the best one is a copy of it
        found = read_weights(folder, name, shape, progress)
        engine = NumpyEngine(shape, found.tensors)
        quality = score(engine, held_out, tokenizer, progress).total
        answers = ask(Model(engine, tokenizer, shape, sampling, {}), questions, progress)
        behaviour = describe(questions, answers, answers, texts, languages).behaviour
        rates = {each: rate["bq4"]["value"] if (rate := behaviour["rates"][each]) else None for each in RATES}
        rows.append(
            {
                "name": name,
                "step": int(found.facts["step"]),
                "weights": str(found.facts["weights"]),
                **quality.to_dict(),
                "answer_fit": fit["rate"]["bq4"]["value"] if (fit := behaviour["answer_fit"]) else None,
                "question_use": answers.question_use.value if answers.question_use else None,
                "rates": rates,
                "used": _without_zeros(name) == _without_zeros(config.evaluate.checkpoint),
            }
        )
    return rows
