"""Reads mutated models of every format: each reader must return a model or fail with one clear line, and do nothing else.

    python tests/formats/bullet/fuzz.py SECONDS       (`make fuzz`)

The script is seeded: a run with the same number of models repeats exactly. Half of the version 2 .bullet files get a correct SHA-256
after the damage. Warnings count as errors; so do much more memory than the file needs, and a model that takes a reader two minutes.
"""

import faulthandler
import hashlib
import json
import resource
import shutil
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import example_file
import numpy as np
from safetensors.numpy import save
from version1 import block_b, file_b, file_c, v1_name

from bulletlm.errors import BulletError, FormatError
from bulletlm.formats.bullet.layout import HEADER_END
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.bullet.version1 import write_v1
from bulletlm.formats.convert import ConvertOptions, convert, read_model
from bulletlm.formats.gguf import read_gguf, write_gguf
from bulletlm.formats.hf import INDEX, METADATA, TOKENIZER, WEIGHTS, hf_name, write_hf
from bulletlm.formats.npy import write_npy
from bulletlm.formats.stored import StoredModel
from bulletlm.runtime import load
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import FIRST_BYTE, FIRST_PIECE, SPACE_MARK, Tokenizer

SEED = 2
NUMBERS = (0, 1, 2, 3, 17, 31, 64, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
"""What lengths, offsets and counts are replaced by."""

MOST_MEMORY = 64
"""MB by which reading may make the process grow. A whole model has 0.1 MB; the rest is what the allocator keeps."""

Random = np.random.Generator
Reader = Callable[[Path, Random], object]


@dataclass(frozen=True)
class Seed:
    """A valid model.

    Attributes:
        name: its format.
        files: what is damaged; a model of one file is this file, one of several is the folder.
        read: what is done with the damaged model.
    """

    name: str
    files: dict[str, bytes]
    read: Reader

    def write(self, folder: Path) -> Path:
        """Put the model into a new folder; its path."""
        folder.mkdir()
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder / next(iter(self.files)) if len(self.files) == 1 else folder


def read_bullet(path: Path, random: Random) -> None:
    """Do what a careful program does: open the file, decode every tensor, verify it."""
    file = open_bullet(path)
    for name in file.tensors:
        assert np.isfinite(file.dequantize(name)).all()
    file.verify()


def converter(folder: Path, like: Path | None = None) -> Reader:
    """Run `bullet convert` to a random format and weight type, most often to those that keep most of the model."""

    def read(path: Path, random: Random) -> None:
        to, version, quant = random.choice(
            [
                ("bullet", 2, ""),
                ("bullet", 2, "BQ8"),
                ("bullet", 2, "F16"),
                ("gguf", 2, ""),
                ("bullet", 1, ""),
                ("hf", 2, ""),
                ("npy", 2, ""),
            ],
            p=[0.4, 0.1, 0.1, 0.2, 0.1, 0.05, 0.05],
        )
        target = folder / "converted"
        try:
            convert(path, target, ConvertOptions(to=to, version=int(version), quant=quant or None, like=like, force=True))
        finally:
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)

    return read


def read_npy_folder(convert_it: Reader) -> Reader:
    """Load and run it in half of the cases, `bullet convert` in the others."""

    def read(path: Path, random: Random) -> None:
        if random.integers(2):
            return convert_it(path, random)
        engine = (model := load(path)).engine
        return engine.forward(model.tokenizer.encode("hi नमस्ते"), engine.new_cache())

    return read


