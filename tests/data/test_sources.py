"""Tests the search for source files, and the messages for wrong paths."""

import gzip
import os
import socket
import zipfile
from pathlib import Path

import pytest

from bulletlm.config.schema import DataConfig
from bulletlm.data import sources
from bulletlm.data.reading import Block, RawDocument, blocks, read_documents
from bulletlm.data.sources import find_files, find_held_out, identify_source, is_embedded, shown_source, source_files
from bulletlm.errors import DataError
from paths import SAMPLE_CORPUS, SIMPLE_CORPUS


def find(*paths: object) -> tuple[list[str], list[tuple[str, str]]]:
    files, skipped = find_files(DataConfig(sources=[str(path) for path in paths]))  # type: ignore[arg-type]
    return [file.name for file in files], [(item.name, item.reason) for item in skipped]


def test_folders_globs_and_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl.gz", "sub/c.tsv", ".hidden/d.txt", "LICENSE", "README.md", "story-credits.tsv", "notes.odt"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text("text\n")
    corpus = tmp_path / "corpus"
    names, skipped = find(corpus)
    read = ["README.md", "a.jsonl.gz", "b.txt", "story-credits.tsv", "sub/c.tsv"]
    assert names == [f"corpus/{name}" for name in read]
    assert [name for name, _ in skipped] == ["corpus/.hidden", "corpus/LICENSE", "corpus/notes.odt"], "each file that is not read is named"
    assert find(corpus / "*.txt")[0] == ["b.txt"]
    assert find(f"{corpus}/**/*.tsv")[0] == ["story-credits.tsv", "c.tsv"]
    assert find(corpus, corpus / "b.txt")[0] == names, "no file is read twice"
    assert list(source_files(DataConfig(sources=[str(corpus)]))) == [corpus / name for name in read]  # type: ignore[list-item]


@pytest.mark.parametrize("name", ["वाहन licence मार्गदर्शक.TXT", "credits.txt", "README.txt", "license-plates.csv"])
def test_files_are_not_judged_by_their_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text\n")
    assert find(tmp_path) == ([f"{tmp_path.name}/{name}"], [])


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.txt"))
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    (tmp_path / "a.txt").write_text("text\n")
    names, skipped = find(tmp_path)
    assert names == [f"{tmp_path.name}/a.txt"]
    assert [name.rpartition("/")[2] for name, _ in skipped] == ["device.txt", "pipe.txt", "socket.txt"]
    assert find(tmp_path / "*.txt")[0] == ["a.txt"]
    for name in ("pipe.txt", "device.txt", "socket.txt"):
        with pytest.raises(DataError, match="not a regular file"):
            find(tmp_path / name)


