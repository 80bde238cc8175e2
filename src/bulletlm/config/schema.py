"""Every setting of BulletLM: its name, type, limits, default and one sentence of explanation, once.

The same model feeds configuration files (JSON with comments), command-line flags, `bullet config`, `--help` and
docs/settings.md; `loader.py` reads them.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bulletlm.quant.types import WeightType, weight_types
from bulletlm.shape import ModelShape


class Also:
    """Further names under which a setting may be given."""

    def __init__(self, *names: str) -> None:
        self.names = names


class FullNameOnly:
    """A setting that is only known by its full path, because its last name means another one."""


class Section(BaseModel):
    """A group of settings. Unknown keys are refused; values are checked when they change."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


class Source(Section):
    """Where text comes from."""

    path: str = Field(description='A file, a folder, a glob, hf://DATASET, or "sample" for the corpus that comes with the package.')
    language: str = Field("auto", description='Language code of the text, for example "mr"; "auto" decides per document by its script.')
    text: str = Field("text", min_length=1, description="Name of the text column in Parquet, datasets and .jsonl.")
    weight: float = Field(
        1.0, ge=0, le=100, description="How often each document goes into the training stream; 0.5 takes every second one."
    )
    tokens: int | None = Field(None, ge=1, description="Take at most about this many tokens of it; default: all.")


class CleanConfig(Section):
    """What is mended and what is left out. Every rule is counted, with examples, in data/clean-report.json."""

    entities: bool = Field(True, description="Decode HTML entities: &amp; &nbsp; &#2350;.")
    mojibake: bool = Field(True, description="Put back UTF-8 that was read as another code page; reject what cannot be put back.")
    broken_unicode: bool = Field(True, description="Reject text with U+FFFD or other traces of lost characters.")
    markup: bool = Field(True, description="Remove left-over HTML tags, wiki and Markdown marks.")
    rulers: bool = Field(True, description="Shorten long rows of one sign: ------ ......")
    byte_order_mark: bool = Field(True, description="Remove byte order marks (U+FEFF).")
    control: bool = Field(True, description="Remove control characters.")
    zero_width: bool = Field(True, description="Remove invisible characters; joiners stay where Devanagari needs them.")
    nfc: bool = Field(True, description="Unicode NFC: one order and form for signs and nukta.")
    spelling: bool = Field(True, description="One spelling for Devanagari letters that are typed in two ways (eyelash ra, candra e and o).")
    spaces: bool = Field(True, description="One space at a time, none at the ends.")
    letters: bool = Field(True, description="Mend Devanagari that a font conversion broke: उद्भ्ावत, मंुबई, लाभाथ्र्य.")
    private_use: bool = Field(True, description="Remove private-use bullets; reject words that hold private-use letters.")
    emails: bool = Field(True, description="Write [email] for e-mail addresses.")
    phones: bool = Field(True, description="Write [phone] for phone numbers.")
    long_numbers: int = Field(9, ge=0, description="Write [number] for digit strings of this length or more; 0 leaves them.")
    no_letters: bool = Field(True, description="Reject paragraphs without a letter: separators, page numbers.")
    min_chars: int = Field(2, ge=1, description="Reject shorter paragraphs.")
    max_chars: int = Field(20_000, ge=100, description="Reject longer paragraphs (one line).")
    max_broken_words: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Reject paragraphs in which more than this share of the Devanagari words is misspelled beyond mending; 1 is off.",
    )
    legacy_font: bool = Field(
        True, description="Reject Devanagari of an old font that was saved as Latin letters (Kruti Dev, Shivaji, DVB-TT)."
    )
    languages: list[str] = Field(["mr", "en"], description="Languages to keep, told by script and words; [] keeps all.")
    repeated_characters: float = Field(
        0.3, ge=0, le=1, description="Reject paragraphs of which more than this share is one to three characters over and over; 1 is off."
    )
    repeated_words: float = Field(
        0.75, ge=0, le=1, description="Reject text of 50 words or more if this share of its 5-word sequences came before in it; 1 is off."
    )
    quality_words: int = Field(50, ge=1, description="Documents of at least so many words are judged by the signals below.")
    min_letters: float = Field(
        0.6, ge=0, le=1, description="Least share of letters and their signs among all characters but spaces; 0 is off."
    )
    max_digits: float = Field(0.3, ge=0, le=1, description="Largest share of digits; 1 is off.")
    min_letter_words: float = Field(0.55, ge=0, le=1, description="Least share of words that have a letter; 0 is off.")
    min_word_length: float = Field(2.5, ge=0, description="Least mean length of a word, in characters; 0 is off.")
    max_word_length: float = Field(
        12.0, ge=1, description="Largest mean length of a word; also for single paragraphs, at twice the length."
    )
    min_common_words: float = Field(
        0.005, ge=0, le=1, description="Least share of the language's commonest little words (Marathi, Hindi, English); 0 is off."
    )
    duplicates: bool = Field(True, description="Drop exact repetitions of paragraphs, documents and conversations.")
    near_duplicates: float = Field(
        0.8, ge=0, le=1, description="Drop text of 20 words or more this similar (Jaccard, 3-word sequences) to an earlier one; 0 is off."
    )
    boilerplate: int = Field(
        10, ge=0, description="Drop short lines without a full stop that so many documents of a source have, save the first; 0 is off."
    )
    short_percentile: float = Field(
        0.01, ge=0, le=50, description="Paragraphs and conversations below this percentile of tokens are outliers ..."
    )
    short_tokens: int = Field(1, ge=0, description="... if they also have fewer tokens than this (estimated: three characters make one).")
    long_percentile: float = Field(
        99.99, ge=50, le=100, description="Paragraphs and conversations above this percentile of tokens are outliers ..."
    )
    long_tokens: int = Field(2_000, ge=1, description="... if they also have more tokens than this.")

    @model_validator(mode="before")
    @classmethod
    def _one_language_is_a_list(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("languages"), str):
            return {**values, "languages": [values["languages"]]}
        return values


