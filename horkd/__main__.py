"""`python -m horkd`."""

from horkd.cli import main

main()
