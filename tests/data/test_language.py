"""Script first, then function words."""

import pytest

from bulletlm.data.language import detect


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
        ("Ça va très bien", "en"),
        ("১২ জন মানুষ এসেছিল", "bn"),
        ("இன்று மழை பெய்கிறது", "ta"),
        ("Сегодня идёт дождь", "ru"),
        ("今日は雨が降っている", "zh"),
        ("आज 你好 आहे आणि मी इथे आहे", "mr"),
        ("12 + 30 = 42", "und"),
        ("", "und"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert detect(text) == language
