"""Reads .tsv and .csv files: translations, questions and answers, or plain text, as columns.py detects.

Cells may be quoted (RFC 4180), with doubled quotation marks and line ends inside. A .tsv in which quotation marks are ordinary
characters is read without this rule.
"""

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from bulletlm.data.language import has_script, main_script
from bulletlm.data.language_names import SCRIPT_OF
from bulletlm.data.parallel import translations
from bulletlm.data.readers.columns import TablePlan, plan_columns
from bulletlm.data.readers.lines import LINE_BYTES, line_blocks, lines_of
from bulletlm.data.readers.opened import beginning_as_text
from bulletlm.data.readers.raw import BadRow, Block, Listener, RawDocument
from bulletlm.data.sources import SourceFile
from bulletlm.text.documents import Message

_SEPARATOR = re.compile("sep=(.)\\s*$", re.MULTILINE)
"""The first line of a table that tells spreadsheet programs the delimiter."""

_PLANNED_ROWS = 400
_DELIMITERS = ",;\t|"
_MOST_TITLE_ROWS = 5
_LINES_IN_CELL = 1_000
"""A quotation mark that is not closed within this many lines is part of the text."""

_MISTAKES_IN_BLOCK = 20
"""After this many unclosed quotation marks, the rest of a block is read as a table without quoted cells."""


def blocks(file: SourceFile, encoding: str, listener: Listener) -> Iterator[Block | BadRow]:
    """Read the table in blocks of complete rows."""
    sample = beginning_as_text(file, encoding)
    if not sample.strip():
        listener.taken_for("empty table")
        return
    plan = _plan(file, sample)
    listener.taken_for(plan.described)
    if not plan.quoted:
        yield from line_blocks(file, encoding, listener, plan=plan)
        return
    held: Block | None = None
    for block in line_blocks(file, encoding, listener, plan=plan):
        # A block ends outside quoted cells; the rest belongs to the next block.
        if isinstance(block, BadRow):
            if held:
                yield held
                held = None
            yield block
            continue
        if held:
            block = replace(block, first=held.first, data=held.data + block.data)
        end = _last_border(block.data) if len(block.data) < 2 * LINE_BYTES else len(block.data)
        whole, rest = block.data[:end], block.data[end:]
        border = block.first + whole.count(b"\n")
        if whole:
            yield replace(block, last=border - 1, data=whole)
        held = replace(block, first=border, data=rest) if rest else None
    if held:
        yield held


def documents(block: Block, seed: int) -> Iterator[RawDocument | BadRow]:
    """The documents of a block."""
    plan: TablePlan = block.plan
    for item in _rows(block, plan):
        if isinstance(item, BadRow):
            yield item
            continue
        number, cells, line = item
        if number == plan.header:
            continue
        yield from _row(block.file, plan, number, cells, line, seed)


def _plan(file: SourceFile, sample: str) -> TablePlan:
    named = _SEPARATOR.match(sample)
    delimiter = named[1] if named else "\t" if file.kind == ".tsv" else _delimiter(sample)
    quoted = _uses_quotes(sample, delimiter) if file.kind == ".tsv" else True
    rows: list[list[str]] = []
    lines: list[int] = []
    block = Block(file, 1, 0, sample.encode("utf-8", "replace"))
    for item in _rows(block, TablePlan(delimiter, quoted, 0, 0)):
        if not isinstance(item, BadRow):
            lines.append(item[0])
            rows.append([cell.strip() for cell in item[1]])
        if len(rows) >= _PLANNED_ROWS:
            break
    if not rows:
        return TablePlan(delimiter, quoted, 0, 0, described="table without rows")
    titles = _title_rows(rows)
    return plan_columns(rows[titles:], lines[titles], delimiter, quoted, file.columns, file.text, file.language)


def _title_rows(rows: list[list[str]]) -> int:
    """The number of rows with at most one filled cell (a title, a date, nothing) above the headings of a spreadsheet."""
    return next((number for number, row in enumerate(rows[: _MOST_TITLE_ROWS + 1]) if sum(map(bool, row)) > 1), 0)


def _delimiter(sample: str) -> str:
    """The delimiter: the character that occurs equally often in most rows, outside quotation marks."""
    plain = re.sub('"(?:[^"]|"")*"', "", sample)
    lines = [line for line in plain.split("\n") if line.strip()][:100]
    best, most = ",", 0.0
    for delimiter in _DELIMITERS:
        counts = [line.count(delimiter) for line in lines]
        usual = max(set(counts), key=counts.count) if counts else 0
        score = counts.count(usual) / len(counts) if usual else 0.0
        if score > most:
            best, most = delimiter, score
    return best


def _uses_quotes(sample: str, delimiter: str) -> bool:
    """Whether quotation marks enclose cells: some cells contain a doubled mark, a tab or a line end, and nearly all marks are closed."""
    cells = re.compile(rf'(?:^|(?<={delimiter}))"((?:[^"]|"")*)"(?={delimiter}|$)', re.MULTILINE)
    closed = cells.findall(sample)
    opened = len(re.findall(rf'(?:^|(?<={delimiter}))"', sample, re.MULTILINE))
    certain = sum('""' in cell or "\n" in cell or delimiter in cell for cell in closed)
    return certain > 0 and len(closed) > 0.9 * opened


