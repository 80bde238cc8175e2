"""Finds the files that the configuration names: files, folders, globs, the embedded corpus, Hugging Face datasets."""

import difflib
import glob
import gzip
import hashlib
import importlib.resources
import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from bulletlm.data.kinds import ARCHIVE, SAID, endings, kind_of_beginning, kind_of_name, why_hidden, why_not_read
from bulletlm.data.structure import Documents
from bulletlm.errors import DataError
from bulletlm.extras import install_command
from bulletlm.files import expand_home, open_regular, sha256_of_file
from bulletlm.terminal import printable

if TYPE_CHECKING:
    from bulletlm.config.schema import DataConfig, Source

EMBEDDED = ("sample", "simple")
"""Sources that stand for the two parts of the corpus in the package: folders of bulletlm.data (docs/corpus-style.md). "simple/PATTERN"
stands for files of a part."""

_PACKED = ".gz"
"""Ending of the files of the corpus in an installation (setup.py packs them); their names here are those in a checkout."""

HUGGING_FACE = "hf://"

RUN_FILES = ("choice.json", "files.json", "log.txt", "process.json", "recipe.jsonc", "stages.json")
"""Files of a run folder; a folder with two of them is one. Each run has at least two before it reads its text."""

_LOOKED_AT = 4_096
_MOST_MEMBERS = 100_000


@dataclass(frozen=True)
class SourceFile:
    """One file to read.

    Attributes:
        name: the name on the screen and in files of the run folder that stay on this computer; unique, and the same on every machine.
        label: what stands for the name in everything that leaves the computer (`set_labels`); unique.
        kind: its extension without that of the compression; ".arrow" for a file of a Hugging Face dataset.
        language: a language code, or "auto".
        named: whether the configuration names this file itself, so that damage in it is an error and not a note.
        text: name of the text column.
        source: index of its entry in data.sources.
        columns: the roles of its columns, the setting `data.sources[].columns`.
        member: name of the member if `path` is a .zip, else "". `member_bytes`: its compressed size.
        documents: what separates the documents of a text file, the setting `data.sources[].documents`.
        share: share of its blocks that is read, as `data.sources[].share` has it.
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
    member_bytes: int = 0
    documents: Documents = "auto"
    share: float = 1.0
    label: str = ""

    @property
    def bytes_on_disk(self) -> int:
        """Size of the file or member as it is stored."""
        return self.member_bytes if self.member else self.path.stat().st_size

    @property
    def label_on_disk(self) -> str:
        """The label of `path`: for a member of a .zip, that of the whole archive."""
        return self.label.rpartition("/")[0] if self.member else self.label


@dataclass(frozen=True)
class Skipped:
    """A file in a folder that was not read, or only in part. Names in `reason` are in parentheses or after a colon."""

    name: str
    reason: str


def is_embedded(path: str) -> bool:
    """Whether a source is in the package: a part of its corpus, or texts of a part (EMBEDDED)."""
    part, slash, pattern = path.partition("/")
    return part in EMBEDDED and (
        not slash or any(fnmatchcase(file.name.removesuffix(_PACKED), pattern) for file in _folder(part).glob("*.*"))
    )


def _folder(part: str) -> Path:
    return Path(str(importlib.resources.files("bulletlm.data"))) / part


def identify_source(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file that is read; of a packed file of the corpus, those of the text in it.

    So a model names the same text whether it was made with an installation or with a checkout.
    """
    if path.name.endswith(_PACKED) and path.parent in [_folder(part) for part in EMBEDDED]:
        with gzip.open(path) as file:
            text = file.read()
        return len(text), hashlib.sha256(text).hexdigest()
    return path.stat().st_size, sha256_of_file(path)


