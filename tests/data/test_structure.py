"""Tests documents and paragraphs of text files: related text stays together and in order, and no character is lost."""

import random
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.data.structure import Dropped, Structure, TextDocument, choose_structure, split_documents

SENTENCES = (
    "The ferry left at noon, and nobody on the quay could say when it would be back again.",
    "Two of the lamps had gone out; the third one burned low, and the room smelled of oil.",
    "She counted the coins twice, wrapped them in a cloth and put them under the loose tile.",
    "In the morning the snow had covered the path to the well, so that they had to dig it out.",
    "A good carpenter measures twice, and a patient one measures again before the saw is out.",
)
MARATHI = (
    "नदीच्या काठावर एक जुना वाडा होता आणि त्याच्या अंगणात पिंपळाचे मोठे झाड उभे होते.",
    "पावसाळा सुरू झाला की गावातील मुले ओढ्याच्या पाण्यात कागदाच्या होड्या सोडत असत.",
    "आजोबा संध्याकाळी ओट्यावर बसून गावाच्या जुन्या गोष्टी सांगत आणि सगळे शांतपणे ऐकत.",
)


def prose(seed: int, sentences: int, of: tuple[str, ...] = SENTENCES) -> str:
    return " ".join(random.Random(seed).choices(of, k=sentences))


def read(text: str, documents: str = "auto") -> tuple[Structure, list[TextDocument], list[Dropped]]:
    lines = text.split("\n")
    structure = choose_structure(lines, documents)  # type: ignore[arg-type]
    parts = list(split_documents(enumerate(lines, 1), structure))
    return structure, [p for p in parts if isinstance(p, TextDocument)], [p for p in parts if isinstance(p, Dropped)]


