"""A model of random weights with a real tokenizer: large enough that an answer can be interrupted."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from openai import OpenAI
from running_server import Server, running

from bulletlm.bulletfile.layout import standard_types
from bulletlm.bulletfile.writer import write_bullet
from bulletlm.progress import SilentProgress
from bulletlm.runtime import Model, load
from bulletlm.shape import ModelShape
from bulletlm.tokenizer import Tokenizer, train_tokenizer

SAMPLE = Path(__file__).parents[2] / "src/bulletlm/data/sample"


@pytest.fixture(scope="session")
def bullet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """seed-like.bullet: vocabulary 700, context 512."""
    texts = [
        line for name in ("stories.mr.txt", "stories.en.txt") for line in (SAMPLE / name).read_text(encoding="utf-8").splitlines()[:150]
    ]
    tokenizer = Tokenizer(train_tokenizer(texts, 700, 0, SilentProgress()))
    shape = ModelShape(700, 256, 4, 4, 2, 512, 512)
    rng = np.random.default_rng(0)
    tensors = {
        name: (rng.standard_normal(extents) * 2 / extents[-1] ** 0.5 if len(extents) == 2 else np.ones(extents)).astype(np.float32)
        for name, extents in shape.tensors().items()
    }
    path = tmp_path_factory.mktemp("served") / "seed-like.bullet"
    metadata = {"sampling": {"temperature": 0.8, "top_k": 50, "max_tokens": 24}}
    write_bullet(path, shape, tensors, standard_types(shape), tokenizer.proto, tokenizer.pieces(), metadata)
    return path


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
