"""A configuration for text, made from the text, this machine and the time: vocabulary, shape, context, steps, validation, QAT.

`look` measures (text and machine); `choose` decides, from those measurements alone.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from bulletlm.config.schema import Config, DataConfig, TrainConfig
from bulletlm.data.log import REJECTIONS, Log, is_change, keep_with
from bulletlm.data.survey import Survey, survey
from bulletlm.errors import ConfigError, DataError
from bulletlm.hardware import inspect_machine
from bulletlm.pipeline.limits import MOST_EPOCHS, fed_parameters
from bulletlm.pipeline.plan import MIN_CPU_SHARE, Clock, bullet_bytes, load_law, measure
from bulletlm.pipeline.qat import FEWEST_STEPS, MOST_STEPS, SHARE_OF_TOKENS
from bulletlm.progress import Progress, format_duration
from bulletlm.shape import ModelShape
from bulletlm.terminal import printable
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer
from bulletlm.train.backend.plan import default_plan, inspect_capabilities
from bulletlm.train.scaling import Law, effective_tokens, family
from bulletlm.train.schedule import count_steps, sequences_per_step

DEFAULT_HOURS = 0.25

SAFETY = 0.8
"""Share of the time that is planned for; the rest is for other programs and errors of the estimate."""

DATA_SHARE = 0.25
"""Share of the time in which the text is read, cleaned and tokenized; of text that needs longer, only a part is read."""

VALIDATIONS = 12
"""Validations in a training."""

VALIDATION_SHARE = 0.1
"""Share of the time that the validations of a small model take at most; a slow machine gets a smaller validation set."""

FEWEST_CHARACTERS = 3_000
"""Less text is refused."""

FEW_CHARACTERS = 300_000
"""From less text than this a model learns to spell and not much else."""

VOCABULARIES = ((60_000, 600), (150_000, 800), (400_000, 1_200), (1_500_000, 2_000), (12_000_000, 4_000), (120_000_000, 8_000))
LARGEST_VOCABULARY = 16_000
"""Characters of text below which a vocabulary of that size is chosen: larger ones have tokens that occur too rarely to be learned."""

LEARNED_SHARE = 0.5
"""Share of the time that is training, roughly; how far the text is learned in it limits the vocabulary."""

CHARACTERS_PER_TOKEN = 3.0

SHAPES = (32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024)
"""Widths of the shapes among which one is chosen."""

CLEARLY_BETTER = 0.005
"""Relative difference of the expected loss below which the smaller shape is chosen."""

MEASURED_WIDTHS = (64, 128, 256)
MEASURED_SECONDS = 1.5

READ_BYTES_PER_SECOND = 40e6
"""Hashing a file, finding its encoding and passing over the blocks that are not cleaned."""

START_SECONDS = 15.0
"""Starting, and everything that takes about as long for any model."""

CALIBRATION_PASSES = 2.5
"""Time to calibrate a token, measured in FP32 training passes over it."""

REPORT_TOKENS = 70_000
"""Training passes in FP32 that take as long as comparing the models and generating the texts of the report."""

WANTED_STEPS = 1_000
"""Steps that the batch is made small enough for."""

LEAST_SEQUENCES = 4
"""Sequences in a step at least, if the text has that many: fewer steps with less noise are better. A model of 170,000 parameters reached
3.78 nats per token from 20 KB of stories with 4 sequences of 64 tokens, 3.83 with 2 and 3.86 with 8."""

LEAST_STEPS = 20
"""A shorter training is only enough for a text that needs no more."""

QAT_TOKENS_PER_STEP = 4_096
"""The default of qat.tokens_per_step."""

HEADER_BYTES = 10_000
TOKENIZER_BYTES = 42
"""Size of the header of a model file, and of the tokenizer in it for each token of the vocabulary."""

NATIVE_QAT = 0.75
"""`Speed.qat` in the native library, at most: measured 0.41 with AVX-512 VNNI and 0.70 with AVX2 only (bench/qat.py)."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast this machine computes.

    Attributes:
        clock: time of training steps.
        exact: time of an FP32 pass through torch, divided by that of a training pass.
        cores: number of cores.
        words: the machine in a few words.
        qat: time of a token of QAT, divided by that of a token in an FP32 pass through torch. In torch a step of QAT is a training step
            and the forward pass of the teacher.
        cpu_share: share of the cores' time that the measurement got, 0 to 1.
    """

    clock: Clock
    exact: float
    cores: int
    words: str
    qat: float = 4 / 3
    cpu_share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Text:
    """The text as the choice needs it.

    Attributes:
        survey: what was found.
        vocab_size: size of the vocabulary.
        tokens_per_character: with that vocabulary.
        tokenize_seconds: time for the tokenizer and the token files.
    """

    survey: Survey
    vocab_size: int
    tokens_per_character: float
    tokenize_seconds: float


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run that is to be chosen.

    Attributes:
        name: of the run.
        sources: paths of the text.
        speed: of this machine.
        hours: time for the whole run.
        given: settings that the user chose, by their full names; they stay.
        spent: seconds of that time that have passed.
        max_mb: size of the model file in MB at most; None for no limit.
    """

    name: str
    sources: list[str]
    speed: Speed
    hours: float
    given: Mapping[str, Any]
    spent: float = 0.0
    max_mb: float | None = None

    @property
    def budget(self) -> float:
        """Seconds that are planned for."""
        return SAFETY * 3600 * self.hours - self.spent


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """How much of the text is read, what it gives, and how long that takes.

    Attributes:
        share: of the text that is read.
        validation: tokens held out of it.
        available: its tokens for training.
        reading: seconds to read the files.
        cleaning: seconds to clean all of the text.
        tokenizing: seconds for the tokenizer and the tokens of all of the text.
    """

    share: float
    validation: int
    available: float
    reading: float
    cleaning: float
    tokenizing: float

    @property
    def seconds(self) -> float:
        """Seconds until there are tokens, and of what takes as long for any model."""
        return START_SECONDS + self.reading + self.share * (self.cleaning + self.tokenizing)

    def parts(self, *, training: float, quantization: float, qat: float, report: float) -> dict[str, float]:
        """Seconds of each part of a run, from those that depend on the model."""
        return {
            "data": self.reading + self.share * self.cleaning + 3,
            "tokenizer": self.share * self.tokenizing,
            "training": training,
            "quantization": quantization,
            "QAT": qat,
            "report": report + START_SECONDS - 3,
        }


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen.

    Attributes:
        values: settings, as in a configuration file.
        why: reasons for settings, by their full names.
        lines: what was chosen and why, in four lines.
        notes: what would help.
        seconds: expected time of the parts of the run.
        facts: figures for programs.
    """

    values: dict[str, Any]
    why: dict[str, str]
    lines: list[str]
    notes: list[str]
    seconds: dict[str, float]
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A shape with the run for which there are time and text.

    Attributes:
        shape: of the model.
        steps: optimizer steps.
        per_step: tokens of an optimizer step.
        tokens: of the whole training, repetitions included.
        qat_steps: steps of QAT; 0 for none.
        larger_batch: whether the batch is LEAST_SEQUENCES, and would be smaller otherwise.
        validations: seconds of all validations during the training.
        seconds: of each part of the run.
        loss: that the scaling law expects, in bits per byte.
    """

    shape: ModelShape
    steps: int
    per_step: int
    tokens: int
    qat_steps: int
    larger_batch: bool
    validations: float
    seconds: dict[str, float]
    loss: float


