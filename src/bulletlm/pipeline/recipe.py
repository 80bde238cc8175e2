"""The configuration that `bullet run FOLDER` writes: runs/NAME/recipe.jsonc, with comments, to be edited.

choice.json beside it records what the choice was made for. The same command then continues the run with the same recipe, and a
recipe that the user has edited is never replaced.
"""

import hashlib
import json
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bulletlm.config.loader import check_flags, load_config, parse_flags
from bulletlm.config.recipes import recipe_names
from bulletlm.data.sources import HUGGING_FACE, is_embedded, similar_path
from bulletlm.errors import ConfigError
from bulletlm.extras import require
from bulletlm.files import expand_home, sha256_of_file, write_json, write_text
from bulletlm.pipeline.run_folder import read_object, refuse_text_folder
from bulletlm.progress import Progress
from bulletlm.terminal import printable

if TYPE_CHECKING:
    from bulletlm.pipeline.auto import Choice

RECIPE, RECORD = "recipe.jsonc", "choice.json"

Values = dict[str, Any]


@dataclass(frozen=True)
class TextRun:
    """A run that was asked for by its text alone.

    Attributes:
        name: of the run: the user's choice, or the name of the folder or file of the text.
        runs_dir: folder of the runs.
        sources: paths of the text, absolute.
        given: settings from the command line, by their full names.
        hours: time for the whole run; None for the default.
        named: whether the user chose the name. Otherwise it is the name of a folder or file, which the model file must not have.
        max_mb: size of the model file in MB at most; None for no limit.
    """

    name: str
    runs_dir: Path
    sources: list[str]
    given: dict[str, Any]
    hours: float | None
    named: bool = False
    max_mb: float | None = None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.runs_dir / self.name

    @property
    def recipe(self) -> Path:
        """The configuration to write."""
        return self.folder / RECIPE


def text_run(paths: Sequence[str], flags: Sequence[str], hours: float | None, max_mb: float | None = None) -> TextRun:
    """The run for files and folders of text.

    Raises:
        ConfigError: a flag, the time or the size is not possible, or a path does not exist.
    """
    if hours is not None and not (hours > 0 and math.isfinite(hours)):
        raise ConfigError(f"--hours={hours:g}: must be more than 0")
    if max_mb is not None and not (max_mb > 0 and math.isfinite(max_mb)):
        raise ConfigError(f"--max-mb={max_mb:g}: must be more than 0")
    given = parse_flags(flags)
    if "data.sources" in given:
        raise ConfigError("--set data.sources names text, and so do the files and folders of the command: take one of the two ways")
    sources = []
    for path in paths:
        here = is_embedded(path) and not Path(path).exists()
        if here or path.startswith(HUGGING_FACE):
            sources.append(path)
            continue
        if not path.strip():
            raise ConfigError("a name is empty: give folders or files of text, and put names with spaces into quotation marks")
        place = expand_home(path)
        if not place.exists() and not any(mark in path for mark in "*?["):
            near = next(iter(get_close_matches(path, recipe_names(), n=1)), "") or similar_path(place)
            hint = f"did you mean {printable(near)}? Or " if near else ""
            raise ConfigError(
                f"there is no file or folder {printable(path)}: {hint}give folders or files of text, a configuration, or a recipe "
                f"({', '.join(recipe_names())})"
            )
        sources.append(str(place.absolute()))
    chosen = given.pop("name", None)
    name = chosen or _name(sources[0])
    runs_dir = Path(str(given.pop("runs_dir", "runs")))
    if (start := given.get("model.start_from")) is not None:
        from bulletlm.pipeline.start import locate

        model = expand_home(str(start))
        if locate(str(start), str(runs_dir), runs_dir / str(name)) == model:
            given["model.start_from"] = str(model.absolute())
    refuse_text_folder(runs_dir / str(name), sources)
    check_flags({**given, "name": str(name)})  # reports a mistake before anything is read
    return TextRun(name=str(name), runs_dir=runs_dir, sources=sources, given=given, hours=hours, named=bool(chosen), max_mb=max_mb)


