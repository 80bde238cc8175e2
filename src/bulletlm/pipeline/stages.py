"""The stages in order: text -> clean -> tokenizer -> tokens -> train -> export -> qat -> build -> evaluate.

Each stage reads files of the run folder and writes files of the run folder. stages.json records a hash of the settings and
inputs of each stage, and the SHA-256 of its outputs. A stage whose settings, inputs and outputs are unchanged does not run again.
"""

import contextlib
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulletlm import __version__
from bulletlm.config.loader import RECORD_KEY, load_config
from bulletlm.config.schema import Config
from bulletlm.data.augment import reproducibility_fields
from bulletlm.data.sources import source_files
from bulletlm.errors import BulletError, ConfigError
from bulletlm.files import read_json, sha256_of_file, sha256_of_json, write_json
from bulletlm.hardware import park_idle_threads
from bulletlm.progress import Progress

if TYPE_CHECKING:
    from bulletlm.train.distributed.group import ProcessGroup


@dataclass(frozen=True)
class Run:
    """What every stage receives.

    Attributes:
        config: the configuration of the run.
        fingerprint: SHA-256 of everything that decides the trained weights.
        sources: path, size in bytes and SHA-256 of every source file.
        augmentation: what decides the added training text; None if there is none.
        progress: shows bars and messages.
        group: processes that wait to take part in training.
    """

    config: Config
    fingerprint: str
    sources: list[dict[str, Any]]
    augmentation: dict[str, Any] | None
    progress: Progress
    group: "ProcessGroup | None" = None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.run_dir


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        title: name in messages.
        settings: the part of the configuration that decides the outputs, as JSON values.
        inputs: earlier stages whose outputs this one reads.
        outputs: files that it writes, relative to the run folder; a name with a slash at the end is a folder.
        work: writes the outputs.
    """

    title: str
    settings: Callable[[Run], Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    work: Callable[[Run], None]


def run_stages(
    config: Config,
    until: str,
    progress: Progress,
    *,
    restart: bool = False,
    group: "ProcessGroup | None" = None,
    since: str | None = None,
) -> Run:
    """Bring every stage up to and including `until` up to date.

    Args:
        config: the configuration of the run.
        until: name of the last stage to run.
        progress: shows bars and messages.
        restart: delete the checkpoints and train from the beginning.
        group: processes that wait to take part in training; this one leads them.
        since: do not check or run the stages before this one; their sources may be missing or changed.

    Raises:
        ConfigError: the run folder holds a model trained with other settings, or another process is using it.
        BulletError: a stage failed; the outputs of earlier stages remain.
    """
    run = _finished_run(config, progress) if since else _new_run(config, progress, group)
    _make_folder(run.folder)
    with _only_process(run.folder):
        _protect_trained_model(run, restart)
        write_json(run.folder / "config.json", _record(run))
        done = _load_records(run.folder)
        given = list(STAGES)[: list(STAGES).index(since)] if since else []
        for name, stage in STAGES.items():
            key = sha256_of_json({"settings": stage.settings(run), "inputs": [done[i]["outputs"] for i in stage.inputs]})
            record = done.get(name)
            unchanged = record and _outputs(run.folder, stage) == record["outputs"]
            if name in given:
                if not unchanged:
                    raise BulletError(f"{run.folder} holds no trained model: the stage {name} is missing or changed; run its configuration")
            elif record and unchanged and record["key"] == key:
                progress.log(f"{stage.title}: up to date")
            else:
                done = {earlier: done[earlier] for earlier in list(STAGES)[: list(STAGES).index(name)]}
                write_json(run.folder / "stages.json", done)
                stage.work(run)
                done[name] = {"key": key, "outputs": _outputs(run.folder, stage)}
                write_json(run.folder / "stages.json", done)
            if name == until:
                break
    return run


def finish_run(folder: Path, settings: Sequence[str], progress: Progress) -> Run:
    """Run the stages after training again, with other settings, in the folder of a trained run.

    Args:
        folder: the run folder.
        settings: options as on the command line, such as "--qat.steps=300".
        progress: shows bars and messages.

    Raises:
        BulletError: see `run_stages`; or `folder` is not a run folder.
    """
    if not (folder / "config.json").is_file():
        raise BulletError(f"{folder} is no run folder, because it has no config.json: name a folder like runs/demo")
    place = folder if folder.name else folder.resolve()
    config = load_config(folder / "config.json", [f"--name={place.name}", f"--runs-dir={place.parent}", *settings])
    return run_stages(config, "evaluate", progress, since="export")


def _new_run(config: Config, progress: Progress, group: "ProcessGroup | None") -> Run:
    sources = [{"path": str(path), "bytes": path.stat().st_size, "sha256": sha256_of_file(path)} for path in source_files(config.data)]
    augmentation = reproducibility_fields(config.augment)
    return Run(config, _fingerprint(config, sources, augmentation), sources, augmentation, progress, group)


def _finished_run(config: Config, progress: Progress) -> Run:
    """The run in the folder of `config`, with the sources that config.json recorded."""
    recorded = read_json(config.run_dir / "config.json").get(RECORD_KEY, {})
    if not {"fingerprint", "sources"} <= set(recorded):
        raise BulletError(f"{config.run_dir / 'config.json'} was not written by a run: run its configuration with `bullet run`")
    return Run(config, recorded["fingerprint"], recorded["sources"], None, progress)


def _data(run: Run) -> None:
    from bulletlm.data.prepare import prepare_data

    prepare_data(run.config.data, run.config.seed, run.folder / "data", run.progress, run.config.augment)


def _tokenizer(run: Run) -> None:
    from bulletlm.data.vocabulary import prepare_tokenizer

    prepare_tokenizer(run.config.tokenizer, run.config.seed, run.folder / "data", run.folder / "tokenizer", run.progress)


def _tokens(run: Run) -> None:
    from bulletlm.data.tokens import write_tokens
    from bulletlm.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(run.folder / "tokenizer" / "tokenizer.model")
    write_tokens(run.folder / "data", tokenizer, run.config.data.loss_on, run.folder / "tokens", run.progress)


def _train(run: Run) -> None:
    park_idle_threads()
    from bulletlm.evaluate.prompts import choose_samples, load_prompts
    from bulletlm.text.tokenizer import Tokenizer
    from bulletlm.train.distributed.launch import run_main
    from bulletlm.train.log.samples import SamplePrompts
    from bulletlm.train.training import TrainJob

    config = run.config
    prompts = load_prompts(config.evaluate.prompts)
    asked = tuple(prompts[n].prompt for n in choose_samples(prompts, config.train.live_samples))
    samples = SamplePrompts(Tokenizer.load(run.folder / "tokenizer" / "tokenizer.model"), asked)
    shape = config.model.shape(config.tokenizer.vocab_size)
    job = TrainJob(
        config=config.train,
        shape=shape,
        seed=config.seed,
        tokens_dir=run.folder / "tokens",
        run_dir=run.folder,
        key=run.fingerprint,
        types=config.weight_types(),
        qat_start=config.qat.start,
    )
    run_main(job, run.group, config.train.workers or 1, run.progress, samples)


def _export(run: Run) -> None:
    from bulletlm.formats.npy import write_npy
    from bulletlm.text.tokenizer import Tokenizer
    from bulletlm.train.checkpoint import load_checkpoint

    best = load_checkpoint(run.folder / "checkpoints" / "best")
    shape = run.config.model.shape(run.config.tokenizer.vocab_size)
    tensors = {name: best.tensors["model"][name].numpy() for name in shape.tensors()}
    tokenizer = Tokenizer.load(run.folder / "tokenizer" / "tokenizer.model")
    training = {name: value for name, value in best.state.items() if name != "key"}
    index = read_json(run.folder / "tokens" / "index.json")
    metadata = {
        "name": run.config.name,
        "license": run.config.license,
        "languages": sorted(language for language in index["train"]["by_language"]),
        "sampling": run.config.sampling.model_dump(mode="json"),
        "training": {**training, "seed": run.config.seed, "settings": run.config.train.model_dump(mode="json"), "sources": run.sources},
        "bulletlm": __version__,
    }
    write_npy(run.folder / "export" / "npy", shape, tensors, tokenizer.proto, metadata)


def _qat(run: Run) -> None:
    if not _has_qat(run.config):
        shutil.rmtree(run.folder / "qat", ignore_errors=True)
        return
    park_idle_threads()
    from bulletlm.data.tokens import open_tokens
    from bulletlm.pipeline.qat import describe, train_on_grid

    text, held_out = (open_tokens(run.folder / "tokens", split) for split in ("train", "val"))
    run.progress.log(f"QAT: {describe(train_on_grid(run.folder, run.config, text, held_out, run.progress))}")


def _has_qat(config: Config) -> bool:
    """Whether the stage has work: steps, BQ4 weights, and a main run that does not train with rounded weights itself."""
    return config.qat.steps > 0 and config.qat.start is None and "BQ4" in config.weight_types().values()


def _build(run: Run) -> None:
    from bulletlm.data.tokens import open_tokens
    from bulletlm.pipeline.build import build_bullet, summary

    train, val = (open_tokens(run.folder / "tokens", split) for split in ("train", "val"))
    folder, config = run.folder, run.config
    quantized = build_bullet(
        folder / "export" / "npy",
        folder / "model.bullet",
        config.quant,
        config.seed,
        train,
        val,
        run.progress,
        folder / "quantization.json",
        trained=trained if (trained := folder / "qat" / "model.bullet").exists() else None,
    )
    run.progress.log(f"build: {summary(quantized)}")


def _evaluate(run: Run) -> None:
    from bulletlm.evaluate import evaluate_run

    evaluate_run(run.folder, run.config, run.progress)


def _rounding(config: Config) -> list[Any]:
    """What decides the trained weights besides other settings, if the main run trains with rounded weights; otherwise nothing."""
    return [] if config.qat.start is None else [config.qat.start, config.weight_types()]


def _evaluation_settings(run: Run) -> Any:
    prompts = run.config.evaluate.prompts
    content = sha256_of_file(Path(prompts)) if prompts and Path(prompts).is_file() else None
    compared = run.folder / "tokenizer" / "compare.json"
    sizes = sha256_of_file(compared) if compared.is_file() else None
    return [run.config.evaluate.model_dump(mode="json"), content, sizes]


STAGES: dict[str, Stage] = {
    "data": Stage(
        "Data",
        lambda run: [
            run.config.data.model_dump(mode="json", exclude={"loss_on", "workers"}),
            run.config.seed,
            run.sources,
            run.augmentation,
        ],
        (),
        ("data/train.jsonl", "data/val.jsonl", "data/rejected.jsonl", "data/clean-report.json"),
        _data,
    ),
    "tokenizer": Stage(
        "Tokenizer",
        lambda run: [run.config.tokenizer.model_dump(mode="json"), run.config.seed],
        ("data",),
        ("tokenizer/tokenizer.model", "tokenizer/report.json"),
        _tokenizer,
    ),
    "tokens": Stage(
        "Tokens",
        lambda run: run.config.data.loss_on,
        ("data", "tokenizer"),
        ("tokens/train.bin", "tokens/val.bin", "tokens/index.json"),
        _tokens,
    ),
    "train": Stage(
        "Training",
        lambda run: [
            run.config.model.model_dump(mode="json"),
            run.config.train.reproducibility_fields(),
            run.config.seed,
            *_rounding(run.config),
        ],
        ("tokens",),
        ("checkpoints/best/model.safetensors", "checkpoints/best/state.json"),
        _train,
    ),
    "export": Stage(
        "Export",
        lambda run: [run.config.name, run.config.license, run.config.sampling.model_dump(mode="json")],
        ("tokenizer", "train"),
        ("export/npy/",),
        _export,
    ),
    "qat": Stage(
        "QAT",
        lambda run: (
            [run.config.model_dump(mode="json", include={"qat", "quant", "seed"}), run.config.train.reproducibility_fields()]
            if _has_qat(run.config)
            else None
        ),
        ("tokens", "export"),
        ("qat/",),
        _qat,
    ),
    "build": Stage(
        "Build",
        lambda run: [run.config.quant.model_dump(mode="json"), run.config.seed],
        ("tokens", "export", "qat"),
        ("model.bullet", "quantization.json"),
        _build,
    ),
    "evaluate": Stage(
        "Evaluation",
        _evaluation_settings,
        ("tokens", "export", "build"),
        ("report.json", "report.html"),
        _evaluate,
    ),
}


def _fingerprint(config: Config, sources: list[dict[str, Any]], augmentation: dict[str, Any] | None) -> str:
    """SHA-256 of everything that decides the trained weights."""
    parts = config.model_dump(mode="json", include={"seed", "tokenizer", "model"})
    data = config.data.model_dump(mode="json", exclude={"workers"})
    texts = {"sources": [source["sha256"] for source in sources], "augmentation": augmentation}
    grid = {"grid": found} if (found := _rounding(config)) else {}
    return sha256_of_json({**parts, "data": data, "train": config.train.reproducibility_fields(), **texts, **grid})


def _record(run: Run) -> dict[str, Any]:
    """The contents of config.json: the complete configuration, versions of the software, and the sources."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("torch", "numpy", "sentencepiece", "safetensors")}
    recorded = {
        "bulletlm": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **packages,
        "fingerprint": run.fingerprint,
        "sources": run.sources,
    }
    return {**run.config.model_dump(mode="json"), RECORD_KEY: recorded}