def _last_border(data: bytes) -> int:
    """The end of the last complete row: after a line end with an even number of quotation marks before it; 0 if there is none."""
    end, marks = len(data), data.count(b'"')
    while True:
        mark = data.rfind(b'"', 0, end)
        if marks % 2 == 0:
            border = data.rfind(b"\n", mark + 1, end) + 1
            if border:
                return border
        if mark < 0:
            return 0
        end, marks = mark, marks - 1


def _rows(block: Block, plan: TablePlan) -> Iterator[tuple[int, list[str], str] | BadRow]:
    """Number of the first line, cells and text of each row that is not empty."""
    lines = lines_of(block)
    waiting: deque[tuple[int, str] | BadRow] = deque()
    csv.field_size_limit(4 * LINE_BYTES)  # more than a block has, and the same in every process
    never_closed = 0
    while True:
        item = waiting.popleft() if waiting else next(lines, None)
        if item is None:
            return
        if isinstance(item, BadRow):
            yield item
            continue
        number, line = item
        if number == 1:
            line = line.removeprefix("\ufeff")
        if not line.strip() or (number == 1 and _SEPARATOR.match(line)):
            continue
        if not plan.quoted or '"' not in line or never_closed > _MISTAKES_IN_BLOCK:
            yield number, line.split(plan.delimiter), line
            continue
        parts = [line]
        taken: list[tuple[int, str] | BadRow] = []
        inside = _ends_inside(line, plan.delimiter, False)
        while inside and len(taken) < _LINES_IN_CELL:
            following = waiting.popleft() if waiting else next(lines, None)
            if following is None:
                break
            taken.append(following)
            if isinstance(following, BadRow):
                break
            parts.append(following[1])
            inside = _ends_inside(following[1], plan.delimiter, True)
        if inside:
            never_closed += 1
            waiting.extendleft(reversed(taken))
            yield number, line.split(plan.delimiter), line
            continue
        whole = "\n".join(parts)
        yield number, next(csv.reader(io.StringIO(whole, newline=""), delimiter=plan.delimiter)), whole


def _ends_inside(line: str, delimiter: str, inside: bool) -> bool:
    """Whether a line ends inside a cell in quotation marks; `inside`: whether it begins in one."""
    at = 0
    while True:
        if not inside and line[at : at + 1] == '"':
            inside, at = True, at + 1
        if inside:
            while True:
                mark = line.find('"', at)
                if mark < 0:
                    return True
                at = mark + 1
                if line[at : at + 1] != '"':
                    break
                at += 1
            inside = False
        following = line.find(delimiter, at)
        if following < 0:
            return False
        at = following + 1


def _row(file: SourceFile, plan: TablePlan, number: int, cells: list[str], line: str, seed: int) -> Iterator[RawDocument | BadRow]:
    cells = [cell.strip() for cell in cells]
    if len(cells) < plan.width or (len(cells) > plan.width and any(cells[plan.width :])):
        yield BadRow(file.name, number, "wrong_number_of_columns", line)
        return
    if plan.user >= 0:
        roles = (("system", plan.system), ("user", plan.user), ("assistant", plan.assistant))
        messages: list[Message] = [{"role": role, "content": cells[at]} for role, at in roles if at >= 0 and cells[at]]
        if not cells[plan.user] or not cells[plan.assistant]:
            yield BadRow(file.name, number, "prompt_without_response", line)
            return
        yield RawDocument(file.name, number, file.language, messages=messages)
        return
    texts = [(language, cells[at]) for language, at in plan.texts]
    if not all(text for _, text in texts):
        yield BadRow(file.name, number, "empty_cell", line)
        return
    if len(texts) > 1 and all(language for language, _ in texts):
        pair = _in_their_scripts(dict(texts))
        if pair:
            group = pair.get("en") or next(iter(pair.values()))
            for request, answer, language in translations(pair, seed):
                asked: list[Message] = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
                yield RawDocument(file.name, number, language, messages=asked, group=group)
            return
    for language, text in texts:
        paragraphs = [part for part in text.split("\n") if part.strip()]
        known = language if language and len(texts) == 1 else file.language
        yield RawDocument(file.name, number, known, paragraphs=paragraphs, lines=[number] * len(paragraphs))


def _in_their_scripts(texts: dict[str, str]) -> dict[str, str] | None:
    """Texts by language, swapped if their scripts show the opposite order; None if both are in a script that only one language uses."""
    scripts = {language: SCRIPT_OF.get(language, "") for language in texts}
    if len(texts) != 2 or "latn" not in scripts.values() or len(set(scripts.values())) != 2:
        return texts
    latin = next(language for language, script in scripts.items() if script == "latn")
    other = next(language for language in texts if language != latin)
    has = {language: has_script(text, scripts[other]) for language, text in texts.items()}
    if has[other] and not has[latin]:
        return texts if main_script(texts[latin]) == "latn" else None
    if has[latin] and not has[other] and main_script(texts[other]) == "latn":
        return {latin: texts[other], other: texts[latin]}
    return None