def test_links_are_followed_inside_the_folder_only(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("private\n")
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("text\n")
    (folder / "inside.txt").symlink_to("a.txt")
    (folder / "outside.txt").symlink_to("../secret.txt")
    (folder / "folder").symlink_to("../elsewhere")
    (folder / "dangling.txt").symlink_to("missing.txt")
    names, skipped = find(folder)
    assert names == ["texts/a.txt"], "a link to a file of the folder is the same file"
    reasons = dict(skipped)
    assert "does not exist" in reasons["texts/dangling.txt"] and "link to a folder" in reasons["texts/folder"]
    assert "outside of the folder" in reasons["texts/outside.txt"]
    assert find(folder / "*.txt")[0] == ["a.txt"]
    assert find(folder / "outside.txt")[0] == ["outside.txt"], "named by hand, it is read"
    (tmp_path / "linked").symlink_to("texts")
    assert find(tmp_path / "linked")[0] == ["texts/a.txt"], "so is a folder"
    with pytest.raises(DataError, match="a link to a file that does not exist"):
        find(folder / "dangling.txt")


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n")
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(path, "w") as file:
        file.write("text\n")
    names, _ = find(tmp_path)
    assert len(names) == 2 and [name.encode() for name in names]
    assert find(os.fsdecode(path))[0] == ["caf\ufffd.txt"]
    (tmp_path / "\x1b[31mred.txt").write_text("text\n")
    assert all(name.isprintable() for name in find(tmp_path)[0])


@pytest.mark.parametrize("path", ["~nosuchuser/a.txt", "a\0b.txt", "x" * 5000])
def test_paths_that_no_file_can_have(path: str) -> None:
    with pytest.raises(DataError, match=r"data\.sources: ") as caught:
        find(path)
    assert "\n" not in str(caught.value)


def zip_of(path: Path, members: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def read_all(*sources: object) -> list[str]:
    files, _ = find_files(DataConfig(sources=[str(source) for source in sources]))  # type: ignore[arg-type]
    found = [item for file in files for item in read_documents(file, 1, lambda n: None, print) if isinstance(item, RawDocument)]
    return [text for item in found for text in item.paragraphs or [message["content"] for message in item.messages]]


def test_a_zip_is_a_folder(tmp_path: Path) -> None:
    members = {
        "b.txt": "दोन\n",
        "a/x.jsonl": '{"prompt": "q", "response": "r"}\n',
        "c.csv": "question,answer\nकाय?,हे.\n",
        "c.txt.gz": gzip.compress("तीन\n".encode()),
        "inner.zip": b"PK",
        "old.doc": b"x",
        "__MACOSX/._b.txt": "x",
        "../../etc/passwd.txt": "चार\n",
    }
    path = zip_of(tmp_path / "all.zip", members)
    names, skipped = find(path)
    assert names == ["all.zip/../../etc/passwd.txt", "all.zip/a/x.jsonl", "all.zip/b.txt", "all.zip/c.csv", "all.zip/c.txt.gz"]
    assert [name for name, _ in skipped] == ["all.zip/__MACOSX/._b.txt", "all.zip/inner.zip", "all.zip/old.doc"]
    assert read_all(path) == ["चार", "q", "r", "दोन", "काय?", "हे.", "तीन"], "members are read, and nothing is written anywhere"
    assert list(source_files(DataConfig(sources=[str(path)]))) == [path]  # type: ignore[list-item]
    (tmp_path / "plain.txt").write_text("पाच\n", encoding="utf-8")
    assert read_all(tmp_path)[-1] == "पाच"


@pytest.mark.parametrize(
    ("content", "wrong"),
    [(b"PK nonsense", "damaged"), (b"", "damaged"), (None, "without a file that is read: x.exe is not of a kind")],
)
def test_a_zip_without_text(tmp_path: Path, content: bytes | None, wrong: str) -> None:
    path = zip_of(tmp_path / "a.zip", {"x.exe": "x"})
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=wrong) as caught:
        find(path)
    assert "\n" not in str(caught.value)


def test_a_zip_bomb_is_cut(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "bomb.zip", {"a.txt": b"0\n" * (40 << 20), "b.txt": "text\n"})
    files, _ = find_files(DataConfig(sources=[str(path)]))  # type: ignore[list-item]
    notes: list[str] = []
    size = sum(len(block.data) for file in files for block in blocks(file, lambda n: None, notes.append) if isinstance(block, Block))
    assert size < 40 << 20 and len(notes) == 1 and "more than 100 times its size" in notes[0]


@pytest.mark.parametrize("name", ["a.rtf", "a.odt", "a.doc", "a.xlsx", "a.jpg", "a.tar.gz", "a.mobi", "a.xyz", "noending"])
def test_what_is_not_read_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r": ") as caught:
        find(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "b.txt").write_text("text\n")
    assert find(tmp_path)[1][0][1] in str(caught.value), "the same sentence in a folder"


def test_a_file_name_may_look_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("text\n")
    assert find(tmp_path / "a[1].txt")[0] == ["a[1].txt"]


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("corpuss", r"corpuss does not exist: did you mean .*corpus\?"),
        ("corpus/markdown.txt", r"markdown.txt does not exist: did you mean .*markdown.md\?"),
        ("corpas/b.txt", r"does not exist: did you mean .*corpus\?"),
        ("qqqqq/b.txt", r"does not exist: there is nothing of that name in "),
        ("corpus/*.tsv", r"nothing matches .*tsv"),
        ("corpus/*.xyz", r"no file that is read .* among what matches"),
        ("corpus/other.xyz", r"other.xyz: not of a kind that is read"),
        ("empty", r"no file that is read \(.txt, .*\) in the folder .*empty"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path: Path, path: str, wrong: str) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("markdown.md", "other.xyz"):
        (tmp_path / "corpus" / name).write_text("text\n")
    with pytest.raises(DataError, match=wrong) as caught:
        find(tmp_path / path)
    assert str(caught.value).startswith("data.sources: ")
    assert "\n" not in str(caught.value)


def test_the_corpus_of_the_package() -> None:
    names, skipped = find("sample")
    assert names and all(name.startswith("sample/") for name in names)
    assert not skipped, "the licence beside it is not the user's"


def test_names_are_of_one_file_only(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder / "texts").mkdir(parents=True)
        (tmp_path / folder / "texts" / "a.txt").write_text("text\n")
    assert find(tmp_path / "one/texts", tmp_path / "two/texts")[0] == ["texts/a.txt", "texts/a.txt (2)"]


