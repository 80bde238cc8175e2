"""Tests of `bullet run` and `bullet plan` with what users name by mistake, and with text in unusual files and languages.

A mistake gives one line that says what to do, and nothing is written.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bulletlm.cli.app import main
from bulletlm.pipeline.auto import measure_speed
from micro_model import write_texts

STORY = "The children planted forty trees near the well, and watered tree number {} every day.\n"


def photos(folder: Path) -> None:
    for number in range(3):
        (folder / f"IMG_{number}.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))


def run_folder(folder: Path) -> None:
    for name in ("recipe.jsonc", "choice.json", "log.txt"):
        (folder / name).write_text("{}" * 5_000)


def only_runs(folder: Path) -> None:
    (folder / "runs" / "novel").mkdir(parents=True)
    run_folder(folder / "runs" / "novel")


def file(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def numbers(folder: Path) -> None:
    (folder / "numbers.csv").write_text("".join(f"{n},{n * n},{n / 3:.3f}\n" for n in range(500)))


WRONG: dict[str, tuple[Callable[[Path], object], str, int, str]] = {
    "a folder with a misspelled name": (photos, "lesons", 2, "there is no file or folder lesons: did you mean lessons? "),
    "a recipe with a misspelled name": (photos, "deom", 2, "did you mean demo? "),
    "a name that nothing is like": (photos, "xyz/abc", 2, "there is no file or folder xyz/abc: give folders or files"),
    "an empty name": (photos, "", 2, "a name is empty"),
    "an empty folder": (lambda folder: None, "lessons", 1, "there is no file that is read"),
    "only photos": (photos, "lessons", 1, "IMG_0.jpg: a picture: recognize its text first"),
    "a photo": (photos, "lessons/IMG_0.jpg", 1, "a picture: recognize its text first"),
    "one small file": (file("a.txt", b"A short text. " * 80), "lessons", 1, "too little to train a model: add text"),
    "a program": (file("a.txt", b"\x7fELF\x02\x01\x01" + bytes(5_000)), "lessons", 1, "a.txt"),
    "bytes": (file("a.txt", bytes(range(256)) * 200), "lessons", 1, "a.txt"),
    "numbers": (numbers, "lessons", 1, "numbers.csv"),
    "the folder of a run that is not finished": (run_folder, "lessons", 1, "the folder of a run, and not text"),
    "a folder that holds only runs": (only_runs, "lessons", 1, "the folder of a run, which is not text"),
    "an unknown kind of file": (file("a.xyz", b"text " * 2_000), "lessons/a.xyz", 1, "not of a kind that is read"),
}


@pytest.fixture
def lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of text in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bulletlm.pipeline.auto.measure_speed", partial(measure_speed, seconds=0.05))
    folder = tmp_path / "lessons"
    folder.mkdir()
    return folder


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    """The error of a command that must fail with `code` and write nothing; it is one line."""
    before = sorted(Path().rglob("*"))
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert caught.value.code == code, shown.err
    assert lines[-1].startswith("bullet: ") and not shown.out
    assert "Traceback" not in shown.err and sum(line.startswith("bullet: ") for line in lines) == 1
    assert sorted(Path().rglob("*")) == before
    return lines[-1]


@pytest.mark.parametrize("kind", WRONG)
def test_a_mistake_is_one_line_and_writes_nothing(kind: str, lessons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, name, code, message = WRONG[kind]
    make(lessons)
    for command in ("plan", "run"):
        assert message in refused(capsys, code, command, name)


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read every file")
@pytest.mark.parametrize("which", ["", "a.txt"])
def test_text_that_may_not_be_read(which: str, lessons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lessons / "a.txt").write_text(STORY * 100)
    (lessons / which).chmod(0)
    try:
        assert "cannot be read (Permission denied)" in refused(capsys, 1, "run", "lessons")
    finally:
        (lessons / which).chmod(0o700)


@pytest.mark.parametrize("name", ["q'uo\"te 😀", "new\nline", "tab\tand \x1b[31mred", " ", "-dash", "शाळा १", "a*b", "%s {x}"])
def test_a_strange_name_stays_on_one_line(name: str, lessons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(lessons.rename(lessons.with_name(name)))
    line = refused(capsys, 1 if name.strip() else 2, "run", f"./{name}" if name.strip() else name)
    assert line.isprintable() and ("a picture" in line or not name.strip())


TEXTS: dict[str, tuple[str, str, str]] = {
    "one line": ("a.txt", "".join(STORY.format(n) for n in range(5_000)).replace("\n", " "), "en 100%"),
    "Hindi and Urdu": (
        "a.txt",
        "".join(f"एक गाँव में एक किसान रहता था, उसके {n} बेटे थे।\nایک گاؤں میں ایک کسان رہتا تھا، اس کے {n} بیٹے تھے۔\n\n" for n in range(200)),
        "ur",
    ),
    "a table without headings": (
        "a.csv",
        "".join(f"{n},What is {n} plus one in this sum?,It is {n + 1} of course.,2024-01-{n % 28 + 1:02d}\n" for n in range(300)),
        "en 100%",
    ),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_unusual_text_is_planned(kind: str, lessons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, text, said = TEXTS[kind]
    (lessons / name).write_text(text, encoding="utf-8")
    try:
        main(["plan", "lessons", "--hours", "8"])
    except SystemExit as stop:
        assert not stop.code, capsys.readouterr().err
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("text ") and said in first
    assert sorted(path.name for path in Path().iterdir()) == ["lessons"]


def test_runs_and_what_systems_write_are_not_text(lessons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`bullet run .` in the folder of the texts reads the same files before and after a run."""
    write_texts(lessons / "texts")
    only_runs(lessons)
    for name in ("Thumbs.db", "desktop.ini", "~$lesson.docx", ".DS_Store"):
        (lessons / name).write_bytes(b"\x05Asha" + bytes(100))
    (lessons / "old.doc").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(500))
    try:
        main(["plan", "lessons", "--hours", "8"])
    except SystemExit as stop:
        assert not stop.code, capsys.readouterr().err
    lines = capsys.readouterr().out.splitlines()
    assert " in 4 files (" in lines[0]
    (note,) = (line for line in lines if line.startswith("note: not read"))
    assert note.index("old.doc") < note.index("the folder of a run") and "Thumbs.db" not in note
