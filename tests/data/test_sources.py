"""Finding files, and what a person can get wrong in naming them."""

from pathlib import Path

import pytest

from bulletlm.config.schema import DataConfig
from bulletlm.data.reading import RawDocument, read_documents
from bulletlm.data.sources import find_files, source_files
from bulletlm.errors import DataError


def find(*paths: object) -> tuple[list[str], list[tuple[str, str]]]:
    files, skipped = find_files(DataConfig(sources=[str(path) for path in paths]))  # type: ignore[arg-type]
    return [file.name for file in files], [(item.name, item.reason) for item in skipped]


def test_folders_globs_and_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl.gz", "sub/c.tsv", ".hidden/d.txt", "LICENSE", "README.md", "story-credits.tsv", "notes.docx"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text("text\n")
    corpus = tmp_path / "corpus"
    names, skipped = find(corpus)
    assert names == ["corpus/a.jsonl.gz", "corpus/b.txt", "corpus/sub/c.tsv"]
    assert sorted(name for name, _ in skipped) == ["corpus/LICENSE", "corpus/README.md", "corpus/notes.docx", "corpus/story-credits.tsv"]
    assert find(corpus / "*.txt")[0] == ["b.txt"]
    assert find(f"{corpus}/**/*.tsv")[0] == ["story-credits.tsv", "c.tsv"]
    assert find(corpus / "story-credits.tsv")[0] == ["story-credits.tsv"], "named by hand, it is read"
    assert find(corpus, corpus / "b.txt")[0] == names, "no file is read twice"
    assert source_files(DataConfig(sources=[str(corpus)])) == [corpus / "a.jsonl.gz", corpus / "b.txt", corpus / "sub" / "c.tsv"]  # type: ignore[list-item]


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
        ("corpus/*.md", r"no .txt, .jsonl, .tsv or .parquet file matches"),
        ("corpus/markdown.md", r"of no known kind"),
        ("empty", r"no .txt, .jsonl, .tsv or .parquet file in the folder .*empty"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path: Path, path: str, wrong: str) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "corpus" / "markdown.md").write_text("text\n")
    with pytest.raises(DataError, match=wrong) as caught:
        find(tmp_path / path)
    assert str(caught.value).startswith("data.sources: ")
    assert "\n" not in str(caught.value)


def test_the_corpus_of_the_package() -> None:
    names, skipped = find("sample")
    assert names and all(name.startswith("sample/") for name in names)
    assert ("sample/LICENSE", "not a .txt, .jsonl, .tsv or .parquet file") in skipped


def test_names_are_of_one_file_only(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder / "texts").mkdir(parents=True)
        (tmp_path / folder / "texts" / "a.txt").write_text("text\n")
    assert find(tmp_path / "one/texts", tmp_path / "two/texts")[0] == ["texts/a.txt", "texts/a.txt (2)"]


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
    """From a folder of files as `load_dataset` reads it, and from one that `save_to_disk` wrote."""
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
        assert source_files(config) == [files[0].path] and files[0].path.is_file()
        found = [item for file in files for item in read_documents(file, 1, lambda n: None, print) if isinstance(item, RawDocument)]
        assert [(d.paragraphs, d.line) for d in found] == [(["पहिला"], 1), (["दुसरा"], 2)]
    with pytest.raises(DataError, match=r"cannot load hf://.*missing") as caught:
        find(f"hf://{tmp_path / 'missing'}")
    assert "\n" not in str(caught.value)
