"""Translation and paraphrase models: a folder with a Hugging Face or CTranslate2 model, or an OpenAI-compatible endpoint.

Each implements `Backend`: an identity and one method. A folder is checked when it is opened. The model is loaded from it, without
network access, when the first sentence is requested.
"""

import difflib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bulletlm.data.augment.endpoint import Endpoint
from bulletlm.errors import BulletError, ConfigError
from bulletlm.extras import install_command
from bulletlm.files import expand_home, sha256_of_file, sha256_of_json

if TYPE_CHECKING:
    from bulletlm.config.schema import AugmentConfig


FLORES = {
    "en": "eng_Latn",
    "mr": "mar_Deva",
    "hi": "hin_Deva",
    "sa": "san_Deva",
    "ne": "npi_Deva",
    "bn": "ben_Beng",
    "gu": "guj_Gujr",
    "pa": "pan_Guru",
    "or": "ory_Orya",
    "ta": "tam_Taml",
    "te": "tel_Telu",
    "kn": "kan_Knda",
    "ml": "mal_Mlym",
    "ur": "urd_Arab",
    "de": "deu_Latn",
    "es": "spa_Latn",
    "fr": "fra_Latn",
    "pt": "por_Latn",
    "ru": "rus_Cyrl",
    "zh": "zho_Hans",
}
"""Language codes as NLLB and IndicTrans2 write them."""


class Backend(Protocol):
    """The interface of all models."""

    identity: str
    """Changes with everything that may change an answer; part of the cache key of the answers."""

    def rewrite(self, sentences: Sequence[str], source: str, target: str) -> list[str]:
        """Return an answer for each sentence, "" if the model gives none.

        Args:
            sentences: single sentences without line breaks.
            source: language code of the sentences.
            target: language of the answers; the same as `source` for a paraphrase.

        Raises:
            BulletError: the model cannot be loaded or reached, or does not know a language.
        """


def open_backend(where: str, config: "AugmentConfig", setting: str) -> Backend:
    """Open the backend that `where` names: the address of an endpoint, or a folder whose files show the kind of model.

    Args:
        setting: name of the setting, for error messages.

    Raises:
        ConfigError: the folder does not exist, or contains no model of a supported kind.
    """
    if re.match("https?://", where):
        return Endpoint(where, config.endpoint_model, config.endpoint_key_variable, config.endpoint_timeout)
    folder = expand_home(where)
    if not folder.is_dir():
        raise ConfigError(f"{setting}: there is no folder {where}{_suggestion(folder)}")
    description = _description(folder, setting)
    if "model_type" in description:
        _check_transformers(folder, description, setting)
        return TransformersModel(folder, config.beams, config.paraphrase_prefix)
    if (folder / "model.bin").is_file():
        return CTranslate2Model(folder, config.beams, config.paraphrase_prefix)
    raise ConfigError(
        f"{setting}: {where} contains no model: its config.json has no model_type (Hugging Face) and there is no model.bin (CTranslate2)"
    )


def _suggestion(folder: Path) -> str:
    parent = folder.parent
    near = difflib.get_close_matches(folder.name, [entry.name for entry in parent.iterdir()], n=1, cutoff=0.5) if parent.is_dir() else []
    if near:
        return f": did you mean {parent / near[0]}?"
    return ": models are not downloaded; give a folder that contains a model, or the http:// address of an endpoint"


def _description(folder: Path, setting: str) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{setting}: {folder} contains no model: config.json is missing; give the folder that save_pretrained or the CTranslate2 "
            "converter wrote"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{setting}: {path} is damaged ({error}): copy the model again") from None
    return description if isinstance(description, dict) else {}


def _check_transformers(folder: Path, description: dict[str, Any], setting: str) -> None:
    kind = description["model_type"]
    if "auto_map" in description:
        raise ConfigError(
            f"{setting}: the {kind} model in {folder} needs its own Python code, which is not run: use its CTranslate2 version "
            "(IndicTrans2 publishes one)"
        )
    if not description.get("is_encoder_decoder", kind in _SEQ2SEQ):
        raise ConfigError(
            f"{setting}: {folder} contains a {kind} model, which is not sequence-to-sequence: use a Marian, NLLB, mBART or T5 model"
        )
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise ConfigError(f"{setting}: {folder} has a config.json but no weights: copy model.safetensors (or pytorch_model.bin) into it")


_SEQ2SEQ = ("marian", "m2m_100", "mbart", "bart", "pegasus", "t5", "mt5", "longt5", "umt5", "blenderbot", "prophetnet")
"""Model types whose config.json may omit is_encoder_decoder."""


def _identity(folder: Path, **settings: Any) -> str:
    files = {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in sorted(folder.rglob("*")) if _decides(path, folder)}
    return sha256_of_json({"files": files, **settings})


def _decides(path: Path, folder: Path) -> bool:
    return path.is_file() and path.suffix != ".md" and not any(part.startswith(".") for part in path.relative_to(folder).parts)


