"""Every setting of BulletLM: its name, type, limits, default and description.

Configuration files, command-line flags, `bullet config` and docs/settings.md all use this model. `loader.py` reads them.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bulletlm.quant.types import WeightType, weight_types
from bulletlm.shape import ModelShape


class Also:
    """Further names that a setting accepts."""

    def __init__(self, *names: str) -> None:
        self.names = names


class FullNameOnly:
    """Marks a setting that only has its full path as its name, because its last name belongs to another setting."""


class Section(BaseModel):
    """A group of settings. Unknown keys are errors; values are also checked when they are assigned."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


class Source(Section):
    """A source of text."""

    path: str = Field(description='A file, a folder, a glob, hf://DATASET, or text of the package: "sample", "simple", "simple/chat-*".')
    language: str = Field(
        "auto", description='Language code of the text, for example "mr"; "auto" detects it for each document from its script.'
    )
    text: str = Field("text", min_length=1, description="Name of the text column in Parquet, datasets and .jsonl.")
    columns: dict[str, str | int] = Field(
        default_factory=dict,
        description='Columns of a layout that is not recognized: {"user": "q", "assistant": "a"}, {"text": "body"}, or languages, '
        '{"en": 1, "mr": 3}; by name or by number.',
    )
    label: str | None = Field(
        None,
        description="Short name that stands for this source in the model file, its exports and the report, where no path or file name "
        "appears; default: the extension and a number, such as txt-1.",
    )
    documents: Literal["auto", "file", "blank_line", "form_feed", "heading"] = Field(
        "auto",
        description="What separates the documents of a text file: nothing (one document a file), an empty line, a form feed, or each "
        "heading begins one; auto decides for each file and says what it chose.",
    )
    weight: float = Field(
        1.0, ge=0, le=100, description="How often each document is used in the training stream; 0.5 uses every second document."
    )
    tokens: int | None = Field(None, ge=1, description="Use at most about this many tokens of the source; default: all.")
    share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Read and clean only this share of the source, in blocks of about a megabyte from all of its files; for text that is "
        "larger than the time allows.",
    )
    license: str | None = Field(
        None, min_length=1, max_length=200, description="Licence of the text, for the model file and its card, such as CC-BY-4.0."
    )
    attribution: str | None = Field(
        None, min_length=1, max_length=500, description="Whom the model card names for this text: authors, project, address."
    )

    @field_validator("label")
    @classmethod
    def _short(cls, value: str | None) -> str | None:
        if value is not None and not (1 <= len(value) <= 40 and value.isprintable() and not set(value) & set("/\\")):
            raise ValueError("must be 1 to 40 printable characters without / and \\")
        return value

    @field_validator("columns")
    @classmethod
    def _known_roles(cls, value: dict[str, str | int]) -> dict[str, str | int]:
        roles = ("user", "assistant", "system", "text", "messages", "role", "content")
        for role in value:
            if role not in roles and not re.fullmatch("[a-z]{2,3}", role):
                raise ValueError(f"columns: {role} is neither one of {', '.join(roles)} nor a language code such as mr")
        return value


PRESETS: dict[str, dict[str, Any]] = {
    "gentle": {},
    "web": {
        "entities": "everywhere",
        "markup": "everywhere",
        "rulers": True,
        "private_letters": True,
        "no_letters": True,
        "min_chars": 2,
        "split_long": False,
        "max_broken_words": 0.05,
        "legacy_font": "likely",
        "repeated_characters": 0.3,
        "repeated_words": 0.75,
        "min_letters": 0.6,
        "max_digits": 0.3,
        "min_letter_words": 0.55,
        "min_word_length": 2.5,
        "max_word_length": 12.0,
        "min_common_words": 0.005,
        "no_answer": "words",
        "duplicate_lines": "all",
        "repeated_in_document": True,
        "near_duplicates": 0.8,
        "boilerplate": 10,
        "short_percentile": 0.01,
        "short_tokens": 1,
        "long_percentile": 99.99,
    },
}
"""Values of `CleanConfig` that a preset sets; what it does not name has its default."""


