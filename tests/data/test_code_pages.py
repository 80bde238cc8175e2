"""Tests that files in UTF-16 and in old code pages are read if the encoding is certain, and are reported if it is not."""

import codecs
from pathlib import Path

import pytest
from test_language import SENTENCES

from bulletlm.data.readers.opened import find_encoding
from bulletlm.data.reading import RawDocument, read_documents
from bulletlm.data.sources import SourceFile
from bulletlm.errors import DataError
from paths import SAMPLE_CORPUS

MARATHI = (SAMPLE_CORPUS / "stories.mr.txt").read_text(encoding="utf-8")[:6000]
ENGLISH = (SAMPLE_CORPUS / "stories.en.txt").read_text(encoding="utf-8")[:6000]


def read(path: Path) -> list[str]:
    file = SourceFile(path, path.name, path.suffix, "auto", True)
    found = read_documents(file, 1, lambda n: None, print)
    return [paragraph for item in found if isinstance(item, RawDocument) for paragraph in item.paragraphs]


@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", [MARATHI, ENGLISH, "एक ओळ\n" * 3, "नमस्कार, hello\r\n"], ids=["mr", "en", "short", "mixed"])
def test_utf_16_with_and_without_its_mark(tmp_path: Path, text: str, codec: str, mark: bool) -> None:
    marks = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE, "utf-32-le": codecs.BOM_UTF32_LE}
    (tmp_path / "a.txt").write_bytes((marks.get(codec, codecs.BOM_UTF32_BE) if mark else b"") + text.encode(codec))
    assert read(tmp_path / "a.txt") == [line for line in text.splitlines() if line.strip()]


PAGES = {"fr": "cp1252", "de": "cp1252", "es": "cp1252", "pt": "cp1252", "pl": "cp1250", "ru": "cp1251", "uk": "cp1251", "tr": "cp1254"}
PAGES |= {"el": "cp1253", "he": "cp1255", "ar": "cp1256", "th": "cp874", "ja": "shift_jis", "zh": "gb18030", "ko": "cp949"}


@pytest.mark.parametrize("language", PAGES)
def test_old_code_pages(tmp_path: Path, language: str) -> None:
    text = f"{SENTENCES[language]}\n" * 5
    (tmp_path / "a.txt").write_bytes(text.encode(PAGES[language], errors="ignore"))
    assert read(tmp_path / "a.txt") == text.encode(PAGES[language], errors="ignore").decode(PAGES[language]).splitlines()


def test_english_with_curly_quotes_of_windows(tmp_path: Path) -> None:
    text = "“Come in,” she said – it’s cold outside.\nThe café was full, and the menu cost £5.\n" * 3
    (tmp_path / "a.txt").write_bytes(text.encode("cp1252"))
    assert read(tmp_path / "a.txt") == text.splitlines()


def test_a_late_letter_of_an_old_page_decides(tmp_path: Path) -> None:
    """The first megabyte is plain ASCII."""
    text = "A plain line of English text.\n" * 50_000 + "Le garçon préfère la forêt près de la rivière où il a été élevé.\n"
    (tmp_path / "a.txt").write_bytes(text.encode("cp1252"))
    assert read(tmp_path / "a.txt")[-1].startswith("Le garçon préfère la forêt")


def test_some_damaged_lines_do_not_decide(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(MARATHI.encode() + b"caf\xe9\n")
    assert find_encoding(SourceFile(tmp_path / "a.txt", "a.txt", ".txt", "auto", True)) == "utf-8"


_LETTERS = [*range(0xA4, 0xAB), 0xAC, 0xAD, 0xB0, 0xB1, *range(0xB3, 0xC7), *range(0xC8, 0xCE), 0xCF, 0xD1, 0xD2, 0xD4, *range(0xD5, 0xD9)]
_SIGNS = [0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xE1, 0xE2, 0xE5, 0xE6, 0xE9, 0xE8, 0xA2, 0xA1, 0xA3, 0xEA]
_ISCII = dict(zip("अआइईउऊऋएऐओऔकखगघङचछजझञटठडढणतथदधनपफबभमयरलळवशषसह", _LETTERS, strict=True))
_ISCII |= dict(zip("ािीुूृेैोौ़्ंँः।", _SIGNS, strict=True))


def iscii(text: str) -> bytes:
    return bytes(_ISCII.get(c, ord(c) if ord(c) < 128 else 0x20) for c in text)


@pytest.mark.parametrize("lines", [5, 100])
def test_iscii_is_named(tmp_path: Path, lines: int) -> None:
    (tmp_path / "a.txt").write_bytes(iscii("\n".join(MARATHI.splitlines()[:lines])))
    with pytest.raises(DataError, match=r"ISCII, a legacy 8-bit encoding: convert it with `uconv") as caught:
        read(tmp_path / "a.txt")
    assert "\n" not in str(caught.value)


def test_other_pages_are_not_iscii(tmp_path: Path) -> None:
    for language in ("ru", "el", "he", "ar", "th"):
        (tmp_path / "a.txt").write_bytes(f"{SENTENCES[language]}\n".encode(PAGES[language], errors="ignore") * 3)
        assert read(tmp_path / "a.txt"), language


def test_bytes_without_sense_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\n".join(bytes((n * 97 + k * 31) % 127 + 128 for k in range(40)) for n in range(40)))
    with pytest.raises(DataError, match=r"encoding cannot be detected with certainty|binary"):
        read(tmp_path / "a.txt")
