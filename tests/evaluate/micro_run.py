"""A tiny model and a little real text."""

import json

import numpy as np

from bulletlm.shape import ModelShape
from bulletlm.text.documents import Document
from paths import SAMPLE_CORPUS, SIMPLE_CORPUS

SHAPE = ModelShape(vocab_size=600, dim=32, n_layers=2, n_heads=2, n_kv_heads=1, hidden_dim=64, max_seq_len=48)

CLEAN_REPORT = {
    "sources": [{"source": "talk", "rows_in": 1200, "rows_out": 1190, "characters_in": 9000, "characters_out": 8900}],
    "skipped_files": [{"file": f"picture{n}.png", "reason": "not of a kind that is read (.txt, .jsonl)"} for n in range(7)],
    "rules": {
        "nfc": {
            "rule": "converted to Unicode NFC",
            "setting": "data.clean.nfc",
            "changed": 3,
            "examples": [{"source": "talk", "line": 1, "before": "क\u093c", "after": "क़"}],
        },
        "too_short": {
            "rule": "paragraphs that are too short",
            "setting": "data.clean.min_chars",
            "rejected": 10,
            "examples": [{"source": "talk", "line": 7, "text": "अ"}],
        },
        "legacy_font": {
            "rule": "Devanagari in a legacy font, stored as Latin letters",
            "setting": "data.clean.legacy_font",
            "rejected": 0,
            "examples": [],
        },
    },
    "mixture": [
        {
            "source": "talk",
            "language": "mr",
            "kind": "conversations",
            "documents": 1190,
            "tokens": 2966,
            "times": 1.5,
            "stream_tokens": 4449,
            "share": 1.0,
        }
    ],
    "augmentation": {
        "documents_added": 7,
        "characters_added": 801,
        "methods": [
            {
                "method": "back-translation",
                "language": "mr",
                "documents": 12,
                "sentences": 31,
                "kept": 19,
                "documents_added": 7,
                "characters_added": 801,
                "filters": [
                    {"filter": "no_answer", "description": "the model returned nothing, or only punctuation", "dropped": 0, "left": 31},
                    {
                        "filter": "chrf_low",
                        "description": "shares too few letter sequences with the old sentence: probably has another meaning (augment.chrf)",
                        "dropped": 12,
                        "left": 19,
                    },
                ],
                "examples": {"kept": [{"before": "तो घरी आला.", "after": "तो घरी पोहोचला."}]},
            }
        ],
    },
    "leaks": {"passages": 2380, "exact": 0, "ngrams": 0, "near": 0},
}
"""In the words of the data stage."""

NOT_ENOUGH_TEXT = "tokenizer.vocab_size 2000 is more than this text can fill: take 1400 or less, or add text"
COMPARED_SIZES = {
    "configured": 600,
    "dim": 64,
    "context": 64,
    "rows": [
        {
            "vocab_size": 600,
            "embedding_parameters": 38_400,
            "embedding_share": 0.25,
            "context_words": {"mr": 33},
            "languages": {"mr": {"tokens_per_word": 1.94, "bytes_per_token": 5.31}},
        },
        {"vocab_size": 2000, "embedding_parameters": 128_000, "embedding_share": 0.5, "problem": NOT_ENOUGH_TEXT},
    ],
}
"""In the words of `bullet tokenizer --compare`."""


def documents() -> list[Document]:
    """Real text of the package: conversations in Marathi, thoughts in English."""
    lines = (SAMPLE_CORPUS / "conversations-everyday.mr.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    rows: list[Document] = [
        {"id": str(n), "source": "talk", "language": "mr", "messages": json.loads(line)["messages"]} for n, line in enumerate(lines)
    ]
    texts = (SAMPLE_CORPUS / "thoughts.en.txt").read_text(encoding="utf-8").split("\n\n")[:20]
    return rows + [{"id": f"t{n}", "source": "thoughts", "language": "en", "text": text} for n, text in enumerate(texts)]


def random_tensors(shape: ModelShape, seed: int) -> dict[str, np.ndarray]:
    """Weights with enough spread that predictions differ from place to place."""
    random = np.random.default_rng(seed)
    return {
        name: np.ones(extents, np.float32) if len(extents) == 1 else (0.4 * random.standard_normal(extents)).astype(np.float32)
        for name, extents in shape.tensors().items()
    }


def conversations() -> list[Document]:
    """Questions and answers in both languages, in turn."""
    rows: list[Document] = []
    for language, name in (("mr", "chat-home.mr.jsonl"), ("en", "chat-everyday.en.jsonl")):
        lines = (SIMPLE_CORPUS / name).read_text(encoding="utf-8").splitlines()[:100]
        rows += [
            {"id": f"{language}{n}", "source": name, "language": language, "messages": json.loads(line)["messages"][:2]}
            for n, line in enumerate(lines)
        ]
    return rows
