"""Models that many tests share: a tiny random model with a real tokenizer, and a finished run of a micro model by the real pipeline."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

from bulletlm import hardware
from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.pipeline.runner import run_stages
from bulletlm.progress import SilentProgress
from bulletlm.quant.types import standard_types
from bulletlm.runtime import Model, load
from bulletlm.runtime import native as runtime_native
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer
from bulletlm.train.backend import native as train_native
from machines import PRETENDED
from micro_model import write_micro_config, write_texts
from tiny_model import ENGLISH, MARATHI, random_tensors

# The same examples in every run, and none fails for taking long on a busy computer; `make fuzz` looks for new ones.
settings.register_profile("steady", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--machine", choices=PRETENDED, help="pretend to run on this computer (machines.py), except in child processes")


def pytest_configure(config: pytest.Config) -> None:
    """Simulate another computer, before test modules decide what to skip."""
    name = config.getoption("--machine")
    if not name:
        return
    computer = PRETENDED[name]
    hardware._processor = lambda: (computer.processor, set(computer.instruction_sets))
    hardware._compiler = lambda: computer.compiler
    hardware.available_cores = lambda: computer.cores
    if computer.compiler is None:
        runtime_native.EXTENSION_SUFFIXES = []  # as if no library had been built
    elif not computer.has_int8:
        train_native.open_library = lambda *arguments: SimpleNamespace(bullet_train_kernels=lambda n: None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests were skipped and why, one line for each file and reason."""
    skipped: Counter[tuple[str, str]] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skipped[report.nodeid.partition("::")[0], reason] += 1
    for (file, reason), count in sorted(skipped.items()):
        terminalreporter.write_line(f"skipped: {count} in {file}: {reason}")


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
def tiny_tokenizer() -> Tokenizer:
    """A name of its own, so that no folder's `tokenizer` takes its place in `bullet_path`, which all folders share."""
    lines = [*MARATHI.splitlines(), *ENGLISH.splitlines()]
    return Tokenizer(train_tokenizer(lines * 3, 480, 0, SilentProgress()))


@pytest.fixture(scope="session")
def tokenizer(tiny_tokenizer: Tokenizer) -> Tokenizer:
    return tiny_tokenizer


@pytest.fixture(scope="session")
def bullet_path(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> Path:
    shape = ModelShape(tiny_tokenizer.vocab_size, 64, 2, 4, 2, 96, 32)
    path = tmp_path_factory.mktemp("model") / "tiny.bullet"
    metadata = {"license": "CC0-1.0", "sampling": {"temperature": 0.9, "top_k": 12, "max_tokens": 7}}
    write_bullet(
        path,
        ModelContents(
            shape=shape,
            tensors=random_tensors(shape),
            types=standard_types(shape),
            tokenizer_proto=tiny_tokenizer.proto,
            pieces=tiny_tokenizer.pieces(),
            metadata=metadata,
        ),
    )
    return path


@pytest.fixture(scope="session")
def model(bullet_path: Path) -> Model:
    return load(bullet_path, engine="numpy")
