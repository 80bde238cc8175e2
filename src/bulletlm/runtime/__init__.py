"""Running a finished model without torch."""

from bulletlm.runtime.engine import Engine, KVCache, Model, load
from bulletlm.runtime.generate import Session, Token, generate
from bulletlm.runtime.native import NativeCache, NativeEngine
from bulletlm.runtime.sampling import Sampling, sample
from bulletlm.runtime.text import TextStream

__all__ = [
    "Engine",
    "KVCache",
    "Model",
    "NativeCache",
    "NativeEngine",
    "Sampling",
    "Session",
    "TextStream",
    "Token",
    "generate",
    "load",
    "sample",
]
