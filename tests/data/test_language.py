"""Tests language detection, which uses the script first, then function words, then a library."""

import json
import re

import pytest

from bulletlm.config.schema import CleanConfig
from bulletlm.data.language import detect, has_script, is_in_other_script, main_script
from bulletlm.data.language_names import ENGLISH_NAMES, OWN_NAMES, language_of_name
from bulletlm.data.log import Log
from bulletlm.data.reading import RawDocument
from bulletlm.data.rules import clean_document
from paths import ROOT


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("आज पाऊस पडत आहे आणि मी घरी आहे.", "mr"),
        ("तो येणार नाही असे त्याने सांगितले.", "mr"),
        ("काळा घोडा", "mr"),
        ("पाणी", "mr"),
        ("Azure IoT Hub शी कनेक्ट होण्यासाठी एक फंक्शन जोडा", "mr"),
        ("आज बारिश हो रही है और मैं घर पर हूँ।", "hi"),
        ("उसने कहा कि वह नहीं आएगा।", "hi"),
        ("It is raining and I am at home.", "en"),
        ("The word आहे means is.", "en"),
        ("Ça va très bien", "fr"),
        ("১২ জন মানুষ এসেছিল", "bn"),
        ("இன்று மழை பெய்கிறது", "ta"),
        ("Сегодня идёт дождь", "ru"),
        ("今日は雨が降っている", "ja"),
        ("今天下雨了", "zh"),
        ("आज 你好 आहे आणि मी इथे आहे", "mr"),
        ("12 + 30 = 42", "und"),
        ("", "und"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert detect(text) == language


SENTENCES = {
    "de": "Gestern Abend sind wir mit dem Zug in die Stadt gefahren und haben dort gegessen.",
    "fr": "Hier soir, nous avons pris le train pour aller en ville et nous y avons dîné.",
    "es": "Anoche tomamos el tren para ir a la ciudad y cenamos allí con nuestros amigos.",
    "it": "Ieri sera abbiamo preso il treno per andare in città e abbiamo cenato lì.",
    "pt": "Ontem à noite pegamos o trem para a cidade e jantamos lá com os nossos amigos.",
    "nl": "Gisteravond zijn we met de trein naar de stad gegaan en hebben daar gegeten.",
    "pl": "Wczoraj wieczorem pojechaliśmy pociągiem do miasta i zjedliśmy tam kolację.",
    "tr": "Dün akşam trenle şehre gittik ve orada arkadaşlarımızla yemek yedik.",
    "vi": "Tối qua chúng tôi đi tàu vào thành phố và ăn tối ở đó với bạn bè.",
    "sw": "Jana jioni tulipanda treni kwenda mjini na tukala chakula cha jioni huko.",
    "ru": "Вчера вечером мы поехали на поезде в город и поужинали там с друзьями.",
    "uk": "Вчора ввечері ми поїхали потягом до міста і повечеряли там із друзями.",
    "el": "Χθες το βράδυ πήραμε το τρένο για την πόλη και φάγαμε εκεί.",
    "ar": "ذهبنا مساء أمس بالقطار إلى المدينة وتناولنا العشاء هناك مع أصدقائنا.",
    "fa": "دیشب با قطار به شهر رفتیم و آنجا با دوستانمان شام خوردیم.",
    "ur": "کل شام ہم ٹرین سے شہر گئے اور وہاں دوستوں کے ساتھ کھانا کھایا۔",
    "he": "אתמול בערב נסענו ברכבת לעיר ואכלנו שם ארוחת ערב עם חברים.",
    "bn": "গতকাল সন্ধ্যায় আমরা ট্রেনে করে শহরে গিয়েছিলাম এবং সেখানে খেয়েছিলাম।",
    "as": "কালি সন্ধিয়া আমি ৰেলেৰে চহৰলৈ গৈছিলোঁ আৰু তাতে খাইছিলোঁ।",
    "ta": "நேற்று மாலை நாங்கள் ரயிலில் நகரத்திற்குச் சென்று அங்கே சாப்பிட்டோம்.",
    "te": "నిన్న సాయంత్రం మేము రైలులో నగరానికి వెళ్లి అక్కడ భోజనం చేశాము.",
    "kn": "ನಿನ್ನೆ ಸಂಜೆ ನಾವು ರೈಲಿನಲ್ಲಿ ನಗರಕ್ಕೆ ಹೋಗಿ ಅಲ್ಲಿ ಊಟ ಮಾಡಿದೆವು.",
    "ml": "ഇന്നലെ വൈകുന്നേരം ഞങ്ങൾ ട്രെയിനിൽ നഗരത്തിൽ പോയി അവിടെ അത്താഴം കഴിച്ചു.",
    "gu": "ગઈકાલે સાંજે અમે ટ્રેનમાં શહેર ગયા અને ત્યાં જમ્યા.",
    "pa": "ਕੱਲ੍ਹ ਸ਼ਾਮ ਅਸੀਂ ਰੇਲਗੱਡੀ ਰਾਹੀਂ ਸ਼ਹਿਰ ਗਏ ਅਤੇ ਉੱਥੇ ਖਾਣਾ ਖਾਧਾ।",
    "ne": "हिजो साँझ हामी रेलमा चढेर सहर गयौं र त्यहाँ साथीहरूसँग खाना खायौं अनि घर फर्कियौं।",
    "ko": "어제 저녁에 우리는 기차를 타고 도시에 가서 저녁을 먹었습니다.",
    "ja": "昨日の夜、私たちは電車で町へ行って、そこで夕食を食べました。",
    "zh": "昨天晚上我们坐火车去城里，在那里吃了晚饭。",
    "th": "เมื่อคืนเรานั่งรถไฟเข้าเมืองและกินข้าวเย็นที่นั่น",
    "ka": "გუშინ საღამოს მატარებლით ქალაქში წავედით და იქ ვივახშმეთ.",
    "am": "ትናንት ማታ በባቡር ወደ ከተማ ሄድን እና እዚያ እራት በላን።",
    "km": "យប់មិញយើងបានជិះរថភ្លើងទៅទីក្រុងហើយញ៉ាំអាហារនៅទីនោះ។",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_any_language_is_told(language: str) -> None:
    assert detect(SENTENCES[language]) == language


@pytest.mark.parametrize("text", ["Hello!", "OK", "Open Azure IoT Hub", "Save As PDF", "Tom loves Mary.", "brb lolz"])
def test_short_latin_text_counts_as_english(text: str) -> None:
    """Names and greetings give no information about the language; a wrong guess would create a new language for them."""
    if text != "brb lolz":
        assert detect(text) == "en"
    assert detect(text) in ENGLISH_NAMES


def test_a_filter_for_any_language_keeps_its_own_text() -> None:
    for language, sentence in SENTENCES.items():
        assert not is_in_other_script(sentence, [language]), language
        assert is_in_other_script(sentence, ["hy"]), language


def test_scripts() -> None:
    assert main_script("Azure हब उघडा पाहू") == "deva" and main_script("12 + 30") == ""
    assert has_script("昨日の夜", "jpan") and not has_script("१२ + ३०", "deva"), "digits are no letters"


def test_names_of_languages() -> None:
    for code in OWN_NAMES:
        assert language_of_name(ENGLISH_NAMES[code]) == language_of_name(OWN_NAMES[code]) == language_of_name(code) == code
    assert [language_of_name(name) for name in ("en_IN", "Marathi sentence", "eng", "हिन्दी", "id")] == ["en", "mr", "en", "hi", "id"]
    assert [language_of_name(name) for name in ("", "go to the house now", "title", "text")] == [None] * 4


ROMANIZED = {
    "mr-Latn": [
        "Mi udya shala madhe yenar nahi karan mala bara vatat nahi aahe.",
        "Tumhi kuthe aahat? Amhi aata ghari jat aahot.",
        "Kal khup paus zala ani amhi ghari basun hoto.",
        "aaj shalet khup majja aali, aani mala ek nava mitra milala aahe",
        "Tyala sanga ki majha kaam zala aahe, pudhe kay karaycha te bagh.",
    ],
    "hi-Latn": [
        "Main kal school nahin aaunga kyunki mujhe bukhar hai aur main ghar par hoon.",
        "Tum kahan ho? Hum abhi ghar ja rahe hain.",
        "Kal bahut baarish hui aur hum ghar par hi rahe.",
        "mujhe pata nahi ki woh kya karna chahta hai lekin accha lagta hai",
    ],
}


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in ROMANIZED.items() for text in texts])
def test_romanized_text_has_its_own_code(code: str, text: str) -> None:
    assert detect(text) == code


