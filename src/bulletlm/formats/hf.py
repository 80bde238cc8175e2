"""Folders as Hugging Face's transformers reads and writes them: `LlamaForCausalLM` in float32.

Only the rotary pairs differ: transformers rotates element i of a head with element i + head_dim / 2, we rotate
neighbours. So the rows of the query and key matrices are reordered, head by head, in both directions.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bulletlm.errors import BulletError, FormatError
from bulletlm.files import atomic_folder, write_json, write_text
from bulletlm.formats.bullet.header import check_metadata, parse_json, read_shape, show
from bulletlm.formats.gguf import size_label
from bulletlm.formats.stored import EncodedTensor, Floats, StoredModel, as_floats, brief, check_finite, check_tokenizer
from bulletlm.shape import ModelShape
from bulletlm.text.chat import CHAT_TEMPLATE
from bulletlm.text.tokenizer import BOS, END, EOS, SPECIAL_TOKENS, UNK

WEIGHTS, INDEX, TOKENIZER = "model.safetensors", "model.safetensors.index.json", "tokenizer.model"
METADATA = "bullet_metadata.json"

FILES = (
    "config.json",
    "generation_config.json",
    WEIGHTS,
    TOKENIZER,
    "tokenizer_config.json",
    "chat_template.jinja",
    METADATA,
    "README.md",
)
"""What a folder of ours holds."""

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
    from safetensors.numpy import save_file

    shape, metadata = model.shape, dict(model.metadata)
    check_tokenizer(model.tokenizer_proto, shape.vocab_size, "the tokenizer")
    weights = {hf_name(name): _halves(name, as_floats(model.tensors[name]), shape) for name in shape.tensors()}
    with atomic_folder(folder, FILES) as partial:
        save_file(weights, partial / WEIGHTS, metadata={"format": "pt"})
        (partial / TOKENIZER).write_bytes(model.tokenizer_proto)
        write_json(partial / "config.json", _config(shape))
        write_json(partial / "generation_config.json", _generation(metadata.get("sampling", {})))
        write_json(partial / "tokenizer_config.json", _tokenizer_config(shape))
        write_text(partial / "chat_template.jinja", metadata.get("chat_template", CHAT_TEMPLATE))
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
        "torch_dtype": "float32",
        "dtype": "float32",
    }


def _generation(sampling: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {"bos_token_id": BOS, "eos_token_id": [EOS, END], "pad_token_id": EOS}
    config["do_sample"] = sampling.get("temperature", 1.0) > 0
    names = ("temperature", "top_k", "top_p", "min_p") if config["do_sample"] else ()
    config |= {name: sampling[name] for name in names if name in sampling}
    if "repetition_penalty" in sampling:
        config["repetition_penalty"] = sampling["repetition_penalty"]
    if "max_tokens" in sampling:
        config["max_new_tokens"] = sampling["max_tokens"]
    return config


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
        "additional_special_tokens": list(SPECIAL_TOKENS[EOS + 1 :]),
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
        "legacy": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.max_seq_len,
    }


_HUB_LICENSES = {
    "CC0-1.0",
    "CC-BY-4.0",
    "CC-BY-SA-4.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-SA-4.0",
    "MIT",
    "Apache-2.0",
    "BSD-3-Clause",
    "GPL-3.0",
    "Unlicense",
}
"""Licences that the model hub knows by their own (lower-case) name."""


def model_card(model: StoredModel) -> str:
    """README.md: what the model is, from its metadata alone."""
    shape, metadata = model.shape, model.metadata
    name, license = str(metadata.get("name", "model")), str(metadata.get("license", ""))
    languages = metadata.get("languages", [])
    known = license in _HUB_LICENSES
    head = {
        "license": license.lower() if known else "other",
        **({} if known or not license else {"license_name": license}),
        **({"language": languages} if languages else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["bulletlm"],
    }
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()), "---", "", f"# {name}", ""]
    spoken = f" for {', '.join(languages)}" if languages else ""
    lines += [f"A small Llama-shaped language model{spoken}, trained from scratch with BulletLM.", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in _figures(model)]
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")',
        'model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")',
        'messages = [{"role": "user", "content": "..."}]',
        'prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)',
        "answer = model.generate(**prompt)[0, prompt.input_ids.shape[1] :]",
        "print(tokenizer.decode(answer, skip_special_tokens=True))",
        "```",
        "",
        "## Limits",
        "",
        f"A model of {size_label(shape.n_parameters)} parameters knows little and invents freely. Do not rely on what it says.",
        "",
    ]
    return "\n".join(lines)


def _figures(model: StoredModel) -> list[tuple[str, str]]:
    shape, metadata = model.shape, model.metadata
    training = metadata.get("training", {})
    rows = [
        ("parameters", f"{shape.n_parameters:,}"),
        ("shape", f"{shape.n_layers} layers, dim {shape.dim}, {shape.n_heads} heads, hidden {shape.hidden_dim}"),
        ("context", f"{shape.max_seq_len} tokens"),
        ("vocabulary", f"{shape.vocab_size:,} tokens (sentencepiece BPE)"),
        ("licence", str(metadata.get("license", "not said"))),
    ]
    if isinstance(training.get("tokens_seen"), int):
        rows.append(("trained on", f"{training['tokens_seen']:,} tokens"))
    if isinstance(training.get("val_loss"), float):
        with np.errstate(over="ignore"):  # a damaged file may say anything
            perplexity = np.exp(training["val_loss"])
        rows.append(("validation loss", f"{training['val_loss']:.4f} (perplexity {perplexity:.2f})"))
    kinds = {type_name for type_name in (getattr(tensor, "type", None) for tensor in model.tensors.values()) if type_name}
    if kinds:
        rows.append(("weights", f"exactly those of a file in {' and '.join(sorted(kinds))}, written out as float32"))
    return [(key, value.replace("|", "\\|").replace("\n", " ")) for key, value in rows]


def read_hf(folder: Path) -> StoredModel:
    """Read a folder of a Llama-shaped model with safetensors weights and one of our sentencepiece tokenizers.

    Raises:
        BulletError: there is no such folder.
        FormatError: a file is missing or damaged, or it is a model that a .bullet cannot hold; the message names what.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BulletError(f"there is no folder {folder}: name a folder with config.json and model.safetensors")
    where = folder / "config.json"
    shape = _shape(parse_json(_read(where), str(where)), str(where))
    metadata = parse_json(_read(folder / METADATA), METADATA) if (folder / METADATA).exists() else {}
    try:
        check_metadata(metadata)
    except FormatError as error:
        raise FormatError(f"{folder / METADATA}: {error}") from None
    if not (folder / TOKENIZER).exists():
        raise FormatError(f"{folder / TOKENIZER} is missing: only models with a sentencepiece tokenizer are supported")
    proto = _read(folder / TOKENIZER)
    check_tokenizer(proto, shape.vocab_size, str(folder / TOKENIZER))
    return StoredModel(shape, _weights(folder, shape), proto, metadata)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"cannot read {path} ({error.strerror})") from None


