"""The tasks of `bullet benchmark`, and readers for the layouts in which public test sets are published (docs/benchmarks.md).

A test set is for measuring only. Nothing here is shipped with the package, and no other module reads these files.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

from bulletlm.config.loader import read_values
from bulletlm.data.language import detect
from bulletlm.data.language_names import ENGLISH_NAMES, language_of_name
from bulletlm.errors import ConfigError, DataError
from bulletlm.files import read_regular
from bulletlm.terminal import printable

KINDS = ("halves", "pairs", "choice", "translation", "text")
"""What a task measures: bits of the second half of a sentence; a good sentence against a bad one; the likeliest of several
continuations; translation (chrF); bits per byte of a text."""


class Pair(NamedTuple):
    """A minimal pair; `group` is the phenomenon that it tests, or ""."""

    good: str
    bad: str
    group: str = ""


class Question(NamedTuple):
    """A text, its possible continuations, and the index of the right one."""

    context: str
    options: tuple[str, ...]
    answer: int


class Sentence(NamedTuple):
    """A sentence to translate, with one or more right translations."""

    source: str
    references: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One measurement.

    Attributes:
        name: for tables, such as "FLORES devtest".
        kind: one of KINDS.
        language: code of the language of the text; of a translation, the target's.
        items: sentences or documents (str) for "halves" and "text"; Pair, Question or Sentence for the others.
        benchmark: the key of its published scores, or "".
        split: "devtest", "dev" or "".
        source_language: of a translation.
        delimiter: what stands before a continuation or a sentence of a pair: "" or a space.
        prompt: the request for a translation, with {} for the sentence.
    """

    name: str
    kind: str
    language: str
    items: Sequence[Any]
    benchmark: str = ""
    split: str = ""
    source_language: str = ""
    delimiter: str = ""
    prompt: str = ""


class _Parallel(NamedTuple):
    """One side of a test set whose lines are translations of each other in all languages."""

    benchmark: str
    split: str
    language: str
    lines: list[str]


# --- suites -------------------------------------------------------------------------------------------------------------

_FLORES = re.compile(r"([a-z]{3}(?:_[A-Z][a-z]{3})?)\.(dev|devtest)|flores\d*-(dev|devtest)\.([a-z]{2,3})")
_NTREX = re.compile(r"newstest2019-(?:src|ref)(?:-\d)?\.([a-z]{3})(?:-[A-Za-z]+)?\.txt")

NAMED: Mapping[str, tuple[str, Callable[[Path], bool]]] = {
    "flores": ("mar_Deva.devtest, eng_Latn.devtest", lambda path: bool(_FLORES.fullmatch(path.name))),
    "ntrex": ("newstest2019-ref.mar.txt, newstest2019-src.eng.txt", lambda path: bool(_NTREX.fullmatch(path.name))),
    "blimp": (
        "blimp/data/*.jsonl",
        lambda path: path.suffix == ".jsonl" and "blimp" in _folders(path) and "multiblimp" not in _folders(path),
    ),
    "multiblimp": ("multiblimp/mar/data.tsv", lambda path: path.suffix == ".tsv" and "multiblimp" in _folders(path)),
    "tatoeba": (
        "tatoeba/mar-eng.tsv",
        lambda path: path.suffix in (".tsv", ".txt") and "tatoeba" in f"{_folders(path)} {path.name.lower()}",
    ),
}
"""Name of a suite -> an example of its files, and whether a file below the data folder belongs to it."""


def _folders(path: Path) -> str:
    """The names of the two folders around a file, in lower case."""
    return " ".join(part.lower() for part in path.parts[-3:-1])