def look_at_text(sources: list[str], given: Mapping[str, Any], seed: int, progress: Progress) -> Survey:
    """Read a sample of the sources.

    Args:
        sources: paths of the text.
        given: settings that the user chose, by their full names; those of data.clean decide what is left of the text.
        seed: of the run.
        progress: shows that something is going on.

    Raises:
        DataError: there is nothing to read, or too little to train on; the message says what would help.
    """
    values: dict[str, Any] = {"data": {"sources": sources}}
    # With data.mix.general, the text of the package would count as the user's.
    own = {name: value for name, value in given.items() if name.startswith("data.") and name != "data.mix.general"}
    put_given(values, own)
    log = Log()
    try:
        found = survey(DataConfig.model_validate(values["data"]), seed, progress, log)
    except DataError as error:
        raise DataError(str(error).removeprefix("data.sources: ")) from None
    if found.characters < FEWEST_CHARACTERS:
        names = ", ".join(printable(source) for source in sources)
        lost = left_out_by_cleaning(log), left_out(found)
        raise DataError(
            f"{names}: {format_count(found.characters, 'character')} of text in {format_count(found.files, 'file')} "
            f"{'is' if found.characters == 1 else 'are'} too little to train a model: add text; {FEWEST_CHARACTERS:,} characters are the "
            f"least, a megabyte is a start{''.join(f'; {what}' for what in lost if what)}"
        )
    return found


