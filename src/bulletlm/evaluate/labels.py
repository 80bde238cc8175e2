"""What a report says about sources and settings: labels and hashes, never a path or the name of a file.

People send reports to others, and a path or a file name can name a person ("Chat with Asha.txt"). The files in the run folder's
data folder keep the names.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bulletlm.config.schema import Config
from bulletlm.data.sources import is_embedded
from bulletlm.files import expand_home, sha256_of_file
from bulletlm.formats.packaged import packaged_names

Cleaning = Mapping[str, Any]

_AUGMENTED = re.compile(r"(.*) (\([\w-]+\))", re.DOTALL)
"""The source of a document that augmentation added: "NAME (method)"."""

_DETAIL = re.compile(r"\s*[(:].*", re.DOTALL)
"""The part of a reason that may quote a file."""


class Labels:
    """Labels of source files by their name, in reading order.

    Args:
        cleaning: content of clean-report.json; None if it is missing. Earlier versions wrote no labels into it.
    """

    def __init__(self, cleaning: Cleaning | None) -> None:
        rows = cleaning["sources"] if cleaning else []
        self._labels = {row["source"]: row.get("label") or f"source-{number}" for number, row in enumerate(rows, 1)}

    def of(self, name: str) -> str:
        """The label of a source; a source that the cleaning does not know gets the next number."""
        if name not in self._labels and (added := _AUGMENTED.fullmatch(name)) and added[1] in self._labels:
            return f"{self._labels[added[1]]} {added[2]}"
        return self._labels.setdefault(name, f"source-{len(self._labels) + 1}")

    def rename(self, by_source: Mapping[str, Any]) -> dict[str, Any]:
        """The same values by label, in the order of the labels."""
        order = {name: number for number, name in enumerate(self._labels)}
        return {self.of(name): by_source[name] for name in sorted(by_source, key=lambda name: (order.get(name, len(order)), name))}


def describe_cleaning(cleaning: Cleaning, labels: Labels, config: Config) -> dict[str, Any]:
    """clean-report.json for the report: files have their labels, and no example quotes private messages."""
    private = {row["source"] for row in cleaning["sources"] if row.get("private")}
    report = dict(cleaning)
    if "settings" in cleaning:
        report["settings"] = describe_settings(config)["data"]
    report["sources"] = [
        {**{name: value for name, value in row.items() if name != "label"}, "source": labels.of(row["source"])}
        for row in cleaning["sources"]
    ]
    if "private_messages" in cleaning:
        report["private_messages"] = [labels.of(name) for name in cleaning["private_messages"]]
    report["skipped_files"] = [
        {"file": f"file-{number}", "reason": _DETAIL.sub("", item["reason"])} for number, item in enumerate(cleaning["skipped_files"], 1)
    ]
    report["rules"] = {name: {**rule, "examples": _examples(rule["examples"], labels, private)} for name, rule in cleaning["rules"].items()}
    if "mixture" in cleaning:
        report["mixture"] = [{**row, "source": labels.of(row["source"])} for row in cleaning["mixture"]]
    if added := cleaning.get("augmentation"):
        methods = [{name: value for name, value in method.items() if name != "models"} for method in added["methods"]]
        report["augmentation"] = {**added, "methods": methods}
    return report


def _examples(examples: Iterable[Mapping[str, Any]], labels: Labels, private: set[str]) -> list[dict[str, Any]]:
    return [{**example, "source": labels.of(example["source"])} for example in examples if example["source"] not in private]


def describe_settings(config: Config) -> dict[str, Any]:
    """The configuration for the report: file names are replaced by the hash of the content, or left out."""
    settings = config.model_dump(mode="json", exclude={"runs_dir": True, "model_name": True})
    settings["name"] = config.model_name or config.name
    for number, source in enumerate(settings["data"]["sources"], 1):
        if not is_embedded(source["path"]):
            source["path"] = source["label"] or f"source {number}"
    augment = settings["augment"]
    augment["paraphrase_pairs"] = [_hash(path) for path in augment["paraphrase_pairs"]]
    for models in (augment["paraphrase_models"], augment["translation_models"]):
        models.update(dict.fromkeys(models, "a model"))
    augment["cache"] = augment["cache"] and "a folder"
    augment["endpoint_key_variable"] = augment["endpoint_key_variable"] and "a variable"
    settings["data"]["held_out"] = [f"text {number}" for number, _ in enumerate(settings["data"]["held_out"], 1)]
    settings["evaluate"]["also"] = [f"text {number}" for number, _ in enumerate(settings["evaluate"]["also"], 1)]
    if config.model.start_from not in (None, *packaged_names()):
        settings["model"]["start_from"] = "a model"
    settings["evaluate"]["prompts"] = settings["evaluate"]["prompts"] and _hash(settings["evaluate"]["prompts"])
    return settings


def _hash(path: str) -> str:
    """Stands for a file: the beginning of its SHA-256."""
    place = expand_home(path)
    return f"sha256:{sha256_of_file(place)[:16]}" if place.is_file() else "a file"
