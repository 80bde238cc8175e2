"""The errors a person can cause, and can mend.

Every message is one line that says what is wrong, where, and what to do about it. The command line
prints it without a traceback; any other exception is a bug of ours and keeps its traceback.
"""


class BulletError(Exception):
    """Something went wrong that the user can fix. Exit code 1."""

    exit_code = 1


class ConfigError(BulletError):
    """A setting, a command-line flag or a configuration file is wrong. Exit code 2."""

    exit_code = 2


class DataError(BulletError):
    """Input text or data files cannot be used as they are."""


class FormatError(BulletError):
    """A model file breaks a rule of its format; the message names the field."""


class Interrupted(BulletError):
    """The user (or the system) asked the run to stop; everything up to here is saved."""

    exit_code = 130


class BulletWarning(RuntimeWarning):
    """Something goes on in another way than was asked for. The command line shows it in one line."""