def wanted_vocabulary(characters: int, speed: Speed, hours: float) -> int:
    """Size of the vocabulary for a text: a large one if there is much text, and time to learn from it."""
    reached = LEARNED_SHARE * 3600 * hours / speed.clock.token_seconds(family(64, 2_000, 128)) * CHARACTERS_PER_TOKEN
    return next((size for below, size in VOCABULARIES if min(characters, reached) < below), LARGEST_VOCABULARY)


def learn_vocabulary(found: Survey, size: int, seed: int, progress: Progress) -> Text:
    """Learn a vocabulary of at most `size` tokens from the sample."""
    started = time.monotonic()
    tokenizer = Tokenizer(train_tokenizer(found.texts, size, seed, progress, at_most=True))
    learned = time.monotonic() - started
    part = found.texts[: max(1, len(found.texts) // 4)]
    characters, tokens = sum(map(len, part)), sum(len(tokenizer.encode(text)) + 1 for text in part)
    encoded = time.monotonic() - started - learned
    sample = sum(map(len, found.texts))
    return Text(
        survey=found,
        vocab_size=tokenizer.vocab_size if found.complete else size,
        tokens_per_character=tokens / max(1, characters),
        tokenize_seconds=learned * (min(found.characters, 100_000_000) / sample) ** 0.7 + encoded * found.characters / max(1, characters),
    )


def measure_speed(progress: Progress, seconds: float = MEASURED_SECONDS) -> Speed:
    """Train on random tokens for a few seconds."""
    machine = inspect_machine()
    config = _base(128, 16, 4096)
    train = Config.model_validate({"train": config}).train
    wall, cpu = time.perf_counter(), time.process_time()
    with progress.task("Measuring this machine", None):
        measured = [measure(family(width, 2_000, 128), train, seconds) for width in MEASURED_WIDTHS]
        exact = measure(family(128, 2_000, 128), train.model_copy(update={"precision": "fp32"}), seconds)
    cpu_share = (time.process_time() - cpu) / (time.perf_counter() - wall) / torch.get_num_threads()
    capabilities = inspect_capabilities("cpu", machine)
    precision = default_plan(train, capabilities, 0.0).precision
    words = f"{format_count(machine.cores, 'core')}, {machine.memory / 1e9:.0f} GB, training in {precision}"
    return Speed(
        clock=Clock(measured),
        exact=max(1.0, exact.micro_batch / measured[1].micro_batch),
        cores=machine.cores,
        words=words,
        qat=Speed.qat if capabilities.distillation_problem else NATIVE_QAT,
        cpu_share=cpu_share,
    )


def choose(request: Request, text: Text) -> Choice:
    """Settings for a text, a machine and a time.

    Raises:
        ConfigError: the time is too short or `request.max_mb` too small for any model, or a given setting is not possible.
    """
    candidates, data = _candidates(request, text)
    if not candidates:
        # The next command looks at the text and measures again, which never takes exactly as long.
        longer = replace(request, spent=1.25 * request.spent)
        least = _least_hours(request.hours, lambda hours: bool(_candidates(replace(longer, hours=hours), text)[0]))
        looked = f" ({format_duration(request.spent)} until now)" if request.spent else ""
        raise ConfigError(
            f"--hours={request.hours:g} ({format_duration(3600 * request.hours)}) is too short: reading the text, measuring this "
            f"machine{looked} and the report leave too little time for training; take {least:g} or more"
        )
    chosen, fit = _best(candidates, request)
    return _describe(request, text, data, _as_given(request, data, chosen), fit)


def model_file_mb(shape: ModelShape, given: Mapping[str, Any]) -> float:
    """The expected size of the .bullet file in MB, with header and tokenizer.

    Args:
        shape: of the model.
        given: settings of the user, by their full names; those of quant decide the types of the weights.
    """
    values: dict[str, Any] = {}
    put_given(values, {name: value for name, value in given.items() if name.startswith("quant.")})
    return (bullet_bytes(Config.model_validate(values), shape) + HEADER_BYTES + TOKENIZER_BYTES * shape.vocab_size) / 1e6


def _candidates(request: Request, text: Text) -> tuple[list[_Candidate], DataPlan]:
    """The shapes for which there is time, and the part of the text that is read."""
    found, given = text.survey, request.given
    vocab_size = int(given.get("tokenizer.vocab_size", text.vocab_size))
    most = 8_000 if found.characters * text.tokens_per_character < 5e7 else 20_000
    data = plan_data(request, text, family(64, vocab_size, 64), most)
    document = found.document * text.tokens_per_character
    context = int(given.get("model.max_seq_len", _context(data.available, document, request.hours)))
    fixed_shape = {key.partition(".")[2]: value for key, value in given.items() if key.startswith("model.") and value is not None}
    shapes = dict.fromkeys(_shape(width, vocab_size, context, fixed_shape) for width in SHAPES)
    law = load_law()[0]
    return [each for shape in shapes if (each := _candidate(request, data, shape, law))], data


def plan_data(request: Request, text: Text, shape: ModelShape, most_validation: int, reading: float = 0.0) -> DataPlan:
    """The part of the text that is read.

    Args:
        request: time and machine.
        text: what was found.
        shape: of the model, or of a small one if none is chosen yet: the time of a validation limits the tokens held out.
        most_validation: tokens held out at most.
        reading: seconds in which other text is read.
    """
    found = text.survey
    total = found.characters * text.tokens_per_character
    cleaning = 2 * found.seconds / (request.speed.cores if found.bytes > 8e6 else 1)
    share = min(1.0, DATA_SHARE * request.budget / max(cleaning + text.tokenize_seconds, 1e-9))
    token = request.speed.clock.token_seconds(shape) * request.speed.exact
    affordable = VALIDATION_SHARE * request.budget / (VALIDATIONS * token)
    validation = int(min(most_validation, max(500, min(total / 20, affordable))))
    return DataPlan(
        share=share,
        validation=validation,
        available=max(1.0, total * share - validation),
        reading=found.bytes / READ_BYTES_PER_SECOND + reading,
        cleaning=cleaning,
        tokenizing=text.tokenize_seconds,
    )


def _candidate(request: Request, data: DataPlan, shape: ModelShape, law: Law) -> _Candidate | None:
    """The run with a shape that uses time and text best; None if there is too little time for it."""
    speed = request.speed
    token = speed.clock.token_seconds(shape)
    exact = token * speed.exact
    calibration = exact * CALIBRATION_PASSES * min(40_000, data.available)
    report = exact * REPORT_TOKENS
    qat_token = speed.qat * exact
    validations = VALIDATIONS * data.validation * exact
    room = request.budget - (data.seconds + calibration + report) - validations
    if room <= 0:
        return None
    context = shape.max_seq_len
    most_tokens = MOST_EPOCHS * data.available
    affordable = min(most_tokens, room / (token + SHARE_OF_TOKENS * qat_token))
    wanted, least = _tokens_per_step(affordable, context), _least_tokens_per_step(affordable, data.available, context)
    per_step = max(wanted, least)
    step = speed.clock.seconds(shape, Config.model_validate({"train": _base(context, per_step // context, 0)}).train)
    most_qat = MOST_STEPS * QAT_TOKENS_PER_STEP * qat_token
    tokens = room / (step / per_step + SHARE_OF_TOKENS * qat_token)
    if SHARE_OF_TOKENS * tokens * qat_token > most_qat:
        tokens = (room - most_qat) / (step / per_step)
    tokens = min(tokens, most_tokens)
    if tokens < LEAST_STEPS * per_step and tokens < most_tokens * 0.99:
        return None
    steps = max(1, int(tokens / per_step))
    trained = steps * per_step
    qat_steps = _qat_steps(trained)
    seconds = data.parts(
        training=steps * step + validations,
        quantization=calibration,
        qat=qat_steps * QAT_TOKENS_PER_STEP * qat_token,
        report=report,
    )
    return _Candidate(
        shape=shape,
        steps=steps,
        per_step=per_step,
        tokens=trained,
        qat_steps=qat_steps,
        larger_batch=least > wanted,
        validations=validations,
        seconds=seconds,
        loss=law.loss(shape.n_parameters, effective_tokens(trained, data.available)),
    )


def _qat_steps(tokens: int) -> int:
    """Steps of QAT after a training over that many tokens; 0 if so few are not worth it."""
    steps = min(MOST_STEPS, round(SHARE_OF_TOKENS * tokens / QAT_TOKENS_PER_STEP))
    return steps if steps >= FEWEST_STEPS else 0


def given_qat(request: "Request", steps: int) -> int:
    """The steps of QAT that the user gave, or else `steps`."""
    given = request.given.get("qat.steps")
    return steps if given is None else int(given)


def _as_given(request: Request, data: DataPlan, chosen: _Candidate) -> _Candidate:
    """The candidate with the steps, the passes and the batch that the user gave."""
    shape, speed = chosen.shape, request.speed
    settings = _base(shape.max_seq_len, chosen.per_step // shape.max_seq_len, 0)
    steps, train = given_training(request, settings, chosen.steps, int(data.available / shape.max_seq_len))
    per_step = sequences_per_step(train) * shape.max_seq_len
    tokens = steps * per_step
    same = (steps, per_step) == (chosen.steps, chosen.per_step)
    qat_steps = given_qat(request, chosen.qat_steps if same else _qat_steps(tokens))
    if same and qat_steps == chosen.qat_steps:
        return chosen
    qat_token = speed.qat * speed.clock.token_seconds(shape) * speed.exact
    training = steps * speed.clock.seconds(shape, train) + chosen.validations
    return replace(
        chosen,
        steps=steps,
        per_step=per_step,
        tokens=tokens,
        qat_steps=qat_steps,
        larger_batch=chosen.larger_batch and per_step == chosen.per_step,
        seconds={**chosen.seconds, "training": training, "QAT": qat_steps * QAT_TOKENS_PER_STEP * qat_token},
        loss=load_law()[0].loss(shape.n_parameters, effective_tokens(tokens, data.available)),
    )


def given_training(request: Request, settings: Mapping[str, Any], steps: int, windows: int) -> tuple[int, TrainConfig]:
    """A training of `steps` steps with the settings of train.* that the user gave, which may change its length and its batch.

    Args:
        request: has what the user gave.
        settings: those of train.* that were chosen, without the number of steps.
        steps: that were chosen.
        windows: training sequences in one pass over the text.

    Returns:
        The number of optimizer steps, and the settings.
    """
    values = {"train": {**settings, "total_steps": steps}}
    put_given(values, {name: value for name, value in request.given.items() if name.startswith("train.")})
    train = Config.model_validate(values).train
    return count_steps(train, windows)[0], train


def _best(candidates: list[_Candidate], request: Request) -> tuple[_Candidate, str]:
    """The smallest candidate that is about as good as the best one that `request.max_mb` allows, and why it is no larger, in words.

    Raises:
        ConfigError: all model files are larger than `request.max_mb`.
    """
    small = candidates
    if request.max_mb is not None:
        sizes = [model_file_mb(each.shape, request.given) for each in candidates]
        small = [each for each, size in zip(candidates, sizes, strict=True) if size <= request.max_mb]
        if not small:
            raise ConfigError(
                f"--max-mb={request.max_mb:g} is too small: with a vocabulary of {candidates[0].shape.vocab_size:,}, the smallest model "
                f"file has {min(sizes):.2f} MB; allow more, or give a smaller --vocab-size"
            )
    too_large = min(candidates, key=lambda each: each.loss) not in small
    candidates = small
    fed = [each for each in candidates if each.shape.n_parameters <= fed_parameters(each.tokens)] or [
        min(candidates, key=lambda each: each.shape.n_parameters)
    ]
    limited = min(candidates, key=lambda each: each.loss) not in fed
    best_loss = min(each.loss for each in fed)
    good = [each for each in fed if each.loss <= (1 + CLEARLY_BETTER) * best_loss]
    fit = "more would have too little text to learn from" if limited else "the best for this time"
    if too_large and not limited:
        fit = f"the best with --max-mb={request.max_mb:g}"
    return min(good, key=lambda each: each.shape.n_parameters), fit


def _shape(width: int, vocab_size: int, context: int, given: Mapping[str, Any]) -> ModelShape:
    """The shape of a width, with the settings of model.* that the user gave."""
    width = int(given.get("dim", width))
    values: dict[str, Any] = {"dim": width, "n_layers": max(2, width // 32), "n_heads": _heads(width), "max_seq_len": context}
    values.update({name: value for name, value in given.items() if name != "max_seq_len"})
    return Config.model_validate({"model": values}).model.shape(vocab_size)


def _heads(width: int) -> int:
    """Heads of 64 in wide models and of 32 in narrow ones, where the width allows it."""
    return next(width // size for size in ((64, 32, 16, 8, 2) if width >= 256 else (32, 16, 8, 2)) if width % size == 0)


def _context(tokens: float, document: float, hours: float) -> int:
    """Context length: short for a short text, so that there are enough windows; longer where the documents are, and the time."""
    if tokens < 60_000:
        return 64
    if tokens > 5e7 and document > 512 and hours >= 2:
        return 512
    return 256 if tokens > 5e6 and document > 200 else 128


def _tokens_per_step(tokens: float, context: int) -> int:
    """Tokens of an effective batch: a power of two that gives at least WANTED_STEPS steps where the text is long enough."""
    wanted = 1 << int(math.log2(max(1.0, tokens / WANTED_STEPS)))
    return max(context, min(8_192, max(128, wanted)) // context * context)


def _least_tokens_per_step(tokens: float, available: float, context: int) -> int:
    """Tokens of an effective batch at least.

    Args:
        tokens: for which there are time and text; LEAST_STEPS steps must remain.
        available: tokens of one pass over the text.
        context: tokens of a sequence.
    """
    return context * int(max(1, min(LEAST_SEQUENCES, available / context, tokens / (LEAST_STEPS * context))))


def batch_words(sequences: int, larger: bool) -> str:
    """Why a step has `sequences` sequences, to follow its number of tokens; "" if the number of steps decided it."""
    return f" ({sequences} sequences, because the gradient of fewer is mostly noise)" if larger else ""


def _base(context: int, sequences: int, parameters: int, steps: int = 1_000) -> dict[str, Any]:
    """Settings of the training that follow from the size of the model and the batch."""
    rates = ((1_500_000, 3e-3), (3_000_000, 2e-3), (12_000_000, 1.5e-3), (40_000_000, 1e-3))
    every = max(10, math.ceil(steps / VALIDATIONS))
    at_once = max(n for n in range(1, min(16, sequences) + 1) if sequences % n == 0)
    return {
        "learning_rate": next((rate for below, rate in rates if parameters < below), 6e-4),
        "min_learning_rate": 1e-5,
        "warmup_steps": min(200, max(1, steps // 10)),
        "optimizer": "muon",
        "batch_size_per_device": at_once,
        "gradient_accumulation_steps": sequences // at_once,
        "weight_decay": 0.05,
        "ema_decay": 0.99 if steps < 5_000 else 0.999,
        "eval_every_steps": every,
        "save_every_steps": max(every, min(2_500, 5 * every)),
    }


def _least_hours(hours: float, enough: Callable[[float], bool]) -> float:
    """The shortest time above `hours`, in hundredths of an hour, that is enough."""
    low = math.floor(100 * hours)
    high = low + 1
    while not enough(high / 100):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle / 100) else (middle, high)
    return high / 100


def _describe(request: Request, text: Text, data: DataPlan, chosen: _Candidate, fit: str) -> Choice:
    """The choice as settings, and in words; `fit` is why the model is no larger."""
    values = _settings(request, data, chosen)
    rate = chosen.per_step / request.speed.clock.seconds(chosen.shape, Config.model_validate(values).train)
    return Choice(
        values=values,
        why=mark_given(_reasons(text, data, chosen, fit), request.given),
        lines=_lines(request, text, data, chosen, fit, rate),
        notes=_notes(request, text, data, chosen),
        seconds=chosen.seconds,
        facts=_facts(request, text, data, chosen),
    )


def _settings(request: Request, data: DataPlan, chosen: _Candidate) -> dict[str, Any]:
    """The settings, as in a configuration file."""
    shape = chosen.shape
    train = _base(shape.max_seq_len, chosen.per_step // shape.max_seq_len, shape.n_parameters, chosen.steps)
    values: dict[str, Any] = {
        "name": request.name,
        "data": {
            "sources": source_entries(request.sources, data.share),
            "val_tokens": data.validation,
        },
        "tokenizer": {"vocab_size": shape.vocab_size},
        "model": {"dim": shape.dim, "n_layers": shape.n_layers, "n_heads": shape.n_heads, "max_seq_len": shape.max_seq_len},
        "train": {"total_steps": chosen.steps, **train},
    }
    put_given(values, request.given)
    return values


def _lines(request: Request, text: Text, data: DataPlan, chosen: _Candidate, fit: str, rate: float) -> list[str]:
    """What was chosen, in four lines; `rate` is the speed of the training in tokens per second."""
    shape, available = chosen.shape, data.available
    size, total = model_file_mb(shape, request.given), request.spent + sum(chosen.seconds.values())
    batch = batch_words(chosen.per_step // shape.max_seq_len, chosen.larger_batch)
    no_qat = "; no QAT" if "qat.steps" in request.given else "; no QAT, which a short training does not need"
    qat = f"; up to {chosen.qat_steps:,} steps of QAT" if chosen.qat_steps else no_qat
    return [
        text_line(text.survey, data.share),
        f"machine   {request.speed.words}: about {format_number(rate)} tokens/s with this model",
        f"model     {format_number(shape.n_parameters)} parameters ({shape.dim} wide, {shape.n_layers} layers, "
        f"context {shape.max_seq_len}), vocabulary {shape.vocab_size:,}, a file of about {size:.2g} MB: {fit}",
        f"training  {chosen.steps:,} steps of {chosen.per_step:,} tokens{batch}, {chosen.tokens / available:.1f} times over "
        f"{format_number(available)} tokens{qat}; about {format_duration(total)} in all, of {format_duration(3600 * request.hours)}",
    ]


def _notes(request: Request, text: Text, data: DataPlan, chosen: _Candidate) -> list[str]:
    """What would help."""
    notes = machine_and_file_notes(request, text.survey)
    if text.survey.characters < FEW_CHARACTERS:
        notes.append("from so little text a model learns to spell, but not to answer: a megabyte of text or more is a better start")
    elif chosen.tokens / data.available > MOST_EPOCHS - 0.5:
        notes.append(f"the text is read {MOST_EPOCHS} times at most, since more teaches little: more text gives a better model")
    return notes


def _reasons(text: Text, data: DataPlan, chosen: _Candidate, fit: str) -> dict[str, str]:
    """The reasons for the settings, by their full names."""
    found, training = text.survey, format_duration(chosen.seconds["training"])
    why = {
        "data.val_tokens": "held out to measure the model",
        "tokenizer.vocab_size": f"for {format_number(found.characters)} characters; a larger one would have tokens too rare to learn",
        "model": f"{format_number(chosen.shape.n_parameters)} parameters: {fit}",
        "train.total_steps": f"{chosen.tokens / data.available:.1f} times over the text, about {training} on this machine",
        "train.learning_rate": "small models need large learning rates",
        "train.eval_every_steps": f"{VALIDATIONS} validations",
    }
    if data.share < 1:
        why["data.sources"] = f"{format_size(found.bytes)}; a larger share needs more time"
    return why


def _facts(request: Request, text: Text, data: DataPlan, chosen: _Candidate) -> dict[str, Any]:
    """The choice, for programs."""
    return {
        "text": text_facts(text.survey, data.available, data.share),
        "machine": {"cores": request.speed.cores, "description": request.speed.words},
        "parameters": chosen.shape.n_parameters,
        "model_file_mb": round(model_file_mb(chosen.shape, request.given), 3),
        "steps": chosen.steps,
        "tokens": int(chosen.tokens),
        "epochs": chosen.tokens / data.available,
        "qat_steps": chosen.qat_steps,
        "bits_per_byte": chosen.loss,
        "seconds": {**chosen.seconds, "total": request.spent + sum(chosen.seconds.values())},
        "hours": request.hours,
    }


def put_given(values: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Put the settings that the user chose, by their full names, into a configuration."""
    for path, value in given.items():
        *sections, leaf = path.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[leaf] = value
    if "train.epochs" in given and "train.total_steps" not in given:
        del values["train"]["total_steps"]


def mark_given(why: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, str]:
    """The reasons beside the settings of a recipe; the reason of a setting that the user chose is that."""
    return {**why, **dict.fromkeys(given, "given on the command line")}


def source_entries(sources: Sequence[str], share: float) -> list[Any]:
    """data.sources: paths, with the share that is read if it is not all of the text."""
    return [{"path": path, "share": round(share, 4)} for path in sources] if share < 1 else list(sources)


def text_line(found: Survey, share: float) -> str:
    """What was found, in a line."""
    languages = ", ".join(f"{language} {part:.0%}" for language, part in list(found.languages.items())[:3] if part >= 0.01)
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds.items())
    about = "" if found.complete else "about "
    part = f", of which {share:.0%} is read in this time" if share < 1 else ""
    conversations = f", {found.conversations:.0%} in conversations" if found.conversations >= 0.005 else ""
    return (
        f"text      {format_size(found.bytes)} in {format_count(found.files, 'file')} ({kinds}): {about}"
        f"{format_number(found.characters)} characters after cleaning{part}; {languages}{conversations}"
    )


def text_facts(found: Survey, available: float, share: float) -> dict[str, Any]:
    """What was found, for programs; `available` tokens are for training."""
    return {
        "files": found.files,
        "bytes": found.bytes,
        "characters": found.characters,
        "tokens": int(available),
        "share": share,
        "languages": found.languages,
        "conversations": found.conversations,
        "skipped": [{"file": item.name, "reason": item.reason} for item in found.skipped],
    }


def machine_and_file_notes(request: Request, found: Survey) -> list[str]:
    """What the user should know about the measurement of the machine and about files that are not read."""
    notes = [left_out(found, 3)] if found.skipped else []
    if request.speed.cpu_share < MIN_CPU_SHARE:
        notes.append(
            f"other programs were busy: the measurement got {request.speed.cpu_share:.0%} of the cores' time, so this is the choice for a "
            "slower machine; end them and choose again (--restart), or give more time (--hours)"
        )
    return notes


def left_out(found: Survey, most: int = 2) -> str:
    """The files that are not read, with reasons; "" if there are none."""
    if not found.skipped:
        return ""
    # First those that a user misses, such as a damaged document; then pictures; then hidden files.
    first = sorted(found.skipped, key=lambda item: (item.reason.startswith("hidden"), item.reason.startswith("a picture")))
    shown = "; ".join(f"{item.name}: {item.reason}" for item in first[:most])
    more = f"; and {len(found.skipped) - most} more" if len(found.skipped) > most else ""
    return f"not read: {shown}{more}"


def left_out_by_cleaning(log: Log) -> str:
    """The rule of cleaning that left out the most text, and the setting that keeps it; "" if none left out anything."""
    characters = Counter[str]()
    for counts in log.characters.values():
        characters.update({rule: count for rule, count in counts.items() if not is_change(rule)})
    if not characters.total():
        return ""
    rule, count = characters.most_common(1)[0]
    keep = f" (to keep it: --{keep_with(rule)})" if keep_with(rule) else ""
    return f"cleaning left out {format_count(count, 'character')} as {rule}: {REJECTIONS[rule]}{keep}"


def format_count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def format_size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1e3))} KB"


def format_number(count: float) -> str:
    if count >= 1e6:
        return f"{count / 1e6:.3g} million"
    return f"{round(count, -3) if count >= 20_000 else round(count):,.0f}"