class TransformersModel:
    """A folder with a Hugging Face sequence-to-sequence model and its tokenizer, as `save_pretrained` writes it."""

    def __init__(self, folder: Path, beams: int, paraphrase_prefix: str) -> None:
        self.identity = _identity(folder, beams=beams, paraphrase_prefix=paraphrase_prefix)
        self._folder, self._beams, self._prefix = folder, beams, paraphrase_prefix

    @cached_property
    def _tokenizer(self) -> Any:
        return _load_tokenizer(self._folder)

    @cached_property
    def _model(self) -> Any:
        transformers = _import_transformers()
        import torch
        from safetensors import SafetensorError

        try:
            model, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(
                self._folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise BulletError(f"cannot load the model in {self._folder} ({_first_line(error)}): copy its files again") from None
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise BulletError(f"the weights in {self._folder} are of another model: {missing[0]} and {len(missing) - 1} more are missing")
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def rewrite(self, sentences: Sequence[str], source: str, target: str) -> list[str]:
        """See `Backend`."""
        tokenizer, model = self._tokenizer, self._model
        import torch

        before, first = _address(tokenizer, self._folder, source, target, self._prefix)
        longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512), 512)
        inputs = tokenizer(
            [before + sentence for sentence in sentences], return_tensors="pt", padding=True, truncation=True, max_length=longest
        ).to(model.device)
        with torch.inference_mode():
            outputs = model.generate(
                **inputs,
                num_beams=self._beams,
                do_sample=False,
                max_length=None,
                max_new_tokens=min(_longest_answer(inputs["input_ids"].shape[1]), longest - 1),
                forced_bos_token_id=None if first is None else tokenizer.convert_tokens_to_ids(first),
            )
        return [text.strip() for text in tokenizer.batch_decode(outputs, skip_special_tokens=True)]


class CTranslate2Model:
    """A folder that a CTranslate2 converter wrote, with the model's tokenizer beside it.

    The tokenizer is the Hugging Face tokenizer if its files were copied too (`--copy_files`), or sentencepiece models:
    source.spm and target.spm, or one *.spm or *.model for both, or IndicTrans2's vocab/model.SRC and vocab/model.TGT.
    """

    def __init__(self, folder: Path, beams: int, paraphrase_prefix: str) -> None:
        self.identity = _identity(folder, beams=beams, paraphrase_prefix=paraphrase_prefix)
        self._folder, self._beams, self._prefix = folder, beams, paraphrase_prefix

    @cached_property
    def _model(self) -> Any:
        try:
            import ctranslate2
        except ImportError:
            raise BulletError(f"the model in {self._folder} needs CTranslate2: {install_command('augment')}") from None
        try:
            return ctranslate2.Translator(str(self._folder), device="auto")
        except (RuntimeError, ValueError) as error:
            raise BulletError(f"cannot load the CTranslate2 model in {self._folder} ({_first_line(error)}): convert it again") from None

    @cached_property
    def _tokenizer(self) -> "_Pieces":
        folder = self._folder
        if (folder / "tokenizer_config.json").is_file():
            return _HuggingFacePieces(folder, _load_tokenizer(folder), self._prefix)
        if (folder / "vocab" / "model.SRC").is_file():
            return _IndicTrans2Pieces(folder, folder / "vocab" / "model.SRC", folder / "vocab" / "model.TGT")
        both = sorted(path for path in folder.iterdir() if path.suffix in (".spm", ".model"))
        if both:
            named = {path.stem.split(".")[0]: path for path in both}
            return _SentencePieces(named.get("source", both[0]), named.get("target", both[0]))
        raise BulletError(
            f"{folder} has no tokenizer: copy source.spm and target.spm, a sentencepiece .model, or the Hugging Face tokenizer into it"
        )

    def rewrite(self, sentences: Sequence[str], source: str, target: str) -> list[str]:
        """See `Backend`."""
        model, tokenizer = self._model, self._tokenizer
        pieces, first = tokenizer.encode(sentences, source, target)
        results = model.translate_batch(
            pieces,
            target_prefix=None if first is None else [[first]] * len(pieces),
            beam_size=self._beams,
            max_input_length=512,
            max_decoding_length=_longest_answer(max(map(len, pieces))),
        )
        return [tokenizer.decode(result.hypotheses[0]).strip() for result in results]


class _Pieces(Protocol):
    """The tokenizer of a CTranslate2 model: pieces as text, and the piece with which answers must begin, if any."""

    def encode(self, sentences: Sequence[str], source: str, target: str) -> tuple[list[list[str]], str | None]: ...

    def decode(self, pieces: list[str]) -> str: ...


