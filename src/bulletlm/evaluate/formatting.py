"""Numbers as text for the report: shares, sizes, durations."""

import math

from bulletlm.data.language_names import ENGLISH_NAMES

NO_LANGUAGE = "und"
"""Code of text whose language is not known."""

_MARATHI_NAMES = {
    "mr": "मराठी",
    "en": "इंग्रजी",
    "hi": "हिंदी",
    "sa": "संस्कृत",
    "gu": "गुजराती",
    "kn": "कन्नड",
    "ta": "तमिळ",
    "te": "तेलुगू",
    "ml": "मल्याळम",
    "bn": "बंगाली",
    "as": "आसामी",
    "or": "ओडिया",
    "pa": "पंजाबी",
    "ur": "उर्दू",
    "sd": "सिंधी",
    "ne": "नेपाळी",
    "kok": "कोकणी",
    "gom": "कोकणी",
    "mai": "मैथिली",
    "bho": "भोजपुरी",
    "si": "सिंहली",
    "ar": "अरबी",
    "fa": "फारसी",
    "ru": "रशियन",
    "zh": "चिनी",
    "ja": "जपानी",
    "ko": "कोरियन",
    "de": "जर्मन",
    "fr": "फ्रेंच",
    "es": "स्पॅनिश",
    "it": "इटालियन",
    "pt": "पोर्तुगीज",
    "nl": "डच",
    "sv": "स्वीडिश",
    "da": "डॅनिश",
    "nb": "नॉर्वेजियन",
    "no": "नॉर्वेजियन",
    "fi": "फिनिश",
    "pl": "पोलिश",
    "cs": "चेक",
    "sl": "स्लोव्हेनियन",
    "hr": "क्रोएशियन",
    "ro": "रोमेनियन",
    "hu": "हंगेरियन",
    "tr": "तुर्की",
    "el": "ग्रीक",
    "he": "हिब्रू",
    "th": "थाई",
    "vi": "व्हिएतनामी",
    "id": "इंडोनेशियन",
    "ms": "मलय",
    "sw": "स्वाहिली",
    "la": "लॅटिन",
    "mr-Latn": "रोमन लिपीतील मराठी",
    "hi-Latn": "रोमन लिपीतील हिंदी",
    NO_LANGUAGE: "अज्ञात भाषा",
}


def language_name(code: str, language: str = "en") -> str:
    """ "Marathi" for "mr", in English or Marathi; unknown codes stay as they are."""
    if language == "mr" and code in _MARATHI_NAMES:
        return _MARATHI_NAMES[code]
    return "unknown language" if code == NO_LANGUAGE else ENGLISH_NAMES.get(code, code)


def language_list(codes: list[str], language: str = "en") -> str:
    """ "Marathi and English"; text of unknown language is only named if there is no other."""
    names = [language_name(code, language) for code in codes if code != NO_LANGUAGE] or [language_name(NO_LANGUAGE, language)]
    return (" आणि " if language == "mr" else " and ").join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def decimal(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def signed(value: float) -> str:
    """Three decimals (four for values below 0.01) and a sign."""
    return f"{value:+.4f}".replace("-", "−") if abs(value) < 0.01 else f"{value:+.3f}".replace("-", "−")


def plus_minus(value: float | None, digits: int | None = None) -> str:
    """ " ± 0.002", or an empty string if the error is not known."""
    if value is None:
        return ""
    return f" ± {small(value) if digits is None else f'{value:.{digits}f}'}"


def percent(value: float, digits: int = 1) -> str:
    """A share as a percentage."""
    return f"{100 * value:.{digits}f}\u00a0%"


def percent_change(value: float) -> str:
    """A relative change as a percentage with a sign."""
    return f"{100 * value:+,.2f}\u00a0%".replace("-", "−") if abs(value) < 0.1 else f"{100 * value:+,.0f}\u00a0%".replace("-", "−")


def perplexity(value: float) -> str:
    """About four significant digits."""
    if value >= 1e6:
        return scientific(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def small(value: float) -> str:
    """Two significant digits."""
    if value == 0:
        return "0"
    if abs(value) < 1e-5:
        return scientific(value)
    digits = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def scientific(value: float) -> str:
    """2.3 × 10⁻⁶."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def size(value: int) -> str:
    """Bytes in decimal units: 1.4 MB."""
    amount = float(value)
    for unit in ("bytes", "KB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{value:,} bytes" if unit == "bytes" else f"{amount:.1f} {unit}" if amount < 100 else f"{amount:.0f} {unit}"


def count(value: int) -> str:
    """1.4 million."""
    return f"{value / 1e9:.2f} billion" if value >= 1e9 else f"{value / 1e6:.1f} million" if value >= 1e6 else f"{value:,}"


def duration(seconds: float) -> str:
    """2 h 05 min, 3 min 20 s, 12 s, 0.4 s."""
    whole = round(seconds)
    if whole == 0:
        return f"{max(seconds, 0.1):.1f} s"
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"
