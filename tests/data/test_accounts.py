"""Tests for every file type and preset that each character of the input is in the result, or was dropped or changed by a rule."""

import json
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet as pq
import pytest
from test_documents import ARTICLE, MARATHI, PAGE, docx, dump, epub, page, pdf, run
from test_private_chats import export

from bulletlm.config.schema import DataConfig
from bulletlm.data.prepare import prepare_data
from bulletlm.progress import SilentProgress
from paths import SAMPLE_CORPUS

DAMAGE = "क\n-----\nअ\ufffdब हरवले\n  दोन   शब्द\u200b आहेत &amp; <b>ठळक</b>\nफोन 98000 00001\nहीच ओळ पुन्हा येते आणि ती लांब आहे.\n" * 2


def make(folder: Path) -> list[str]:
    """One file of every type; each has text that rules drop or change."""
    folder.mkdir()
    stories = (SAMPLE_CORPUS / "stories.mr.txt").read_text(encoding="utf-8")[:9_000]
    english = (SAMPLE_CORPUS / "stories.en.txt").read_text(encoding="utf-8")[:6_000]
    pairs = (SAMPLE_CORPUS / "parallel.tsv").read_text(encoding="utf-8").split("\n")[:30]
    rows = [{"prompt": f"प्रश्न {n}?", "response": f"उत्तर {n}.\n{DAMAGE}"} for n in range(5)] + [{"x": 1}, {"prompt": "एक"}, {"text": DAMAGE}]
    texts = {
        "a.txt": f"{stories}\n{DAMAGE}",
        "b.txt": export("android 12"),
        "c.txt": "".join(f"Q: प्रश्न {n}?\nA: उत्तर {n} आहे.\n\n" for n in range(9)) + "Q: एकटा?\n",
        "d.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n{broken\n",
        "e.json": json.dumps(rows, ensure_ascii=False, indent=1),
        "f.tsv": "English\tमराठी\n" + "\n".join(pairs) + "\nonly one\nempty\t\n",
        "g.csv": "id,Question,Answer\n" + "".join(f'{n},"काय, ""{n}""?",हे {n}.\n' for n in range(9)),
        "h.md": f"# मथळा\n\n{DAMAGE}\n\n- {MARATHI}\n",
        "i.html": PAGE,
        "j.srt": f"1\n00:00:01,000 --> 00:00:02,000\n{MARATHI}\n\n2\n00:00:03,000 --> 00:00:04,000\nक\n",
        "k.xml": dump(page("पुणे", ARTICLE), page("मुंबई", MARATHI)),
        "l.wiki": f'<doc id="1" title="x">\nलेख\n\n{MARATHI}\n\nक\n</doc>\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "m.txt").write_bytes(english.encode("cp1252", errors="ignore"))
    docx(folder / "n.docx", "".join(f"<w:p>{run(text)}</w:p>" for text in (MARATHI, "क", "दोन   शब्द")))
    epub(folder / "o.epub")
    pdf(folder / "p.pdf", [["My Book", "The first page has a sentence of its own.", "1"], ["My Book", "So has the second.", "2"]] * 2)
    with zipfile.ZipFile(folder / "q.zip", "w") as archive:
        archive.writestr("r.txt", DAMAGE)
    table = {"prompt": [row.get("prompt") for row in rows], "response": [row.get("response") for row in rows], "text": [DAMAGE] * len(rows)}
    pq.write_table(pyarrow.table(table), folder / "s.parquet", row_group_size=3)
    pairs_of = [{"en": "One house.", "mr": "एक घर."}, {"en": "Two.", "mr": f"दोन.\n{DAMAGE}"}, {"en": "Three.", "mr": "तीन."}]
    pq.write_table(pyarrow.table({"translation": pairs_of}), folder / "t.parquet")
    pq.write_table(pyarrow.table({"text": [DAMAGE, None, "  ", MARATHI]}), folder / "u.parquet")
    return [*sorted(texts), "m.txt", "n.docx", "o.epub", "p.pdf", "q.zip/r.txt", "s.parquet", "t.parquet", "u.parquet"]


@pytest.mark.parametrize("preset", ["gentle", "web"])
def test_nothing_is_unaccounted_for(tmp_path: Path, preset: str) -> None:
    names = make(tmp_path / "texts")
    config = DataConfig(sources=[{"path": str(tmp_path / "texts")}], val_tokens=500, clean={"preset": preset})  # type: ignore[list-item,arg-type]
    report = prepare_data(config, 1, tmp_path / "out", SilentProgress())
    rows = {row["source"].removeprefix("texts/"): row for row in report["sources"]}
    assert sorted(rows) == sorted(names)
    assert [item["file"] for item in report["skipped_files"]] == ["texts/d.jsonl", "texts/e.json"], "each has a row of an unknown layout"
    for name, row in rows.items():
        counted = row["characters_out"] + sum(row["dropped"].values()) + sum(row["changed"].values())
        assert counted == row["characters_in"] > 0, (name, row)
        assert set(row["dropped"]) | set(row["changed"]) <= set(report["rules"]), name
        assert row["taken_for"] and sum(row["languages"].values()) == row["characters_out"], name
    assert report["private_messages"] == ["texts/b.txt"]
    assert rows["d.jsonl"]["dropped"].keys() >= {"not_json", "no_text_or_messages", "prompt_without_response"}
    assert rows["f.tsv"]["dropped"].keys() >= {"wrong_number_of_columns", "empty_cell"}
    assert rows["c.txt"]["dropped"]["question_without_answer"] == len("एकटा?")
    assert rows["p.pdf"]["dropped"]["page_furniture"] > 0