class MixConfig(Section):
    """How much of what goes into the training stream; data/clean-report.json has the table."""

    tokens: int | None = Field(
        None, ge=1_000, description="Length of the training stream, in estimated tokens; default: what the sources give."
    )
    temperature: float = Field(
        1.0, ge=1, le=100, description="Languages get shares of size^(1/temperature): 1 as they come, more lifts the small ones."
    )
    languages: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {}, description='Shares of languages, for example {"mr": 0.6, "en": 0.4}; those not named share the rest.'
    )
    conversations: float | None = Field(None, ge=0, le=1, description="Share of the stream that is conversations; default: as they come.")
    max_repeats: float = Field(4.0, ge=1, le=100, description="No document goes in more often than this, whatever the shares ask for.")


class DataConfig(Section):
    """What the model reads."""

    sources: list[Source] = Field(
        default_factory=lambda: [Source(path="sample")],
        min_length=1,
        description="Files, folders or globs (.txt .jsonl .tsv .parquet, also .gz .xz), hf:// datasets; a plain string is a path.",
    )
    loss_on: Literal["all", "answers"] = Field("all", description='In conversations, learn from "all" tokens or only from the "answers".')
    val_tokens: int = Field(8_000, ge=500, description="Size of the validation set, in tokens (estimated from its characters).")
    # No part of the dump: it decides nothing but the time.
    workers: int = Field(0, ge=0, exclude=True, description="Processes that clean; 0 uses every core. The result is the same.")
    clean: CleanConfig = Field(default_factory=CleanConfig)
    mix: MixConfig = Field(default_factory=MixConfig)

    @model_validator(mode="before")
    @classmethod
    def _plain_strings_are_paths(cls, values: Any) -> Any:
        if isinstance(values, dict) and "sources" in values:
            sources = values["sources"]
            sources = [sources] if isinstance(sources, (str, dict)) else sources
            if isinstance(sources, list):
                sources = [{"path": source} if isinstance(source, str) else source for source in sources]
            values = {**values, "sources": sources}
        return values


class TokenizerConfig(Section):
    """How text is cut into tokens."""

    vocab_size: int = Field(4_000, ge=400, le=65_535, description="Number of tokens; 2000 to 8000 suits small models.")


