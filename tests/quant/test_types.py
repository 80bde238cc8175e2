"""Tests the choice of the weight type of each tensor."""

import pytest

from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config
from bulletlm.errors import ConfigError
from bulletlm.quant.types import weight_types
from bulletlm.shape import ModelShape

SHAPE = ModelShape(vocab_size=300, dim=32, n_layers=2, n_heads=2, n_kv_heads=2, hidden_dim=64, max_seq_len=8, tied_embeddings=False)


def test_usual_types() -> None:
    types = weight_types(SHAPE)
    assert types["token_embedding.weight"] == types["lm_head.weight"] == "BQ8"
    assert {type for name, type in types.items() if "norm" in name} == {"F32"}
    assert {type for name, type in types.items() if "proj" in name} == {"BQ4"}
    assert set(weight_types(SHAPE, "F16").values()) == {"F16", "F32"}
    assert weight_types(SHAPE, "BQ4", "F16")["lm_head.weight"] == "F16"


def test_exceptions_apply_in_order_and_leave_norms_alone() -> None:
    types = weight_types(SHAPE, "BQ4", None, ["layers.0.*=BQ8", "layers.*.mlp.down_proj=F16", "lm_head=F32"])
    assert types["layers.0.attention.q_proj.weight"] == "BQ8"
    assert types["layers.0.attention_norm.weight"] == "F32"
    assert types["layers.0.mlp.down_proj.weight"] == types["layers.1.mlp.down_proj.weight"] == "F16"
    assert types["layers.1.mlp.up_proj.weight"] == "BQ4"
    assert types["lm_head.weight"] == "F32"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("layers.9.*=BQ8", "fits none of the matrices token_embedding.weight"),
        ("layers.0.attention_norm.weight=BQ8", "fits none of the matrices"),
        ("layers.0.*=Q8", "write NAME=TYPE with a type of BQ4, BQ8, F16, F32"),
        ("layers.0.*", "write NAME=TYPE"),
        ("", "write NAME=TYPE"),
    ],
)
def test_wrong_exceptions_are_named(rule: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        weight_types(SHAPE, keep=[rule])
    assert "\n" not in str(caught.value)


def test_settings_are_checked_before_anything_runs() -> None:
    assert load_config(None, ["--quant=BQ8", "--keep=layers.7.*=F16"]).quant.keep == ["layers.7.*=F16"]
    assert load_config(None, ["--set", 'quant.keep=["layers.0.*=BQ8", "lay*.1.*=F16"]']).quant.keep == ["layers.0.*=BQ8", "lay*.1.*=F16"]
    assert load_config(None, ["--calibration=search"]).quant.calibration == "search"
    assert Config().quant.weights == "BQ4"
    with pytest.raises(ConfigError, match=r"command line: keep layers\.8"):
        load_config(None, ["--keep=layers.8.*=BQ8"])
    with pytest.raises(ConfigError, match="calibration_tokens 5: must be 1024 or more"):
        load_config(None, ["--calibration-tokens=5"])
