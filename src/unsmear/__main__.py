"""`python -m unsmear` is the `unsmear` command."""

from unsmear.cli import main

main()
