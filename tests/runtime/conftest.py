"""A tiny model with a real tokenizer, as every runtime test needs it."""

from pathlib import Path

import pytest
from tiny_model import ENGLISH, MARATHI, random_tensors

from bulletlm.formats.bullet.writer import write_bullet
from bulletlm.progress import SilentProgress
from bulletlm.quant.types import standard_types
from bulletlm.runtime import Model, load
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def marathi() -> list[str]:
    return MARATHI.splitlines()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    lines = [*MARATHI.splitlines(), *ENGLISH.splitlines()]
    return Tokenizer(train_tokenizer(lines * 3, 480, 0, SilentProgress()))


@pytest.fixture(scope="session")
def bullet_path(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    shape = ModelShape(tokenizer.vocab_size, 64, 2, 4, 2, 96, 32)
    path = tmp_path_factory.mktemp("model") / "tiny.bullet"
    metadata = {"license": "CC0-1.0", "sampling": {"temperature": 0.9, "top_k": 12, "max_tokens": 7}}
    write_bullet(path, shape, random_tensors(shape), standard_types(shape), tokenizer.proto, tokenizer.pieces(), metadata)
    return path


@pytest.fixture(scope="session")
def model(bullet_path: Path) -> Model:
    return load(bullet_path, engine="numpy")
