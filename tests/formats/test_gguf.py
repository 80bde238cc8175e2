"""Tests GGUF: the weights keep the same bits in both directions, and llama.cpp computes the same results."""

import itertools
import json
import re
import struct
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import xllamacpp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_gguf import ARRAY, BOOL, F32, FLOAT32, Q4_0, STRING, UINT32, UINT64, raw_gguf, small_keys_and_tensors, string
from small_model import METADATA, assert_same, small_model

from bulletlm.errors import BulletError, FormatError
from bulletlm.formats.chat_template import GGUF_TEMPLATE, HF_TEMPLATE
from bulletlm.formats.convert import ConvertOptions, convert, read_model
from bulletlm.formats.gguf import gguf_name, read_gguf, write_gguf
from bulletlm.formats.stored import StoredModel, as_floats, type_of
from bulletlm.runtime.engine import NumpyEngine
from bulletlm.text.chat import CHAT_TEMPLATE, encode_prompt, fit_prompt
from bulletlm.text.tokenizer import Tokenizer
from paths import SHARED_DATA

QUICK = SHARED_DATA / "quick"


def engine_of(model: StoredModel) -> NumpyEngine:
    return NumpyEngine(model.shape, {name: as_floats(tensor) for name, tensor in model.tensors.items()})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("quant", ["BQ4", "BQ8", "F16", "F32"])
def test_round_trip_is_bit_equal(tmp_path: Path, quant: str, tied: bool) -> None:
    model = small_model(quant, tied_embeddings=tied, rope_theta=1e6, norm_eps=3e-6)
    write_gguf(tmp_path / "m.gguf", model)
    assert_same(read_gguf(tmp_path / "m.gguf"), model)
    first = (tmp_path / "m.gguf").read_bytes()
    write_gguf(tmp_path / "m.gguf", read_gguf(tmp_path / "m.gguf"))
    assert (tmp_path / "m.gguf").read_bytes() == first


def test_a_bullet_file_comes_back_byte_for_byte(micro_run: Path, tmp_path: Path) -> None:
    convert(micro_run / "model.bullet", tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "back.bullet")
    assert (tmp_path / "back.bullet").read_bytes() == (micro_run / "model.bullet").read_bytes()


@pytest.mark.parametrize("quant", ["BQ4", "F16"])
def test_the_gguf_package_reads_the_same(tmp_path: Path, quant: str) -> None:
    model = small_model(quant)
    write_gguf(tmp_path / "m.gguf", model)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    ggml = {"BQ4": "Q4_0", "BQ8": "Q8_0"}
    assert [tensor.name for tensor in reader.tensors] == [gguf_name(name) for name in model.shape.tensors()]
    for name, theirs in zip(model.shape.tensors(), reader.tensors, strict=True):
        assert theirs.tensor_type.name == ggml.get(type_of(model.tensors[name]), type_of(model.tensors[name]))
        assert tuple(theirs.shape.tolist())[::-1] == model.shape.tensors()[name]
        np.testing.assert_array_equal(gguf.dequantize(theirs.data, theirs.tensor_type), as_floats(model.tensors[name]))
    values = {key: field.contents() for key, field in reader.fields.items()}
    pieces = Tokenizer(model.tokenizer_proto).pieces()
    expected = {
        "general.architecture": "llama",
        "general.name": 'small "model"',
        "general.license": "CC0-1.0",
        "general.languages": ["mr", "en"],
        "general.file_type": {"BQ4": 2, "F16": 1}[quant],
        "general.quantization_version": 2,
        "general.sampling.top_k": 40,
        "llama.context_length": 32,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": model.shape.vocab_size,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [piece.text for piece in pieces],
        "tokenizer.ggml.scores": [piece.score for piece in pieces],
        "tokenizer.ggml.token_type": [piece.type for piece in pieces],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 5,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": GGUF_TEMPLATE,
    }
    assert {key: values.get(key) for key in expected} == expected
    assert np.float32(values["llama.attention.layer_norm_rms_epsilon"]) == np.float32(1e-5)
    assert json.loads(values["bullet.metadata"]) == METADATA


