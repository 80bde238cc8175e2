"""The entry of the `bullet` command and of `python -m bulletlm`.

Here rather than in cli/app.py so that Ctrl-C is one line even while the imports are still going on, and so that generating text
does not wait for imports that it does not need.
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
        print("\nbullet: stopped" if using else "bullet: stopped; finished stages are kept: the same command continues", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