class CleanConfig(Section):
    """What is repaired and what is left out. Every rule is counted, with examples, in data/clean-report.json."""

    preset: Literal["gentle", "web"] = Field(
        "gentle",
        description="gentle: certain repairs, masks, exact copies and lines too long to use, nothing else; web: all rules, for text "
        "crawled from web pages. It sets the defaults of the settings below; each can be set as well.",
    )
    entities: Literal["off", "documents", "everywhere"] = Field(
        "documents", description="Decode HTML entities (&amp; &nbsp; &#2350;): in texts, or in conversations too; never in code."
    )
    mojibake: bool = Field(True, description="Repair UTF-8 text that was decoded with another code page; reject what cannot be repaired.")
    broken_unicode: bool = Field(True, description="Reject text with U+FFFD or other traces of lost characters.")
    markup: Literal["off", "documents", "everywhere"] = Field(
        "documents",
        description="Remove HTML tags, wiki and Markdown marks: in documents that are markup, or left-overs everywhere; "
        "never in code and conversations.",
    )
    rulers: bool = Field(False, description="Shorten long sequences of one character: ------ ......")
    byte_order_mark: bool = Field(True, description="Remove byte order marks (U+FEFF).")
    control: bool = Field(True, description="Remove control characters.")
    zero_width: bool = Field(True, description="Remove invisible characters; joiners stay where a script needs them.")
    nfc: bool = Field(True, description="Normalize to Unicode NFC: one order and form for combining marks and nukta.")
    spelling: bool = Field(
        True, description="Use one encoding for Devanagari letters that can be typed in two ways (eyelash ra, candra e and o)."
    )
    spaces: bool = Field(True, description="Reduce repeated spaces to one and remove spaces at the start and end, except in code.")
    letters: bool = Field(True, description="Repair Devanagari that a font conversion broke: उद्भ्ावत, मंुबई, लाभाथ्र्य.")
    private_use: bool = Field(True, description="Remove private-use bullets.")
    private_letters: bool = Field(False, description="Reject text with private-use letters, which only one font can show.")
    emails: bool = Field(True, description="Replace e-mail addresses with [email].")
    phones: bool = Field(True, description="Replace phone numbers with [phone].")
    phone_regions: list[str] = Field(
        default_factory=list,
        description='Countries whose phone numbers are recognized without a country code, for example ["IN", "US"]; default: those of '
        "the languages in data.clean.languages and of the sources, and India.",
    )
    long_numbers: int = Field(9, ge=0, description="Replace digit strings of at least this length with [number]; 0 turns this off.")
    no_letters: bool = Field(False, description="Reject paragraphs without a letter: separators, page numbers.")
    min_chars: int = Field(1, ge=1, description="Reject paragraphs with fewer characters.")
    max_chars: int = Field(20_000, ge=100, description="Longer paragraphs (one line) are split, or rejected where they cannot be.")
    split_long: bool = Field(
        True, description="Split paragraphs longer than max_chars at the ends of sentences; off rejects them as they are."
    )
    max_broken_words: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Reject paragraphs in which more than this share of the Devanagari "
        "words is misspelled beyond repair; 1 turns this off.",
    )
    legacy_font: Literal["off", "certain", "likely"] = Field(
        "certain",
        description="Reject Devanagari of an old font that was saved as Latin letters (Kruti Dev, Shivaji, DVB-TT): documents full of "
        "the commonest words of such fonts, or every line that looks like it.",
    )
    languages: list[str] = Field(
        default_factory=list,
        description='Keep only documents in these languages, such as ["mr", "en"]; [] keeps all. The language of each is detected.',
    )
    repeated_characters: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Reject paragraphs of which more than this share is one to three characters repeated many times; 1 turns this off.",
    )
    repeated_words: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Reject text of 50 words or more if this share of its 5-word sequences came before in it; 1 turns this off.",
    )
    quality_words: int = Field(50, ge=1, description="Documents of at least this many words are judged by the signals below.")
    min_letters: float = Field(
        0.0, ge=0, le=1, description="Smallest share of letters and combining marks among all characters except spaces; 0 turns this off."
    )
    max_digits: float = Field(1.0, ge=0, le=1, description="Largest share of digits; 1 turns this off.")
    min_letter_words: float = Field(0.0, ge=0, le=1, description="Smallest share of words that have a letter; 0 turns this off.")
    min_word_length: float = Field(0.0, ge=0, description="Smallest mean length of a word, in characters; 0 turns this off.")
    max_word_length: float = Field(
        0.0, ge=0, description="Largest mean length of a word; also for single paragraphs, at twice the length; 0 turns this off."
    )
    min_common_words: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Smallest share of the language's most common function words (Marathi, Hindi, English); 0 turns this off.",
    )
    no_answer: Literal["empty", "words"] = Field(
        "empty", description="Reject conversations without an answer: an empty one, or one without a word, a number or a symbol."
    )
    duplicates: bool = Field(True, description="Drop exact copies: documents and conversations, and the lines that the next two name.")
    duplicate_lines: Literal["off", "sentences", "all"] = Field(
        "sentences",
        description="Lines of 30 characters or more that are dropped where an earlier document has them: none, whole sentences (not "
        "verse, dialogue, lists or code), or all.",
    )
    repeated_in_document: bool = Field(
        False, description="Drop paragraphs that come again directly, or long ones for the third time, in one document."
    )
    near_duplicates: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Drop text of 20 words or more this similar (Jaccard, 3-word sequences) to an earlier one; 0 turns this off.",
    )
    boilerplate: int = Field(
        0,
        ge=0,
        description="Drop short lines without a full stop that at least this many "
        "documents of a source have, except the first; 0 turns this off.",
    )
    short_percentile: float = Field(
        0.0,
        ge=0,
        le=50,
        description="Paragraphs and conversations below this percentile of token counts are outliers if they also have fewer than "
        "short_tokens tokens.",
    )
    short_tokens: int = Field(0, ge=0, description="See short_percentile; tokens are estimated as three characters each.")
    long_percentile: float = Field(
        100.0,
        ge=50,
        le=100,
        description="Paragraphs and conversations above this percentile of token counts are outliers if they also have more than "
        "long_tokens tokens.",
    )
    long_tokens: int = Field(2_000, ge=1, description="See long_percentile.")

    @model_validator(mode="before")
    @classmethod
    def _preset_and_older_spellings(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        preset = values.get("preset", "gentle")
        values = {**(PRESETS.get(preset, {}) if isinstance(preset, str) else {}), **values}
        if isinstance(values.get("languages"), str):
            values["languages"] = [values["languages"]]
        if isinstance(values.get("phone_regions"), str):
            values["phone_regions"] = [values["phone_regions"]]
        # These three were switches; on meant the stricter of the two ways.
        for name, on in (("entities", "everywhere"), ("markup", "everywhere"), ("legacy_font", "likely")):
            if isinstance(values.get(name), bool):
                values[name] = on if values[name] else "off"
        return values


class MixConfig(Section):
    """The mixture of the training stream; data/clean-report.json contains the resulting table."""

    tokens: int | None = Field(
        None, ge=1_000, description="Length of the training stream, in estimated tokens; default: all text of the sources."
    )
    temperature: float = Field(
        1.0,
        ge=1,
        le=100,
        description="The share of each language is proportional to its size^(1/temperature): 1 keeps the natural shares, larger values "
        "raise the small languages.",
    )
    languages: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {}, description='Shares of languages, for example {"mr": 0.6, "en": 0.4}; the other languages share the rest.'
    )
    conversations: float | None = Field(None, ge=0, le=1, description="Share of conversations in the stream; default: their natural share.")
    max_repeats: float = Field(4.0, ge=1, le=100, description="Largest number of times that a document is used to reach these shares.")
    general: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of general text (the sources sample and simple) in the stream, none of it in the validation text; default: 0, "
        "or with model.start_from a share that keeps a model of these languages from forgetting them.",
    )


