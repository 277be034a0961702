"""What the process that follows the registry reports to the server. Imports nothing heavy."""

from pathlib import Path

from deploy.serving.candidate import Candidate
from jobs.config import Section
from jobs.dataset import Manifest
from jobs.predict.model_file import ModelFile


class Event(Section):
    """One line: a model to serve, if it has a `path`; else an error instead of the first model; else `trouble`.

    `manifest`: JSON. `trouble`: why the registry cannot be followed, empty once it can again.
    """

    title: str = ""
    path: str = ""
    sha256: str = ""
    version: int = 0
    run_id: str = ""
    manifest: str = ""
    error: str = ""
    exit_code: int = 0
    trouble: str = ""

    def candidate(self) -> Candidate:
        """Return the model."""
        manifest = Manifest.model_validate_json(self.manifest)
        file = ModelFile(title=self.title, path=Path(self.path), sha256=self.sha256, manifest=manifest)
        return Candidate(file, self.version, self.run_id)
