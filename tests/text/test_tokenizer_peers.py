"""Tests that our Tokenizer, transformers' LlamaTokenizer from tokenizer.model, and llama.cpp from a GGUF file return the same ids."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bulletlm.progress import SilentProgress
from bulletlm.text.normalize import normalize_line
from bulletlm.text.tokenizer import BOS, EOS, FIRST_BYTE, SPACE_MARK, UNK, Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer
from paths import SHARED_DATA

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="../shared is absent"),
]

FILES = ("quick/mr.txt", "quick/en.txt", "quick/en-mr.tsv", "mono/mr-wiki.txt", "mono/mr-poetry.txt")
HARD = [
    "",
    " ",
    "   three   spaces   ",
    "2016 २०१६ 3.14 १,००,००० 12:30",
    "पान क्र. १२३४५६७८९० ते 1234567890",
    "हो। नाही॥ १२ ॥ चला.",
    "👍🏽 ठीक आहे 🙏 👩‍👩‍👧‍👦 🇮🇳",
    "आज meeting ला late झालो, sorry! WhatsApp वर reply करतो.",
    "GST भरायची last date ३१ मार्च आहे का?",
    "ज़ क़ र्‍य ऱ्य ॲप ऑफिस दुःख ॐ",
    "\u200d \u200c a\u200db क्\u200dष क्\u200cष",
    "नुसते ् आणि ि आणि ं",
    "tab\there, and\u00a0there",
    "é ü ß ñ œ — “quotes” ‘single’ …",
    "你好, мир, γειά, שלום, مرحبا, ಕನ್ನಡ",
    "\U000f0000 \ufffd \x07",
    "https://example.org/?q=मराठी&n=1#top",
    "a" * 300,
    "क्ष्म्य" * 40,
    "e\u0301 \u0915\u093c",
]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Some thousand lines: Marathi, English, and pairs of both on one line."""
    texts = [line for name in FILES for line in (SHARED_DATA / name).read_text(encoding="utf-8").splitlines() if line]
    chosen = texts[:: max(len(texts) // 3000, 1)]
    assert len(chosen) >= 2500
    return chosen


@pytest.fixture(scope="module", params=[1000, 4000])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    texts = [normalize_line(line) for name in FILES[:3] for line in (SHARED_DATA / name).read_text(encoding="utf-8").splitlines()]
    return Tokenizer(train_tokenizer(texts, request.param, 1, SilentProgress()))


Encode = Callable[[str], list[int]]


@pytest.fixture(scope="module")
def transformers_encode(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Encode:
    """What a reader of our Hugging Face folder gets: nothing in front, and special tokens never out of text."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra augment)")
    pytest.importorskip("google.protobuf", reason="protobuf is not installed (extra augment)")
    folder = tmp_path_factory.mktemp("llama")
    (folder / "tokenizer.model").write_bytes(tokenizer.proto)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    theirs = transformers.LlamaTokenizer.from_pretrained(folder, add_prefix_space=False, legacy=False, local_files_only=True)
    assert len(theirs) == tokenizer.vocab_size

    def encode(text: str) -> list[int]:
        ids: list[int] = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    return encode


@pytest.fixture(scope="module")
def llama_cpp_encode(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Encode:
    """llama.cpp itself (its server, on the loopback interface), given a GGUF file with our vocabulary and a model of zeros."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (extra bench)")
    path = tmp_path_factory.mktemp("gguf") / "zeros.gguf"
    write_gguf(path, tokenizer)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup, parameters.fit_params = 64, 1, False, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)

    def encode(text: str) -> list[int]:
        body = json.dumps({"content": text, "add_special": False, "parse_special": False}).encode()
        request = urllib.request.Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            ids: list[int] = json.load(response)["tokens"]
        return ids

    return encode


def write_gguf(path: Path, tokenizer: Tokenizer) -> None:
    dim = 32
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(dim)
    writer.add_block_count(1)
    writer.add_feed_forward_length(dim)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(tokenizer.vocab_size)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    pieces = tokenizer.pieces()
    writer.add_token_list([piece.text.encode() for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([piece.type for piece in pieces])
    writer.add_unk_token_id(UNK)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    matrix, gain = np.zeros((dim, dim), np.float32), np.ones(dim, np.float32)
    writer.add_tensor("token_embd.weight", np.zeros((tokenizer.vocab_size, dim), np.float32))
    writer.add_tensor("output_norm.weight", gain)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", matrix)
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", gain)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def different(tokenizer: Tokenizer, encode: Encode, texts: list[str]) -> list[tuple[str, list[str], list[str]]]:
    """Return the texts whose ids differ, with both results as pieces."""
    names = [piece.text for piece in tokenizer.pieces()]
    rows = []
    for text in texts:
        ours, theirs = tokenizer.encode(text), encode(text)
        if ours != theirs:
            rows.append((text, [names[i] for i in ours], [names[i] for i in theirs]))
    return rows


def test_transformers_gives_the_same_ids(tokenizer: Tokenizer, transformers_encode: Encode, lines: list[str]) -> None:
    assert different(tokenizer, transformers_encode, lines) == []
    assert different(tokenizer, transformers_encode, HARD) == []
    for mark in ("<|user|>", "a<s>b</s>", "<unk>", "<0x41>", "<|end|>हो"):
        assert min(tokenizer.encode(mark)) >= FIRST_BYTE
        assert transformers_encode(mark) == tokenizer.encode(mark)


def test_llama_cpp_gives_the_same_ids(tokenizer: Tokenizer, llama_cpp_encode: Encode, lines: list[str]) -> None:
    assert different(tokenizer, llama_cpp_encode, lines) == []
    assert different(tokenizer, llama_cpp_encode, [*HARD, "<|user|>हो<|end|>", "a<s>b</s>", "<unk>", "line\nline\r\n\n"]) == []


def test_everybody_reads_whole_documents_alike(
    tokenizer: Tokenizer, transformers_encode: Encode, llama_cpp_encode: Encode, lines: list[str]
) -> None:
    text = "\n".join(lines[:400])
    assert len(text) > 20_000
    assert tokenizer.encode(text) == transformers_encode(text) == llama_cpp_encode(text)


ANY_TEXT = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters=SPACE_MARK), max_size=8),
        st.text(st.characters(min_codepoint=0x900, max_codepoint=0x97F), max_size=8),
        st.sampled_from([*HARD, "  ", "\n", "क्षमता ", "the ", "त्यांच्या"]),
    ),
    max_size=6,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(text=ANY_TEXT)
@example(text="\0")
def test_any_text_gets_the_same_ids(tokenizer: Tokenizer, transformers_encode: Encode, llama_cpp_encode: Encode, text: str) -> None:
    ours = tokenizer.encode(text)
    assert transformers_encode(text) == ours
    assert llama_cpp_encode(text) == ours


def test_the_one_character_that_others_lose(tokenizer: Tokenizer, transformers_encode: Encode, llama_cpp_encode: Encode) -> None:
    """U+2581 stands for a space inside sentencepiece models; we spell it in bytes, so that it comes back."""
    text = f"a{SPACE_MARK}b"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert transformers_encode(text) == llama_cpp_encode(text) == tokenizer.encode("a b")
