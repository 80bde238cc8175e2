"""Tests the folder of .npy tensors: it is read completely or refused with one clear line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulletlm.errors import BulletError, FormatError
from bulletlm.formats.npy import read_npy, write_npy
from bulletlm.shape import ModelShape

SHAPE = ModelShape(vocab_size=40, dim=32, n_layers=2, n_heads=2, n_kv_heads=1, hidden_dim=64, max_seq_len=16, tied_embeddings=False)
METADATA = {"license": "CC0-1.0", "languages": ["mr", "en"], "sampling": {"top_k": 5}, "शेरा": {"loss": 2.5}}
GATE = "layers.1.mlp.gate_proj.weight"


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in SHAPE.tensors().items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_npy(tmp_path / "npy", SHAPE, weights(), b"the tokenizer", METADATA)
    return tmp_path / "npy"


def test_round_trip(folder: Path) -> None:
    shape, tensors, proto, metadata = read_npy(folder)
    assert shape == SHAPE and proto == b"the tokenizer" and metadata == METADATA
    assert list(tensors) == list(SHAPE.tensors())
    for name, tensor in weights().items():
        assert tensors[name].dtype == np.float32 and type(tensors[name]) is np.ndarray
        np.testing.assert_array_equal(tensors[name], tensor)
        np.testing.assert_array_equal(np.load(folder / f"{name}.npy"), tensor)  # anybody can
    assert {file.name for file in folder.iterdir()} == {"manifest.json", "tokenizer.model", *(f"{name}.npy" for name in tensors)}


def test_the_same_inputs_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_npy(tmp_path / "again", SHAPE, weights(), b"the tokenizer", METADATA)
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_column_order_is_read_too(folder: Path) -> None:
    np.save(folder / f"{GATE}.npy", np.asfortranarray(weights()[GATE]))
    np.testing.assert_array_equal(read_npy(folder)[1][GATE], weights()[GATE])


def manifest(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return damage


def text(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "manifest.json").write_bytes(content)


def array(value: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / f"{GATE}.npy", value)


def nan() -> np.ndarray:
    value = weights()[GATE]
    value[3, 4] = np.nan
    return value


def cut(size: int) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        path = folder / f"{GATE}.npy"
        path.write_bytes(path.read_bytes()[:size])

    return damage


def asks_for_too_much(folder: Path) -> None:
    path = folder / f"{GATE}.npy"
    path.write_bytes(path.read_bytes().replace(b"(64, 32)", b"(99999999999999, 32)", 1))


DAMAGE = {
    "no manifest": (
        lambda folder: (folder / "manifest.json").unlink(),
        r"holds no model, because manifest\.json is missing: name a .bullet",
    ),
    "empty manifest": (text(b""), r"manifest\.json: not valid JSON"),
    "manifest is a list": (text(b"[]"), r"manifest\.json: must be a JSON object"),
    "manifest in UTF-16": (text("{}".encode("utf-16")), r"manifest\.json: byte 0 is not UTF-8"),
    "a key twice": (text(b'{"format": "bulletlm-npy", "format": "bulletlm-npy"}'), 'key "format" is given twice'),
    "NaN in it": (manifest(lambda m: m["metadata"].update(loss=float("nan"))), "NaN is not a JSON number"),
    "another format": (manifest(lambda m: m.update(format="other")), "format and version must be"),
    "another version": (manifest(lambda m: m.update(version=2)), "format and version must be"),
    "no shape": (manifest(lambda m: m.pop("shape")), "shape is null: it must be an object"),
    "impossible shape": (manifest(lambda m: m["shape"].update(dim=33)), "shape: dim 33 is not divisible by 32"),
    "huge shape": (manifest(lambda m: m["shape"].update(n_layers=10**12)), r"shape\.n_layers is 1000000000000"),
    "shape of another kind": (manifest(lambda m: m["shape"].update(n_layers=True)), r"shape\.n_layers is true"),
    "another shape": (manifest(lambda m: m["shape"].update(dim=64)), "tensors must be the names and shapes that shape implies"),
    "a tensor too few": (manifest(lambda m: m["tensors"].pop(GATE)), "tensors must be the names and shapes"),
    "tensors is no object": (manifest(lambda m: m.update(tensors=[1])), "tensors must be the names and shapes"),
    "metadata is no object": (manifest(lambda m: m.update(metadata=7)), "metadata is 7: it must be an object"),
    "odd sampling": (manifest(lambda m: m["metadata"].update(sampling={"top_k": -1})), r"sampling\.top_k is -1"),
    "no tensor": (lambda folder: (folder / f"{GATE}.npy").unlink(), rf"{GATE}\.npy is missing"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.model").unlink(), r"cannot read .*tokenizer\.model"),
    "wrong shape": (array(np.ones((32, 64), dtype=np.float32)), rf"{GATE}\.npy has shape \[32, 64\]"),
    "wrong kind": (array(np.ones((64, 32))), "must be a float32 array"),
    "pickled": (array(np.array([{}], dtype=object)), r"is not a whole \.npy file"),
    "not finite": (array(nan()), "holds a number that is NaN or infinite"),
    "empty": (cut(0), r"is not a whole \.npy file"),
    "cut in the header": (cut(40), r"is not a whole \.npy file"),
    "cut in the numbers": (cut(4000), r"is not a whole \.npy file"),
    "asks for too much": (asks_for_too_much, r"is not a whole \.npy file"),
    "text instead": (lambda folder: (folder / f"{GATE}.npy").write_text("hello"), r"is not a whole \.npy file"),
    "a folder instead": (lambda folder: [(folder / f"{GATE}.npy").unlink(), (folder / f"{GATE}.npy").mkdir()], "it is a folder"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=list(DAMAGE))
def test_damage_gives_one_clear_line(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(FormatError, match=message) as caught:
        read_npy(folder)
    assert str(caught.value).isprintable() and str(folder) in str(caught.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(place=st.integers(0, 130), byte=st.integers(0, 255), name=st.sampled_from([GATE, "final_norm.weight"]))
def test_a_changed_byte_in_a_header(folder: Path, place: int, byte: int, name: str) -> None:
    path = folder / f"{name}.npy"
    good = path.read_bytes()
    path.write_bytes(good[:place] + bytes([byte]) + good[place + 1 :])
    try:
        read_npy(folder)
    except FormatError as error:
        assert str(error).isprintable()
    finally:
        path.write_bytes(good)


def test_a_run_folder_names_the_models_in_it(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run" / "export" / "npy")
    with pytest.raises(FormatError, match=r"run is a run folder: name the model in it, [^ ]*npy \(FP32\)$"):
        read_npy(tmp_path / "run")
    (tmp_path / "run" / "model.bullet").touch()
    with pytest.raises(FormatError, match=r"[^ ]*model.bullet \(the model file\) or [^ ]*npy \(FP32\)$"):
        read_npy(tmp_path / "run")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BulletError, match="there is no folder"):
        read_npy(tmp_path / "nothing")


def test_what_cannot_be_written(folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    good = weights()
    for tensors, metadata, message in (
        ({name: w for name, w in good.items() if name != GATE}, {}, f"the tensor {GATE} is missing"),
        (good | {GATE: good[GATE].T}, {}, f"the tensor {GATE} has shape"),
        (good | {GATE: good[GATE].astype(np.float64)}, {}, "must be a float32 array"),
        (good | {GATE: nan()}, {}, "NaN or infinite"),
        (good, {"sampling": {"temperature": 99}}, r"sampling\.temperature is 99"),
    ):
        with pytest.raises(FormatError, match=message):
            write_npy(folder, SHAPE, tensors, b"", metadata)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in folder.parent.iterdir()] == ["npy"]


def test_an_older_folder_is_replaced_and_files_of_others_stay(folder: Path) -> None:
    (folder / "stray.txt").write_text("old")
    write_npy(folder, SHAPE, weights(), b"another", {})
    assert read_npy(folder)[2] == b"another" and (folder / "stray.txt").read_text() == "old"
