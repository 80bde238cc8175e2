"""Tests the backward pass in numpy against torch's, with grouped heads and both kinds of output matrix."""

import numpy as np
import pytest
import torch

from bulletlm.progress import SilentProgress
from bulletlm.quant.curvature import DRAWS_SEED, output_curvature
from bulletlm.shape import ModelShape
from bulletlm.train.model import Transformer


@pytest.mark.parametrize(("kv_heads", "tied"), [(4, True), (2, False)])
def test_it_is_the_one_of_torch(kv_heads: int, tied: bool) -> None:
    shape = ModelShape(
        vocab_size=50, dim=32, n_layers=2, n_heads=4, n_kv_heads=kv_heads, hidden_dim=64, max_seq_len=16, tied_embeddings=tied
    )
    random = np.random.default_rng(7)
    tensors = {
        name: (1 + 0.2 * random.normal(size=extents) if len(extents) == 1 else 0.3 * random.normal(size=extents)).astype(np.float32)
        for name, extents in shape.tensors().items()
    }
    windows = random.integers(0, 50, (5, 16))
    got = output_curvature(shape, tensors, windows, SilentProgress())

    model = Transformer(shape)
    model.load_state_dict({name: torch.tensor(weight) for name, weight in tensors.items()}, strict=False)
    outputs: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.startswith("layers."):

            def keep(_: object, __: object, output: torch.Tensor, name: str = name) -> None:
                output.retain_grad()
                outputs[f"{name}.weight"] = output

            module.register_forward_hook(keep)
    log_p = torch.log_softmax(model(torch.tensor(windows)), -1)
    drawn = np.random.default_rng(DRAWS_SEED).random((5, 16, 1), dtype=np.float32)
    chosen = (np.cumsum(log_p.detach().exp().numpy(), axis=-1) < drawn).sum(axis=-1, keepdims=True)
    (-torch.gather(log_p, -1, torch.tensor(chosen)).sum()).backward()
    assert set(got) == set(outputs) == {name for name, extents in shape.tensors().items() if "layers." in name and len(extents) == 2}
    for name, output in outputs.items():
        assert output.grad is not None
        g = output.grad.reshape(-1, output.shape[-1]).double().numpy()
        wanted = g.T @ g
        np.testing.assert_allclose(got[name], wanted * len(wanted) / np.trace(wanted), atol=2e-4, err_msg=name)
