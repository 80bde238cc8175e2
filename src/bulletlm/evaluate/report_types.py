"""The types of report.json (docs/evaluation.md): plain JSON values with the keys that the report and its page use.

The judgement is under "verdicts": one verdict on the quantization and one on the usefulness of the model. A verdict has a decision,
figures with intervals and limits, the names of the three figures that decided it, causes, and remedies in the order of their cost.
Programs that show it (page, dashboard, model card) use `decision`, `status` and the names, which are stable; the texts are English.
"""

from typing import Any, Literal, NotRequired, TypedDict

Decision = Literal["safe", "limited", "stop"]
"""safe: every limit holds. limited: a limit is exceeded, but by no more than chance explains; ship it and say so. stop: a limit is
clearly exceeded; do not ship."""

Status = Literal["ok", "near", "broken", "unknown"]
"""ok: within the limit. near: beyond the limit, but the interval reaches it. broken: beyond the limit. unknown: not measured; such a
figure does not change the decision."""

Unit = Literal["share", "change", "points", "nats", "bits_per_byte"]
"""share: 0.95 is 95 %. change: relative, 0.01 is +1 %. points: difference of two shares, 0.03 is 3 percentage points."""

Cost = Literal["seconds", "minutes", "training", "text"]
"""What a remedy costs: about a minute, some minutes, a training as long as the last one, or more text (which someone must find)."""


class IntervalValues(TypedDict):
    """A figure and the ends of its 95 % interval, which are None where there is too little text for one."""

    value: float
    low: float | None
    high: float | None


class Figure(TypedDict):
    """One figure of a verdict.

    Attributes:
        name: stable name, such as "perplexity_change" or "right_language".
        label: short English label.
        unit: how value, low, high and limit are to be read.
        value, low, high: the figure and its 95 % interval; None where it was not measured.
        limit: the value that it must not exceed (`better` is "lower") or not fall below ("higher").
        better: which direction is better.
        setting: the setting that holds the limit, such as "report.limits.kl".
        status: whether the limit holds.
        text: one sentence that explains the figure with its numbers.
    """

    name: str
    label: str
    unit: Unit
    value: float | None
    low: float | None
    high: float | None
    limit: float
    better: Literal["lower", "higher"]
    setting: str
    status: Status
    text: str


class Cause(TypedDict):
    """A probable reason why limits are exceeded: stable name, and one sentence with the evidence."""

    name: str
    text: str


class Remedy(TypedDict):
    """What helps: stable name, one sentence, the exact command (None if no command does it), and what it costs."""

    name: str
    text: str
    command: str | None
    cost: Cost


class Verdict(TypedDict):
    """A judgement.

    Attributes:
        decision: safe, limited or stop.
        title: "Safe to ship", "Ship with this limit: ..." or "Do not ship: ...", one line.
        deciding: names of the (at most three) figures that decided it, the most important first.
        figures: all figures, the deciding ones first.
        causes, remedies: empty if every limit holds; remedies are in the order of their cost.
    """

    decision: Decision
    title: str
    deciding: list[str]
    figures: list[Figure]
    causes: list[Cause]
    remedies: list[Remedy]


class Verdicts(TypedDict):
    """Is the 4-bit model as good as FP32, and is the model any good?"""

    quantization: Verdict
    usefulness: Verdict


class Quality(TypedDict):
    """How well a model predicts: loss in nats per token, bits_per_byte None for text without bytes."""

    loss: float
    perplexity: float
    bits_per_byte: float | None


class FileQuality(Quality):
    """The same with the file or folder that was measured and its size."""

    path: str
    bytes: int


class EstimateValues(TypedDict):
    """A mean and its standard error, None for a single window."""

    mean: float
    se: float | None


class UnitValues(TypedDict):
    """What the bootstrap resamples ("documents" or "blocks of windows"), and their number."""

    kind: str
    count: int


class ComparisonValues(TypedDict):
    """Model b against model a over the same text; `intervals` has the figures of evaluate/compare.py with their 95 % intervals."""

    tokens: int
    bytes: int
    windows: int
    a: Quality
    b: Quality
    loss_delta: EstimateValues
    perplexity_change: float
    kl: EstimateValues
    top1_agreement: EstimateValues
    max_logit_difference: float
    intervals: dict[str, IntervalValues]
    units: UnitValues


class AnswerValues(TypedDict):
    """One answer and its checks."""

    text: str
    tokens: int
    ended: bool
    distinct_2: float | None
    longest_repeat: int
    script_share: float | None