class _HuggingFacePieces:
    def __init__(self, folder: Path, tokenizer: Any, prefix: str) -> None:
        self._folder, self._tokenizer, self._prefix = folder, tokenizer, prefix

    def encode(self, sentences: Sequence[str], source: str, target: str) -> tuple[list[list[str]], str | None]:
        before, first = _address(self._tokenizer, self._folder, source, target, self._prefix)
        ids = self._tokenizer([before + sentence for sentence in sentences])["input_ids"]
        return [self._tokenizer.convert_ids_to_tokens(row) for row in ids], first

    def decode(self, pieces: list[str]) -> str:
        text: str = self._tokenizer.decode(self._tokenizer.convert_tokens_to_ids(pieces), skip_special_tokens=True)
        return text


class _SentencePieces:
    def __init__(self, source: Path, target: Path) -> None:
        self._source, self._target = _load_sentencepiece(source), _load_sentencepiece(target)

    def encode(self, sentences: Sequence[str], source: str, target: str) -> tuple[list[list[str]], str | None]:
        return self._source.encode(list(sentences), out_type=str), None

    def decode(self, pieces: list[str]) -> str:
        text: str = self._target.decode(pieces)
        return text.replace("\u2581", " ")


class _IndicTrans2Pieces(_SentencePieces):
    """IndicTrans2 as published for CTranslate2: two language tags, then words and punctuation separated by spaces.

    It writes every Indian language in Devanagari, so only languages that normally use Devanagari are supported here.
    """

    def __init__(self, folder: Path, source: Path, target: Path) -> None:
        super().__init__(source, target)
        self._folder = folder

    def encode(self, sentences: Sequence[str], source: str, target: str) -> tuple[list[list[str]], str | None]:
        tags = [FLORES.get(language, "") for language in (source, target)]
        for language, tag in zip((source, target), tags, strict=True):
            if not tag.endswith(("_Latn", "_Deva")):
                raise BulletError(f"the IndicTrans2 model in {self._folder} is supported for en, mr, hi, ne and sa, not for {language}")
        pieces = super().encode([_PUNCTUATION.sub(r" \1 ", sentence).strip() for sentence in sentences], source, target)[0]
        return [[*tags, *row] for row in pieces], None

    def decode(self, pieces: list[str]) -> str:
        return _SPACE_AFTER.sub(r"\1", _SPACE_BEFORE.sub(r"\1", super().decode(pieces)))


_PUNCTUATION = re.compile(r"\s*([!\"'(),:;?\[\]{}\u0964\u0965\u2018-\u201d]|\.(?!\d))\s*")
_SPACE_BEFORE = re.compile(r" +([!),.:;?\]}\u0964\u0965\u2019\u201d])")
_SPACE_AFTER = re.compile(r"([(\[{\u2018\u201c]) +")


def _longest_answer(tokens: int) -> int:
    """The maximum length of an answer, so that a model that repeats itself does not delay the rest."""
    return 2 * tokens + 20


def _import_transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise BulletError(f"a Hugging Face model or tokenizer needs transformers: {install_command('augment')}") from None
    # The library's own progress bars and hints would interrupt ours.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _load_tokenizer(folder: Path) -> Any:
    import warnings

    transformers = _import_transformers()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise BulletError(f"cannot load the tokenizer in {folder} ({_first_line(error)}): copy all files of the tokenizer") from None


def _load_sentencepiece(path: Path) -> Any:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(path.read_bytes())
    except (OSError, RuntimeError) as error:
        raise BulletError(f"{path} is not a sentencepiece model ({_first_line(error)}): copy it again") from None
    return model


def _address(tokenizer: Any, folder: Path, source: str, target: str, prefix: str) -> tuple[str, str | None]:
    """Set the source and target language of a multilingual tokenizer.

    Returns:
        The prefix of every sentence, and the token with which an answer must begin.
    """
    before = prefix if source == target else ""
    if hasattr(tokenizer, "src_lang"):
        tags = [_tag(tokenizer, folder, language) for language in (source, target)]
        tokenizer.src_lang = tags[0].strip("_")
        return before, tags[1]
    targets = getattr(tokenizer, "supported_language_codes", [])
    if targets and source != target:
        options = [f">>{target}<<", f">>{FLORES.get(target, '')[:3]}<<", f">>{FLORES.get(target, '')}<<"]
        known = [option for option in options if option in targets]
        if not known:
            raise BulletError(f"the model in {folder} does not translate into {target}: it knows {' '.join(targets[:10])}")
        before = known[0] + " " + before
    return before, None


def _tag(tokenizer: Any, folder: Path, language: str) -> str:
    """The language token of a tokenizer: NLLB's mar_Deva, mBART's mr_IN, M2M100's __mr__."""
    options = [FLORES.get(language, language), f"{language}_IN", f"{language}_XX", f"__{language}__", language]
    for option in options:
        if tokenizer.convert_tokens_to_ids(option) not in (None, tokenizer.unk_token_id):
            return option
    raise BulletError(f"the model in {folder} does not know the language {language}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(" .:")