def _protect_trained_model(run: Run, restart: bool) -> None:
    """Refuse to overwrite a model that was trained with other settings.

    Raises:
        ConfigError: there is one, and `restart` is false.
    """
    checkpoints = run.folder / "checkpoints"
    if not (run.folder / "config.json").exists() or not checkpoints.exists():
        return
    if restart:
        shutil.rmtree(checkpoints)
        return
    old = read_json(run.folder / "config.json")
    if old.get(RECORD_KEY, {}).get("fingerprint") == run.fingerprint:
        return
    new = run.config.model_dump(mode="json")
    changed = list(_differences(old, new)) or ["the source files"]
    raise ConfigError(
        f"{run.folder} holds a model trained with other settings ({'; '.join(changed[:3])}): "
        f"give this run another name (--name={run.config.name}-2), or train again with --restart"
    )


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    for name, value in new.items():
        where = f"{path}{name}"
        if isinstance(value, dict) and isinstance(old.get(name), dict):
            yield from _differences(old[name], value, where + ".")
        elif old.get(name) != value:
            yield f"{where} {old.get(name)} -> {value}"


def _outputs(folder: Path, stage: Stage) -> dict[str, str | None]:
    """SHA-256 of every output file, and of every file in a folder whose name ends in a slash; None for missing files."""
    files: dict[str, str | None] = {}
    for name in stage.outputs:
        path = folder / name
        if name.endswith("/"):
            found = [file for file in sorted(path.glob("*")) if file.is_file()]
            files |= {f"{name}{file.name}": sha256_of_file(file) for file in found}
            if not found:
                files[name] = None
        else:
            files[name] = sha256_of_file(path) if path.is_file() else None
    return files


def _load_records(folder: Path) -> dict[str, Any]:
    path = folder / "stages.json"
    records = read_json(path) if path.exists() else {}
    return records if isinstance(records, dict) else {}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BulletError(f"cannot make the run folder {folder}: {error.strerror}; choose another with --runs-dir=FOLDER") from None


@contextlib.contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Lock the run folder, because two processes would overwrite each other's files. The system frees the lock of a dead process."""
    import fcntl

    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"another process is working in {folder}: wait until it ends, or give this run another --name") from None
        yield
