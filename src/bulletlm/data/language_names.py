"""Table of languages: codes, English names, native names and scripts."""

_TABLE = """
    mr deva Marathi मराठी
    hi deva Hindi हिन्दी हिंदी
    ne deva Nepali नेपाली
    sa deva Sanskrit संस्कृतम् संस्कृत
    kok deva Konkani कोंकणी
    mai deva Maithili मैथिली
    bho deva Bhojpuri भोजपुरी
    bn beng Bengali বাংলা Bangla
    as beng Assamese অসমীয়া
    pa guru Punjabi ਪੰਜਾਬੀ Panjabi
    gu gujr Gujarati ગુજરાતી
    or orya Odia ଓଡ଼ିଆ Oriya
    ta taml Tamil தமிழ்
    te telu Telugu తెలుగు
    kn knda Kannada ಕನ್ನಡ
    ml mlym Malayalam മലയാളം
    si sinh Sinhala සිංහල
    ur arab Urdu اردو
    ar arab Arabic العربية
    fa arab Persian فارسی Farsi
    ps arab Pashto پښتو
    sd arab Sindhi سنڌي
    ckb arab Kurdish کوردی
    ug arab Uyghur ئۇيغۇرچە
    he hebr Hebrew עברית
    yi hebr Yiddish ייִדיש
    ru cyrl Russian русский
    uk cyrl Ukrainian українська
    be cyrl Belarusian беларуская
    bg cyrl Bulgarian български
    sr cyrl Serbian српски
    mk cyrl Macedonian македонски
    kk cyrl Kazakh қазақша
    ky cyrl Kyrgyz кыргызча
    mn cyrl Mongolian монгол
    tg cyrl Tajik тоҷикӣ
    tt cyrl Tatar татарча
    el grek Greek ελληνικά
    hy armn Armenian հայերեն
    ka geor Georgian ქართული
    am ethi Amharic አማርኛ
    th thai Thai ไทย ภาษาไทย
    lo laoo Lao ລາວ
    km khmr Khmer ខ្មែរ ភាសាខ្មែរ
    my mymr Burmese မြန်မာ မြန်မာဘာသာ
    zh hani Chinese 中文 汉语 漢語
    ja jpan Japanese 日本語
    ko hang Korean 한국어
    en latn English
    de latn German Deutsch
    fr latn French français
    es latn Spanish español castellano
    it latn Italian italiano
    pt latn Portuguese português
    nl latn Dutch Nederlands
    af latn Afrikaans
    sv latn Swedish svenska
    da latn Danish dansk
    nb latn Norwegian norsk bokmål
    nn latn Nynorsk
    is latn Icelandic íslenska
    fi latn Finnish suomi
    et latn Estonian eesti
    lv latn Latvian latviešu
    lt latn Lithuanian lietuvių
    pl latn Polish polski
    cs latn Czech čeština
    sk latn Slovak slovenčina
    sl latn Slovenian slovenščina Slovene
    hr latn Croatian hrvatski
    bs latn Bosnian bosanski
    sq latn Albanian shqip
    ro latn Romanian română
    hu latn Hungarian magyar
    tr latn Turkish Türkçe
    az latn Azerbaijani azərbaycanca
    uz latn Uzbek oʻzbekcha
    vi latn Vietnamese tiếngviệt
    id latn Indonesian bahasaindonesia
    ms latn Malay bahasamelayu
    jv latn Javanese
    tl latn Tagalog Filipino
    sw latn Swahili Kiswahili
    so latn Somali
    ha latn Hausa
    yo latn Yoruba
    zu latn Zulu
    xh latn Xhosa
    rw latn Kinyarwanda
    mg latn Malagasy
    eu latn Basque euskara
    ca latn Catalan català
    gl latn Galician galego
    ga latn Irish Gaeilge
    cy latn Welsh Cymraeg
    mt latn Maltese Malti
    la latn Latin latina
    eo latn Esperanto
"""

_ROWS = [line.split() for line in _TABLE.splitlines() if line.strip()]

ROMANIZED = {"mr-Latn": "mr", "hi-Latn": "hi"}
"""Code of a language in Latin letters that is detected -> code of the language."""

SCRIPT_OF = {code: script for code, script, *_ in _ROWS} | {"gom": "deva", "no": "latn"} | dict.fromkeys(ROMANIZED, "latn")
"""ISO 639 code -> ISO 15924 code of the usual script, in lower case."""

ENGLISH_NAMES = {code: name for code, _, name, *_ in _ROWS} | {
    "no": "Norwegian",
    "gom": "Konkani",
    "mr-Latn": "Marathi in Latin letters",
    "hi-Latn": "Hindi in Latin letters",
}
"""ISO 639 code -> name in English."""

OWN_NAMES = {code: names[1] if len(names) > 1 else names[0] for code, _, *names in _ROWS}
"""ISO 639 code -> name in the language itself."""

_LONG_CODES = (
    "eng en mar mr hin hi ben bn tam ta tel te kan kn mal ml guj gu pan pa urd ur fra fr fre fr deu de ger de spa es ita it"
).split()
_BY_NAME = (
    {name.lower(): code for code, _, *names in reversed(_ROWS) for name in names}
    | {code: code for code in SCRIPT_OF}
    | dict(zip(_LONG_CODES[::2], _LONG_CODES[1::2], strict=True))
)


def language_of_name(name: str) -> str | None:
    """The code of the language that a heading names: "English", "मराठी", "en", "en_IN", "eng", "English sentence"; or None."""
    words = name.strip().lower().replace("_", " ").replace("-", " ").replace("(", " ").replace(")", " ").split()
    if not words or len(words) > 3:
        return None
    joined = "".join(words)
    return _BY_NAME.get(joined) or next((_BY_NAME[word] for word in words if word in _BY_NAME and (len(word) > 3 or len(words) == 2)), None)
