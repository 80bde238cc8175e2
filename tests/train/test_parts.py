"""Tests schedule, EMA, optimizers and batches against their formulas."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from bulletlm.config.schema import TrainConfig
from bulletlm.data.tokens import open_tokens
from bulletlm.errors import DataError
from bulletlm.shape import ModelShape
from bulletlm.train.batches import TrainingWindows, validation_batches, window
from bulletlm.train.ema import EMA
from bulletlm.train.model import IGNORE, Transformer
from bulletlm.train.muon import Muon, orthogonalize
from bulletlm.train.optimizer import build_optimizers, optimizer_tensors, restore_optimizers
from bulletlm.train.schedule import count_steps, learning_rate, warmup_length

SHAPE = ModelShape(vocab_size=500, dim=32, n_layers=2, n_heads=2, n_kv_heads=1, hidden_dim=64, max_seq_len=16)


def test_schedule_follows_the_checklist() -> None:
    config = TrainConfig(learning_rate=5e-4, warmup_steps=1000, total_steps=120_000)
    rate = [learning_rate(config, step, 120_000) for step in range(120_000)]
    assert rate[0] == pytest.approx(1e-7)
    assert rate[500] == pytest.approx(1e-7 + (5e-4 - 1e-7) / 2)
    assert rate[1000] == pytest.approx(5e-4)
    assert max(rate) == pytest.approx(5e-4)
    middle = 1000 + (120_000 - 1 - 1000) / 2
    assert learning_rate(config, round(middle), 120_000) == pytest.approx((5e-4 + 1e-6) / 2, rel=1e-3)
    assert rate[-1] == pytest.approx(1e-6)
    assert all(a > b for a, b in pairwise(rate[1000:]))


def test_short_runs_still_reach_the_peak() -> None:
    config = TrainConfig(warmup_steps=1000, total_steps=50)
    assert warmup_length(config, 50) == 10
    assert max(learning_rate(config, step, 50) for step in range(50)) == pytest.approx(5e-4)
    assert learning_rate(TrainConfig(scheduler="constant", warmup_steps=0), 49, 50) == 5e-4
    assert learning_rate(TrainConfig(warmup_steps=0), 0, 1) == 5e-4


def test_noam_is_the_formula_of_the_paper() -> None:
    """lr = scale * min(step^-0.5, step * warmup^-1.5), scaled so that the peak is learning_rate."""
    config = TrainConfig(scheduler="noam", learning_rate=1e-3, warmup_start=0, warmup_steps=400, total_steps=50_000)
    for step in (1, 100, 399, 400, 401, 1600, 49_999):
        expected = 1e-3 * math.sqrt(400) * min(step**-0.5, step * 400**-1.5)
        assert learning_rate(config, step, 50_000) == pytest.approx(expected)
    assert learning_rate(config, 1600, 50_000) == pytest.approx(5e-4)
    assert learning_rate(TrainConfig(scheduler="noam", warmup_steps=0), 0, 9) == 5e-4


def test_wsd_is_stable_and_then_decays_to_the_end() -> None:
    config = TrainConfig(scheduler="wsd", learning_rate=1e-3, warmup_steps=100, decay_share=0.25, total_steps=1000)
    rate = [learning_rate(config, step, 1000) for step in range(1000)]
    assert set(rate[100:751]) == {1e-3}
    assert rate[750 + 62] == pytest.approx(1e-6 + (1e-3 - 1e-6) * (1 - (62 / 249) ** 0.5))
    assert all(a > b for a, b in pairwise(rate[750:]))
    assert rate[-1] == pytest.approx(1e-6)
    whole = TrainConfig(scheduler="wsd", decay_share=1, warmup_steps=10)
    assert learning_rate(whole, 10, 100) == 5e-4
    assert learning_rate(whole, 99, 100) == pytest.approx(1e-6)


@pytest.mark.parametrize(("steps", "epochs", "expected"), [(None, 3, 30), (12, None, 12), (12, 3, 12), (100, 3, 30), (None, 0.01, 1)])
def test_the_shorter_of_epochs_and_steps_counts(steps: int | None, epochs: float | None, expected: int) -> None:
    config = TrainConfig(total_steps=steps, epochs=epochs, batch_size_per_device=4, gradient_accumulation_steps=2)
    count, reason = count_steps(config, n_windows=80)
    assert count == expected
    assert ("shorter" in reason) == (steps is not None and epochs is not None)


@pytest.mark.parametrize(("windows", "expected"), [(8, 8), (500, 500), (800, 500), (100_000, 37_500)])
def test_by_default_a_short_text_is_read_more_often(windows: int, expected: int) -> None:
    """Three times, up to eight where the run would have fewer than 500 steps."""
    config = TrainConfig(batch_size_per_device=4, gradient_accumulation_steps=2)
    assert count_steps(config, windows)[0] == expected


def test_ema_is_the_recurrence_and_gives_the_weights_back() -> None:
    model = Transformer(SHAPE)
    model.initialize(1)
    ema = EMA(model, 0.9)
    name, weight = next(iter(model.named_parameters()))
    expected = weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            weight.add_(0.1)
        ema.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    torch.testing.assert_close(ema.average[name], expected)
    before = weight.detach().clone()
    with ema.applied(model):
        assert torch.equal(weight, ema.average[name])
    assert torch.equal(weight, before)


def test_an_average_that_starts_anew_holds_nothing_from_before() -> None:
    model = Transformer(SHAPE)
    model.initialize(1)
    ema, (name, weight) = EMA(model, 0.999), next(iter(model.named_parameters()))
    with torch.no_grad():
        weight.fill_(1000.0)
        ema.update(model, 5000)
        weight.fill_(1.0)
        ema.start = 5000
        ema.restart(model)
        weight.fill_(2.0)
        ema.update(model, 5001)
    torch.testing.assert_close(ema.average[name], torch.full_like(weight, 1 * 2 / 11 + 2 * 9 / 11))


def test_only_matrices_decay() -> None:
    model = Transformer(SHAPE)
    model.initialize(1)
    (optimizer,) = build_optimizers(model, TrainConfig(weight_decay=0.5, learning_rate=0.1))
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for name, weight in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if weight.dim() == 2 else 1
        torch.testing.assert_close(weight.detach(), start[name] * factor)


def test_adamw_is_the_papers_formula_and_its_state_can_be_carried_over() -> None:
    config = TrainConfig(learning_rate=1e-2, weight_decay=0.1)
    model, twin = Transformer(SHAPE), Transformer(SHAPE)
    model.initialize(3)
    twin.initialize(3)
    (optimizer,), (other,) = build_optimizers(model, config), build_optimizers(twin, config)
    name = "layers.1.mlp.up_proj.weight"
    weight = dict(model.named_parameters())[name]
    expected, m, v = weight.detach().double().clone(), 0.0, 0.0
    random = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=random)
            b.grad = a.grad.clone()
        assert weight.grad is not None
        g = weight.grad.double()
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        expected = expected * (1 - 1e-2 * 0.1) - 1e-2 * (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
        optimizer.step()
        if step == 3:  # copy weights and optimizer state to the twin in the middle
            with torch.no_grad():
                for a, b in zip(model.parameters(), twin.parameters(), strict=True):
                    b.copy_(a)
            restore_optimizers([other], twin, optimizer_tensors([optimizer], model), step)
        elif step > 3:
            other.step()
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_muon_updates_are_orthogonal_and_of_adamws_size() -> None:
    """Against the singular value decomposition, which Newton-Schulz approximates."""
    gradient = torch.randn(3, 24, 64, generator=torch.Generator().manual_seed(4))
    updates = orthogonalize(gradient)
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(updates.flatten(1), (u @ v).flatten(1)).min() > 0.97
    singular = torch.linalg.svdvals(updates)
    assert 0.5 < singular.min() < singular.max() < 1.3
    for rows, columns in ((24, 64), (64, 24)):
        weight = torch.nn.Parameter(torch.zeros(rows, columns))
        weight.grad = gradient[0] if rows < columns else gradient[0].T
        Muon([weight], lr=0.5, weight_decay=0.1).step()
        assert float(weight.detach().pow(2).mean().sqrt()) == pytest.approx(0.5 * 0.2, rel=0.2)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this version of torch has no Muon")
def test_muon_goes_where_torchs_goes() -> None:
    """Momentum, decay and size of the steps are the same; the polynomials are closer to 1 than torch's, which end between 0.7 and 1.2."""
    random = torch.Generator().manual_seed(2)
    shapes = [(24, 64), (64, 24), (32, 32), (24, 64)]
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9}
    optimizers = Muon(ours, **settings), torch.optim.Muon(theirs, **settings, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=random)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        moved, wanted = (weight.detach() - torch.ones_like(weight) for weight in (mine, other))
        assert torch.nn.functional.cosine_similarity(moved.flatten(), wanted.flatten(), dim=0) > 0.96
        assert 0.8 < float(moved.norm() / wanted.norm()) < 1.4


