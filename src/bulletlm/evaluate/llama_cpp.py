"""llama.cpp as a reference for measurements, called through its C API."""

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bulletlm.errors import BulletError
from bulletlm.extras import install_command

LlamaStruct = ctypes.c_char * 1024
"""llama.cpp's parameter structs as opaque bytes: they are returned through memory and are always the last argument."""


class Parameters(ctypes.Structure):
    _fields_ = [("bytes", LlamaStruct)]


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")),
    ]


class LlamaCpp:
    """llama.cpp through its C API."""

    def __init__(self, library: str, model: Path) -> None:
        """`model` is a GGUF file.

        Raises:
            BulletError: the library cannot be opened, or it cannot load the model.
        """
        try:
            self.lib = ctypes.CDLL(library)
        except OSError as error:
            raise BulletError(f"cannot load the library {library}: {error}") from None
        log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self.silence = log(lambda level, text, data: None)
        pointer = ctypes.c_void_p
        declared: dict[str, tuple[Any, list[Any]]] = {
            "llama_log_set": (None, [log, pointer]),
            "llama_backend_init": (None, []),
            "llama_model_default_params": (Parameters, []),
            "llama_context_default_params": (Parameters, []),
            "llama_model_load_from_file": (pointer, [ctypes.c_char_p, Parameters]),
            "llama_init_from_model": (pointer, [pointer, Parameters]),
            "llama_set_n_threads": (None, [pointer, ctypes.c_int32, ctypes.c_int32]),
            "llama_get_memory": (pointer, [pointer]),
            "llama_memory_clear": (None, [pointer, ctypes.c_bool]),
            "llama_batch_get_one": (Batch, [pointer, ctypes.c_int32]),
            "llama_decode": (ctypes.c_int32, [pointer, Batch]),
            "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), [pointer, ctypes.c_int32]),
            "llama_print_system_info": (ctypes.c_char_p, []),
        }
        for name, (result, arguments) in declared.items():
            function = getattr(self.lib, name)
            function.restype, function.argtypes = result, arguments
        self.lib.llama_log_set(self.silence, None)
        self.lib.llama_backend_init()
        weights = self.lib.llama_model_load_from_file(str(model).encode(), self.lib.llama_model_default_params())
        if not weights:
            raise BulletError(f"llama.cpp cannot load {model}")
        self.context = self.lib.llama_init_from_model(weights, self.lib.llama_context_default_params())
        if not self.context:
            raise BulletError(f"llama.cpp has no memory for {model}")
        self.info: str = self.lib.llama_print_system_info().decode()

    def threads(self, n: int) -> None:
        """Compute with `n` threads from now on."""
        self.lib.llama_set_n_threads(self.context, n, n)

    def clear(self) -> None:
        """Clear the KV cache."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), False)

    def feed(self, ids: npt.NDArray[np.int32]) -> None:
        """Append tokens, int32[n]."""
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(ids.ctypes.data, len(ids))):
            raise BulletError(f"llama.cpp refused {len(ids)} tokens")
        self.last = self.lib.llama_get_logits_ith(self.context, -1)

    def logits(self, vocab_size: int) -> npt.NDArray[np.float32]:
        """Logits after the last token, float32[vocab_size]."""
        return np.ctypeslib.as_array(self.last, (vocab_size,)).copy()


def find_llama_cpp() -> str:
    """Path of the llama.cpp library in the package xllamacpp, which supports every processor.

    Raises:
        BulletError: the package is not installed.
    """
    spec = importlib.util.find_spec("xllamacpp")
    found = sorted(Path(spec.origin).parent.glob("xllamacpp*.so")) if spec and spec.origin else []
    if not found:
        raise BulletError(f"llama.cpp is not installed: {install_command('bench')}")
    return str(found[0])