class AnswerChecks(TypedDict):
    """The checks of one answer (evaluate/behaviour.py); None where a check does not apply.

    `words` are words with letters that the prompt does not have, `invented_words` those of them that the training text does not have.
    `longest_copy` is in words, `chrf` from 0 to 100.
    """

    right_language: bool
    loop: bool
    broken_letters: int
    letters: int
    words: int
    invented_words: int | None
    fitting_length: bool | None
    on_topic: bool | None
    longest_copy: int | None
    copied: bool
    chrf: float | None


class Rate(TypedDict):
    """A share of both models, the paired change, and the share of text that people wrote (None if there is none to compare)."""

    fp32: IntervalValues
    bq4: IntervalValues
    change: IntervalValues
    human: float | None


class GreedyValues(TypedDict):
    """Answers without sampling: shares of equal answers and tokens, and the median number of the first token that is another one."""

    answers: int
    identical_answers: int
    identical_tokens: float | None
    first_divergence: float | None


class TranslationValues(TypedDict):
    """Mean chrF over the prompts with a reference."""

    references: int
    fp32: float
    bq4: float


class FitRow(TypedDict):
    """A question on which no model trained, a person's answer, those of both models, and how well each fits (0 to 1)."""

    question: str
    expected: str
    language: str
    fp32: str
    bq4: str
    fp32_fit: float
    bq4_fit: float


class FitValues(TypedDict):
    """Share of the comparisons in which an answer is closer to a person's answer to its question than to one to another question."""

    questions: int
    rate: Rate
    rows: list[FitRow]


class FactRow(TypedDict):
    """A question with a known answer, and what both models answered."""

    question: str
    expected: str
    kind: str
    fp32: str
    bq4: str
    fp32_right: bool
    bq4_right: bool


class FactsValues(TypedDict):
    """Share of wrong answers; `significant` if the 4-bit model has more of them than chance explains."""

    asked: int
    wrong: Rate
    significant: bool
    rows: list[FactRow]


class BehaviourValues(TypedDict):
    """How the models write.

    Attributes:
        rates: right_language, loops, ended, fitting_length, on_topic, copied, broken_letters (of letters), invented_words (of words),
            faults (answers in the wrong language, with a loop or broken letters); None where a check does not apply.
        prompts: number of prompts that are judged.
        not_judged: language -> number of prompts that are not, because the training text has no such language.
        question_use: fp32, bq4 -> share of choices in which the model finds a person's answer likelier after its own question than after
            another one; None without questions in its languages.
        answer_fit: whether the models' own answers belong to their questions; None without such questions.
        invented_by_language: language -> shares of invented words: fp32, bq4, human.
        wrong_languages: expected language -> language of the 4-bit answer -> number of answers.
        longest_copy: words of the longest passage of an answer that stands in the training text.
    """

    prompts: int
    not_judged: dict[str, int]
    rates: dict[str, Rate | None]
    invented_by_language: dict[str, dict[str, float | None]]
    wrong_languages: dict[str, dict[str, int]]
    question_use: dict[str, IntervalValues] | None
    answer_fit: FitValues | None
    greedy: GreedyValues
    translation: TranslationValues | None
    facts: FactsValues | None
    longest_copy: dict[str, int] | None


class NGramValues(TypedDict):
    """The 5-gram baseline: its bits per byte, tokens it has counted, and the 4-bit model's bits per byte minus its own."""

    tokens: int
    bits_per_byte: float
    margin: IntervalValues


class ContaminationValues(TypedDict):
    """How much of the validation text the training text repeats (evaluate/contamination.py).

    Attributes:
        share: of the validation words that stand in copied passages, or in excerpts of 50 words in a row.
        removable: share of those that the data stage removes from training text. Reports of earlier versions do not have it.
        phrases: share of the validation tokens in sequences of `sequence` tokens that the training tokens have too, which includes names
            and set phrases. Reports of earlier versions have this figure as `share`, and no `phrases`.
        tokens: validation tokens.
        sequence: tokens of such a sequence.
    """

    share: float
    removable: NotRequired[float]
    phrases: NotRequired[float]
    tokens: int
    sequence: int


class TrainingSample(TypedDict):
    """How well FP32 predicts its own training text; `gap` is the validation loss minus this loss, in nats per token."""

    tokens: int
    loss: float
    gap: IntervalValues


