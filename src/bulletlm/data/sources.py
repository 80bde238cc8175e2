"""Finding the files that the configuration names: files, folders, globs, the embedded corpus, Hugging Face datasets."""

import difflib
import glob
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from bulletlm.data.structure import Documents
from bulletlm.errors import DataError

if TYPE_CHECKING:
    from bulletlm.config.schema import DataConfig, Source

SAMPLE = "sample"
"""The source that stands for the corpus of the package."""

HUGGING_FACE = "hf://"

KINDS = (".txt", ".jsonl", ".json", ".tsv", ".csv", ".parquet")
PACKINGS = (".gz", ".xz")
_KINDS_SAID = "a .txt, .jsonl, .tsv or .parquet file"

_NOT_DATA = ("credits", "licence", "license", "readme")


@dataclass(frozen=True)
class SourceFile:
    """One file to read.

    Attributes:
        name: what rows and reports call it: the same on every machine, and of one file only.
        kind: its ending without packing; ".arrow" for a file of a Hugging Face dataset.
        language: a language code, or "auto".
        named: the configuration names this very file, so damage in it is an error and not a note.
        text: name of the column that holds text.
        source: number of its entry in data.sources.
        columns: what its columns hold, as `data.sources[].columns` has it.
        member: name of the member, where `path` is a .zip; else "".
        documents: what separates the documents of a text file, as `data.sources[].documents` has it.
    """

    path: Path
    name: str
    kind: str
    language: str
    named: bool
    text: str = "text"
    source: int = 0
    columns: Mapping[str, str | int] = field(default_factory=dict)
    member: str = ""
    documents: Documents = "auto"


@dataclass(frozen=True)
class Skipped:
    """A file in a folder that was not read, or not to its end."""

    name: str
    reason: str


def source_files(config: "DataConfig") -> list[Path]:
    """Every file that the configuration reads, in reading order.

    Raises:
        DataError: as `find_files`.
    """
    return [file.path for file in find_files(config)[0]]


def find_files(config: "DataConfig") -> tuple[list[SourceFile], list[Skipped]]:
    """The files to read, in reading order, and those in folders that are left out.

    Raises:
        DataError: a path does not exist (with the nearest name that does), holds nothing to read, or is of unknown kind.
    """
    files: dict[Path, SourceFile] = {}
    skipped: dict[str, Skipped] = {}
    names: set[str] = set()
    for number, source in enumerate(config.sources):
        found, left_out = _find(source)
        documents = "blank_line" if source.path == SAMPLE else source.documents
        for file in found:
            if file.path.resolve() in files:
                continue
            name, copies = file.name, 1
            while name in names:
                copies += 1
                name = f"{file.name} ({copies})"
            names.add(name)
            files[file.path.resolve()] = replace(
                file, name=name, text=source.text, source=number, columns=source.columns, documents=documents
            )
        for item in left_out:
            skipped.setdefault(item.name, item)
    return list(files.values()), list(skipped.values())


def _find(source: "Source") -> tuple[list[SourceFile], list[Skipped]]:
    text, language = source.path, source.language
    if text == SAMPLE:
        folder = Path(str(importlib.resources.files("bulletlm.data"))) / "sample"
        return _in_folder(folder, folder, SAMPLE, language)
    if text.startswith(HUGGING_FACE):
        return _of_dataset(text, language), []
    path = Path(text).expanduser()
    if path.is_dir():
        return _in_folder(path, path, path.resolve().name, language)
    if path.is_file():
        kind = _kind(path)
        if kind is None:
            endings = ", ".join(KINDS)
            raise DataError(f"data.sources: {text} is of no known kind: its name must end in one of {endings} (also packed as .gz or .xz)")
        return [SourceFile(path, path.name, kind, language, named=True)], []
    if glob.has_magic(text):
        return _matching(text, language)
    raise DataError(f"data.sources: {text} does not exist{_suggestion(path)}")


def _in_folder(folder: Path, top: Path, name: str, language: str) -> tuple[list[SourceFile], list[Skipped]]:
    files, skipped = [], []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(top)
        if not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        kind, shown = _kind(path), f"{name}/{inside.as_posix()}"
        if kind is None:
            skipped.append(Skipped(shown, f"not {_KINDS_SAID}"))
        elif any(word in path.name.lower() for word in _NOT_DATA):
            skipped.append(Skipped(shown, "named as credits, licence or readme"))
        else:
            files.append(SourceFile(path, shown, kind, language, named=False))
    if not files:
        raise DataError(f"data.sources: there is no {_KINDS_SAID[2:]} in the folder {folder}: name another folder")
    return files, skipped


def _matching(pattern: str, language: str) -> tuple[list[SourceFile], list[Skipped]]:
    # Path.glob takes no absolute patterns.
    matches = [Path(match) for match in sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))]  # noqa: PTH207
    if not matches:
        raise DataError(f"data.sources: nothing matches {pattern}: check the pattern, or name a file or folder")
    files: list[SourceFile] = []
    skipped: list[Skipped] = []
    for match in matches:
        if match.is_dir():
            continue
        kind = _kind(match)
        if kind is None:
            skipped.append(Skipped(match.name, f"not {_KINDS_SAID}"))
        else:
            files.append(SourceFile(match, match.name, kind, language, named=False))
    if not files:
        raise DataError(f"data.sources: no {_KINDS_SAID[2:]} matches {pattern}: name another pattern")
    return files, skipped


def _of_dataset(text: str, language: str) -> list[SourceFile]:
    """The Arrow files of hf://NAME?split=train&config=NAME, where NAME is owner/dataset or a local folder.

    The dataset is downloaded, or prepared from its folder, by the `datasets` package into its own cache.
    """
    name, _, query = text.removeprefix(HUGGING_FACE).partition("?")
    options = dict(parse_qsl(query))
    split = options.pop("split", "train")
    subset = options.pop("config", None)
    if options or not name or "[" in split:
        raise DataError(f"data.sources: {text}: write hf://owner/dataset, with ?split=train&config=name where needed")
    try:
        from datasets import Dataset, load_dataset, load_from_disk
    except ImportError:
        raise DataError(f"data.sources: {text} needs the datasets package: pip install 'bulletlm[data]'") from None
    try:
        if (Path(name) / "dataset_info.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
            loaded = load_from_disk(name)
            dataset = loaded if isinstance(loaded, Dataset) else loaded[split]
        else:
            dataset = load_dataset(name, subset, split=split)
    except Exception as error:  # whatever network, cache or the builder of a dataset raises
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"data.sources: cannot load {text} ({type(error).__name__}: {reason}): check the name, or download it first"
        ) from None
    shown = Path(name).name if Path(name).exists() else name
    paths = [Path(file["filename"]) for file in dataset.cache_files]
    return [SourceFile(path, f"hf/{shown}/{split}/{number}", ".arrow", language, named=True) for number, path in enumerate(paths)]


def _kind(path: Path) -> str | None:
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in PACKINGS:
        endings.pop()
    return endings[-1] if endings and endings[-1] in KINDS else None


def _suggestion(path: Path) -> str:
    """The nearest thing that does exist, for a path that does not."""
    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    near = difflib.get_close_matches(path.name, [entry.name for entry in parent.iterdir()], n=1, cutoff=0.6)
    if near:
        return f": did you mean {parent / near[0]}?"
    return f": there is nothing of that name in {parent.resolve()}"
