"""Measures the speed of training on this machine and compares it with transformers' Llama and GPT-2 (and litgpt's Llama, if installed).

    python bench/train_speed.py                      the seed's shape: peers, share of the GEMMs, EMA, fake quantization
    python bench/train_speed.py --recipe demo --tokens runs/demo/tokens             complete steps, and where their time goes
    python bench/train_speed.py --recipe demo --tokens runs/demo/tokens --to-loss 3.5   also the time to a held-out loss
    python bench/train_speed.py --memory --start     also peak memory, and the time to the first step, cold and warm
    python bench/train_speed.py --table              also 1M to 50M parameters x context 128 to 1024
    python bench/train_speed.py --losses 300         also FP32 against int8 or bf16 over 300 steps of real text, with several seeds
    python bench/train_speed.py --run runs/NAME      the weights and text of a finished run instead of random ones
    python bench/train_speed.py --keep-denormals     do not treat subnormal numbers as zero; see docs/training-speed.md
    python bench/train_speed.py --quick              a small shape and few rounds, only to check that the script works
    python bench/train_speed.py --cpu-time           for a busy machine: one thread, and its CPU time instead of wall time

With --recipe, complete steps are measured as `bullet train` takes them with that configuration, beside those of transformers' Trainer
(whole_steps.py); --tokens gives the text, random tokens otherwise.

Without it, one round is a forward and backward pass over one micro-batch. All programs run in turns (A B C A B C ...) in this process,
and their medians are compared. `mallopt` is set and denormal numbers are switched off for all of them. Peers run in eager mode and
compiled, with both of their attention implementations, in FP32 and, if the processor supports it, in bf16 (autocast). The fastest
peer, with the number of sequences per pass that suits it best, is compared with our fastest and with the fastest matrix products
alone. litgpt is included if it is installed (it pins older versions of packages that the others need:
`pip install --no-deps litgpt lightning lightning-utilities torchmetrics`). Loss and gradients are compared with those of
transformers for the same weights before anything is timed.
The exit code is 1 if a target is missed, but not with --quick.
Our training runs in FP32 and in the types that the processor multiplies faster (bf16, int8). The lower limit of the time for each
type is all matrix products with the weights and nothing else.
"""

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bulletlm.hardware import inspect_machine, keep_memory, largest_size, park_idle_threads

park_idle_threads()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from bulletlm.config.loader import load_config  # noqa: E402
from bulletlm.config.schema import TrainConfig  # noqa: E402
from bulletlm.data.tokens import TokenFile, open_tokens  # noqa: E402
from bulletlm.formats.hf import _halves, hf_name  # noqa: E402
from bulletlm.formats.npy import read_npy  # noqa: E402
from bulletlm.quant.types import standard_types  # noqa: E402
from bulletlm.shape import ModelShape  # noqa: E402
from bulletlm.train.backend.compute import activate, set_up  # noqa: E402
from bulletlm.train.backend.native import why_not  # noqa: E402
from bulletlm.train.backend.plan import ComputePlan, PlanPrecision, default_plan, inspect_capabilities  # noqa: E402
from bulletlm.train.batches import TrainingWindows  # noqa: E402
from bulletlm.train.model import Transformer  # noqa: E402
from bulletlm.train.optimizer import set_learning_rate  # noqa: E402
from bulletlm.train.state import initial_state  # noqa: E402
from bulletlm.train.step import accumulate, clip, update  # noqa: E402
from bulletlm.train.validation import validate  # noqa: E402

SEED_SHAPE = ModelShape(4000, 256, 8, 4, 4, 1024, 128)
SMALL_SHAPE = ModelShape(500, 64, 2, 2, 2, 256, 32)
TABLE = {
    "1M": ModelShape(2000, 96, 6, 3, 3, 384, 128),
    "3M": ModelShape(4000, 160, 6, 4, 4, 640, 128),
    "9M": SEED_SHAPE,
    "25M": ModelShape(8000, 384, 10, 6, 6, 1536, 128),
    "50M": ModelShape(8000, 512, 13, 8, 8, 1792, 128),
}
CONTEXTS = (128, 256, 512, 1024)
SEQUENCES = 64

Job = Callable[[], None]


def peer_config(shape: ModelShape, attention: str) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.dim,
        intermediate_size=shape.hidden_dim,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        max_position_embeddings=shape.max_seq_len,
        rms_norm_eps=shape.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=shape.tied_embeddings,
        attn_implementation=attention,
        use_cache=False,
    )


