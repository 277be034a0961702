"""python -m pipelines.cli COMMAND …: what the program `idxtrain` does."""

from pipelines.cli.app import main

main()
