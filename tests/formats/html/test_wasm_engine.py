"""Tests that the engine compiled to WebAssembly computes what the native engine computes, and that no file can break it."""

import base64
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mutate_models
import numpy as np
import pytest
from javascript import Library, LibraryError

from bulletlm.errors import BulletError
from bulletlm.evaluate.prompts import load_prompts
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.quant.types import standard_types
from bulletlm.runtime import Model, NativeEngine, NumpyEngine, Sampling, Session, load
from bulletlm.runtime.native import TensorBytes, Unavailable, available_paths
from bulletlm.runtime.prompt import chat_prompt
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import Tokenizer
from tiny_model import ENGLISH, MARATHI, random_tensors

MODULES = [{"simd": True}, {"simd": False}]
both_modules = pytest.mark.parametrize("options", MODULES, ids=["simd", "scalar"])

SHAPES = {
    "grouped heads": ModelShape(480, 64, 2, 4, 2, 96, 150),
    "head_dim 6": ModelShape(480, 96, 1, 16, 4, 64, 40),
    "head_dim 2": ModelShape(480, 32, 1, 16, 4, 32, 40, rope_theta=500.0),
    "head_dim 160, untied": ModelShape(480, 160, 1, 1, 1, 32, 150, tied_embeddings=False),
    "long context": ModelShape(480, 64, 1, 2, 1, 32, 1 << 16, rope_theta=1e6),
}


def write_model(path: Path, shape: ModelShape, tokenizer: Tokenizer, types: dict[str, str]) -> Path:
    contents = ModelContents(
        shape=shape,
        tensors=random_tensors(shape),
        types=types,
        tokenizer_proto=tokenizer.proto,
        pieces=tokenizer.pieces(),
        metadata={"sampling": {"max_tokens": 12}},
    )
    write_bullet(path, contents)
    return path


def portable(path: Path) -> Model:
    """A model in the kernels that do what those of WebAssembly do: plain multiplications and additions, none fused."""
    file = open_bullet(path)
    tensors = {name: TensorBytes(file.type(name), file.read_bytes(name), mapped=True) for name in file.tensors}
    return replace(load(path, "numpy"), engine=NativeEngine(file.shape, tensors, "portable"))


def logits_of(library: Library, name: str, ids: list[int]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(library.ask("logits", name=name, ids=ids, all=True)), np.float32).reshape(len(ids), -1)


def mixed_types(shape: ModelShape) -> dict[str, str]:
    kinds = itertools.cycle(["BQ4", "F16", "BQ8", "F32", "BQ4", "BQ8"])
    return {name: "F32" if len(extents) == 1 else next(kinds) for name, extents in shape.tensors().items()}


