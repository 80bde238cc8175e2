"""Imports optional libraries that only some document types need."""

import importlib.util

from bulletlm.errors import DataError
from bulletlm.extras import install_command


def needs_extra(module: str, what: str) -> None:
    """Check that a library of the extra `documents` is installed.

    Raises:
        DataError: it is not; the message has the command that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise DataError(f"reading {what} needs the {module} package: {install_command('documents')}")
