"""Detects what the columns of a table hold: text in a language, questions and answers, or numbers and labels that are not text."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bulletlm.data.language import detect
from bulletlm.data.language_names import ENGLISH_NAMES, language_of_name
from bulletlm.data.readers.chat import COLUMN_ROLES
from bulletlm.data.readers.raw import NoColumnError

_SAMPLED_CELLS = 60
_LANGUAGE_CHARACTERS = 1_000

_QUESTIONS = (
    "prompt instruction question questions query user human request q que ques question_text प्रश्न प्रश्ने प्र सवाल pregunta frage".split()
)
_ANSWERS = (
    "response completion answer answers output assistant reply bot a ans correct_answer model_answer उत्तर उत्तरे उ योग्य_उत्तर आदर्श_उत्तर "
    "नमुना_उत्तर जवाब respuesta antwort réponse".split()
)
_HEADINGS: dict[str, str] = (
    dict.fromkeys(_QUESTIONS, "user")
    | dict.fromkeys(_ANSWERS, "assistant")
    | dict.fromkeys(("system", "system_prompt"), "system")
    | dict.fromkeys(("text", "content", "sentence", "body", "article", "story", "paragraph", "मजकूर", "वाक्य"), "text")
)
"""Common headings, as `_plain` writes them -> role of the column."""

_NOT_TEXT_HEADINGS = frozenset(
    "id no nr sr srno sr_no sno s_no slno sl_no number index row label labels class category tag tags score marks rating "
    "date time url link split author user_id licence license attribution credits speaker gender age topic क्रमांक क्र अक्र "
    "अ_क्र अनुक्रमांक गुण तारीख दिनांक वेळ".split()
)
_OTHER_HEADINGS = frozenset("source target src tgt original translation sentence1 sentence2 left right title name".split())
_AROUND_A_HEADING = r"[\s\d_.,:;?!।*#/–—-]"
_IN_BRACKETS = re.compile(r"\([^)]*\)|\[[^]]*\]")
_EDGES_OF_A_HEADING = re.compile(f"^{_AROUND_A_HEADING}+|{_AROUND_A_HEADING}+$")
_QUESTION_MARK = re.compile(r"[?？؟][\"”’')]*$")
_ATTRIBUTION = re.compile(r"^(?:CC[ -]?BY|CC0|©|\(c\)|Copyright|https?://|www\.)|tatoeba\.org", re.IGNORECASE)
_LETTER = re.compile(r"[^\W\d_]")
_SENTENCE_END = re.compile(r"[.!?।॥…][\"”’')]*$")
_FEW_LABELS = 0.2
_LABEL_CHARACTERS = 40
_LEAST_QUESTIONS = 0.6
_MOST_QUESTIONS_IN_ANSWERS = 0.2
_LEAST_ROWS_OF_QUESTIONS = 5


@dataclass(frozen=True)
class TablePlan:
    """How the rows of a table are read.

    Attributes:
        delimiter: character between cells. quoted: cells may be in quotation marks (RFC 4180).
        header: number of the line with the names, or 0.
        width: cells in a row.
        texts: (language or "", column) of each column of text, in order.
        user, assistant, system: columns of a conversation, or -1.
        described: a readable description of the detected content.
    """

    delimiter: str
    quoted: bool
    header: int
    width: int
    texts: tuple[tuple[str, int], ...] = ()
    user: int = -1
    assistant: int = -1
    system: int = -1
    described: str = ""


def plan_columns(
    rows: Sequence[Sequence[str]], first_line: int, delimiter: str, quoted: bool, columns: Mapping[str, str | int], text: str, language: str
) -> TablePlan:
    """Detect the content of each column from the first rows.

    Args:
        first_line: line number of the first row.
        columns: `data.sources[].columns`: a role or a language code -> heading, or number of the column from 1.
        text: `data.sources[].text`.
        language: `data.sources[].language`: of a single column of text.

    Raises:
        NoColumnError: the content of the columns is not clear, or a named column does not exist.
    """
    width = Counter(len(row) for row in rows).most_common(1)[0][0]
    full = [row for row in rows if len(row) == width]
    first = list(rows[0]) if len(rows[0]) == width else []
    names = [cell.strip() for cell in first]
    header = bool(first) and _is_header(names, full[1:], columns, text)
    body = full[1:] if header and full and full[0] is rows[0] else full
    names = names if header else []

    def finish(described: str, **parts: object) -> TablePlan:
        return TablePlan(delimiter, quoted, first_line if header else 0, width, described=described, **parts)  # type: ignore[arg-type]

    if columns:
        return _configured(columns, names, width, finish)
    if text != "text":
        if text not in names:
            raise NoColumnError(f"there is no column {text} (it has {', '.join(names) or f'{width} columns without names'})")
        return finish(f"table: text in {text}", texts=((language if language != "auto" else "", names.index(text)),))
    roles = {_HEADINGS[_plain(name)]: number for number, name in reversed(list(enumerate(names))) if _plain(name) in _HEADINGS}
    if "user" in roles and "assistant" in roles:
        described = f"table: questions in {names[roles['user']]}, answers in {names[roles['assistant']]}"
        return finish(described, user=roles["user"], assistant=roles["assistant"], system=roles.get("system", -1))
    found = [number for number in range(width) if _holds_text([row[number] for row in body], names[number] if names else "")]
    named = {number: language_of_name(names[number]) for number in found} if names else {}
    if any(named.values()):
        found = [number for number in found if named[number]]
    elif "text" in roles and len(found) > 1 and _is_longest(roles["text"], found, body):
        found = [roles["text"]]
    if width == 2 and not found and not names:
        found = [0, 1]
    languages = [named.get(number) or _language_of([row[number] for row in body]) for number in found]
    said = [f"{ENGLISH_NAMES.get(code, code)} in {_column(names, number)}" for code, number in zip(languages, found, strict=True)]
    left_out = [_column(names, number) for number in range(width) if number not in found]
    rest = f"; not used: {', '.join(left_out)}" if left_out else ""
    if len(found) == 1:
        code = language if language != "auto" else ""
        return finish(f"table: text, {said[0]}{rest}", texts=((code, found[0]),))
    if len(found) > 1 and len(set(languages)) == len(found) and "und" not in languages:
        return finish(f"table: translations, {', '.join(said)}{rest}", texts=tuple(zip(languages, found, strict=True)))
    if len(found) == 2 and _are_questions(*([row[number] for row in body] for number in found)):
        asked, answered = found
        described = f"table: questions in {_column(names, asked)}, answers in {_column(names, answered)}{rest}"
        return finish(described, user=asked, assistant=answered)
    if len(found) == 2:
        return finish(f"table: sentences, {', '.join(said)}{rest}", texts=tuple(("", number) for number in found))
    shown = ", ".join(names) if names else f"{width} columns without names"
    raise NoColumnError(f"it is not clear which columns hold text (it has {shown}): {_advice(names)}")


def _advice(names: Sequence[str]) -> str:
    first, second = (names[0], names[1]) if len(names) > 1 else ("1", "2")
    shown = [name if name.isdigit() else f'"{name}"' for name in (first, second)]
    return (
        f'map them in data.sources, as in {{"path": ..., "columns": {{"en": {shown[0]}, "mr": {shown[1]}}}}} for translations, '
        '"user" and "assistant" for questions and answers, or "text"'
    )


def _configured(columns: Mapping[str, str | int], names: Sequence[str], width: int, finish: Callable[..., TablePlan]) -> TablePlan:
    places: dict[str, int] = {}
    for role, name in columns.items():
        if isinstance(name, str) and name in names:
            places[role] = names.index(name)
        elif str(name).isdigit() and 1 <= int(name) <= width:
            places[role] = int(name) - 1
        else:
            raise NoColumnError(f"there is no column {name} (it has {', '.join(names) or f'{width} columns without names'})")
    described = "table: " + ", ".join(f"{role} in {_column(names, number)}" for role, number in places.items())
    if "user" in places and "assistant" in places:
        return finish(described, user=places["user"], assistant=places["assistant"], system=places.get("system", -1))
    if "text" in places:
        return finish(described, texts=(("", places["text"]),))
    languages = tuple((role, number) for role, number in places.items() if role not in COLUMN_ROLES)
    if not languages:
        raise NoColumnError('data.sources[].columns needs "user" and "assistant", or "text", or two language codes')
    return finish(described, texts=languages)


def _column(names: Sequence[str], number: int) -> str:
    return names[number] if names and names[number] else f"column {number + 1}"


def _is_header(names: Sequence[str], body: Sequence[Sequence[str]], columns: Mapping[str, str | int], text: str) -> bool:
    """Whether the first row names the columns."""
    if any(name in names for name in [*map(str, columns.values()), text] if not name.isdigit() and name != "text"):
        return True
    plain = [_plain(name) for name in names]
    if {"user", "assistant"} <= {_HEADINGS.get(name) for name in plain} and all(len(name) <= _LABEL_CHARACTERS for name in names):
        return True
    known = [
        short in _HEADINGS or short in _NOT_TEXT_HEADINGS | _OTHER_HEADINGS or language_of_name(name.lower()) is not None
        for name, short in zip(names, plain, strict=True)
    ]
    # "No." is a heading of a wide table; "Time." may be a sentence of a table of translations.
    sentences = any(_SENTENCE_END.search(name) and not (heading and len(names) > 2) for name, heading in zip(names, known, strict=True))
    if sentences or len(set(names)) < len(names) or any(len(name) > _LABEL_CHARACTERS for name in names):
        return False
    if all(known):
        return True
    if not any(known):
        return False
    # One known name among others: a heading does not occur again below, and is shorter than the cells of its column.
    below = [[row[number] for row in body[:_SAMPLED_CELLS]] for number in range(len(names))]
    return len(names) > 2 and all(name not in cells for name, cells in zip(names, below, strict=True))


def _plain(name: str) -> str:
    """A heading in lower case with _ between its words, without what often surrounds it: marks, a number, a remark in brackets."""
    return "_".join(_EDGES_OF_A_HEADING.sub("", _IN_BRACKETS.sub(" ", name.lower())).replace(".", "").split())


def _are_questions(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether most cells of the first of two columns end with a question mark, and few of the second."""
    if len(first) < _LEAST_ROWS_OF_QUESTIONS:
        return False
    asked, answered = (sum(_QUESTION_MARK.search(cell) is not None for cell in cells) / len(cells) for cells in (first, second))
    return asked >= _LEAST_QUESTIONS and answered <= _MOST_QUESTIONS_IN_ANSWERS


