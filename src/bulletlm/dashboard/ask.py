"""A question to a module in a process of its own: JSON on standard input, one line of JSON on standard output."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


async def ask(module: str, question: Mapping[str, Any], folder: Path, seconds: float, *, too_long: str, failed: str) -> Any:
    """Run `python -m MODULE` in the working directory `folder` and return its answer.

    Args:
        seconds: the process is ended after this time.
        too_long, failed: messages in {"error": message}, which is the answer if the time is over, or if the process failed.
    """
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-P", "-m", module)
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, cwd=folder)
    try:
        answer, _ = await asyncio.wait_for(process.communicate(json.dumps(question).encode()), seconds)
    except TimeoutError:
        return {"error": too_long}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    # A process that ended with an error may have printed a part of its answer.
    return json.loads(answer.splitlines()[-1]) if answer.strip() and not process.returncode else {"error": failed}
