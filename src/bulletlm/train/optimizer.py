"""The optimisers of a run, their learning rates, and their state as named tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bulletlm.config.schema import TrainConfig
from bulletlm.train.muon import Muon


def build_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW (arXiv:1711.05101) for everything, or with "muon" for all but the matrices of the layers.

    Matrices are decayed, norm gains (vectors) are not.
    """
    named = dict(model.named_parameters())
    by_muon = {name for name, weight in named.items() if config.optimizer == "muon" and weight.dim() == 2 and name.startswith("layers.")}
    matrices = [weight for name, weight in named.items() if weight.dim() >= 2 and name not in by_muon]
    vectors = [weight for weight in named.values() if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)
    ]
    if by_muon:
        weights = [weight for name, weight in named.items() if name in by_muon]
        optimizers.append(Muon(weights, lr=config.muon_learning_rate, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], share: float) -> None:
    """From the next step on, use `share` of every peak learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer], model: nn.Module) -> dict[str, Tensor]:
    """The state under `PARAMETER.exp_avg`, `PARAMETER.exp_avg_sq` (AdamW) and `PARAMETER.momentum` (Muon); empty before the first step."""
    return {
        f"{name}.{part}": tensor
        for optimizer in optimizers
        for name, weight in model.named_parameters()
        if weight in optimizer.state
        for part, tensor in optimizer.state[weight].items()
        if part != "step"
    }


def restore_optimizers(optimizers: Sequence[torch.optim.Optimizer], model: nn.Module, tensors: dict[str, Tensor], step: int) -> None:
    """Put back what `optimizer_tensors` returned after optimiser step number `step`."""
    for optimizer in optimizers:
        optimizer.state.clear()
    named = dict(model.named_parameters())
    owner = {weight: optimizer for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(".")
        state = owner[named[name]].state[named[name]]
        state[part] = tensor.to(named[name].device, copy=True)
        if part == "exp_avg":
            state["step"] = torch.tensor(float(step), device=named[name].device)
