"""The JavaScript library in a Node.js process, for all tests of this folder."""

import subprocess
from collections.abc import Iterator

import pytest
from javascript import DRIVER, NODE, Library


@pytest.fixture(scope="session")
def library() -> Iterator[Library]:
    if NODE is None:
        pytest.skip("Node.js is not installed")
    with subprocess.Popen([NODE, DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        yield Library(process)
        assert process.stdin
        process.stdin.close()
        process.wait(10)
