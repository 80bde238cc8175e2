"""Writes and reads model folders of Hugging Face's transformers: `LlamaForCausalLM` in float32.

Only the rotary pairs differ: transformers rotates element i of a head with element i + head_dim / 2, we rotate
neighbours. So the rows of the query and key matrices are reordered, head by head, in both directions.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bulletlm.errors import BulletError, FormatError
from bulletlm.files import atomic_folder, read_regular, write_json, write_text
from bulletlm.formats.bullet.header import check_metadata, parse_json, read_shape, show
from bulletlm.formats.chat_marks import add_chat_marks
from bulletlm.formats.chat_template import HF_TEMPLATE, exported_template, is_standard
from bulletlm.formats.model_card import model_card
from bulletlm.formats.not_a_model import INSTEAD, what_was_downloaded
from bulletlm.formats.safetensors import parse_safetensors, write_safetensors
from bulletlm.formats.stored import EncodedTensor, Floats, StoredModel, as_floats, brief, check_finite, check_tokenizer
from bulletlm.formats.tokenizer_json import read_tokenizer_json
from bulletlm.shape import ModelShape
from bulletlm.text.sentencepiece_rules import lacks_marks
from bulletlm.text.tokenizer import BOS, END, EOS, FIRST_PIECE, SPECIAL_TOKENS, UNK
from bulletlm.text.train_tokenizer import model_of_pieces

WEIGHTS, INDEX, TOKENIZER = "model.safetensors", "model.safetensors.index.json", "tokenizer.model"
TOKENIZER_JSON, TEMPLATE = "tokenizer.json", "chat_template.jinja"
METADATA = "bullet_metadata.json"
"""Name, licence and other metadata, for people; transformers does not copy this file."""

CONFIG_METADATA = "bullet_metadata"
"""The key of config.json with the same, which transformers keeps when it saves a model."""

FILES = (
    "config.json",
    "generation_config.json",
    WEIGHTS,
    TOKENIZER,
    "tokenizer_config.json",
    TEMPLATE,
    METADATA,
    "README.md",
)
"""The files of an export."""

PAD = UNK
"""The token that fills batches. No text encodes to <unk>, whereas with </s> the ends of documents would count as padding."""

_LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.o_proj": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate_proj": "mlp.gate_proj",
    "mlp.up_proj": "mlp.up_proj",
    "mlp.down_proj": "mlp.down_proj",
}
_OTHER_NAMES = {
    "token_embedding.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}


def hf_name(name: str) -> str:
    """Our name of a tensor -> transformers'."""
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    _, layer, part = name.removesuffix(".weight").split(".", 2)
    return f"model.layers.{layer}.{_LAYER_NAMES[part]}.weight"


def write_hf(folder: Path, model: StoredModel) -> None:
    """Write the folder, atomically; an older one at the same place is replaced. Weights become float32.

    Raises:
        FormatError: the tokenizer is not one of ours.
        BulletError: the disk is full or the folder is not writable.
    """
    shape, metadata = model.shape, dict(model.metadata)
    check_tokenizer(model.tokenizer_proto, shape.vocab_size, "the tokenizer")
    weights = {hf_name(name): _halves(name, as_floats(model.tensors[name]), shape) for name in shape.tensors()}
    with atomic_folder(folder, FILES) as partial:
        write_safetensors(partial / WEIGHTS, weights, {"format": "pt"})
        (partial / TOKENIZER).write_bytes(model.tokenizer_proto)
        write_json(partial / "config.json", {**_config(shape), CONFIG_METADATA: metadata})
        write_json(partial / "generation_config.json", _generation(metadata.get("sampling", {})))
        write_json(partial / "tokenizer_config.json", _tokenizer_config(shape))
        write_text(partial / TEMPLATE, exported_template(metadata, HF_TEMPLATE))
        write_json(partial / METADATA, metadata)
        write_text(partial / "README.md", model_card(model))


