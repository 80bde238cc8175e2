"""Tests the reading of Word documents, PDF, e-books, web pages, Markdown, subtitles, wikis and lists of questions."""

import bz2
import sys
import zipfile
from pathlib import Path

import pytest

from bulletlm.data.kinds import kind_of_name
from bulletlm.data.readers import isolated, questions, wiki
from bulletlm.data.readers.isolated import DocumentProcess
from bulletlm.data.readers.raw import Block, Listener
from bulletlm.data.reading import BadRow, RawDocument, blocks, read_documents
from bulletlm.data.sources import SourceFile
from bulletlm.errors import DataError

MARATHI = "मोरूला अंक आवडत. एकदा गुरुजींनी फळ्यावर काही गणिते लिहिली."


def source(path: Path, named: bool = True) -> SourceFile:
    return SourceFile(path, path.name, kind_of_name(path) or ".wiki", "auto", named)


def read(path: Path, notes: list[str] | None = None, taken: list[str] | None = None) -> list[RawDocument | BadRow]:
    note = (notes if notes is not None else []).append
    return list(read_documents(source(path), 1, lambda n: None, note, (taken if taken is not None else []).append))


def paragraphs(path: Path) -> list[str]:
    return [text for item in read(path) if isinstance(item, RawDocument) for text in item.paragraphs]


