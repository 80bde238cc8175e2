"""Runs the stages in order: text -> clean -> tokenizer -> tokens -> train -> export -> qat -> build -> evaluate.

A run that starts from an existing model begins with one more stage, start, which keeps that model in the run folder.

Each stage reads files of the run folder and writes files of the run folder. stages.json records a hash of the settings and
inputs of each stage, and the SHA-256 of its outputs. A stage whose settings, inputs and outputs are unchanged does not run again.
"""

import contextlib
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulletlm import __version__
from bulletlm.config.loader import RECORD_KEY, load_config
from bulletlm.config.messages import format_value
from bulletlm.config.schema import Config
from bulletlm.data.augment import reproducibility_fields
from bulletlm.data.sources import held_out_files, is_embedded, source_files, source_terms, unicode_name
from bulletlm.data.tokens import vocabulary_size
from bulletlm.errors import BulletError, ConfigError, DataError, Interrupted
from bulletlm.extras import require
from bulletlm.files import remove_owned, sha256_of_file, sha256_of_json, write_json
from bulletlm.formats.provenance import PRIVATE_KEY, is_private, public_sources
from bulletlm.hardware import park_idle_threads
from bulletlm.pipeline.limits import refuse_too_large, require_sources
from bulletlm.pipeline.run_folder import WrittenFiles, locked, read_object, refuse_own_outputs
from bulletlm.pipeline.run_log import LoggedProgress
from bulletlm.progress import Progress
from bulletlm.shape import ModelShape
from bulletlm.terminal import printable

if TYPE_CHECKING:
    from bulletlm.pipeline.start import Parent
    from bulletlm.train.distributed.group import ProcessGroup
    from bulletlm.train.extend import Extension