def test_muon_takes_the_layers_matrices_only_and_its_state_can_be_carried_over() -> None:
    config = TrainConfig(optimizer="muon")
    model, twin = Transformer(SHAPE), Transformer(SHAPE)
    model.initialize(3)
    optimizers, others = build_optimizers(model, config), build_optimizers(twin, config)
    assert sum(len(group["params"]) for group in optimizers[1].param_groups) == 7 * SHAPE.n_layers
    random = torch.Generator().manual_seed(0)
    for step in range(1, 4):
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=random)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        if step == 2:
            twin.load_state_dict(model.state_dict())
            restore_optimizers(others, twin, optimizer_tensors(optimizers, model), step)
        elif step == 3:
            for optimizer in others:
                optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_an_epoch_shows_every_window_once_in_a_new_order(tokens_dir: Path) -> None:
    file = open_tokens(tokens_dir, "train")
    windows = TrainingWindows(file, 16, seed=7)
    epochs = [windows.batch(epoch * windows.count, windows.count)[0].numpy() for epoch in range(2)]
    for tokens in epochs:
        stream = file.tokens.astype(np.int64)
        offset = next(o for o in range(16) if any(np.array_equal(stream[o : o + 16], row) for row in tokens))
        inside = stream[offset : offset + 16 * windows.count].reshape(-1, 16)
        assert sorted(map(tuple, inside)) == sorted(map(tuple, tokens))
    assert not np.array_equal(epochs[0], epochs[1])
    again = TrainingWindows(file, 16, seed=7).batch(windows.count, windows.count)[0].numpy()
    assert np.array_equal(again, epochs[1])
    assert not np.array_equal(TrainingWindows(file, 16, seed=8).batch(0, 50)[0], epochs[0][:50])


