"""Tests Hugging Face folders: transformers computes the same numbers, and converting back gives the same bits."""

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_model import METADATA, TEXTS, assert_same, small_model

from bulletlm.errors import BulletError, DataError, FormatError
from bulletlm.formats.convert import ConvertOptions, convert, read_model
from bulletlm.formats.hf import FILES, model_card, read_hf, write_hf
from bulletlm.formats.stored import StoredModel, as_floats
from bulletlm.runtime.engine import NumpyEngine
from bulletlm.text.chat import encode_document, encode_prompt, fit_prompt
from bulletlm.text.normalize import normalize
from bulletlm.text.tokenizer import END, EOS, SPECIAL_TOKENS, Tokenizer
from bulletlm.text.train_tokenizer import model_of_pieces, train_tokenizer
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
    back = read_hf(tmp_path / "saved")
    assert back.shape == model.shape and back.metadata == METADATA and not back.notes
    assert back.tokenizer_proto == model.tokenizer_proto, "from tokenizer.json"
    for name, tensor in model.tensors.items():
        np.testing.assert_allclose(as_floats(back.tensors[name]), as_floats(tensor), rtol=tolerance, atol=1e-7 if tolerance else 0)


def test_a_trained_vocabulary_comes_back_from_tokenizer_json(micro_run: Path, tmp_path: Path) -> None:
    convert(micro_run / "model.bullet", tmp_path / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    theirs.save_pretrained(tmp_path / "saved")
    their_model(tmp_path / "hf").save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "tokenizer.model").exists() and not (tmp_path / "saved" / "bullet_metadata.json").exists()
    convert(tmp_path / "saved", tmp_path / "back.bullet", ConvertOptions(quant="F32"))
    first, back = read_model(micro_run / "model.bullet")[1], read_model(tmp_path / "back.bullet")[1]
    assert back.tokenizer_proto == first.tokenizer_proto and dict(back.metadata) == dict(first.metadata)
    for name, tensor in first.tensors.items():
        np.testing.assert_array_equal(as_floats(back.tensors[name]), as_floats(tensor))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(ranks=st.permutations(range(len(TEXTS))), text=st.text("नमस्ते hi", max_size=30))
def test_scores_in_any_order_come_back_from_tokenizer_json(tmp_path: Path, ranks: list[int], text: str) -> None:
    """A vocabulary whose ids are not in the order of the scores, as files from elsewhere may have."""
    proto = model_of_pieces((piece, -float(rank)) for piece, rank in zip(TEXTS, ranks, strict=True))
    write_hf(tmp_path / "hf", small_model("F32")._replace(tokenizer_proto=proto))
    transformers.AutoTokenizer.from_pretrained(tmp_path / "hf").save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.model").unlink()
    assert Tokenizer(read_hf(tmp_path / "hf").tokenizer_proto).encode(text) == Tokenizer(proto).encode(text)


def test_two_tokenizers_of_different_vocabularies(tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", small_model("F32"))
    transformers.AutoTokenizer.from_pretrained(tmp_path / "hf").save_pretrained(tmp_path / "hf")
    assert read_hf(tmp_path / "hf").tokenizer_proto == small_model().tokenizer_proto
    others = [*TEXTS[:-1], "x"]
    proto = model_of_pieces((piece, -float(rank)) for rank, piece in enumerate(others))
    (tmp_path / "hf" / "tokenizer.model").write_bytes(proto)
    with pytest.raises(FormatError, match=r"tokenizer.model and tokenizer.json hold different vocabularies"):
        read_hf(tmp_path / "hf")


def test_what_was_changed_in_the_files_of_transformers_counts(tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", small_model("F32"))
    settings_file = tmp_path / "hf" / "generation_config.json"
    settings_file.write_text(json.dumps({**json.loads(settings_file.read_text()), "temperature": 0.25, "max_new_tokens": 7}))
    (tmp_path / "hf" / "chat_template.jinja").write_text("{{ messages }}")
    model = read_hf(tmp_path / "hf")
    expected = {**METADATA["sampling"], "temperature": 0.25, "max_tokens": 7}  # type: ignore[dict-item]
    assert model.metadata == {**METADATA, "sampling": expected, "chat_template": "{{ messages }}"}
    assert len(model.notes) == 2 and "temperature, max_tokens" in model.notes[1] and "chat template" in model.notes[0]


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_differs_from_the_embedding_is_kept(tmp_path: Path, tied: bool) -> None:
    """Both are kept for every value in config.json, because fine-tuning may have changed only one of them."""
    model = small_model("F32", tied_embeddings=False)
    write_hf(tmp_path / "hf", model)
    config(tie_word_embeddings=tied)(tmp_path / "hf")
    back = read_hf(tmp_path / "hf")
    assert_same(back, model)
    assert bool(back.notes) == tied and all("lm_head.weight differs" in note for note in back.notes)
    convert(tmp_path / "hf", tmp_path / "m.bullet")
    assert not read_model(tmp_path / "m.bullet")[1].shape.tied_embeddings


@pytest.mark.parametrize("shape", [(277, 32), (64, 277), (5,)])
def test_a_head_of_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_hf(tmp_path / "hf", small_model("F32"))
    weights(lambda w: w.update({"lm_head.weight": torch.zeros(shape)}))(tmp_path / "hf")
    with pytest.raises(FormatError, match=r"lm_head.weight has shape"):
        read_hf(tmp_path / "hf")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_all_files_have_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_hf(tmp_path / "hf", small_model("F32"))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "hf").iterdir()} == {0o666 & ~umask}


