"""Complete steps of training, ours as `bullet train` takes them and those of transformers' Trainer; bench/train_speed.py runs this.

A step of ours: windows of the text, rounding of the weights, passes, clipping, optimizer with moving average, a line of metrics. A step
of the Trainer: everything between the ends of two of its steps. Its settings are the fastest that it offers: fused AdamW or
torch.optim.Muon (and AdamW for the other parameters), in FP32 or bf16, compiled or not, no checkpoints, few logs.
"""

import contextlib
import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from bulletlm.config.schema import Config, TrainConfig
from bulletlm.data.tokens import TokenFile
from bulletlm.formats.hf import _halves, hf_name
from bulletlm.quant.fake_quant import FakeQuant
from bulletlm.quant.types import standard_types
from bulletlm.shape import ModelShape
from bulletlm.train.backend.compute import set_up
from bulletlm.train.backend.plan import ComputePlan
from bulletlm.train.batches import TrainingWindows, validation_batches
from bulletlm.train.log.metrics import MetricsLog
from bulletlm.train.model import IGNORE, Transformer
from bulletlm.train.optimizer import set_learning_rate
from bulletlm.train.schedule import count_steps, learning_rate, sequences_per_step
from bulletlm.train.state import initial_state
from bulletlm.train.step import accumulate, clip, update
from bulletlm.train.validation import validate

Clock = Callable[[], float]
ADAMW_DECAY = 0.3
"""Weight decay of the peers' AdamW: the best of 0.05 to 0.6 on the demo's text. Their Muon has the recipe's."""


