"""Tests the detection of text that was decoded with the wrong encoding or that needs a legacy font."""

from pathlib import Path

import pytest
from legacy_fonts import DVB_TT, KRUTI_DEV, SHIVAJI, stored_in

from bulletlm.data.encodings import has_mojibake, has_private_letters, is_legacy_file, is_legacy_font, mend_mojibake, remove_private_bullets
from bulletlm.data.readers.opened import find_encoding
from bulletlm.data.reading import read_documents
from bulletlm.data.sources import SourceFile
from bulletlm.errors import DataError
from paths import SAMPLE_CORPUS


def lines(name: str) -> list[str]:
    return [line for line in (SAMPLE_CORPUS / name).read_text(encoding="utf-8").splitlines() if line]


TEXTS = ["caf\u00e9 and \u201cquotes\u201d \u2013 na\u00efve", "it\u2019s here", "\U0001f600 smile"]


# Windows-1252 has no character for the bytes 0x81, 0x8d, 0x8f, 0x90 and 0x9d.
@pytest.mark.parametrize(("text", "table"), [*((text, "latin-1") for text in TEXTS), *((text, "cp1252") for text in TEXTS[1:])])
def test_mojibake_is_put_back(text: str, table: str) -> None:
    garbled = text.encode().decode(table)
    assert has_mojibake(garbled)
    assert mend_mojibake(garbled) == text


def test_marathi_read_as_latin_1_is_put_back() -> None:
    for text in lines("stories.mr.txt")[:40]:
        garbled = text.encode().decode("latin-1")
        assert has_mojibake(garbled)
        assert mend_mojibake(garbled) == text


def test_what_cannot_be_put_back_is_left_and_noticed() -> None:
    garbled = "नगर रचनाकार या ×«üÃÖ¤üÃµÖßµÖ समितीने"
    assert mend_mojibake(garbled) == garbled
    assert has_mojibake(garbled)


@pytest.mark.parametrize("text", ["नमस्कार", "Ça va à Paris, São Paulo, Århus, ÉCOLE", "“curly” quotes – stay", "5 × 3 = 15 °C", "a â b"])
def test_good_text_is_no_mojibake(text: str) -> None:
    assert not has_mojibake(text)
    assert mend_mojibake(text) == text


def test_private_use() -> None:
    assert remove_private_bullets("आहे :- \uf0b7 सदर \ue123 बाब").split() == ["आहे", ":-", "सदर", "बाब"]
    assert remove_private_bullets("साधे") == "साधे"
    assert has_private_letters(remove_private_bullets("मजकू\ue123र")) and not has_private_letters("मजकूर")


@pytest.mark.parametrize("font", [KRUTI_DEV, SHIVAJI, DVB_TT], ids=["Kruti Dev", "Shivaji", "DVB-TT"])
def test_old_fonts_are_recognized(font: tuple[dict[str, str], dict[str, str], dict[str, str], str]) -> None:
    texts = [line for line in lines("stories.mr.txt") + lines("thoughts.mr.txt") if len(line.split()) >= 6]
    found = [is_legacy_font(stored_in(font, text)) for text in texts]
    assert sum(found) > 0.95 * len(found)


def test_nothing_else_is_taken_for_an_old_font() -> None:
    names = ["stories.en.txt", "thoughts.en.txt", "explanations.en.txt", "stories.mr.txt", "explanations.mr.txt"]
    assert [line for name in names for line in lines(name) if is_legacy_font(line)] == []
    assert not is_legacy_font("Azure IoT Hub GitHub Copilot")
    assert not is_legacy_font("kay karto ahes tu aaj sandhyakali")
    assert not is_legacy_font("Wie geht es dir heute, mein Freund?")
    assert not is_legacy_font("vkgs vkf.k"), "too short to tell"


@pytest.mark.parametrize("font", [KRUTI_DEV, SHIVAJI, DVB_TT], ids=["Kruti Dev", "Shivaji", "DVB-TT"])
@pytest.mark.parametrize("code_page", ["utf-8", "cp1252"])
def test_files_of_an_old_font_are_named(
    tmp_path: Path, font: tuple[dict[str, str], dict[str, str], dict[str, str], str], code_page: str
) -> None:
    text = "\n".join(stored_in(font, line) for line in lines("stories.mr.txt")[:60])
    assert is_legacy_file(text.split("\n"))
    (tmp_path / "a.txt").write_text(text, encoding=code_page, errors="ignore")
    with pytest.raises(DataError, match="legacy font"):
        list(read_documents(SourceFile(tmp_path / "a.txt", "a.txt", ".txt", "auto", True), 1, lambda n: None, print))


CODE = """if (a<b && c>d) { x = a**b**c; printf("%d\\n", x[i]); }
for (int i = 0; i < n; i++) { sum += v[i] * w[i]; }
std::vector<std::pair<int, std::string>> items = load(path);
return {key: value for key, value in rows.items() if value is not None};
self._cache[name] = np.zeros((n_rows, n_cols), dtype=np.float32)"""
ITRANS = """shrI gaNeshAya namaH | asya shrIrAmarakShAstotramantrasya
budhakaushika R^iShiH | shrIsItArAmachandro devatA |
charitaM raghunAthasya shatakoTipravistaram |
ekaikamakSharaM puMsAM mahApAtakanAshanam |"""
NAMES = """iPhone 15 Pro, MacBook Air M2, Galaxy S24 Ultra, ThinkPad X1
Sony WH-1000XM5, Canon EOS R6, DJI Mini 4, GoPro HERO12
RTX 4090 Ti, Ryzen 9 7950X, DDR5-6000 CL30, NVMe Gen4 2TB"""


@pytest.mark.parametrize("text", [CODE, ITRANS, NAMES], ids=["code", "ITRANS", "names"])
def test_other_strange_files_are_read(text: str) -> None:
    assert not is_legacy_file((text + "\n").split("\n") * 10)


def test_how_the_fonts_look() -> None:
    assert stored_in(KRUTI_DEV, "आहे आणि नाही") == "vkgs vkf.k ukgh"
    assert stored_in(SHIVAJI, "आणि नाही") == "AaiNa naahI"
    assert stored_in(DVB_TT, "आणि शासन") == "+ÉÊhÉ ¶ÉÉºÉxÉ"


@pytest.mark.parametrize("letters", ["अआइईउऊ", "aéü", "😀a", "x"])
@pytest.mark.parametrize("shift", range(4))
def test_a_line_of_megabytes_stays_utf_8(letters: str, shift: int, tmp_path: Path) -> None:
    """However the parts in which it is counted are cut."""
    path = tmp_path / "a.txt"
    path.write_text("x" * shift + letters * (2_000_000 // len(letters.encode())), encoding="utf-8")
    assert find_encoding(SourceFile(path, "a.txt", ".txt", "auto", True)) == "utf-8"