class AugmentConfig(Section):
    """Training text said in other words (docs/augmentation.md). Off until one of the first three settings names something."""

    paraphrase_pairs: list[str] = Field(
        default_factory=list, description="Files with two columns, a sentence and its paraphrase (.tsv, also .gz .xz)."
    )
    paraphrase_models: dict[str, str] = Field(
        default_factory=dict,
        description='Per language, a model that says a sentence in other words: {"mr": WHERE}. WHERE is a folder with a Hugging Face '
        "sequence-to-sequence model or a CTranslate2 model, or the base URL of an OpenAI-compatible endpoint.",
    )
    translation_models: dict[str, str] = Field(
        default_factory=dict,
        description='For back-translation, the way there and the way back: {"en-mr": WHERE, "mr-en": WHERE}.',
    )
    share: float = Field(0.2, gt=0, le=1, description="Share of the training documents that each model says in other words.")
    length_ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        (0.5, 2.0), description="A new sentence is kept if its length divided by the old one's lies in this range."
    )
    chrf: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = Field(
        (20.0, 95.0), description="... and its chrF to the old one in this range: below it says something else, above it is the same."
    )
    max_sentence_chars: int = Field(400, ge=10, description="Longer sentences are left as they are.")
    sentences_at_once: int = Field(16, ge=1, le=4096, description="Sentences in one batch of a model, and saved together.")
    beams: int = Field(4, ge=1, le=64, description="Beam width of a model in a folder; 1 is greedy and fastest.")
    paraphrase_prefix: str = Field(
        "", description='Text before every sentence for a paraphrase model in a folder: T5 wants "paraphrase: ".'
    )
    endpoint_model: str = Field("default", description="Name of the model that an endpoint is asked for.")
    endpoint_key_variable: str | None = Field(None, description="Environment variable that holds the endpoint's key.")
    endpoint_timeout: float = Field(120.0, gt=0, description="Seconds to wait for an answer of an endpoint.")
    cache: str | None = Field(None, description="Folder where what models wrote is kept; default: augment-cache in the run folder.")

    @field_validator("paraphrase_pairs", mode="before")
    @classmethod
    def _one_file_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _ranges_and_pairs(self) -> "AugmentConfig":
        for name, (low, high) in (("length_ratio", self.length_ratio), ("chrf", self.chrf)):
            if low >= high:
                raise ValueError(f"{name}: [{low:g}, {high:g}] is empty: the first number must be smaller")
        for language in self.paraphrase_models:
            if not re.fullmatch("[a-z]{2,3}", language):
                raise ValueError(f"paraphrase_models: {language!r} is no language code: write it like mr or en")
        for pair in self.translation_models:
            source, _, target = pair.partition("-")
            if not re.fullmatch("[a-z]{2,3}-[a-z]{2,3}", pair) or source == target:
                raise ValueError(f"translation_models: {pair!r} is no pair of languages: write it like en-mr")
            if f"{target}-{source}" not in self.translation_models:
                raise ValueError(f"translation_models: {pair} needs a model for the way back: add {target}-{source}")
        return self


class ModelConfig(Section):
    """The shape of the network."""

    dim: int = Field(256, ge=32, le=8192, description="Width of the model; a multiple of 32.")
    n_layers: Annotated[int, Also("layers", "num_layers")] = Field(8, ge=1, le=256, description="Number of transformer layers.")
    n_heads: Annotated[int, Also("heads", "num_heads")] = Field(4, ge=1, le=256, description="Number of attention heads; divides dim.")
    n_kv_heads: Annotated[int | None, Also("kv_heads")] = Field(
        None, ge=1, description="Number of key/value heads (grouped-query attention); default: n_heads."
    )
    hidden_dim: int | None = Field(None, ge=32, description="Width inside the SwiGLU block; default: 4 x dim.")
    max_seq_len: Annotated[int, Also("seq_len", "context")] = Field(128, ge=8, le=65_536, description="Context length, in tokens.")
    rope_theta: float = Field(10_000.0, gt=0, description="Base of the rotary position angles.")
    norm_eps: float = Field(1e-5, gt=0, lt=1, description="Epsilon of RMSNorm.")
    tied_embeddings: bool = Field(True, description="Use the token embedding as the output matrix too.")

    def shape(self, vocab_size: int) -> ModelShape:
        """The full shape for a vocabulary of `vocab_size`.

        Raises:
            ConfigError: the numbers do not fit each other.
        """
        return ModelShape(
            vocab_size=vocab_size,
            dim=self.dim,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads or self.n_heads,
            hidden_dim=self.hidden_dim or 4 * self.dim,
            max_seq_len=self.max_seq_len,
            rope_theta=self.rope_theta,
            norm_eps=self.norm_eps,
            tied_embeddings=self.tied_embeddings,
        )


