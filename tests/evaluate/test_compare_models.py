"""Tests the comparison of models with different tokenizers: bits per byte, answers, the page and the command."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.cli.app import main
from bulletlm.evaluate.compare_models import Passage, compare_models, default_sampling, read_passages
from bulletlm.evaluate.compare_page import PAGE_START, conclusion, marked, render_comparison, short_names
from bulletlm.evaluate.language_models import BulletModel, LanguageModel, _stored, log_probs, open_model
from bulletlm.evaluate.prompts import Prompt
from bulletlm.formats.convert import convert
from bulletlm.formats.gguf import write_gguf
from bulletlm.formats.hf import write_hf
from bulletlm.formats.stored import StoredModel
from bulletlm.progress import SilentProgress
from bulletlm.runtime.sampling import Sampling
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer
from tiny_model import ENGLISH, MARATHI, random_tensors

PASSAGES = [Passage(line, "mr") for line in MARATHI.splitlines()] + [Passage(line, "en") for line in ENGLISH.splitlines()]
PROMPTS = [Prompt("What is a friend?", "en", "short"), Prompt("चहा घेणार का?", "mr", "short")]


def stored(tokenizer: Tokenizer, seed: int) -> StoredModel:
    shape = ModelShape(tokenizer.vocab_size, 32, 2, 2, 1, 64, 256)
    return StoredModel(shape, random_tensors(shape, seed), tokenizer.proto, {"languages": ["mr", "en"]})


@pytest.fixture(scope="module")
def first(tiny_tokenizer: Tokenizer) -> StoredModel:
    return stored(tiny_tokenizer, 1)


@pytest.fixture(scope="module")
def second() -> StoredModel:
    """Another tokenizer."""
    return stored(Tokenizer(train_tokenizer(MARATHI.splitlines() * 3, 400, 1, SilentProgress())), 2)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of transformers with a byte-level tokenizer."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("foreign")
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        [*MARATHI.splitlines(), *ENGLISH.splitlines()], vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=len(fast), n_positions=256, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def opened(*models: StoredModel) -> list[LanguageModel]:
    return [BulletModel(_stored(model), f"model {n}") for n, model in enumerate(models, 1)]


def bits(model: LanguageModel, text: str) -> float:
    ids = [model.start, *model.encode(text)]
    return float(-next(log_probs(model, [ids])).sum() / math.log(2))  # type: ignore[list-item]


def test_bits_per_byte_of_two_tokenizers(first: StoredModel, second: StoredModel) -> None:
    models = opened(first, second)
    result = compare_models(*models, PASSAGES, PROMPTS, Sampling(max_tokens=12, seed=3), SilentProgress())
    size = sum(len(passage.text.encode()) for passage in PASSAGES)
    for key, model in zip("ab", models, strict=True):
        expected = sum(bits(model, passage.text) for passage in PASSAGES) / size
        assert result.text[key]["value"] == pytest.approx(expected, rel=1e-6)  # type: ignore[literal-required]
    assert result.text["difference"]["value"] == pytest.approx(result.text["b"]["value"] - result.text["a"]["value"])
    assert set(result.by_language) == {"mr", "en"}
    assert sum(part["bytes"] for part in result.by_language.values()) == result.text["bytes"] == size
    assert result.answers is not None and len(result.answers["rows"]) == 2
    again = compare_models(*models, PASSAGES, PROMPTS, Sampling(max_tokens=12, seed=3), SilentProgress())
    assert again == result, "the same seed gives the same answers"


def test_a_model_beside_itself_does_not_differ(first: StoredModel) -> None:
    result = compare_models(*opened(first, first), PASSAGES, PROMPTS, Sampling(max_tokens=12), SilentProgress())
    assert result.text["difference"]["value"] == 0 and "within the noise" in conclusion(result)
    few: Any = {**result.text, "difference": {"value": 0.0, "low": None, "high": None}}  # too few passages for an interval
    assert "equally well" in conclusion(replace(result, text=few))
    few["difference"]["value"] = 0.001
    assert "too little text" in conclusion(replace(result, text=few))
    assert result.answers is not None and result.answers["identical"] == 2


def test_the_better_model_is_named(first: StoredModel) -> None:
    """Weights of zero give every token the same probability, which is better than random weights."""
    uniform = first._replace(tensors={name: np.zeros_like(tensor) for name, tensor in first.tensors.items()})
    result = compare_models(*opened(first, uniform), PASSAGES, [], Sampling(), SilentProgress())
    assert conclusion(result).startswith("Model B predicts this text better") and result.answers is None


def test_a_foreign_model_of_transformers(foreign: Path) -> None:
    import torch
    import transformers

    model = open_model(foreign)
    assert model.engine == "transformers" and not model.chats
    reference = transformers.AutoModelForCausalLM.from_pretrained(foreign, dtype=torch.float64)
    ids = [0, *model.encode(ENGLISH[:150])]
    with torch.inference_mode():
        log_p = torch.log_softmax(reference(input_ids=torch.tensor([ids])).logits[0], -1)
    expected = log_p[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()
    np.testing.assert_allclose(next(log_probs(model, [ids])), expected, atol=1e-5)
    sampling = Sampling(temperature=0, repetition_penalty=1, max_tokens=6)
    [written] = model.answer(["What"], sampling)
    prompt = torch.tensor([[0, *model.encode("What\n")]])
    greedy = reference.generate(prompt, max_new_tokens=6, do_sample=False)[0, prompt.shape[1] :]
    assert written.text == model.tokenizer.decode(greedy, skip_special_tokens=True)  # type: ignore[attr-defined]


def test_pickles_are_not_loaded(foreign: Path, tmp_path: Path) -> None:
    import shutil

    import torch

    from bulletlm.errors import BulletError

    shutil.copytree(foreign, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(BulletError, match="cannot load"):
        open_model(tmp_path / "pickled")


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as end:
        main(["compare", *map(str, words)])
    assert end.value.code == 0


def test_the_command_takes_every_pair(first: StoredModel, second: StoredModel, foreign: Path, tmp_path: Path, capsys: Any) -> None:
    write_hf(tmp_path / "one-hf", first)
    write_gguf(tmp_path / "two.gguf", second)
    (tmp_path / "text.txt").write_text("\n\n".join(passage.text for passage in PASSAGES), encoding="utf-8")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"prompt": prompt.prompt, "language": prompt.language, "kind": prompt.kind}) + "\n" for prompt in PROMPTS)
    )
    common = ("--text", tmp_path / "text.txt", "--prompts", prompts, "--json")
    for a, b in ((tmp_path / "one-hf", tmp_path / "two.gguf"), (tmp_path / "two.gguf", foreign)):
        run(a, b, *common)
        result = json.loads(capsys.readouterr().out)
        assert result["text"]["bytes"] > 500 and len(result["answers"]["rows"]) == 2
        assert [result["models"][side]["model"] for side in "ab"] == [str(a), str(b)]


def test_the_command_for_a_run(micro_run: Path, tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "page.html"
    run(micro_run, micro_run / "model.bullet", "--html", page, "--no-answers")
    shown = capsys.readouterr().out
    assert "KL(A || B)" in shown and "bits per byte" in shown and str(page) in shown
    assert page.read_text(encoding="utf-8").count("<table>") >= 3
    assert page.read_text(encoding="utf-8").startswith(PAGE_START), "so that the command may replace it"
    run(micro_run / "export" / "npy", micro_run / "model.bullet", "--json", "--no-answers")
    result = json.loads(capsys.readouterr().out)
    assert result["perplexity_change"] and result["kl"]["mean"] > 0 and result["text"]["passages"] > 0 and result["answers"] is None


@pytest.mark.parametrize(
    "words", [["compare", "a", "b", "--html"], ["benchmark", "a", "--suite", "s.jsonl", "--out"]], ids=["page", "results"]
)
def test_a_file_of_the_user_is_not_overwritten(words: list[str], tmp_path: Path, capsys: Any) -> None:
    """This is found before anything is measured."""
    (tmp_path / "mine").write_text("my notes")
    with pytest.raises(SystemExit) as end:
        main([*words, str(tmp_path / "mine")])
    assert end.value.code == 2 and "exists and is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "my notes"


def test_without_a_run_the_text_is_asked_for(first: StoredModel, second: StoredModel, tmp_path: Path, capsys: Any) -> None:
    write_hf(tmp_path / "one-hf", first)
    write_hf(tmp_path / "two-hf", second)
    with pytest.raises(SystemExit):
        main(["compare", str(tmp_path / "one-hf"), str(tmp_path / "two-hf")])
    assert "--text FILE" in capsys.readouterr().err


def test_the_page_is_one_file_without_requests(first: StoredModel, second: StoredModel) -> None:
    result = compare_models(*opened(first, second), PASSAGES, PROMPTS, Sampling(max_tokens=12), SilentProgress())
    page = render_comparison(result, None)
    assert page == render_comparison(result, None)
    assert "<script" not in page and "http://" not in page and "https://" not in page and "src=" not in page
    assert page.count("<article>") == 2 and "चहा घेणार का?" in page


def test_the_page_shows_no_folders_of_this_computer() -> None:
    assert short_names("/home/asha/runs/a/model.bullet", "/home/asha/runs/b/model.bullet") == ("a/model.bullet", "b/model.bullet")
    assert short_names("/home/asha/one.gguf", "two.bullet") == ("one.gguf", "two.bullet")
    assert short_names("/x/model.bullet", "/x/model.bullet") == ("model.bullet", "model.bullet")


@given(a=st.lists(st.sampled_from(["a", "<b>", "क", "&"]), max_size=8), b=st.lists(st.sampled_from(["a", "<b>", "क", "&"]), max_size=8))
def test_marks_keep_the_words_and_escape_them(a: list[str], b: list[str]) -> None:
    import html
    import re

    for words, side in zip((a, b), marked(" ".join(a), " ".join(b)), strict=True):
        assert html.unescape(re.sub("</?mark>", "", side)) == " ".join(words)
        assert "<b>" not in side
    if a == b:
        assert "<mark>" not in "".join(marked(" ".join(a), " ".join(b)))


def test_long_documents_are_cut_at_line_ends(tmp_path: Path) -> None:
    text = "\n".join(f"line {n} " + "word " * 50 for n in range(100))
    (tmp_path / "one.txt").write_text(text, encoding="utf-8")
    passages = read_passages(tmp_path / "one.txt")
    assert len(passages) > 10 and "\n".join(passage.text for passage in passages) == text.strip()


@pytest.mark.parametrize("name", ["val.jsonl", "train.jsonl", "mine.jsonl"])
def test_the_name_of_a_users_own_file_means_nothing(tmp_path: Path, name: str) -> None:
    """The files of a run have the same names, and other lines."""
    (tmp_path / name).write_text('{"text": "The first text."}\n{"text": "Another text."}\n')
    assert [passage.text for passage in read_passages(tmp_path / name)] == ["The first text.", "Another text."]


def test_long_texts_are_thinned_evenly(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join(f"line {n} " + "word " * 400 for n in range(1000)), encoding="utf-8")
    passages = read_passages(path)
    numbers = [int(passage.text.split()[1]) for passage in passages]
    assert 150 < len(passages) < 300 and numbers == sorted(set(numbers)) and numbers[-1] > 900


def test_the_settings_of_a_model_do_not_depend_on_its_format(first: StoredModel, tmp_path: Path) -> None:
    """The answers of A and B are drawn with the settings in the file of A, whatever format that file has."""
    sampling = {"temperature": 0.3, "top_k": 7, "max_tokens": 11}
    model = first._replace(metadata={**first.metadata, "sampling": sampling})
    write_gguf(tmp_path / "m.gguf", model)
    write_hf(tmp_path / "m-hf", model)
    convert(tmp_path / "m.gguf", tmp_path / "m.bullet")
    for name in ("m.bullet", "m.gguf", "m-hf"):
        assert default_sampling(open_model(tmp_path / name), 3) == Sampling(**sampling, seed=3), name