def whole(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def play() -> str:
    names = ("GUARD", "QUEEN", "ALL", "FIRST SAILOR")
    chosen = random.Random(3)
    return "\n\n".join(f"{chosen.choice(names)}:\n{prose(n, 1 + n % 3)}" for n in range(60))


def song() -> str:
    stanzas = ("वारा वाहे झुळझुळ गाणी\nझाडावरती बसली राणी", "चिमणी आली दाणे टिपले\nमांजर पाहून उडून गेले", "ढग आले दाटून काळे\nभिजून गेले सारे मळे")
    return "\n\n".join(f"{stanza}\nचला सख्यांनो खेळू आता मोकळ्या या अंगणी" for stanza in stanzas * 2)


def recipes() -> str:
    return "\n\n".join(f"कृती क्रमांक {n}\nसाहित्य\nमीठ {n} चमचे\nतेल {n + 1} वाटी\nकृती\n{prose(n, 2, MARATHI)}" for n in range(40))


def book(width: int = 72, of: tuple[str, ...] = SENTENCES) -> tuple[str, list[str]]:
    """A wrapped book and its paragraphs."""
    paragraphs = ["CHAPTER I", *(prose(n, 3 + n % 5, of) for n in range(12)), "CHAPTER II", *(prose(50 + n, 4, of) for n in range(12))]
    return "\n\n".join(textwrap.fill(p, width, break_long_words=False, break_on_hyphens=False) for p in paragraphs), paragraphs


@pytest.mark.parametrize("text", [play(), song(), recipes(), "\n\n".join(SENTENCES), "\n\n\n".join(MARATHI * 3)])
def test_blank_lines_inside_one_work_separate_nothing(text: str) -> None:
    structure, documents, _ = read(text)
    assert structure.documents == "file" and structure.chosen
    assert [document.paragraphs for document in documents] == [whole(text)]


def test_articles_of_several_paragraphs_are_documents() -> None:
    text = "\n\n".join(f"Note {n} on ferries\n{prose(n, 3)}\n{prose(n + 99, 2)}" for n in range(10))
    structure, documents, _ = read(text)
    assert structure.documents == "blank_line" and len(documents) == 10
    assert structure.describe() == "an empty line separates documents"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("of", [SENTENCES, MARATHI])
@pytest.mark.parametrize("width", [60, 72, 78])
def test_a_wrapped_book_is_joined_into_paragraphs(width: int, of: tuple[str, ...], end: str) -> None:
    text, paragraphs = book(width, of)
    structure, documents, _ = read(text.replace("\n", end).replace("\r\n", "\n"))
    assert structure.documents == "file" and abs(structure.width - width) <= 6
    assert [document.paragraphs for document in documents] == [paragraphs]


def test_verse_and_lists_inside_a_wrapped_book_keep_their_lines() -> None:
    text, _ = book()
    verse = "Long is the road that goes\nover the hill,\nlonger the night that grows\nquiet and still."
    listed = "salt, a spoon\n  oil, two cups\n  flour"
    structure, documents, _ = read(f"{text}\n\n{verse}\n\n{listed}\n\n{text}")
    assert structure.width
    paragraphs = documents[0].paragraphs
    at = paragraphs.index("Long is the road that goes")
    assert paragraphs[at : at + 7] == [*verse.split("\n"), *listed.split("\n")]


@pytest.mark.parametrize("text", [song(), play(), recipes(), "\n".join(SENTENCES), "\n".join(["yes", "no", "a list", "of words"] * 20)])
def test_lines_that_people_broke_stay(text: str) -> None:
    assert read(text)[0].width == 0


def test_the_header_and_licence_of_project_gutenberg_are_dropped() -> None:
    text, paragraphs = book()
    header = "The Project Gutenberg eBook of Ferries\n\nTitle: Ferries\n\n*** START OF THE PROJECT GUTENBERG EBOOK FERRIES ***"
    licence = "*** END OF THE PROJECT GUTENBERG EBOOK FERRIES ***\n\nUpdated editions will replace the previous one.\nYou may use it."
    full = f"{header}\n\nProduced by A. Volunteer and\nthe team\n\n{text}\n\n{licence}"
    structure, documents, dropped = read(full)
    assert structure.gutenberg and [document.paragraphs for document in documents] == [paragraphs]
    assert {drop.reason for drop in dropped} == {"gutenberg"}
    assert "\n".join(drop.text for drop in dropped).split("\n") == [
        *whole(header), "Produced by A. Volunteer and", "the team", *whole(licence),
    ]  # fmt: skip


def test_form_feeds_between_documents_and_between_pages() -> None:
    documents = [f"{prose(n, 2)}\n\n{prose(n + 9, 3)}" for n in range(5)]
    structure, found, _ = read("\n\f".join(documents))
    assert structure.documents == "form_feed"
    assert [document.paragraphs[0] for document in found] == [text.split("\n")[0] for text in documents]
    words = prose(1, 40).split()
    pages = "\n\f".join(" ".join(words[n : n + 40]) for n in range(0, 400, 40))
    assert read(pages)[0].documents == "file"


@pytest.mark.parametrize(
    "heading", ["# {} on ferries", "= {} on ferries =", "Part {}", "प्रकरण {}", "Letter {} to the queen", "{}th note on ferries"]
)
def test_headings_begin_documents_where_the_setting_says_so(heading: str) -> None:
    text = "\n\n".join(f"{heading.format(n)}\n\n{prose(n, 3)}\n\n{prose(n + 20, 3)}" for n in range(1, 6))
    _, documents, _ = read(text, "heading")
    assert [document.paragraphs[0] for document in documents] == [heading.format(n) for n in range(1, 6)]
    assert read(text)[0].documents == "file", "chapters of one book stay together unless the setting says otherwise"


@pytest.mark.parametrize("documents", ["file", "blank_line", "form_feed", "heading"])
def test_the_setting_decides_over_auto(documents: str) -> None:
    for text in (song(), play(), "\n\n".join(f"Title {n}\n{prose(n, 3)}\n{prose(n, 3)}" for n in range(9))):
        structure, found, _ = read(text, documents)
        assert structure.documents == documents and not structure.chosen
        assert [p for document in found for p in document.paragraphs] == whole(text)


def test_one_long_document_is_cut_with_blank_line() -> None:
    _, documents, _ = read("\n".join(f"{prose(n, 10)}" for n in range(40)), "blank_line")
    assert len(documents) > 3 and all(sum(map(len, document.paragraphs)) < 10_000 for document in documents)


LINES = st.lists(
    st.one_of(
        st.sampled_from(["", "", " ", "# one", "Chapter 2", "*** START OF THE PROJECT GUTENBERG EBOOK X ***", "Produced by X",
                         "*** END OF THE PROJECT GUTENBERG EBOOK X ***", "\f", "a\fb", "a\f", "\f \fa",
                         *SENTENCES, *textwrap.wrap(SENTENCES[0] * 4, 60)]),
        st.text(alphabet=st.characters(exclude_characters="\n"), max_size=80),
    ),
    max_size=60,
)  # fmt: skip


@given(LINES, st.sampled_from(["auto", "file", "blank_line", "form_feed", "heading"]))
def test_no_character_is_lost(lines: list[str], documents: str) -> None:
    _, found, dropped = read("\n".join(lines), documents)
    read_characters = sum(len(line) for line in lines if line.strip())
    kept = sum(len(paragraph) for document in found for paragraph in document.paragraphs)
    gone = sum(len(part) for drop in dropped for part in drop.text.split("\n"))
    delta = sum(sum(document.changed.values()) for document in found)
    assert read_characters == kept + gone + delta
    numbers = [number for document in found for number in document.lines]
    assert numbers == sorted(numbers) and all(lines[number - 1].strip() for number in numbers)