def test_the_modelfile(tmp_path: Path) -> None:
    model = small_model()._replace(metadata={**METADATA, "license": 'x """ y'})
    write_gguf(tmp_path / "my model.gguf", model)
    text = (tmp_path / "my model.Modelfile").read_text(encoding="utf-8")
    assert "ollama create NAME -f 'my model.Modelfile'" in text
    assert "FROM ./my model.gguf\n" in text and "PARAMETER num_ctx 32\n" in text and "PARAMETER repeat_penalty 1.1\n" in text
    assert 'PARAMETER stop "<|end|>"\n' in text and "PARAMETER num_predict 96\n" in text
    assert text.count('"""') == 4, "the licence cannot end its own quotes"


def test_every_gguf_has_a_modelfile_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text("FROM somebody's own")
    for name in ("a.gguf", "b.gguf"):
        write_gguf(tmp_path / name, small_model())
        assert f"FROM ./{name}\n" in (tmp_path / f"{name[0]}.Modelfile").read_text(encoding="utf-8")
    assert "FROM ./a.gguf\n" in (tmp_path / "a.Modelfile").read_text(encoding="utf-8")
    assert (tmp_path / "Modelfile").read_text() == "FROM somebody's own"


# --- llama.cpp ----------------------------------------------------------------------------------------------------------