def check_against_transformers(shape: ModelShape, plans: list[ComputePlan]) -> None:
    """Check that loss and gradients of every FP32 plan equal those of transformers' Llama with the same weights."""
    from transformers import LlamaForCausalLM

    model = Transformer(shape)
    model.initialize(3)
    peer = LlamaForCausalLM(peer_config(shape, "eager"))
    with torch.no_grad():
        theirs = dict(peer.named_parameters())
        for name, weight in model.named_parameters():
            theirs[hf_name(name)].copy_(torch.from_numpy(_halves(name, weight.detach().numpy(), shape)))
    tokens, targets = random_batch(shape, 2)
    logits = peer(input_ids=tokens).logits
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    expected.backward()
    for plan in plans:
        model.zero_grad()
        compute = set_up(plan, model)
        compute.load_weights()
        loss = compute.accumulate_gradients(tokens, targets, 1)
        bound = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.15}[plan.precision]
        if abs(loss / float(expected.detach()) - 1) > bound:
            sys.exit(f"loss {loss} instead of {float(expected.detach())} ({plan})")
        for name, weight in model.named_parameters():
            reference = theirs[hf_name(name)].grad
            ours = torch.from_numpy(_halves(name, weight.grad.numpy(), shape))
            error = float((ours - reference).norm() / reference.norm())
            if error > bound:
                sys.exit(f"the gradient of {name} differs from transformers' by {error:.2e} ({plan})")
        print(f"loss and all gradients equal transformers' Llama: {plan}")


def random_batch(shape: ModelShape, sequences: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, shape.vocab_size, (sequences, shape.max_seq_len + 1), generator=torch.Generator().manual_seed(7))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


@dataclasses.dataclass(frozen=True)
class Run:
    """Return weights (by our names) and a batch of text from a finished run, or random ones if there is no run."""

    weights: dict[str, np.ndarray] | None
    tokens: np.ndarray

    def batch(self, shape: ModelShape, sequences: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.weights is None:
            return random_batch(shape, sequences)
        rows = torch.from_numpy(self.tokens[: sequences * (shape.max_seq_len + 1)].astype(np.int64)).view(sequences, -1)
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def fill(self, model: torch.nn.Module, shape: ModelShape, theirs: bool) -> None:
        """Put the weights into a Llama, ours or transformers'."""
        if self.weights is None:
            return
        named = dict(model.named_parameters())
        with torch.no_grad():
            for name, weight in self.weights.items():
                value = _halves(name, weight, shape) if theirs else weight
                named[hf_name(name) if theirs else name].copy_(torch.from_numpy(value))


def our_job(shape: ModelShape, plan: ComputePlan, run: Run) -> Job:
    model = Transformer(shape)
    model.initialize(1)
    run.fill(model, shape, theirs=False)
    compute = set_up(plan, model)
    compute.load_weights()  # once per step: see extras
    tokens, targets = run.batch(shape, plan.micro_batch)

    def job() -> None:
        activate(plan, model)
        compute.accumulate_gradients(tokens, targets, tokens.numel())

    return job


def peer_job(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor], threads: int, compiled: bool, bf16: bool) -> Job:
    """Return a pass as in transformers' Trainer: optionally a compiled model, the loss outside of it, gradients summed."""
    run = torch.compile(model, dynamic=False) if compiled else model
    tokens, targets = batch

    def job() -> None:
        torch.set_num_threads(threads)
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            output = run(tokens)
            logits = output.logits if hasattr(output, "logits") else output
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        loss.backward()

    return job


