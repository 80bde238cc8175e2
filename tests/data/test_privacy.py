"""Tests the masking of addresses and numbers that identify a person."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


REGIONS = ("IN", "US", "GB", "FR", "ES", "JP")
MASK_TOUCHED = re.compile(r"\d\[(?:phone|number)]|\[(?:phone|number)]\d")

SHAPES = ("{a}{b}", "{a} {b}", "{a}-{b}", "0{a}{b}", "+91 {a} {b}", "+91-{a}{b}", "91{a}{b}", "0091 {a}{b}", "({a}{b})")
LANDLINES = ("020-2{b}{c}", "(020) 2{b}{c}", "020 2{b}{c}", "02162-2{b}", "1800-{c}-{d}", "1800 {c} {d}")
ABROAD = ("+44 20 7946 0{c}", "+1 415 555 {d}", "(415) 555-{d}", "415-555-{d}", "06 12 34 {p} {q}", "06.12.34.{p}.{q}",
          "+33 6 12 34 {p} {q}",
          "+81-90-1234-{d}", "090-1234-{d}", "+34 612 345 {c}")  # fmt: skip
JOINED = ("{} ", " / ", "/", ", ", ",", ";", " & ", " किंवा ", " or ", " व ")
BEFORE = ("", "मो.", "मो. ", "Mob.", "Mob: ", "फोन ", "दूरध्वनी क्रमांक ", "call ", "संपर्क : ", "(", "Tel: ", "WhatsApp ", "त्याचा नंबर ")


@st.composite
def numbers(draw: st.DrawFn, shapes: tuple[str, ...] = SHAPES + LANDLINES + ABROAD) -> str:
    def digits(count: int, first: str = "0123456789") -> str:
        return draw(st.sampled_from(first)) + draw(st.text("0123456789", min_size=count - 1, max_size=count - 1))

    number = draw(st.sampled_from(shapes)).format(
        a=draw(st.sampled_from(["98", "94", "70", "88", "99"])) + digits(3), b=digits(5, "123456789"), c=digits(3, "23456789"),
        d=digits(4, "3456789"), p=digits(2), q=digits(2),
    )  # fmt: skip
    return number.translate(str.maketrans("0123456789", "०१२३४५६७८९")) if draw(st.booleans()) and number.isascii() else number


def masked(text: str) -> str:
    return mask_numbers(mask_phones(text, REGIONS), 9)


@given(
    st.lists(numbers(), min_size=1, max_size=4),
    st.sampled_from(JOINED[1:]),
    st.sampled_from(BEFORE),
    st.sampled_from(["", ".", " वर कळवा", ", धन्यवाद"]),
)
def test_no_digit_of_a_phone_number_is_left_alone_or_in_a_list(found: list[str], between: str, before: str, after: str) -> None:
    text = before + between.join(found) + after
    result = masked(text)
    assert not any(character.isdigit() for character in result), (text, result)
    assert "[phone]" in result and result.startswith(before) and result.endswith(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("9800000001/9400000002", "[phone]/[phone]"),
        ("9800000001,9400000002", "[phone],[phone]"),
        ("मो.9800000001", "मो.[phone]"),
        ("Mob.9800000001", "Mob.[phone]"),
        ("020-25500001/25500002", "[phone]"),
        ("020-25500001/02", "[phone]"),
        ("+44 20 7946 0001 +44 20 7946 0002", "[phone] [phone]"),
        ("98000 00001 94000 00002", "[phone] [phone]"),
    ],
)
def test_lists_and_numbers_close_to_words(before: str, after: str) -> None:
    assert masked(before) == after


YEAR = st.integers(1000, 2100).map(str)
DAY = st.tuples(st.integers(1, 28), st.integers(1, 12), st.integers(1900, 2099))
NO_PHONES = st.one_of(
    st.lists(YEAR, min_size=1, max_size=5).flatmap(
        lambda years: st.sampled_from(["-", " ", ", ", "/", " - "]).map(lambda s: s.join(years))
    ),
    st.tuples(DAY, st.sampled_from(["{0}/{1}/{2}", "{0}-{1}-{2}", "{2}-{1:02}-{0:02}", "{0:02}.{1:02}.{2}", "{2}{1:02}{0:02}"])).map(
        lambda found: found[1].format(*found[0])
    ),
    st.tuples(st.integers(0, 10**6), st.integers(0, 10**12)).map(lambda found: f"{found[0]}.{found[1]}"),
    st.tuples(st.integers(1, 150), st.integers(1, 176), st.integers(1, 99)).map(lambda found: f"{found[0]}:{found[1]}-{found[2]}"),
    st.tuples(st.sampled_from(["₹", "₹ ", "Rs. ", "रु. ", "$"]), st.integers(1, 10**11)).map(lambda found: f"{found[0]}{found[1]}"),
    st.tuples(st.sampled_from(["₹{:,}", "{:,} people", "{} people", "{} रुपये", "{}/-"]), st.integers(1, 10**11)).map(
        lambda found: found[0].format(found[1])
    ),
    st.tuples(st.integers(1, 999), st.integers(6, 9)).map(lambda found: f"{found[0] * 10 ** found[1]}"),
    st.integers(1, 99_999_999).map(str),
)


@given(NO_PHONES, st.sampled_from(["", "सन ", "from ", "("]), st.sampled_from(["", " पर्यंत", " and more"]))
def test_years_dates_verses_prices_decimals_and_counts_stay(number: str, before: str, after: str) -> None:
    text = before + number + after
    assert masked(text) == text


@given(st.lists(st.one_of(numbers(), NO_PHONES, st.text("0123456789 -/.,()+", max_size=20), st.text(max_size=6)), max_size=5).map(" ".join))
def test_no_digit_touches_a_mask(text: str) -> None:
    result = masked(text)
    assert len(MASK_TOUCHED.findall(result)) <= len(MASK_TOUCHED.findall(text)), result
    assert masked(result) == result


@pytest.mark.parametrize("text", ["1800-1850-1900", "8000000000 people", "ISBN 978-81-7223-498-0", "doi:10.1109/TNS.1985.4333834",
                                  "२०२२-२०२३ १५ व्या", "(१५६००-३९१०० + ५४००)", "०९० (२०५२ ००२५)", "id=9800000001"])  # fmt: skip
def test_years_counts_and_codes_are_no_phones(text: str) -> None:
    assert mask_phones(text, REGIONS) == text


@pytest.mark.parametrize(
    ("number", "region"),
    [("06 12 34 56 78", "FR"), ("(415) 555-0132", "US"), ("090-1234-5678", "JP"), ("8 (912) 345-67-89", "RU"), ("0171 2345678", "DE")],
)
def test_numbers_of_other_countries_are_known_where_their_language_is_read(number: str, region: str) -> None:
    assert mask_phones(f"x {number} y", ("IN", region)) == "x [phone] y"