# --- the chat template --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    """transformers' tokenizer and ours, of one small model."""
    folder = tmp_path_factory.mktemp("chat") / "hf"
    write_hf(folder, small_model("F32"))
    return transformers.AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder / "tokenizer.model")


TEXT = st.text("नमस्ते hi", max_size=8).map(normalize)
ROLE = st.sampled_from(["system", "developer", "user", "assistant"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLE, "content": TEXT}), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=MESSAGES, parts=st.booleans())
def test_the_template_renders_what_we_encode(chat: tuple[Any, Tokenizer], messages: list[dict[str, Any]], parts: bool) -> None:
    theirs, ours = chat
    try:
        expected = fit_prompt(ours, messages, 10_000).ids
    except DataError:
        return
    ends_with_answer = (
        next((m["role"] for m in reversed(messages) if m["content"] and m["role"] in ("user", "assistant")), "user") == "assistant"
    )
    if parts:
        messages = [{**m, "content": [{"type": "text", "text": part} for part in (m["content"][:3], m["content"][3:])]} for m in messages]
    ids = theirs.apply_chat_template(messages, add_generation_prompt=not ends_with_answer, return_dict=True)["input_ids"]
    assert ids == [*expected, END] if ends_with_answer else ids == expected


def test_messages_without_text_and_parts_of_other_types(chat: tuple[Any, Tokenizer]) -> None:
    theirs, ours = chat
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "h"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "i"},
    ]
    assert (
        theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        == fit_prompt(ours, messages, 99).ids
    )
    for bad in ([{"type": "image", "url": "x"}], [{"type": "text", "text": "h"}, {"type": "input_audio"}]):
        with pytest.raises(jinja2.TemplateError, match="text only"):
            theirs.apply_chat_template([{"role": "user", "content": bad}])
    with pytest.raises(jinja2.TemplateError, match="roles of messages are"):
        theirs.apply_chat_template([{"role": "tool", "content": "h"}])


