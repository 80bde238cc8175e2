"""Models of random weights with a real tokenizer, and a server."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from openai import OpenAI
from running_server import Server, running

from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.progress import SilentProgress
from bulletlm.quant.types import standard_types
from bulletlm.runtime import Model, load
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer
from paths import SAMPLE_CORPUS


def write_model(path: Path, *extents: int) -> Path:
    """A file of random weights with vocabulary 700 and a real tokenizer; its defaults are temperature 0.8 and 24 tokens."""
    names = ("stories.mr.txt", "stories.en.txt")
    texts = [line for name in names for line in (SAMPLE_CORPUS / name).read_text(encoding="utf-8").splitlines()[:150]]
    tokenizer = Tokenizer(train_tokenizer(texts, 700, 0, SilentProgress()))
    shape = ModelShape(700, *extents)
    rng = np.random.default_rng(0)
    tensors = {
        name: (rng.standard_normal(size) * 2 / size[-1] ** 0.5 if len(size) == 2 else np.ones(size)).astype(np.float32)
        for name, size in shape.tensors().items()
    }
    metadata = {"sampling": {"temperature": 0.8, "top_k": 50, "max_tokens": 24}}
    write_bullet(
        path,
        ModelContents(
            shape=shape,
            tensors=tensors,
            types=standard_types(shape),
            tokenizer_proto=tokenizer.proto,
            pieces=tokenizer.pieces(),
            metadata=metadata,
        ),
    )
    return path


@pytest.fixture(scope="session")
def bullet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is slow enough that a test can interrupt it."""
    return write_model(tmp_path_factory.mktemp("served") / "seed-like.bullet", 256, 4, 4, 2, 512, 512)


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("served") / "tiny.bullet", 32, 1, 2, 1, 64, 128)


@pytest.fixture(scope="session")
def endless_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context so long that an answer does not reach its end."""
    return write_model(tmp_path_factory.mktemp("served") / "endless.bullet", 64, 1, 2, 1, 64, 1 << 20)


@pytest.fixture(scope="session")
def slow_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a large model: reading a long prompt takes minutes."""
    return write_model(tmp_path_factory.mktemp("served") / "endless.bullet", 256, 8, 16, 1, 512, 1 << 20)


@pytest.fixture(scope="session")
def slow(slow_file: Path) -> Model:
    return load(slow_file, threads=1)


@pytest.fixture(scope="session")
def endless(endless_file: Path) -> Model:
    return load(endless_file, threads=1)


@pytest.fixture(scope="session")
def model(bullet_file: Path) -> Model:
    return load(bullet_file)


@pytest.fixture(scope="session")
def server(bullet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(bullet_file, tmp_path_factory.mktemp("log") / "server.log") as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with server.client() as client:
        yield client


@pytest.fixture(autouse=True, scope="session")
def no_key() -> None:
    os.environ.pop("BULLET_API_KEY", None)
