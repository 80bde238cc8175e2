"""`python -m bulletlm` is the `bullet` command."""

from bulletlm.cli import main

main()
