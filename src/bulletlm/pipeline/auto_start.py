"""The choice of `bullet run FOLDER` when the run starts from an existing model: shape and vocabulary are the model's.

Only passes, batch, validation and QAT are chosen for the text, the machine and the time.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bulletlm.config.schema import Config
from bulletlm.data.survey import Survey
from bulletlm.errors import ConfigError
from bulletlm.formats.packaged import BASE, packaged_model
from bulletlm.pipeline.auto import (
    CALIBRATION_PASSES,
    CLEARLY_BETTER,
    LEAST_SEQUENCES,
    LEAST_STEPS,
    REPORT_TOKENS,
    VALIDATIONS,
    Choice,
    DataPlan,
    Request,
    Text,
    batch_words,
    choose,
    format_number,
    given_qat,
    given_training,
    machine_and_file_notes,
    mark_given,
    model_file_mb,
    plan_data,
    put_given,
    source_entries,
    text_facts,
    text_line,
    wanted_vocabulary,
)
from bulletlm.pipeline.plan import load_law
from bulletlm.pipeline.qat import FEWEST_STEPS, MOST_STEPS
from bulletlm.pipeline.start import FINE_TUNING, GENERAL_LANGUAGES, GENERAL_SHARE, Parent, describe, read_parent, resolve
from bulletlm.progress import SilentProgress, format_duration
from bulletlm.shape import ModelShape
from bulletlm.terminal import printable
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.train.scaling import effective_tokens
from bulletlm.train.schedule import sequences_per_step

LEAST_KNOWN_SHARE = 0.8
"""Share of the text in the languages of the packaged model from which on a run starts from it."""

MOST_EPOCHS = 6
"""Passes over the text at most; early stopping ends a run that stops improving."""

WANTED_STEPS = 300
GENERAL_CHARACTERS = 3_540_000
"""Of the general text (the corpus of the package), which is Marathi and English."""

GENERAL_SECONDS = 8.0
"""Time to read and clean the general text."""

QAT_TOKENS_PER_STEP = 1_024
QAT_SHARE = 0.08
"""Share of the time for QAT at most."""

CALIBRATION_SHARE = 0.1
"""Share of the time for calibration at most."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A model from which the run may start.

    Attributes:
        where: value of model.start_from.
        shape: its shape.
        tokenizer: its tokenizer.
        languages: codes of its languages.
        tokens: on which it was trained; 0 if unknown.
        line: the model in words.
        asked: whether the user named it; the run then starts from it in any case.
    """

    where: str
    shape: ModelShape
    tokenizer: Tokenizer
    languages: tuple[str, ...]
    tokens: int
    line: str
    asked: bool


def find_base(
    given: Mapping[str, Any], found: Survey, max_mb: float | None = None, run: Path = Path("runs/model")
) -> tuple[Base | None, str]:
    """The model from which a run over a text starts, and the reason in words, "" if there is no model to speak of.

    Args:
        given: settings that the user chose, by their full names.
        found: the text.
        max_mb: size of the model file in MB at most; None for no limit.
        run: the run folder. A run of this name in the folder above it can be the model to start from.

    Raises:
        ConfigError: a setting of the user or `max_mb` contradicts the model that he names.
        BulletError: that model cannot be read.
    """
    where = given.get("model.start_from")
    if where is not None:
        values: dict[str, Any] = {"train": {}, "name": run.name, "runs_dir": str(run.parent)}
        put_given(values, {name: value for name, value in given.items() if not name.startswith("train.")})
        config = Config.model_validate(values)
        parent = resolve(config, SilentProgress())[1]
        if parent is None:
            return None, "because --from none asks for it"
        asked = _base(str(where), parent, asked=True)
        if max_mb is not None and (size := model_file_mb(asked.shape, given)) > max_mb:
            raise ConfigError(
                f"a model that starts from {printable(asked.where)} has a file of {size:.1f} MB, and --max-mb={max_mb:g} allows less: "
                "allow more, or start from random weights with a smaller model (--from none)"
            )
        return asked, ""
    if packaged_model() is None:
        return None, ""
    fixed = [name for name in given if name == "tokenizer.vocab_size" or (name.startswith("model.") and name != "model.max_seq_len")]
    if fixed:
        return None, f"because {fixed[0]} is given, and the model {BASE} has its own"
    base = _base(BASE, read_parent(BASE, str(run.parent), run), asked=False)
    if max_mb is not None and (size := model_file_mb(base.shape, given)) > max_mb:
        return None, f"because a model that starts from {BASE} has a file of {size:.1f} MB, and --max-mb={max_mb:g} allows less"
    known = sum(share for language, share in found.languages.items() if language in base.languages)
    names = ", ".join(base.languages)
    if known < LEAST_KNOWN_SHARE:
        return None, f"because only {known:.0%} of the text is in the languages of the model {BASE} ({names})"
    return base, f"because {known:.0%} of the text is in its languages ({names}); --from none starts from random weights"


def _base(where: str, parent: Parent, asked: bool) -> Base:
    return Base(
        where=where,
        shape=parent.shape,
        tokenizer=Tokenizer(parent.tokenizer_proto),
        languages=tuple(parent.languages),
        tokens=parent.tokens_seen,
        line=describe(parent),
        asked=asked,
    )


def use_vocabulary(found: Survey, tokenizer: Tokenizer) -> Text:
    """The text as a given vocabulary spells it."""
    part = found.texts[: max(1, len(found.texts) // 4)]
    started = time.monotonic()
    characters, tokens = sum(map(len, part)), sum(len(tokenizer.encode(text)) + 1 for text in part)
    seconds = (time.monotonic() - started) * found.characters / max(1, characters)
    return Text(survey=found, vocab_size=tokenizer.vocab_size, tokens_per_character=tokens / max(1, characters), tokenize_seconds=seconds)


def scratch_is_better(choice: Choice, request: Request, text: Text) -> bool:
    """Whether the scaling law expects less loss of random weights than of the base, with as much time.

    The base's tokens count as text like the new one, so the answer is no unless there is far more text and time than it has seen.
    """
    wanted = replace(text, vocab_size=wanted_vocabulary(text.survey.characters, request.speed, request.hours))
    try:
        fresh = choose(request, wanted)
    except ConfigError:
        return False
    return float(fresh.facts["bits_per_byte"]) < (1 - CLEARLY_BETTER) * float(choice.facts["bits_per_byte"])


def choose_from(request: Request, text: Text, base: Base, reason: str) -> Choice | None:
    """Settings of a run from a model; None if the time is too short for its size.

    Args:
        request: the run.
        text: what was found, in the vocabulary of the model.
        base: the model.
        reason: why the run starts from it.
    """
    training = _plan_training(request, base, _plan_stream(request, text, base))
    return _describe(request, text, base, reason, training) if training else None


@dataclass(frozen=True, kw_only=True)
class _Stream:
    """The tokens on which the run trains.

    Attributes:
        data: what is read of the user's text.
        general: share of general text in the stream.
        tokens: training tokens of one pass, general text included.
    """

    data: DataPlan
    general: float
    tokens: float


@dataclass(frozen=True, kw_only=True)
class _Training:
    """The training for which there is time.

    Attributes:
        stream: its tokens.
        shape: of the model, with the context of the training.
        steps: optimizer steps.
        sequences: in one effective batch.
        larger_batch: whether the batch is LEAST_SEQUENCES, and would be smaller otherwise.
        qat_steps: steps of QAT; 0 for none.
        calibration: tokens for the calibration.
        step: seconds of an optimizer step.
        seconds: of each part of the run.
    """

    stream: _Stream
    shape: ModelShape
    steps: int
    sequences: int
    larger_batch: bool
    qat_steps: int
    calibration: int
    step: float
    seconds: dict[str, float]

    @property
    def per_step(self) -> int:
        """Tokens of an optimizer step."""
        return self.sequences * self.shape.max_seq_len

    @property
    def epochs(self) -> float:
        """Passes over the stream."""
        return self.steps * self.per_step / self.stream.tokens


def _plan_stream(request: Request, text: Text, base: Base) -> _Stream:
    """How much of the text is read, and the tokens that it and the general text give."""
    general = request.given.get("data.mix.general")
    if general is None:
        general = GENERAL_SHARE if set(base.languages) >= GENERAL_LANGUAGES else 0.0
    data = plan_data(request, text, base.shape, 8_000, reading=GENERAL_SECONDS if general else 0.0)
    added = min(general / (1 - general) * data.available, 4 * GENERAL_CHARACTERS * text.tokens_per_character) if general else 0.0
    return _Stream(data=data, general=float(general), tokens=data.available + added)


def _plan_training(request: Request, base: Base, stream: _Stream) -> _Training | None:
    """The longest useful training in the time; None if there is too little time for any."""
    data, speed, budget = stream.data, request.speed, request.budget
    context = int(request.given.get("model.max_seq_len", min(base.shape.max_seq_len, _longest_context(stream.tokens))))
    shape = ModelShape(**{**base.shape.to_dict(), "max_seq_len": context})
    token = speed.clock.token_seconds(shape)
    exact = token * speed.exact
    calibration = min(40_000.0, stream.tokens, max(2_048.0, CALIBRATION_SHARE * budget / (CALIBRATION_PASSES * exact)))
    report = exact * (REPORT_TOKENS + data.validation)
    validations = (VALIDATIONS + 1) * data.validation * exact
    qat_step = speed.qat * exact * QAT_TOKENS_PER_STEP
    qat_steps = int(min(MOST_STEPS, QAT_SHARE * budget / qat_step))
    qat_steps = given_qat(request, qat_steps if qat_steps >= FEWEST_STEPS else 0)
    fixed = data.seconds + exact * CALIBRATION_PASSES * calibration + report
    room = budget - fixed - validations - qat_steps * qat_step
    if room <= 0:
        return None
    most_tokens = MOST_EPOCHS * stream.tokens
    wanted = 1 << int(math.log2(max(1.0, min(8_192.0, min(most_tokens, room / token) / WANTED_STEPS) / context)))
    sequences = max(wanted, min(LEAST_SEQUENCES, int(stream.tokens / context)))
    step = speed.clock.seconds(shape, Config.model_validate({"train": _train_settings(sequences)}).train)
    most_steps = int(most_tokens / (sequences * context))
    steps = min(most_steps, int(room / step))
    if not steps or steps * sequences < min(LEAST_STEPS, most_steps * sequences):
        return None  # so little training is only enough for a text that needs no more
    steps, train = given_training(request, _train_settings(sequences), steps, int(stream.tokens / context))
    step = speed.clock.seconds(shape, train)
    seconds = data.parts(
        training=steps * step + validations,
        quantization=exact * CALIBRATION_PASSES * calibration,
        qat=qat_steps * qat_step,
        report=report,
    )
    return _Training(
        stream=stream,
        shape=shape,
        steps=steps,
        sequences=sequences_per_step(train),
        larger_batch=wanted < sequences == sequences_per_step(train),
        qat_steps=qat_steps,
        calibration=int(max(1_024, calibration)),
        step=step,
        seconds=seconds,
    )


def _describe(request: Request, text: Text, base: Base, reason: str, training: _Training) -> Choice:
    """The choice as settings, and in words; `reason` is why the run starts from the model."""
    return Choice(
        values=_settings(request, base, training),
        why=mark_given(_reasons(training), request.given),
        lines=_lines(request, text, base, reason, training),
        notes=machine_and_file_notes(request, text.survey),
        seconds=training.seconds,
        facts=_facts(request, text, base, reason, training),
    )


def _settings(request: Request, base: Base, training: _Training) -> dict[str, Any]:
    """The settings, as in a configuration file."""
    stream, steps, context = training.stream, training.steps, training.shape.max_seq_len
    every = max(1, math.ceil(steps / VALIDATIONS))
    schedule = {
        "total_steps": steps,
        "warmup_steps": min(int(FINE_TUNING["warmup_steps"]), max(1, steps // 10)),
        "eval_every_steps": every,
        "save_every_steps": 5 * every,
    }
    values: dict[str, Any] = {
        "name": request.name,
        "data": {
            "sources": source_entries(request.sources, stream.data.share),
            "val_tokens": stream.data.validation,
            "mix": {"general": stream.general},
        },
        "model": {"start_from": base.where, **({"max_seq_len": context} if context != base.shape.max_seq_len else {})},
        "train": _train_settings(training.sequences) | schedule,
        "quant": {"calibration_tokens": training.calibration},
        "qat": {"steps": training.qat_steps, "tokens_per_step": QAT_TOKENS_PER_STEP},
    }
    put_given(values, request.given)
    return values


def _lines(request: Request, text: Text, base: Base, reason: str, training: _Training) -> list[str]:
    """What was chosen, in four lines."""
    stream, whole = training.stream, request.spent + sum(training.seconds.values())
    rate = format_number(training.per_step / training.step)
    size = model_file_mb(training.shape, request.given)
    batch = batch_words(training.sequences, training.larger_batch)
    mixed = f", {stream.general:.0%} of them general text against forgetting" if stream.general else ""
    no_qat = "; no QAT" if "qat.steps" in request.given else "; no QAT in this time"
    qat = f"; {training.qat_steps:,} steps of QAT" if training.qat_steps else no_qat
    return [
        text_line(text.survey, stream.data.share),
        f"machine   {request.speed.words}: about {rate} tokens/s with this model",
        f"start     {printable(base.line)}{': ' + reason if reason else ''}; the new file has about {size:.2g} MB",
        f"training  at most {training.steps:,} steps of {training.per_step:,} tokens{batch}, {training.epochs:.1f} times over "
        f"{format_number(stream.tokens)} tokens{mixed}{qat}; about {format_duration(whole)} in all, of "
        f"{format_duration(3600 * request.hours)}",
    ]


def _reasons(training: _Training) -> dict[str, str]:
    """The reasons for the settings, by their full names."""
    seconds = format_duration(training.seconds["training"])
    return {
        "data.val_tokens": "held out to measure the model",
        "data.mix": "share of general text, so that the model does not forget what it knows",
        "model": "shape and vocabulary are those of the model to start from",
        "train.total_steps": f"{training.epochs:.1f} times over the text, about {seconds} on this machine",
        "train.patience_early_stop": "ends the run when the validation loss stops falling",
        "qat.steps": "what the time allows",
    }


def _facts(request: Request, text: Text, base: Base, reason: str, training: _Training) -> dict[str, Any]:
    """The choice, for programs."""
    stream, shape, tokens = training.stream, training.shape, training.steps * training.per_step
    learned = base.tokens + effective_tokens(tokens, stream.tokens)
    return {
        "text": text_facts(text.survey, stream.data.available, stream.data.share),
        "machine": {"cores": request.speed.cores, "description": request.speed.words},
        "start": {"from": base.where, "reason": reason, "general": stream.general},
        "parameters": shape.n_parameters,
        "model_file_mb": round(model_file_mb(shape, request.given), 3),
        "steps": training.steps,
        "tokens": tokens,
        "epochs": training.epochs,
        "qat_steps": training.qat_steps,
        "bits_per_byte": load_law()[0].loss(shape.n_parameters, learned),
        "seconds": {**training.seconds, "total": request.spent + sum(training.seconds.values())},
        "hours": request.hours,
    }


def _longest_context(tokens: float) -> int:
    """The longest context with which a text of that many tokens has enough windows; a power of two."""
    return 1 << int(math.log2(max(32.0, tokens / 8)))


def _train_settings(sequences: int) -> dict[str, Any]:
    """Settings of fine-tuning, with an effective batch in passes of at most 16 sequences; the number of steps takes the place of epochs."""
    at_once = max(n for n in range(1, min(16, sequences) + 1) if sequences % n == 0)
    batch = {"batch_size_per_device": at_once, "gradient_accumulation_steps": sequences // at_once}
    return {name: value for name, value in (FINE_TUNING | batch).items() if name != "epochs"}
