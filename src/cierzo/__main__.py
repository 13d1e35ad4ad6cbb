"""`python -m cierzo` is `cierzo`."""

from cierzo.cli import main

main()