def load_suite(
    suite: str, data: Path, languages: Collection[str] = (), kinds: Collection[str] = KINDS, limit: int | None = None
) -> list[Task]:
    """The tasks of a suite.

    Args:
        suite: a file (a test set, or a .json, .jsonc or .json5 file that lists tasks), a folder of test sets, or a name of NAMED.
        data: the folder in which the files of a named suite are searched.
        languages: only tasks in these languages; empty for all.
        kinds: only tasks of these kinds.
        limit: items of a task at most, evenly spaced.

    Raises:
        ConfigError: `suite` is neither a file nor a name, or lists tasks in a wrong way.
        DataError: a file cannot be read, or nothing is left to measure.
    """
    path = Path(suite)
    if path.is_dir():
        tasks = _tasks_of([file for file in sorted(path.rglob("*")) if file.is_file() and _is_known(file)], languages)
        missing = f"{path} holds no test set whose layout is known"
    elif path.suffix in (".json", ".jsonc", ".json5") and path.is_file():
        tasks, missing = _listed(path), f"{path} lists no task"
    elif path.is_file():
        tasks, missing = _tasks_of([path], ()), f"{path} holds nothing to measure"
    elif suite in NAMED:
        example, belongs = NAMED[suite]
        files = [file for file in sorted(data.rglob("*")) if file.is_file() and belongs(file)] if data.is_dir() else []
        tasks = _tasks_of(_one_split(files), languages)
        missing = f"{data} has no files of {suite}, such as {example}"
    else:
        raise ConfigError(f"--suite {printable(suite)}: there is no such file, and the names are {', '.join(NAMED)}")
    if not tasks:
        raise DataError(f"{missing}: docs/benchmarks.md says where each test set comes from, and --data names the folder")
    chosen = [
        task
        for task in tasks
        if task.kind in kinds and (not languages or {task.language, task.source_language or task.language} <= {*languages})
    ]
    if not chosen:
        found = ", ".join(sorted({f"{task.kind} in {task.language}" for task in tasks}))
        raise DataError(f"{printable(suite)} has only {found}: choose others with --languages and --tasks")
    return [replace(task, items=_spaced(task.items, limit)) for task in chosen]