class DataChecks(TypedDict):
    """Comparisons with the training tokens; None where they are missing."""

    ngram: NGramValues | None
    contamination: ContaminationValues | None
    training_sample: TrainingSample | None


class Exchange(TypedDict):
    """A prompt, the answers of both models, and the checks of each."""

    prompt: str
    language: str
    kind: str
    fp32: AnswerValues
    bq4: AnswerValues
    checks: dict[str, AnswerChecks]


class Checks(TypedDict):
    """Mean checks over all answers of both models."""

    fp32: dict[str, float | None]
    bq4: dict[str, float | None]


class Generations(TypedDict):
    """All answers; `samples` are indices into `rows`, `identical` counts equal answers."""

    seed: int
    sampling: dict[str, Any]
    checks: Checks
    identical: int
    samples: list[int]
    rows: list[Exchange]


class Training(TypedDict):
    """Totals and learning curves of the training; a curve is a list of [step, value]."""

    steps: int
    tokens: int
    seconds: float
    tokens_per_s: float
    best_step: int | None
    last_val_loss: float | None
    ended: str | None
    curves: dict[str, list[list[float]]]


class TensorRow(TypedDict):
    """One tensor of the file; the last three, and `built_rmse`, are None where they were not measured.

    `built_rmse` is the `relative_rmse` that the build stage found; it differs if the file was changed afterwards. `levels`, `plain_levels`,
    `plain_rmse`, `scale`, `rows`, `far_rows`, `first_far` and `exchanged` are those of evaluate/weight_checks.py; `far_pieces` has the
    tokens of the rows in `first_far` of an embedding.
    """

    name: str
    type: str
    weights: int
    bytes: int
    relative_rmse: float
    built_rmse: NotRequired[float | None]
    levels: float | None
    plain_levels: NotRequired[float | None]
    plain_rmse: NotRequired[float | None]
    scale: float | None
    rows: int
    far_rows: int
    first_far: list[int]
    far_pieces: dict[str, str]
    exchanged: list[list[int]]
    output_error: float | None
    output_error_rtn: float | None
    kl: float | None


class FixStep(TypedDict):
    """One step of quant.auto_fix: what was tried (`setting` is None for the file as configured), and the result.

    `kept` is False for a step that was undone; `holds` if the limits of perplexity and KL divergence hold with it.
    """

    action: str
    setting: str | None
    perplexity_change: float
    kl: float
    bytes: int
    kept: bool
    holds: bool


class ModelFacts(TypedDict):
    """The model; `weights` is "raw" or "ema", and `step` that of the training which they are of, None if unknown."""

    parameters: int
    shape: dict[str, Any]
    license: str
    languages: list[str]
    weights: str
    step: int | None
    bits_per_weight: float


class TextValues(TypedDict):
    """How well three models predict one text of `tokens` targets; parent is None for a run from random weights."""

    text: str
    tokens: int
    parent: Quality | None
    fp32: Quality | None
    bq4: Quality | None


class Origin(TypedDict):
    """The model from which the run started (name and license None: random weights), and how it and the new ones predict texts.

    `texts` begins with the validation text if there is such a model; the others are those of evaluate.also. `missing` names texts that
    could not be measured, with the reason. `gap` is the loss of that model on the validation text minus its loss on the training text, in
    nats per token: a model that knew neither of them predicts both about equally well.
    """

    name: str | None
    license: str | None
    texts: list[TextValues]
    gap: IntervalValues | None
    missing: list[str]


class Report(TypedDict):
    """The whole of report.json; the parts typed as plain dictionaries are other files of the run folder."""

    report_version: int
    name: str
    summary: str
    verdict: list[str]
    verdicts: Verdicts
    model: ModelFacts
    fp32: FileQuality
    bq4: FileQuality
    comparison: ComparisonValues
    by_language: dict[str, ComparisonValues]
    by_source: dict[str, ComparisonValues]
    generations: Generations
    behaviour: BehaviourValues
    data_checks: DataChecks
    origin: Origin | None
    training: Training | None
    data: dict[str, Any] | None
    private_messages: bool
    tokens: dict[str, Any]
    tokenizer: dict[str, Any] | None
    vocabulary_sizes: dict[str, Any] | None
    quantised: dict[str, Any] | None
    auto_fix: list[FixStep] | None
    tensors: list[TensorRow]
    sensitivity: dict[str, float]
    commands: list[str]
    settings: dict[str, Any]
    versions: dict[str, str]
    missing: list[str]
