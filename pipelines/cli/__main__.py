"""python -m pipelines.cli COMMAND …: the same as the program `idxtrain`."""

from pipelines.cli.app import main

main()