@contextmanager
def llama_cpp(path: Path) -> Iterator[Callable[[str, dict[str, Any]], Any]]:
    """A function that asks a llama.cpp server, on this machine only, one thread, exact cache."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.cpuparams.n_threads = 32, 1, 0, 1
    params.warmup, params.fit_params, params.verbosity = False, False, 0
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)

    def ask(path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    yield ask


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def their_log_probabilities(ask: Callable[[str, dict[str, Any]], Any], ids: list[int], vocab_size: int) -> np.ndarray:
    """Of the token after each of `ids`: float64[len(ids), vocab_size]."""
    rows = np.full((len(ids), vocab_size), np.nan)
    for n in range(len(ids)):
        body = {"prompt": ids[: n + 1], "n_predict": 1, "n_probs": vocab_size, "temperature": 0, "cache_prompt": True}
        for row in ask("/completion", body)["completion_probabilities"][0]["top_logprobs"]:
            rows[n, row["id"]] = row["logprob"]
    return rows


@pytest.mark.parametrize(("quant", "tolerance", "agreement"), [(None, 0.1, 0.95), ("F32", 1e-4, 1.0)])
def test_llama_cpp_computes_the_same(micro_run: Path, tmp_path: Path, quant: str | None, tolerance: float, agreement: float) -> None:
    """It rounds activations to 8 bits before a product with 4-bit weights; with float32 weights it rounds nothing."""
    convert(micro_run / "model.bullet", tmp_path / "m.gguf", ConvertOptions(quant=quant))
    _, model = read_model(tmp_path / "m.gguf")
    tokens = np.fromfile(micro_run / "tokens" / "val.bin", "<u2").astype(int)
    pairs = []
    with llama_cpp(tmp_path / "m.gguf") as ask:
        for start in (0, 150, 300):
            ids = tokens[start : start + 32].tolist()
            theirs = their_log_probabilities(ask, ids[:-1], model.shape.vocab_size)
            ours = log_probabilities(engine_of(model).score(np.array([ids[:-1]]))[0])
            assert np.abs(theirs - ours).max() < tolerance
            pairs += [(a.argmax(), b.argmax(), a[i], b[i]) for a, b, i in zip(ours, theirs, ids[1:], strict=True)]
    ours_best, theirs_best, ours_log, theirs_log = np.array(pairs).T
    assert (ours_best == theirs_best).mean() >= agreement
    assert abs(np.exp((ours_log - theirs_log).mean()) - 1) < tolerance / 20, "perplexity"


def test_llama_cpp_uses_the_chat_template(micro_run: Path, tmp_path: Path) -> None:
    convert(micro_run / "model.bullet", tmp_path / "m.gguf")
    tokenizer = Tokenizer(read_gguf(tmp_path / "m.gguf").tokenizer_proto)
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "नमस्ते, hi"}]
    messages += [{"role": "assistant", "content": "हो."}, {"role": "user", "content": "का?"}]
    with llama_cpp(tmp_path / "m.gguf") as ask:
        prompt = ask("/apply-template", {"messages": messages})["prompt"]
        ids = ask("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"]
    assert ids == encode_prompt(tokenizer, messages)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "developer", "content": "S"}, {"role": "user", "content": "hi"}],
        [{"role": "system", "content": "S"}],
        [{"role": "system", "content": ""}, {"role": "user", "content": " hi "}],
        [{"role": "user", "content": [{"type": "text", "text": "one two"}]}],
        [
            {"role": "user", "content": "a"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "c"},
        ],
    ],
)
def test_llama_cpp_renders_what_programs_send(micro_run: Path, tmp_path: Path, messages: list[dict[str, Any]]) -> None:
    convert(micro_run / "model.bullet", tmp_path / "m.gguf")
    tokenizer = Tokenizer(read_gguf(tmp_path / "m.gguf").tokenizer_proto)
    with llama_cpp(tmp_path / "m.gguf") as ask:
        prompt = ask("/apply-template", {"messages": messages})["prompt"]
        ids = ask("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"]
    flat = [
        {**message, "content": content if isinstance(content := message["content"], str) else "".join(part["text"] for part in content)}
        for message in messages
    ]
    assert ids == fit_prompt(tokenizer, flat, 1000).ids


HARD_LINES = ["", " ", "  a  b ", "नमस्ते  hi!", "क्ष्मी र्‍य ऱ्या", "१२३ 123\t\n\nx", "👩‍👩‍👧 é e\u0301 \u00a0", "<|user|> </s> <0x41>", "ﬁ Å ℃"]


def their_tokens(ask: Callable[[str, dict[str, Any]], Any], lines: list[str]) -> list[list[int]]:
    return [ask("/tokenize", {"content": line, "add_special": False, "parse_special": False})["tokens"] for line in lines]


def test_llama_cpp_gives_the_same_tokens(micro_run: Path, tmp_path: Path) -> None:
    convert(micro_run / "model.bullet", tmp_path / "m.gguf")
    tokenizer = Tokenizer(read_gguf(tmp_path / "m.gguf").tokenizer_proto)
    with llama_cpp(tmp_path / "m.gguf") as ask:
        for line, ids in zip(HARD_LINES, their_tokens(ask, HARD_LINES), strict=True):
            assert ids == tokenizer.encode(line), line


@pytest.mark.real_data
@pytest.mark.skipif(not QUICK.exists(), reason="../shared is absent")
def test_llama_cpp_gives_the_same_tokens_on_real_lines(micro_run: Path, tmp_path: Path) -> None:
    convert(micro_run / "model.bullet", tmp_path / "m.gguf")
    tokenizer = Tokenizer(read_gguf(tmp_path / "m.gguf").tokenizer_proto)
    lines = [line for name in ("mr.txt", "en.txt") for line in (QUICK / name).read_text(encoding="utf-8").splitlines()[::9][:400]]
    with llama_cpp(tmp_path / "m.gguf") as ask:
        assert their_tokens(ask, lines) == tokenizer.encode_batch(lines)


# --- files of others, and broken ones -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocabulary() -> list[tuple[str, float, int]]:
    return [tuple(piece) for piece in Tokenizer(small_model().tokenizer_proto).pieces()]  # type: ignore[misc]


Parts = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture
def parts(vocabulary: list[tuple[str, float, int]]) -> Parts:
    return small_keys_and_tensors(vocabulary)


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_of_another_program(tmp_path: Path, parts: Parts, version: int) -> None:
    path = tmp_path / "foreign.gguf"
    path.write_bytes(raw_gguf(*parts, version=version))
    model = read_gguf(path)
    assert model.shape.n_kv_heads == model.shape.n_heads == 2 and not model.shape.tied_embeddings
    assert model.shape.norm_eps == 1e-6 and model.shape.rope_theta == 10000.0
    sampling = {"temperature": 0.8, "top_k": 30}
    assert model.metadata == {"name": "foreign", "license": "mit", "languages": ["mr", "en"], "sampling": sampling}
    for name in model.shape.tensors():
        assert np.asarray(model.tensors[name]).tobytes() == parts[1][gguf_name(name)][2]
    if version == 3:
        gguf.GGUFReader(path)  # that it is a real one
    convert(path, tmp_path / "out.bullet")
    assert_same(read_model(tmp_path / "out.bullet")[1], model)


def bf16(floats: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers: uint16 of the same shape."""
    return (np.ascontiguousarray(floats, "<f4").view("<u4") >> 16).astype("<u2")