def _halves(name: str, tensor: Floats, shape: ModelShape) -> Floats:
    """Queries and keys: rows (2i, 2i + 1) of a head -> rows (i, i + head_dim / 2)."""
    if ".q_proj." not in name and ".k_proj." not in name:
        return np.ascontiguousarray(tensor)
    pairs = tensor.reshape(-1, shape.head_dim // 2, 2, shape.dim)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(tensor.shape)


def _neighbours(name: str, tensor: Floats, shape: ModelShape) -> Floats:
    """The inverse of `_halves`."""
    if ".q_proj." not in name and ".k_proj." not in name:
        return tensor
    halves = tensor.reshape(-1, 2, shape.head_dim // 2, shape.dim)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)


def _config(shape: ModelShape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.dim,
        "intermediate_size": shape.hidden_dim,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.max_seq_len,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": shape.tied_embeddings,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "torch_dtype": "float32",
        "dtype": "float32",
    }


def _generation(sampling: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {"bos_token_id": BOS, "eos_token_id": [EOS, END], "pad_token_id": PAD}
    config["do_sample"] = sampling.get("temperature", 1.0) > 0
    only_when_sampling = () if config["do_sample"] else ("temperature", "top_k", "top_p", "min_p")
    return config | {
        theirs: sampling[name] for name, theirs in _SAMPLING_NAMES.items() if name in sampling and name not in only_when_sampling
    }


_SAMPLING_NAMES = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_tokens": "max_new_tokens",
}
"""Our names of the settings -> those of generation_config.json."""


def _tokenizer_config(shape: ModelShape) -> dict[str, Any]:
    special = {
        str(i): {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        for i, text in enumerate(SPECIAL_TOKENS)
    }
    return {
        "tokenizer_class": "LlamaTokenizer",
        "added_tokens_decoder": special,
        "unk_token": SPECIAL_TOKENS[UNK],
        "bos_token": SPECIAL_TOKENS[BOS],
        "eos_token": SPECIAL_TOKENS[EOS],
        "pad_token": SPECIAL_TOKENS[PAD],
        "additional_special_tokens": list(SPECIAL_TOKENS[EOS + 1 :]),
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
        "legacy": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.max_seq_len,
    }


def read_hf(folder: Path, marks: bool = True) -> StoredModel:
    """Read a folder of a Llama-shaped model with safetensors weights and one of our sentencepiece tokenizers.

    Args:
        folder: the folder.
        marks: False accepts a tokenizer.model without the chat marks, and adds them (`add_chat_marks`).

    Raises:
        BulletError: there is no such folder.
        FormatError: a file is missing or damaged, or it is a model that a .bullet cannot hold; the message names what.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BulletError(f"there is no folder {folder}: name a folder with config.json and model.safetensors")
    where = folder / "config.json"
    config = parse_json(_read(where), str(where))
    shape = _shape(config, str(where))
    unmarked = not marks and _exists(folder / TOKENIZER) and _lacks_marks(folder / TOKENIZER)
    proto = _read(folder / TOKENIZER) if unmarked else _tokenizer(folder, shape)
    notes: list[str] = []
    metadata = _metadata(folder, config, notes)
    tensors = _weights(folder, shape)
    if shape.tied_embeddings and "lm_head.weight" in tensors:
        if np.array_equal(tensors["lm_head.weight"], tensors["token_embedding.weight"]):  # type: ignore[arg-type]
            del tensors["lm_head.weight"]
        else:
            shape = replace(shape, tied_embeddings=False)
            notes.append("config.json ties the output matrix to the embedding, but lm_head.weight differs from it: both were kept")
    model = StoredModel(shape, tensors, proto, metadata, tuple(notes))
    if not unmarked:
        return model
    try:
        model = add_chat_marks(model)
    except FormatError as error:
        raise FormatError(f"{folder / TOKENIZER}: the tokenizer is not one of BulletLM: {error}") from None
    check_tokenizer(model.tokenizer_proto, model.shape.vocab_size, str(folder / TOKENIZER))
    return model


def _lacks_marks(path: Path) -> bool:
    try:
        return lacks_marks(_read(path))
    except FormatError:
        return False  # the usual reader says what is wrong


def _read(path: Path, max_bytes: int | None = None) -> bytes:
    try:
        content = read_regular(path, max_bytes)
    except OSError as error:
        raise FormatError(f"cannot read {path} ({error.strerror})") from None
    if found := what_was_downloaded(content[:1024]):
        raise FormatError(f"{path}: {found}")
    return content


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


# --- metadata -----------------------------------------------------------------------------------------------------------


def _metadata(folder: Path, config: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Return our metadata, updated with the files that transformers reads."""
    if _exists(folder / METADATA):
        where, metadata = str(folder / METADATA), parse_json(_read(folder / METADATA), str(folder / METADATA))
    else:
        where, metadata = f"{folder / 'config.json'}: {CONFIG_METADATA}", config.get(CONFIG_METADATA, {})
        if not isinstance(metadata, dict):
            raise FormatError(f"{where} is {show(metadata)}: it must be an object")
    _check(metadata, where)
    found = dict(metadata)
    template = _template(folder)
    if template is not None and not is_standard(template) and template != metadata.get("chat_template"):
        found["chat_template"] = template
        if metadata:
            notes.append("its chat template was changed after the export: the new one was used")
    sampling = _sampling(folder)
    changed = [name for name, value in sampling.items() if metadata.get("sampling", {}).get(name) != value]
    if changed:
        found["sampling"] = {**metadata.get("sampling", {}), **sampling}
        if metadata:
            notes.append(f"generation_config.json has other settings than the metadata ({', '.join(changed)}): these were used")
    _check(found, str(folder))
    return found


def _check(metadata: dict[str, Any], where: str) -> None:
    try:
        check_metadata(metadata)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None


def _template(folder: Path) -> str | None:
    """The chat template, from the place where transformers looks first."""
    if _exists(folder / TEMPLATE):
        try:
            return _read(folder / TEMPLATE).decode().removesuffix("\n")
        except UnicodeDecodeError:
            raise FormatError(f"{folder / TEMPLATE} is not UTF-8 text") from None
    path = folder / "tokenizer_config.json"
    template = parse_json(_read(path), str(path)).get("chat_template") if _exists(path) else None
    return template if isinstance(template, str) else None


def _sampling(folder: Path) -> dict[str, Any]:
    """The settings of generation_config.json under our names."""
    path = folder / "generation_config.json"
    if not _exists(path):
        return {}
    config = parse_json(_read(path), str(path))
    sampling = {name: config[theirs] for name, theirs in _SAMPLING_NAMES.items() if config.get(theirs) is not None}
    if config.get("do_sample") is False:
        sampling["temperature"] = 0.0
    return sampling


# --- the tokenizer ------------------------------------------------------------------------------------------------------


def _tokenizer(folder: Path, shape: ModelShape) -> bytes:
    """The sentencepiece model: from tokenizer.model, or made from tokenizer.json."""
    model, as_json = folder / TOKENIZER, folder / TOKENIZER_JSON
    if not _exists(model) and not _exists(as_json):
        raise FormatError(f"{folder} has neither {TOKENIZER} nor {TOKENIZER_JSON}: without its tokenizer a model cannot be used")
    pieces = read_tokenizer_json(_read(as_json), str(as_json)) if _exists(as_json) else None
    if not _exists(model):
        assert pieces is not None
        return check_tokenizer(model_of_pieces(pieces), shape.vocab_size, str(as_json)).proto
    tokenizer = check_tokenizer(_read(model), shape.vocab_size, str(model))
    if pieces is not None and [text for text, _ in pieces] != [piece.text for piece in tokenizer.pieces()[FIRST_PIECE:]]:
        raise FormatError(f"{model} and {TOKENIZER_JSON} hold different vocabularies: delete the one that does not belong to the weights")
    return tokenizer.proto


_SETTLED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "quantization_config": (None,),
    "partial_rotary_factor": (None, 1.0),
    "pretraining_tp": (None, 1),
}
"""Allowed values of keys that change the network; the first value is the default of a missing key."""


def _shape(config: Mapping[str, Any], where: str) -> ModelShape:
    if config.get("model_type") != "llama":
        raise FormatError(f'{where}: model_type is {show(config.get("model_type"))}: only "llama" is supported; {INSTEAD}')
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling")
    for name, group in (("rope_parameters", rope), ("rope_scaling", scaling or {})):
        if not isinstance(group, dict) or group.get("rope_type", group.get("type", "default")) != "default":
            raise FormatError(f"{where}: {name} is {show(group)}: only the plain rotary embedding is supported")
    for key, wanted in _SETTLED.items():
        if config.get(key, wanted[0]) not in wanted:
            raise FormatError(f"{where}: {key} is {show(config[key])}: only {show(wanted[-1])} is supported")
    heads = config.get("num_attention_heads")
    fields = {
        "vocab_size": config.get("vocab_size"),
        "dim": config.get("hidden_size"),
        "n_layers": config.get("num_hidden_layers"),
        "n_heads": heads,
        "n_kv_heads": heads if config.get("num_key_value_heads") is None else config["num_key_value_heads"],
        "hidden_dim": config.get("intermediate_size"),
        "max_seq_len": config.get("max_position_embeddings", 2048),
        "rope_theta": rope.get("rope_theta", config.get("rope_theta", 10000.0)),
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "tied_embeddings": config.get("tie_word_embeddings", False),
    }
    shape = read_shape(fields, where)
    if config.get("head_dim") not in (None, shape.head_dim):
        raise FormatError(f"{where}: head_dim is {show(config['head_dim'])}: only hidden_size / num_attention_heads is supported")
    return shape


def _weights(folder: Path, shape: ModelShape) -> dict[str, EncodedTensor]:
    extents = {"lm_head.weight": (shape.vocab_size, shape.dim), **shape.tensors()}  # also if config.json says that it is tied
    names = {hf_name(name): name for name in extents}
    tensors: dict[str, EncodedTensor] = {}
    for path in _shards(folder):
        for theirs, tensor in parse_safetensors(_read(path), str(path)).items():
            name = names.get(theirs)
            if name is None and theirs.endswith("rotary_emb.inv_freq"):
                continue  # follows from the configuration
            where = f"{path}: {brief(theirs)}"
            if name is None:
                raise FormatError(f"{where} is unknown: only plain Llama models are supported")
            if tuple(tensor.shape) != extents[name]:
                raise FormatError(f"{where} has shape {list(tensor.shape)}, but config.json implies {list(extents[name])}")
            check_finite(tensor, where)
            tensors[name] = _neighbours(name, tensor, shape)
    for name in shape.tensors():
        if name not in tensors:
            raise FormatError(f"{folder}: the tensor {hf_name(name)} is missing")
    return tensors


def _shards(folder: Path) -> list[Path]:
    if _exists(folder / WEIGHTS):
        return [folder / WEIGHTS]
    if _exists(folder / INDEX):
        where = str(folder / INDEX)
        files = parse_json(_read(folder / INDEX), where).get("weight_map")
        if not isinstance(files, dict) or not all(_is_file_name(file) for file in files.values()):
            raise FormatError(f"{where}: weight_map must give the file in this folder for each tensor")
        return [folder / file for file in sorted(set(files.values()))]
    raise FormatError(f"{folder} {_what_weights(folder)}")


def _what_weights(folder: Path) -> str:
    """Say what a folder without safetensors weights contains instead, and what to do."""
    names = sorted(path.name for path in folder.iterdir())

    def first(*endings: str) -> str:
        return next((brief(name) for name in names if name.endswith(endings)), "")

    if found := first(".bin", ".pt", ".pth", ".ckpt"):
        return (
            f"has its weights only as Python pickles ({found}): loading one can run any program, so it is refused; "
            f"save the model with safe_serialization"
        )
    if found := next((brief(name) for name in names if _SHARD.fullmatch(name)), ""):
        return f"has only shards of the weights ({found}), and no {INDEX}, which lists them: download the missing file"
    return f"has no {WEIGHTS}: the weights of the model are missing"


_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


def _is_file_name(value: Any) -> bool:
    """Whether it is a name without folders that a message can show."""
    return isinstance(value, str) and Path(value).name == value and value.isprintable()