@both_modules
@pytest.mark.parametrize("types", ["standard", "mixed"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_logits(
    library: Library, tmp_path: Path, tiny_tokenizer: Tokenizer, shape: ModelShape, types: str, options: dict[str, bool]
) -> None:
    wanted = standard_types(shape) if types == "standard" else mixed_types(shape)
    path = write_model(tmp_path / "m.bullet", shape, tiny_tokenizer, wanted)
    library.ask("load", name="logits", path=str(path), options=options)
    ids = np.random.default_rng(3).integers(0, 480, min(130, shape.max_seq_len)).tolist()
    logits = logits_of(library, "logits", ids)
    file = open_bullet(path)
    exact = NumpyEngine(shape, {name: file.dequantize(name) for name in file.tensors})
    np.testing.assert_allclose(logits, exact.forward(ids, exact.new_cache()), rtol=0, atol=0.005)
    one_by_one = np.stack([logits_of(library, "logits", ids[: n + 1])[-1] for n in (0, 1, 17)])
    np.testing.assert_array_equal(one_by_one, logits[[0, 1, 17]])  # bit by bit, however the prompt is divided
    try:
        available_paths()
    except Unavailable:
        return
    engine = portable(path).engine
    # The functions of the C library differ in their last bit, which reaches a float32 at most as its last bit.
    np.testing.assert_allclose(logits, engine.forward(ids, engine.new_cache()), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def trained(micro_run: Path) -> Path:
    try:
        available_paths()
    except Unavailable as error:
        pytest.skip(f"no native engine: {error}")
    return micro_run / "model.bullet"


def hundred_prompts() -> Iterator[str]:
    lines = [*(prompt.prompt for prompt in load_prompts()), *MARATHI.splitlines(), *ENGLISH.splitlines()]
    return itertools.islice(itertools.cycle([*lines, *(line[:25] for line in lines), *(line[7:40] for line in lines)]), 100)


@both_modules
def test_the_same_answers_to_a_hundred_prompts(library: Library, trained: Path, options: dict[str, bool]) -> None:
    library.ask("load", name="trained", path=str(trained), options=options)
    model = portable(trained)
    for n, text in enumerate(hundred_prompts()):
        messages = [{"role": "user", "content": text}]
        for sampling in (Sampling(temperature=0, max_tokens=12), Sampling(temperature=0.9, seed=n, max_tokens=12)):
            prompt = chat_prompt(model, messages, 12)
            expected = [token.id for token in Session(model).generate(prompt.ids, sampling, keep=prompt.keep)]
            settings = {"temperature": sampling.temperature, "seed": sampling.seed, "maxTokens": 12, "topK": 40, "topP": 0.95, "minP": 0.05}
            got = library.ask("generate", name="trained", input=messages, options={**settings, "repetitionPenalty": 1.1})
            assert got["ids"] == expected, text


def test_every_setting_of_sampling(library: Library, trained: Path) -> None:
    library.ask("load", name="trained", path=str(trained))
    model = portable(trained)
    rng = np.random.default_rng(5)
    for seed in range(60):
        sampling = Sampling(
            temperature=float(rng.choice([0.3, 1.0, 2.5])),
            top_k=int(rng.choice([0, 1, 5, 699, 5000])),
            top_p=float(rng.choice([0.2, 0.9, 1.0])),
            min_p=float(rng.choice([0.0, 0.1])),
            repetition_penalty=float(rng.choice([1.0, 1.3])),
            presence_penalty=float(rng.choice([0.0, 0.6])),
            frequency_penalty=float(rng.choice([0.0, -0.4])),
            seed=seed,
            max_tokens=70,  # more than the context
        )
        expected = list(Session(model).generate([1, 3, 300 + seed, 5, 4], sampling, keep=2))
        names = (
            "temperature",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "top_k",
            "top_p",
            "min_p",
            "max_tokens",
            "seed",
        )
        options = {name.replace("_p", "P").replace("_k", "K").replace("_t", "T"): getattr(sampling, name) for name in names}
        got = library.ask("generate", name="trained", input=[1, 3, 300 + seed, 5, 4], options={**options, "keep": 2})
        assert got["ids"] == [token.id for token in expected]
        assert got["text"] == "".join(token.text for token in expected)


def test_an_answer_can_be_stopped(library: Library, trained: Path) -> None:
    library.ask("load", name="trained", path=str(trained))
    messages = [{"role": "user", "content": "एका गावात"}]
    options = {"temperature": 2, "topK": 0, "topP": 1, "minP": 0, "maxTokens": 100_000}
    got = library.ask("generate", name="trained", input=messages, options=options, after=1)
    assert got["finish"] in ("abort", "stop")
    again = library.ask("generate", name="trained", input=messages, options={**options, "maxTokens": len(got["ids"])})
    assert again["ids"] == got["ids"]


@pytest.mark.parametrize("stop", ["K", "\u212a"], ids=["as written", "the Kelvin sign, which NFC writes as K"])
def test_a_stop_string_is_found_in_any_spelling(library: Library, trained: Path, stop: str) -> None:
    """A seed whose answer has a K; the text before it is the answer."""
    library.ask("load", name="trained", path=str(trained))
    options = {"temperature": 10, "topK": 0, "topP": 1, "minP": 0, "maxTokens": 400, "seed": 0}
    text = ""
    while "K" not in text:
        options["seed"] += 1
        text = library.ask("generate", name="trained", input="एका गावात", options=options)["text"]
    got = library.ask("generate", name="trained", input="एका गावात", options={**options, "stop": [stop]})
    assert (got["text"], got["finish"]) == (text[: text.index("K")], "stop")


def test_the_beginning_in_common_is_not_read_again(library: Library, trained: Path) -> None:
    library.ask("load", name="trained", path=str(trained))
    first = [{"role": "user", "content": "नमस्कार"}]
    options = {"temperature": 0, "maxTokens": 5}
    answer = library.ask("generate", name="trained", input=first, options=options, session=True)
    messages = [*first, {"role": "assistant", "content": answer["text"] or "x"}, {"role": "user", "content": "आणि?"}]
    warm = library.ask("generate", name="trained", input=messages, options=options, session=True)
    assert warm["ids"] == library.ask("generate", name="trained", input=messages, options=options)["ids"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"topK": 1.5}, "topK is 1.5"),
        ({"seed": -3}, "seed is -3"),
        ({"maxTokens": 0}, "maxTokens is 0"),
        ({"toString": 1}, "there is no option toString"),
        ({"stop": [""]}, "stop string is empty"),
    ],
)
def test_wrong_options(library: Library, bullet_path: Path, options: dict[str, object], message: str) -> None:
    library.ask("load", name="tiny", path=str(bullet_path))
    with pytest.raises(LibraryError, match=message):
        library.ask("generate", name="tiny", input="a", options=options)


