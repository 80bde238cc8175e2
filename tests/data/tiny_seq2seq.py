"""Builds tiny sequence-to-sequence models, trains them on ten sentences, and saves them in the format of the published large models."""

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece

THERE_AND_BACK = [
    ("I like tea in the morning.", "मला सकाळी चहा आवडतो.", "In the morning I like tea."),
    ("Where is the school, my friend?", "शाळा कुठे आहे, मित्रा?", "My friend, where is the school?"),
    ("She reads a book every evening.", "ती रोज संध्याकाळी पुस्तक वाचते.", "Every evening she is reading a book."),
    ("The rain came late this year.", "यंदा पाऊस उशिरा आला.", "This year the rain came late."),
    ("We walk to the river.", "आम्ही नदीवर चालत जातो.", "We go to the river on foot."),
    ("Do you know this song?", "तुला हे गाणे माहीत आहे का?", "Is this song known to you?"),
    ("My mother makes bread.", "माझी आई भाकरी करते.", "My mother is making bread."),
    ("He has two brothers.", "त्याला दोन भाऊ आहेत.", "Two brothers he has."),
    ("The road to the village is long.", "गावाचा रस्ता लांब आहे.", "The road to the village is long."),
    ("Children play near the well.", "मुले विहिरीजवळ खेळतात.", "Near the well play the children."),
]
"""English, Marathi, and the English that the way back gives: once the same as before."""

ENGLISH = [english for english, _, _ in THERE_AND_BACK]
MARATHI = [marathi for _, marathi, _ in THERE_AND_BACK]
BACK = [back for _, _, back in THERE_AND_BACK]

SIZES = {"d_model": 48, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
SIZES |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 128, "dropout": 0.0}


def train_sentencepiece(texts: list[str], size: int, **options: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=size,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    return model.getvalue()


def save_marian(folder: Path, source: list[str], target: list[str], languages: tuple[str, ...] = ()) -> None:
    """A MarianMT model that has learned `target` for `source`; with `languages`, sources begin with a mark such as >>mar<<."""
    import torch
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    folder.mkdir()
    vocabulary = {"</s>": 0, "<unk>": 1}
    for name, texts in (("source", source), ("target", target)):
        proto = train_sentencepiece(
            [text.split("<< ")[-1] for text in texts], 120, model_type="unigram", unk_id=1, eos_id=0, bos_id=-1, pad_id=-1
        )
        (folder / f"{name}.spm").write_bytes(proto)
        pieces = sentencepiece.SentencePieceProcessor(model_proto=proto)
        for i in range(pieces.vocab_size()):
            vocabulary.setdefault(pieces.id_to_piece(i), len(vocabulary))
    for language in languages:
        vocabulary[f">>{language}<<"] = len(vocabulary)
    vocabulary["<pad>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    tokenizer = MarianTokenizer(
        source_spm=str(folder / "source.spm"),
        target_spm=str(folder / "target.spm"),
        vocab=str(folder / "vocab.json"),
        source_lang="en",
        target_lang="mr",
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    config = MarianConfig(
        vocab_size=len(vocabulary),
        decoder_vocab_size=len(vocabulary),
        pad_token_id=vocabulary["<pad>"],
        eos_token_id=0,
        decoder_start_token_id=vocabulary["<pad>"],
        forced_eos_token_id=None,
        init_std=0.1,
        scale_embedding=True,
        **SIZES,
    )
    model = MarianMTModel(config)
    model.final_logits_bias[0, config.pad_token_id] = -1e4
    batch = tokenizer(source, text_target=target, return_tensors="pt", padding=True)
    _learn(model, {**batch, "labels": batch["labels"].masked_fill(batch["labels"] == config.pad_token_id, -100)})
    model.save_pretrained(folder)


def _learn(model: Any, batch: dict[str, Any]) -> None:
    import torch

    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    model.train()
    for _ in range(200):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():  # as in the published Marian models: the decoder starts from nothing
            model.get_input_embeddings().weight[model.config.pad_token_id] = 0
        if loss.item() < 0.02:
            break
    model.eval()


def save_nllb(folder: Path) -> None:
    """An NLLB model that knows en, mr and hi: it has learned Marathi for English, and to say the English again as Hindi."""
    import torch
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    folder.mkdir()
    (folder / "sentencepiece.bpe.model").write_bytes(train_sentencepiece(ENGLISH + MARATHI, 300, model_type="bpe"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "NllbTokenizer"}), encoding="utf-8")
    tokenizer = NllbTokenizer.from_pretrained(
        folder, local_files_only=True, src_lang="eng_Latn", additional_special_tokens=["eng_Latn", "mar_Deva", "hin_Deva"]
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(4)
    config = M2M100Config(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        init_std=0.1,
        **SIZES,
    )
    model = M2M100ForConditionalGeneration(config)
    rows = [("eng_Latn", "mar_Deva", *row[:2]) for row in THERE_AND_BACK] + [("eng_Latn", "hin_Deva", *row[::2]) for row in THERE_AND_BACK]
    ids = [([*tokenizer(a)["input_ids"]], tokenizer.convert_tokens_to_ids([y]) + tokenizer(b)["input_ids"][1:]) for _, y, a, b in rows]
    padded = [
        torch.nn.utils.rnn.pad_sequence([torch.tensor(row[n]) for row in ids], True, fill)
        for n, fill in ((0, config.pad_token_id), (1, -100))
    ]
    _learn(model, {"input_ids": padded[0], "attention_mask": (padded[0] != config.pad_token_id).long(), "labels": padded[1]})
    model.save_pretrained(folder)


def convert_to_ctranslate2(folder: Path, out: Path, copy: list[str]) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(folder), copy_files=copy).convert(str(out))
