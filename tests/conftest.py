"""A finished run of a micro model, made once by the real pipeline and shared by all tests that need a model."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config
from bulletlm.pipeline.stages import run_stages
from bulletlm.progress import SilentProgress
from micro_model import write_micro_config, write_texts

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
