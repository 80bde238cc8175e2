"""The entry of the `bullet` command and of `python -m bulletlm`.

It is separate from cli/app.py so that Ctrl-C gives one line even during the imports, and so that `bullet generate` skips imports
that it does not need.
"""

import os
import signal
import sys

STAGE_COMMANDS = ("run", "data", "tokenizer", "train", "export", "qat", "build", "evaluate")
"""Commands that run stages, which can be continued after they were stopped."""


def main() -> None:
    """Run the command line. Ctrl-C ends it with one line and exit code 130; so do SIGTERM and SIGHUP if it runs stages."""
    command = "".join(sys.argv[1:2])
    if command in STAGE_COMMANDS:
        _treat_like_ctrl_c("SIGTERM", "SIGHUP")
    try:
        from bulletlm.cli.fast_start import run_fast

        if not run_fast(sys.argv[1:]):
            from bulletlm.cli.app import main as run

            run()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the process at once, without a traceback
        if command in STAGE_COMMANDS:
            message = "bullet: stopped; the finished stages are kept: run the same command again to continue"
        else:
            message = "\nbullet: stopped" if command in ("generate", "chat") else "bullet: stopped"
        print(message, file=sys.stderr)
        sys.exit(130)


def _treat_like_ctrl_c(*names: str) -> None:
    """Let signals raise KeyboardInterrupt, except those that are ignored (as SIGHUP under nohup) or that this system does not have.

    The workers of torchrun keep the usual effect of a signal: they wait for the main process most of the time, outside of Python.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    for name in names:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    main()