def test_texts_of_a_part_of_the_package_are_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, _ = find("simple")
    chats, _ = find("simple/chat-*")
    assert chats == [name for name in names if name.startswith("simple/chat-")] and len(chats) > 3
    assert find("simple/stories.mr.txt")[0] == ["simple/stories.mr.txt"]
    both, _ = find("simple/chat-*", "simple")
    assert sorted(both) == sorted(names), "each file is read once"
    (tmp_path / "simple").mkdir()
    (tmp_path / "simple" / "mine.txt").write_text("माझे गाव नदीकाठी आहे.\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert find("simple/mine.txt")[0] == ["mine.txt"], "other paths are those of the user"


def test_an_installation_reads_its_packed_corpus_as_a_checkout_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """setup.py packs the files; names, order, sizes and hashes stay, so that a run continues, and is the same, with either."""

    def present() -> list[tuple[str, str, tuple[int, str]]]:
        files, skipped = find_files(DataConfig.model_validate({"sources": ["sample", "simple/chat-again.*"]}))
        assert not skipped
        return [(file.name, file.kind, identify_source(file.path)) for file in files]

    plain = present()
    for path in [*SAMPLE_CORPUS.iterdir(), *SIMPLE_CORPUS.iterdir()]:
        packed = tmp_path / path.parent.name / f"{path.name}.gz"
        packed.parent.mkdir(exist_ok=True)
        if path.suffix:
            packed.write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr(sources, "_folder", lambda part: tmp_path / part)
    assert present() == plain and len(plain) > 10
    assert is_embedded("simple/chat-again.mr.jsonl") and not is_embedded("simple/chat-again.mr.jsonl.gz")


def test_general_text_is_not_held_out(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("text\n")
    config = DataConfig.model_validate({"sources": ["sample"], "held_out": [str(tmp_path / "test.txt")], "mix": {"general": 0.2}})
    assert [file.name for file in find_held_out(config)[0]] == ["test.txt"]


def test_a_file_that_is_named_again_with_other_settings_is_reported(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("text\n")
    again = {"path": str(tmp_path / "good.txt"), "weight": 3}
    files, skipped = find_files(DataConfig.model_validate({"sources": [str(tmp_path), again], "mix": {"general": 0.2}}))
    assert files[0].source == 0
    assert [item.reason for item in skipped] == ["read already (entry 1 of data.sources); for the settings of entry 2, put it first"]
    assert not find_files(DataConfig.model_validate({"sources": [again, str(tmp_path)]}))[0][0].source
    for same in ([str(tmp_path), again["path"]], ["simple/chat-again.*", "simple"]):  # with the same settings, it is no matter
        assert not find_files(DataConfig.model_validate({"sources": same, "mix": {"general": 0.2}}))[1]


@pytest.mark.parametrize("path", ["simple/", "simple/absent*", "simple/../sample/stories.mr.txt", "simple/LICENSE"])
def test_a_pattern_without_texts_in_the_package_is_refused(path: str) -> None:
    assert not is_embedded(path)
    with pytest.raises(DataError, match=r"data\.sources: "):
        find(path)


def test_files_remember_their_source(tmp_path: Path) -> None:
    for name in ("a.txt", "b.parquet"):
        (tmp_path / name).write_text("text\n")
    config = DataConfig(sources=[{"path": str(tmp_path / "b.parquet"), "text": "body"}, {"path": str(tmp_path), "language": "mr"}])  # type: ignore[list-item]
    files, _ = find_files(config)
    assert [(file.kind, file.text, file.language, file.source, file.named) for file in files] == [
        (".parquet", "body", "auto", 0, True),
        (".txt", "text", "mr", 1, False),
    ]


@pytest.mark.parametrize("path", ["hf://", "hf://a/b?split=train[:10]", "hf://a/b?spilt=x"])
def test_wrong_dataset_names(path: str) -> None:
    with pytest.raises(DataError, match=r"write hf://owner/dataset"):
        find(path)


@pytest.mark.slow
def test_a_local_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are read from a folder for `load_dataset`, and from a folder written by `save_to_disk`."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jsonl").write_text('{"content": "पहिला", "n": 1}\n{"content": "दुसरा", "n": 2}\n', encoding="utf-8")
    datasets.Dataset.from_dict({"content": ["पहिला", "दुसरा"], "n": [1, 2]}).save_to_disk(tmp_path / "saved")
    for name in ("folder", "saved"):
        config = DataConfig(sources=[{"path": f"hf://{tmp_path / name}", "text": "content"}])  # type: ignore[list-item]
        files, _ = find_files(config)
        assert [(file.name, file.kind) for file in files] == [(f"hf/{name}/train/0", ".arrow")]
        assert list(source_files(config)) == [files[0].path] and files[0].path.is_file()
        found = [item for file in files for item in read_documents(file, 1, lambda n: None, print) if isinstance(item, RawDocument)]
        assert [(d.paragraphs, d.line) for d in found] == [(["पहिला"], 1), (["दुसरा"], 2)]
    with pytest.raises(DataError, match=r"cannot load hf://.*missing") as caught:
        find(f"hf://{tmp_path / 'missing'}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/asha/lessons", "lessons"),
        ("/home/asha/lessons/", "lessons"),
        ("/home/asha/*.txt", "*.txt"),
        ("hf://org/set", "hf://org/set"),
    ],
)
def test_a_source_is_shown_without_the_folders_above_it(path: str, shown: str) -> None:
    assert shown_source(path) == shown
