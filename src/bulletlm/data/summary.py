"""The summary printed after the data stage: how each source was read, what it gave, and which files were not read.

clean-report.json has the complete information under "sources" and "skipped_files".
"""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bulletlm.terminal import printable

SHOWN_SOURCES = 20
SHOWN_NOT_READ = 15
_WIDTH = 140
_INDENT = "  "
_LANGUAGES = 3
_NAME_CHARACTERS = 44
_TAKEN_FOR_CHARACTERS = 60
_REASON_CHARACTERS = 200


def summary_lines(sources: Sequence[Mapping[str, Any]], skipped: Sequence[Mapping[str, str]]) -> list[str]:
    """Lines for the screen: sources, those that lost the largest share of text first, and files that were not read.

    Args:
        sources: the rows of the report: "source", "taken_for", "documents", "conversations", "characters_in", "characters_out",
            "languages" (characters of each), "dropped" (characters by rule).
        skipped: the files of the report that were not read, or only in part: "file", "reason".
    """
    partly = {item["file"] for item in skipped}
    ordered = sorted(sources, key=lambda row: (row["source"] not in partly, -_lost(row)))  # stable sort: equal rows stay in reading order
    lines = ["data: sources and results"]
    lines += _table(ordered[:SHOWN_SOURCES])
    if len(ordered) > SHOWN_SOURCES:
        rest = ordered[SHOWN_SOURCES:]
        kept = 1 - max(_lost(row) for row in rest)
        lines.append(f"  and {len(rest):,} more files, with at least {kept:.0%} of each kept: see data/clean-report.json")
    lines += not_read_lines(skipped)
    private = [row["source"] for row in sources if row.get("private")]
    if private:
        names = ", ".join(printable(name, limit=60) for name in private[:5]) + (" ..." if len(private) > 5 else "")
        lines.append(f"data: trained on private messages ({names}): share the model only with people who may read them")
    return lines


def not_read_lines(skipped: Sequence[Mapping[str, str]]) -> list[str]:
    """Lines for files that were not read; many files with the same reason are grouped."""
    if not skipped:
        return []
    lines = [f"data: not read, or only in part: {len(skipped):,} {'file' if len(skipped) == 1 else 'files'}"]
    reasons = Counter(item["reason"] for item in skipped)
    shown: set[str] = set()
    for item in sorted(skipped, key=lambda item: item["reason"].startswith("hidden")):
        if len(lines) > SHOWN_NOT_READ:
            break
        reason, many = item["reason"], reasons[item["reason"]]
        if reason in shown:
            continue
        name = printable(item["file"], limit=_TAKEN_FOR_CHARACTERS)
        if many > 3:
            shown.add(reason)
            name = f"{name} and {many - 1:,} more"
        lines.append(f"  {name}: {printable(reason, limit=_REASON_CHARACTERS)}")
    told = sum(reasons[reason] for reason in shown) + sum(1 for line in lines[1:] if " more: " not in line)
    if told < len(skipped):
        lines.append(f"  and {len(skipped) - told:,} more: see data/clean-report.json")
    return lines


def _lost(row: Mapping[str, Any]) -> float:
    """Share of the characters that rules dropped; 1 for a file without text."""
    return sum(row["dropped"].values()) / row["characters_in"] if row["characters_in"] else 1.0


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("source", "taken for"):
        table.add_column(heading, overflow="fold")
    for heading in ("documents", "conversations", "characters"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("languages", no_wrap=True)
    table.add_column("left out", overflow="fold")
    for row in rows:
        table.add_row(
            printable(row["source"], limit=_NAME_CHARACTERS),
            printable(row["taken_for"], limit=_TAKEN_FOR_CHARACTERS),
            f"{row['documents']:,}" if row["documents"] else "-",
            f"{row['conversations']:,}" if row["conversations"] else "-",
            f"{row['characters_out']:,}",
            _languages(row["languages"]),
            _left_out(row),
        )
    console = Console(file=io.StringIO(), width=_WIDTH - len(_INDENT), color_system=None, markup=False, highlight=False, emoji=False)
    console.print(table)
    return [(_INDENT + line).rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def _languages(characters: Mapping[str, int]) -> str:
    total = sum(characters.values())
    if not total:
        return "-"
    first = sorted(characters.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{language} {count / total:.0%}" for language, count in first[:_LANGUAGES])
    return shown if len(first) > 1 else first[0][0]


def _left_out(row: Mapping[str, Any]) -> str:
    """The share that rules dropped, and the rules that dropped the most text."""
    if not row["characters_in"]:
        return "no text in it"
    dropped = Counter({rule: count for rule, count in row["dropped"].items() if count})
    if not dropped:
        return "-"
    rules = ", ".join(rule for rule, _ in dropped.most_common(2)) + (" ..." if len(dropped) > 2 else "")
    share = _lost(row)
    return f"{share:.0%} ({rules})" if share >= 0.005 else f"< 1% ({rules})"