CONVERSATION = st.lists(
    st.tuples(st.text("नमस्ते hi", min_size=1, max_size=8), st.text("नमस्ते hi", min_size=1, max_size=8)), min_size=1, max_size=4
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=CONVERSATION)
def test_the_tokens_of_the_assistant_are_marked_as_we_learn_them(chat: tuple[Any, Tokenizer], pairs: list[tuple[str, str]]) -> None:
    """As TRL's assistant_only_loss asks for them."""
    theirs, ours = chat
    pairs = [(normalize(question), normalize(answer)) for question, answer in pairs]
    if not all(text for pair in pairs for text in pair):
        return
    messages = [{"role": role, "content": text} for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
    found = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ids, learn = encode_document(ours, {"messages": messages})  # type: ignore[typeddict-item]
    assert found["input_ids"] == ids[:-1] and ids[-1] == EOS
    assert found["assistant_masks"] == [int(wanted) for wanted in learn[:-1]]


def test_padding_is_no_token_of_the_text(chat: tuple[Any, Tokenizer]) -> None:
    theirs, _ = chat
    assert (theirs.pad_token, theirs.pad_token_id) == ("<unk>", 0) and len(theirs) == small_model().shape.vocab_size
    batch = theirs(["hi", "नमस्ते hi hi"], padding=True, return_tensors="pt")
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert ((batch["input_ids"] == 0) == (batch["attention_mask"] == 0)).all()


def test_trl_trains_on_the_answers_only(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed")
    from datasets import Dataset

    write_hf(tmp_path / "hf", small_model("F32", max_seq_len=64))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    messages = [{"role": "system", "content": "i"}, {"role": "user", "content": "नमस्ते"}, {"role": "assistant", "content": "hi hi"}]
    settings = trl.SFTConfig(
        output_dir=str(tmp_path / "out"), assistant_only_loss=True, max_steps=1, per_device_train_batch_size=2, report_to=[],
        use_cpu=True, bf16=False, packing=False, max_length=64, save_strategy="no",
    )  # fmt: skip
    data = Dataset.from_list(
        [{"messages": messages}, {"messages": [*messages, {"role": "user", "content": "h"}, {"role": "assistant", "content": "i"}]}]
    )
    trainer = trl.SFTTrainer(their_model(tmp_path / "hf"), args=settings, train_dataset=data, processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    learned = [tokenizer.decode(row[row >= 0]) for row in batch["labels"]]
    assert sorted(learned) == ["hi hi<|end|>", "hi hi<|end|>i<|end|>"]
    trainer.train()
    trainer.save_model(str(tmp_path / "tuned"))
    back = read_hf(tmp_path / "tuned")
    assert back.metadata == METADATA and back.tokenizer_proto == small_model().tokenizer_proto


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


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 391008\n"
WEB_PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><head><title>404</title></head></html>"


def named_pipe(name: str) -> Callable[[Path], object]:
    return lambda folder: ((folder / name).unlink(), os.mkfifo(folder / name))


def device(name: str) -> Callable[[Path], object]:
    return lambda folder: ((folder / name).unlink(), (folder / name).symlink_to("/dev/zero"))


def dangling(name: str) -> Callable[[Path], object]:
    return lambda folder: ((folder / name).unlink(), (folder / name).symlink_to("nowhere"))


def adapter_beside_config(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}')


def adapter_only(folder: Path) -> None:
    adapter_beside_config(folder)
    (folder / "config.json").unlink()


def one_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


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


def user_defined(i: int) -> Callable[[Path], object]:
    """Our tokenizer, but with a mark as a user-defined symbol, which is found in typed text: type 4 instead of 2 or 3."""

    def damage(folder: Path) -> None:
        proto = (folder / "tokenizer.model").read_bytes()
        mark, kind = re.escape(SPECIAL_TOKENS[i].encode()), b"\x03" if i else b"\x02"
        changed = re.sub(rb"(" + mark + rb"\x15....\x18)" + kind, lambda m: m[1] + b"\x04", proto, count=1, flags=re.DOTALL)
        assert changed != proto
        (folder / "tokenizer.model").write_bytes(changed)

    return damage


def saved_by_transformers(change: Callable[[dict[str, Any]], object] = lambda values: None) -> Callable[[Path], object]:
    """The tokenizer only as tokenizer.json, changed."""

    def damage(folder: Path) -> None:
        transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
        (folder / "tokenizer.model").unlink()
        values = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        change(values)
        (folder / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")

    return damage


def renamed(values: dict[str, Any], i: int, text: str) -> None:
    """Give token `i` of tokenizer.json another text."""
    vocab = values["model"]["vocab"]
    values["model"]["vocab"] = {text if n == i else old: n for old, n in vocab.items()}


def normalizing_tokenizer(folder: Path) -> None:
    """Ours, but with a space put in front: the protocol buffer's field 3 of the normalizer."""
    proto = (folder / "tokenizer.model").read_bytes()
    changed = proto.replace(b"\x0a\x08identity\x12\x00\x18\x00", b"\x0a\x08identity\x12\x00\x18\x01")
    assert changed != proto
    (folder / "tokenizer.model").write_bytes(changed)


def other_tokenizer(folder: Path) -> None:
    from bulletlm.progress import SilentProgress

    (folder / "tokenizer.model").write_bytes(train_tokenizer(["one two three four five " * 9], 362, 0, SilentProgress()))


NAME = "model.layers.1.self_attn.q_proj.weight"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "has weights, but no config.json: the download is not complete"),
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
    "config is an LFS pointer": (text("config.json", LFS_POINTER), "config.json: this is a Git LFS pointer.*git lfs pull"),
    "weights are an LFS pointer": (text("model.safetensors", LFS_POINTER), "model.safetensors: this is a Git LFS pointer"),
    "tokenizer is an LFS pointer": (text("tokenizer.model", LFS_POINTER), "tokenizer.model: this is a Git LFS pointer"),
    "tokenizer is a web page": (text("tokenizer.model", WEB_PAGE), "tokenizer.model: this is a web page"),
    "weights are a web page": (text("model.safetensors", WEB_PAGE), "model.safetensors: this is a web page"),
    "weights are an error message": (text("model.safetensors", b"Entry not found"), "this is an error message of a model hub"),
    "weights are a pipe": (named_pipe("model.safetensors"), "cannot read .*model.safetensors .it is a named pipe"),
    "tokenizer is a pipe": (named_pipe("tokenizer.model"), "cannot read .*tokenizer.model .it is a named pipe"),
    "config is a device": (device("config.json"), "cannot read .*config.json .it is a device"),
    "weights are a dangling link": (dangling("model.safetensors"), "cannot read .*model.safetensors"),
    "adapter only": (adapter_only, "holds only an adapter .*merge_and_unload"),
    "an adapter beside a config": (adapter_beside_config, "holds only an adapter"),
    "one shard": (one_shard, r"has only shards of the weights \(model-00001-of-00002.safetensors\), and no model.safetensors.index.json"),
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
    "no tokenizer": (lambda folder: (folder / "tokenizer.model").unlink(), "has neither tokenizer.model nor tokenizer.json"),
    "tokenizer is JSON": (text("tokenizer.model", b"{}"), "tokenizer.model: the tokenizer is not one of BulletLM: it is damaged"),
    "foreign tokenizer": (foreign_tokenizer, "tokenizer.model: the tokenizer is not one of BulletLM"),
    "normalizing tokenizer": (normalizing_tokenizer, "tokenizer.model: .*it changes text: it puts a space in front"),
    **{
        f"mark {i} in the text": (
            user_defined(i),
            rf"tokenizer.model: .*piece {i} .* is of type 4 \(user-defined\), but must be {3 if i else 2}",
        )
        for i in range(6)
    },
    "json: empty": (lambda folder: saved_by_transformers(lambda v: v.clear())(folder), "tokenizer.json: model.type is"),
    "json: a list": (lambda folder: (saved_by_transformers()(folder), text("tokenizer.json", b"[]")(folder)), "must be a JSON object"),
    "json: unigram": (saved_by_transformers(lambda v: v["model"].update(type="Unigram")), 'model.type is "Unigram"'),
    "json: gap": (saved_by_transformers(lambda v: v["model"]["vocab"].update(i=999)), "every text an id, from 0 on without a gap"),
    "json: id is text": (saved_by_transformers(lambda v: v["model"]["vocab"].update(i="1")), "every text an id"),
    "json: other mark": (saved_by_transformers(lambda v: renamed(v, 3, "<|im_start|>")), r'token 3 is "<\|im_start\|>", but must be'),
    "json: other byte": (saved_by_transformers(lambda v: renamed(v, 9, "abc")), 'token 9 is "abc", but must be "<0x03>"'),
    "json: control characters": (saved_by_transformers(lambda v: renamed(v, 0, "\x1b[2J")), "token 0 is"),
    "json: no bytes": (saved_by_transformers(lambda v: v["model"].update(byte_fallback=False)), "model.byte_fallback is false"),
    "json: dropout": (saved_by_transformers(lambda v: v["model"].update(dropout=0.1)), "model.dropout is 0.1"),
    "json: suffix": (saved_by_transformers(lambda v: v["model"].update(end_of_word_suffix="</w>")), "model.end_of_word_suffix is"),
    "json: normalizer": (saved_by_transformers(lambda v: v.update(normalizer={"type": "NFKC"})), "normalizer is .*: it changes text"),
    "json: splits": (
        saved_by_transformers(lambda v: v["pre_tokenizer"].update(split=True)),
        "pre_tokenizer is .*: only tokenizers that keep",
    ),
    "json: space in front": (saved_by_transformers(lambda v: v["pre_tokenizer"].update(prepend_scheme="first")), "pre_tokenizer is"),
    "json: whitespace": (saved_by_transformers(lambda v: v.update(pre_tokenizer={"type": "Whitespace"})), "pre_tokenizer is"),
    "json: no marks": (saved_by_transformers(lambda v: v["added_tokens"].pop()), r'added_tokens lacks "<\|end\|>"'),
    "json: mark as text": (
        saved_by_transformers(lambda v: v["added_tokens"][4].update(special=False)),
        r'"<\|assistant\|>" must be special',
    ),
    "json: mark with spaces": (
        saved_by_transformers(lambda v: v["added_tokens"][3].update(lstrip=True)),
        "must be special, and not stripped",
    ),
    "json: added token": (
        saved_by_transformers(lambda v: v["added_tokens"].append({"id": 277, "content": "<pad>", "special": True})),
        'the added token "<pad>" is not one of BulletLM',
    ),
    "json: added learned token": (
        saved_by_transformers(lambda v: v["added_tokens"].append({"id": 270, "content": "म", "special": True})),
        "only the six special tokens may be there",
    ),
    "json: merge missing": (saved_by_transformers(lambda v: v["model"]["merges"].pop()), "the merge of .* is missing"),
    "json: merge of nothing": (saved_by_transformers(lambda v: v["model"]["merges"].append(["x", "y"])), "is not one of two pieces"),
    "json: merge is a number": (saved_by_transformers(lambda v: v["model"]["merges"].append(3)), r"model.merges\[\d\] is not a pair"),
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
