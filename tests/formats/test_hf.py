"""Hugging Face folders: the same numbers in transformers, the same bits on the way back."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_model import METADATA, assert_same, small_model

from bulletlm.errors import BulletError, FormatError
from bulletlm.formats.convert import convert, read_model
from bulletlm.formats.hf import FILES, model_card, read_hf, write_hf
from bulletlm.formats.stored import StoredModel, as_floats
from bulletlm.runtime.engine import NumpyEngine
from bulletlm.text.chat import encode_prompt
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer
from paths import SHARED_DATA

QUICK = SHARED_DATA / "quick"


def as_float_model(model: StoredModel) -> StoredModel:
    return model._replace(tensors={name: as_floats(tensor) for name, tensor in model.tensors.items()})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("quant", ["BQ4", "F16", "F32"])
def test_round_trip_is_bit_equal(tmp_path: Path, quant: str, tied: bool) -> None:
    model = small_model(quant, tied_embeddings=tied, rope_theta=5e5, norm_eps=1e-6)
    write_hf(tmp_path / "hf", model)
    assert {file.name for file in (tmp_path / "hf").iterdir()} == set(FILES)
    back = read_hf(tmp_path / "hf")
    assert_same(back, as_float_model(model))
    first = {file.name: file.read_bytes() for file in (tmp_path / "hf").iterdir()}
    write_hf(tmp_path / "hf", back)
    for name in set(FILES) - {"README.md"}:  # which says what the weights were before
        assert (tmp_path / "hf" / name).read_bytes() == first[name], name


def test_a_bullet_rounded_without_calibration_comes_back_byte_for_byte(micro_run: Path, tmp_path: Path) -> None:
    convert(micro_run / "export" / "npy", tmp_path / "rtn.bullet")
    convert(tmp_path / "rtn.bullet", tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "back.bullet")
    assert (tmp_path / "back.bullet").read_bytes() == (tmp_path / "rtn.bullet").read_bytes()


# --- transformers -------------------------------------------------------------------------------------------------------


def their_model(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def their_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(tokens)).logits.numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_computes_the_same(tmp_path: Path, tied: bool) -> None:
    model = small_model(tied_embeddings=tied, rope_theta=123.0)
    write_hf(tmp_path / "hf", model)
    theirs = their_model(tmp_path / "hf")
    assert theirs.dtype == torch.float32 and theirs.num_parameters() == model.shape.n_parameters
    tokens = np.random.default_rng(1).integers(0, model.shape.vocab_size, (3, 32))
    ours = NumpyEngine(model.shape, as_float_model(model).tensors).score(tokens)  # type: ignore[arg-type]
    assert np.abs(ours).max() > 1
    np.testing.assert_allclose(their_logits(theirs, tokens), ours, atol=1e-4, rtol=0)


def test_transformers_answers_in_a_chat(micro_run: Path, tmp_path: Path) -> None:
    convert(micro_run / "model.bullet", tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    _, model = read_model(micro_run / "model.bullet")
    ours = Tokenizer(model.tokenizer_proto)
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "नमस्ते, hi"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert prompt["input_ids"][0].tolist() == encode_prompt(ours, messages)
    assert tokenizer("hi")["input_ids"] == [1, *ours.encode("hi")]
    theirs = their_model(tmp_path / "hf")
    assert theirs.generation_config.eos_token_id == [2, 5] and theirs.generation_config.max_new_tokens == 16
    assert theirs.generation_config.temperature == pytest.approx(model.metadata["sampling"]["temperature"])
    answer = theirs.generate(**prompt, do_sample=False, repetition_penalty=1.0)[0, prompt["input_ids"].shape[1] :].tolist()
    logits = NumpyEngine(model.shape, as_float_model(model).tensors).score(np.array([prompt["input_ids"][0].tolist() + answer]))[0]  # type: ignore[arg-type]
    assert answer == logits[-len(answer) - 1 : -1].argmax(-1).tolist()


HARD_LINES = ["", " ", "  a  b ", "नमस्ते  hi!", "क्ष्मी र्‍य ऱ्या", "१२३ 123\t\n\nx", "👩‍👩‍👧 é e\u0301 \u00a0", "ﬁ Å ℃ ॲ"]


def test_transformers_gives_the_same_tokens(micro_run: Path, tmp_path: Path) -> None:
    convert(micro_run / "model.bullet", tmp_path / "hf")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf"), Tokenizer.load(tmp_path / "hf" / "tokenizer.model")
    for line in HARD_LINES:
        assert theirs.encode(line, add_special_tokens=False) == ours.encode(line), line
        assert theirs.decode(ours.encode(line)) == line


@pytest.mark.real_data
@pytest.mark.skipif(not QUICK.exists(), reason="../shared is absent")
def test_transformers_gives_the_same_tokens_on_real_lines(micro_run: Path, tmp_path: Path) -> None:
    convert(micro_run / "model.bullet", tmp_path / "hf")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf"), Tokenizer.load(tmp_path / "hf" / "tokenizer.model")
    lines = [line for name in ("mr.txt", "en.txt") for line in (QUICK / name).read_text(encoding="utf-8").splitlines()]
    lines = random.Random(1).sample(lines, 2000)
    assert [theirs.encode(line, add_special_tokens=False) for line in lines] == ours.encode_batch(lines)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.0), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_what_transformers_saves_is_read(tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
    model = small_model("F32", tied_embeddings=False)
    write_hf(tmp_path / "hf", model)
    theirs = their_model(tmp_path / "hf").to(dtype)
    theirs.save_pretrained(tmp_path / "saved", max_shard_size="60KB")
    assert len(list((tmp_path / "saved").glob("model-*.safetensors"))) > 2, "in shards"
    transformers.AutoTokenizer.from_pretrained(tmp_path / "hf").save_pretrained(tmp_path / "saved")
    if not (tmp_path / "saved" / "tokenizer.model").exists():  # it may keep only its own kind of file
        (tmp_path / "saved" / "tokenizer.model").write_bytes(model.tokenizer_proto)
    back = read_hf(tmp_path / "saved")
    assert back.shape == model.shape and back.metadata == {}
    for name, tensor in model.tensors.items():
        np.testing.assert_allclose(as_floats(back.tensors[name]), as_floats(tensor), rtol=tolerance, atol=1e-7 if tolerance else 0)


# --- the model card -----------------------------------------------------------------------------------------------------


def test_the_model_card() -> None:
    model = small_model()
    card = model_card(model)
    assert card.startswith('---\nlicense: "cc0-1.0"\nlanguage: ["mr", "en"]\nlibrary_name: "transformers"\n')
    assert "| trained on | 123,456 tokens |" in card and "| validation loss | 2.5000 (perplexity 12.18) |" in card
    assert f"| parameters | {model.shape.n_parameters:,} |" in card and '# small "model"' in card
    assert "BQ4 and BQ8" in card
    own = model_card(model._replace(metadata={"license": "only for reading"}))
    assert 'license: "other"\nlicense_name: "only for reading"\n' in own and "# model" in own
    assert 'license: "other"\nlibrary_name' in model_card(model._replace(metadata={}))


@pytest.mark.filterwarnings("error")
def test_the_model_card_of_an_absurd_loss() -> None:
    assert "(perplexity inf)" in model_card(small_model()._replace(metadata={"training": {"val_loss": 1e9}}))


# --- broken and foreign folders -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_hf(tmp_path / "hf", small_model("F32", tied_embeddings=False))
    return tmp_path / "hf"


def config(**changes: Any) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, **changes}))

    return damage


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        (folder / "model.safetensors").unlink()  # the loaded tensors still map it
        save_file(tensors, folder / "model.safetensors")

    return damage


def text(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-5])


def index(weight_map: Any) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return damage


def foreign_tokenizer(folder: Path) -> None:
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["hello world"]), model_writer=model, vocab_size=300, model_type="bpe", byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())


def tokenizer_that_takes_marks_from_the_text(folder: Path) -> None:
    """Ours, but with <|user|> as a user-defined symbol: type 4 instead of 3."""
    proto = (folder / "tokenizer.model").read_bytes()
    changed = re.sub(rb"(<\|user\|>\x15....\x18)\x03", lambda m: m[1] + b"\x04", proto, count=1, flags=re.DOTALL)
    assert changed != proto
    (folder / "tokenizer.model").write_bytes(changed)


def normalising_tokenizer(folder: Path) -> None:
    """Ours, but with a space put in front: the protocol buffer's field 3 of the normaliser."""
    proto = (folder / "tokenizer.model").read_bytes()
    changed = proto.replace(b"\x0a\x08identity\x12\x00\x18\x00", b"\x0a\x08identity\x12\x00\x18\x01")
    assert changed != proto
    (folder / "tokenizer.model").write_bytes(changed)