def test_bf16_tensors_are_read_exactly(tmp_path: Path, parts: Parts) -> None:
    expected = {}
    for n, (name, (kind, shape, content)) in enumerate(parts[1].items()):
        halves = bf16(np.random.default_rng(n).standard_normal(shape, dtype=np.float32))
        expected[name] = (halves.astype("<u4") << 16).view("<f4")
        assert kind == F32 and len(content) == 4 * halves.size
        parts[1][name] = (30, shape, halves.tobytes())
    (tmp_path / "m.gguf").write_bytes(raw_gguf(*parts))
    model = read_gguf(tmp_path / "m.gguf")
    for name in model.shape.tensors():
        np.testing.assert_array_equal(as_floats(model.tensors[name]), expected[gguf_name(name)])
    convert(tmp_path / "m.gguf", tmp_path / "out.bullet", ConvertOptions(quant="F32"))
    parts[1][Q] = (30, (32, 32), bf16(np.full((32, 32), np.inf, np.float32)).tobytes())
    (tmp_path / "m.gguf").write_bytes(raw_gguf(*parts))
    with pytest.raises(FormatError, match=r"attn_q\.weight holds a scale or number that is NaN or infinite"):
        read_gguf(tmp_path / "m.gguf")


# --- edited files -------------------------------------------------------------------------------------------------------


def edited(path: Path, **values: Any) -> Path:
    """A copy of a GGUF with some keys set, as gguf_new_metadata.py of llama.cpp makes it; None removes a key."""
    reader = gguf.GGUFReader(path)
    target = path.with_name(f"edited-{path.name}")
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        short = name.rpartition(".")[2]
        if name == "general.architecture" or name.startswith("GGUF.") or (short in values and values[short] is None):
            continue
        content = values.get(short, field.contents())
        writer.add_key_value(
            name, content, field.types[0], sub_type=field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        )
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize(
    ("key", "value", "expected", "note"),
    [
        ("name", "renamed", {"name": "renamed"}, "name was changed in the file after the export: renamed"),
        ("license", "MIT", {"license": "MIT"}, "license was changed in the file after the export: MIT"),
        ("languages", ["hi"], {"languages": ["hi"]}, r"languages was changed .*: \['hi'\]"),
        ("temp", 0.5, {"sampling": {**METADATA["sampling"], "temperature": 0.5}}, "sampling was changed"),  # type: ignore[dict-item]
        ("top_k", 7, {"sampling": {**METADATA["sampling"], "top_k": 7}}, "sampling was changed"),  # type: ignore[dict-item]
        ("chat_template", "{{ messages }}", {"chat_template": "{{ messages }}"}, "chat template was changed"),
    ],
)
def test_what_an_edited_file_says_counts(tmp_path: Path, key: str, value: Any, expected: dict[str, Any], note: str) -> None:
    write_gguf(tmp_path / "m.gguf", small_model())
    model = read_gguf(edited(tmp_path / "m.gguf", **{key: value}))
    assert model.metadata == {**METADATA, **expected}
    assert len(model.notes) == 1 and re.search(note, model.notes[0])
    convert(tmp_path / "edited-m.gguf", tmp_path / "m.bullet")
    assert read_model(tmp_path / "m.bullet")[1].metadata == {**METADATA, **expected}


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, GGUF_TEMPLATE, HF_TEMPLATE])
def test_an_unchanged_file_has_no_notes(tmp_path: Path, template: str) -> None:
    """Whatever the metadata says or leaves out, and with the template of an earlier export."""
    awkward = {"sampling": {"temperature": 0.1234567891, "top_p": 1 / 3, "repetition_penalty": 1}, "chat_template": CHAT_TEMPLATE}
    for metadata in (METADATA, {}, awkward):
        write_gguf(tmp_path / "m.gguf", small_model()._replace(metadata=metadata))
        for path in (tmp_path / "m.gguf", edited(tmp_path / "m.gguf", chat_template=template)):
            model = read_gguf(path)
            assert model.metadata == metadata and not model.notes


@pytest.mark.parametrize("first", [True, False])
def test_a_split_file_is_named(tmp_path: Path, parts: Parts, first: bool) -> None:
    """The first part has all keys, the others only those of the split."""
    keys = parts[0] if first else {}
    keys |= {"split.count": (UINT32, 3), "split.no": (UINT32, 0 if first else 2), "split.tensors.count": (UINT32, 12)}
    tensors = {"token_embd.weight": parts[1]["token_embd.weight"]} if first else {}
    (tmp_path / "m-00001-of-00003.gguf").write_bytes(raw_gguf(keys, tensors))
    with pytest.raises(FormatError, match=f"this is part {1 if first else 3} of 3 of a split GGUF: join the parts with `llama-gguf-split"):
        convert(tmp_path / "m-00001-of-00003.gguf", tmp_path / "out.bullet")


