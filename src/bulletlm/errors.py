"""Errors that a user can cause and fix.

Every message is one line that says what is wrong, where, and what to do. The command line prints it without a traceback; any other
exception is a bug in BulletLM and keeps its traceback.
"""


class BulletError(Exception):
    """An error that the user can fix. Exit code 1."""

    exit_code = 1


class ConfigError(BulletError):
    """A setting, a command-line flag or a configuration file is wrong. Exit code 2."""

    exit_code = 2


class DataError(BulletError):
    """Input text or data files cannot be used as they are."""


class FormatError(BulletError):
    """A model file breaks a rule of its format; the message names the field."""


class Interrupted(BulletError):
    """The user or the system asked the run to stop; the message says what is kept. Exit code 130."""

    exit_code = 130


class BulletWarning(RuntimeWarning):
    """The program continues in another way than requested. The command line shows the message in one line."""