def _spaced(items: Sequence[Any], limit: int | None) -> Sequence[Any]:
    if limit is None or len(items) <= limit:
        return items
    return [items[number * len(items) // limit] for number in range(limit)]


def _one_split(files: list[Path]) -> list[Path]:
    """Only the devtest part of FLORES, for which scores are published, where it is there."""
    devtest = [file for file in files if "devtest" in file.name]
    return devtest if devtest and all(_FLORES.fullmatch(file.name) for file in files) else files


def _is_known(path: Path) -> bool:
    return path.suffix in (".jsonl", ".tsv", ".txt") or bool(_FLORES.fullmatch(path.name))


def _tasks_of(files: Sequence[Path], languages: Collection[str]) -> list[Task]:
    """The tasks of several files; the sides of a parallel test set also become translations."""
    tasks: list[Task] = []
    found: dict[tuple[str, str, str], _Parallel] = {}
    for path in sorted(files, key=lambda path: (len(path.name), path)):  # ...ref.eng-GB.txt is another version of ...src.eng.txt
        side = _parallel(path)
        if side is None:
            tasks += read_tasks(path)
        elif not languages or side.language in languages:
            found.setdefault((side.benchmark, side.split, side.language), side)
    sides = list(found.values())
    tasks += [
        Task(
            name=f"{side.benchmark.upper()} {side.split}".strip(),
            kind="halves",
            language=side.language,
            items=side.lines,
            benchmark=side.benchmark,
            split=side.split,
        )
        for side in sides
    ]
    if len(sides) <= MOST_SIDES:
        for source, target in permutations(sides, 2):
            if (source.benchmark, source.split) == (target.benchmark, target.split) and source.language != target.language:
                pairs = list(zip(source.lines, target.lines, strict=False))
                if len(source.lines) != len(target.lines):
                    raise DataError(
                        f"{source.benchmark} {source.split}: {source.language} has {len(source.lines):,} lines, but {target.language} has "
                        f"{len(target.lines):,}: the lines of one test set must be translations of each other"
                    )
                tasks.append(_translation(f"{source.benchmark.upper()} {source.split}".strip(), source.language, target.language, pairs))
    return _grouped(tasks)


MOST_SIDES = 4
"""Languages of a parallel test set between which translations are measured; with more, name them with --languages."""


def _grouped(tasks: list[Task]) -> list[Task]:
    """Minimal pairs of several files of one benchmark and language are one task."""
    merged: dict[tuple[str, str, str], Task] = {}
    others: list[Task] = []
    for task in tasks:
        key = (task.benchmark, task.kind, task.language)
        if task.kind != "pairs" or not task.benchmark:
            others.append(task)
        elif key in merged:
            merged[key] = replace(merged[key], items=[*merged[key].items, *task.items])
        else:
            merged[key] = task
    return [*merged.values(), *others]


def _parallel(path: Path) -> _Parallel | None:
    if match := _FLORES.fullmatch(path.name):
        benchmark, split, language = "flores", match[2] or match[3], _code(match[1] or match[4])
    elif match := _NTREX.fullmatch(path.name):
        benchmark, split, language = "ntrex", "", _code(match[1])
    else:
        return None
    lines = _text(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    sentences = [line.strip() for line in lines]
    if empty := next((number for number, line in enumerate(sentences, 1) if not line), 0):
        raise DataError(f"{path} line {empty} is empty: every line of this test set must hold one sentence")
    return _Parallel(benchmark, split, language, sentences) if sentences else None


def _code(name: str) -> str:
    """mar_Deva, mar or mr -> mr; a language that is not in BulletLM's table keeps its code."""
    return language_of_name(name) or name.split("_")[0].lower()


def _translation(name: str, source: str, target: str, pairs: Iterable[tuple[str, str]], prompt: str = "") -> Task:
    """Translations of one sentence are its references."""
    references: dict[str, dict[str, None]] = {}
    for text, translated in pairs:
        references.setdefault(text, {})[translated] = None
    items = [Sentence(text, tuple(found)) for text, found in references.items()]
    prompt = prompt or f"Translate into {ENGLISH_NAMES.get(target, target)}: {{}}"
    if prompt.count("{}") != 1:
        raise ConfigError(f"prompt {prompt!r} must hold {{}} once, for the sentence")
    return Task(name=name, kind="translation", language=target, items=items, source_language=source, prompt=prompt)


# --- files --------------------------------------------------------------------------------------------------------------


def read_tasks(path: Path) -> list[Task]:
    """The tasks of one file, recognized by its name and its first line.

    Raises:
        DataError: the file cannot be read, or a line does not have the layout of the first; the message names the line.
    """
    if (side := _parallel(path)) is not None:
        return _tasks_of([path], (side.language,))
    if path.suffix == ".jsonl":
        return _jsonl(path)
    if path.suffix == ".tsv" or (path.suffix == ".txt" and "\t" in _text(path).partition("\n")[0]):
        return _table(path)
    documents = [part.strip() for part in re.split(r"\n[ \t]*\n", _text(path)) if part.strip()]
    return [Task(name=path.name, kind="text", language=_language(documents), items=documents)] if documents else []


def _text(path: Path) -> str:
    try:
        return read_regular(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): check the name and the permissions") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start:,}): convert it") from None


def _language(texts: Iterable[str]) -> str:
    """The language of most characters of some texts."""
    amounts: dict[str, int] = {}
    for text, _ in zip(texts, range(50), strict=False):
        language = detect(text)
        amounts[language] = amounts.get(language, 0) + len(text)
    return max(amounts, key=lambda code: amounts[code], default="und")


_GOOD_BAD = (("sentence_good", "sentence_bad"), ("sen", "wrong_sen"), ("good", "bad"))
_GROUPS = ("UID", "phenomenon", "group", "linguistics_term")
_CONTEXTS = ("context", "question", "query", "ctx", "premise")
_OPTIONS = ("choices", "endings", "options")
_ANSWERS = ("answer", "label", "gold", "answerKey")
_SIDES = (("source", "target"), ("source", "references"))

LAYOUTS = "sentence_good and sentence_bad (BLiMP), good and bad, question, choices and answer, source and target, or text"


def _jsonl(path: Path) -> list[Task]:
    rows: list[tuple[str, dict[str, Any]]] = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{where} is not JSON: write one object per line") from None
        if not isinstance(row, dict):
            raise DataError(f"{where} must be an object with {LAYOUTS}")
        rows.append((where, row))
    if not rows:
        return []
    first = rows[0][1]
    stem = path.stem
    for good, bad in _GOOD_BAD:
        if good in first and bad in first:
            return [_pairs(path, [(where, row, good, bad) for where, row in rows])]
    if any(key in first for key in _OPTIONS):
        questions = [_question(where, row) for where, row in rows]
        return [Task(name=stem, kind="choice", language=_language(q.context for q in questions), items=questions, delimiter=" ")]
    for source, target in _SIDES:
        if source in first and target in first:
            pairs = [(_string(where, row, source), text) for where, row in rows for text in _strings(where, row, target)]
            return [_translation(stem, _language(a for a, _ in pairs), _language(b for _, b in pairs), pairs)]
    if "text" in first and "iso_639_3" in first:  # FLORES+
        by_language: dict[str, list[str]] = {}
        for where, row in rows:
            by_language.setdefault(_code(_string(where, row, "iso_639_3")), []).append(_string(where, row, "text"))
        return [
            Task(name="FLORES+", kind="halves", language=code, items=lines, benchmark="flores", split=_split_of(path))
            for code, lines in by_language.items()
        ]
    if "text" in first:
        documents = [_string(where, row, "text") for where, row in rows]
        return [Task(name=stem, kind="text", language=_language(documents), items=documents)]
    raise DataError(f"{path} has an unknown layout: its lines need {LAYOUTS}")


def _split_of(path: Path) -> str:
    return next((split for split in ("devtest", "dev") if split in str(path)), "")


def _pairs(path: Path, rows: list[tuple[str, Mapping[str, Any], str, str]]) -> Task:
    folders = _folders(path)
    group = next((key for key in _GROUPS if key in rows[0][1]), "")
    items = [
        Pair(_string(where, row, good), _string(where, row, bad), str(row.get(group, "")) if group else "")
        for where, row, good, bad in rows
    ]
    benchmark = "multiblimp" if rows[0][2] == "sen" else "blimp" if rows[0][2] == "sentence_good" else ""
    code = language_of_name(path.parent.name) if benchmark == "multiblimp" else "en" if benchmark == "blimp" else None
    name = {"blimp": "BLiMP", "multiblimp": "MultiBLiMP"}.get(benchmark, path.stem)
    language = code or _language(pair.good for pair in items)
    whole = benchmark != "blimp" or "blimp" in folders
    return Task(name=name if whole else f"{name} {path.stem}", kind="pairs", language=language, items=items, benchmark=benchmark)


def _question(where: str, row: Mapping[str, Any]) -> Question:
    context = next((_string(where, row, key) for key in _CONTEXTS if key in row), None)
    options = row[next(key for key in _OPTIONS if key in row)] if any(key in row for key in _OPTIONS) else None
    labels: list[Any] = []
    if isinstance(options, dict):  # as ARC has it: {"text": [...], "label": ["A", ...]}
        labels, options = options.get("label", []), options.get("text")
    answer = next((row[key] for key in _ANSWERS if key in row), None)
    if context is None or not isinstance(options, list) or len(options) < 2 or not all(isinstance(o, str) and o.strip() for o in options):
        raise DataError(f"{where} needs a question, and choices: a list of at least two texts")
    index = -1
    if isinstance(labels, list) and answer in labels:
        index = labels.index(answer)
    elif isinstance(answer, bool):
        index = -1
    elif isinstance(answer, int) or (isinstance(answer, str) and answer.isdecimal() and answer not in options):
        index = int(answer)
    elif isinstance(answer, str) and answer in options:
        index = options.index(answer)
    elif isinstance(answer, str) and len(answer) == 1 and answer.upper() in "ABCDEFGHIJ":
        index = "ABCDEFGHIJ".index(answer.upper())
    if not 0 <= index < len(options):
        raise DataError(f"{where}: the answer {answer!r} must be the number of a choice from 0, its letter, or its text")
    return Question(context, tuple(options), index)


def _table(path: Path) -> list[Task]:
    """MultiBLiMP with its heading, or sentence pairs in two to four columns as Tatoeba publishes them."""
    csv.field_size_limit(1 << 24)
    text = _text(path)
    first = text.partition("\n")[0].split("\t")
    for good, bad in _GOOD_BAD:
        if good in first and bad in first:
            rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
            return [_pairs(path, [(f"{path} row {n}", row, good, bad) for n, row in enumerate(rows, 1)])] if rows else []
    pairs: list[tuple[str, str]] = []
    codes: list[str | None] = [None, None]
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) < 2:
            raise DataError(f"{path} line {number} has no tab: each line must hold a sentence and its translation")
        at = (0, 1)
        if len(cells) >= 4 and cells[0].isdecimal() and cells[2].isdecimal():  # id, sentence, id, sentence
            at = (1, 3)
        elif len(cells) == 4 and all(re.fullmatch(r"[a-z]{3}(_[A-Z][a-z]{3})?", cell) for cell in cells[:2]):  # language, language, ...
            at, codes = (2, 3), [_code(cells[0]), _code(cells[1])]
        source, target = (cells[column].strip() for column in at)
        if not source or not target:
            raise DataError(f"{path} line {number} has an empty sentence: remove the line")
        pairs.append((source, target))
    if not pairs:
        return []
    a, b = codes[0] or _language(a for a, _ in pairs), codes[1] or _language(b for _, b in pairs)
    if a == b:
        raise DataError(f"{path}: both columns seem to be in the language {a}: name the task in a suite file with source and target")
    name = "Tatoeba" if "tatoeba" in f"{_folders(path)} {path.name.lower()}" else path.stem
    return [_translation(name, a, b, pairs), _translation(name, b, a, [(b, a) for a, b in pairs])]


def _string(where: str, row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key} must be a text that is not empty")
    return value.strip()


def _strings(where: str, row: Mapping[str, Any], key: str) -> list[str]:
    values = row.get(key)
    if isinstance(values, list) and values:
        return [_string(where, {key: value}, key) for value in values]
    return [_string(where, row, key)]


# --- lists of tasks -----------------------------------------------------------------------------------------------------

_TASK_KEYS = {"kind", "file", "source", "target", "language", "source_language", "name", "benchmark", "split", "delimiter", "prompt"}


def _listed(path: Path) -> list[Task]:
    """The tasks of a suite file: {"tasks": [{"kind": "pairs", "file": "...", ...}]}; paths are relative to its folder."""
    values = read_values(path)
    entries = values.get("tasks")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f'{path} must hold {{"tasks": [{{"kind": "pairs", "file": "pairs.jsonl"}}, ...]}}')
    return [_entry(entry, path.parent, f"{path} task {number}") for number, entry in enumerate(entries, 1)]


