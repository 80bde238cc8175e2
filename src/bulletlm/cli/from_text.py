"""`bullet run` and `bullet plan` for text without a configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bulletlm.cli.inputs import almost_a_configuration
from bulletlm.errors import ConfigError, DataError
from bulletlm.pipeline.recipe import TextRun, existing_recipe, make_choice, render, text_run, write_recipe
from bulletlm.progress import ConsoleProgress, Progress
from bulletlm.terminal import echo, printable, printable_json

if TYPE_CHECKING:
    from bulletlm.pipeline.auto import Choice


def recipe_for_text(
    paths: Sequence[str], flags: Sequence[str], hours: float | None, max_mb: float | None, restart: bool, progress: Progress
) -> Path:
    """The configuration of the run for files and folders of text: the one that is in its run folder, or a new one.

    Raises:
        BulletError: see `text_run`, `existing_recipe` and `make_choice`.
    """
    run = text_run(paths, flags, hours, max_mb)
    found = existing_recipe(run, restart)
    if found:
        progress.log(f"settings  {printable(str(found))}, chosen before; --restart chooses again")
        return found
    choice = _choose(paths, run, progress)
    write_recipe(run, choice)
    for line in [*choice.lines, f"settings  written to {run.recipe}; edit them and run that file to change the run"]:
        progress.log(printable(line))
    for note in choice.notes:
        progress.log(printable(f"note: {note}"), "warning")
    return run.recipe


def _choose(paths: Sequence[str], run: TextRun, progress: Progress) -> "Choice":
    """`make_choice`; of a file that was meant as a configuration, the error says why it is not one."""
    try:
        return make_choice(run, progress)
    except DataError as error:
        reason = almost_a_configuration(paths)
        raise DataError(f"{error}; {reason}" if reason else str(error)) from None


def print_choice(
    paths: Sequence[str], flags: Sequence[str], hours: float | None, max_mb: float | None, write: Path | None, *, as_json: bool
) -> None:
    """Print what `recipe_for_text` would choose; write the configuration to `write` if it is given.

    Raises:
        ConfigError: `write` exists.
    """
    if write and write.exists():
        raise ConfigError(f"{write} exists already: choose another name, for example {write.with_stem(write.stem + '-2')}")
    run = text_run(paths, flags, hours, max_mb)
    choice = _choose(paths, run, ConsoleProgress())
    if write:
        from bulletlm.files import write_text

        write_text(write, render(choice.values, choice.why, choice.lines, write))
    if as_json:
        print(printable_json({**choice.facts, "config": choice.values, "notes": choice.notes}))
        return
    target = write or run.recipe
    last = f"settings  written to {target}" if write else f"settings  `bullet run` with the same words writes them to {target} and starts"
    for line in [*choice.lines, last, *(f"note: {note}" for note in choice.notes)]:
        echo(line)