GENERAL_SOURCES = ("sample", "simple")
"""The sources of general text, which are in the package."""


class DataConfig(Section):
    """The training and validation text."""

    sources: list[Source] = Field(
        default_factory=lambda: [Source(path="sample")],
        min_length=1,
        description="Files, folders, globs or hf:// datasets, of the kinds in docs/reading.md; a plain string is a path.",
    )
    loss_on: Literal["all", "answers"] = Field(
        "all", description='Tokens of conversations that the loss counts: "all", or only those of the "answers".'
    )
    val_tokens: int = Field(8_000, ge=500, description="Size of the validation set, in tokens (estimated from its characters).")
    held_out: list[str] = Field(
        [], description="Files or folders of test texts: training and validation text that contains one of their lines is left out."
    )
    # Excluded from the dump because it changes only the time, not the result.
    workers: int = Field(
        0, ge=0, exclude=True, description="Number of processes that clean; 0 uses every core. The result does not depend on it."
    )
    clean: CleanConfig = Field(default_factory=CleanConfig)
    mix: MixConfig = Field(default_factory=MixConfig)

    @field_validator("held_out", mode="before")
    @classmethod
    def _one_file_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def all_sources(self) -> list[Source]:
        """The sources, followed by those of the general text if data.mix.general wants it and they are not named already."""
        named = {source.path for source in self.sources}
        general = [Source(path=path) for path in GENERAL_SOURCES if path not in named] if self.mix.general else []
        return [*self.sources, *general]

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
    """The tokenizer."""

    vocab_size: int = Field(4_000, ge=400, le=65_535, description="Number of tokens; 2000 to 8000 is suitable for small models.")