def existing_recipe(run: TextRun, restart: bool) -> Path | None:
    """The recipe in the run folder, if this run shall continue with it; None if one must be chosen.

    Raises:
        ConfigError: the folder holds a run of other text, or for another time, or a recipe that was edited.
    """
    other = f"give this one another name, for example --name={printable(run.name)}-2"
    shown = printable(str(run.folder))
    if not run.recipe.exists():
        if (run.folder / "config.json").exists() or (run.folder / "checkpoints").exists():
            raise ConfigError(f"{shown} holds a run of another configuration: {other}")
        return None
    record = read_object(run.folder / RECORD) if (run.folder / RECORD).exists() else {}
    if record.get("sources") != run.sources:
        raise ConfigError(
            f"{shown} holds a run of other text: {other}, or, to train that run further with more text, add the text to data.sources in "
            f"{printable(str(run.recipe))} and run that file"
        )
    written = sha256_of_file(run.recipe)
    if written == record.get("replaces") and written != record.get("recipe"):
        return None  # the program was killed before it had written the new recipe
    as_before = {"hours": run.hours, "given": run.given or None, "max_mb": run.max_mb}
    same = all(value is None or value == record.get(name) for name, value in as_before.items())
    edited = written != record.get("recipe")
    if not restart and same:
        return run.recipe
    if edited:
        command = f"bullet run {shlex.quote(printable(str(run.recipe)))}"
        raise ConfigError(f"{printable(str(run.recipe))} was edited: run it with `{command}`, or {other}")
    if not restart and (run.folder / "checkpoints").exists():
        raise ConfigError(
            f"{shown} holds a run with other settings: repeat its command without --hours, --max-mb and settings to continue it, "
            f"{other}, or train from the beginning with --restart"
        )
    return None


def make_choice(run: TextRun, progress: Progress) -> "Choice":
    """Look at the text and measure this machine; returns the `auto.Choice`.

    Raises:
        MissingExtra: this installation cannot train.
    """
    require("train", "making a model")
    from bulletlm.hardware import park_idle_threads

    park_idle_threads()
    choice = _choose(run, progress)
    return choice if run.named or "model_name" in run.given else with_model_name(choice)


def _choose(run: TextRun, progress: Progress) -> "Choice":
    """The choice: from a model, or from random weights."""
    from bulletlm.pipeline.auto import DEFAULT_HOURS, Request, choose, learn_vocabulary, look_at_text, measure_speed, wanted_vocabulary
    from bulletlm.pipeline.auto_start import choose_from, find_base, scratch_is_better, use_vocabulary

    hours = run.hours or DEFAULT_HOURS
    seed = int(run.given.get("seed", 42))
    found = look_at_text(run.sources, run.given, seed, progress)
    base, reason = find_base(run.given, found, run.max_mb, run.folder)
    speed = measure_speed(progress)
    request = Request(name=run.name, sources=run.sources, speed=speed, hours=hours, given=run.given, max_mb=run.max_mb)
    if base:
        text = use_vocabulary(found, base.tokenizer)
        request = replace(request, spent=_seconds_so_far())
        choice = choose_from(request, text, base, reason)
        if choice and (base.asked or not scratch_is_better(choice, request, text)):
            return choice
        if base.asked:
            raise ConfigError(
                f"--hours={hours:g} is too short to train {printable(base.where)}, which has {base.shape.n_parameters:,} parameters, on "
                "this machine: give more time, or start from random weights with a smaller model (--from none)"
            )
        better = "a larger model from random weights is expected to be better with so much text and time"
        short = "the time is too short for the size of that model on this machine"
        reason = f"and not the model {base.where}, because {better if choice else short}"
    text = learn_vocabulary(found, wanted_vocabulary(found.characters, speed, hours), seed, progress)
    choice = choose(replace(request, spent=_seconds_so_far()), text)
    if reason:
        choice.lines.insert(2, f"start     random weights, {reason}")
    return choice


