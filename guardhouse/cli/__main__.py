"""`python -m guardhouse.cli`, which `python -X dev` makes show tracebacks."""

from guardhouse.cli.main import main

main()