class AugmentConfig(Section):
    """Augmentation: paraphrases of the training text (docs/augmentation.md). Off unless one of the first three settings is given."""

    paraphrase_pairs: list[str] = Field(
        default_factory=list, description="Files with two columns, a sentence and its paraphrase (.tsv, also .gz .xz)."
    )
    paraphrase_models: dict[str, str] = Field(
        default_factory=dict,
        description='A paraphrase model for each language: {"mr": WHERE}. WHERE is a folder with a Hugging Face sequence-to-sequence '
        "model or a CTranslate2 model, or the base URL of an OpenAI-compatible endpoint.",
    )
    translation_models: dict[str, str] = Field(
        default_factory=dict,
        description='Models for back-translation, one for each direction: {"en-mr": WHERE, "mr-en": WHERE}.',
    )
    share: float = Field(0.2, gt=0, le=1, description="Share of the training documents that each model paraphrases.")
    length_ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        (0.5, 2.0), description="A new sentence is kept only if its length divided by that of the original is in this range."
    )
    chrf: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = Field(
        (20.0, 95.0),
        description="A new sentence is kept only if its chrF with the original is in this range: a lower value means a different "
        "meaning, a higher one an almost identical sentence.",
    )
    max_sentence_chars: int = Field(400, ge=10, description="Longer sentences are not paraphrased.")
    sentences_at_once: int = Field(
        16, ge=1, le=4096, description="Number of sentences that a model processes, and that are saved, at a time."
    )
    beams: int = Field(4, ge=1, le=64, description="Beam width of a model in a folder; 1 is greedy search and the fastest.")
    paraphrase_prefix: str = Field(
        "", description='Text before every sentence for a paraphrase model in a folder: T5 needs "paraphrase: ".'
    )
    endpoint_model: str = Field("default", description="Model name to send to an endpoint.")
    endpoint_key_variable: str | None = Field(None, description="Environment variable that contains the endpoint's API key.")
    endpoint_timeout: float = Field(120.0, gt=0, description="Seconds to wait for an endpoint's answer.")
    cache: str | None = Field(None, description="Folder for the models' outputs; default: augment-cache in the run folder.")

    @field_validator("paraphrase_pairs", mode="before")
    @classmethod
    def _one_file_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _ranges_and_pairs(self) -> "AugmentConfig":
        for name, (low, high) in (("length_ratio", self.length_ratio), ("chrf", self.chrf)):
            if low >= high:
                raise ValueError(f"{name}: the range [{low:g}, {high:g}] is empty: the first number must be smaller")
        for language in self.paraphrase_models:
            if not re.fullmatch("[a-z]{2,3}", language):
                raise ValueError(f"paraphrase_models: {language} is not a language code: use one like mr or en")
        for pair in self.translation_models:
            source, _, target = pair.partition("-")
            if not re.fullmatch("[a-z]{2,3}-[a-z]{2,3}", pair) or source == target:
                raise ValueError(f"translation_models: {pair} is not a pair of languages: use one like en-mr")
            if f"{target}-{source}" not in self.translation_models:
                raise ValueError(f"translation_models: {pair} needs a model for the opposite direction: add {target}-{source}")
        return self


