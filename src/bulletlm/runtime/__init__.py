"""Runs a finished model without torch.

Names are imported when they are first used, so that a program that only generates text does not wait for numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulletlm.runtime.engine import Cache, Engine, KVCache, NumpyEngine
    from bulletlm.runtime.model import Model, load
    from bulletlm.runtime.native import NativeCache, NativeEngine
    from bulletlm.runtime.sampling import Sampling, sample
    from bulletlm.runtime.session import Session, Token, generate
    from bulletlm.text.stream import TextStream

__all__ = [
    "Cache",
    "Engine",
    "KVCache",
    "Model",
    "NativeCache",
    "NativeEngine",
    "NumpyEngine",
    "Sampling",
    "Session",
    "TextStream",
    "Token",
    "generate",
    "load",
    "sample",
]

_MODULES = {
    "bulletlm.runtime.engine": ("Cache", "Engine", "KVCache", "NumpyEngine"),
    "bulletlm.runtime.session": ("Session", "Token", "generate"),
    "bulletlm.runtime.model": ("Model", "load"),
    "bulletlm.runtime.native": ("NativeCache", "NativeEngine"),
    "bulletlm.runtime.sampling": ("Sampling", "sample"),
    "bulletlm.text.stream": ("TextStream",),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'bulletlm.runtime' has no attribute {name!r}")
