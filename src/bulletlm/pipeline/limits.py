"""What is too much: parameters for a text, passes over it, and memory for a machine."""

import shutil

import psutil

from bulletlm.config.loader import has_sources
from bulletlm.config.schema import Config, TrainConfig
from bulletlm.errors import ConfigError
from bulletlm.shape import ModelShape
from bulletlm.terminal import printable

MOST_EPOCHS = 8
"""Passes over the text that a plan proposes at most. Later passes teach little and the model learns the text by heart."""

FED_PARAMETERS, FED_TOKENS, FED_EXPONENT = 180_000, 62_000, 0.7
"""Parameters that a training over that many tokens feeds, and how their number grows with the tokens.

Measured on 8 passes over 20 KB of English (62,000 tokens) and 200 KB of Marathi (269,000): 170,000 and 420,000 parameters were within
1 % of the best loss, and larger models only reached it earlier and then learned the text by heart.
"""


def fed_parameters(tokens: float) -> int:
    """The largest number of parameters that a training over `tokens` tokens, repetitions included, can feed."""
    return int(FED_PARAMETERS * (tokens / FED_TOKENS) ** FED_EXPONENT)


def training_bytes(shape: ModelShape, config: TrainConfig) -> int:
    """Memory for weights, gradients, optimizer state and moving average, all FP32; activations come on top."""
    layers = sum(extents[0] * extents[1] for name, extents in shape.tensors().items() if name.startswith("layers.") and len(extents) == 2)
    moments = 2 * shape.n_parameters - (layers if config.optimizer == "muon" else 0)
    return 4 * (2 * shape.n_parameters + moments + (shape.n_parameters if config.ema_decay else 0))


def require_sources(config: Config) -> None:
    """Raise a ConfigError if the configuration does not name its text."""
    if not has_sources(config):
        raise ConfigError(
            f"the configuration {printable(config.name)} names no text: add --set data.sources=[FOLDER] (or =[sample] for the corpus of "
            "the package), or run your text without a configuration: bullet run FOLDER"
        )


def refuse_too_large(shape: ModelShape, config: TrainConfig, memory: int | None = None) -> None:
    """Raise a ConfigError if the training needs more memory than there is.

    Args:
        memory: bytes; None asks the device on which the run would train.
    """
    needed = training_bytes(shape, config)
    if needed <= psutil.virtual_memory().total and memory is None:
        return
    memory = _memory(config.device) if memory is None else memory
    if needed > memory:
        raise ConfigError(
            f"a model of {shape.n_parameters / 1e9:.1f} billion parameters ({shape.dim} wide, {shape.n_layers} layers) needs "
            f"{needed / 1e9:,.0f} GB of memory to train, and there are {memory / 1e9:,.0f} GB here: lower model.dim or model.n_layers"
        )


def _memory(device: str) -> int:
    """Bytes of memory of the device on which a run trains."""
    if device in ("auto", "cuda") and shutil.which("nvidia-smi"):
        import torch  # takes seconds, so only where there is such a GPU

        if torch.cuda.is_available():
            return int(torch.cuda.get_device_properties(0).total_memory)
    return int(psutil.virtual_memory().total)
