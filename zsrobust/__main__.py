"""`python -m zsrobust` is `zsrobust`."""

from zsrobust.cli import main

main()
