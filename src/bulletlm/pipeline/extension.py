"""Whether a changed configuration continues the trained run in its folder: more steps, or more text (docs/training.md).

Everything else that decides the weights must be as it was. What the run needs to know later is recorded in config.json, so that an
extended run can be interrupted like any other.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from bulletlm.config.schema import Config
from bulletlm.data.tokens import read_index
from bulletlm.errors import BulletError, ConfigError
from bulletlm.files import read_json, sha256_of_file
from bulletlm.pipeline.run import Run
from bulletlm.pipeline.stage_settings import fingerprint
from bulletlm.terminal import printable
from bulletlm.train.checkpoint import list_checkpoints
from bulletlm.train.schedule import decay_start, last_step

LENGTH_SETTINGS = ("total_steps", "epochs", "patience_early_stop", "eval_every_steps")
"""Settings of train that a longer run may change."""


def find_extension(run: Run, old: Config, recorded: dict[str, Any]) -> dict[str, Any] | None:
    """What config.json records about an extension, as JSON values; None if the change is none.

    Args:
        run: the run to do, in the folder of the trained one.
        old: the configuration of the trained run.
        recorded: what config.json recorded about the trained run.

    Returns:
        "decay_start", "more_text" (`train.extend.Extension`), and if text was added now or before, "tokenizer", the SHA-256 of the
        tokenizer to keep.

    Raises:
        ConfigError: the run would not become longer; the message says from which number of steps on it would.
    """
    folder, new = run.folder, run.config
    checkpoints = list_checkpoints(folder / "checkpoints")
    before = recorded.get("sources")
    if not checkpoints or not isinstance(before, list):
        return None
    as_before = new.model_copy(
        update={
            "train": new.train.model_copy(update={name: getattr(old.train, name) for name in LENGTH_SETTINGS}),
            "data": new.data.model_copy(update={"sources": old.data.sources}),
        }
    )
    if fingerprint(as_before, before, run.augmentation, run.held_out, run.parent) != recorded.get("fingerprint"):
        return None
    hashes, old_hashes = (Counter(source["sha256"] for source in each) for each in (run.sources, before))
    if not old_hashes <= hashes:
        return None
    tokenizer = folder / "tokenizer" / "tokenizer.model"
    try:
        state = read_json(checkpoints[-1][1] / "state.json")
        position = state["position"]
        done, start = int(position["step"]), int(position.get("schedule_start", 0))
        windows = _windows(folder, old)
    except (BulletError, KeyError, TypeError, ValueError):
        return None
    earlier = recorded.get("extension")
    earlier = earlier if isinstance(earlier, dict) else {}
    begun = state.get("key") == recorded.get("fingerprint")  # otherwise the checkpoints are of before an extension that was stopped early
    more_text = hashes != old_hashes or (not begun and bool(earlier.get("more_text")))
    if not more_text and (steps := last_step(new.train, windows, 0)[0]) <= done:
        raise ConfigError(
            f"{printable(str(folder))} has trained {done:,} steps, and these settings end at {steps:,}: give more, for example "
            f"--total-steps={2 * done}, or give this run another name (--name={new.name}-2)"
        )
    lowered = decay_start(old.train, last_step(old.train, windows, start)[0] - start)
    at = None if lowered is None else start + lowered
    found: dict[str, Any] = {"decay_start": at if begun or not earlier else earlier.get("decay_start"), "more_text": more_text}
    if "tokenizer" in earlier:  # the text has grown before, so a tokenizer that is trained on it would be another one
        found["tokenizer"] = earlier["tokenizer"]
    elif more_text:
        if not tokenizer.is_file():
            return None
        found["tokenizer"] = sha256_of_file(tokenizer)
    return found


def _windows(folder: Path, config: Config) -> int:
    """Training sequences of the text as it was."""
    tokens, length = int(read_index(folder / "tokens")["train"]["tokens"]), config.model.max_seq_len
    return (tokens - length) // length


def kept_tokenizer(folder: Path, extension: dict[str, Any] | None) -> bytes | None:
    """The tokenizer that a run with more text keeps, because its weights know no other; None for a run that trains its own.

    Raises:
        BulletError: the file has changed.
    """
    if not extension or "tokenizer" not in extension:
        return None
    path = folder / "tokenizer" / "tokenizer.model"
    if not path.is_file() or sha256_of_file(path) != extension["tokenizer"]:
        raise BulletError(f"{path} is not the tokenizer of the trained model: restore it from a copy, or train again with --restart")
    return path.read_bytes()