@dataclass(frozen=True, kw_only=True)
class Run:
    """The arguments of every stage.

    Attributes:
        config: the configuration of the run.
        fingerprint: SHA-256 of all settings and inputs that affect the trained weights.
        sources: path, label, size in bytes and SHA-256 of every source file.
        augmentation: what decides the added training text; None if there is none.
        held_out: SHA-256 of every file of data.held_out.
        progress: shows bars and messages.
        group: processes that wait to take part in training.
        missing_source: why the sources cannot be read, if `sources` is what the run folder recorded about them; None otherwise.
        parent: the model from which the run starts; None if it starts from random weights.
        extension: how the run continues one with fewer steps or less text (`extension.find_extension`); None if it does not.
    """

    config: Config
    fingerprint: str
    sources: list[dict[str, Any]]
    augmentation: dict[str, Any] | None
    progress: Progress
    held_out: Sequence[str] = ()
    group: "ProcessGroup | None" = None
    missing_source: BulletError | None = None
    parent: "Parent | None" = None
    extension: dict[str, Any] | None = None

    @property
    def stages(self) -> "dict[str, Stage]":
        """The stages of this run by name, in order."""
        return {"start": START, **STAGES} if self.parent else STAGES

    @property
    def parent_hash(self) -> list[str]:
        """The hash of the model from which the run starts; empty if there is none."""
        return [self.parent.sha256] if self.parent else []

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.run_dir

    @property
    def shape(self) -> ModelShape:
        """The shape of the model, once the tokens are written: a short text may not fill tokenizer.vocab_size."""
        return self.config.model.shape(vocabulary_size(self.folder / "tokens"))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        title: name in messages.
        settings: the part of the configuration that decides the outputs, as JSON values.
        inputs: earlier stages whose outputs this one reads.
        outputs: files whose hashes stages.json records, relative to the run folder. A name with a slash at the end stands for those
            of the stage's files that are in this folder.
        also: further files that the stage writes, as `fnmatch` patterns.
        checked: whether files.json records the files. Checkpoints have their own hashes.
        work: writes the outputs.
    """

    title: str
    settings: Callable[[Run], Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    also: tuple[str, ...] = ()
    checked: bool = True
    work: Callable[[Run], None]

    @property
    def files(self) -> tuple[str, ...]:
        """Patterns of all files that the stage may write, relative to the run folder."""
        return (*(name for name in self.outputs if not name.endswith("/")), *self.also)


STAGES_FILE = "stages.json"
"""File of a run folder: the records of the finished stages."""

OUTPUT_FOLDERS = ("start", "data", "cleaned", "augment-cache", "tokenizer", "tokens", "checkpoints", "export", "qat", "auto-fix")
"""The folders of a run folder in which the stages write."""


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
    run = _new_run(config, progress, restart, group, parent)
    _make_folder(run.folder)
    with locked(run.folder), _logged(run) as logged:
        run = replace(run, extension=_protect_trained_model(logged, restart))
        try:
            _update_stages(replace(logged, extension=run.extension), until)
        except Interrupted as stopped:
            raise (Interrupted(f"{stopped}, without --restart") if restart else stopped) from None
    return run


def is_run_folder(folder: Path) -> bool:
    """Whether a run has written `folder`."""
    return (folder / "config.json").is_file() and bool(_recorded(folder))


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
    if not (folder / "config.json").is_file():
        raise BulletError(f"{folder} is not a run folder, because it has no config.json: give a folder such as runs/demo")
    place = folder if folder.name else folder.resolve()
    recorded = _recorded(folder)
    if not {"fingerprint", "sources"} <= set(recorded):
        raise BulletError(f"{folder / 'config.json'} was not written by a run: run its configuration with `bullet run`")
    config = load_config(folder / "config.json", [f"--name={place.name}", f"--runs-dir={place.parent}", *settings])
    parent = None
    if config.model.start_from is not None:
        from bulletlm.pipeline.start import read_copy

        parent = read_copy(folder)
    run = Run(
        config=config,
        fingerprint=recorded["fingerprint"],
        sources=recorded["sources"],
        augmentation=None,
        progress=progress,
        parent=parent,
    )
    with locked(folder), _logged(run) as logged:
        run = replace(run, extension=_protect_trained_model(logged, restart=False))
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
    stages = run.stages
    done = _read_stages(run.folder / STAGES_FILE, stages)
    written = WrittenFiles(run.folder, [pattern for stage in stages.values() if stage.checked for pattern in stage.files])
    write_json(run.folder / "config.json", _record(run))
    for name in stages:
        try:
            _update_stage(run, name, done, written, given=name in given)
        except KeyboardInterrupt:
            raise Interrupted(_how_to_continue(run, name)) from None
        if name == until:
            break


def _update_stage(run: Run, name: str, done: dict[str, Any], written: WrittenFiles, *, given: bool) -> None:
    """Run a stage if it is not up to date. `done` are the records of finished stages, which it updates, also in stages.json."""
    stage, stages_file = run.stages[name], run.folder / STAGES_FILE
    key = sha256_of_json({"settings": stage.settings(run), "inputs": [done[i]["outputs"] for i in stage.inputs]})
    record = done.get(name)
    unchanged = record and _outputs(run.folder, stage) == record["outputs"]
    if given:
        if not unchanged:
            raise BulletError(f"{run.folder} holds no trained model: the stage {name} is missing or changed; run its configuration")
        return
    if record and unchanged and record["key"] == key:
        run.progress.log(f"{stage.title}: up to date")
        return
    if name == "data" and run.missing_source:
        raise run.missing_source
    names = list(run.stages)
    for later in names[names.index(name) :]:
        done.pop(later, None)
    if stage.checked:
        written.begin(name, stage.files, run.progress)
    write_json(stages_file, done)
    run.progress.log(f"{stage.title}: {_why(record, unchanged)}", "debug")
    started = time.monotonic()
    stage.work(run)
    run.progress.log(f"{stage.title}: finished in {time.monotonic() - started:.1f} s", "debug")
    record = {"key": key, "outputs": _outputs(run.folder, stage)}
    if stage.checked:
        written.finish(name, stage.files, record["outputs"])
    done[name] = record
    write_json(stages_file, done)


def _how_to_continue(run: Run, name: str) -> str:
    """What is kept when a signal stops the stage `name`, and how to go on."""
    names = list(run.stages)
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


def _new_run(config: Config, progress: Progress, restart: bool, group: "ProcessGroup | None", parent: "Parent | None") -> Run:
    """Return the run with the present sources; if they no longer exist, with the sources that the run folder recorded."""
    recorded = _recorded(config.run_dir)
    if (config.run_dir / "config.json").exists() and not recorded:
        raise ConfigError(
            f"{config.run_dir / 'config.json'} was not written by a run and would be overwritten: move it to another place, or give "
            "this run another --name"
        )
    missing: BulletError | None = None
    sources: list[dict[str, Any]] = []
    augmentation: dict[str, Any] | None = None
    held_out: list[str] = []
    try:
        labels = source_files(config.data)
        refuse_own_outputs(config.run_dir, labels, OUTPUT_FOLDERS)
        sources = [
            {"path": unicode_name(str(path)), "label": label, "bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
            for path, label in labels.items()
        ]
        augmentation = reproducibility_fields(config.augment)
        held_out = [sha256_of_file(file.path) for file in held_out_files(config.data)]
        if gone := _gone(sources, recorded):
            missing = DataError(f"the source {printable(gone)} no longer exists: restore it, or train without it with --restart")
    except DataError as error:
        missing = error
    except OSError as error:
        missing = DataError(f"cannot read the source {printable(str(error.filename))}: {error.strerror}")
    if missing and (not restart or not sources):
        if restart or not isinstance(recorded.get("sources"), list):
            raise missing
        progress.log(f"note: {missing} (the finished stages of {printable(str(config.run_dir))} are used)", "warning")
        sources, augmentation, held_out = recorded["sources"], recorded.get("augmentation"), recorded.get("held_out", [])
    else:
        missing = None
    return Run(
        config=config,
        fingerprint=_fingerprint(config, sources, augmentation, held_out, parent),
        sources=sources,
        augmentation=augmentation,
        held_out=held_out,
        progress=progress,
        group=group,
        missing_source=missing,
        parent=parent,
    )


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


def _recorded(folder: Path) -> dict[str, Any]:
    """The versions, sources and fingerprint that config.json of a run folder recorded; empty if there are none."""
    path = folder / "config.json"
    recorded = read_object(path).get(RECORD_KEY) if path.exists() else None
    return recorded if isinstance(recorded, dict) else {}


def _start(run: Run) -> None:
    from bulletlm.pipeline.start import describe, write_copy

    assert run.parent
    run.progress.log(f"start: {describe(run.parent)}")
    write_copy(run.folder, run.parent)


def _data(run: Run) -> None:
    from bulletlm.data.prepare import prepare_data

    trained = run.folder / "data" / "train.jsonl"
    known = trained if run.extension and run.extension["more_text"] and trained.is_file() else None
    prepare_data(run.config.data, run.config.seed, run.folder / "data", run.progress, run.config.augment, known)


def _tokenizer(run: Run) -> None:
    from bulletlm.data.vocabulary import prepare_tokenizer
    from bulletlm.pipeline.extension import kept_tokenizer

    given = run.parent.tokenizer_proto if run.parent else kept_tokenizer(run.folder, run.extension)
    prepare_tokenizer(run.config.tokenizer, run.config.seed, run.folder / "data", run.folder / "tokenizer", run.progress, given)


def _tokens(run: Run) -> None:
    from bulletlm.data.tokens import write_tokens
    from bulletlm.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(run.folder / "tokenizer" / "tokenizer.model")
    write_tokens(run.folder / "data", tokenizer, run.config.data.loss_on, run.folder / "tokens", run.progress)


def _train(run: Run) -> None:
    park_idle_threads()
    from bulletlm.data.tokens import read_index
    from bulletlm.evaluate.prompts import choose_samples, load_prompts
    from bulletlm.evaluate.report import trained_languages
    from bulletlm.pipeline.recipe import planned_seconds
    from bulletlm.text.tokenizer import Tokenizer
    from bulletlm.train.distributed.launch import run_main
    from bulletlm.train.log.samples import SamplePrompts
    from bulletlm.train.training import TrainJob

    config = run.config
    prompts = load_prompts(config.evaluate.prompts)
    languages = trained_languages(read_index(run.folder / "tokens"))
    asked = tuple(prompts[n].prompt for n in choose_samples(prompts, config.train.live_samples, languages))
    samples = SamplePrompts(Tokenizer.load(run.folder / "tokenizer" / "tokenizer.model"), asked)
    job = TrainJob(
        config=config.train,
        shape=run.shape,
        seed=config.seed,
        tokens_dir=run.folder / "tokens",
        run_dir=run.folder,
        key=run.fingerprint,
        types=config.weight_types(),
        qat_start=config.qat.start,
        start=_start_folder(run),
        extension=_extension(run),
        planned_seconds=planned_seconds(run.folder, config.train.total_steps),
    )
    run_main(job, run.group, config.train.workers or 1, run.progress, samples)


def _extension(run: Run) -> "Extension | None":
    from bulletlm.train.extend import Extension

    found = run.extension
    return Extension(decay_start=found["decay_start"], more_text=found["more_text"]) if found else None


def _start_folder(run: Run) -> Path | None:
    """The folder of the weights from which training starts; None for random weights."""
    if run.parent is None:
        return None
    from bulletlm.pipeline.start import START as COPY

    return run.folder / COPY


def _export(run: Run) -> None:
    from bulletlm.data.tokens import read_index
    from bulletlm.formats.npy import write_npy
    from bulletlm.pipeline.checkpoints import read_weights
    from bulletlm.text.tokenizer import Tokenizer

    shape = run.shape
    chosen = read_weights(run.folder, run.config.evaluate.checkpoint, shape, run.progress)
    tokenizer = Tokenizer.load(run.folder / "tokenizer" / "tokenizer.model")
    training = chosen.facts
    index = read_index(run.folder / "tokens")
    cleaned = run.folder / "data" / "clean-report.json"
    private = bool(read_object(cleaned).get("private_messages")) if cleaned.is_file() else False
    private = private or (run.parent is not None and is_private(run.parent.metadata))
    metadata = {
        "name": run.config.model_name or run.config.name,
        "license": run.config.license,
        "languages": sorted(language for language in index["train"]["by_language"]),
        "sampling": run.config.sampling.model_dump(mode="json"),
        "training": {
            **training,
            "seed": run.config.seed,
            "settings": run.config.train.model_dump(mode="json"),
            "sources": public_sources(run.sources),
        },
        **({PRIVATE_KEY: True} if private else {}),
        "bulletlm": __version__,
    }
    if terms := source_terms(run.config.data):
        metadata["training_text"] = terms
    if run.parent:
        from bulletlm.pipeline.start import license_line

        metadata |= {"license": license_line(run.config.license, run.parent), "parents": run.parent.parents}
    write_npy(run.folder / "export" / "npy", shape, chosen.tensors, tokenizer.proto, metadata)


def _qat(run: Run) -> None:
    if not _has_qat(run.config):
        _remove_qat(run.folder / "qat")
        return
    park_idle_threads()
    from bulletlm.data.tokens import open_tokens
    from bulletlm.pipeline.qat import count_qat_steps, describe, train_on_grid

    text, held_out = (open_tokens(run.folder / "tokens", split) for split in ("train", "val"))
    if not count_qat_steps(run.config, len(text.tokens)):
        _remove_qat(run.folder / "qat")
        run.progress.log("QAT: not needed, because the training was short (set qat.steps for a number of steps)")
        return
    run.progress.log(f"QAT: {describe(train_on_grid(run.folder, run.config, text, held_out, run.progress))}")


def _remove_qat(folder: Path) -> None:
    """Remove the files of an earlier QAT stage."""
    from bulletlm.train.checkpoint import remove_checkpoints

    if folder.exists():
        remove_checkpoints(folder / "checkpoints")
        remove_owned(folder, ("model.bullet", "report.json", "calibrated.bullet"))


def _has_qat(config: Config) -> bool:
    """Whether the stage has work: steps, BQ4 weights, and a main run that does not train with rounded weights itself."""
    return config.qat.steps != 0 and config.qat.start is None and "BQ4" in config.weight_types().values()


def _build(run: Run) -> None:
    from bulletlm.data.tokens import open_tokens
    from bulletlm.pipeline.build import BuildOptions, build_bullet, summary

    train, val = (open_tokens(run.folder / "tokens", split) for split in ("train", "val"))
    folder, config = run.folder, run.config
    trained = folder / "qat" / "model.bullet"
    options = BuildOptions(
        config=config.quant,
        seed=config.seed,
        calibration=train,
        validation=val,
        report=folder / "quantization.json",
        trained=trained if trained.exists() else None,
    )
    quantized = build_bullet(folder / "export" / "npy", folder / "model.bullet", options, run.progress)
    run.progress.log(f"build: {summary(quantized)}")
    if _fixing(config):
        from bulletlm.pipeline.auto_fix import fix_quantization

        park_idle_threads()
        fix_quantization(folder, config, options, train, val, run.progress)


def _fixing(config: Config) -> list[Any]:
    """The limits for which quant.auto_fix improves the file; empty if it is off or can do nothing."""
    if not config.quant.auto_fix or config.qat.start is not None or "BQ4" not in config.weight_types().values():
        return []
    limits = config.report.limits
    return [{"auto_fix": [limits.perplexity_change, limits.kl]}]


def _evaluate(run: Run) -> None:
    from bulletlm.evaluate import evaluate_run

    evaluate_run(run.folder, run.config, run.progress, _start_folder(run))


def _rounding(config: Config) -> list[Any]:
    """Return further settings that affect the trained weights if the main run trains with rounded weights; otherwise nothing."""
    return [] if config.qat.start is None else [config.qat.start, config.weight_types()]


def _evaluation_settings(run: Run) -> Any:
    prompts = run.config.evaluate.prompts
    content = sha256_of_file(Path(prompts)) if prompts and Path(prompts).is_file() else None
    compared = run.folder / "tokenizer" / "compare.json"
    sizes = sha256_of_file(compared) if compared.is_file() else None
    report = run.config.report.model_dump(mode="json")
    return [run.config.evaluate.model_dump(mode="json"), report, content, sizes, *run.parent_hash]


def _data_settings(config: Config) -> dict[str, Any]:
    """The settings of data that decide its text."""
    settings = config.data.model_dump(mode="json", exclude={"workers"})
    # As before there were these settings, so that finished runs stay up to date.
    if not settings["mix"]["general"]:
        del settings["mix"]["general"]
    if not settings["held_out"]:
        del settings["held_out"]
    for source in settings["sources"]:
        if source["label"] is None:
            del source["label"]
        del source["license"], source["attribution"]  # only the model card shows them
    return settings


def _kept(run: Run) -> list[str]:
    """The hash of the tokenizer that an extended run keeps; empty if it trains its own."""
    return [run.extension["tokenizer"]] if run.extension and "tokenizer" in run.extension else []


def _labels(config: Config) -> list[list[str | None]]:
    """The labels that the configuration gives, as a part of settings."""
    labels = [source.label for source in config.data.sources]
    return [labels] if any(labels) else []


def _terms(config: Config) -> list[list[dict[str, str]]]:
    """The licences and attributions of the sources, as a part of settings; those of the embedded corpus never change."""
    terms = [entry for entry in source_terms(config.data) if not is_embedded(entry["label"])]
    return [terms] if terms else []


def _shape_settings(config: Config) -> dict[str, Any]:
    """The settings of model except where the weights come from: a model at another place may be the same one."""
    return config.model.model_dump(mode="json", exclude={"start_from"})


START = Stage(
    title="Start",
    settings=lambda run: run.parent_hash,
    inputs=(),
    outputs=("start/npy/",),
    also=(
        "start/npy/manifest.json",
        "start/npy/tokenizer.model",
        "start/npy/token_embedding.weight.npy",
        "start/npy/layers.*.weight.npy",
        "start/npy/final_norm.weight.npy",
        "start/npy/lm_head.weight.npy",
    ),
    work=_start,
)
"""The first stage of a run that starts from an existing model."""


STAGES: dict[str, Stage] = {
    "data": Stage(
        title="Data",
        settings=lambda run: [
            {name: value for name, value in _data_settings(run.config).items() if name != "loss_on"},
            run.config.seed,
            [{name: value for name, value in source.items() if name != "label"} for source in run.sources],
            *run.held_out,
            run.augmentation,
        ],
        inputs=(),
        outputs=("data/train.jsonl", "data/val.jsonl", "data/rejected.jsonl", "data/clean-report.json"),
        also=(
            "cleaned/documents.jsonl",
            "cleaned/documents.bin",
            "cleaned/paragraphs.bin",
            "cleaned/whole.bin",
            "cleaned/parts.bin",
            "cleaned/rejected.jsonl",
            "cleaned/summary.json",
        ),
        work=_data,
    ),
    "tokenizer": Stage(
        title="Tokenizer",
        settings=lambda run: [run.config.tokenizer.model_dump(mode="json"), run.config.seed, *run.parent_hash, *_kept(run)],
        inputs=("data",),
        outputs=("tokenizer/tokenizer.model", "tokenizer/report.json"),
        also=("tokenizer/compare.json",),
        work=_tokenizer,
    ),
    "tokens": Stage(
        title="Tokens",
        settings=lambda run: run.config.data.loss_on,
        inputs=("data", "tokenizer"),
        outputs=("tokens/train.bin", "tokens/val.bin", "tokens/index.json"),
        also=(
            "tokens/train.learn.bin",
            "tokens/val.learn.bin",
            "tokens/train.sources.bin",
            "tokens/val.sources.bin",
        ),
        work=_tokens,
    ),
    "train": Stage(
        title="Training",
        settings=lambda run: [
            _shape_settings(run.config),
            run.config.train.reproducibility_fields(),
            run.config.seed,
            *_rounding(run.config),
            *run.parent_hash,
        ],
        inputs=("tokens",),
        outputs=("checkpoints/best/model.safetensors", "checkpoints/best/state.json"),
        checked=False,
        work=_train,
    ),
    "export": Stage(
        title="Export",
        settings=lambda run: [
            run.config.model_name or run.config.name,
            run.config.license,
            run.config.sampling.model_dump(mode="json"),
            *_labels(run.config),
            *_terms(run.config),
            *run.parent_hash,
            *([] if run.config.evaluate.checkpoint == "best" else [run.config.evaluate.checkpoint]),
        ],
        inputs=("tokenizer", "train"),
        outputs=("export/npy/",),
        also=(
            "export/npy/manifest.json",
            "export/npy/tokenizer.model",
            "export/npy/token_embedding.weight.npy",
            "export/npy/layers.*.weight.npy",
            "export/npy/final_norm.weight.npy",
            "export/npy/lm_head.weight.npy",
        ),
        work=_export,
    ),
    "qat": Stage(
        title="QAT",
        settings=lambda run: (
            [
                run.config.model_dump(mode="json", include={"qat", "quant", "seed"}, exclude={"quant": {"auto_fix"}}),
                run.config.train.reproducibility_fields(),
            ]
            if _has_qat(run.config)
            else None
        ),
        inputs=("tokens", "export"),
        outputs=("qat/",),
        also=(
            "qat/model.bullet",
            "qat/report.json",
            "qat/calibrated.bullet",
        ),
        work=_qat,
    ),
    "build": Stage(
        title="Build",
        settings=lambda run: [run.config.quant.model_dump(mode="json", exclude={"auto_fix"}), run.config.seed, *_fixing(run.config)],
        inputs=("tokens", "export", "qat"),
        outputs=("model.bullet", "quantization.json"),
        also=tuple(f"auto-fix/{name}" for name in ("model.bullet", "quantization.json", "qat.bullet", "report.json", "calibrated.bullet")),
        work=_build,
    ),
    "evaluate": Stage(
        title="Evaluation",
        settings=_evaluation_settings,
        inputs=("tokens", "export", "build"),
        outputs=("report.json", "report.html"),
        work=_evaluate,
    ),
}


def _fingerprint(
    config: Config,
    sources: list[dict[str, Any]],
    augmentation: dict[str, Any] | None,
    held_out: Sequence[str] = (),
    parent: "Parent | None" = None,
) -> str:
    """SHA-256 of everything that decides the trained weights."""
    parts = {"seed": config.seed, "tokenizer": config.tokenizer.model_dump(mode="json"), "model": _shape_settings(config)}
    data = _data_settings(config)
    for source in data["sources"]:
        source.pop("label", None)
    texts = {"sources": [source["sha256"] for source in sources], "augmentation": augmentation}
    if held_out:
        texts["held_out"] = list(held_out)
    grid = {"grid": found} if (found := _rounding(config)) else {}
    start = {"start": parent.sha256} if parent else {}
    return sha256_of_json({**parts, "data": data, "train": config.train.reproducibility_fields(), **texts, **grid, **start})


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
        **({"augmentation": run.augmentation} if run.augmentation else {}),
        **({"held_out": list(run.held_out)} if run.held_out else {}),
        **({"extension": run.extension} if run.extension else {}),
    }
    return {**run.config.model_dump(mode="json"), RECORD_KEY: recorded}


def _protect_trained_model(run: Run, restart: bool) -> dict[str, Any] | None:
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
    old, recorded = read_object(run.folder / "config.json"), _recorded(run.folder)
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
    from bulletlm.pipeline.extension import find_extension

    if run.missing_source:
        return None
    place = [f"--name={run.config.name}", f"--runs-dir={run.config.runs_dir}"]
    old = load_config(run.folder / "config.json", place)

    def fingerprint(config: Config, sources: list[dict[str, Any]]) -> str:
        return _fingerprint(config, sources, run.augmentation, run.held_out, run.parent)

    return find_extension(run.folder, old, run.config, recorded, run.sources, fingerprint)


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    for name, value in new.items():
        where = f"{path}{name}"
        if isinstance(value, dict) and isinstance(old.get(name), dict):
            yield from _differences(old[name], value, where + ".")
        elif old.get(name) != value:
            yield f"{where} {format_value(old.get(name))} -> {format_value(value)}"


def _outputs(folder: Path, stage: Stage) -> dict[str, str | None]:
    """SHA-256 of every output file, and of every file in a folder whose name ends in a slash; None for missing files."""
    files: dict[str, str | None] = {}
    for name in stage.outputs:
        path = folder / name
        if name.endswith("/"):
            inside = [f"{name}{file.name}" for file in sorted(path.glob("*")) if file.is_file()]
            found = [each for each in inside if any(fnmatchcase(each, pattern) for pattern in stage.files)]
            files |= {each: sha256_of_file(folder / each) for each in found}
            if not found:
                files[name] = None
        else:
            files[name] = sha256_of_file(path) if path.is_file() else None
    return files


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BulletError(f"cannot make the run folder {folder}: {error.strerror}; choose another with --runs-dir=FOLDER") from None