def test_the_real_blocker_comes_first(tmp_path: Path, parts: Parts) -> None:
    """If the architecture or the tokenizer is not supported, the message does not suggest joining parts or another weight type."""
    parts[1][Q] = (12, (32, 32), ONES)
    parts[0]["split.count"] = (UINT32, 2)
    steps = [
        (lambda: parts[0].update({"general.architecture": (STRING, "qwen3")}), 'architecture is "qwen3"'),
        (
            lambda: parts[0].update({"general.architecture": (STRING, "llama"), "tokenizer.ggml.model": (STRING, "gpt2")}),
            "tokenizer.ggml.model",
        ),
        (lambda: parts[0].update({"tokenizer.ggml.model": (STRING, "llama")}), "split GGUF"),
        (lambda: parts[0].update({"split.count": (UINT32, 1)}), "is Q4_K"),
    ]
    for change, message in steps:
        change()
        (tmp_path / "m.gguf").write_bytes(raw_gguf(*parts))
        with pytest.raises(FormatError, match=message):
            read_gguf(tmp_path / "m.gguf")


def key(name: str, *content: Any) -> Callable[[Parts], object]:
    """Replace a key by a type and a value, or by bytes; nothing removes it."""

    def damage(parts: Parts) -> None:
        if content:
            parts[0][name] = content if len(content) == 2 else content[0]
        else:
            del parts[0][name]

    return damage


def tensor(name: str, *content: Any) -> Callable[[Parts], object]:
    def damage(parts: Parts) -> None:
        if content:
            parts[1][name] = content
        else:
            del parts[1][name]

    return damage


def token(i: int, text: str | None = None, score: float | None = None, kind: int | None = None) -> Callable[[Parts], object]:
    def damage(parts: Parts) -> None:
        for name, new in (("tokens", text), ("scores", score), ("token_type", kind)):
            if new is not None:
                parts[0][f"tokenizer.ggml.{name}"][1][i] = new

    return damage


def fewer_tokens(parts: Parts) -> None:
    for name in ("tokens", "scores", "token_type"):
        parts[0][f"tokenizer.ggml.{name}"][1].pop()


