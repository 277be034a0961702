"""The run directory: every path in it, and in the work directory around it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jobs.errors import InputError, one_line
from jobs.files import read_object

if TYPE_CHECKING:
    from jobs.config import Section

S = TypeVar("S", bound="Section")


@dataclass(frozen=True)
class Work:
    """The work directory: archives, datasets and runs, shared by all runs."""

    path: Path

    @property
    def archives(self) -> Path:
        """Archives that `fetch` downloaded or unpacked, a folder each data set."""
        return self.path / "archives"

    @property
    def datasets(self) -> Path:
        """Prepared datasets, a folder each dataset ID."""
        return self.path / "datasets"

    @property
    def runs(self) -> Path:
        """Run directories, one each run ID."""
        return self.path / "runs"

    @property
    def parts(self) -> Path:
        """Prepared archive pairs, a folder each part ID; datasets of several pairs are made of their files."""
        return self.path / "parts"

    @property
    def registry(self) -> Path:
        """MLflow's database and artifacts, unless a server keeps them."""
        return self.path / "mlflow"

    @property
    def retrains(self) -> Path:
        """What `idxtrain retrain` remembers, a folder each registered model."""
        return self.path / "retrain"

    @property
    def scratch(self) -> Path:
        """Temporary files of the registry's client."""
        return self.retrains / ".scratch"

    @property
    def bin(self) -> Path:
        """What is being removed: see `pipelines.retraining.prune`."""
        return self.path / ".removed"

    @property
    def sweeps(self) -> Path:
        """What `idxtrain sweep` tried, a folder each sweep; its runs lie among the others."""
        return self.path / "sweeps"

    @property
    def locks(self) -> Path:
        """Leases, which no dead process holds for ever: see `jobs.lease`."""
        return self.path / ".locks"

    def lease_file(self, name: str) -> Path:
        """Return where the lease of something shared lies: of "dataset-ID", "parts", "prune" or "registry"."""
        return self.locks / f"{name}.json"


@dataclass(frozen=True)
class RunDir:
    """One run's directory, `WORK/runs/RUN_ID`. It is all that stages share: each reads and writes files in it."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's name, which is its directory's."""
        return self.path.name

    @property
    def work(self) -> Work:
        """The work directory this run lies in."""
        return Work(self.path.parent.parent)

    @property
    def config_file(self) -> Path:
        """The whole config of the run, frozen when the run was made."""
        return self.path / "config.json"

    @property
    def metrics_file(self) -> Path:
        """What `evaluate` found: the run's result."""
        return self.path / "metrics.json"

    @property
    def model_file(self) -> Path:
        """The trained model, plain Keras, float32."""
        return self.path / "model.keras"

    @property
    def report_file(self) -> Path:
        """The result as a page for people."""
        return self.path / "report.html"

    @property
    def comparison_file(self) -> Path:
        """What `evaluate` found out for the gate of a retraining: see `jobs.evaluate.compare`."""
        return self.path / "comparison.json"

    @property
    def sample_file(self) -> Path:
        """A few test images and the probabilities that `evaluate` saw for them, as NumPy's .npz."""
        return self.path / "sample.npz"

    @property
    def decision_file(self) -> Path:
        """What the gate of a retraining decided, and why."""
        return self.path / "decision.json"

    @property
    def decision_page(self) -> Path:
        """The decision as a page for people."""
        return self.path / "decision.html"

    @property
    def checkpoints(self) -> Path:
        """Training states, one file each."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def logs(self) -> Path:
        """What the stages wrote to stderr, and the training curve."""
        return self.path / "logs"

    @property
    def curve_file(self) -> Path:
        """One JSON line each measurement of the training: step, loss, accuracy, images/s."""
        return self.logs / "train.jsonl"

    @property
    def heartbeats(self) -> Path:
        """The ranks' signs of life while they train: see `jobs.train.telemetry.heartbeat`."""
        return self.path / "heartbeats"

    @property
    def restarts_file(self) -> Path:
        """One JSON line each time that a training failed and what it failed of."""
        return self.logs / "restarts.jsonl"

    @property
    def slurm(self) -> Path:
        """Batch scripts, site, logs and history of the run's Slurm jobs: see `pipelines.slurm.jobs`."""
        return self.path / "slurm"

    def record_file(self, stage: str) -> Path:
        """Return where a finished stage leaves its record: see `jobs.stage`."""
        return self.path / "stages" / f"{stage}.json"

    def read_config(self) -> dict[str, Any]:
        """Return config.json as a dict; raise InputError where it is missing or no JSON object."""
        return read_object(self.config_file, "make the run with `idxtrain run`")

    def section(self, name: str, kind: type[S]) -> S:
        """Return one validated section of config.json."""
        try:
            return kind.model_validate(self.read_config()[name])
        except (KeyError, ValueError) as error:
            raise InputError(f"{self.config_file}: section {name!r} is not valid: {one_line(error)}") from error