def _holds_text(cells: Sequence[str], name: str) -> bool:
    """Whether a column holds sentences rather than numbers, labels, dates, licences or nothing."""
    filled = [cell.strip() for cell in cells if cell.strip()]
    if _plain(name) in _NOT_TEXT_HEADINGS or len(filled) < 0.5 * len(cells) or not filled:
        return False
    with_letters = [cell for cell in filled if _LETTER.search(cell)]
    if len(with_letters) < 0.8 * len(filled):
        return False
    if sum(_ATTRIBUTION.search(cell) is not None for cell in filled) > 0.5 * len(filled):
        return False
    letters = sum(len(_LETTER.findall(cell)) for cell in filled)
    if letters < 0.4 * sum(len(cell.replace(" ", "")) for cell in filled):
        return False
    short = all(len(cell) <= _LABEL_CHARACTERS for cell in filled)
    few = len(filled) >= 5 and len(set(filled)) <= max(_FEW_LABELS * len(filled), 1)
    return not (short and few)


def _is_longest(column: int, others: Sequence[int], body: Sequence[Sequence[str]]) -> bool:
    """Whether a column has at least twice as much text as each of the others."""
    sizes = {number: sum(len(row[number]) for row in body) for number in {column, *others}}
    return all(sizes[column] >= 2 * size for number, size in sizes.items() if number != column)


def _language_of(cells: Sequence[str]) -> str:
    """The language of a column, detected from many cells together, which is more reliable than each cell alone."""
    sample = [cell for cell in cells if cell.strip()][:: max(len(cells) // _SAMPLED_CELLS, 1)]
    return detect("\n".join(cell[:100] for cell in sample)[:_LANGUAGE_CHARACTERS])
