"""A token folder of realistic text that is small enough to train on in a second."""

from pathlib import Path

import numpy as np
import pytest

from bulletlm.files import write_json


@pytest.fixture(scope="session")
def tokens_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens with structure to learn (a noisy walk over 64 ids); targets in stretches only."""
    folder = tmp_path_factory.mktemp("tokens")
    random = np.random.default_rng(5)
    index = {"dtype": "uint16", "vocab_size": 500, "loss_on": "answers"}
    for split, n in (("train", 6000), ("val", 700)):
        walk = np.cumsum(random.choice([1, 1, 1, 7, 13], n)) % 64 + 100
        (folder / f"{split}.bin").write_bytes(walk.astype("<u2").tobytes())
        (folder / f"{split}.learn.bin").write_bytes((np.cumsum(random.random(n) < 0.02) % 3 != 0).astype(np.uint8).tobytes())
        index[split] = {"tokens": n, "bytes": 3 * n, "documents": 1 if split == "train" else [], "by_language": {}}
    write_json(folder / "index.json", index)
    return folder
