"""The settings that decide the outputs of each stage, as JSON values, and the fingerprint of the trained weights.

stages.json records a hash of these values, so a change of their form would make every finished run out of date. A setting that was
added later is therefore left out while it has the value that it replaces.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulletlm.config.schema import Config
from bulletlm.data.sources import is_embedded, source_terms
from bulletlm.files import sha256_of_file, sha256_of_json
from bulletlm.pipeline.run import Run

if TYPE_CHECKING:
    from bulletlm.pipeline.start import Parent


def start(run: Run) -> Any:
    """What decides the copy of the model from which the run starts."""
    return run.parent_hash


def data(run: Run) -> Any:
    """What decides the prepared text."""
    return [
        {name: value for name, value in text_settings(run.config).items() if name != "loss_on"},
        run.config.seed,
        [{name: value for name, value in source.items() if name != "label"} for source in run.sources],
        *run.held_out,
        run.augmentation,
    ]


def tokenizer(run: Run) -> Any:
    """What decides the vocabulary, besides the text."""
    kept = [run.extension["tokenizer"]] if run.extension and "tokenizer" in run.extension else []
    return [run.config.tokenizer.model_dump(mode="json"), run.config.seed, *run.parent_hash, *kept]


def tokens(run: Run) -> Any:
    """What decides the token files, besides the text and the vocabulary."""
    return run.config.data.loss_on


def train(run: Run) -> Any:
    """What decides the trained weights, besides the token files."""
    return [
        _shape_settings(run.config),
        run.config.train.reproducibility_fields(),
        run.config.seed,
        *_rounding(run.config),
        *run.parent_hash,
    ]


def export(run: Run) -> Any:
    """What decides the exported tensors and their metadata, besides the weights."""
    config = run.config
    labels = [source.label for source in config.data.sources]
    return [
        config.model_name or config.name,
        config.license,
        config.sampling.model_dump(mode="json"),
        *([labels] if any(labels) else []),
        *changing_terms(config),
        *run.parent_hash,
        *([] if config.evaluate.checkpoint == "best" else [config.evaluate.checkpoint]),
    ]


def qat(run: Run) -> Any:
    """What decides the weights that QAT trains, besides the exported tensors; None if the stage has nothing to do."""
    if not has_qat(run.config):
        return None
    return [
        run.config.model_dump(mode="json", include={"qat", "quant", "seed"}, exclude={"quant": {"auto_fix"}}),
        run.config.train.reproducibility_fields(),
    ]


def build(run: Run) -> Any:
    """What decides the model file, besides the exported tensors and the QAT weights."""
    limits = auto_fix_limits(run.config)
    fixing = [{"auto_fix": limits}] if limits else []
    return [run.config.quant.model_dump(mode="json", exclude={"auto_fix"}), run.config.seed, *fixing]


def evaluate(run: Run) -> Any:
    """What decides the report, besides the models."""
    prompts = run.config.evaluate.prompts
    content = sha256_of_file(Path(prompts)) if prompts and Path(prompts).is_file() else None
    compared = run.folder / "tokenizer" / "compare.json"
    sizes = sha256_of_file(compared) if compared.is_file() else None
    report = run.config.report.model_dump(mode="json")
    return [run.config.evaluate.model_dump(mode="json"), report, content, sizes, *run.parent_hash]


def fingerprint(
    config: Config,
    sources: list[dict[str, Any]],
    augmentation: dict[str, Any] | None,
    held_out: Sequence[str] = (),
    parent: "Parent | None" = None,
) -> str:
    """SHA-256 of everything that decides the trained weights.

    Args:
        config: the configuration of the run.
        sources: path, label, size in bytes and SHA-256 of every source file; only the SHA-256 counts here.
        augmentation: what decides the added training text; None if there is none.
        held_out: SHA-256 of every file of data.held_out.
        parent: the model from which the run starts; None if it starts from random weights.
    """
    parts = {"seed": config.seed, "tokenizer": config.tokenizer.model_dump(mode="json"), "model": _shape_settings(config)}
    text = text_settings(config)
    for source in text["sources"]:
        source.pop("label", None)
    files = {"sources": [source["sha256"] for source in sources], "augmentation": augmentation}
    if held_out:
        files["held_out"] = list(held_out)
    grid = {"grid": found} if (found := _rounding(config)) else {}
    begin = {"start": parent.sha256} if parent else {}
    return sha256_of_json({**parts, "data": text, "train": config.train.reproducibility_fields(), **files, **grid, **begin})


def has_qat(config: Config) -> bool:
    """Whether the QAT stage has work: steps, BQ4 weights, and a main run that does not train with rounded weights itself."""
    return config.qat.steps != 0 and config.qat.start is None and "BQ4" in config.weight_types().values()


def auto_fix_limits(config: Config) -> list[float]:
    """The changes of perplexity and KL above which quant.auto_fix improves the file; empty if it is off or can do nothing."""
    if not config.quant.auto_fix or config.qat.start is not None or "BQ4" not in config.weight_types().values():
        return []
    return [config.report.limits.perplexity_change, config.report.limits.kl]


def text_settings(config: Config) -> dict[str, Any]:
    """The settings of data that decide its text. License and attribution of a source are not among them: only the model card shows them."""
    settings = config.data.model_dump(mode="json", exclude={"workers"})
    if not settings["mix"]["general"]:
        del settings["mix"]["general"]
    if not settings["held_out"]:
        del settings["held_out"]
    for source in settings["sources"]:
        if source["label"] is None:
            del source["label"]
        del source["license"], source["attribution"]
    return settings


def changing_terms(config: Config) -> list[list[dict[str, str]]]:
    """The licenses and attributions of the sources, as a part of settings; those of the embedded corpus never change."""
    terms = [entry for entry in source_terms(config.data) if not is_embedded(entry["label"])]
    return [terms] if terms else []


def _shape_settings(config: Config) -> dict[str, Any]:
    """The settings of model except where the weights come from: a model at another place may be the same one."""
    return config.model.model_dump(mode="json", exclude={"start_from"})


def _rounding(config: Config) -> list[Any]:
    """Further settings that affect the trained weights if the main run trains with rounded weights; otherwise nothing."""
    return [] if config.qat.start is None else [config.qat.start, config.weight_types()]
