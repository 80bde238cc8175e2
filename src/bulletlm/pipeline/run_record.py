"""What config.json of a run folder records about the run, and what follows from it for the next run in this folder."""

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bulletlm import __version__
from bulletlm.config.loader import RECORD_KEY, load_run_config
from bulletlm.config.messages import format_value
from bulletlm.config.schema import Config
from bulletlm.data.augment import reproducibility_fields
from bulletlm.data.sources import find_held_out, identify_source, source_files, unicode_name
from bulletlm.errors import BulletError, ConfigError, DataError
from bulletlm.pipeline.run import Run
from bulletlm.pipeline.run_folder import OUTPUT_FOLDERS, read_object, refuse_own_outputs, refuse_text_folder
from bulletlm.pipeline.stage_settings import fingerprint
from bulletlm.progress import Progress
from bulletlm.terminal import printable

if TYPE_CHECKING:
    from bulletlm.pipeline.start import Parent
    from bulletlm.train.distributed.group import ProcessGroup


def read_record(folder: Path) -> dict[str, Any]:
    """The versions, sources and fingerprint that config.json of a run folder recorded; empty if there are none."""
    path = folder / "config.json"
    recorded = read_object(path).get(RECORD_KEY) if path.exists() else None
    return recorded if isinstance(recorded, dict) else {}


