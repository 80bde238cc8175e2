"""Running a finished model without torch."""

from bulletlm.runtime.engine import Engine, KVCache, Model, load
from bulletlm.runtime.generate import generate, stream_text
from bulletlm.runtime.native import NativeCache, NativeEngine
from bulletlm.runtime.sampling import Sampling, sample

__all__ = ["Engine", "KVCache", "Model", "NativeCache", "NativeEngine", "Sampling", "generate", "load", "sample", "stream_text"]
