"""Tests of safetensors files: those of the package `safetensors` in both directions, and one clear line for a damaged one."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.errors import FormatError
from bulletlm.formats.safetensors import parse_safetensors, write_safetensors

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)
SHAPES = st.lists(st.integers(0, 5), max_size=3)


@given(shapes=st.dictionaries(NAMES, SHAPES, max_size=5), metadata=st.dictionaries(NAMES, st.text(max_size=5), max_size=1))
def test_the_bytes_are_those_of_the_package(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[int]], metadata: dict[str, str]
) -> None:
    generator = np.random.default_rng(1)
    tensors = {name: generator.standard_normal(shape).astype(np.float32).reshape(shape) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("safetensors") / "w.safetensors"
    write_safetensors(path, tensors, metadata)
    assert path.read_bytes() == safetensors.numpy.save(tensors, metadata or None)


@given(shapes=st.dictionaries(NAMES, st.tuples(SHAPES, st.sampled_from([torch.float32, torch.float16, torch.bfloat16])), max_size=5))
def test_files_of_the_package_are_read(shapes: dict[str, tuple[list[int], torch.dtype]]) -> None:
    tensors = {name: torch.randn(shape).to(kind) for name, (shape, kind) in shapes.items()}
    read = parse_safetensors(safetensors.torch.save(tensors), "w.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], tensor.float().numpy())


def file(header: object, data: bytes = bytes(8)) -> bytes:
    """The bytes of a file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(**changes: object) -> bytes:
    return file({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}})


DAMAGE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "its header is cut"),
    "header beyond the end": ((99).to_bytes(8, "little") + b"{}", "its header is cut"),
    "header is no JSON": (file(b"{"), "its header: not valid JSON"),
    "header is a list": (file([]), "must be a JSON object"),
    "tensor twice": (file(b'{"w": 1, "w": 2}'), "twice"),
    "entry is a number": (file({"w": 3}), "does not say where w is"),
    "no type": (file({"w": {"shape": [2], "data_offsets": [0, 8]}}), "does not say where w is"),
    "another type": (entry(dtype="I8"), "is of type I8: only F32, F16 and BF16"),
    "negative shape": (entry(shape=[-2]), "does not say where w is"),
    "shape of booleans": (entry(shape=[True, 2]), "does not say where w is"),
    "one end": (entry(data_offsets=[0]), "does not say where w is"),
    "too short": (entry(data_offsets=[0, 4]), "w does not have bytes 0 to 8"),
    "gap before": (entry(data_offsets=[4, 12]), "w does not have bytes 0 to 8"),
    "beyond the end": (entry(shape=[4], data_offsets=[0, 16]), "w does not have bytes 0 to 16"),
    "huge": (entry(shape=[2**62, 2**62], data_offsets=[0, 8]), "w does not have bytes"),
    "data left over": (entry() + b"x", "its tensors have 8 bytes, and it has 9"),
    "control characters": (file({"\x1b[2J": 3}), "does not say where"),
    "overlap": (
        file({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"}),
        "b does not have bytes 8 to 16",
    ),
}


@pytest.mark.parametrize(("content", "message"), DAMAGE.values(), ids=list(DAMAGE))
def test_damage_is_one_clear_line(content: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        parse_safetensors(content, "w.safetensors")
    assert str(caught.value).startswith("w.safetensors") and str(caught.value).isprintable()


@pytest.mark.parametrize("content", [value for name, (value, _) in DAMAGE.items() if name != "another type"])
def test_the_package_refuses_the_same(content: bytes) -> None:
    with pytest.raises(Exception, match=r"."):  # the kinds of errors differ with its version
        safetensors.numpy.load(content)


@given(content=st.binary(max_size=200), change=st.sampled_from([lambda text: text, file]))
def test_any_bytes(content: bytes, change: Callable[[bytes], bytes]) -> None:
    try:
        parse_safetensors(change(content), "w.safetensors")
    except FormatError as error:
        assert str(error).isprintable()