class TrainConfig(Section):
    """How the model learns."""

    learning_rate: Annotated[float, Also("lr")] = Field(5e-4, gt=0, le=1, description="Peak learning rate.")
    min_learning_rate: Annotated[float, Also("min_lr")] = Field(
        1e-6, ge=0, le=1, description="Learning rate at the end of cosine and wsd, and the least of noam."
    )
    warmup_start: float = Field(1e-7, ge=0, le=1, description="Learning rate at the first step of the warm-up.")
    warmup_steps: Annotated[int, Also("warmup")] = Field(
        1_000, ge=0, description="Steps of linear warm-up; cut to a fifth of the run where that is shorter."
    )
    scheduler: Annotated[Literal["cosine", "constant", "noam", "wsd"], Also("sched")] = Field(
        "cosine", description="Learning rate after the warm-up: cosine decay, constant, inverse square root (noam), or warmup-stable-decay."
    )
    decay_share: float = Field(0.2, gt=0, le=1, description="Last share of the run over which wsd lowers the learning rate.")
    total_steps: Annotated[int | None, Also("steps")] = Field(
        None, ge=1, description="Optimiser steps; with epochs also given, the shorter of the two ends the run."
    )
    epochs: float | None = Field(None, gt=0, description="Passes over the training tokens; 3 where total_steps is not given either.")
    batch_size_per_device: Annotated[int, Also("batch", "batch_size")] = Field(8, ge=1, description="Sequences in one forward pass.")
    gradient_accumulation_steps: Annotated[int, Also("grad_accum", "grad_accumulation")] = Field(
        8, ge=1, description="Forward passes summed into one optimiser step."
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="AdamW for everything, or Muon for the matrices of the layers and AdamW for the rest."
    )
    muon_learning_rate: Annotated[float, Also("muon_lr")] = Field(
        0.01, gt=0, le=1, description="Peak learning rate of Muon; follows the same schedule."
    )
    weight_decay: float = Field(0.01, ge=0, lt=1, description="Weight decay, on matrices only.")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.95), description="AdamW moment decays."
    )
    eps: float = Field(1e-8, gt=0, lt=1, description="AdamW epsilon.")
    clip_grad_norm: Annotated[float, Also("clip")] = Field(1.0, gt=0, description="Gradients are scaled down to this global norm.")
    spike_threshold: float = Field(
        10.0,
        ge=0,
        description="Go back to the last good state where the loss is so many standard deviations of its noise above its level; "
        "0 does so only where it is no number.",
    )
    ema_decay: Annotated[float, Also("ema")] = Field(
        0.999, ge=0, lt=1, description="Exponential moving average of the weights, evaluated beside them; 0 switches it off."
    )
    eval_every_steps: Annotated[int, Also("eval_every")] = Field(1_000, ge=1, description="Steps between validations.")
    save_every_steps: Annotated[int, Also("save_every")] = Field(2_500, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(3, ge=1, description="How many of the last checkpoints are kept; the best is kept besides.")
    patience_early_stop: Annotated[int, Also("patience")] = Field(
        5, ge=0, description="Stop after this many validations without a better loss; 0 never stops early."
    )
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        "auto",
        description="Arithmetic of the matrix products; auto is int8 or else bf16 where the processor has them, and fp32 elsewhere.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile, for all but int8; auto compiles where the run is long enough."
    )
    threads: int = Field(0, ge=0, description="Processor threads of a process; 0 shares the cores among the processes.")
    # No part of the dump: it decides nothing but the time.
    workers: int = Field(
        0, ge=0, exclude=True, description="Processes on this machine that share every step (docs/distributed.md); 0 is one process."
    )
    tune: Literal["auto", "off"] = Field(
        "auto", description="Measure at the start of a long run which way to compute is fastest here, within what is set above."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto takes a GPU where torch finds one.")
    nice: int = Field(0, ge=0, le=19, description="Nice level while training: 19 leaves the processor to everybody else first.")
    pause_on_battery: float = Field(
        20, ge=0, le=100, description="Pause while on battery with less than this percentage left; 100 pauses whenever unplugged, 0 never."
    )
    pause_on_heat: bool = Field(True, description="Pause while a sensor is within 3 degrees of what it calls critical.")
    live_samples: int = Field(2, ge=0, le=30, description="Prompts of evaluate.prompts that are answered at each validation.")
    track: list[Literal["tensorboard", "trackio"]] = Field(
        default_factory=list, description="Also write the metrics for TensorBoard or trackio; needs pip install 'bulletlm[track]'."
    )

    @field_validator("track", mode="before")
    @classmethod
    def _one_tracker_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def reproducibility_fields(self) -> dict[str, Any]:
        """What decides bits of the model, as JSON values; how often it is saved does not."""
        surroundings = {"live_samples", "track", "tune", "device", "nice", "pause_on_battery", "pause_on_heat"}
        return self.model_dump(mode="json", exclude={"keep_checkpoints", "save_every_steps", *surroundings})


class QuantConfig(Section):
    """How the weights are stored in the model file."""

    weights: Annotated[WeightType, Also("quant")] = Field(
        "BQ4", description="Type of the matrices: 4.5, 8.5, 16 or 32 bits a weight (docs/quantization.md)."
    )
    embedding: WeightType | None = Field(
        None,
        description="Type of the embedding and the output matrix; default: BQ8 where weights is BQ4 (4 bits hurt there), else as weights.",
    )
    calibration: Annotated[Literal["none", "search", "gptq"], Also("calibration_method")] = Field(
        "gptq", description="How BQ4 is fitted to text: not at all, scales only, or matrix after matrix with error feedback (GPTQ)."
    )
    calibration_tokens: int = Field(
        40_000, ge=1_024, description="Training tokens that calibration looks at, from all languages and sources."
    )
    seed: int | None = Field(None, ge=0, lt=2**32, description="Seed of the choice of those tokens; default: the seed of the run.")
    keep: list[str] = Field(
        default_factory=list, description='Other types for some matrices, for example ["layers.0.*=BQ8"]; the last one that fits decides.'
    )

    @field_validator("keep", mode="before")
    @classmethod
    def _one_rule_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class QatConfig(Section):
    """Training on the 4-bit grid (docs/quantization.md). It needs BQ4 weights; with other types nothing is done."""

    steps: Annotated[int, FullNameOnly()] = Field(
        200, ge=0, description="Steps in which the finished FP32 model teaches the 4-bit one, as a stage of its own; 0 leaves that out."
    )
    tokens_per_step: int = Field(4_096, ge=1, description="Training tokens in one of those steps.")
    learning_rate_share: float = Field(
        0.125, gt=0, le=10, description="Their learning rate as a share of train.learning_rate; it falls linearly to 0."
    )
    start: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Instead of that stage: the share of the main training after which it computes with 4-bit weights, for example 0.7.",
    )