class ModelConfig(Section):
    """The shape of the network."""

    dim: int = Field(256, ge=32, le=8192, description="Width of the model; a multiple of 32.")
    n_layers: Annotated[int, Also("layers", "num_layers")] = Field(8, ge=1, le=256, description="Number of transformer layers.")
    n_heads: Annotated[int, Also("heads", "num_heads")] = Field(
        4, ge=1, le=256, description="Number of attention heads; dim must be divisible by it."
    )
    n_kv_heads: Annotated[int | None, Also("kv_heads")] = Field(
        None, ge=1, description="Number of key/value heads (grouped-query attention); default: n_heads."
    )
    hidden_dim: int | None = Field(None, ge=32, description="Hidden width of the SwiGLU block; default: 4 x dim.")
    max_seq_len: Annotated[int, Also("seq_len", "context")] = Field(128, ge=8, le=65_536, description="Context length, in tokens.")
    rope_theta: float = Field(10_000.0, gt=0, description="Base of the rotary position angles.")
    norm_eps: float = Field(1e-5, gt=0, lt=1, description="Epsilon of RMSNorm.")
    tied_embeddings: bool = Field(True, description="Use the token embedding also as the output matrix.")
    start_from: Annotated[str | None, Also("from")] = Field(
        None,
        description="A model to start from instead of random weights: a .bullet or .gguf file, a run folder, a checkpoint, a Hugging Face "
        'folder, or the name of a model of the package. Shape and vocabulary are its own (docs/fine-tuning.md). "none" is the default.',
    )

    @field_validator("start_from")
    @classmethod
    def _none_in_words(cls, value: str | None) -> str | None:
        return None if value in ("", "none") else value

    def shape(self, vocab_size: int) -> ModelShape:
        """The full shape for a vocabulary of `vocab_size`.

        Raises:
            ConfigError: the numbers contradict each other.
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
    """Training."""

    learning_rate: Annotated[float, Also("lr")] = Field(5e-4, gt=0, le=1, description="Peak learning rate.")
    min_learning_rate: Annotated[float, Also("min_lr")] = Field(
        1e-6, ge=0, le=1, description="Learning rate at the end of cosine and wsd, and the lower limit of noam."
    )
    warmup_start: float = Field(1e-7, ge=0, le=1, description="Learning rate at the first step of the warm-up.")
    warmup_steps: Annotated[int, Also("warmup")] = Field(1_000, ge=0, description="Steps of linear warm-up; at most a fifth of the run.")
    scheduler: Annotated[Literal["cosine", "constant", "noam", "wsd"], Also("sched")] = Field(
        "cosine", description="Learning rate after the warm-up: cosine decay, constant, inverse square root (noam), or warmup-stable-decay."
    )
    decay_share: float = Field(0.2, gt=0, le=1, description="Share of the run, at its end, in which wsd lowers the learning rate.")
    total_steps: Annotated[int | None, Also("steps")] = Field(
        None, ge=1, description="Number of optimizer steps; if epochs is given too, the shorter of the two ends the run."
    )
    epochs: float | None = Field(
        None,
        gt=0,
        description="Passes over the training tokens; default, unless total_steps is given: 3, or up to 8 if the run would otherwise have "
        "fewer than 500 steps.",
    )
    batch_size_per_device: Annotated[int, Also("batch", "batch_size")] = Field(8, ge=1, description="Sequences in one forward pass.")
    gradient_accumulation_steps: Annotated[int, Also("grad_accum", "grad_accumulation")] = Field(
        8, ge=1, description="Number of forward passes whose gradients are summed in one optimizer step."
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="adamw for all parameters, or muon: Muon for the matrices of the layers and AdamW for the rest."
    )
    muon_learning_rate: Annotated[float, Also("muon_lr")] = Field(
        0.01, gt=0, le=1, description="Peak learning rate of Muon; it follows the same schedule."
    )
    weight_decay: float = Field(0.01, ge=0, lt=10, description="Weight decay, on matrices only.")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.95), description="Decay rates of AdamW's two moments."
    )
    eps: float = Field(1e-8, gt=0, lt=1, description="Epsilon of AdamW.")
    clip_grad_norm: Annotated[float, Also("clip")] = Field(
        1.0, gt=0, description="Gradients with a larger global norm are scaled down to this norm."
    )
    spike_threshold: float = Field(
        10.0,
        ge=0,
        description="Go back to the last good state if the loss is more than this many standard deviations above its recent level; "
        "0 goes back only if the loss is not finite.",
    )
    ema_decay: Annotated[float, Also("ema")] = Field(
        0.999,
        ge=0,
        lt=1,
        description="Decay of the exponential moving average (EMA) of the weights, which is evaluated too; 0 turns the average off.",
    )
    eval_every_steps: Annotated[int, Also("eval_every")] = Field(1_000, ge=1, description="Steps between validations.")
    save_every_steps: Annotated[int, Also("save_every")] = Field(2_500, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(3, ge=1, description="Number of most recent checkpoints to keep, in addition to the best.")
    patience_early_stop: Annotated[int, Also("patience")] = Field(
        5, ge=0, description="Stop after this many validations without an improvement; 0 never stops early."
    )
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        "auto",
        description="Arithmetic of the matrix products; auto uses int8 or else bf16 if the processor supports them, otherwise fp32.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="Use torch.compile (not with int8); auto compiles if the run is long enough."
    )
    threads: int = Field(0, ge=0, description="Threads of a process; 0 divides the cores among the processes.")
    # Excluded from the dump because it changes only the time, not the result.
    workers: int = Field(
        0, ge=0, exclude=True, description="Number of processes on this machine that share every step (docs/distributed.md); 0 means one."
    )
    tune: Literal["auto", "off"] = Field(
        "auto", description="Measure at the start of a long run which way of computing is fastest, within the settings above."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto uses a GPU if torch finds one.")
    nice: int = Field(0, ge=0, le=19, description="Nice level while training; with 19 all other programs have priority.")
    pause_on_battery: float = Field(
        20,
        ge=0,
        le=100,
        description="Pause while the machine runs on battery with less than this percentage left; 100 always pauses on battery, 0 never.",
    )
    pause_on_heat: bool = Field(True, description="Pause while a temperature sensor is within 3 degrees of its critical value.")
    live_samples: int = Field(
        2, ge=0, le=30, description="Number of prompts from evaluate.prompts that the model answers at each validation."
    )
    track: list[Literal["tensorboard", "trackio"]] = Field(
        default_factory=list,
        description="Also write the metrics for TensorBoard or trackio; this needs the extra `track`.",
    )

    @field_validator("track", mode="before")
    @classmethod
    def _one_tracker_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def reproducibility_fields(self) -> dict[str, Any]:
        """The settings that change the trained weights, as JSON values (the ones that only change how often to save are left out)."""
        surroundings = {"live_samples", "track", "tune", "device", "nice", "pause_on_battery", "pause_on_heat"}
        return self.model_dump(mode="json", exclude={"keep_checkpoints", "save_every_steps", *surroundings})


class QuantConfig(Section):
    """Quantization of the model file."""

    weights: Annotated[WeightType, Also("quant")] = Field(
        "BQ4", description="Type of the matrices: 4.5, 8.5, 16 or 32 bits per weight (docs/quantization.md)."
    )
    embedding: WeightType | None = Field(
        None,
        description="Type of the embedding and the output matrix; default: BQ8 if weights is BQ4 (they lose most with 4 bits), else the "
        "type of weights.",
    )
    calibration: Annotated[Literal["none", "search", "gptq"], Also("calibration_method")] = Field(
        "gptq",
        description="Calibration of BQ4 on text: none (round to nearest), search (scales only), or gptq (matrix by matrix with error "
        "feedback).",
    )
    calibration_tokens: int = Field(
        40_000, ge=1_024, description="Number of training tokens for calibration, from all languages and sources."
    )
    seed: int | None = Field(None, ge=0, lt=2**32, description="Seed of the choice of those tokens; default: the seed of the run.")
    auto_fix: bool = Field(
        False,
        description="If the file exceeds report.limits.perplexity_change or report.limits.kl: calibrate on more text, store the matrices "
        "with the largest effect with 8 bits, and use QAT, in this order, until the limits hold or nothing helps.",
    )
    keep: list[str] = Field(
        default_factory=list, description='Other types for some matrices, for example ["layers.0.*=BQ8"]; the last matching rule applies.'
    )

    @field_validator("keep", mode="before")
    @classmethod
    def _one_rule_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class QatConfig(Section):
    """Quantization-aware training (docs/quantization.md). It needs BQ4 weights; with other types it does nothing."""

    steps: Annotated[int | None, FullNameOnly()] = Field(
        None,
        ge=0,
        description="Steps of the qat stage, in which the 4-bit model learns from the finished FP32 model; 0 skips the stage. Default: "
        "in proportion to the training, at most 400, and none if calibration alone has lost less than can be measured.",
    )
    tokens_per_step: int = Field(4_096, ge=1, description="Training tokens in each of those steps.")
    learning_rate_share: float = Field(
        0.125, gt=0, le=10, description="Learning rate of those steps as a share of train.learning_rate; it falls linearly to 0."
    )
    start: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Instead of the qat stage: share of the main training after which it continues with 4-bit weights, for example 0.7.",
    )


class SamplingConfig(Section):
    """Defaults of text generation, stored in the model file."""

    temperature: float = Field(0.7, ge=0, le=10, description="Randomness of the choice of tokens; 0 always takes the most likely token.")
    top_k: int = Field(40, ge=0, description="Keep only the k most likely tokens; 0 keeps all.")
    top_p: float = Field(0.95, gt=0, le=1, description="Keep the most likely tokens that together reach this probability.")
    min_p: float = Field(0.05, ge=0, lt=1, description="Drop tokens whose probability is below this share of the most likely token's.")
    repetition_penalty: float = Field(1.1, gt=0, le=10, description="Values above 1 make recent tokens less likely.")
    max_tokens: Annotated[int, Also("max_new_tokens")] = Field(96, ge=1, description="Largest number of tokens to generate.")


class EvaluateConfig(Section):
    """Evaluation of the finished model."""

    prompts: str | None = Field(
        None, description="A .jsonl file with one {prompt, language, kind} per line; default: the 40 prompts of the package."
    )
    samples: int = Field(4, ge=0, description="Number of answers printed at the end of a run.")
    checkpoint: str = Field(
        "best",
        description='Checkpoint that is exported: "best", or a kept one such as "step-2500"; bullet evaluate RUN --checkpoints lists them.',
    )
    also: list[str] = Field(
        default_factory=list,
        description="Other text on which the report measures the models too, as paths like data.sources; with model.start_from it shows "
        "what the new model forgot.",
    )

    @field_validator("checkpoint")
    @classmethod
    def _a_checkpoint(cls, value: str) -> str:
        if not re.fullmatch(r"best|step-[0-9]+", value):
            raise ValueError("must be best, or step- and a number, such as step-2500")
        return value

    @field_validator("also", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class LimitsConfig(Section):
    """Limits of the two verdicts of the report (docs/evaluation.md). Shares are from 0 to 1."""

    perplexity_change: float = Field(
        0.01, ge=0, description="Quantization: largest rise of the perplexity; 0.01 is 1 %, what plain rounding to 4 bits costs."
    )
    kl: float = Field(0.01, ge=0, description="Quantization: largest KL divergence from FP32, in nats per token.")
    language_change: float = Field(0.02, ge=0, description="Quantization: largest rise of the perplexity in any single language.")
    weight_error: float = Field(0.25, ge=0, description="Quantization: largest error of a matrix, relative to its root mean square.")
    far_rows: float = Field(0.0, ge=0, le=1, description="Quantization: largest share of rows of weights that are far from FP32.")
    worse_answers: float = Field(0.05, ge=0, le=1, description="Quantization: largest rise of the share of answers with a fault.")
    wrong_facts: float = Field(0.05, ge=0, le=1, description="Quantization: largest rise of the share of wrong answers to facts.")
    right_language: float = Field(0.95, ge=0, le=1, description="Usefulness: smallest share of answers in the right language.")
    loops: float = Field(0.05, ge=0, le=1, description="Usefulness: largest share of answers that repeat themselves.")
    invented_words: float = Field(
        0.03, ge=0, le=1, description="Usefulness: largest share of invented words above that of held-out text, which people wrote."
    )
    over_ngram: float = Field(0.0, description="Usefulness: largest bits per byte above those of a 5-gram model of the same text.")
    question_use: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Usefulness: smallest share of choices in which the model finds a person's answer likelier after its own question than "
        "after another one; without understanding it is 0.5.",
    )
    answer_fit: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Usefulness: smallest share of comparisons in which the model's answer is closer to a person's answer to the same "
        "question than to one to another question; answers that do not depend on the question have 0.5.",
    )
    on_topic: float = Field(0.2, ge=0, le=1, description="Usefulness: smallest share of answers with a word that belongs to the question.")
    broken_letters: float = Field(0.005, ge=0, le=1, description="Usefulness: largest share of broken letters.")
    finished: float = Field(0.5, ge=0, le=1, description="Usefulness: smallest share of answers that the model ends itself.")
    copied: float = Field(0.25, ge=0, le=1, description="Usefulness: largest share of answers copied from the training text.")
    contamination: float = Field(
        0.05, ge=0, le=1, description="Usefulness: largest share of the validation text that the training text has, too."
    )
    below_training: float = Field(
        0.1, ge=0, description="Usefulness: how far the validation loss may be below the training loss, in nats per token."
    )


class ReportConfig(Section):
    """The report: its language, and the limits of its verdicts."""

    lang: Literal["en", "mr"] = Field("en", description="Language of report.html: English or Marathi.")
    limits: LimitsConfig = Field(default_factory=LimitsConfig)


class Config(Section):
    """The whole configuration of a run."""

    name: str = Field("model", description="Name of the run; its folder is runs_dir/name.")
    model_name: str | None = Field(None, description="Name of the model in its file, its exports and the report; default: name.")
    runs_dir: str = Field("runs", min_length=1, description="Folder that holds the runs.")
    seed: int = Field(42, ge=0, lt=2**32, description="Seed of all random numbers.")
    license: str = Field("unspecified", description="Licence of the model, written into the model file.")
    data: DataConfig = Field(default_factory=DataConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    quant: QuantConfig = Field(default_factory=QuantConfig)
    qat: QatConfig = Field(default_factory=QatConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)

    @field_validator("name")
    @classmethod
    def _a_folder_name(cls, value: str) -> str:
        if not 1 <= len(value) <= 100 or value in (".", "..") or set(value) & set("/\\\0"):
            raise ValueError("must be a folder name of 1 to 100 characters without / and \\")
        return value

    @field_validator("model_name")
    @classmethod
    def _printable_name(cls, value: str | None) -> str | None:
        if value is not None and not (1 <= len(value) <= 100 and value.isprintable()):
            raise ValueError("must be 1 to 100 printable characters")
        return value

    @model_validator(mode="after")
    def _check_quant_keep(self) -> "Config":
        if self.model.start_from is None:
            self.weight_types()  # reports a mistake in quant.keep now instead of after the training
        return self

    def weight_types(self) -> dict[str, str]:
        """Name -> type of every tensor in the model file."""
        return weight_types(self.model.shape(self.tokenizer.vocab_size), self.quant.weights, self.quant.embedding, self.quant.keep)

    @property
    def run_dir(self) -> Path:
        """The folder of this run."""
        return Path(self.runs_dir) / self.name