def peers(
    shape: ModelShape, sequences: int, threads: int, compiled: tuple[bool, ...], precisions: tuple[bool, ...], run: Run, only: str = ""
) -> dict[str, Job]:
    """By title; `only` one of them."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

    gpt2 = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.max_seq_len,
        n_embd=shape.dim,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        # Without a gate, 3/2 of the hidden width gives the same number of parameters.
        n_inner=shape.hidden_dim * 3 // 2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )
    kinds: dict[str, Callable[[], torch.nn.Module]] = {
        "transformers Llama, SDPA": lambda: LlamaForCausalLM(peer_config(shape, "sdpa")),
        "transformers Llama, eager attention": lambda: LlamaForCausalLM(peer_config(shape, "eager")),
    }
    if run.weights is None:  # the other models have weights of other shapes
        kinds["transformers GPT-2"] = lambda: GPT2LMHeadModel(gpt2)
    try:
        import litgpt
    except ImportError:
        print("litgpt is not installed, so it is not measured")
    else:
        config = litgpt.Config(
            block_size=shape.max_seq_len,
            vocab_size=shape.vocab_size,
            padded_vocab_size=shape.vocab_size,
            n_layer=shape.n_layers,
            n_head=shape.n_heads,
            n_query_groups=shape.n_kv_heads,
            n_embd=shape.dim,
            intermediate_size=shape.hidden_dim,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
        )
        if run.weights is None:
            kinds["litgpt Llama"] = lambda: litgpt.GPT(config)
    jobs = {}
    for name, make in kinds.items():
        for bf16 in precisions:
            for graph in compiled:
                title = f"{name}, {'bf16' if bf16 else 'fp32'}, {'compiled' if graph else 'eager'}"
                if only not in ("", title):
                    continue
                model = make()
                run.fill(model, shape, theirs=True)
                jobs[title] = peer_job(model, run.batch(shape, sequences), threads, graph, bf16)
    return jobs


def gemm_job(shape: ModelShape, sequences: int, threads: int, precision: str) -> Job:
    """Return a job with all matrix products of a pass with the weights, forward and backward, and nothing else: the lower limit."""
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[precision]
    product = torch._int_mm if precision == "int8" else torch.mm
    rows = sequences * shape.max_seq_len
    extents = [e for name, e in shape.tensors().items() if len(e) == 2 and not (name.startswith("token") and not shape.tied_embeddings)]
    weights = {e: (50 * torch.randn(e)).to(kind) for e in extents}
    sizes = {size for e in extents for size in e}
    values = {size: (50 * torch.randn(rows, size)).to(kind) for size in sizes}

    def job() -> None:
        torch.set_num_threads(threads)
        for outputs, inputs in extents:
            product(values[inputs], weights[outputs, inputs].T)
            product(values[outputs], weights[outputs, inputs])
            product(values[outputs].T, values[inputs])

    return job


def in_turns(jobs: dict[str, Job], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the median seconds of every job."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 2):
        for name, job in jobs.items():
            start = clock()
            job()
            if turn > 1:  # the first call compiles, the second one allocates memory
                seconds[name].append(clock() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def extras(shape: ModelShape, plan: ComputePlan, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the seconds of the work that is done once per optimizer step, computed according to `plan`."""
    torch.set_num_threads(plan.threads)
    config = TrainConfig()
    state = initial_state(config, shape, 1, torch.device("cpu"))
    for weight in state.model.parameters():
        weight.grad = torch.full_like(weight, 1e-4)
    jobs: dict[str, Job] = {"clipping": lambda: clip(state, 1.0) and None, "AdamW and average": lambda: update(state)}
    if plan.precision == "int8":
        jobs["rounding the weights to int8"] = set_up(plan, state.model).load_weights
    if importlib.util.find_spec("bulletlm.quant.fake_quant"):
        grid = importlib.import_module("bulletlm.quant.fake_quant").FakeQuant(state.model, standard_types(shape))

        def rounding() -> None:
            with grid.applied():
                pass

        jobs["fake quantization"] = rounding
    return in_turns(jobs, rounds, clock)


