"""Runs the stages in order, each only if it is not up to date.

stages.json records a hash of the settings and inputs of each stage, and the SHA-256 of its outputs. A stage whose settings, inputs
and outputs are unchanged does not run again.
"""

import contextlib
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulletlm import __version__
from bulletlm.config.schema import Config
from bulletlm.errors import BulletError, Interrupted
from bulletlm.extras import require
from bulletlm.files import sha256_of_json, write_json
from bulletlm.pipeline.limits import refuse_too_large, require_sources
from bulletlm.pipeline.run import Run
from bulletlm.pipeline.run_folder import STAGES_FILE, WrittenFiles, locked, read_object
from bulletlm.pipeline.run_log import LoggedProgress
from bulletlm.pipeline.run_record import config_record, protect_trained_model, run_of_config, run_of_folder
from bulletlm.pipeline.stages import stages_of
from bulletlm.progress import Progress
from bulletlm.terminal import printable

if TYPE_CHECKING:
    from bulletlm.pipeline.start import Parent
    from bulletlm.train.distributed.group import ProcessGroup


def run_stages(config: Config, until: str, progress: Progress, *, restart: bool = False, group: "ProcessGroup | None" = None) -> Run:
    """Bring every stage up to and including `until` up to date.

    Args:
        config: the configuration of the run.
        until: name of the last stage to run.
        progress: shows bars and messages.
        restart: delete the checkpoints and train from the beginning.
        group: processes that wait to take part in training; this one leads them.

    Raises:
        MissingExtra: this installation cannot train.
        ConfigError: the run folder holds a model trained with other settings, or a file that the run did not write is in the way, or
            another process is using the folder.
        Interrupted: a signal or a file `stop` ended a stage; the message says what is kept.
        BulletError: a stage failed; the outputs of earlier stages remain.
    """
    require_sources(config)
    require("train", "making a model")
    config, parent = _resolve(config, progress)
    refuse_too_large(config.model.shape(config.tokenizer.vocab_size), config.train)
    run = run_of_config(config, progress, restart, group, parent)
    _make_folder(run.folder)
    with locked(run.folder), _logged(run) as logged:
        run = replace(run, extension=protect_trained_model(logged, restart))
        try:
            _update_stages(replace(logged, extension=run.extension), until)
        except Interrupted as stopped:
            raise (Interrupted(f"{stopped}, without --restart") if restart else stopped) from None
    return run


def finish_run(folder: Path, settings: Sequence[str], progress: Progress) -> Run:
    """Run the stages after training again, with other settings, in the folder of a trained run. The sources are not read.

    Args:
        folder: the run folder.
        settings: options as on the command line, such as "--qat.steps=300".
        progress: shows bars and messages.

    Raises:
        BulletError: see `run_stages`; or `folder` is not a run folder.
    """
    require("train", "training the 4-bit weights")
    run = run_of_folder(folder, settings, progress)
    with locked(folder), _logged(run) as logged:
        run = replace(run, extension=protect_trained_model(logged, restart=False))
        _update_stages(replace(logged, extension=run.extension), "evaluate", given=("start", "data", "tokenizer", "tokens", "train"))
    return run


def _resolve(config: Config, progress: Progress) -> "tuple[Config, Parent | None]":
    """The configuration with what the model in model.start_from decides, and that model; without one, nothing is imported or changed."""
    if config.model.start_from is None:
        return config, None
    from bulletlm.pipeline.start import resolve

    return resolve(config, progress)


@contextlib.contextmanager
def _logged(run: Run) -> Iterator[Run]:
    """The run with a progress that also writes log.txt, which receives the error that ends the block too."""
    progress = LoggedProgress(run.progress, run.folder)
    progress.log(f"BulletLM {__version__}, Python {platform.python_version()}, {platform.platform()}", "debug")
    with progress.errors():
        yield replace(run, progress=progress)


def _update_stages(run: Run, until: str, given: tuple[str, ...] = ()) -> None:
    """Run every stage up to `until` that is not up to date. The stages in `given` must be finished; their settings do not matter."""
    stages = stages_of(run)
    done = _read_stages(run.folder / STAGES_FILE, stages)
    written = WrittenFiles(run.folder, [pattern for stage in stages.values() if stage.checked for pattern in stage.files])
    write_json(run.folder / "config.json", config_record(run))
    for name in stages:
        try:
            _update_stage(run, name, done, written, given=name in given)
        except KeyboardInterrupt:
            raise Interrupted(_how_to_continue(run, name)) from None
        if name == until:
            break


def _update_stage(run: Run, name: str, done: dict[str, Any], written: WrittenFiles, *, given: bool) -> None:
    """Run a stage if it is not up to date. `done` are the records of finished stages, which it updates, also in stages.json."""
    stages, stages_file = stages_of(run), run.folder / STAGES_FILE
    stage = stages[name]
    key = sha256_of_json({"settings": stage.settings(run), "inputs": [done[i]["outputs"] for i in stage.inputs]})
    record = done.get(name)
    unchanged = record and stage.output_hashes(run.folder) == record["outputs"]
    if given:
        if not unchanged:
            raise BulletError(f"{run.folder} holds no trained model: the stage {name} is missing or changed; run its configuration")
        return
    if record and unchanged and record["key"] == key:
        run.progress.log(f"{stage.title}: up to date")
        return
    if name == "data" and run.missing_source:
        raise run.missing_source
    names = list(stages)
    for later in names[names.index(name) :]:
        done.pop(later, None)
    if stage.checked:
        written.begin(name, stage.files, run.progress)
    write_json(stages_file, done)
    run.progress.log(f"{stage.title}: {_why(record, unchanged)}", "debug")
    started = time.monotonic()
    stage.work(run)
    run.progress.log(f"{stage.title}: finished in {time.monotonic() - started:.1f} s", "debug")
    record = {"key": key, "outputs": stage.output_hashes(run.folder)}
    if stage.checked:
        written.finish(name, stage.files, record["outputs"])
    done[name] = record
    write_json(stages_file, done)


def _how_to_continue(run: Run, name: str) -> str:
    """What is kept when a signal stops the stage `name`, and how to go on."""
    names = list(stages_of(run))
    finished = names[: names.index(name)]
    if not finished:
        return f"stopped in the stage {name}, before a stage was finished: run the same command again"
    kept = f"the finished stages ({', '.join(finished)})"
    if name == "train" and (run.folder / "checkpoints").is_dir():
        kept += " and the checkpoints"
    return f"stopped in the stage {name}; {kept} are kept in {printable(str(run.folder))}: run the same command again to continue"


def _why(record: Any, unchanged: bool | None) -> str:
    """Why a stage runs."""
    if not record:
        return "runs, because it has not finished before"
    return (
        "runs again, because its settings or inputs have changed" if unchanged else "runs again, because its files are missing or changed"
    )


def _read_stages(path: Path, stages: Iterable[str]) -> dict[str, Any]:
    """The records of the finished stages, up to the first stage that has none."""
    records = read_object(path) if path.exists() else {}
    done: dict[str, Any] = {}
    for name in stages:
        record = records.get(name)
        if record is None:
            break
        if not isinstance(record, dict) or not isinstance(record.get("outputs"), dict) or not isinstance(record.get("key"), str):
            raise BulletError(f"{path} is damaged: the entry {name} has no key and outputs; delete the file and run again")
        done[name] = record
    return done


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BulletError(f"cannot make the run folder {folder}: {error.strerror}; choose another with --runs-dir=FOLDER") from None