ONES = np.ones((32, 32), "<f4").tobytes()
NAN = np.full((32, 32), np.nan, "<f4").tobytes()
Q = "blk.0.attn_q.weight"
DAMAGE: dict[str, tuple[Callable[[Parts], object], str]] = {
    "no architecture": (key("general.architecture"), "general.architecture is missing"),
    "another architecture": (key("general.architecture", STRING, "gpt2"), 'general.architecture is "gpt2": only "llama"'),
    "architecture is a number": (key("general.architecture", UINT32, 1), "general.architecture must be text"),
    "no heads": (key("llama.attention.head_count"), "llama.attention.head_count is missing"),
    "heads for each layer": (key("llama.attention.head_count", UINT32, [2]), r"llama.attention.head_count is \[2\]"),
    "zero heads": (key("llama.attention.head_count", UINT32, 0), "llama.attention.head_count is 0"),
    "no epsilon": (key("llama.attention.layer_norm_rms_epsilon"), "layer_norm_rms_epsilon is missing"),
    "epsilon is NaN": (key("llama.attention.layer_norm_rms_epsilon", FLOAT32, float("nan")), "must be a number above 0"),
    "odd width": (key("llama.embedding_length", UINT32, 34), "the shape is not supported: dim 34|only 17 is supported"),
    "huge width": (key("llama.embedding_length", UINT64, 1 << 60), "llama.embedding_length is 1152921504606846976"),
    "huge depth": (key("llama.block_count", UINT32, 1 << 31), "llama.block_count is 2147483648"),
    "more layers": (key("llama.block_count", UINT32, 2), r"the tensor blk\.1\.attn_norm\.weight is missing"),
    "partial rotation": (key("llama.rope.dimension_count", UINT32, 8), "rope.dimension_count is 8: only 16"),
    "stretched rotation": (key("llama.rope.scaling.type", STRING, "yarn"), "rope.scaling.type is yarn: only none"),
    "experts": (key("llama.expert_count", UINT32, 8), "expert_count is 8: only 0"),
    "an unknown key": (key("llama.attention.sliding_window", UINT32, 8), "llama.attention.sliding_window is not supported"),
    "metadata is no JSON": (key("bullet.metadata", STRING, "{"), "bullet.metadata: not valid JSON"),
    "odd metadata": (key("bullet.metadata", STRING, '{"sampling": {"top_k": -1}}'), r"sampling\.top_k is -1"),
    "odd languages": (key("general.languages", UINT32, 3), "languages is 3"),
    "a value cut short": (key("general.name", struct.pack("<IQ", STRING, 1 << 60)), "cut short or damaged: general.name"),
    "an array without end": (key("general.name", struct.pack("<IIQ", ARRAY, UINT32, 1 << 62)), "cut short or damaged: general.name"),
    "very many texts": (key("general.name", struct.pack("<IIQ", ARRAY, STRING, 1 << 40)), "array of 1099511627776 values"),
    "arrays of arrays": (key("general.name", struct.pack("<IIQ", ARRAY, ARRAY, 1)), "array of 1 values of type 9"),
    "an unknown type": (key("general.name", struct.pack("<I", 77)), "general.name has the unknown type 77"),
    "text that is not UTF-8": (key("general.name", struct.pack("<I", STRING) + string(b"\xff")), "general.name at byte .* is not UTF-8"),
    "odd alignment": (key("general.alignment", UINT32, 24), "general.alignment is 24"),
    "alignment is text": (key("general.alignment", STRING, "32"), "general.alignment is 32"),
    "no tensor": (tensor(Q), r"the tensor blk\.0\.attn_q\.weight is missing"),
    "no embedding": (tensor("token_embd.weight"), r"token_embd\.weight is missing"),
    "a bias": (tensor("blk.0.attn_q.bias", F32, (32,), bytes(128)), r"the tensor blk\.0\.attn_q\.bias is unknown"),
    "another shape": (tensor(Q, F32, (64, 16), ONES), r"attn_q\.weight has shape \[64, 16\]"),
    "five dimensions": (tensor(Q, F32, (32, 32, 1, 1, 1), ONES), "has 5 dimensions"),
    "another type": (tensor(Q, 12, (32, 32), ONES), r"attn_q.weight is Q4_K: only F32, F16, BF16, Q4_0 and Q8_0"),
    "a type of the future": (tensor(Q, 1000, (32, 32), ONES), r"attn_q.weight is ggml type 1000: only F32"),
    "rounded gains": (
        tensor("output_norm.weight", Q4_0, (32,), bytes(18)),
        r"output_norm\.weight is BQ4: gains of norms must not be quantized",
    ),
    "not a number": (tensor(Q, F32, (32, 32), NAN), r"attn_q\.weight holds a scale or number that is NaN"),
    "an infinite scale": (tensor(Q, Q4_0, (32, 32), b"\x00\x7c" * 9 * 32), "holds a scale or number that is NaN or infinite"),
    "another tokenizer": (key("tokenizer.ggml.model", STRING, "gpt2"), 'tokenizer.ggml.model is "gpt2": only tokenizers of BulletLM'),
    "a space in front": (key("tokenizer.ggml.add_space_prefix"), "add_space_prefix must be false"),
    "spaces removed": (key("tokenizer.ggml.remove_extra_whitespaces", BOOL, True), "remove_extra_whitespaces must be false"),
    "a normalizer": (key("tokenizer.ggml.precompiled_charsmap", UINT32, [1, 2]), "precompiled_charsmap"),
    "no tokens": (key("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens must be a list of texts"),
    "few tokens": (key("tokenizer.ggml.tokens", STRING, ["a"]), 'token 0 is "a", but must be "<unk>"'),
    "few scores": (key("tokenizer.ggml.scores", FLOAT32, [1.0]), "tokenizer.ggml.scores must be 277 numbers"),
    "no types": (key("tokenizer.ggml.token_type"), "tokenizer.ggml.token_type must be 277 numbers"),
    "score is NaN": (token(270, score=float("nan")), "tokenizer.ggml.scores holds a number"),
    "other marks": (token(3, text="<|im_start|>"), r'token 3 is "<\|im_start\|>", but must be "<\|user\|>"'),
    **{
        f"mark {i} as user-defined": (
            token(i, kind=4),
            rf"token {i} must be of type {3 if i else 2} \(.*\) and not empty, but is of type 4",
        )
        for i in range(6)
    },
    "a byte as text": (token(6, kind=1), r"token 6 must be of type 6 \(byte\)"),
    "an unused token": (token(270, kind=5), "token 270 must be of type 1"),
    "fewer tokens than rows": (fewer_tokens, "tokenizer.ggml.tokens has 276 texts, but the embedding has 277 rows"),
    "another type of token": (token(270, kind=4), "token 270 must be of type 1"),
    "an empty token": (token(270, text=""), "token 270 must be of type 1 .normal. and not empty"),
    "a token twice": (token(270, text="i"), "tokenizer.ggml: "),
    "another end": (key("tokenizer.ggml.eos_token_id", UINT32, 5), "eos_token_id must be 2"),
    "control characters": (token(0, text="\x1b[2J\n"), "token 0 is"),
    "text where numbers belong": (key("tokenizer.ggml.scores", STRING, ["1"] * 277), "tokenizer.ggml.scores must be 277 numbers"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=list(DAMAGE))
def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path, parts: Parts, damage: Callable[[Parts], object], message: str) -> None:
    damage(parts)
    path = tmp_path / "m.gguf"
    path.write_bytes(raw_gguf(*parts))
    with pytest.raises(FormatError, match=message) as caught:
        convert(path, tmp_path / "out.bullet")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500 and "m.gguf" in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"], "nothing is written"


def with_bytes(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def offset_of(data: bytes, name: bytes) -> int:
    """Where the entry of a matrix gives its offset: after name, rank, two dimensions and type."""
    return data.index(name) + len(name) + 4 + 16 + 4


RAW_DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda good: b"", "cannot open"),
    "another file": (lambda good: with_bytes(good, 0, b"GGML"), "this is not a GGUF file"),
    "version 1": (lambda good: with_bytes(good, 4, struct.pack("<I", 1)), "GGUF version 1: only 2 and 3"),
    "big-endian": (lambda good: with_bytes(good, 4, struct.pack(">I", 3)), "little-endian"),
    "a million tensors": (lambda good: with_bytes(good, 8, struct.pack("<Q", 10**6)), "at most 65536 of each"),
    "a trillion keys": (lambda good: with_bytes(good, 16, struct.pack("<Q", 10**12)), "at most 65536 of each"),
    "a key twice": (
        lambda good: good.replace(struct.pack("<Q", 15) + b"general.license", struct.pack("<Q", 12) + b"general.name"),
        "general.name is given twice",
    ),
    "a tensor twice": (lambda good: good.replace(b"blk.0.attn_k.weight", b"blk.0.attn_q.weight"), "attn_q.weight is given twice"),
    "a long name": (lambda good: with_bytes(good, good.index(Q.encode()) - 8, struct.pack("<Q", 1 << 20)), "has 1048576 bytes"),
    "a tensor outside": (
        lambda good: with_bytes(good, offset_of(good, Q.encode()), struct.pack("<Q", 1 << 40)),
        "cut short or damaged: the tensor",
    ),
    "tensors overlap": (lambda good: with_bytes(good, offset_of(good, Q.encode()), bytes(8)), "the tensors .* overlap"),
}


