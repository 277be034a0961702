"""A model that is to be served. Imports nothing heavy."""

from dataclasses import dataclass

from jobs.predict.model_file import ModelFile


@dataclass(frozen=True)
class Candidate:
    """`version`: its number in the registry, None of a run's model. `run_id`: of the run that trained it."""

    file: ModelFile
    version: int | None
    run_id: str
