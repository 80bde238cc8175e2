"""Tests the page in Chromium: opened from a file, with the network off."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium_page import Tab, chromium

from bulletlm.errors import ConfigError
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.formats.convert import ConvertOptions, convert
from bulletlm.formats.html import page as html_page
from bulletlm.formats.html.page import base85, holds_model, pieces, write_page
from bulletlm.quant.types import standard_types
from bulletlm.runtime import Model, Sampling, Session
from bulletlm.runtime.prompt import chat_prompt
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import END, EOS, Tokenizer
from tiny_model import random_tensors

HOSTILE_NAME = "</title><script>document.title='x'</script>{{style}}&lt;"

Open = Callable[..., Tab]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    contexts = []

    def open_it(path: Path, **options: Any) -> Tab:
        context = browser.new_context(**{"viewport": {"width": 900, "height": 700}, "locale": "en-US", **options})
        context.set_offline(True)
        contexts.append(context)
        return Tab(context, path)

    yield open_it
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def tiny_page(bullet_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with many pieces, as the page of a large model has them."""
    target = tmp_path_factory.mktemp("page") / "tiny.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html_page, "PIECE_LINES", 5)
        convert(bullet_path, target)
    return target


@pytest.fixture(scope="module")
def long_page(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a model whose answers do not end by themselves, and whose metadata try to be HTML."""
    folder = tmp_path_factory.mktemp("long")
    shape = ModelShape(tiny_tokenizer.vocab_size, 64, 2, 4, 2, 96, 512)
    tensors = random_tensors(shape)
    tensors["token_embedding.weight"][[EOS, END]] = 0  # their logits are 0, and the highest is always above
    metadata = {
        "name": HOSTILE_NAME,
        "license": "<img src=x onerror=alert(1)>",
        "languages": ["mr", "en", "constructor"],
        "sampling": {"temperature": 0.9, "top_k": 1, "max_tokens": 1 << 20},
        "training": {"step": 12, "tokens_seen": 3400, "val_loss": "x", "sources": [{"label": "stories"}, 5, {"label": "letters"}]},
        "training_text": [{"label": "stories", "license": "CC-BY-4.0", "attribution": "<i>A. Author</i>"}, 7, {"label": 3}],
        "parents": [{"name": "Old", "license": "MIT"}, 3],
        "private_messages": True,
        "quantised": {"perplexity": 9.87, "bits_per_byte": None, "perplexity_change": 0.0123, "weights": "BQ8"},
    }
    contents = ModelContents(
        shape=shape,
        tensors=tensors,
        types=standard_types(shape),
        tokenizer_proto=tiny_tokenizer.proto,
        pieces=tiny_tokenizer.pieces(),
        metadata=metadata,
    )
    write_bullet(folder / "long.bullet", contents)
    convert(folder / "long.bullet", folder / "long.html")
    return folder / "long.html"


def test_a_question_is_answered_as_by_the_runtime(open_page: Open, tiny_page: Path, model: Model) -> None:
    tab = open_page(tiny_page).ready()
    question = "नमस्कार <|user|> <b>x</b>"
    tab.page.fill("#question", question)
    tab.page.press("#question", "Enter")
    prompt = chat_prompt(model, [{"role": "user", "content": question}], model.sampling.max_tokens)
    expected = "".join(token.text for token in Session(model).generate(prompt.ids, model.sampling, keep=prompt.keep))
    assert tab.answered() == expected
    assert tab.page.locator(".message.user .text").text_content() == question
    assert re.search(r"\d+ tokens", tab.page.inner_text("#status"))
    assert tab.errors == []
    assert [url for url in tab.requests if not url.startswith(("file://", "blob:"))] == []
    assert sum(url.startswith("file://") for url in tab.requests) == 1


def test_stop_regenerate_and_a_second_question(open_page: Open, long_page: Path) -> None:
    tab = open_page(long_page).ready()
    tab.page.fill("#question", "एका गावात")
    tab.page.click("#send")
    tab.wait("document.querySelector('.message.assistant .text').textContent.length > 3")
    tab.page.fill("#question", "typed while the model writes")  # the page does not wait for the model
    tab.page.click("#stop")
    first = tab.answered()
    assert tab.page.input_value("#question") == "typed while the model writes"
    assert "stopped" in tab.page.inner_text("#status")
    seed = int(tab.page.input_value("#seed"))
    tab.page.evaluate("document.querySelector('#maxTokens').value = '5'")
    tab.page.click("#again")
    second = tab.answered()
    assert (int(tab.page.input_value("#seed")), tab.page.locator(".message").count()) == (seed + 1, 2)
    assert len(second) < len(first)
    tab.page.press("#question", "Enter")
    tab.answered(2)
    assert tab.page.locator(".message").count() == 4
    assert tab.errors == []


def test_everything_of_the_model_is_text(open_page: Open, long_page: Path) -> None:
    tab = open_page(long_page).ready()
    assert tab.page.title() == HOSTILE_NAME == tab.page.inner_text("#name")
    tab.page.click("#about")
    card = tab.page.inner_text("#facts")
    for fact in (
        HOSTILE_NAME,
        "<img src=x onerror=alert(1)>",
        "mr, en, constructor",
        "3,400",
        "9.87",
        "stories: CC-BY-4.0, <i>A. Author</i>\nletters",
        "simd128",
        "Old (MIT)",
        "private messages",
        "change by 8-bit weights: 1.23 % perplexity",
    ):
        assert fact in card
    assert "null" not in card and "undefined" not in card
    assert tab.page.locator("img").count() == 0
    assert tab.errors == []
    policy = tab.page.locator("meta[http-equiv='Content-Security-Policy']").get_attribute("content")
    assert policy.startswith("default-src 'none'; ") and "unsafe-inline" not in policy
    insert = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
    assert tab.page.evaluate(f"(() => {{ {insert}; return window.ran }})()") is None


def test_suggestions_languages_and_settings(open_page: Open, long_page: Path) -> None:
    tab = open_page(long_page, locale="mr-IN").ready()
    assert tab.page.evaluate("document.documentElement.lang") == "mr"
    assert tab.page.inner_text("#send") == "पाठवा"
    assert [button.get_attribute("lang") for button in tab.page.locator("#suggestions button").all()] == ["mr", "mr", "en", "en"]
    tab.page.click("#language")
    assert tab.page.inner_text("#send") == "Send"
    assert [button.get_attribute("lang") for button in tab.page.locator("#suggestions button").all()] == ["en", "en", "mr", "mr"]
    tab.page.click("#settings summary")
    tab.page.fill("#system", "Answer in one word.")
    tab.page.fill("#topP", "7")
    tab.page.locator("#suggestions button").first.click()
    assert "Top p" in tab.page.inner_text("#problem")  # a value out of range is named before the question is sent
    tab.page.fill("#topP", "0.5")
    tab.page.fill("#maxTokens", "4")
    tab.page.fill("#question", "a")
    tab.page.press("#question", "Enter")
    tab.wait("!document.querySelector('#save').hidden")
    with tab.page.expect_download() as download:
        tab.page.click("#save")
    saved = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert [message["role"] for message in saved][:2] == ["system", "user"]
    assert saved[0]["content"] == "Answer in one word."


def test_the_conversation_is_remembered_only_if_wanted(open_page: Open, tiny_page: Path) -> None:
    tab = open_page(tiny_page).ready()
    tab.page.fill("#question", "नमस्कार")
    tab.page.press("#question", "Enter")
    answer = tab.answered()
    tab.page.reload()
    tab.ready()
    assert tab.page.locator(".message").count() == 0
    tab.page.fill("#question", "नमस्कार")
    tab.page.press("#question", "Enter")
    assert tab.answered() == answer
    tab.page.click("#settings summary")
    tab.page.check("#remember")
    tab.page.reload()
    tab.ready()
    assert [text.text_content() for text in tab.page.locator(".message .text").all()] == ["नमस्कार", answer]
    tab.page.on("dialog", lambda dialog: dialog.accept())
    tab.page.click("#new")
    assert tab.page.locator(".message").count() == 0
    assert tab.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(browser: Any, open_page: Open, tiny_page: Path, scheme: str) -> None:
    tab = open_page(tiny_page, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True, color_scheme=scheme).ready()
    tab.page.locator("#suggestions button").first.tap()
    tab.answered()
    tab.page.locator("#settings summary").tap()
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.page.evaluate("document.documentElement.scrollHeight") <= 640
    background = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    small = "[...document.querySelectorAll('button')].filter(b => b.offsetParent && b.offsetHeight < 32).length"
    assert tab.page.evaluate(small) == 0


def test_keyboard_and_names(open_page: Open, tiny_page: Path) -> None:
    tab = open_page(tiny_page).ready()
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.className") == "skip"
    tab.page.keyboard.press("Enter")
    tab.page.keyboard.type("abc")
    tab.page.keyboard.press("Shift+Enter")
    tab.page.keyboard.type("d")
    assert tab.page.input_value("#question") == "abc\nd"
    unnamed = """[...document.querySelectorAll('button, input, textarea, summary')].filter(e =>
        !(e.textContent.trim() || e.getAttribute('aria-label') || [...(e.labels ?? [])].some(l => l.textContent.trim()))).length"""
    assert tab.page.evaluate(unnamed) == 0


def test_the_focus_is_never_lost(open_page: Open, long_page: Path) -> None:
    """Buttons that disappear give it to what takes their place, so that the keyboard continues there."""
    tab = open_page(long_page).ready()
    focus = "document.activeElement.id"
    tab.page.focus("#suggestions button")
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate(focus) == "stop"
    tab.page.keyboard.press("Enter")
    tab.answered()
    assert tab.page.evaluate(focus) == "question"
    tab.page.evaluate("document.querySelector('#maxTokens').value = '3'")
    tab.page.focus("#again")
    tab.page.keyboard.press("Enter")
    tab.answered()
    assert tab.page.evaluate(focus) == "question"
    tab.page.keyboard.type("a")
    tab.page.focus("#send")
    tab.page.keyboard.press("Space")
    tab.answered(2)
    assert tab.page.evaluate(focus) == "question"


def test_the_language_of_each_text(open_page: Open, tiny_page: Path) -> None:
    tab = open_page(tiny_page).ready()
    for count, text in enumerate(("नमस्कार", "Hello"), 1):
        tab.page.fill("#question", text)
        tab.page.press("#question", "Enter")
        tab.answered(count)
    assert [text.get_attribute("lang") for text in tab.page.locator(".message.user .text").all()] == ["mr", "en"]
    texts = [(text.text_content(), text.get_attribute("lang")) for text in tab.page.locator(".message.assistant .text").all()]
    assert [lang for _, lang in texts] == ["mr" if re.search("[\u0900-\u097f]", str(text)) else "en" for text, _ in texts]


PIECE = b'<script type="text/plain">'


def damaged(content: bytes, kind: str) -> bytes:
    """A page with damage: what is cut off, lost, swapped or changed is named by `kind`."""
    pieces = [found.start() for found in re.finditer(re.escape(PIECE), content)]
    assert len(pieces) > 5
    at = pieces[3] + 3000
    if kind == "cut in a piece":
        return content[:at]
    if kind == "cut between pieces":
        return content[: pieces[3]]
    if kind == "cut at the end":
        return content[: content.rindex(b"</script>") - 3]
    if kind == "cut in the worker":
        return content[: content.index(b'<script type="text/plain" id="worker">') + 4000]
    if kind == "a piece is lost":
        return content[: pieces[3]] + content[pieces[4] :]
    if kind == "a piece is there twice":
        return content[: pieces[4]] + content[pieces[3] :]
    if kind == "two pieces are swapped":
        return content[: pieces[3]] + content[pieces[4] : pieces[5]] + content[pieces[3] : pieces[4]] + content[pieces[5] :]
    if kind == "a character is changed":
        return content[:at] + (b"1" if content[at : at + 1] == b"0" else b"0") + content[at + 1 :]
    if kind == "a character is lost":
        return content[:at] + content[at + 1 :]
    assert kind == "a foreign character"
    return content[:at] + "क".encode() + content[at + 1 :]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut in a piece", "the model in this page is cut short"),
        ("cut between pieces", "the model in this page is cut short"),
        ("cut at the end", "the model in this page is cut short"),
        ("cut in the worker", "this page is cut short"),
        ("a piece is lost", "the model in this page is cut short"),
        ("a piece is there twice", "the model in this page is damaged"),
        ("two pieces are swapped", "the checksum does not fit|is not"),
        ("a character is changed", "the checksum does not fit|is not|damaged"),
        ("a character is lost", "the model in this page is damaged"),
        ("a foreign character", "the model in this page is damaged"),
    ],
)
def test_a_damaged_page_says_so_in_one_line(open_page: Open, tiny_page: Path, tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "damaged.html"
    path.write_bytes(damaged(tiny_page.read_bytes(), kind))
    tab = open_page(path)
    tab.wait("!document.querySelector('#problem').hidden")
    line = tab.page.inner_text("#problem")
    assert re.search(message, line) and "\n" not in line
    tab.page.wait_for_timeout(200)  # what follows the damage changes nothing
    assert tab.page.inner_text("#problem") == line
    assert tab.page.is_disabled("#send")
    assert tab.errors == []
    tab.page.click("#language")
    assert bool(re.search("[\u0900-\u097f]", tab.page.inner_text("#problem"))) == ("short" in line or "was changed after" in line)


@pytest.mark.parametrize("change", [False, True])
def test_the_checksum_without_the_browsers_own(open_page: Open, tiny_page: Path, tmp_path: Path, change: bool) -> None:
    """Pages over plain HTTP do not have `crypto.subtle`."""
    content = tiny_page.read_bytes()
    without = content.replace(b"globalThis.crypto?.subtle?.digest", b"undefined?.digest")
    assert without != content
    path = tmp_path / "without.html"
    at = without.rindex(PIECE) + 200
    path.write_bytes(without[:at] + bytes([without[at] ^ 1]) + without[at + 1 :] if change else without)
    tab = open_page(path)
    if not change:
        tab.ready()
        assert tab.page.is_hidden("#problem")
        return
    tab.wait("!document.querySelector('#problem').hidden")
    assert re.search("checksum does not fit|is not|damaged", tab.page.inner_text("#problem"))


def test_a_browser_without_vectors_takes_the_other_module(open_page: Open, tiny_page: Path, tmp_path: Path) -> None:
    text = tiny_page.read_text(encoding="utf-8")
    without = text.replace("WebAssembly.validate(Uint8Array.from(code))", "false")
    assert without != text
    path = tmp_path / "scalar.html"
    path.write_text(without, encoding="utf-8")
    tab = open_page(path).ready()
    tab.page.click("#about")
    assert "portable" in tab.page.inner_text("#facts")
    tab.page.keyboard.press("Escape")
    tab.page.fill("#question", "नमस्कार")
    tab.page.press("#question", "Enter")
    tab.answered()


def test_every_byte_is_in_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_page, "PIECE_LINES", 2)
    data = bytes(range(256)) * 30
    assert [len(piece.split(b"\n")) for piece in pieces(data)] == [2] * 4 + [2]
    assert b"\n".join(pieces(data)) == base85(data)


def test_a_page_holds_the_model_of_which_it_was_written(bullet_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In few pieces, and in many, as every model of more than half a megabyte."""
    data = bullet_path.read_bytes()
    for lines in (html_page.PIECE_LINES, 2):
        monkeypatch.setattr(html_page, "PIECE_LINES", lines)
        write_page(tmp_path / "a.html", data, {"name": "a"})
        page = (tmp_path / "a.html").read_bytes()
        assert holds_model(page, data)
        assert not holds_model(page, data[:-4] + b"abcd") and not holds_model(page[: len(page) // 2], data)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 799, 800, 801, 10_000])
def test_base_85(size: int) -> None:
    import base64

    data = bytes((i * i * 7 + 255 * (i % 3)) % 256 for i in range(size))
    text = base85(data).replace(b"\n", b"")
    table = bytes.maketrans(b",.", b"<&")
    assert base64.b85decode(text.translate(table))[:size] == data
    assert not set(b"<&\"'\\") & set(text)


def test_conversion(bullet_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = convert(bullet_path, tmp_path / "page", ConvertOptions(to="html"))
    assert done.target_kind == "html" and set(done.types.values()) == {"BQ4", "BQ8", "F32"}
    with pytest.raises(ConfigError, match="exists"):
        convert(bullet_path, tmp_path / "page", ConvertOptions(to="html"))
    first = (tmp_path / "page").read_bytes()
    convert(bullet_path, tmp_path / "page", ConvertOptions(to="html", force=True))
    assert (tmp_path / "page").read_bytes() == first  # equal inputs give equal bytes
    convert(bullet_path, tmp_path / "again.bullet")
    assert open_bullet(tmp_path / "again.bullet").header == open_bullet(bullet_path).header
    with pytest.raises(ConfigError, match="--format v1"):
        convert(bullet_path, tmp_path / "old.html", ConvertOptions(version=1))
    monkeypatch.setattr(html_page, "MAX_MODEL_BYTES", 1000)
    with pytest.raises(ConfigError, match="a page can hold at most 1,000"):
        convert(bullet_path, tmp_path / "large.html")
    assert not (tmp_path / "large.html").exists()


def test_sampling_of_the_file_is_the_default(model: Model) -> None:
    assert model.sampling == Sampling(temperature=0.9, top_k=12, max_tokens=7)