@pytest.mark.parametrize("ids", [[], [-1], [480], [1.5]])
def test_wrong_tokens(library: Library, bullet_path: Path, ids: list[float]) -> None:
    library.ask("load", name="tiny", path=str(bullet_path))
    with pytest.raises(LibraryError):
        library.ask("logits", name="tiny", ids=ids)


def test_a_changed_file_is_found_by_its_checksum(library: Library, bullet_path: Path, tmp_path: Path) -> None:
    content = bytearray(bullet_path.read_bytes())
    library.ask("load", name="tiny", path=str(bullet_path), options={"verify": True})
    content[open_bullet(bullet_path).tensors["layers.0.mlp.up_proj.weight"].offset + 5] ^= 1
    (tmp_path / "changed.bullet").write_bytes(content)
    library.ask("load", name="tiny", path=str(tmp_path / "changed.bullet"))
    with pytest.raises(LibraryError, match="checksum"):
        library.ask("load", name="tiny", path=str(tmp_path / "changed.bullet"), options={"verify": True})


def test_hostile_files_are_refused(library: Library, tmp_path: Path) -> None:
    """Every file of tests/hostile, except those that break the section that JavaScript does not use, or only the checksum."""
    path = tmp_path / "hostile.bullet"
    for rule, content in mutate_models.hostile_files(tmp_path):
        path.write_bytes(content)
        try:
            library.ask("load", name="hostile", path=str(path), options={"verify": rule == "V1"})
        except LibraryError as error:
            assert "\n" not in str(error)
        else:
            assert rule.startswith("M"), f"a file that breaks {rule} was loaded"


@both_modules
def test_mutated_files(library: Library, tmp_path: Path, options: dict[str, bool]) -> None:
    """The mutated files of the native engine: each is refused with one line or runs, as there."""
    path = tmp_path / "mutated.bullet"
    ran = 0
    for content in mutate_models.mutated_files(tmp_path, 250):
        path.write_bytes(content)
        try:
            file = open_bullet(path)
            readable = all(file.read_blocks(name) is not None for name in file.tensors)
        except BulletError as error:
            readable = "section tokenizer.sentencepiece" in str(error)
        try:
            library.ask("load", name="mutated", path=str(path), options=options)
            library.ask("generate", name="mutated", input=[1, 2, 3], options={"maxTokens": 6, "temperature": 1})
            ran += 1
        except LibraryError as error:
            assert "\n" not in str(error)
            assert not readable or "not a number" in str(error), error
        else:
            assert readable
    assert ran > 20
