"""`python -m walle`."""

from walle.cli import main

main()
