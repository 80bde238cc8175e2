"""Models that many tests share: a tiny random one with a real tokenizer, and a finished run of a micro model by the real pipeline."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.pipeline.stages import run_stages
from bulletlm.progress import SilentProgress
from bulletlm.quant.types import standard_types
from bulletlm.runtime import Model, load
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer
from micro_model import write_micro_config, write_texts
from tiny_model import ENGLISH, MARATHI, random_tensors

# The same examples in every run, and none fails for taking long on a busy computer; `make fuzz` looks for new ones.
settings.register_profile("steady", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real text in both languages."""
    return write_texts(tmp_path_factory.mktemp("texts") / "texts")


@pytest.fixture(scope="session")
def micro_config(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Config:
    """The resolved configuration of `micro_run`."""
    return load_config(write_micro_config(tmp_path_factory.mktemp("micro"), texts))


@pytest.fixture(scope="session")
def micro_run(micro_config: Config) -> Path:
    """The run folder of a finished micro model."""
    return run_stages(micro_config, "evaluate", SilentProgress()).folder


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
    write_bullet(
        path,
        ModelContents(
            shape=shape,
            tensors=random_tensors(shape),
            types=standard_types(shape),
            tokenizer_proto=tokenizer.proto,
            pieces=tokenizer.pieces(),
            metadata=metadata,
        ),
    )
    return path


@pytest.fixture(scope="session")
def model(bullet_path: Path) -> Model:
    return load(bullet_path, engine="numpy")
