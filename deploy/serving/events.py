"""What the process that follows the registry reports to the server. Imports nothing heavy."""

from pathlib import Path

from deploy.serving.candidate import Candidate
from jobs.config import Section
from jobs.dataset import Manifest
from jobs.predict.model_file import ModelFile

REFUSED = "refused"  # the line that the server answers: the last model could not be served


class Event(Section):
    """One line: a model to serve, if it has a `path`; else an error instead of the first model; else `trouble`.

    `manifest`: JSON. `is_away`: whether the error is that the registry does not answer. `trouble`: why it cannot be
    followed, empty once it can again.
    """

    title: str = ""
    path: str = ""
    sha256: str = ""
    version: int = 0
    run_id: str = ""
    manifest: str = ""
    error: str = ""
    exit_code: int = 0
    is_away: bool = False
    trouble: str = ""

    def candidate(self) -> Candidate:
        """Return the model."""
        manifest = Manifest.model_validate_json(self.manifest)
        file = ModelFile(title=self.title, path=Path(self.path), sha256=self.sha256, manifest=manifest)
        return Candidate(file, self.version, self.run_id)
