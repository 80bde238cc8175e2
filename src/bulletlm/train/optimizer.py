"""AdamW (arXiv:1711.05101) with decay on matrices only, and its state as named tensors."""

import torch
from torch import Tensor, nn

from bulletlm.config import TrainConfig

_MOMENTS = ("exp_avg", "exp_avg_sq")


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """One AdamW over all parameters; norm gains (vectors) are not decayed."""
    matrices = [weight for weight in model.parameters() if weight.dim() >= 2]
    vectors = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Use `value` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = value


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The moments under `PARAMETER.exp_avg` and `PARAMETER.exp_avg_sq`; empty before the first step."""
    return {
        f"{name}.{moment}": optimizer.state[weight][moment]
        for name, weight in model.named_parameters()
        for moment in _MOMENTS
        if weight in optimizer.state
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor], step: int) -> None:
    """Put back what `optimizer_tensors` returned after optimiser step number `step`."""
    if not tensors:
        return
    for name, weight in model.named_parameters():
        state = {moment: tensors[f"{name}.{moment}"].clone() for moment in _MOMENTS}
        optimizer.state[weight] = {"step": torch.tensor(float(step)), **state}
