"""The optional parts of an installation, called extras: the libraries of each, and the command that installs them.

A plain installation runs, checks and converts models. What trains, reads documents or serves needs libraries of an extra, such as
`bulletlm[train]`; pyproject.toml lists them as packages, and a test compares the two lists.
"""

import importlib.util
import json
import os
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from bulletlm.errors import BulletError

EXTRAS = {
    "train": ("charset_normalizer", "ftfy", "matplotlib", "phonenumbers", "py3langid", "rensa", "safetensors", "torch"),
    "serve": ("fastapi", "prometheus_client", "uvicorn"),
    "dashboard": ("fontpkg_noto_sans_devanagari", "nicegui", "wsproto"),
    "documents": ("defusedxml", "markdown_it", "mwparserfromhell", "pypdf", "selectolax"),
    "data": ("datasets", "pyarrow"),
    "augment": ("ctranslate2", "google.protobuf", "sacrebleu", "transformers"),
    "score": ("krippendorff", "sacrebleu"),
    "terminal": ("prompt_toolkit", "wcwidth"),
    "track": ("tensorboard", "trackio"),
    "bench": ("xllamacpp",),
}
"""The modules of the packages of an extra. Extras that contain others, such as `all`, are not listed."""

PURPOSES = {
    "train": "make models from text",
    "serve": "offer a model over HTTP (bullet serve)",
    "dashboard": "work in the browser (bullet dashboard)",
    "documents": "read Word, PDF, EPUB, HTML, Markdown and wiki files",
    "data": "read Parquet files and Hugging Face data sets",
    "augment": "paraphrase and translate text with local models",
    "score": "rate answers (bullet score)",
    "terminal": "edit messages of several lines in bullet chat",
    "track": "write metrics for TensorBoard and trackio",
    "bench": "measure beside llama.cpp, and run foreign GGUF files",
}
"""What an extra is for, in the words of `bullet doctor`."""


class MissingExtra(BulletError):
    """A library of an extra is not installed; the message has the command that installs the extra."""


def missing(extra: str) -> list[str]:
    """The modules of an extra that are not installed."""
    return [module for module in EXTRAS[extra] if not _exists(module)]


def require(extra: str, task: str) -> None:
    """Check that all libraries of an extra are installed, before work that would fail in the middle.

    Args:
        extra: a key of EXTRAS.
        task: what needs them, as the subject of a sentence: "training".

    Raises:
        MissingExtra: at least one of them is not installed.
    """
    if modules := missing(extra):
        raise MissingExtra(f"{task} needs {', '.join(modules)}, which this installation does not have: {install_command(extra)}")


def explain(error: ModuleNotFoundError) -> str | None:
    """The message for a failed import, if the module belongs to an extra; None if the failure is a bug."""
    name = error.name or ""
    for extra, modules in EXTRAS.items():
        if any(name == module or name.startswith(f"{module}.") for module in modules):
            return f"this needs {name}, which this installation does not have: {install_command(extra)}"
    return None


def install_command(extra: str) -> str:
    """The command that adds an extra to this installation: with the wheel, the archive or the checkout it was installed from."""
    return f'"{sys.executable or "python"}" -m pip install {_requirement(extra)}'


def _requirement(extra: str) -> str:
    """What to give to pip. The name alone is right only if BulletLM came from an index, since it may not be published."""
    checkout = Path(__file__).resolve().parents[2]
    not_recorded = (
        f"--editable {_quote(f'{checkout}[{extra}]')}" if (checkout / "pyproject.toml").is_file() else _quote(f"bulletlm[{extra}]")
    )
    try:
        record = json.loads(distribution("bulletlm").read_text("direct_url.json") or "{}")  # PEP 610
    except PackageNotFoundError:
        return not_recorded
    url = record.get("url", "")
    if not url:
        return not_recorded
    parts = urlsplit(url)
    if parts.scheme != "file":
        return _quote(f"bulletlm[{extra}] @ {url}")
    editable = "--editable " if record.get("dir_info", {}).get("editable") else ""
    return editable + _quote(f"{url2pathname(parts.path)}[{extra}]")


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def _quote(word: str) -> str:
    if os.name == "nt":
        return f'"{word}"'
    return shlex.quote(word)