_SETTLED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "quantization_config": (None,),
    "partial_rotary_factor": (None, 1.0),
    "pretraining_tp": (None, 1),
}
"""Keys whose other values mean another network; the first one holds where the key is missing."""


def _shape(config: Mapping[str, Any], where: str) -> ModelShape:
    if config.get("model_type") != "llama":
        raise FormatError(f'{where}: model_type is {show(config.get("model_type"))}: only "llama" is supported')
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
    names = {hf_name(name): name for name in shape.tensors()}
    tensors: dict[str, EncodedTensor] = {}
    for path in _shards(folder):
        for theirs, tensor in _read_safetensors(path).items():
            name = names.get(theirs)
            if name is None and (theirs.endswith("rotary_emb.inv_freq") or theirs == "lm_head.weight"):
                continue  # follow from the configuration; a tied lm_head is the embedding
            where = f"{path}: {brief(theirs)}"
            if name is None:
                raise FormatError(f"{where} is unknown: only plain Llama models are supported")
            if tuple(tensor.shape) != shape.tensors()[name]:
                raise FormatError(f"{where} has shape {list(tensor.shape)}, but config.json implies {list(shape.tensors()[name])}")
            check_finite(tensor, where)
            tensors[name] = _neighbours(name, tensor, shape)
    for theirs, name in names.items():
        if name not in tensors:
            raise FormatError(f"{folder}: the tensor {theirs} is missing")
    return tensors


def _shards(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        where = str(folder / INDEX)
        files = parse_json(_read(folder / INDEX), where).get("weight_map")
        if not isinstance(files, dict) or not all(_is_file_name(file) for file in files.values()):
            raise FormatError(f"{where}: weight_map must give the file in this folder for each tensor")
        return [folder / file for file in sorted(set(files.values()))]
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickles:
        raise FormatError(
            f"{folder} has its weights only as Python pickles ({brief(pickles[0])}): loading one can run any program, so it is "
            f"refused; save the model with safe_serialization"
        )
    raise FormatError(f"{folder} has no {WEIGHTS}: only safetensors weights are supported")


def _is_file_name(value: Any) -> bool:
    """Whether it names something in this very folder, and can be shown in a message."""
    return isinstance(value, str) and Path(value).name == value and value.isprintable()


def _read_safetensors(path: Path) -> dict[str, Floats]:
    """Name -> float32 array of the tensors in one file: F32, F16 or BF16."""
    import safetensors

    try:
        entries = safetensors.deserialize(_read(path))  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise FormatError(f"{path} is not a whole safetensors file ({brief(str(error))})") from None
    tensors = {}
    for name, entry in entries:
        kind, data = entry["dtype"], entry["data"]
        if kind == "BF16":
            # The upper half of a binary32.
            flat = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        elif kind in ("F32", "F16"):
            flat = np.frombuffer(data, "<f4" if kind == "F32" else "<f2").astype(np.float32, copy=False)
        else:
            raise FormatError(f"{path}: {brief(name)} is of type {brief(kind)}: only F32, F16 and BF16 are supported")
        tensors[name] = flat.reshape(entry["shape"])
    return tensors