def unicode_name(name: str) -> str:
    """A file name as text that can be written as UTF-8: bytes that are not UTF-8 are shown as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def source_files(config: "DataConfig") -> dict[Path, str]:
    """Every file that the configuration reads, in reading order, and its label (`set_labels`).

    Raises:
        DataError: see `find_files`.
    """
    return {file.path: file.label_on_disk for file in find_files(config)[0]}


def find_held_out(config: "DataConfig") -> tuple[list[SourceFile], list[Skipped]]:
    """The files of data.held_out, and those in its folders that are left out.

    Raises:
        DataError: a path does not exist or has an unknown type.
    """
    if not config.held_out:
        return [], []
    try:
        sources = [type(config.sources[0])(path=path) for path in config.held_out]
        alone = {"sources": sources, "mix": config.mix.model_copy(update={"general": 0.0})}  # data.mix.general would add its sources
        return find_files(config.model_copy(update=alone))
    except DataError as error:
        raise DataError(str(error).replace("data.sources", "data.held_out")) from None


def source_terms(config: "DataConfig") -> list[dict[str, str]]:
    """What the model card says about each source: label, license, attribution, and the name of a data set of the Hugging Face hub.

    Sources of which nothing is known are left out; a path or a file name is never given.
    """
    terms = []
    for number, source in enumerate(config.all_sources, 1):
        known: dict[str, str] = {}
        if is_embedded(source.path):
            known = {"license": "CC0-1.0", "attribution": "BulletLM, embedded corpus"}
        elif source.path.startswith(HUGGING_FACE) and not Path(name := source.path.removeprefix(HUGGING_FACE).partition("?")[0]).exists():
            known = {"dataset": name}
        known |= {key: value for key in ("license", "attribution") if (value := getattr(source, key))}
        if known:
            label = source.label or (source.path if is_embedded(source.path) else known.get("dataset", f"source {number}"))
            terms.append({"label": label, **known})
    return terms


def find_files(config: "DataConfig") -> tuple[list[SourceFile], list[Skipped]]:
    """The files to read, in reading order, and those in folders that are left out.

    Raises:
        DataError: a path does not exist (the message suggests a similar name), contains no readable file, or has an unknown type.
    """
    files: dict[tuple[Path, str], SourceFile] = {}
    skipped: dict[str, Skipped] = {}
    names: set[str] = set()
    for number, source in enumerate(config.all_sources):
        try:
            found, left_out = _find(source)
        except (OSError, RuntimeError, ValueError) as error:  # a folder that cannot be entered, ~nobody, a name with \0
            reason = getattr(error, "strerror", None) or str(error)
            raise DataError(f"data.sources: {printable(source.path)} cannot be read ({printable(reason)}): name another path") from None
        documents: Documents = "blank_line" if is_embedded(source.path) else source.documents
        for file in found:
            key = (file.path.resolve(), file.member)
            if key in files:
                earlier = files[key].source
                if earlier != number < len(config.sources) and _reading(source) != _reading(config.sources[earlier]):
                    reason = f"read already (entry {earlier + 1} of data.sources); for the settings of entry {number + 1}, put it first"
                    skipped.setdefault(file.name, Skipped(file.name, reason))
                continue
            name, copies = file.name, 1
            while name in names:
                copies += 1
                name = f"{file.name} ({copies})"
            names.add(name)
            files[key] = replace(
                file, name=name, text=source.text, source=number, columns=source.columns, documents=documents, share=source.share
            )
        for item in left_out:
            skipped.setdefault(item.name, item)
    return set_labels(list(files.values()), config.all_sources), list(skipped.values())


def _reading(source: "Source") -> dict[str, object]:
    """The settings of a source that decide what is read of its files, and how often it is used."""
    return source.model_dump(exclude={"path", "label", "license", "attribution"})


def set_labels(files: list[SourceFile], sources: "Sequence[Source]") -> list[SourceFile]:
    """Give each file its label: `data.sources[].label`, or else its extension, with a number that makes it unique: txt-1, txt-2.

    A file name can contain the name of a person ("Chat with Asha.txt"), so models and reports carry labels. The members of an archive share
    the label of the archive: zip-1/1, zip-1/2. The corpus in the package keeps its names. Labels depend on the order of the files
    and never on their names or folders.
    """
    paths: dict[Path, SourceFile] = {}
    for file in files:
        paths.setdefault(file.path, file)
    given = Counter(sources[file.source].label for file in paths.values())
    taken = {label for label, count in given.items() if label and count == 1}
    labels: dict[Path, str] = {}
    numbers = Counter[str]()
    for path, file in paths.items():
        source = sources[file.source]
        if is_embedded(source.path):
            labels[path] = file.name
        elif source.label and given[source.label] == 1:
            labels[path] = source.label
        else:
            stem = source.label or (ARCHIVE if file.member else file.kind).removeprefix(".")
            while not labels.get(path):
                numbers[stem] += 1
                if (label := f"{stem}-{numbers[stem]}") not in taken:
                    labels[path] = label
        taken.add(labels[path])
    members = Counter[Path]()
    labelled = []
    for file in files:
        members[file.path] += 1
        inside = f"/{members[file.path]}" if file.member else ""
        labelled.append(replace(file, label=f"{labels[file.path]}{inside}"))
    return labelled


def _find(source: "Source") -> tuple[list[SourceFile], list[Skipped]]:
    text, language = source.path, source.language
    if is_embedded(text):
        part, _, pattern = text.partition("/")
        files = [replace(file, name=file.name.removesuffix(_PACKED)) for file in _in_folder(_folder(part), part, language)[0]]
        return [file for file in files if fnmatchcase(file.name, f"{part}/{pattern or '*'}")], []
    if text.startswith(HUGGING_FACE):
        return _of_dataset(text, language), []
    path = expand_home(text)
    if path.is_dir():
        return _in_folder(path, path.resolve().name, language)
    if path.exists() or path.is_symlink():
        found, skipped = _read_or_skip(path, printable(path.name), language, named=True)
        if not found:
            raise DataError(f"data.sources: {printable(text)}: {skipped[0].reason}")
        return found, skipped
    if glob.has_magic(text):
        return _matching(text, language)
    near = similar_path(path)
    hint = f"did you mean {printable(near)}?" if near else f"there is nothing of that name in {printable(str(_existing(path).resolve()))}"
    raise DataError(f"data.sources: {printable(text)} does not exist: {hint}")


def _in_folder(folder: Path, name: str, language: str) -> tuple[list[SourceFile], list[Skipped]]:
    files: list[SourceFile] = []
    skipped: list[Skipped] = []
    top = folder.resolve()
    if is_run(top):
        raise DataError(
            f"data.sources: {printable(str(folder))} is the folder of a run, and not text: name the folder of the text, or run the "
            "configuration in it"
        )
    for path, problem in sorted(_walk(folder)):
        shown = printable(f"{name}/{path.relative_to(folder).as_posix()}")
        if problem:
            skipped.append(Skipped(unicode_name(shown), problem))
            continue
        found, left_out = _read_or_skip(path, shown, language, named=False, top=top)
        files += found
        skipped += left_out
    if not files:
        raise DataError(f"data.sources: {_nothing_to_read(skipped)} in the folder {printable(str(folder))}: name another folder")
    return files, skipped


def shown_source(path: str) -> str:
    """An entry of data.sources as the names of its files begin: a folder or file without the folders above it."""
    if is_embedded(path) or path.startswith(HUGGING_FACE):
        return path
    return printable(expand_home(path).resolve().name) or path


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run. Its files are results, among them the text that was left out, and not text to learn from."""
    return sum((folder / name).is_file() for name in RUN_FILES) >= 2


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """All files in a folder and its subfolders; with a reason if a path cannot or must not be read."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        yield folder, f"the folder cannot be read ({error.strerror})"
        return
    for entry in found:
        path = folder / entry.name
        if reason := why_hidden(entry.name):
            yield path, reason
        elif entry.is_dir(follow_symlinks=False) and is_run(path):
            yield path, "the folder of a run, which is not text to learn from"
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(path)
        elif entry.is_symlink() and path.is_dir():
            yield path, "a link to a folder, which is not followed: name that folder in data.sources"
        else:
            yield path, ""


def _read_or_skip(path: Path, shown: str, language: str, named: bool, top: Path | None = None) -> tuple[list[SourceFile], list[Skipped]]:
    """A file as one source file, a .zip as its members, or the reason why it is not read.

    Args:
        top: a link that points outside this folder is not followed.
    """
    shown = unicode_name(shown)
    if path.is_symlink():
        if not path.exists():
            return [], [Skipped(shown, "a link to a file that does not exist")]
        if top and not path.resolve().is_relative_to(top):
            return [], [Skipped(shown, "a link to a file outside of the folder, which is not followed: name that file in data.sources")]
    try:
        with open_regular(path) as file:
            beginning = file.read(_LOOKED_AT)
    except OSError as error:
        return [], [Skipped(shown, f"cannot be read ({error.strerror})")]
    if endings(path)[-1:] == [ARCHIVE]:
        return _members(path, shown, language)
    kind = kind_of_name(path) or (kind_of_beginning(beginning) if not endings(path) or path.suffix == ".bz2" else None)
    if kind is None:
        return [], [Skipped(shown, why_not_read(path))]
    return [SourceFile(path, shown, kind, language, named)], []


def _members(path: Path, shown: str, language: str) -> tuple[list[SourceFile], list[Skipped]]:
    """The members of a .zip that are read."""
    files: dict[str, SourceFile] = {}
    skipped: list[Skipped] = []
    try:
        with open_regular(path) as opened, zipfile.ZipFile(opened) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.filename)
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        return [], [Skipped(shown, f"the .zip is damaged ({printable(str(error))[:100]})")]
    if len(entries) > _MOST_MEMBERS:
        return [], [Skipped(shown, f"a .zip of {len(entries):,} files; {_MOST_MEMBERS:,} are read at most: unpack it")]
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        inside = printable(f"{shown}/{name}")
        if entry.is_dir() or entry.filename in files:
            continue
        if reason := next(filter(None, (why_hidden(part) for part in name.parts if part != "..")), ""):
            skipped.append(Skipped(inside, reason))
        elif endings(name)[-1:] == [ARCHIVE]:
            skipped.append(Skipped(inside, "a .zip inside a .zip: unpack it"))
        elif entry.flag_bits & 1:
            skipped.append(Skipped(inside, "protected by a password: unpack it first"))
        elif (kind := kind_of_name(name)) is None or kind == ".parquet":
            skipped.append(Skipped(inside, "unpack it: Parquet files are not read out of a .zip" if kind else why_not_read(name)))
        else:
            files[entry.filename] = SourceFile(path, inside, kind, language, False, member=entry.filename, member_bytes=entry.compress_size)
    if not files:
        reasons = "".join(f": {item.name.removeprefix(shown)[1:]} is {item.reason}" for item in skipped[:1])
        return [], [Skipped(shown, f"a .zip without a file that is read{reasons}")]
    return list(files.values()), skipped


def _matching(pattern: str, language: str) -> tuple[list[SourceFile], list[Skipped]]:
    # Path.glob takes no absolute patterns.
    expanded = expand_home(pattern)
    matches = [Path(match) for match in sorted(glob.glob(str(expanded), recursive=True))]  # noqa: PTH207
    if not matches:
        raise DataError(f"data.sources: nothing matches {printable(pattern)}: check the pattern, or name a file or folder")
    top = expanded
    while glob.has_magic(str(top)):
        top = top.parent
    files: list[SourceFile] = []
    skipped: list[Skipped] = []
    for match in matches:
        if match.is_dir():
            continue
        found, left_out = _read_or_skip(match, printable(match.name), language, named=False, top=top.resolve())
        files += found
        skipped += left_out
    if not files:
        raise DataError(f"data.sources: {_nothing_to_read(skipped)} among what matches {printable(pattern)}: name another pattern")
    return files, skipped


def _nothing_to_read(skipped: list[Skipped]) -> str:
    """The message if no file can be read, with the first reasons."""
    shown = "; ".join(f"{item.name}: {item.reason}" for item in skipped[:2])
    return f"there is no file that is read ({SAID})" + (f", but {shown}," if shown else "")


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
        raise DataError(f"data.sources: {text} needs the datasets package: {install_command('data')}") from None
    try:
        if (Path(name) / "dataset_info.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
            loaded = load_from_disk(name)
            dataset = loaded if isinstance(loaded, Dataset) else loaded[split]
        else:
            dataset = load_dataset(name, subset, split=split)
    except Exception as error:  # the network, the cache or the dataset builder can raise any exception
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"data.sources: cannot load {text} ({type(error).__name__}: {reason}): check the name, or download it first"
        ) from None
    shown = Path(name).name if Path(name).exists() else name
    paths = [Path(file["filename"]) for file in dataset.cache_files]
    return [SourceFile(path, f"hf/{shown}/{split}/{number}", ".arrow", language, named=True) for number, path in enumerate(paths)]


def similar_path(path: Path) -> str:
    """The path of something that exists and has a similar name, for a path that does not exist; "" if there is none."""
    parent = _existing(path)
    wanted = path.relative_to(parent).parts[0] if path.parts else ""
    try:
        names = [entry.name for entry in parent.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return ""
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.6)
    return str(parent / near[0]) if near else ""


def _existing(path: Path) -> Path:
    """The nearest folder above a path that exists."""
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    return parent