def measure_whole_steps(arguments: argparse.Namespace, threads: int, clock: Callable[[], float], bf16: bool, compiler: bool) -> int:
    """Print the speed of complete steps of a configuration, ours and the Trainer's; returns the exit code."""
    import whole_steps

    config = load_config(arguments.recipe)
    if arguments.tokens:
        text = tuple(open_tokens(arguments.tokens, name) for name in ("train", "val"))
        vocabulary = json.loads((arguments.tokens / "index.json").read_text())["vocab_size"]
    else:
        vocabulary = config.tokenizer.vocab_size
        random = np.random.default_rng(1).integers(0, vocabulary, 1 << 18).astype(np.uint32)
        text = (TokenFile(random, None, {}),) * 2
    shape = config.model.shape(vocabulary)
    sequences = config.train.batch_size_per_device * config.train.gradient_accumulation_steps
    plan = default_plan(config.train, inspect_capabilities("cpu"), 0)
    plan = dataclasses.replace(plan, threads=threads, precision=arguments.precision or plan.precision)
    check_against_transformers(shape, [plan])
    graphs = (False, True) if compiler and not arguments.eager and not arguments.quick else (False,)
    optimizers = ("AdamW", "Muon") if hasattr(torch.optim, "Muon") else ("AdamW",)
    # Their fastest kind of pass is found with AdamW; with Muon only that one is measured.
    kinds = [whole_steps.Peer("AdamW", half, graph) for half in ((True, False) if bf16 else (False,)) for graph in graphs]
    peer = peer_config(shape, "sdpa")
    ours, theirs = whole_steps.speeds(config, shape, plan, kinds, peer, text[0], arguments.rounds, clock)
    best = min(theirs, key=lambda kind: theirs[kind])
    others = [dataclasses.replace(best, optimizer=name) for name in optimizers if name != "AdamW"]
    ours, more = whole_steps.speeds(config, shape, plan, others, peer, text[0], arguments.rounds, clock) if others else (ours, {})
    theirs |= more

    tokens = sequences * shape.max_seq_len
    print(f"\na complete step of {tokens:,} tokens, {shape.n_parameters / 1e6:.1f}M parameters{'':<24}{'tokens/s':>10}{'ms':>10}")
    rows = [(f"ours: {config.train.optimizer}, {plan}", ours["all"]), *((str(kind), each) for kind, each in theirs.items())]
    for name, each in rows:
        print(f"{name:<74}{tokens / each:>10,.0f}{1e3 * each:>10.1f}")
    for name, each in ours.items():
        if name != "all":
            print(f"    {name:<30}{1e3 * each:>8.1f} ms{each / ours['all']:>8.1%}")
    reached = {}
    if arguments.to_loss:
        best_two = [best, *others]
        every = max(1, config.train.eval_every_steps // 4)
        reached = whole_steps.times_to_loss(arguments.to_loss, config, shape, plan, best_two, peer, text, every, clock)  # type: ignore[arg-type]
        print(f"\nseconds of training to a held-out loss of {arguments.to_loss:g} nats")
        for name, seconds in reached.items():
            print(f"{name:<74}{'not reached' if seconds is None else f'{seconds:.1f}':>12}")
    if arguments.json:
        parts = {"parts": ours, "steps": dict(rows), "tokens_per_step": tokens, "to_loss": reached}
        arguments.json.write_text(json.dumps(parts, indent=1))
    return 0


def bullet_train(folder: Path, shape: ModelShape, name: str, *settings: str) -> tuple[list[str], Path]:
    """Prepare a run of this shape on the packaged corpus and return the command that trains it, and its metrics.jsonl."""
    config = folder / "start.jsonc"
    config.write_text('{"data": {"sources": ["sample"]}}')
    arguments = [str(config), f"--vocab_size={shape.vocab_size}", f"--dim={shape.dim}", f"--num_layers={shape.n_layers}"]
    arguments += [f"--num_heads={shape.n_heads}", f"--max_seq_len={shape.max_seq_len}", f"--runs-dir={folder / 'runs'}", f"--name={name}"]
    command = [sys.executable, "-m", "bulletlm"]
    subprocess.run([*command, "tokenizer", *arguments, *settings], check=True, capture_output=True)
    return [*command, "train", *arguments, *settings], folder / "runs" / name / "metrics.jsonl"


def measure_memory(shape: ModelShape) -> float:
    """Return the peak bytes of `bullet train` for three steps and a validation of exact and rounded weights, computed as in a long run."""
    with tempfile.TemporaryDirectory() as name:
        command, _ = bullet_train(Path(name), shape, "memory", "--total-steps=3", "--eval-every-steps=2", "--compile=on")
        most = 0
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                most = max(most, largest_size(process.pid) or 0)
                time.sleep(0.1)
        if process.returncode:
            sys.exit(f"bullet train ended with exit code {process.returncode}")
        return most


def time_to_first_step(shape: ModelShape) -> tuple[float, float]:
    """Return the seconds from the start of `bullet train` to its first line of metrics, with an empty cache and with a filled one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
        environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
        times = []
        for run in ("cold", "warm"):
            command, metrics = bullet_train(folder, shape, run, "--total-steps=120000")
            start = time.perf_counter()
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            while process.poll() is None and not (metrics.exists() and '"train"' in metrics.read_text()):
                time.sleep(0.05)
            times.append(time.perf_counter() - start)
            if process.poll():
                sys.exit(f"bullet train ended with exit code {process.returncode}")
            process.terminate()
            process.wait()
        return times[0], times[1]


def compare_losses(steps: int, seeds: int, tokens_dir: Path, shape: ModelShape, plans: list[ComputePlan]) -> dict[str, np.ndarray]:
    """Train in every precision from the same seeds on a run's tokens.

    Returns:
        By precision (seeds, steps + 1): the loss of every step, then the held-out loss of the last weights in FP32, in nats per token.
    """
    index = json.loads((tokens_dir / "index.json").read_text())
    shape = dataclasses.replace(shape, vocab_size=index["vocab_size"])
    config = TrainConfig(batch_size_per_device=8, gradient_accumulation_steps=1)
    results: dict[str, list[list[float]]] = {plan.precision: [] for plan in plans}
    for seed in range(42, 42 + seeds):
        for plan in plans:
            state = initial_state(config, shape, seed, torch.device("cpu"))
            compute = set_up(dataclasses.replace(plan, micro_batch=8), state.model)
            windows = TrainingWindows(open_tokens(tokens_dir, "train"), shape.max_seq_len, seed)
            losses = []
            for step in range(steps):
                share = min(1.0, (step + 1) / (0.1 * steps)) * min(1.0, 2 * (steps - step) / steps)
                set_learning_rate(state.optimizers, share)
                losses.append(accumulate(config, windows, step, compute))
                clip(state, config.clip_grad_norm)
                update(state)
            nats, count = validate(state.model, open_tokens(tokens_dir, "val"), 8)
            results[plan.precision].append([*losses, nats / count])
            print(f"seed {seed}, {plan.precision}: held-out loss {nats / count:.4f}", flush=True)
            if plan is not plans[0] and seed == 42:
                shares = gradient_noise(state.model, [windows.batch(8 * (steps + n), 8) for n in range(12)], plans[0], plan)
                most = max(shares, key=lambda name: shares[name])
                middle = statistics.median(shares.values())
                print(f"its error in gradients: {middle:.2%} of the variance between batches, at most {shares[most]:.2%}: {most}")
    return {name: np.array(each) for name, each in results.items()}


def gradient_noise(
    model: Transformer, batches: list[tuple[torch.Tensor, torch.Tensor]], exact: ComputePlan, other: ComputePlan
) -> dict[str, float]:
    """Return for every weight the squared error of the gradient with `other`, as a share of the gradient's variance between batches."""
    found: dict[str, list[dict[str, torch.Tensor]]] = {}
    for plan in (exact, other):
        compute = set_up(dataclasses.replace(plan, micro_batch=len(batches[0][0])), model)
        compute.load_weights()
        found[plan.precision] = []
        for tokens, targets in batches:
            model.zero_grad()
            compute.accumulate_gradients(tokens, targets, tokens.numel())
            found[plan.precision].append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    shares = {}
    for name, _ in model.named_parameters():
        true, rounded = (torch.stack([each[name] for each in found[plan.precision]]) for plan in (exact, other))
        shares[name] = float((rounded - true).pow(2).sum() / len(batches) / true.var(0).sum())
    return shares


def report_losses(losses: dict[str, np.ndarray]) -> tuple[list[dict[str, Any]], float]:
    """Print the differences between the precisions over pairs of the same seed; return the rows and the held-out difference in sd."""
    (first, exact), *others = losses.items()
    rows, distance = [], 0.0
    spread = float(exact[:, -1].std(ddof=1))
    print(f"{f'{first}, held-out':<52}{exact[:, -1].mean():>10.4f}   sd over seeds {spread:.4f}")
    for name, each in others:
        apart = each - exact
        tenth = max(1, (apart.shape[1] - 1) // 10)
        parts = {"held-out": apart[:, -1], "all steps": apart[:, :-1].mean(1), "the last tenth": apart[:, -1 - tenth : -1].mean(1)}
        for part, values in parts.items():
            mean, error = float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)
            rows.append({"name": f"{name} - {first}, {part}", "nats": mean, "standard_error": error, "sd_of_seeds": spread})
            print(f"{f'{name} - {first}, {part}':<52}{mean:>+10.4f} +- {error:.4f}")
        distance = abs(float(apart[:, -1].mean())) / spread
    return rows, distance


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="default: all cores")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--eager", action="store_true", help="do not compile, neither our model nor the peers")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--keep-denormals", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument(
        "--precision", choices=("bf16", "int8"), help="besides fp32; default: the types that this processor supports in hardware"
    )
    parser.add_argument("--recipe", help="configuration or recipe whose complete steps are measured")
    parser.add_argument("--to-loss", type=float, metavar="NATS", help="with --recipe and --tokens: time to this held-out loss")
    parser.add_argument("--losses", type=int, metavar="STEPS")
    parser.add_argument("--seeds", type=int, default=4, help="number of seeds of --losses, at least 2")
    parser.add_argument("--tokens", type=Path, help="folder tokens/ of a run, for --losses and --recipe")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds: at least 2, or nothing is known of chance")
    if arguments.losses and not arguments.tokens:
        parser.error("--losses needs --tokens: the folder tokens/ of a run")
    if arguments.to_loss and not (arguments.recipe and arguments.tokens):
        parser.error("--to-loss needs --recipe, and --tokens: the folder tokens/ of a run")
    if arguments.run and not (arguments.run / "export" / "npy").is_dir():
        parser.error(f"--run={arguments.run}: no finished run; name one like runs/demo")

    keep_memory()
    torch.set_flush_denormal(not arguments.keep_denormals)
    machine = inspect_machine()
    shape, rounds = (SMALL_SHAPE, 2) if arguments.quick else (SEED_SHAPE, arguments.rounds)
    run = Run(None, np.empty(0))
    if arguments.run:
        shape, weights, _, _ = read_npy(arguments.run / "export" / "npy")
        run = Run(weights, open_tokens(arguments.run / "tokens", "train").tokens)
    threads = 1 if arguments.cpu_time else arguments.threads or machine.cores
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    if arguments.recipe:
        return measure_whole_steps(arguments, threads, clock, machine.has_bf16, machine.compiler is not None)
    graphs = (False,) if arguments.eager or arguments.quick or machine.compiler is None else (True, False)
    fast: list[PlanPrecision] = (
        [arguments.precision] if arguments.precision else ["bf16"] * machine.has_bf16 + ["int8"] * (why_not() is None)
    )
    precisions: list[PlanPrecision] = ["fp32", *fast]
    ways = [(graph, p) for p in precisions for graph in (graphs if p != "int8" else (False,))]
    plans = [ComputePlan(graph, p, threads, arguments.micro_batch) for graph, p in ways]
    chosen = next(plan for plan in plans if plan.precision == precisions[-1])
    check_against_transformers(shape, plans)

    jobs = {f"ours: {plan}": our_job(shape, plan, run) for plan in plans}
    jobs |= {f"GEMM only, {p}": gemm_job(shape, arguments.micro_batch, threads, p) for p in precisions}
    jobs |= peers(shape, arguments.micro_batch, threads, graphs, (True, False) if machine.has_bf16 else (False,), run)
    seconds = in_turns(jobs, rounds, clock)
    tokens = arguments.micro_batch * shape.max_seq_len
    speeds = {name: tokens / each for name, each in seconds.items()}
    floors = {p: speeds[f"GEMM only, {p}"] for p in precisions}

    # Measure our fastest and the fastest peer again with more sequences per pass.
    others = [name for name in speeds if not name.startswith(("ours", "GEMM"))]
    best_of_ours = max(plans, key=lambda plan: speeds[f"ours: {plan}"])
    best_of_others = max(others, key=lambda name: speeds[name])
    for sequences in () if arguments.quick else (2 * arguments.micro_batch, 4 * arguments.micro_batch):
        wider = dataclasses.replace(best_of_ours, micro_batch=sequences)
        theirs = peers(shape, sequences, threads, graphs, (True, False) if machine.has_bf16 else (False,), run, best_of_others)
        more = {f"ours: {wider}": our_job(shape, wider, run)}
        more |= {f"{name}, {sequences} sequences a pass": job for name, job in theirs.items()}
        floor = f"GEMM only, {best_of_ours.precision}"
        more[floor] = gemm_job(shape, sequences, threads, best_of_ours.precision)
        found = {name: sequences * shape.max_seq_len / each for name, each in in_turns(more, rounds, clock).items()}
        floors[best_of_ours.precision] = max(floors[best_of_ours.precision], found.pop(floor))
        speeds |= found
    speeds |= {f"GEMM only, {p}": floor for p, floor in floors.items()}
    rows: list[dict[str, Any]] = [{"name": name, "tokens_per_s": speed} for name, speed in speeds.items()]
    ours = max(speed for name, speed in speeds.items() if name.startswith("ours"))
    best_peer = max(speed for name, speed in speeds.items() if not name.startswith(("ours", "GEMM")))
    print(f"\n{'a pass forward and backward':<64}{'tokens/s':>10}" + "".join(f"{f'of the {p} GEMMs':>20}" for p in precisions))
    for name, speed in sorted(speeds.items(), key=lambda item: -item[1]):
        print(f"{name:<64}{speed:>10,.0f}" + "".join(f"{speed / floors[p]:>20.0%}" for p in precisions))

    once = extras(shape, best_of_ours, rounds, clock)
    step = SEQUENCES * shape.max_seq_len / ours + once["AdamW and average"] + once["clipping"] + once.get("rounding the weights to int8", 0)
    print(f"\nonce per step of {SEQUENCES} sequences")
    for name, each in once.items():
        rows.append({"name": name, "seconds": each, "share": each / step})
        print(f"{name:<30}{each * 1e3:>8.1f} ms{each / step:>8.1%} of the step")

    bars: list[dict[str, Any]] = []

    def bar(name: str, value: float, target: float, at_least: bool = True) -> None:
        bars.append({"name": name, "value": value, "target": target, "pass": bool(value >= target if at_least else value <= target)})

    bar("ours / best peer", ours / best_peer, 1.6)
    for p in precisions:
        fastest = max(speed for name, speed in speeds.items() if name.startswith(f"ours: {p},"))
        bar(f"ours in {p} / the GEMMs in {p}", fastest / floors[p], 0.65)
    bar("AdamW, clipping and average, share of a step", (once["AdamW and average"] + once["clipping"]) / step, 0.02, at_least=False)
    if "fake quantization" in once:
        bar("fake quantization, share of a step", once["fake quantization"] / step, 0.05, at_least=False)
    if arguments.memory:
        bar("peak memory, GB", measure_memory(shape) / 1e9, 1.2, at_least=False)
    if arguments.start:
        cold, warm = time_to_first_step(shape)
        bar("command to first step, nothing compiled, s", cold, 60, at_least=False)
        bar("command to first step, second time, s", warm, 15, at_least=False)
    if arguments.table:
        floats = "bf16" if "bf16" in precisions else "fp32"
        print(f"\n{'tokens/s (share of the FP GEMMs)':<36}" + "".join(f"{f'context {c}':>16}" for c in CONTEXTS))
        for size, base in TABLE.items():
            line = f"{size} ({base.n_parameters / 1e6:.1f}M parameters)"
            cells = []
            for context in CONTEXTS:
                wide = dataclasses.replace(base, max_seq_len=context)
                plan = dataclasses.replace(chosen, micro_batch=max(2 * threads, 1024 // context))
                pair = {
                    "ours": our_job(wide, plan, Run(None, np.empty(0))),
                    "GEMM": gemm_job(wide, plan.micro_batch, threads, floats),
                }
                each = in_turns(pair, max(2, rounds // 3), clock)
                speed = plan.micro_batch * context / each["ours"]
                rows.append({"name": f"{size} x {context}", "tokens_per_s": speed, "share": each["GEMM"] / each["ours"]})
                cells.append(f"{speed:>10,.0f} {each['GEMM'] / each['ours']:>5.0%}")
            print(f"{line:<36}" + "".join(cells))
    if arguments.losses:
        compared = [plans[0], chosen] if fast else [plans[0]]
        print(f"\n{arguments.losses} steps of {8 * shape.max_seq_len} tokens")
        gaps, distance = report_losses(compare_losses(arguments.losses, arguments.seeds, arguments.tokens, shape, compared))
        rows += gaps
        if fast:
            bar(f"held-out loss, {chosen.precision} from fp32, in sd of seeds", distance, 1, at_least=False)
    print()
    for b in bars:
        print(f"{'pass' if b['pass'] else 'MISS':<6}{b['name']:<44}{b['value']:>10.3g}   target {b['target']:g}")
    if arguments.json:
        about = {"processor": machine.processor, "system": platform.platform(), "cores": machine.cores, "threads": threads}
        versions = {name: installed(name) for name in ("torch", "transformers", "litgpt")}
        arguments.json.write_text(json.dumps({"machine": about, "versions": versions, "rows": rows, "bars": bars}, indent=1))
    return 0 if arguments.quick or all(b["pass"] for b in bars) else 1


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