class SamplingConfig(Section):
    """How text is generated unless a command says otherwise; stored in the model file."""

    temperature: float = Field(0.7, ge=0, le=10, description="0 always takes the likeliest token; higher is more varied.")
    top_k: int = Field(40, ge=0, description="Keep only the k likeliest tokens; 0 keeps all.")
    top_p: float = Field(0.95, gt=0, le=1, description="Keep the likeliest tokens that together reach this probability.")
    min_p: float = Field(0.05, ge=0, lt=1, description="Drop tokens less likely than this share of the likeliest one.")
    repetition_penalty: float = Field(1.1, gt=0, le=10, description="Above 1 makes recent tokens less likely.")
    max_tokens: Annotated[int, Also("max_new_tokens")] = Field(96, ge=1, description="Tokens generated at most.")


class EvaluateConfig(Section):
    """How the finished model is judged."""

    prompts: str | None = Field(None, description="A .jsonl file of {prompt, language, kind}; default: the 30 prompts of the package.")
    samples: int = Field(4, ge=0, description="Generations printed at the end of a run.")


class Config(Section):
    """The whole configuration of a run."""

    name: str = Field("model", pattern=r"^[^/\\\x00]{1,100}$", description="Name of the run; its folder is runs_dir/name.")
    runs_dir: str = Field("runs", min_length=1, description="Folder that holds the runs.")
    seed: int = Field(42, ge=0, lt=2**32, description="Seed of everything random.")
    license: str = Field("unspecified", description="Licence line written into the model file.")
    data: DataConfig = Field(default_factory=DataConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    quant: QuantConfig = Field(default_factory=QuantConfig)
    qat: QatConfig = Field(default_factory=QatConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)

    @model_validator(mode="after")
    def _defaults_that_depend(self) -> "Config":
        if self.name in (".", ".."):
            raise ValueError("name: must be a folder name, not a path")
        if self.train.epochs is None and self.train.total_steps is None:
            self.train.epochs = 3
        self.weight_types()  # a mistake there shows before a night of training, not after it
        return self

    def weight_types(self) -> dict[str, str]:
        """The type that every tensor has in the model file."""
        return weight_types(self.model.shape(self.tokenizer.vocab_size), self.quant.weights, self.quant.embedding, self.quant.keep)

    @property
    def run_dir(self) -> Path:
        """The folder of this run."""
        return Path(self.runs_dir) / self.name
