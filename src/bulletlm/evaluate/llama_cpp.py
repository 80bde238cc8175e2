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


class ChatMessage(ctypes.Structure):
    _fields_ = [("role", ctypes.c_char_p), ("content", ctypes.c_char_p)]


class LlamaCpp:
    """llama.cpp through its C API.

    Attributes:
        info: what it uses of this machine.
        vocab_size: number of tokens.
        context_length: tokens that it reads at most.
        bos, eos: ids of the marks around a text; None if the model has none.
    """

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
            "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [pointer]),
            "llama_n_ctx": (ctypes.c_uint32, [pointer]),
            "llama_model_n_ctx_train": (ctypes.c_int32, [pointer]),
            "llama_model_get_vocab": (pointer, [pointer]),
            "llama_vocab_n_tokens": (ctypes.c_int32, [pointer]),
            "llama_vocab_bos": (ctypes.c_int32, [pointer]),
            "llama_vocab_eos": (ctypes.c_int32, [pointer]),
            "llama_vocab_is_eog": (ctypes.c_bool, [pointer, ctypes.c_int32]),
            "llama_tokenize": (
                ctypes.c_int32,
                [pointer, ctypes.c_char_p, ctypes.c_int32, pointer, ctypes.c_int32, ctypes.c_bool, ctypes.c_bool],
            ),
            "llama_detokenize": (
                ctypes.c_int32,
                [pointer, pointer, ctypes.c_int32, ctypes.c_char_p, ctypes.c_int32, ctypes.c_bool, ctypes.c_bool],
            ),
            "llama_model_chat_template": (ctypes.c_char_p, [pointer, ctypes.c_char_p]),
            "llama_chat_apply_template": (
                ctypes.c_int32,
                [ctypes.c_char_p, ctypes.POINTER(ChatMessage), ctypes.c_size_t, ctypes.c_bool, ctypes.c_char_p, ctypes.c_int32],
            ),
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
        self.vocab = self.lib.llama_model_get_vocab(weights)
        self.template: bytes | None = self.lib.llama_model_chat_template(weights, None)
        self.vocab_size: int = self.lib.llama_vocab_n_tokens(self.vocab)
        self.context_length: int = min(self.lib.llama_n_ctx(self.context), self.lib.llama_model_n_ctx_train(weights))
        marks = (self.lib.llama_vocab_bos(self.vocab), self.lib.llama_vocab_eos(self.vocab))
        self.bos, self.eos = (mark if mark >= 0 else None for mark in marks)

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

    def all_logits(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Logits after each token of a text, int32[n] -> float32[n, vocab_size]. The KV cache holds this text then."""
        self.clear()
        wanted = np.ones(len(ids), dtype=np.int8)
        if self.lib.llama_decode(self.context, Batch(n_tokens=len(ids), token=ids.ctypes.data, logits=wanted.ctypes.data)):
            raise BulletError(f"llama.cpp refused {len(ids)} tokens")
        return np.ctypeslib.as_array(self.lib.llama_get_logits(self.context), (len(ids), self.vocab_size)).copy()

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Token ids of `text`; with `special`, text that looks like a mark becomes the mark."""
        data = text.encode("utf-8", errors="replace")
        room = len(data) + 8
        ids = (ctypes.c_int32 * room)()
        count = self.lib.llama_tokenize(self.vocab, data, len(data), ids, room, False, special)
        if count < 0:
            raise BulletError(f"llama.cpp cannot tokenize a text of {len(data):,} bytes")
        return ids[:count]

    def detokenize(self, ids: list[int]) -> str:
        """The text of `ids` without marks; incomplete UTF-8 becomes U+FFFD."""
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        room = 64 * len(ids) + 64
        while True:
            text = ctypes.create_string_buffer(room)
            count = self.lib.llama_detokenize(self.vocab, tokens, len(ids), text, room, True, False)
            if count >= 0:
                return text.raw[:count].decode("utf-8", errors="replace")
            room = -count

    def is_end(self, token: int) -> bool:
        """Whether the token ends an answer."""
        return bool(self.lib.llama_vocab_is_eog(self.vocab, token))

    def prompt(self, text: str) -> str | None:
        """`text` as the first message of a conversation, in the model's chat template; None without a template that llama.cpp knows."""
        if self.template is None:
            return None
        message = ChatMessage(b"user", text.encode("utf-8", errors="replace"))
        room = 4 * len(text.encode("utf-8", errors="replace")) + 4096
        buffer = ctypes.create_string_buffer(room)
        count = self.lib.llama_chat_apply_template(self.template, ctypes.byref(message), 1, True, buffer, room)
        return buffer.raw[:count].decode("utf-8", errors="replace") if 0 <= count <= room else None


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
