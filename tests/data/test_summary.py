"""Tests that the summary after the data stage lists the files that were not read."""

from typing import Any

from bulletlm.data.summary import SHOWN_NOT_READ, SHOWN_SOURCES, summary_lines


def row(name: str, read: int = 1000, dropped: int = 0, **more: Any) -> dict[str, Any]:
    out = {"characters_in": read, "characters_out": read - dropped, "dropped": {"too_short": dropped} if dropped else {}}
    return {"source": name, "taken_for": "text", "documents": 3, "conversations": 0, "languages": {"mr": read - dropped}, **out, **more}


def test_the_worst_comes_first() -> None:
    lines = summary_lines([row("good.txt"), row("half.txt", dropped=500), row("none.txt", dropped=1000), row("empty.txt", read=0)], [])
    text = "\n".join(lines)
    order = [text.index(name) for name in ("none.txt", "empty.txt", "half.txt", "good.txt")]
    assert order == sorted(order)
    assert "50% (too_short)" in text and "no text in it" in text


def test_every_file_that_is_not_read_is_named_or_counted() -> None:
    skipped = [{"file": f"{n}.xyz", "reason": "not of a kind that is read"} for n in range(300)]
    skipped += [{"file": f"{n}.pdf", "reason": f"damaged in place {n}"} for n in range(40)] + [{"file": "a.odt", "reason": "OpenDocument"}]
    lines = summary_lines([row("a.txt")], skipped)
    text = "\n".join(lines)
    assert "not read, or only in part: 341 files" in text and "0.xyz and 299 more: not of a kind" in text
    shown = [line for line in lines if ".pdf: " in line or ".odt: " in line]
    assert len(lines) < SHOWN_SOURCES + SHOWN_NOT_READ + 6
    assert f"and {41 - len(shown)} more" in lines[-1]


def test_many_sources_are_cut() -> None:
    lines = summary_lines([row(f"{n}.txt", dropped=n) for n in range(100)], [])
    assert "99.txt" in lines[2] and len(lines) < SHOWN_SOURCES + 10
    assert "and 80 more files, with at least 92% of each kept" in lines[-1]


def test_private_messages_are_said() -> None:
    lines = summary_lines([row("chat.txt", private=True), row("a.txt")], [])
    assert "private messages (chat.txt)" in lines[-1]


def test_names_cannot_control_the_terminal() -> None:
    lines = summary_lines([row("a\x1b[2J.txt", taken_for="x\x1b[31m[bold]")], [{"file": "b\x1b]0;x\x07", "reason": "y\x1b"}])
    assert all(line.isprintable() for line in lines) and "[bold]" in "\n".join(lines)


def test_long_names_stay_in_their_column() -> None:
    lines = summary_lines([row("lessons/a name of a file that is much too long.docx", taken_for="a long description " * 3)] * 3, [])
    assert len(lines) > 5 and all(line.startswith("  ") for line in lines[1:])
