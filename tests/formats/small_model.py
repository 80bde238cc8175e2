"""A model that is small enough for a hundred conversions per second."""

import numpy as np

from bulletlm.formats.stored import EncodedTensor, StoredModel
from bulletlm.quant.bq4 import Quantized, quantize_bq4, quantize_bq8
from bulletlm.quant.types import standard_types
from bulletlm.shape import ModelShape
from bulletlm.text.train_tokenizer import model_of_pieces

TEXTS = ["नम", "स्", "स्ते", "नमस्ते", "▁h", "▁hi", "▁", "न", "म", "स", "त", "्", "े", "h", "i"]
VOCAB_SIZE = 262 + len(TEXTS)
METADATA = {
    "name": 'small "model"',
    "license": "CC0-1.0",
    "languages": ["mr", "en"],
    "sampling": {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.1, "max_tokens": 96},
    "training": {"tokens_seen": 123456, "val_loss": 2.5, "शेरा": [1, 2.5, None]},
}


def small_shape(**changes: object) -> ModelShape:
    fields = {"vocab_size": VOCAB_SIZE, "dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 96, "max_seq_len": 32}
    return ModelShape(**{**fields, **changes})  # type: ignore[arg-type]


def quantized(tensor: np.ndarray, type: str) -> EncodedTensor:
    if type in ("BQ4", "BQ8"):
        return Quantized(type, quantize_bq4(tensor) if type == "BQ4" else quantize_bq8(tensor))
    return tensor.astype(np.float16 if type == "F16" else np.float32)


def small_model(quant: str = "BQ4", seed: int = 0, **changes: object) -> StoredModel:
    """Weights large enough that every part of the network matters; gains around 1."""
    shape = small_shape(**changes)
    rng = np.random.default_rng(seed)
    types = standard_types(shape, quant)
    tensors = {}
    for name, extents in shape.tensors().items():
        weights = rng.standard_normal(extents, dtype=np.float32) / np.float32(extents[-1] ** 0.5 if len(extents) == 2 else 4)
        tensors[name] = quantized(weights + np.float32(len(extents) == 1), types[name])
    return StoredModel(shape, tensors, model_of_pieces((text, -float(rank)) for rank, text in enumerate(TEXTS)), METADATA)


def assert_same(a: StoredModel, b: StoredModel) -> None:
    """Equal bit for bit."""
    assert a.shape == b.shape and dict(a.metadata) == dict(b.metadata) and a.tokenizer_proto == b.tokenizer_proto
    assert set(a.tensors) == set(b.tensors)
    for name, tensor in a.tensors.items():
        other = b.tensors[name]
        if isinstance(tensor, Quantized):
            assert isinstance(other, Quantized) and tensor.type == other.type, name
            np.testing.assert_array_equal(tensor.blocks, other.blocks, err_msg=name)
        else:
            assert not isinstance(other, Quantized) and tensor.dtype == other.dtype, name
            np.testing.assert_array_equal(tensor, other, err_msg=name)
