"""Addresses and numbers that point at a person."""

import pytest

from bulletlm.data.privacy import mask_emails, mask_numbers, mask_phones


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("लिहा: info@prathambooks.org या पत्त्यावर", "लिहा: [email] या पत्त्यावर"),
        ("<a.b+c@mail.example.co.in>, x@y.org.", "<[email]>, [email]."),
        ("पत्ताsoyoj६.rdd-mh@nic.in वर", "पत्ता[email] वर"),
        ("@handle, a@b, 5 @ 10 rupees", "@handle, a@b, 5 @ 10 rupees"),
    ],
)
def test_emails(before: str, after: str) -> None:
    assert mask_emails(before) == after


@pytest.mark.parametrize(
    "number",
    """9876543210|९८७६५४३२१०|+91 98765 43210|+91-9876543210|09876543210|98765-43210|987-654-3210|022-22021234|(022) 22021234|020 2553 1234
    1800-233-1219|१८००२३३४४७५|+1 415 555 2671|+44 20 7946 0958""".replace("\n", "|").split("|"),
)
def test_phones(number: str) -> None:
    number = number.strip()
    assert mask_phones(f"दूरध्वनी {number} वर कळवा") == "दूरध्वनी [phone] वर कळवा"
    assert mask_phones(f"फोन: {number}.") == "फोन: [phone]."


@pytest.mark.parametrize(
    "text",
    [
        "सन २०१५-२०१६ मध्ये १०.०३.२०१६ रोजी",
        "रु. २,५०,००,०००/- इतका निधी",
        "६०००० ३८८५६ ३८८५६ एकूण",
        "१०५३४ ९०१ २६० ८९६५ ६७२",
        "1914 1915 1916 1917",
        "लोकसंख्या ११२३७४३३३",
        "3.1415926535, 10.1000/7654321098",
        "किलोमीटर ७,५१७ (४,६७१ मैल)",
    ],
)
def test_other_numbers_are_no_phones(text: str) -> None:
    assert mask_phones(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("खाते ५०२९२०१०१२५९७८ मध्ये", "खाते [number] मध्ये"),
        ("आधार 2345 6789 0123 क्रमांक", "आधार [number] क्रमांक"),
        ("card 4111-1111-1111-1111", "card [number]"),
        ("12345678 and 3.14159265358979", "12345678 and 3.14159265358979"),
        ("रुपये ११२०२४५६२/- आणि १२४५०००००.०० एवढे", "रुपये ११२०२४५६२/- आणि १२४५०००००.०० एवढे"),
        ("२०१२ २०१३ २०१४", "२०१२ २०१३ २०१४"),
        ("७१८६ ४४७७ ११५५ ६६६", "७१८६ ४४७७ ११५५ ६६६"),
    ],
)
def test_long_numbers(before: str, after: str) -> None:
    assert mask_numbers(before, 9) == after


def test_how_long_is_a_setting() -> None:
    assert mask_numbers("12345678", 8) == "[number]"
    assert mask_numbers("123456789012", 13) == "123456789012"