def _entry(entry: Mapping[str, Any], folder: Path, where: str) -> Task:
    if unknown := sorted(set(entry) - _TASK_KEYS):
        raise ConfigError(f"{where} has the unknown key {unknown[0]!r}: the keys are {', '.join(sorted(_TASK_KEYS))}")
    if wrong := next((key for key, value in entry.items() if not isinstance(value, str)), None):
        raise ConfigError(f"{where}: {wrong} must be a text")
    kind = entry.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"{where}: kind is {kind!r}: it must be one of {', '.join(KINDS)}")
    if kind == "translation" and "source" in entry and "target" in entry:
        sides = [[line.strip() for line in _text(folder / entry[key]).strip("\n").split("\n")] for key in ("source", "target")]
        if len(sides[0]) != len(sides[1]):
            raise DataError(f"{where}: the source has {len(sides[0]):,} lines and the target {len(sides[1]):,}: they must correspond")
        languages = [entry.get(key) or _language(side) for key, side in zip(("source_language", "language"), sides, strict=True)]
        name = entry.get("name", Path(entry["target"]).name)
        return _translation(name, languages[0], languages[1], zip(sides[0], sides[1], strict=True), entry.get("prompt", ""))
    if "file" not in entry:
        raise ConfigError(f"{where} needs file{' (or source and target)' if kind == 'translation' else ''}")
    path = folder / entry["file"]
    if kind == "halves" and _parallel(path) is None:
        lines = [line.strip() for line in _text(path).split("\n") if line.strip()]
        tasks = [Task(name=path.name, kind="halves", language=_language(lines), items=lines)]
    else:
        tasks = [task for task in read_tasks(path) if task.kind == kind]
    wanted = [entry[key] for key in ("language",) if key in entry]
    tasks = [task for task in tasks if len(tasks) == 1 or not wanted or task.language in wanted]
    if len(tasks) != 1:
        found = ", ".join(sorted({task.kind for task in read_tasks(path)})) if path.suffix != ".txt" else "text"
        raise ConfigError(f"{where}: {path} holds {len(tasks)} tasks of the kind {kind} ({found}): name the language, or another kind")
    changes = {
        key: entry[key] for key in ("name", "language", "source_language", "benchmark", "split", "delimiter", "prompt") if key in entry
    }
    if changes.get("prompt", "{}").count("{}") != 1:
        raise ConfigError(f"{where}: prompt must hold {{}} once, for the sentence")
    return replace(tasks[0], **changes)
