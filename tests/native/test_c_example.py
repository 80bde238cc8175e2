"""The C program of docs/c.md answers as Python does, and names files that it cannot use."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bulletlm.formats.packaged import packaged_model
from bulletlm.runtime import Sampling, Session, load
from bulletlm.runtime.native import Unavailable, library_path
from bulletlm.text.tokenizer import ASSISTANT, BOS, END, USER, token_bytes

QUESTIONS = ("How are you?", "मैत्री म्हणजे काय?", "तुझं नाव काय आहे? सांग ना!", "a", " ", "  two  spaces ", "🙂 ж 漢 <|end|> ₹ 5", "x" * 60)


def packaged() -> Path:
    path = packaged_model()
    assert path
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler is installed")
    try:
        library = Path(library_path())
    except Unavailable as error:
        pytest.skip(f"no native engine: {error}")
    out = tmp_path_factory.mktemp("c") / "answer"
    source = Path(__file__).parents[2] / "docs" / "examples" / "answer.c"
    headers = Path(__file__).parents[2] / "src" / "bulletlm" / "runtime" / "native"
    # Linked with the library that is built already, because compiling the kernels takes many seconds; check.c compiles them.
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{headers}", f"-Wl,-rpath,{library.parent}"]
    subprocess.run(["cc", *flags, source, library, "-lm", "-o", out], check=True, timeout=120)
    return out


def answer(program: Path, model: Path, question: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program, model, question], capture_output=True, timeout=60, check=False)


def test_it_answers_as_python_does(program: Path) -> None:
    path = packaged()
    model = load(path)
    pieces = model.tokenizer.pieces()
    for question in QUESTIONS:
        ids = [BOS, USER, *model.tokenizer.encode(question), END, ASSISTANT]
        sampling = Sampling(temperature=0, repetition_penalty=1, max_tokens=256)
        tokens = [token.id for token in Session(model, shift=False).generate(ids, sampling)]
        done = answer(program, path, question)
        assert done.returncode == 0 and done.stdout == b"".join(token_bytes(i, pieces[i].text) for i in tokens) + b"\n", question


def test_files_that_it_cannot_use_are_named(program: Path, tmp_path: Path) -> None:
    whole = packaged().read_bytes()
    for content in (b"", b"GGUF", whole[:2_000], whole[:200_000], whole[:-40_000], whole.replace(b'"type": "BQ', b'"type": "XX')):
        (tmp_path / "damaged.bullet").write_bytes(content)
        done = answer(program, tmp_path / "damaged.bullet", "x")
        assert done.returncode == 1 and done.stderr.startswith(b"answer: ") and done.stderr.count(b"\n") == 1
    assert answer(program, tmp_path / "missing.bullet", "x").returncode == 1
    assert b"context" in answer(program, packaged(), "a question " * 400).stderr