def config_record(run: Run) -> dict[str, Any]:
    """The contents of config.json for a run: the complete configuration, versions of the software, and the sources."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("torch", "numpy", "sentencepiece", "safetensors")}
    recorded = {
        "bulletlm": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **packages,
        "fingerprint": run.fingerprint,
        "sources": run.sources,
        **({"augmentation": run.augmentation} if run.augmentation else {}),
        **({"held_out": list(run.held_out)} if run.held_out else {}),
        **({"extension": run.extension} if run.extension else {}),
    }
    return {**run.config.model_dump(mode="json"), RECORD_KEY: recorded}


def is_run_folder(folder: Path) -> bool:
    """Whether a run has written `folder`."""
    return (folder / "config.json").is_file() and bool(read_record(folder))


def run_of_config(config: Config, progress: Progress, restart: bool, group: "ProcessGroup | None", parent: "Parent | None") -> Run:
    """The run with the present sources; if they no longer exist, with the sources that the run folder recorded.

    Raises:
        ConfigError: config.json in the run folder was not written by a run, or a source lies where the run writes its files.
        DataError: a source cannot be read, and the run folder does not record the sources, or the checkpoints would be deleted.
    """
    recorded = read_record(config.run_dir)
    if (config.run_dir / "config.json").exists() and not recorded:
        raise ConfigError(
            f"{config.run_dir / 'config.json'} was not written by a run and would be overwritten: move it to another place, or give "
            "this run another --name"
        )
    problem: DataError | None = None
    try:
        text = _present_text(config)
    except DataError as error:
        problem = error
    else:
        if not restart and (gone := _gone(text.sources, recorded)):
            problem = DataError(f"the source {printable(gone)} no longer exists: restore it, or train without it with --restart")
    if problem:
        if restart or not isinstance(recorded.get("sources"), list):
            raise problem
        progress.log(f"note: {problem} (the finished stages of {printable(str(config.run_dir))} are used)", "warning")
        text = _Text(recorded["sources"], recorded.get("augmentation"), recorded.get("held_out", []))
    return Run(
        config=config,
        fingerprint=fingerprint(config, text.sources, text.augmentation, text.held_out, parent),
        sources=text.sources,
        augmentation=text.augmentation,
        held_out=text.held_out,
        progress=progress,
        group=group,
        missing_source=problem,
        parent=parent,
    )


class _Text(NamedTuple):
    """What a run records about its text; the parts are those of `Run`."""

    sources: list[dict[str, Any]]
    augmentation: dict[str, Any] | None
    held_out: list[str]


def _present_text(config: Config) -> _Text:
    """The text as it is now.

    Raises:
        ConfigError: a source lies where the run writes its files.
        DataError: a file does not exist or cannot be read.
    """
    refuse_text_folder(config.run_dir, [source.path for source in config.data.sources])
    try:
        labels = source_files(config.data)
        refuse_own_outputs(config.run_dir, labels, OUTPUT_FOLDERS)
        sources = []
        for path, label in labels.items():
            size, sha256 = identify_source(path)
            sources.append({"path": unicode_name(str(path)), "label": label, "bytes": size, "sha256": sha256})
        held_out = [identify_source(file.path)[1] for file in find_held_out(config.data)[0]]
        return _Text(sources, reproducibility_fields(config.augment), held_out)
    except OSError as error:
        raise DataError(f"cannot read the source {printable(str(error.filename))}: {error.strerror}") from None


def _gone(sources: list[dict[str, Any]], recorded: dict[str, Any]) -> str | None:
    """A source that the run folder recorded and that no longer exists, if there is no other difference to `sources`."""
    before = recorded.get("sources")
    if not isinstance(before, list) or not all(isinstance(source, dict) and "path" in source for source in before):
        return None
    present = {source["path"] for source in sources}
    gone = [source for source in before if source["path"] not in present and not Path(source["path"]).exists()]
    rest = [source for source in before if source not in gone]
    # Without a source, others can have another label; earlier versions recorded none.
    same = [{**source, "label": ""} for source in rest] == [{**source, "label": ""} for source in sources]
    return str(gone[0]["path"]) if gone and same else None


def run_of_folder(folder: Path, settings: Sequence[str], progress: Progress) -> Run:
    """The run that wrote `folder`, with other settings for the stages after training. The sources are not read.

    Args:
        folder: the run folder.
        settings: options as on the command line, such as "--qat.steps=300".
        progress: shows bars and messages.

    Raises:
        BulletError: `folder` is not a run folder, or the model from which the run started is missing there.
        ConfigError: a setting is wrong.
    """
    if not (folder / "config.json").is_file():
        raise BulletError(f"{folder} is not a run folder, because it has no config.json: give a folder such as runs/demo")
    recorded = read_record(folder)
    if not {"fingerprint", "sources"} <= set(recorded):
        raise BulletError(f"{folder / 'config.json'} was not written by a run: run its configuration with `bullet run`")
    config = load_run_config(folder, settings)
    parent = None
    if config.model.start_from is not None:
        from bulletlm.pipeline.start import read_copy

        parent = read_copy(folder)
    return Run(
        config=config,
        fingerprint=recorded["fingerprint"],
        sources=recorded["sources"],
        augmentation=recorded.get("augmentation"),
        held_out=recorded.get("held_out", []),
        progress=progress,
        parent=parent,
    )


def protect_trained_model(run: Run, restart: bool) -> dict[str, Any] | None:
    """Refuse to overwrite a model that was trained with other settings, except to train it longer or on more text.

    Returns:
        How the run continues another one (`extension.find_extension`); None if it does not.

    Raises:
        ConfigError: there is a model with other settings, and `restart` is false.
    """
    checkpoints = run.folder / "checkpoints"
    if not (run.folder / "config.json").exists() or not checkpoints.exists():
        return None
    if restart:
        from bulletlm.evaluate.prompts import load_prompts
        from bulletlm.train.checkpoint import remove_checkpoints

        load_prompts(run.config.evaluate.prompts)  # training reads them: a mistake there must not cost the checkpoints
        if others := remove_checkpoints(checkpoints):
            run.progress.log(
                f"{printable(str(checkpoints))}: files that are not from this run stay: {printable(', '.join(others))}", "warning"
            )
        return None
    old, recorded = read_object(run.folder / "config.json"), read_record(run.folder)
    if recorded.get("fingerprint") == run.fingerprint:
        extension = recorded.get("extension")
        return extension if isinstance(extension, dict) else None
    if found := _find_extension(run, recorded):
        what = "more text" if found["more_text"] else "another number of steps"
        run.progress.log(f"the training in {printable(str(run.folder))} is continued with {what}")
        return found
    new = run.config.model_dump(mode="json")
    changed = list(_differences(old, new)) or ["the source files" + (" or the model that it starts from" if run.parent else "")]
    same_shape = all(not change.startswith(("model.", "tokenizer.")) for change in changed)
    onwards = f", start a new run from it (--name={run.config.name}-2 --from={printable(str(run.folder))})" if same_shape else ""
    raise ConfigError(
        f"{run.folder} holds a model trained with other settings ({'; '.join(changed[:3])}): "
        f"give this run another name (--name={run.config.name}-2){onwards}, or train again with --restart"
    )


def _find_extension(run: Run, recorded: dict[str, Any]) -> dict[str, Any] | None:
    """`extension.find_extension` for the trained run in the folder of `run`."""
    from bulletlm.pipeline.extension import find_extension

    if run.missing_source:
        return None
    return find_extension(run, load_run_config(run.folder), recorded)


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """The settings of `new` that have another value in `old`, each as "name old -> new"."""
    for name, value in new.items():
        where = f"{path}{name}"
        if isinstance(value, dict) and isinstance(old.get(name), dict):
            yield from _differences(old[name], value, where + ".")
        elif old.get(name) != value:
            yield f"{where} {format_value(old.get(name))} -> {format_value(value)}"
