"""Tests the choice of calibration text: languages are balanced, the choice is seeded, and too little text gives a clear message."""

import json

import numpy as np
import pytest

from bulletlm.data.calibration import calibration_windows
from bulletlm.data.tokens import TokenFile
from bulletlm.errors import DataError
from bulletlm.progress import SilentProgress
from bulletlm.text.tokenizer import BOS, EOS, Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer
from paths import SAMPLE_CORPUS


def lines(name: str) -> list[str]:
    return [line for line in (SAMPLE_CORPUS / name).read_text(encoding="utf-8").splitlines() if len(line) > 100]


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    return {"mr": lines("stories.mr.txt")[:80], "en": lines("stories.en.txt")[:80]}


@pytest.fixture(scope="module")
def tokenizer(texts: dict[str, list[str]]) -> Tokenizer:
    return Tokenizer(train_tokenizer([*texts["mr"], *texts["en"]], 700, 1, SilentProgress()))


def stream(tokenizer: Tokenizer, documents: list[str]) -> np.ndarray:
    ids = [[BOS, *tokenizer.encode(text), EOS] for text in documents]
    return np.concatenate([np.array(part, np.uint16) for part in ids])


def marathi_share(tokenizer: Tokenizer, windows: np.ndarray) -> float:
    texts = [tokenizer.decode(window.tolist()) for window in windows]
    return sum(any("\u0900" <= c <= "\u097f" for c in text) for text in texts) / len(texts)


def test_windows_are_pieces_of_the_stream(tokenizer: Tokenizer, texts: dict[str, list[str]]) -> None:
    tokens = stream(tokenizer, texts["mr"] + texts["en"])
    windows = calibration_windows(TokenFile(tokens, None, {}), tokenizer, 2_000, 32, 1)
    assert windows.shape == (2_000 // 32, 32) and windows.dtype == np.int64
    everywhere = np.lib.stride_tricks.sliding_window_view(tokens, 32)
    places = [int(np.flatnonzero((everywhere == window).all(axis=1))[0]) for window in windows]
    assert len(set(places)) == len(places)
    assert min(np.diff(sorted(places))) >= 32
    assert max(places) - min(places) > len(tokens) / 2


def test_a_rare_language_gets_more_than_its_share(tokenizer: Tokenizer, texts: dict[str, list[str]]) -> None:
    mixed = [text for n, text in enumerate(texts["mr"]) for text in (text, *texts["en"][n : n + 1][: n % 6 == 0])]
    tokens = stream(tokenizer, mixed * 4)
    share = marathi_share(tokenizer, np.lib.stride_tricks.sliding_window_view(tokens, 24)[::24])
    assert share > 0.8
    assert 0.4 < marathi_share(tokenizer, calibration_windows(TokenFile(tokens, None, {}), tokenizer, 1_500, 24, 1)) < 0.65


def test_the_sources_of_a_language_take_turns(tokenizer: Tokenizer, texts: dict[str, list[str]]) -> None:
    """With one English and two Marathi sources, the small Marathi one gets more than its share, and Marathi as a whole at most half."""
    rare, common = texts["mr"][:8], texts["mr"][8:]
    documents = [(0, text) for text in common] + [(1, text) for text in rare] + [(2, text) for text in texts["en"]]
    order = np.random.default_rng(1).permutation(len(documents) * 4) % len(documents)
    tokens = stream(tokenizer, [documents[i][1] for i in order])
    rows = np.array([[len(tokenizer.encode(documents[i][1])) + 2, documents[i][0]] for i in order], np.uint32)
    source_at = np.repeat(rows[:, 1], rows[:, 0])

    def share_of_rare(text: TokenFile) -> float:
        windows = calibration_windows(text, tokenizer, 1_500, 24, 1)
        assert 0.4 < marathi_share(tokenizer, windows) < 0.65
        everywhere = np.lib.stride_tricks.sliding_window_view(tokens, 24)
        places = [int(np.flatnonzero((everywhere == window).all(axis=1))[0]) + 12 for window in windows]
        return float((source_at[places] == 1).mean())

    known = TokenFile(tokens, None, {}, rows)
    assert share_of_rare(known) >= 2 * share_of_rare(TokenFile(tokens, None, {}))
    first, again = (calibration_windows(known, tokenizer, 1_500, 24, 1) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_the_seed_decides(tokenizer: Tokenizer, texts: dict[str, list[str]]) -> None:
    tokens = stream(tokenizer, texts["mr"] + texts["en"])
    first, again, other = (calibration_windows(TokenFile(tokens, None, {}), tokenizer, 2_000, 32, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_short_texts_are_taken_whole_and_long_contexts_cut(tokenizer: Tokenizer, texts: dict[str, list[str]]) -> None:
    tokens = stream(tokenizer, texts["mr"] + texts["en"])
    assert calibration_windows(TokenFile(tokens, None, {}), tokenizer, 10**6, 100, 1).shape == (len(tokens) // 100, 100)
    assert calibration_windows(TokenFile(tokens, None, {}), tokenizer, 2_048, 4_096, 1).shape == (4, 512)
    assert calibration_windows(TokenFile(tokens[:1_024], None, {}), tokenizer, 5_000, 1_000, 1).shape == (2, 512)
    assert calibration_windows(TokenFile(tokens[:300], None, {}), tokenizer, 5_000, 1_000, 1).shape == (1, 300)


def test_too_little_or_foreign_text_is_refused(tokenizer: Tokenizer, texts: dict[str, list[str]]) -> None:
    tokens = stream(tokenizer, texts["en"])
    with pytest.raises(DataError, match="has 255 tokens, but at least 256 are needed"):
        calibration_windows(TokenFile(tokens[:255], None, {}), tokenizer, 20_000, 32, 1)
    foreign = tokens.copy()
    foreign[70] = 700
    with pytest.raises(DataError, match="has token 700, but the tokenizer has 700"):
        calibration_windows(TokenFile(foreign, None, {}), tokenizer, 20_000, 32, 1)


def test_json_numbers_do_not_confuse_the_languages(tokenizer: Tokenizer) -> None:
    tokens = stream(tokenizer, [json.dumps(list(range(n, n + 40))) for n in range(100)])
    assert len(calibration_windows(TokenFile(tokens, None, {}), tokenizer, 1_200, 60, 3)) == 20