class Parts:
    """Collects how long the parts of each step take."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seconds: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = self.clock()
        yield
        self.seconds.setdefault(name, []).append(self.clock() - start)

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            with self.timed(name):
                return function(*arguments)

        return run


class TimedWindows:
    """The training windows, with the time that they take."""

    def __init__(self, windows: TrainingWindows, parts: Parts) -> None:
        self.batch = parts.wrap("data", windows.batch)


class OurSteps:
    """Steps of `bullet train` on a text."""

    def __init__(self, config: Config, shape: ModelShape, plan: ComputePlan, text: TokenFile, clock: Clock, folder: Path) -> None:
        self.config = config.train
        windows = TrainingWindows(text, shape.max_seq_len, config.seed)
        self.total, _ = count_steps(self.config, windows.count)
        self.parts = Parts(clock)
        self.state = initial_state(self.config, shape, config.seed, torch.device("cpu"))
        compute = set_up(plan, self.state.model)
        self.compute = dataclasses.replace(compute, load_weights=self.parts.wrap("rounding of the weights", compute.load_weights))
        self.windows: Any = TimedWindows(windows, self.parts)
        self.metrics = MetricsLog(folder / "metrics.jsonl", self.state.position, [])
        self.fake = FakeQuant(self.state.model, standard_types(shape)) if config.qat.start is not None else None
        self.threads = plan.threads

    def step(self) -> float:
        """Take the next step; returns its loss."""
        torch.set_num_threads(self.threads)
        state, parts, number = self.state, self.parts, self.state.position.step
        with parts.timed("all"):
            rate = learning_rate(self.config, min(number, self.total - 1), self.total)
            set_learning_rate(state.optimizers, rate / self.config.learning_rate)
            with parts.timed("passes"), self.fake.applied() if self.fake else contextlib.nullcontext():
                loss = accumulate(self.config, self.windows, number, self.compute)
            with parts.timed("clipping"):
                norm = clip(state, self.config.clip_grad_norm)
            with parts.timed("optimizer, average"):
                update(state)
            with parts.timed("metrics"):
                self.metrics.write("train", number + 1, **{"train/loss": loss, "lr": rate, "grad_norm": norm})
        return loss

    def medians(self) -> dict[str, float]:
        """Median seconds of each part; the passes without what is listed by itself. The first two steps do not count."""
        found = {name: statistics.median(each[2:]) for name, each in self.parts.seconds.items() if name != "data"}
        steps = len(self.parts.seconds["all"])
        found["data"] = sum(self.parts.seconds["data"]) / steps
        found["passes"] -= found["data"] + found["rounding of the weights"]
        return found


class TwoOptimizers(torch.optim.Optimizer):
    """torch.optim.Muon for the matrices of the layers and AdamW for the rest, as one optimizer for the Trainer."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([weight for part in parts for group in part.param_groups for weight in group["params"]], {})
        self.parts = parts
        self.param_groups = [group for part in parts for group in part.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        # The Trainer replaces the groups by copies, whose learning rates it then changes.
        groups = [group for part in self.parts for group in part.param_groups]
        for group, copy in zip(groups, self.param_groups, strict=True):
            group["lr"] = copy["lr"]
        for part in self.parts:
            part.step()


def peer_optimizer(model: torch.nn.Module, config: TrainConfig, name: str) -> torch.optim.Optimizer:
    named = list(model.named_parameters())
    matrices = [weight for key, weight in named if name == "Muon" and weight.dim() == 2 and ".layers." in key]
    rest = [weight for _, weight in named if not any(weight is matrix for matrix in matrices)]
    decay = config.weight_decay if name == "Muon" else ADAMW_DECAY
    groups = [
        {"params": [weight for weight in rest if weight.dim() > 1], "weight_decay": decay},
        {"params": [weight for weight in rest if weight.dim() < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)
    if not matrices:
        return adamw
    return TwoOptimizers(
        torch.optim.Muon(matrices, lr=config.muon_learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"), adamw
    )


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Times each step of a Trainer, from end to end; `check` may end the training, and its time does not count."""

    def __init__(self, clock: Clock, check: Callable[[int], bool]) -> None:
        self.clock, self.check = clock, check
        self.seconds: list[float] = []
        self.last = clock()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.last = self.clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds.append(self.clock() - self.last)
        control.should_training_stop = self.check(state.global_step)
        self.last = self.clock()


@dataclasses.dataclass(frozen=True)
class Peer:
    """Settings of transformers' Trainer."""

    optimizer: str
    bf16: bool
    compiled: bool

    def __str__(self) -> str:
        return f"transformers Trainer, {self.optimizer}, {'bf16' if self.bf16 else 'fp32'}, {'compiled' if self.compiled else 'eager'}"


def trainer_steps(
    peer: Peer,
    config: Config,
    shape: ModelShape,
    peer_config: Any,
    text: TokenFile,
    steps: int,
    clock: Clock,
    check: Callable[[torch.nn.Module, int], bool] = lambda model, step: False,
) -> list[float]:
    """Seconds of each of `steps` steps, or until `check`. The model starts with the weights of ours and sees the same windows."""
    train, sequences = config.train, sequences_per_step(config.train)
    windows = TrainingWindows(text, shape.max_seq_len, config.seed)
    rows = [{"input_ids": row, "labels": row} for n in range(steps) for row in windows.batch(n * sequences, sequences)[0]]
    model = LlamaForCausalLM(peer_config)
    ours = Transformer(shape)
    ours.initialize(config.seed)
    theirs = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            theirs[hf_name(name)].copy_(torch.from_numpy(_halves(name, weight.detach().numpy(), shape)))
    watch = Stopwatch(clock, lambda step: check(model, step))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            max_steps=steps,
            per_device_train_batch_size=train.batch_size_per_device,
            gradient_accumulation_steps=train.gradient_accumulation_steps,
            max_grad_norm=train.clip_grad_norm,
            learning_rate=train.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=min(train.warmup_steps, steps // 5),
            bf16=peer.bf16,
            torch_compile=peer.compiled,
            logging_steps=50,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            train_sampling_strategy="sequential",
            seed=config.seed,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            optimizers=(peer_optimizer(model, train, peer.optimizer), None),
            callbacks=[watch],
        )
        trainer.train()
    return watch.seconds


def speeds(
    config: Config,
    shape: ModelShape,
    plan: ComputePlan,
    peers: list[Peer],
    peer_config: Any,
    text: TokenFile,
    steps: int,
    clock: Clock,
) -> tuple[dict[str, float], dict[Peer, float]]:
    """Median seconds of the parts of our steps, and of the steps of the peers. Ours run before each peer and after the last."""
    with tempfile.TemporaryDirectory() as folder:
        ours = OurSteps(config, shape, plan, text, clock, Path(folder))
        found = {}
        for peer in peers:
            for _ in range(steps):
                ours.step()
            found[peer] = statistics.median(trainer_steps(peer, config, shape, peer_config, text, steps + 2, clock)[2:])
        for _ in range(steps):
            ours.step()
        return ours.medians(), found


def times_to_loss(
    target: float,
    config: Config,
    shape: ModelShape,
    plan: ComputePlan,
    peers: list[Peer],
    peer_config: Any,
    text: tuple[TokenFile, TokenFile],
    every: int,
    clock: Clock,
) -> dict[str, float | None]:
    """Seconds of training, without validation, until the held-out loss (nats per token) is `target`; None if a run does not get there.

    Args:
        text: training and validation tokens.
        every: steps between validations.
    """
    train, val = text
    total, _ = count_steps(config.train, TrainingWindows(train, shape.max_seq_len, config.seed).count)
    results: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        ours = OurSteps(config, shape, plan, train, clock, Path(folder))
        loss = float("inf")
        while loss > target and ours.state.position.step < total:
            ours.step()
            if ours.state.position.step % every == 0:
                nats, count = validate(ours.state.model, val, 16)
                loss = nats / count
        results[f"ours: {plan}"] = sum(ours.parts.seconds["all"]) if loss <= target else None
        print(f"ours: step {ours.state.position.step}, loss {loss:.3f}", flush=True)
    for peer in peers:
        losses = [float("inf")]

        def check(model: torch.nn.Module, step: int, losses: list[float] = losses) -> bool:
            if step % every == 0:
                losses.append(held_out_loss(model, val, shape))
            return losses[-1] <= target

        seconds = trainer_steps(peer, config, shape, peer_config, train, total, clock, check)
        results[str(peer)] = sum(seconds) if losses[-1] <= target else None
        print(f"{peer}: step {len(seconds)}, loss {losses[-1]:.3f}", flush=True)
    return results


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, val: TokenFile, shape: ModelShape) -> float:
    """Mean loss of transformers' Llama in FP32, nats per token."""
    total, count = 0.0, 0
    model.eval()
    for tokens, targets in validation_batches(val, shape.max_seq_len, 16):
        logits = model(input_ids=tokens).logits.float()
        total += float(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"))
        count += int((targets != IGNORE).sum())
    model.train()
    return total / count