def seeds(folder: Path) -> list[Seed]:
    """One of each format, or several where files of one format differ much."""
    bullet = example_file.write(folder / "seed.bullet")
    _, model = read_model(folder / "seed.bullet")
    write_gguf(folder / "seed.gguf", model)

    # Version 1 knows neither fewer key heads nor another hidden_dim.
    shape = ModelShape(**{**model.shape.to_dict(), "hidden_dim": 128, "n_kv_heads": 2})
    random = np.random.default_rng(SEED)
    weights = {name: random.standard_normal(extents).astype(np.float32) for name, extents in shape.tensors().items()}
    training = {"training": {"tokens_seen": 1000, "val_loss": 2.5}, "quantised": {"calibration": "none"}, "chat_template": "{{ messages }}"}
    old = StoredModel(shape, weights, model.tokenizer_proto, {**model.metadata, **training})
    write_v1(folder / "old.bullet", old)
    convert(folder / "old.bullet", folder / "like.bullet")
    numbers = {"hidden_size": shape.dim, "num_layers": shape.n_layers, "num_heads": shape.n_heads, "max_context": shape.max_seq_len}
    pieces = Tokenizer(model.tokenizer_proto).pieces()
    texts = [
        bytes([i - FIRST_BYTE]) if FIRST_BYTE <= i < FIRST_PIECE else piece.text.replace(SPACE_MARK, " ").encode()
        for i, piece in enumerate(pieces)
    ]
    rows_b = [(v1_name(name), w.shape, 0, b"".join(block_b(row) for row in w.reshape(-1, 32))) for name, w in weights.items()]
    # The same blocks with a scale of 32 bits behind them.
    rows_c = [
        (name, extents, len(data) // 20, b"".join(data[i + 4 : i + 20] + _scale_c(data[i : i + 2]) for i in range(0, len(data), 20)))
        for name, extents, _, data in rows_b
    ]

    write_npy(folder / "npy", shape, weights, old.tokenizer_proto, old.metadata)
    write_hf(folder / "hf", old)
    hf = {name: (folder / "hf" / name).read_bytes() for name in ("config.json", WEIGHTS, TOKENIZER, METADATA)}
    halves = [(hf_name(name), tensor.astype(np.float16)) for name, tensor in weights.items()]
    shards = {"1.safetensors": dict(halves[:4]), "2.safetensors": dict(halves[4:])}
    index = {"weight_map": {name: file for file, tensors in shards.items() for name in tensors}}
    sharded = {name: hf[name] for name in ("config.json", TOKENIZER)} | {name: save(tensors) for name, tensors in shards.items()}

    to_any = converter(folder)
    return [
        Seed("bullet", {"model.bullet": bullet}, read_bullet),
        Seed("gguf", {"model.gguf": (folder / "seed.gguf").read_bytes()}, lambda path, _: read_gguf(path)),
        Seed("bullet v1 A", {"a.bullet": (folder / "old.bullet").read_bytes()}, to_any),
        Seed("bullet v1 B", {"b.bullet": file_b({**numbers, "bullet_version": "1.0"}, texts, rows_b)}, to_any),
        Seed("bullet v1 C", {"c.bullet": file_c(rows_c)}, converter(folder, folder / "like.bullet")),
        Seed("npy", {file.name: file.read_bytes() for file in sorted((folder / "npy").iterdir())}, read_npy_folder(to_any)),
        Seed("hf", hf, to_any),
        Seed("hf in parts", {**sharded, INDEX: json.dumps(index).encode()}, to_any),
    ]


def _scale_c(binary16: bytes) -> bytes:
    return struct.pack("<f", *struct.unpack("<e", binary16))


def damage(seed: Seed, path: Path, random: Random) -> bool:
    """Damage the model at `path`, most often one of its files; return whether this file still has content."""
    folder = path if path.is_dir() else path.parent
    name = str(random.choice(list(seed.files)))
    kind = int(random.integers(40)) if len(seed.files) > 1 else 9
    if kind < 3:
        (folder / name).unlink()
        if kind == 1:
            (folder / name).mkdir()
        if kind == 2:
            (folder / name).write_bytes(seed.files[str(random.choice(list(seed.files)))])
        return True
    data = mutated(seed.files[name], random)
    (folder / name).write_bytes(sealed(data) if seed.name == "bullet" and random.integers(2) else data)
    return bool(data)


def mutated(good: bytes, random: Random) -> bytes:
    """Flip bits, write bytes or numbers, cut, repeat, remove, or change the JSON, once or a few times."""
    data = bytearray(good)
    end = _names_end(good)
    for _ in range(int(random.integers(1, 4))):
        kind = int(random.integers(9))
        # Half of the damage is made in the part that has lengths and names.
        at = int(random.integers(min(len(data), end) if random.integers(2) else len(data)))
        if kind == 0:
            data[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            data[at] = int(random.integers(256))
        elif kind == 2:
            width = int(random.choice([1, 2, 4, 8]))
            data[at : at + width] = (int(random.choice(NUMBERS[:12])) % (1 << (8 * width))).to_bytes(width, "little")
        elif kind == 3:
            del data[at : at + int(random.integers(1, 200))]
        elif kind == 4:
            data[at:at] = data[at : at + int(random.integers(1, 200))]
        elif kind == 5:
            del data[max(at, 1) :]
        elif kind == 6:
            digits = [i for i in range(min(end, len(data))) if 48 <= data[i] < 58]
            if digits:
                data[int(random.choice(digits))] = 48 + int(random.integers(10))
        else:
            _another_value(data, random)
        if not data:
            break
    return bytes(data)


def _names_end(good: bytes) -> int:
    """Return approximately where lengths and names end and weights begin."""
    if json_at := _json_at(good):
        return max(json_at[1], 64)
    if good.startswith(b"\x93NUMPY"):
        return 128
    return 1024 if good.startswith(b"BQ4F") else len(good)


def _json_at(data: bytes | bytearray) -> tuple[int, int] | None:
    """Return the range of the JSON: before four NULs in a .bullet, after its length in a safetensors file, or the whole file."""
    if data[:1] == b"{":
        end = data.find(HEADER_END)
        return 0, end if end >= 0 else len(data)
    if data[8:9] == b"{":
        return 8, 8 + int.from_bytes(data[:8], "little")
    return None


def _another_value(data: bytearray, random: Random) -> None:
    """Replace one value or key in the JSON of a file. If possible, the bytes after the JSON keep their offsets."""
    if not (json_at := _json_at(data)):
        return
    start, end = json_at
    try:
        header = json.loads(data[start:end])
    except (ValueError, RecursionError):
        return
    place = header
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = keys[int(random.integers(len(keys)))]
        if isinstance(place[key], (dict, list)) and random.integers(8):
            place = place[key]
            continue
        values = (None, True, -1, 1.5, 1e300, "", "\x1b[2J", "\0", "..", "\ud800", [], {}, [1, "1"], {"": 1}, 1 << 62, *NUMBERS)
        value = values[int(random.integers(len(values)))]
        if isinstance(place, dict) and not random.integers(8):
            place[value if isinstance(value, str) else str(random.choice(keys))] = place.pop(key)
        else:
            place[key] = value
        break
    text = json.dumps(header).encode().ljust(end - start)
    longer = len(text) - (end - start)
    if start:
        data[:start] = len(text).to_bytes(start, "little")
    if not any(data[end : end + len(HEADER_END) + longer]):
        del data[end : end + longer]
    data[start:end] = text


def sealed(data: bytes) -> bytes:
    """Replace the last 36 bytes with a correct SHA-256 and END!."""
    content = data[:-36]
    return content + hashlib.sha256(content).digest() + b"END!"


def run(seconds: float, least: int) -> Counter[str]:
    """Try models for `seconds`, at least `least` models; return for each format how many were refused and how many could be read."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(action="error"):
        formats, folder = seeds(Path(name)), Path(name) / "mutated"
        for seed in formats:
            for n in range(8):
                seed.read(seed.write(folder), np.random.default_rng(n))
                shutil.rmtree(folder)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        end, tried = time.monotonic() + seconds, 0
        while tried < least or time.monotonic() < end:
            faulthandler.dump_traceback_later(120, exit=True)
            random = np.random.default_rng([SEED, tried])
            seed = formats[tried % len(formats)]
            path = seed.write(folder)  # new files, so that no mapping of the old ones is cut
            something_left = damage(seed, path, random)
            try:
                seed.read(path, random)
                counts[f"{seed.name} read"] += 1
            except BulletError as error:
                if not str(error).isprintable() or (not isinstance(error, FormatError) and something_left):
                    raise AssertionError(f"model {tried}, {seed.name}: {error!r}") from error
                counts[f"{seed.name} refused"] += 1
            except Exception as error:
                raise AssertionError(f"model {tried}, {seed.name}: {error!r}") from error
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            assert grown < MOST_MEMORY, f"model {tried}, {seed.name}: memory grew by {grown:.0f} MB"
            shutil.rmtree(folder)
            tried += 1
        faulthandler.cancel_dump_traceback_later()
    return counts


if __name__ == "__main__":
    found = run(float(sys.argv[1]), 100)
    print(f"{sum(found.values()):,} mutated models, each read or refused in one line: {dict(sorted(found.items()))}")
