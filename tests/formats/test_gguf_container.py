"""Compares the GGUF files that BulletLM writes with those of the package gguf: every byte is the same."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.chat_template import GGUF_TEMPLATE, exported_template
from bulletlm.formats.gguf import FILE_TYPES, GGML_TYPES, METADATA_KEY, SAMPLING_KEYS, gguf_name, main_type, size_label, write_gguf
from bulletlm.formats.gguf_container import Tensor, Typed, write_container
from bulletlm.formats.stored import StoredModel, type_of
from bulletlm.quant.bq4 import Quantized
from bulletlm.sampling_limits import PENALTY_WINDOW
from bulletlm.text.tokenizer import BOS, END, EOS, UNK, Tokenizer

gguf = pytest.importorskip("gguf", reason="gguf is not installed (extra export)")

KINDS = {"u32": "add_uint32", "i32": "add_int32", "f32": "add_float32", "bool": "add_bool", "string": "add_string"}
SINGLE = {
    "u32": st.integers(0, 2**32 - 1),
    "i32": st.integers(-(2**31), 2**31 - 1),
    "f32": st.floats(width=32, allow_nan=False),
    "bool": st.booleans(),
    "string": st.text(),
}
TYPED = st.sampled_from(sorted(KINDS)).flatmap(lambda kind: SINGLE[kind].map(lambda value: Typed(kind, value)))
LISTS = st.one_of(  # the package takes the type of an array from its values: int32, float32 or string
    st.lists(SINGLE["i32"]).map(lambda values: Typed("i32", values)),
    st.lists(SINGLE["f32"]).map(lambda values: Typed("f32", values)),
    st.lists(SINGLE["string"]).map(lambda values: Typed("string", values)),
)


def finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@given(
    values=st.dictionaries(st.text(min_size=1).filter(lambda key: key != "general.architecture"), TYPED | LISTS, max_size=6),
    shapes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), max_size=4),
)
def test_any_container(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Typed], shapes: list[tuple[int, ...]]) -> None:
    path = tmp_path_factory.mktemp("container") / "m.gguf"
    arrays = {f"t{n}": np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for n, shape in enumerate(shapes)}
    writer = gguf.GGUFWriter(path, "llama")
    for key, (kind, value) in values.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            getattr(writer, KINDS[kind])(key, value)
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    finish(writer)
    ours = io.BytesIO()
    write_container(
        ours,
        {"general.architecture": Typed("string", "llama"), **values},
        [Tensor(name, array.shape, GGML_TYPES["F32"], array) for name, array in arrays.items()],
    )
    assert ours.getvalue() == path.read_bytes()


def write_with_the_package(path: Path, model: StoredModel) -> None:
    """The file that `write_gguf` must write."""
    shape, metadata = model.shape, model.metadata
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_name(metadata.get("name", ""))
    writer.add_size_label(size_label(shape.n_parameters))
    writer.add_license(metadata.get("license", ""))
    writer.add_languages(metadata.get("languages", []))
    writer.add_file_type(FILE_TYPES[main_type(model)])
    writer.add_quantization_version(2)
    sampling = metadata.get("sampling", {})
    for name, key in SAMPLING_KEYS.items():
        if name in sampling and name == "top_k":
            writer.add_int32(key, sampling[name])
        elif name in sampling:
            writer.add_float32(key, sampling[name])
    if "repetition_penalty" in sampling:
        writer.add_sampling_penalty_last_n(PENALTY_WINDOW)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_context_length(shape.max_seq_len)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.hidden_dim)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_string(METADATA_KEY, json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False))
    pieces = Tokenizer(model.tokenizer_proto).pieces()
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.text for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([piece.type for piece in pieces])
    writer.add_unk_token_id(UNK)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_eot_token_id(END)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_bool("tokenizer.ggml.remove_extra_whitespaces", False)
    writer.add_chat_template(exported_template(metadata, GGUF_TEMPLATE))
    for name in shape.tensors():
        tensor = model.tensors[name]
        data = tensor.blocks.reshape(*tensor.shape[:-1], -1) if isinstance(tensor, Quantized) else tensor
        kind = gguf.GGMLQuantizationType(GGML_TYPES[type_of(tensor)])
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(data), raw_dtype=kind)
    finish(writer)


@pytest.mark.parametrize("more", [{}, {"languages": ["mr", "en"], "name": "नाव", "sampling": {"repetition_penalty": 1.1, "top_k": 3}}])
def test_a_model(tmp_path: Path, bullet_path: Path, more: dict[str, Any]) -> None:
    file = open_bullet(bullet_path)
    tensors = {name: file.read_blocks(name) for name in file.shape.tensors()}
    metadata = {"license": "CC0-1.0", "sampling": {"temperature": 0.5, "top_p": 0.9}, **more}
    model = StoredModel(file.shape, tensors, file.tokenizer_proto, metadata)
    write_gguf(tmp_path / "ours.gguf", model)
    write_with_the_package(tmp_path / "theirs.gguf", model)
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()
