"""Running a finished model without torch."""

from bulletlm.runtime.engine import Engine, KVCache, Model, load
from bulletlm.runtime.generate import generate, stream_text
from bulletlm.runtime.sampling import Sampling, sample

__all__ = ["Engine", "KVCache", "Model", "Sampling", "generate", "load", "sample", "stream_text"]
