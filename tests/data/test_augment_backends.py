"""Tests augmentation models: the real loading code on tiny models, equal results with other backends, and one clear line per error."""

import json
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiny_seq2seq
from tiny_seq2seq import BACK, ENGLISH, MARATHI

from bulletlm.config.schema import AugmentConfig
from bulletlm.data.augment import augment_training
from bulletlm.data.augment.backends import Backend, _IndicTrans2Pieces, open_backend
from bulletlm.errors import BulletError, ConfigError
from bulletlm.progress import SilentProgress
from bulletlm.text.documents import Document, read_documents, to_line


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, because models of this size are slower with two."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """marian, marian-many (two targets), back (mr to en), nllb, and marian, back and nllb as CTranslate2 folders."""
    pytest.importorskip("transformers", reason="transformers is not installed (extra augment)")
    pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed (extra augment)")
    folder = tmp_path_factory.mktemp("models")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny_seq2seq.save_marian(folder / "marian", ENGLISH, MARATHI)
        marked = [f">>{language}<< {sentence}" for language in ("mar", "hin") for sentence in ENGLISH]
        tiny_seq2seq.save_marian(folder / "marian-many", marked, MARATHI + BACK, ("mar", "hin"))
        tiny_seq2seq.save_marian(folder / "back", MARATHI, BACK)
        tiny_seq2seq.save_nllb(folder / "nllb")
        files = ["source.spm", "target.spm", "vocab.json", "tokenizer_config.json"]
        tiny_seq2seq.convert_to_ctranslate2(folder / "marian", folder / "marian-ct2", files)
        tiny_seq2seq.convert_to_ctranslate2(folder / "back", folder / "back-ct2", files)
        tiny_seq2seq.convert_to_ctranslate2(folder / "nllb", folder / "nllb-ct2", ["tokenizer.json", "tokenizer_config.json"])
    return folder


def opened(folder: Path, **settings: Any) -> Backend:
    return open_backend(str(folder), AugmentConfig(**settings), "augment.paraphrase_models.mr")


@pytest.mark.parametrize("beams", [1, 4])
def test_a_marian_model_says_what_it_has_learned(models: Path, beams: int) -> None:
    backend = opened(models / "marian", beams=beams)
    assert backend.rewrite(ENGLISH, "en", "mr") == MARATHI
    assert [backend.rewrite([sentence], "en", "mr")[0] for sentence in ENGLISH[:3]] == MARATHI[:3], (
        "what else is in the batch does not matter"
    )


def test_marian_answers_as_a_loop_over_its_logits_does(models: Path) -> None:
    """Also on sentences that it has not learned; pieces, ids and tokens are chosen here."""
    import torch
    import transformers

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(models / "marian/source.spm"))
    vocabulary = json.loads((models / "marian/vocab.json").read_text(encoding="utf-8"))
    names = {i: piece for piece, i in vocabulary.items()}
    model = transformers.MarianMTModel.from_pretrained(models / "marian", local_files_only=True).eval()
    sentences = ["My brothers walk to the school.", "Is the tea late?", "She likes rain in the village."]
    answers = opened(models / "marian", beams=1).rewrite(sentences, "en", "mr")
    for sentence, answer in zip(sentences, answers, strict=True):
        ids = [vocabulary.get(piece, 1) for piece in pieces.encode(sentence, out_type=str)] + [0]
        out = [vocabulary["<pad>"]]
        while out[1:][-1:] != [0] and len(out) < 12:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([out])).logits
            out.append(int(logits[0, -1].argmax()))
        text = "".join(names[i] for i in out if names[i] not in ("<pad>", "</s>", "<unk>")).replace("\u2581", " ").strip()
        assert text and answer.startswith(text)


@pytest.mark.parametrize(("name", "target", "taught"), [("marian", "mr", MARATHI), ("nllb", "mr", MARATHI), ("nllb", "hi", BACK)])
def test_ctranslate2_answers_as_transformers_does(models: Path, name: str, target: str, taught: list[str]) -> None:
    theirs = opened(models / name, beams=1).rewrite(ENGLISH, "en", target)
    assert opened(models / f"{name}-ct2", beams=1).rewrite(ENGLISH, "en", target) == theirs
    searched = opened(models / f"{name}-ct2", beams=4).rewrite(ENGLISH, "en", target)
    assert sum(a == b for a, b in zip(searched, taught, strict=True)) >= 6


def test_a_model_of_many_languages_is_told_which(models: Path) -> None:
    backend = opened(models / "nllb", beams=1)
    marathi, hindi = (backend.rewrite(ENGLISH, "en", target) for target in ("mr", "hi"))
    assert sum(a == b for a, b in zip(marathi, MARATHI, strict=True)) >= 6
    assert sum(a == b for a, b in zip(hindi, BACK, strict=True)) >= 6
    assert backend._tokenizer.src_lang == "eng_Latn"  # type: ignore[attr-defined]
    backend.rewrite(MARATHI, "mr", "hi")
    assert backend._tokenizer.src_lang == "mar_Deva"  # type: ignore[attr-defined]
    with pytest.raises(BulletError, match="does not know the language de"):
        backend.rewrite(ENGLISH, "en", "de")


def test_marian_of_several_targets_gets_its_mark(models: Path) -> None:
    backend = opened(models / "marian-many", beams=1)
    for target, taught in (("mr", MARATHI), ("hi", BACK)):
        assert sum(a == b for a, b in zip(backend.rewrite(ENGLISH, "en", target), taught, strict=True)) >= 6
    with pytest.raises(BulletError, match=r"does not translate into ta: it knows >>mar<< >>hin<<"):
        backend.rewrite(ENGLISH, "en", "ta")


def test_ctranslate2_with_sentencepiece_models_only(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(models / "marian-ct2", folder)
    for name in ("tokenizer_config.json", "vocab.json"):
        (folder / name).unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "add_source_eos": True}))
    assert opened(folder).rewrite(ENGLISH, "en", "mr") == opened(models / "marian-ct2").rewrite(ENGLISH, "en", "mr")


def test_indictrans2_as_published_for_ctranslate2(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "indic"
    shutil.copytree(models / "marian-ct2", folder)
    (folder / "vocab").mkdir()
    for old, new in (("source.spm", "model.SRC"), ("target.spm", "model.TGT")):
        (folder / old).rename(folder / "vocab" / new)
    (folder / "tokenizer_config.json").unlink()
    assert len(opened(folder).rewrite(ENGLISH, "en", "mr")) == len(ENGLISH)
    with pytest.raises(BulletError, match="not for ta"):
        opened(folder).rewrite(ENGLISH, "en", "ta")

    whole = tmp_path / "whole.model"
    text = "तो म्हणाला, “मी (आज) येतो!” 3.5 किलो. I said: “go”, (now)?"
    whole.write_bytes(tiny_seq2seq.train_sentencepiece([text], 200, model_type="char", character_coverage=1.0))
    pieces = _IndicTrans2Pieces(folder, whole, whole)
    (row,), first = pieces.encode([text], "mr", "en")
    assert first is None and row[:2] == ["mar_Deva", "eng_Latn"]
    assert "".join(row[2:]).replace("\u2581", " ").strip() == "तो म्हणाला , “ मी ( आज ) येतो ! ” 3.5 किलो . I said : “ go ” , ( now ) ?"
    assert pieces.decode(row[2:]) == text


def test_a_prefix_is_for_paraphrases_only(models: Path) -> None:
    plain, prefixed = opened(models / "marian", beams=1), opened(models / "marian", beams=1, paraphrase_prefix="Do you know")
    assert prefixed.rewrite(ENGLISH, "en", "mr") == MARATHI
    assert prefixed.rewrite([" this song?"], "en", "en") == plain.rewrite(["Do you know this song?"], "en", "en") == [MARATHI[5]]


def test_the_identity_changes_with_what_decides_answers(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(models / "marian", folder)
    same = opened(models / "marian").identity
    assert opened(folder).identity == same, "where the folder lies does not count"
    (folder / "README.md").write_text("a model")
    assert opened(folder).identity == same
    assert opened(folder, beams=2).identity != same
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert opened(folder).identity != same


def broken(models: Path, folder: Path, what: str) -> Path:
    """A copy of a model with one fault."""
    shutil.copytree(models / ("marian-ct2" if what.startswith("ct2") else "marian"), folder)
    config = json.loads((folder / "config.json").read_text())
    if what == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif what == "weights":
        (folder / "model.safetensors").unlink()
    elif what == "cut weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    elif what == "other weights":
        (folder / "config.json").write_text(json.dumps({**config, "encoder_layers": 2}))
    elif what == "type":
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    elif what == "unknown type":
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "warp"}))
    elif what == "code":
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "IndicTrans", "auto_map": {"AutoConfig": "x.Y"}}))
    elif what == "json":
        (folder / "config.json").write_text("{")
    elif what == "neither":
        (folder / "config.json").write_text("{}")
    elif what == "tokenizer":
        for name in ("source.spm", "target.spm"):
            (folder / name).unlink()
    elif what == "ct2 tokenizer":
        for name in ("source.spm", "target.spm", "vocab.json", "tokenizer_config.json"):
            (folder / name).unlink()
    elif what == "ct2 cut":
        (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:3000])
    elif what == "ct2 spm":
        (folder / "tokenizer_config.json").unlink()
        (folder / "source.spm").write_bytes(b"no")
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("empty", "contains no model: config.json is missing"),
        ("weights", r"no weights: copy model\.safetensors"),
        ("cut weights", "cannot load the model in"),
        ("other weights", "are of another model: .*layers.1"),
        ("type", "contains a llama model, which is not sequence-to-sequence"),
        ("unknown type", "cannot load the model in|cannot load the tokenizer in"),
        ("code", "needs its own Python code"),
        ("json", "config.json is damaged"),
        ("neither", "has no model_type .* no model.bin"),
        ("tokenizer", "cannot load the tokenizer in"),
        ("ct2 tokenizer", "has no tokenizer: copy source.spm"),
        ("ct2 cut", "cannot load the CTranslate2 model"),
        ("ct2 spm", "source.spm is not a sentencepiece model"),
    ],
)
def test_a_faulty_folder_is_one_clear_line(models: Path, tmp_path: Path, what: str, message: str) -> None:
    folder = broken(models, tmp_path / "model", what)
    with pytest.raises(BulletError, match=message) as caught:
        opened(folder).rewrite(ENGLISH, "en", "mr")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_missing_folder_is_named_with_the_nearest(models: Path) -> None:
    with pytest.raises(ConfigError, match=r"augment.paraphrase_models.mr: there is no folder .*marain: did you mean .*marian\?"):
        opened(models / "marain")
    with pytest.raises(ConfigError, match="models are not downloaded"):
        opened(Path("Helsinki-NLP/opus-mt-en-mr"))


@pytest.mark.parametrize(("package", "folder"), [("transformers", "marian"), ("ctranslate2", "marian-ct2")])
def test_a_missing_package_is_named_with_the_command(models: Path, monkeypatch: pytest.MonkeyPatch, package: str, folder: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BulletError, match=r"pip install .*\[augment\]'"):
        opened(models / folder).rewrite(ENGLISH, "en", "mr")


def test_two_models_end_to_end(models: Path, tmp_path: Path) -> None:
    """English to Marathi with transformers and back with CTranslate2: from documents to documents."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows: list[Document] = [{"id": f"{n:016x}", "source": "a.txt", "language": "en", "text": text} for n, text in enumerate(ENGLISH)]
    (folder / "train.jsonl").write_bytes(b"".join(map(to_line, rows)))
    held_out: Document = {"id": "0", "source": "a.txt", "language": "en", "text": "My friend, where's the school?"}
    (folder / "val.jsonl").write_bytes(to_line(held_out))
    config = AugmentConfig(
        translation_models={"en-mr": str(models / "marian"), "mr-en": str(models / "back-ct2")}, share=1.0, beams=1, sentences_at_once=4
    )
    report = augment_training(config, 1, folder, tmp_path / "cache", SilentProgress())
    added = [row.get("text") for row in read_documents(folder / "train.jsonl")][len(rows) :]
    expected = [back for english, back in zip(ENGLISH, BACK, strict=True) if english != back and "school" not in back]
    assert len(added) >= 6 and set(added) <= set(expected)
    dropped = {row["filter"]: row["dropped"] for row in report["methods"][0]["filters"]}
    assert dropped["unchanged"] >= 1 and dropped["validation"] == 1
    assert report["methods"][0]["kept"] == len(added)
    assert report["methods"][1]["documents"] == 0, "there is no Marathi document"
