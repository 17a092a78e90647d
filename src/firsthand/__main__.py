"""`python -m firsthand` is the command `firsthand`."""

from firsthand.cli.main import entry

entry()