def packed(path: Path, members: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


WORD = '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>{}</w:body></w:document>'


def run(text: str) -> str:
    return f"<w:r><w:t>{text}</w:t></w:r>"


def docx(path: Path, body: str, **parts: str) -> Path:
    return packed(path, {"[Content_Types].xml": "<Types/>", "word/document.xml": WORD.format(body), **parts})


def test_word_documents(tmp_path: Path) -> None:
    body = f"""
    <w:p><w:pPr><w:pStyle w:val="Title"/></w:pPr>{run("शीर्षक")}</w:p>
    <w:p>{run("पहिला ")}<w:ins>{run("नवा ")}</w:ins><w:del><w:r><w:delText>जुना</w:delText></w:r></w:del>{run("परिच्छेद.")}</w:p>
    <w:p><w:hyperlink>{run("दुवा")}</w:hyperlink><w:r><w:tab/><w:t>पुढे</w:t><w:br/><w:t>दुसरी ओळ</w:t></w:r></w:p>
    <w:sdt><w:sdtContent><w:p>{run("रकाना")}</w:p></w:sdtContent></w:sdt>
    <w:tbl><w:tr><w:tc><w:p>{run("अ")}</w:p></w:tc><w:tc><w:p>{run("ब")}</w:p></w:tc></w:tr></w:tbl>
    <w:p><w:r><w:instrText>PAGE</w:instrText></w:r></w:p>"""
    notes = WORD.format(f"<w:p>{run('तळटीप')}</w:p>")
    taken: list[str] = []
    found = read(docx(tmp_path / "a.docx", body, **{"word/footnotes.xml": notes}), taken=taken)
    assert [item.paragraphs for item in found if isinstance(item, RawDocument)] == [
        ["शीर्षक", "पहिला नवा परिच्छेद.", "दुवा पुढे", "दुसरी ओळ", "रकाना", "अ", "ब", "तळटीप"]
    ]
    assert taken == ["Word document"]


def test_a_document_of_python_docx(tmp_path: Path) -> None:
    writer = pytest.importorskip("docx")
    document = writer.Document()
    document.add_heading("धडा", 1)
    document.add_paragraph(MARATHI)
    document.add_table(1, 2).cell(0, 1).text = "कप्पा"
    document.save(tmp_path / "a.docx")
    assert paragraphs(tmp_path / "a.docx") == ["धडा", MARATHI, "कप्पा"]


CONTAINER = '<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
PACKAGE = """<package><manifest>
  <item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>
  <item id="b" href="text/two%20b.xhtml" media-type="application/xhtml+xml"/>
  <item id="a" href="one.xhtml" media-type="application/xhtml+xml"/><item id="css" href="x.css" media-type="text/css"/>
</manifest><spine><itemref idref="nav"/><itemref idref="a"/><itemref idref="b"/></spine></package>"""


def epub(path: Path, **more: str) -> Path:
    head = '<?xml version="1.0" encoding="utf-8"?><html><head><title>x</title><style>p {{}}</style></head>'
    chapter = head + "<body><h1>{}</h1><p>{}</p></body></html>"
    members = {"META-INF/container.xml": CONTAINER, "OEBPS/book.opf": PACKAGE, "OEBPS/nav.xhtml": "<html><body>Contents</body></html>"}
    members |= {"OEBPS/one.xhtml": chapter.format("एक", MARATHI), "OEBPS/text/two b.xhtml": chapter.format("दोन", "शेवट.")}
    return packed(path, members | more)  # type: ignore[arg-type]


def test_books_are_read_in_order_and_kept_together(tmp_path: Path) -> None:
    found = read(epub(tmp_path / "a.epub"))
    assert [item.paragraphs for item in found if isinstance(item, RawDocument)] == [["एक", MARATHI, "दोन", "शेवट."]]


PAGE = f"""<!DOCTYPE html><html><head><title>t</title><script>var x = "<p>no</p>";</script></head><body>
<header>Site <a href=/>Home</a></header><nav><ul><li>Menu</li></ul></nav>
<main><h1>मथळा</h1><p>{MARATHI}<br>दुसरी <b>ठळक</b> ओळ &amp; पुढे<p>Unclosed <i>paragraph
<ul><li>एक<li>दोन</ul><table><tr><td>अ</td><td>ब</td></tr></table><pre>if a &lt; b:
    go()</pre><form>Search</form></main>
<footer>© 2024</footer><img src="https://example.com/x.png"></body></html>"""
READ = ["मथळा", MARATHI, "दुसरी ठळक ओळ & पुढे", "Unclosed paragraph", "एक", "दोन", "अ ब", "if a < b:", "    go()"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_web_pages_without_menus(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.html").write_bytes(PAGE.encode(encoding))
    assert paragraphs(tmp_path / "a.html") == READ


def test_web_pages_in_an_old_code_page(tmp_path: Path) -> None:
    text = "Le garçon préfère la forêt près de la rivière où il a été élevé."
    for head in ('<meta charset="windows-1252">', ""):
        (tmp_path / "a.htm").write_bytes(f"<html><head>{head}</head><body><p>{text}</p></body></html>".encode("cp1252"))
        assert paragraphs(tmp_path / "a.htm") == [text]


def test_markdown(tmp_path: Path) -> None:
    text = f"""---
title: x
---
# मथळा

{MARATHI} **ठळक** [दुवा](https://example.com)
गुंडाळलेली ओळ.

- एक
- `code_a` दोन

| अ | ब |
|---|---|
| १ | २ |

```python
x = a**b
    y = __init__
```
"""
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert paragraphs(tmp_path / "README.md") == [
        "मथळा", f"{MARATHI} ठळक दुवा गुंडाळलेली ओळ.", "एक", "code_a दोन", "अ ब", "१ २", "x = a**b", "    y = __init__"
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_markdown_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    text = "Le garçon préfère la forêt près de la rivière où il a été élevé."
    (tmp_path / "a.md").write_bytes(f"# {text}\r\n\r\n{text}\r\n".encode(encoding))
    assert paragraphs(tmp_path / "a.md") == [text, text]


@pytest.mark.parametrize("name", ["a.srt", "a.vtt"])
def test_subtitles(tmp_path: Path, name: str) -> None:
    head = "WEBVTT - x\n\nNOTE a comment\n\nSTYLE\n::cue {}\n\n" if name == "a.vtt" else ""
    comma = "." if name == "a.vtt" else ","
    cues = ["<i>तू कुठे\nजात आहेस?</i>", "{\\an8}मी शाळेत", "जात आहे.", "- हो.\n- नाही."]
    text = head + "\n\n".join(f"{n}\n00:00:0{n}{comma}000 --> 00:00:0{n}{comma}900 align:start\n{cue}" for n, cue in enumerate(cues, 1))
    (tmp_path / name).write_text(text.replace("\n", "\r\n"), encoding="utf-8")
    assert paragraphs(tmp_path / name) == ["तू कुठे जात आहेस?", "मी शाळेत जात आहे.", "- हो.", "- नाही."]


def test_lines_of_subtitles_without_a_time_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nOne.\n\nTwo.\n\n2\n\nname\n00:00:03,000 --> 00:00:04,000\nThree.\n\nFour."
    )
    found = read(tmp_path / "a.srt")
    assert [item.paragraphs for item in found if isinstance(item, RawDocument)] == [["One.", "Three."]]
    assert [(item.line, item.reason, item.text) for item in found if isinstance(item, BadRow)] == [
        (5, "no_time", "Two."),
        (13, "no_time", "Four."),
    ]


def dump(*pages: str) -> str:
    return '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="mr">' + "".join(pages) + "</mediawiki>"


def page(title: str, text: str, namespace: int = 0, more: str = "") -> str:
    return f"<page><title>{title}</title><ns>{namespace}</ns>{more}<revision><text>{text}</text></revision></page>"


ARTICLE = """{{माहितीचौकट|नाव=x}}
'''पुणे''' हे [[महाराष्ट्र]]ातील [[शहर|मोठे शहर]] आहे.&lt;ref&gt;स्रोत&lt;/ref&gt;
[[चित्र:a.jpg|thumb|चित्र]]
== इतिहास ==
* जुने शहर.
{| class="wikitable"
| अ || ब
|}
[[वर्ग:शहरे]]"""


@pytest.mark.parametrize("name", ["a.xml", "a.xml.bz2"])
def test_dumps_of_mediawiki(tmp_path: Path, name: str) -> None:
    pytest.importorskip("mwparserfromhell")
    pages = [page("पुणे", ARTICLE), page("चर्चा:पुणे", "x", 1), page("पूना", "#REDIRECT [[पुणे]]"), page("पूणे", "x", more='<redirect title="पुणे"/>')]
    data = dump(*pages, page("मुंबई", "मुंबई शहर.")).encode()
    (tmp_path / name).write_bytes(bz2.compress(data) if name.endswith("bz2") else data)
    notes: list[str] = []
    found = read(tmp_path / name, notes)
    assert [(item.line, item.paragraphs) for item in found if isinstance(item, RawDocument)] == [
        (1, ["पुणे", "पुणे हे महाराष्ट्रातील मोठे शहर आहे.", "इतिहास", "जुने शहर."]),
        (5, ["मुंबई", "मुंबई शहर."]),
    ]
    assert notes == ["2 redirects and 1 pages that are not articles are not read"]


def test_a_dump_need_not_be_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mwparserfromhell")
    monkeypatch.setattr(wiki, "BLOCK_BYTES", 10)
    (tmp_path / "a.xml").write_text(dump(page("पुणे", "शहर."), page("मुंबई", "शहर.")), encoding="utf-8")
    reading = wiki.dump_blocks(source(tmp_path / "a.xml"), "utf-8", Listener(lambda n: None, lambda problem: None))
    assert isinstance(next(reading), Block)
    reading.close()  # type: ignore[attr-defined]  # a generator; a survey ends after a few blocks


def test_a_page_that_the_parser_does_not_finish_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit, this page takes hours."""
    pytest.importorskip("mwparserfromhell")
    monkeypatch.setattr(wiki, "PAGE_SECONDS", 2.0)
    monkeypatch.setattr(wiki, "_CHARACTERS_PER_SECOND", 1e9)
    hostile = "{{a|" * 10_000
    (tmp_path / "a.xml").write_text(dump(page("पुणे", ARTICLE), page("x", hostile), page("मुंबई", "मुंबई शहर.")), encoding="utf-8")
    found = read(tmp_path / "a.xml")
    assert [item.paragraphs[0] for item in found if isinstance(item, RawDocument)] == ["पुणे", "मुंबई"]
    bad = [item for item in found if isinstance(item, BadRow)]
    assert [(item.line, item.reason, item.characters) for item in bad] == [(2, "wikitext_not_read", len(hostile))]
    (tmp_path / "b.xml").write_text(dump(*[page("x", hostile)] * 3, *[page("y", "text")] * 3), encoding="utf-8")
    monkeypatch.setattr(wiki, "PAGE_SECONDS", 0.5)
    monkeypatch.setattr(wiki, "_MOST_GIVEN_UP", 2)
    assert [getattr(item, "reason", "") for item in read(tmp_path / "b.xml")] == ["wikitext_not_read"] * 6


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY c SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("head", [BOMB, OUTSIDE])
def test_entities_are_never_expanded(tmp_path: Path, head: str) -> None:
    (tmp_path / "a.xml").write_text(head + dump(page("&c;", "&c;")))
    packed(tmp_path / "a.docx", {"word/document.xml": head + WORD.format("<w:p><w:r><w:t>&c;</w:t></w:r></w:p>")})
    packed(tmp_path / "a.epub", {"META-INF/container.xml": head + CONTAINER.replace("OEBPS", "&c;")})
    for name in ("a.xml", "a.docx", "a.epub"):
        with pytest.raises(DataError, match="entities") as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_other_xml_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<rss><item/></rss>")
    with pytest.raises(DataError, match=r"<rss>.*only dumps of MediaWiki"):
        read(tmp_path / "a.xml")
    (tmp_path / "a.xml").write_text(dump(page("पुणे", "शहर."))[:-20])
    with pytest.raises(DataError, match="the XML is damaged"):
        read(tmp_path / "a.xml")


def test_articles_of_wikiextractor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f'<doc id="{n}" url="x" title="लेख {n}">\nलेख {n}\n\nपरिच्छेद {n}.\n\nआणखी.\n</doc>\n' for n in range(50))
    for name in ("wiki_00", "a.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        found = read(tmp_path / name)
        assert [item.paragraphs for item in found if isinstance(item, RawDocument)] == [
            [f"लेख {n}", f"परिच्छेद {n}.", "आणखी."] for n in range(50)
        ]


LISTS = {
    "q": "Q: {q}\nA: {a}\n\n",
    "marathi": "प्रश्न: {q}\nउत्तर: {a}\n",
    "numbered": "प्रश्न {n}: {q}\nउत्तर {n}: {a}\n\n",
    "apart": "**Q{n}.** {q}\n\n**A.** {a}\n\n",
    "hindi": "सवाल: {q}\nजवाब: {a}\n\n",
    "words": "Question: {q}\nAnswer: {a}\n\n",
    "lines": "Q. {q}\nA. {a}\n  more of it\n\n",
}


@pytest.mark.parametrize("style", LISTS)
def test_lists_of_questions_are_conversations(tmp_path: Path, style: str) -> None:
    text = "Facts about animals\n\n" + "".join(LISTS[style].format(q=f"कोण {n}?", a=f"तो {n}.", n=n) for n in range(1, 9))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    taken: list[str] = []
    found = [item for item in read(tmp_path / "a.txt", taken=taken) if isinstance(item, RawDocument)]
    asked = [item for item in found if item.messages]
    more = "\n  more of it" if style == "lines" else ""
    assert [[m["content"] for m in item.messages] for item in asked] == [[f"कोण {n}?", f"तो {n}.{more}"] for n in range(1, 9)]
    assert [item.paragraphs for item in found if not item.messages] == [["Facts about animals"]]
    assert taken[0].startswith("questions and answers")


def test_what_is_no_list_of_questions() -> None:
    play = "MENENIUS:\nYou are wise.\n\nALL:\nWe are.\n\n" * 5
    story = "A: is a letter.\nSo is B.\n" * 5 + "Q: what?\n"
    assert questions.recognize(play) is questions.recognize(story) is questions.recognize("") is None


def test_a_conversation_of_several_turns(tmp_path: Path) -> None:
    text = "User: एक?\nAssistant: हो.\nUser: दोन?\nAssistant: नाही.\n\n" * 3
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert [len(item.messages) for item in read(tmp_path / "a.txt") if isinstance(item, RawDocument)] == [4, 4, 4]


def pdf(path: Path, pages: list[list[str]], more: str = "", to_unicode: bool = True) -> Path:
    """A PDF whose text layer has these lines."""
    letters = sorted({letter for lines in pages for line in lines for letter in line})
    codes = {letter: number for number, letter in enumerate(letters, 1)}
    pairs = "\n".join(f"<{code:04x}> <{letter.encode('utf-16-be').hex()}>" for letter, code in codes.items())
    chunks = f"{len(codes)} beginbfchar\n{pairs}\nendbfchar" if pairs else ""
    head = "/CIDInit /ProcSet findresource begin 12 dict begin begincmap\n1 begincodespacerange <0000> <ffff> endcodespacerange"
    cmap = f"{head}\n{chunks}\nendcmap end end"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{' '.join(f'{5 + 2 * n} 0 R' for n in range(len(pages)))}] >>",
        "<< /Type /Font /Subtype /Type0 /BaseFont /X /Encoding /Identity-H /ToUnicode 4 0 R /DescendantFonts "
        "[<< /Type /Font /Subtype /CIDFontType2 /BaseFont /X /CIDSystemInfo << /Registry (A) /Ordering (I) /Supplement 0 >> /DW 500 >>] >>",
        f"<< /Length {len(cmap)} >>\nstream\n{cmap}\nendstream",
    ]
    for number, lines in enumerate(pages):
        shown = " ".join(f"1 0 0 1 50 {800 - 14 * at} Tm <{''.join(f'{codes[c]:04x}' for c in line)}> Tj" for at, line in enumerate(lines))
        content = f"BT /F1 10 Tf {shown} ET" if lines else ""
        resources = "/Resources << /Font << /F1 3 0 R >> >> /MediaBox [0 0 600 850]"
        objects.append(f"<< /Type /Page /Parent 2 0 R {resources} /Contents {6 + 2 * number} 0 R >>")
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    data, places = b"%PDF-1.5\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    start = len(data)
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    data += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {more} >>\n".encode()
    path.write_bytes(data + f"startxref\n{start}\n%%EOF\n".encode())
    return path


def test_pdf_paragraphs_and_what_stands_on_every_page(tmp_path: Path) -> None:
    body = [
        [
            "A long line of text that goes on and fills the whole width of",
            "the page, until it ends in a short line.",
            "The second paragraph is here.",
        ],
        ["Some words are hyphen-", "ated.", "At the end of this page the sentence is not over and it con-"],
        ["tinues on the next page."],
        ["The end."],
    ]
    pages = [["My Book", *lines, f"Page {number}"] for number, lines in enumerate(body, 1)]
    found = read(pdf(tmp_path / "a.pdf", pages))
    texts = [text for item in found if isinstance(item, RawDocument) for text in item.paragraphs]
    assert texts[0] == "A long line of text that goes on and fills the whole width of the page, until it ends in a short line."
    assert texts[1] == "The second paragraph is here." and texts[-1] == "The end."
    assert "At the end of this page the sentence is not over and it continues on the next page." in " ".join(texts)
    left_out = [item for item in found if isinstance(item, BadRow)]
    assert {item.reason for item in left_out} == {"page_furniture"}
    assert sorted(item.text for item in left_out) == ["My Book"] * 4 + [f"Page {n}" for n in range(1, 5)]


def test_devanagari_in_a_pdf(tmp_path: Path) -> None:
    good = ["मोरूला अंक आवडत असत.", "आजी घरी आली आणि बसली."] * 5
    assert len(paragraphs(pdf(tmp_path / "good.pdf", [good]))) > 1
    broken = [*good, "िकती वािजले ाआहे ेघर"] * 2
    with pytest.raises(DataError, match=r"\d+% of the Devanagari words of its text layer are broken"):
        read(pdf(tmp_path / "broken.pdf", [broken]))


def test_pdfs_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no text layer \(scanned pages have none\)"):
        read(pdf(tmp_path / "scan.pdf", [[], []]))
    notes: list[str] = []
    text = [f"This is line number {n} of it." for n in range(5)]
    assert read(pdf(tmp_path / "half.pdf", [text, []]), notes)
    assert len(notes) == 1 and notes[0].startswith("1 of 2 pages have no text layer")
    writer = pytest.importorskip("pypdf").PdfWriter(clone_from=str(tmp_path / "half.pdf"))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(tmp_path / "locked.pdf")
    with pytest.raises(DataError, match="protected by a password"):
        read(tmp_path / "locked.pdf")
    for content in (b"", b"%PDF-1.5\nnonsense", (tmp_path / "half.pdf").read_bytes()[:300]):
        (tmp_path / "bad.pdf").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.pdf: ") as caught:
            read(tmp_path / "bad.pdf")
        assert "\n" not in str(caught.value)


def test_a_pdf_of_very_many_pages(tmp_path: Path) -> None:
    pages = [[f"Sentence number {n} is on a page of its own."] for n in range(10_000)]
    assert len(paragraphs(pdf(tmp_path / "a.pdf", pages))) == 10_000


def test_a_document_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that contain each other, and a library that hangs, cost a bounded time."""
    monkeypatch.setattr(isolated, "SILENT_SECONDS", 0.0)
    docx(tmp_path / "a.docx", f"<w:p>{run(MARATHI)}</w:p>")
    with pytest.raises(DataError, match="reading stopped after 0 seconds"):
        read(tmp_path / "a.docx")
    monkeypatch.undo()
    assert paragraphs(tmp_path / "a.docx") == [MARATHI]


def test_one_process_reads_many_documents_and_survives_bad_ones(tmp_path: Path) -> None:
    good = docx(tmp_path / "good.docx", f"<w:p>{run(MARATHI)}</w:p>")
    bad = tmp_path / "bad.docx"
    bad.write_bytes(b"PK\x03\x04 nonsense")
    notes: list[str] = []
    with DocumentProcess() as process:
        for path in (good, bad, good):
            assert list(blocks(source(path, named=False), lambda n: None, notes.append, process=process)) or path == bad
        first = process._process
        assert first is not None and first.poll() is None, "a file that is damaged does not end the process"
        first.kill()
        assert list(blocks(source(good, named=False), lambda n: None, notes.append, process=process)) == [] and len(notes) == 2
        assert list(blocks(source(good, named=False), lambda n: None, notes.append, process=process)), "it is started again"
    assert "damaged" in notes[0] and "failed" in notes[1]


def test_documents_that_unpack_to_far_too_much(tmp_path: Path) -> None:
    body = f"<w:p>{run('0' * (60 << 20))}</w:p>"
    docx(tmp_path / "a.docx", body)
    epub(tmp_path / "a.epub", **{"OEBPS/one.xhtml": f"<html><body><p>{'0' * (60 << 20)}</p></body></html>"})
    for name in ("a.docx", "a.epub"):
        with pytest.raises(DataError, match=r"unpacks to \d+ MB of text, far more"):
            read(tmp_path / name)


def test_protected_and_wrong_documents(tmp_path: Path) -> None:
    (tmp_path / "locked.docx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    packed(tmp_path / "sheet.docx", {"xl/workbook.xml": "<x/>"})
    epub(tmp_path / "drm.epub", **{"META-INF/encryption.xml": '<encryption><CipherReference URI="OEBPS/one.xhtml"/></encryption>'})
    for name, wrong in (("locked.docx", "password"), ("sheet.docx", "not a Word document"), ("drm.epub", "DRM")):
        with pytest.raises(DataError, match=wrong):
            read(tmp_path / name)
    fonts = '<encryption><CipherReference URI="OEBPS/f.otf"/></encryption>'
    assert paragraphs(epub(tmp_path / "fonts.epub", **{"META-INF/encryption.xml": fonts}))


def test_an_extra_that_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("a.docx", "a.pdf", "a.epub", "a.html", "a.md", "a.xml"):
        (tmp_path / name).write_bytes(b"<mediawiki/>")
        with pytest.raises(DataError, match=r"reading .* needs the \w+ package: .* -m pip install .*\[documents\]'$"):
            read(tmp_path / name)


def test_the_libraries_are_loaded_for_such_files_only() -> None:
    import subprocess

    libraries = "pypdf selectolax defusedxml mwparserfromhell docx markdown_it charset_normalizer py3langid".split()
    script = f"import sys, bulletlm.data.reading; print([name for name in {libraries} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_telegram_pages_are_named(tmp_path: Path) -> None:
    (tmp_path / "messages.html").write_text("<html><head><title>Exported Data</title></head><body><p>x</p></body></html>")
    with pytest.raises(DataError, match="a Telegram export, which is not read"):
        read(tmp_path / "messages.html")