def with_model_name(choice: "Choice") -> "Choice":
    """The choice with a name for the model that says its size, because the run has the name of a folder, which may be private."""
    from bulletlm.formats.gguf import size_label

    name, values = choice.values["name"], {key: value for key, value in choice.values.items() if key != "name"}
    values = {"name": name, "model_name": f"bulletlm-{size_label(choice.facts['parameters'])}", **values}
    return replace(choice, values=values, why={**choice.why, "model_name": "written into the model file; the name of the run is not"})


def _seconds_so_far() -> float:
    """Seconds since this process was started."""
    return time.time() - float(psutil.Process().create_time())


def planned_seconds(folder: Path, steps: int | None) -> float | None:
    """Seconds that the choice for text expected of the training; None if the run has no choice, or its recipe has other steps now."""
    record = read_object(folder / RECORD) if (folder / RECORD).exists() else {}
    choice = record.get("choice")
    if not isinstance(choice, dict) or choice.get("steps") != steps:
        return None
    seconds = choice.get("seconds")
    training = seconds.get("training") if isinstance(seconds, dict) else None
    return float(training) if isinstance(training, int | float) else None


def write_recipe(run: TextRun, choice: "Choice") -> None:
    """Write recipe.jsonc and choice.json into the run folder.

    Raises:
        BulletError: the folder is not writable.
    """
    from bulletlm.pipeline.auto import DEFAULT_HOURS

    values = dict(choice.values)
    if run.runs_dir != Path("runs"):
        values = {"name": values.pop("name"), "runs_dir": str(run.runs_dir), **values}
    text = render(values, choice.why, choice.lines, run.recipe)
    record: dict[str, Any] = {
        "sources": run.sources,
        "hours": run.hours or DEFAULT_HOURS,
        "given": run.given,
        **({"max_mb": run.max_mb} if run.max_mb is not None else {}),
        "recipe": hashlib.sha256(text.encode()).hexdigest(),
        "choice": choice.facts,
    }
    # The record is written first: after a kill between the two, the recipe is missing, or it is the one that the record replaces.
    replaces = sha256_of_file(run.recipe) if run.recipe.exists() else None
    write_json(run.folder / RECORD, {**record, "replaces": replaces})
    write_text(run.recipe, text)
    write_json(run.folder / RECORD, record)
    load_config(run.recipe)


def render(values: Mapping[str, Any], why: Mapping[str, str], lines: Sequence[str], path: Path) -> str:
    """A configuration with comments: the choice in words, then the settings with the reason beside each."""
    head = [
        "// Chosen by `bullet run` for this text, this machine and this time. Edit it as you like, then run it:",
        f"//   bullet run {shlex.quote(printable(str(path)))}",
        "// All settings: docs/settings.md or `bullet init`.",
        "//",
        *(f"// {printable(line)}" for line in lines),
    ]
    return "\n".join([*head, *_object(values, why, "", "")]) + "\n"


def _object(values: Mapping[str, Any], why: Mapping[str, str], path: str, indent: str) -> list[str]:
    rows = ["{"]
    for number, (name, value) in enumerate(values.items()):
        full = f"{path}{name}"
        comma = "," if number < len(values) - 1 else ""
        reason = f"  // {printable(why[full])}" if full in why else ""
        if isinstance(value, dict):
            first, *rest = _object(value, why, f"{full}.", indent + "  ")
            rows.append(f'{indent}  "{name}": {first}{reason}')
            rows += [*rest[:-1], rest[-1] + comma]
        else:
            rows.append(f'{indent}  "{name}": {json.dumps(value, ensure_ascii=False)}{comma}{reason}')
    return [*rows, f"{indent}}}"]


def _name(source: str) -> str:
    """A name for the run, from the folder or file of its text."""
    path = Path(source.removeprefix(HUGGING_FACE))
    stem = path.name if path.is_dir() or not path.suffix else path.name.partition(".")[0]
    name = "".join(c if c.isprintable() and c not in "*?[]\"'" else "-" for c in stem).strip(" .-")[:100]
    return name or "model"
