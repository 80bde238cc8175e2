"""The entry of the `bullet` command and of `python -m bulletlm`.

It is separate from cli/app.py so that Ctrl-C gives one line even during the imports, and so that `bullet generate` skips imports
that it does not need.
"""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from bulletlm.cli.fast_start import run_fast

        if not run_fast(sys.argv[1:]):
            from bulletlm.cli.app import main as run

            run()
    except KeyboardInterrupt:
        using = sys.argv[1:2] in (["generate"], ["chat"])
        print(
            "\nbullet: stopped" if using else "bullet: stopped; finished stages are kept; run the same command to continue", file=sys.stderr
        )
        sys.exit(130)


if __name__ == "__main__":
    main()
