"""Counts the answers that readers found good, and how far the readers agree.

    python bench/grades.py bench/grading/demo.jsonl                                       prints the counts
    python bench/grades.py OUT.jsonl --sheet SHEET.jsonl --readers ONE.jsonl TWO.jsonl    first writes OUT.jsonl from graded sheets

`bench/model.py --sheet` writes SHEET.jsonl and, beside it, SHEET.key.json with the names of the systems. Each reader fills a copy of the
sheet: "good" is true where the answer is on topic and grammatical, or, of the set "openings", where two sentences are grammatical;
"on_topic", which may be left out, where it is at least on topic.
Agreement is Cohen's kappa (1960): 1 is perfect, 0 is chance. It is undefined (nan) where two readers gave all answers the same mark.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from bulletlm.files import atomic_file

MARKS = {"good": "on topic and grammatical", "on_topic": "on topic"}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def join(sheet: Path, readers: list[Path], out: Path) -> None:
    """Write the rows of a sheet with the name of the system and the marks of all readers.

    Raises:
        SystemExit: a reader left out an answer.
    """
    key = json.loads(sheet.with_suffix(".key.json").read_text(encoding="utf-8"))
    found = [{row["id"]: row for row in read_rows(path)} for path in readers]
    with atomic_file(out) as file:
        for row in read_rows(sheet):
            system = key[row["id"]]
            joined = {"question": row["question"], "answer": row["answer"], "language": system["language"], "system": system["system"]}
            joined |= {"set": system["set"]}
            for mark in MARKS:
                marks = [reader.get(row["id"], {}).get(mark) for reader in found]
                if None not in marks:
                    joined[mark] = marks
                elif mark == "good" or any(value is not None for value in marks):
                    raise SystemExit(f'grades: answer {row["id"]} has no "{mark}" from reader {marks.index(None) + 1}')
            file.write((json.dumps(joined, ensure_ascii=False) + "\n").encode())


def kappa(first: list[bool], second: list[bool]) -> float:
    """Agreement of two readers beyond chance (Cohen 1960); nan where both gave all answers the same mark, which agrees by chance alone."""
    size = len(first)
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / size
    share, other = sum(first) / size, sum(second) / size
    chance = share * other + (1 - share) * (1 - other)
    return math.nan if chance == 1 else (agreed - chance) / (1 - chance)


def print_counts(rows: list[dict[str, Any]]) -> None:
    """Print for each mark, system, set of questions and language what each reader marked, and what all of them did."""
    for mark, meaning in MARKS.items():
        marked = [row for row in rows if mark in row]
        if not marked:
            continue
        print(f"{meaning}:")
        for system, questions in sorted({(row["system"], row["set"]) for row in marked}):
            for language in ("mr", "en", None):
                rows_of = [row for row in marked if (row["system"], row["set"]) == (system, questions)]
                cell = [row[mark] for row in rows_of if language in (row["language"], None)]
                if not cell:
                    continue
                counts = ", ".join(str(sum(reader)) for reader in zip(*cell, strict=True))
                print(
                    f"  {system:16} {questions:8} {language or 'both':4}  {counts} by reader, {sum(map(all, cell))} by all, of {len(cell)}"
                )
        readers = list(zip(*(row[mark] for row in marked), strict=True))
        if len(readers) == 2:
            print(f"  agreement (kappa) {kappa(*map(list, readers)):.2f}")


def main() -> None:
    """Join graded sheets if there are any, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graded", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--readers", type=Path, nargs="+", default=[])
    arguments = parser.parse_args()
    if arguments.sheet:
        join(arguments.sheet, arguments.readers, arguments.graded)
    print_counts(read_rows(arguments.graded))


if __name__ == "__main__":
    main()