def test_no_other_language_is_taken_for_romanized_text() -> None:
    for path in (ROOT / "tests" / "data" / "languages").glob("*.json"):
        texts = json.loads(path.read_text(encoding="utf-8"))
        assert detect(texts.pop("mr-latn")) == "mr-Latn" and detect(texts.pop("hinglish")) in ("hi-Latn", "und", "en")
        for language, text in texts.items():
            for part in [text, *re.split(r"(?<=[.!?।])\s+", text)]:
                assert not detect(part).endswith("-Latn"), (language, part)
    for language, text in SENTENCES.items():
        assert detect(text) == language


@pytest.mark.parametrize("languages", [["mr"], ["mr", "en"], []])
def test_a_filter_for_marathi_keeps_romanized_marathi(languages: list[str]) -> None:
    config, log = CleanConfig(languages=languages), Log()
    text = RawDocument("a", 1, "auto", [*ROMANIZED["mr-Latn"], "Thik."], [1] * 6)
    document = clean_document(text, config, log)
    assert document is not None and document.language == "mr-Latn" and len(document.paragraphs) == 6
    hindi = RawDocument("a", 1, "auto", ROMANIZED["hi-Latn"], [1] * 4)
    assert (clean_document(hindi, config, log) is None) == bool(languages)


@pytest.mark.parametrize("text", ["asdfasdf jkl; qwertyuiop asdfgh", "lkjlkj hgfhgf jhkjhk oiuoiu", "zxcvbnm asdf qwer " * 30])
def test_letters_typed_at_random_are_no_language(text: str) -> None:
    assert detect(text) == "und"


@pytest.mark.parametrize(
    "text", ["Men maktabga boraman va do'stlarim bilan o'ynayman", "Vassoio posteriore", "We were as free as ever.", "asdf"]
)
def test_text_is_not_taken_for_letters_typed_at_random(text: str) -> None:
    assert detect(text) != "und"
