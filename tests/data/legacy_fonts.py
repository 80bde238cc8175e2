"""Encodes Devanagari as three legacy fonts do, exactly enough to test its detection. Letter parts are encoded, ligatures are not."""

import re

_NAMES = "क ख ग घ च छ ज झ ट ठ ड ढ ण त थ द ध न प फ ब भ म य र ल व श ष स ह ळ".split()
_SIGNS = "ा ी ु ू े ै ो ौ ं".split()
_VOWELS = "अ आ इ ई उ ए ओ".split()

# The characters of the whole letter and of the half letter in each font.
KRUTI_DEV = (
    dict(zip(_NAMES, "d [k x ?k p N t > V B M < .k r Fk n /k u i Q c Hk e ; j y o 'k \"k l g G".split(), strict=True)),
    dict(zip(_SIGNS, "k h q w s S ks kS a".split(), strict=True)),
    dict(zip(_VOWELS, "v vk b bZ m , vks".split(), strict=True)),
    "f",
)
SHIVAJI = (
    dict(zip(_NAMES, "k K ga Ga ca C ja Ja T z D Z Na ta qa d Qa na pa f ba Ba ma ya r la va Sa Ya sa h L".split(), strict=True)),
    dict(zip(_SIGNS, "a I u U o O ao aO M".split(), strict=True)),
    dict(zip(_VOWELS, "A Aa [ [- ] e Aao".split(), strict=True)),
    "i",
)
DVB_TT = (
    dict(
        zip(
            _NAMES,
            "Eò JÉ MÉ PÉ SÉ Uô VÉ ZÉ ]õ `ö b÷ fø hÉ iÉ lÉ nù vÉ xÉ {É ¡ò ¤É ¦É ¨É ªÉ ®ú ±É ´É ¶É ¹É ºÉ ½þ ³ý".split(),
            strict=True,
        )
    ),
    dict(zip(_SIGNS, "É Ò Ö Ú ä è Éä Éè Æ".split(), strict=True)),
    dict(zip(_VOWELS, "+ +É < <Ç = B +Éä".split(), strict=True)),
    "Ê",
)
_CLUSTER = re.compile("((?:[क-ह]\u094d)*[क-ह])\u093f")


def stored_in(font: tuple[dict[str, str], dict[str, str], dict[str, str], str], text: str) -> str:
    """`text` as the bytes of a document in `font` read as Latin-1; the half of a letter is the letter without its stick."""
    letters, signs, vowels, short_i = font
    text = _CLUSTER.sub(lambda found: short_i + found[1], text)
    stick = signs["ा"]
    for letter, stored in letters.items():
        half = stored.removesuffix(stick) if stored != stick else stored
        text = text.replace(letter + "\u094d", half).replace(letter, stored)
    for table in (signs, vowels):
        for sign, stored in table.items():
            text = text.replace(sign, stored)
    return re.sub("[\u0900-\u0963\u200c\u200d]", "", text)