def other_tokenizer(folder: Path) -> None:
    from bulletlm.progress import SilentProgress

    (folder / "tokenizer.model").write_bytes(train_tokenizer(["one two three four five " * 9], 362, 0, SilentProgress()))


NAME = "model.layers.1.self_attn.q_proj.weight"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "cannot read .*config.json|has neither config.json"),
    "config is no JSON": (text("config.json", b"{"), "config.json: not valid JSON"),
    "another model": (config(model_type="gpt2"), 'model_type is "gpt2": only "llama" is supported'),
    "another activation": (config(hidden_act="gelu"), 'hidden_act is "gelu": only "silu" is supported'),
    "biases": (config(attention_bias=True), "attention_bias is true: only false is supported"),
    "stretched rotation": (config(rope_parameters={"rope_type": "yarn", "factor": 2}), "rope_parameters is .*: only the plain rotary"),
    "old stretched rotation": (config(rope_scaling={"type": "linear", "factor": 2}), "rope_scaling is .*: only the plain rotary"),
    "quantised": (config(quantization_config={"bits": 4}), "quantization_config is .*: only null is supported"),
    "wide heads": (config(head_dim=32), "head_dim is 32: only hidden_size / num_attention_heads"),
    "no layers": (config(num_hidden_layers=None), "n_layers is null"),
    "huge": (config(hidden_size=10**9), "dim is 1000000000"),
    "another width": (config(hidden_size=32, head_dim=None), r"has shape \[.*\], but config.json implies \["),
    "another vocabulary": (config(vocab_size=300), "tokenizer.model: it has 277 tokens, but the embedding has 300 rows"),
    "pickles only": (only_pickles, r"only as Python pickles \(pytorch_model.bin\): loading one can run any program"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    "weights cut": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-5]),
        "is not a whole",
    ),
    "weights are text": (text("model.safetensors", b"hello world, this is text"), "is not a whole safetensors file"),
    "empty weights": (text("model.safetensors", b""), "is not a whole safetensors file"),
    "a tensor missing": (weights(lambda w: w.pop(NAME)), f"the tensor {re.escape(NAME)} is missing"),
    "a tensor too many": (weights(lambda w: w.update({"model.extra": torch.zeros(2)})), "model.extra is unknown"),
    "a bias in the weights": (weights(lambda w: w.update({NAME.replace("weight", "bias"): torch.zeros(64)})), "q_proj.bias is unknown"),
    "wrong shape": (weights(lambda w: w.update({NAME: torch.zeros(64, 32)})), r"q_proj.weight has shape \[64, 32\]"),
    "wrong type": (weights(lambda w: w.update({NAME: torch.zeros(64, 64, dtype=torch.int8)})), "is of type I8: only F32, F16 and BF16"),
    "not finite": (weights(lambda w: w[NAME].fill_(float("inf"))), "q_proj.weight holds a scale or number that is NaN or infinite"),
    "index without map": (index(None), "weight_map must give the file"),
    "index out of the folder": (index({NAME: "../a.safetensors"}), "weight_map must give the file in this folder"),
    "index to no name": (index({NAME: "\0"}), "weight_map must give the file in this folder"),
    "index to a sequence for the terminal": (index({NAME: "\x1b[2J"}), "weight_map must give the file in this folder"),
    "index to nothing": (index({NAME: "b.safetensors"}), "cannot read .*b.safetensors"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.model").unlink(), "tokenizer.model is missing: only models with a sentencepiece"),
    "tokenizer is JSON": (text("tokenizer.model", b"{}"), "tokenizer.model: the tokenizer is not a sentencepiece model"),
    "foreign tokenizer": (foreign_tokenizer, "tokenizer.model: the tokenizer is not one of BulletLM"),
    "normalising tokenizer": (normalising_tokenizer, "tokenizer.model: it changes text"),
    "marks in the text": (tokenizer_that_takes_marks_from_the_text, "tokenizer.model: it changes text"),
    "another tokenizer": (other_tokenizer, "it has 362 tokens, but the embedding has 277 rows"),
    "odd metadata": (text("bullet_metadata.json", b'{"license": 5}'), "license is 5: it must be text"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=list(DAMAGE))
def test_what_cannot_be_read_is_one_clear_line(folder: Path, tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(FormatError, match=message) as caught:
        convert(folder, tmp_path / "out.bullet")
    assert str(caught.value).isprintable() and str(folder) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["hf"], "nothing is written"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(place=st.integers(0, 3000), byte=st.integers(0, 255), name=st.sampled_from(["config.json", "model.safetensors", "tokenizer.model"]))
def test_a_changed_byte(folder: Path, place: int, byte: int, name: str) -> None:
    path = folder / name
    good = path.read_bytes()
    place %= len(good)
    path.write_bytes(good[:place] + bytes([byte]) + good[place + 1 :])
    try:
        read_hf(folder)
    except FormatError as error:
        assert str(error).isprintable()
    finally:
        path.write_bytes(good)


def test_a_tied_copy_of_the_embedding_is_left_out(tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", small_model("F32"))
    weights(lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))(tmp_path / "hf")
    assert_same(read_hf(tmp_path / "hf"), small_model("F32"))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BulletError, match="there is no folder"):
        read_hf(tmp_path / "nothing")


def test_metadata_is_kept(folder: Path) -> None:
    assert read_hf(folder).metadata == METADATA
