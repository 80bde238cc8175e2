"""`quant.auto_fix`: if a model file exceeds the limits of the report, tries what helps, the cheapest first, until they hold.

The order is: calibration on more text, 8 bits for the matrices with the largest effect, QAT. A step that gives no lower KL divergence
is undone. The steps and their results are recorded in quantization.json under "auto_fix", and the report shows them.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bulletlm.config.schema import Config, LimitsConfig
from bulletlm.data.tokens import TokenFile
from bulletlm.evaluate.report_types import FixStep
from bulletlm.files import read_json, write_json
from bulletlm.pipeline.build import BuildOptions, build_bullet, summary
from bulletlm.pipeline.qat import CALIBRATED, train_on_grid
from bulletlm.progress import Progress
from bulletlm.train.checkpoint import remove_checkpoints

FOLDER = "auto-fix"
FILES = ("model.bullet", "quantization.json", "qat.bullet", "report.json", CALIBRATED)
"""Files that a trial writes into the folder; they are removed at the end."""

MORE_TOKENS = 4
WORST_SHARE = 0.1
"""Share of the matrices that are stored with 8 bits in one step."""
EIGHT_BIT_STEPS = 3
QAT_STEPS = 200
"""Steps of QAT, if the settings have none; otherwise twice as many as they have."""


def fix_quantization(run: Path, config: Config, options: BuildOptions, text: TokenFile, held_out: TokenFile, progress: Progress) -> None:
    """Improve `run`/model.bullet, which was built with `options`, until the limits hold or nothing helps.

    Args:
        run: the run folder.
        config: its configuration.
        options: of the file that was built.
        text: training tokens.
        held_out: validation tokens.
        progress: shows bars and messages.

    Raises:
        Interrupted: as `train_on_grid`; the file that was built before stays.
        BulletError: the disk is full.
    """
    record = read_json(run / "quantization.json")
    trail: list[FixStep] = [_step("as configured", None, record, run / "model.bullet", config.report.limits, kept=True)]
    folder = run / FOLDER
    if not trail[0]["holds"]:
        undone: list[str] = []
        for action, own, changed in _trials(run, config, options, text, held_out, progress):
            # A trial contains the changes of all trials before it, also of those that were undone because they did not help alone.
            setting = " ".join([*(each for each in undone if each.partition("=")[0] != own.partition("=")[0]), own])
            progress.log(f"auto_fix: {action}")
            folder.mkdir(exist_ok=True)
            built = build_bullet(run / "export" / "npy", folder / "model.bullet", changed, progress)
            better = built["kl"] < record["kl"]
            undone = [] if better else [*undone, own]
            trail.append(_step(action, setting, built, folder / "model.bullet", config.report.limits, kept=better))
            progress.log(f"auto_fix: {summary(built)}" + ("" if better else " (not better, so this is undone)"))
            if better:
                record = read_json(folder / "quantization.json")
                os.replace(folder / "model.bullet", run / "model.bullet")
                if trail[-1]["holds"]:
                    break
        _remove(folder)
    write_json(run / "quantization.json", {**record, "auto_fix": trail})


def _trials(
    run: Path, config: Config, options: BuildOptions, text: TokenFile, held_out: TokenFile, progress: Progress
) -> Iterator[tuple[str, str, BuildOptions]]:
    """What to try next: in words, as a setting, and the options of the build. Reads quantization.json for the result of the last one."""
    quant = options.config
    folder = run / FOLDER
    tokens = min(MORE_TOKENS * quant.calibration_tokens, max(quant.calibration_tokens, len(text.tokens)))
    if quant.calibration != "gptq" or tokens > quant.calibration_tokens:
        quant = quant.model_copy(update={"calibration": "gptq", "calibration_tokens": tokens})
        changed = replace(options, config=quant, trained=None, report=folder / "quantization.json")
        yield f"calibrate on {tokens:,} tokens", f"--calibration-tokens={tokens}", changed
    types = config.weight_types()
    effects = {
        name: row.get("kl") or 0.0 for name, row in read_json(run / "quantization.json")["tensors"].items() if types.get(name) == "BQ4"
    }
    ranked = sorted(effects, key=lambda name: -effects[name])
    size = max(1, round(WORST_SHARE * len(ranked)))
    keep = list(quant.keep)
    for start in range(0, min(len(ranked), EIGHT_BIT_STEPS * size), size):
        chosen = ranked[start : start + size]
        keep += [f"{name}=BQ8" for name in chosen]
        quant = quant.model_copy(update={"keep": list(keep)})
        changed = replace(options, config=quant, trained=None, report=folder / "quantization.json")
        yield f"store {', '.join(chosen)} with 8 bits", f"--quant.keep={keep}", changed
    steps = 2 * (config.qat.steps or QAT_STEPS // 2)
    with_steps = config.model_copy(update={"quant": quant, "qat": config.qat.model_copy(update={"steps": steps})})
    folder.mkdir(exist_ok=True)
    train_on_grid(run, with_steps, text, held_out, progress, folder)
    os.replace(folder / "model.bullet", folder / "qat.bullet")
    changed = replace(options, config=quant, trained=folder / "qat.bullet", report=folder / "quantization.json")
    yield f"{steps} steps of QAT", f"--qat.steps={steps}", changed


def _step(action: str, setting: str | None, built: dict[str, Any], file: Path, limits: LimitsConfig, *, kept: bool) -> FixStep:
    holds = built["perplexity_change"] <= limits.perplexity_change and built["kl"] <= limits.kl
    return {
        "action": action,
        "setting": setting,
        "perplexity_change": built["perplexity_change"],
        "kl": built["kl"],
        "bytes": file.stat().st_size,
        "kept": kept,
        "holds": holds,
    }


def _remove(folder: Path) -> None:
    if not folder.exists():
        return
    remove_checkpoints(folder / "checkpoints")
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        shutil.rmtree(folder)
