"""The types of report.json (docs/evaluation.md): plain JSON values with the keys that the report and its page use."""

from typing import Any, TypedDict


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


class ComparisonValues(TypedDict):
    """Model b against model a over the same text."""

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


class AnswerValues(TypedDict):
    """One answer and its checks."""

    text: str
    tokens: int
    ended: bool
    distinct_2: float | None
    longest_repeat: int
    script_share: float | None


class Exchange(TypedDict):
    """A prompt and the answers of both models."""

    prompt: str
    language: str
    kind: str
    fp32: AnswerValues
    bq4: AnswerValues


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
    """One tensor of the file; the last three are None where they were not measured."""

    name: str
    type: str
    weights: int
    bytes: int
    relative_rmse: float
    output_error: float | None
    output_error_rtn: float | None
    kl: float | None


class ModelFacts(TypedDict):
    """The model; `weights` is "raw" or "ema"."""

    parameters: int
    shape: dict[str, Any]
    license: str
    languages: list[str]
    weights: str
    bits_per_weight: float


class Report(TypedDict):
    """The whole of report.json; the parts typed as plain dictionaries are other files of the run folder."""

    report_version: int
    name: str
    summary: str
    verdict: list[str]
    model: ModelFacts
    fp32: FileQuality
    bq4: FileQuality
    comparison: ComparisonValues
    by_language: dict[str, ComparisonValues]
    by_source: dict[str, ComparisonValues]
    generations: Generations
    training: Training | None
    data: dict[str, Any] | None
    tokens: dict[str, Any]
    tokenizer: dict[str, Any] | None
    vocabulary_sizes: dict[str, Any] | None
    quantised: dict[str, Any] | None
    tensors: list[TensorRow]
    sensitivity: dict[str, float]
    commands: list[str]
    settings: dict[str, Any]
    versions: dict[str, str]
    missing: list[str]
