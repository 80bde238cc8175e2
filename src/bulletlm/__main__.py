"""The entry of the `bullet` command and of `python -m bulletlm`.

Here rather than in cli.py so that Ctrl-C is one line even while the imports are still going on.
"""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from bulletlm.cli import main as run

        run()
    except KeyboardInterrupt:
        print("bullet: stopped; finished stages are kept: the same command continues", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
