"""Measures the cost of fake quantization: the CPU time of rounding all weights once, as a share of a training step without it.

    python bench/fake_quant.py

The script uses one thread, eager mode and FP32. Steps and roundings alternate; the result is the median of nine. An optimizer step
rounds the weights once, even if it has several passes.
"""

import time
from collections.abc import Callable
from statistics import median

import torch

from bulletlm.config.schema import TrainConfig
from bulletlm.quant.fake_quant import FakeQuant
from bulletlm.quant.types import weight_types
from bulletlm.shape import ModelShape
from bulletlm.train.model import Transformer
from bulletlm.train.optimizer import build_optimizers

SEQUENCES = 16
ROUNDS = 9
SHAPES = {
    "demo": ModelShape(2000, 128, 4, 4, 4, 512, 128),
    "seed": ModelShape(4000, 256, 8, 4, 4, 1024, 128),
}


def main() -> None:
    torch.set_num_threads(1)
    for name, shape in SHAPES.items():
        model = Transformer(shape)
        model.initialize(1)
        optimizers = build_optimizers(model, TrainConfig())
        fake = FakeQuant(model, weight_types(shape))
        tokens, targets = torch.randint(shape.vocab_size, (2, SEQUENCES, shape.max_seq_len))

        def step(
            model: Transformer = model, tokens: torch.Tensor = tokens, targets: torch.Tensor = targets, optimizers: list = optimizers
        ) -> None:
            (model.loss(tokens, targets) / targets.numel()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)

        def rounding(fake: FakeQuant = fake) -> None:
            with fake.applied():
                pass

        times = [(cpu_time(step), cpu_time(rounding)) for _ in range(ROUNDS)]
        of_step, of_rounding = (median(column) for column in zip(*times, strict=True))
        print(
            f"{name}: {shape.n_parameters:,} parameters, step of {tokens.numel():,} tokens {of_step:.3f} s, "
            f"rounding {1e3 * of_rounding:.1f} ms = {of_rounding / of_step:.1%}",
            flush=True,
        )


def cpu_time(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
