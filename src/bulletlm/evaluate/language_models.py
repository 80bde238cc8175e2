"""One interface for every model that can be measured: runs, checkpoints, .bullet, .gguf, and folders of transformers.

A model that BulletLM can read runs on BulletLM's own engines. Other GGUF files run on llama.cpp, other folders on transformers; both
libraries are imported only then. Weights that are Python pickles, and code that comes with a model, are never loaded.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bulletlm.data.sources import unicode_name
from bulletlm.errors import BulletError, FormatError
from bulletlm.evaluate.perplexity import LOGITS_AT_ONCE
from bulletlm.extras import install_command
from bulletlm.formats.convert import read_model
from bulletlm.formats.npy import MANIFEST
from bulletlm.formats.stored import StoredModel, as_floats
from bulletlm.hardware import available_cores
from bulletlm.quant.types import bits_of_file
from bulletlm.runtime import Model, NumpyEngine, Session, load
from bulletlm.runtime.model import default_sampling
from bulletlm.runtime.prompt import chat_prompt
from bulletlm.runtime.sampling import Sampling, sample
from bulletlm.runtime.session import RANDOM_STREAM
from bulletlm.text.tokenizer import BOS, Tokenizer

Ids = Sequence[int]

LONGEST_CONTEXT = 1_024
"""Tokens at most that a model outside BulletLM reads at once; bounds the memory of its KV cache."""


class Written(NamedTuple):
    """A generated text, its number of tokens, and whether the model ended it itself."""

    text: str
    tokens: int
    ended: bool


class LanguageModel(Protocol):
    """A model that can be measured on text.

    Attributes:
        label: its name in tables.
        engine: what runs it, for people: "BulletLM", "llama.cpp" or "transformers".
        languages: codes of its languages; empty if they are not known.
        context: tokens that it reads at most.
        vocab_size: number of tokens.
        start: the token in front of a text; None if the model has none.
        unknown: the token of text that the vocabulary cannot write; None if it can write every text.
        chats: whether prompts are put into a chat template.
    """

    label: str
    engine: str
    languages: Sequence[str]
    context: int
    vocab_size: int
    start: int | None
    unknown: int | None
    chats: bool

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens."""

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits after each token of texts that begin at position 0: int64[B, N] -> float32[B, N, vocab_size]."""

    def answer(self, prompts: Sequence[str], sampling: Sampling) -> Iterator[Written]:
        """The answer to each prompt as the first message of a conversation, in order, each with the seed of `sampling`."""


def log_probs(model: LanguageModel, texts: Sequence[Ids]) -> Iterator[NDArray[np.float64]]:
    """The natural logarithm of the probability of each token of each text after those before it, float64[len(text) - 1].

    A text that is longer than the context is read in windows that overlap by half; a token is scored in the first window that
    contains it, so that it follows at least half a context. Texts are computed together where they have similar lengths.

    Raises:
        BulletError: the model computes NaN or infinity.
    """
    cuts = [(number, *cut) for number, ids in enumerate(texts) for cut in _windows(len(ids), model.context)]
    cuts.sort(key=lambda cut: cut[2] - cut[1])  # little padding
    results = [np.empty(max(0, len(ids) - 1)) for ids in texts]
    at = 0
    while at < len(cuts):
        # The longest of a batch is its last, so its length is only known once the batch is chosen.
        stop = at + 1
        while stop < len(cuts) and (stop + 1 - at) * (cuts[stop][2] - cuts[stop][1]) * model.vocab_size <= LOGITS_AT_ONCE:
            stop += 1
        batch = cuts[at:stop]
        length = batch[-1][2] - batch[-1][1]
        inputs = np.zeros((len(batch), length), dtype=np.int64)  # padding is behind the text, where no token of it looks
        outputs = np.zeros_like(inputs)
        for row, (number, start, end, _) in enumerate(batch):
            inputs[row, : end - start] = texts[number][start:end]
            outputs[row, : end - start] = texts[number][start + 1 : end + 1]
        logits = _finite(model, inputs)
        for row, (number, start, end, first) in enumerate(batch):
            scores = _log_p(logits[row, : end - start], outputs[row, : end - start])
            results[number][first:end] = scores[first - start :]
        at = stop
    yield from results


def _windows(length: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Cut the inputs of a text of `length` tokens: (start, end, first input whose next token is scored here)."""
    inputs, done = length - 1, 0
    while done < inputs:
        start = 0 if done == 0 else max(0, done - context // 2)
        end = min(inputs, start + context)
        yield start, end, done
        done = end


def _finite(model: LanguageModel, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
    logits = model.logits(inputs)
    if not np.isfinite(logits).all():
        raise BulletError(f"{model.label} computes NaN or infinity: its weights are damaged")
    return logits


def _log_p(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """float32[n, vocab], int64[n] -> float64[n]."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=-1)
    chosen: NDArray[np.float64] = np.take_along_axis(wide, targets[:, None], -1)[:, 0] - top
    wide -= top[:, None]
    np.exp(wide, out=wide)
    scores: NDArray[np.float64] = chosen - np.log(wide.sum(axis=-1))
    return scores


@dataclass
class BulletModel:
    """A model on one of BulletLM's engines; the attributes are those of `LanguageModel`."""

    model: Model
    label: str
    languages: Sequence[str] = ()
    engine: str = "BulletLM"
    start: int | None = BOS
    unknown: int | None = None
    chats: bool = True
    context: int = field(init=False)
    vocab_size: int = field(init=False)

    def __post_init__(self) -> None:
        self.context, self.vocab_size = self.model.shape.max_seq_len, self.model.shape.vocab_size
        if not self.languages:
            metadata = self.model.header.get("metadata", self.model.header)
            named = metadata.get("languages") if isinstance(metadata, dict) else None
            self.languages = [code for code in named if isinstance(code, str)] if isinstance(named, list) else []

    def encode(self, text: str) -> list[int]:
        return self.model.tokenizer.encode(text)

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.model.engine.score(tokens)

    def answer(self, prompts: Sequence[str], sampling: Sampling) -> Iterator[Written]:
        # A session decodes on one thread, and the engine leaves the interpreter lock while it computes.
        with ThreadPoolExecutor(available_cores()) as threads:
            yield from threads.map(lambda prompt: self._answer(prompt, sampling), prompts)

    def _answer(self, prompt: str, sampling: Sampling) -> Written:
        session = Session(self.model)
        fitted = chat_prompt(self.model, [{"role": "user", "content": prompt}], sampling.max_tokens)
        text = "".join(token.text for token in session.generate(fitted.ids, sampling, keep=fitted.keep))
        return Written(text, session.completion_tokens, session.finish_reason == "stop")


@dataclass
class LlamaCppModel:
    """A GGUF file on llama.cpp; the attributes are those of `LanguageModel`."""

    llama: Any
    label: str
    languages: Sequence[str] = ()
    engine: str = "llama.cpp"
    unknown: int | None = None

    def __post_init__(self) -> None:
        self.context, self.vocab_size = min(self.llama.context_length, LONGEST_CONTEXT), self.llama.vocab_size
        self.start: int | None = self.llama.bos if self.llama.bos is not None else self.llama.eos
        self.chats = self.llama.prompt("a") is not None

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.llama.tokenize(text)
        return ids

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.stack([self.llama.all_logits(row.astype(np.int32)) for row in tokens])

    def answer(self, prompts: Sequence[str], sampling: Sampling) -> Iterator[Written]:
        for prompt in prompts:
            text = self.llama.prompt(prompt)
            ids = [] if self.start is None else [self.start]
            ids += self.encode(f"{prompt}\n") if text is None else self.llama.tokenize(text, special=True)
            if len(ids) > 1 and ids[0] == ids[1] == self.start:  # the template writes the mark itself
                del ids[0]
            self.llama.clear()
            drawn, ended = _generate(self._next, ids, self.llama.is_end, replace(sampling, max_tokens=self._room(ids, sampling)))
            yield Written(self.llama.detokenize(drawn), len(drawn), ended)

    def _room(self, ids: Ids, sampling: Sampling) -> int:
        room = self.context - len(ids)
        if room < 1:
            raise BulletError(f"{self.label}: a prompt has {len(ids)} tokens, but {self.context} fit into the context: shorten it")
        return int(min(room, sampling.max_tokens))

    def _next(self, ids: Ids) -> NDArray[np.float32]:
        self.llama.feed(np.array(ids, dtype=np.int32))
        logits: NDArray[np.float32] = self.llama.logits(self.vocab_size)
        return logits


@dataclass
class TransformersModel:
    """A folder on transformers; the attributes are those of `LanguageModel`."""

    model: Any
    tokenizer: Any
    label: str
    languages: Sequence[str] = ()
    engine: str = "transformers"

    def __post_init__(self) -> None:
        config, tokenizer = self.model.config, self.tokenizer
        longest = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or LONGEST_CONTEXT
        self.context, self.vocab_size = min(int(longest), LONGEST_CONTEXT), int(config.vocab_size)
        self.start: int | None = next(
            (i for i in (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id) if i is not None), None
        )
        unknown = tokenizer.unk_token_id
        self.unknown: int | None = unknown if unknown not in (tokenizer.bos_token_id, tokenizer.eos_token_id) else None
        self.chats = bool(getattr(tokenizer, "chat_template", None))
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        self._ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            logits: NDArray[np.float32] = self.model(input_ids=torch.from_numpy(tokens)).logits.float().numpy()
        return logits[..., : self.vocab_size]

    def answer(self, prompts: Sequence[str], sampling: Sampling) -> Iterator[Written]:
        import torch

        for prompt in prompts:
            if self.chats:
                messages = [{"role": "user", "content": prompt}]
                ids = list(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])
            else:
                ids = ([] if self.start is None else [self.start]) + self.encode(f"{prompt}\n")
            if len(ids) >= self.context:
                raise BulletError(f"{self.label}: a prompt has {len(ids)} tokens, but {self.context} fit into the context: shorten it")
            past: Any = None

            def following(new: Ids) -> NDArray[np.float32]:
                nonlocal past
                with torch.inference_mode():
                    result = self.model(input_ids=torch.tensor([list(new)]), past_key_values=past, use_cache=True)
                past = result.past_key_values
                logits: NDArray[np.float32] = result.logits[0, -1].float().numpy()
                return logits

            room = min(self.context - len(ids), sampling.max_tokens)
            drawn, ended = _generate(following, ids, self._ends.__contains__, replace(sampling, max_tokens=room))
            yield Written(self.tokenizer.decode(drawn, skip_special_tokens=True), len(drawn), ended)


def _generate(following: Any, ids: list[int], is_end: Any, sampling: Sampling) -> tuple[list[int], bool]:
    """Draw tokens with BulletLM's sampler. `following` reads tokens and gives the logits after the last, float32[vocab_size]."""
    rng = np.random.default_rng([sampling.seed, RANDOM_STREAM])
    history, drawn, new = list(ids), list[int](), list(ids)
    while len(drawn) < sampling.max_tokens:
        token = sample(following(new), history, sampling, rng)
        if is_end(token):
            return drawn, True
        drawn.append(token)
        history.append(token)
        new = [token]
    return drawn, False


# --- opening ------------------------------------------------------------------------------------------------------------


def open_models(path: Path) -> list[LanguageModel]:
    """The model at `path`; for the folder of a finished run, its FP32 export and its 4-bit file, in this order.

    Raises:
        BulletError: there is no model at `path`, it is damaged, or the library that it needs is not installed.
    """
    parts = [path / "export" / "npy", path / "model.bullet"]
    if not (path / "config.json").is_file() or not any(part.exists() for part in parts):
        return [open_model(path)]
    models = [load(part) for part in parts if part.exists()]
    # The export has the header of a folder, which lists no tensors.
    return [BulletModel(model, run_label(path, bits_of_file(model.header) if "tensors" in model.header else None)) for model in models]


def label_of(path: Path) -> str:
    """What the model at `path` is called in tables and in files of results."""
    return unicode_name(str(path))


def run_label(run: Path, bits: int | None) -> str:
    """The same for the model file of a run folder, whose weights have `bits` bits; None: its FP32 export."""
    return f"{label_of(run)} (FP32)" if bits is None else f"{label_of(run)} ({bits}-bit)"


def open_model(path: Path) -> LanguageModel:
    """One model: a .bullet or .gguf file, a checkpoint, a folder of .npy tensors or of transformers; of a run, its 4-bit file.

    Raises:
        BulletError: there is no model at `path`, it is damaged, or the library that it needs is not installed.
    """
    label = label_of(path)
    if not os.path.lexists(path):
        raise BulletError(f"{path} does not exist: name a run, a checkpoint, a .bullet or .gguf file, or a model folder")
    if path.is_dir():
        if (path / "model.bullet").is_file():
            return BulletModel(load(path / "model.bullet"), label)
        if (path / "export" / "npy").is_dir():
            return BulletModel(load(path / "export" / "npy"), label)
        if (path / MANIFEST).is_file():
            return BulletModel(load(path), label)
        if (path / "state.json").is_file() and path.parent.name == "checkpoints":
            return BulletModel(_checkpoint(path), label)
        if (path / "config.json").is_file():
            return _transformers_folder(path)
        raise BulletError(f"{path} holds no model: name a run, a checkpoint, a .bullet or .gguf file, or a model folder")
    if path.suffix == ".gguf":
        return _gguf(path)
    if path.suffix == ".bullet" and not _is_version_1(path):
        return BulletModel(load(path), label)
    return BulletModel(_stored(read_model(path)[1]), label)


def _is_version_1(path: Path) -> bool:
    from bulletlm.files import open_regular
    from bulletlm.formats.bullet.version1 import is_v1

    try:
        with open_regular(path) as file:
            return bool(is_v1(file.read(4096)))
    except OSError as error:
        raise BulletError(f"cannot open {path} ({error.strerror}): name a model file or folder") from None


def _stored(model: StoredModel) -> Model:
    """A model in memory, in the numpy engine."""
    tensors = {name: as_floats(model.tensors[name]) for name in model.shape.tensors()}
    tokenizer = Tokenizer(model.tokenizer_proto)
    metadata = dict(model.metadata)
    return Model(NumpyEngine(model.shape, tensors), tokenizer, model.shape, default_sampling(metadata), metadata)


def _checkpoint(folder: Path) -> Model:
    """The weights of a checkpoint, without averaging, with the tokenizer of its run."""
    from bulletlm.config.loader import load_config
    from bulletlm.train.checkpoint import load_checkpoint

    parents = folder.absolute().parents
    run = next(
        (parent for parent in parents if all((parent / name).is_file() for name in ("config.json", "tokenizer/tokenizer.model"))), None
    )
    if run is None:
        raise BulletError(
            f"{folder} is not in a run folder: config.json and tokenizer/tokenizer.model, which a checkpoint needs, are missing"
        )
    tokenizer = Tokenizer.load(run / "tokenizer" / "tokenizer.model")
    shape = load_config(run / "config.json").model.shape(tokenizer.vocab_size)
    weights = load_checkpoint(folder).tensors["model"]
    tensors = {}
    for name, extents in shape.tensors().items():
        if name not in weights or tuple(weights[name].shape) != extents:
            raise FormatError(f"{folder}: the tensor {name} is missing or has another shape than {run / 'config.json'} implies")
        tensors[name] = weights[name].float().numpy()
    return Model(NumpyEngine(shape, tensors), tokenizer, shape, Sampling(), {"shape": shape.to_dict()})


def _gguf(path: Path) -> LanguageModel:
    """On BulletLM's engine if the file has a BulletLM tokenizer and a shape that a .bullet can hold; on llama.cpp otherwise."""
    try:
        return BulletModel(_stored(read_model(path)[1]), label_of(path))
    except FormatError as reason:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise
        from bulletlm.evaluate.llama_cpp import LlamaCpp, find_llama_cpp

        try:
            return LlamaCppModel(LlamaCpp(find_llama_cpp(), path), label_of(path))
        except BulletError as error:
            raise BulletError(f"{error}; BulletLM's own engine cannot run the file either: {reason}") from None


def _transformers_folder(path: Path) -> LanguageModel:
    """On BulletLM's engine if it is a Llama with a BulletLM tokenizer; on transformers otherwise."""
    try:
        return BulletModel(_stored(read_model(path)[1]), label_of(path))
    except FormatError as reason:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise BulletError(f"BulletLM cannot run {path} ({reason}); transformers may: {install_command('augment')}") from None
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                path, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype="float32"
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            words = " ".join(str(error).split())[:200]
            raise BulletError(f"transformers cannot load {path} ({words}); BulletLM cannot either: {reason}") from None
        return TransformersModel(model.eval(), tokenizer, label_of(path))
