"""The optimizers of a run, their learning rates, and their state as named tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bulletlm.config.schema import TrainConfig
from bulletlm.train.muon import Muon


def build_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW (arXiv:1711.05101) for all parameters; with "muon", Muon for the matrices of the layers and AdamW for the others.

    Weight decay applies to matrices, not to norm gains (vectors).
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
    """Set every learning rate to `share` times its peak, from the next step on."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer], model: nn.Module) -> dict[str, Tensor]:
    """The optimizer state as float32 tensors, each of the shape of its parameter; empty before the first step.

    Names are `PARAMETER.exp_avg` and `PARAMETER.exp_avg_sq` (AdamW) or `PARAMETER.momentum` (Muon).
    """
    return {
        f"{name}.{part}": tensor
        for optimizer in optimizers
        for name, weight in model.named_parameters()
        if weight in optimizer.state
        for part, tensor in optimizer.state[weight].items()
        if part != "step"
    }


def restore_optimizers(optimizers: Sequence[torch.optim.Optimizer], model: nn.Module, tensors: dict[str, Tensor], step: int) -> None:
    """Replace the optimizer state by what `optimizer_tensors` returned after optimizer step number `step`."""
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