def test_targets_are_the_next_tokens_and_respect_learn(tokens_dir: Path) -> None:
    file = open_tokens(tokens_dir, "train")
    assert file.learn is not None
    tokens, targets = window(file, 33, 16)
    assert np.array_equal(tokens, file.tokens[33:49])
    expected = np.where(file.learn[34:50] == 1, file.tokens[34:50].astype(np.int64), IGNORE)
    assert np.array_equal(targets, expected)


def test_validation_covers_the_file_exactly_once(tokens_dir: Path) -> None:
    file = open_tokens(tokens_dir, "val")
    assert file.learn is not None
    targets = torch.cat([y.flatten() for _, y in validation_batches(file, 16, 4)])
    learned = file.tokens[1:][file.learn[1:] == 1]
    assert np.array_equal(targets[targets != IGNORE].numpy(), learned)


def test_too_little_text_is_one_clear_line(tokens_dir: Path) -> None:
    with pytest.raises(DataError, match=r"6,000 tokens, which is less than two windows of 5000"):
        TrainingWindows(open_tokens(tokens_dir, "train"), 5000, 1)


def test_initial_loss_is_that_of_a_uniform_guess() -> None:
    model = Transformer(SHAPE)
    model.initialize(1)
    tokens = torch.randint(0, 500, (8, 16), generator=torch.Generator().manual_seed(2))
    assert float(model.loss(tokens, tokens.roll(1, 1)).detach()) / tokens.numel() == pytest.approx(math.log(500), abs=0.05)
