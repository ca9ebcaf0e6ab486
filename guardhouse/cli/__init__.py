"""The command line: arguments -> one call -> a printed result. One file per group of verbs; `main.py` is the door."""

from guardhouse.cli.main import main

__all__ = ["main"]