@pytest.mark.parametrize(("damage", "message"), RAW_DAMAGE.values(), ids=list(RAW_DAMAGE))
def test_damaged_bytes(tmp_path: Path, parts: Parts, damage: Callable[[bytes], bytes], message: str) -> None:
    (tmp_path / "m.gguf").write_bytes(damage(raw_gguf(*parts)))
    with pytest.raises(BulletError, match=message) as caught:
        read_gguf(tmp_path / "m.gguf")
    assert str(caught.value).isprintable()


def test_cut_anywhere(tmp_path: Path, parts: Parts) -> None:
    good = raw_gguf(*parts)
    path = tmp_path / "m.gguf"
    for end in itertools.chain(range(1, 400), range(400, len(good), 499), range(len(good) - 40, len(good))):
        path.write_bytes(good[:end])
        with pytest.raises(FormatError, match=re.escape(str(path))) as caught:
            read_gguf(path)
        assert str(caught.value).isprintable()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(place=st.integers(0, 6500), byte=st.integers(0, 255))
def test_a_changed_byte(tmp_path: Path, parts: Parts, place: int, byte: int) -> None:
    good = raw_gguf(*parts)
    path = tmp_path / "m.gguf"
    path.write_bytes(good[:place] + bytes([byte]) + good[place + 1 :])
    try:
        read_gguf(path)
    except FormatError as error:
        assert str(error).isprintable()


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BulletError, match="cannot open"):
        read_gguf(tmp_path / "nothing.gguf")
