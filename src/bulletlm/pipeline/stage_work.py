"""The work of each stage: reads files of the run folder and writes files of the run folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulletlm import __version__
from bulletlm.data.sources import source_terms
from bulletlm.files import remove_owned
from bulletlm.formats.provenance import PRIVATE_KEY, is_private, public_sources
from bulletlm.hardware import park_idle_threads
from bulletlm.pipeline.run import Run
from bulletlm.pipeline.run_folder import read_object
from bulletlm.pipeline.stage_settings import auto_fix_limits, has_qat

if TYPE_CHECKING:
    from bulletlm.train.extend import Extension


def start(run: Run) -> None:
    """Keep the model from which the run starts in the folder start."""
    from bulletlm.pipeline.start import describe, write_copy

    assert run.parent
    run.progress.log(f"start: {describe(run.parent)}")
    write_copy(run.folder, run.parent)


def data(run: Run) -> None:
    """Clean and split the text into the folder data. A run with more text keeps what it has trained on out of its validation text."""
    from bulletlm.data.prepare import prepare_data

    trained = run.folder / "data" / "train.jsonl"
    known = trained if run.extension and run.extension["more_text"] and trained.is_file() else None
    prepare_data(run.config.data, run.config.seed, run.folder / "data", run.progress, run.config.augment, known)


def tokenizer(run: Run) -> None:
    """Train the tokenizer; or keep that of the model from which the run starts, or of the run that is continued with more text."""
    from bulletlm.data.vocabulary import prepare_tokenizer
    from bulletlm.pipeline.extension import kept_tokenizer

    given = run.parent.tokenizer_proto if run.parent else kept_tokenizer(run.folder, run.extension)
    prepare_tokenizer(run.config.tokenizer, run.config.seed, run.folder / "data", run.folder / "tokenizer", run.progress, given)


def tokens(run: Run) -> None:
    """Encode the text into the folder tokens."""
    from bulletlm.data.tokens import write_tokens
    from bulletlm.text.tokenizer import Tokenizer

    vocabulary = Tokenizer.load(run.folder / "tokenizer" / "tokenizer.model")
    write_tokens(run.folder / "data", vocabulary, run.config.data.loss_on, run.folder / "tokens", run.progress)


def train(run: Run) -> None:
    """Train the model, or resume training from the last checkpoint."""
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
        start=run.start_folder,
        extension=_extension(run),
        planned_seconds=planned_seconds(run.folder, config.train.total_steps),
    )
    run_main(job, run.group, config.train.workers or 1, run.progress, samples)


def _extension(run: Run) -> "Extension | None":
    from bulletlm.train.extend import Extension

    found = run.extension
    return Extension(decay_start=found["decay_start"], more_text=found["more_text"]) if found else None


def export(run: Run) -> None:
    """Write the chosen checkpoint as FP32 .npy files with the metadata of the model."""
    from bulletlm.formats.npy import write_npy
    from bulletlm.pipeline.checkpoints import read_weights
    from bulletlm.text.tokenizer import Tokenizer

    shape = run.shape
    chosen = read_weights(run.folder, run.config.evaluate.checkpoint, shape, run.progress)
    vocabulary = Tokenizer.load(run.folder / "tokenizer" / "tokenizer.model")
    write_npy(run.folder / "export" / "npy", shape, chosen.tensors, vocabulary.proto, _metadata(run, chosen.facts))


def _metadata(run: Run, training: dict[str, Any]) -> dict[str, Any]:
    """What a model file says about its origin; `training` are the facts about the chosen checkpoint."""
    from bulletlm.data.tokens import read_index
    from bulletlm.evaluate.report import named_languages

    config = run.config
    metadata = {
        "name": config.model_name or config.name,
        "license": config.license,
        "languages": named_languages(read_index(run.folder / "tokens")),
        "sampling": config.sampling.model_dump(mode="json"),
        "training": {
            **training,
            "seed": config.seed,
            "settings": config.train.model_dump(mode="json"),
            "sources": public_sources(run.sources),
        },
        **({PRIVATE_KEY: True} if _has_private_text(run) else {}),
        "bulletlm": __version__,
    }
    if terms := source_terms(config.data):
        metadata["training_text"] = terms
    if run.parent:
        from bulletlm.pipeline.start import license_line

        metadata |= {"license": license_line(config.license, run.parent), "parents": run.parent.parents}
    return metadata


def _has_private_text(run: Run) -> bool:
    """Whether private messages are in the text of the run, or of a model from which it starts."""
    cleaned = run.folder / "data" / "clean-report.json"
    own = cleaned.is_file() and bool(read_object(cleaned).get("private_messages"))
    return own or (run.parent is not None and is_private(run.parent.metadata))


def qat(run: Run) -> None:
    """Train the exported weights further with rounded weights; or remove what an earlier QAT left, if there is nothing to do."""
    if not has_qat(run.config):
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


def build(run: Run) -> None:
    """Quantize the model to model.bullet; with quant.auto_fix, improve it until it holds the limits of the report."""
    from bulletlm.data.tokens import open_tokens
    from bulletlm.pipeline.build import BuildOptions, build_bullet, summary

    text, held_out = (open_tokens(run.folder / "tokens", split) for split in ("train", "val"))
    folder, config = run.folder, run.config
    trained = folder / "qat" / "model.bullet"
    options = BuildOptions(
        config=config.quant,
        seed=config.seed,
        calibration=text,
        validation=held_out,
        report=folder / "quantization.json",
        trained=trained if trained.exists() else None,
    )
    quantized = build_bullet(folder / "export" / "npy", folder / "model.bullet", options, run.progress)
    run.progress.log(f"build: {summary(quantized)}")
    if auto_fix_limits(config):
        from bulletlm.pipeline.auto_fix import fix_quantization

        park_idle_threads()
        fix_quantization(folder, config, options, text, held_out, run.progress)


def evaluate(run: Run) -> None:
    """Measure model.bullet against the FP32 model, and write the report."""
    from bulletlm.evaluate import evaluate_run

    evaluate_run(run.folder, run.config, run.progress, run.start_folder)
