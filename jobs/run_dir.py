"""The run folder and the work folder around it: every path in them."""

import shlex
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
    """The work folder, shared by all runs: archives, datasets and runs."""

    path: Path

    @property
    def archives(self) -> Path:
        """Archives that `fetch` downloaded or unpacked, one folder per data set."""
        return self.path / "archives"

    @property
    def datasets(self) -> Path:
        """Prepared datasets, one folder per dataset ID."""
        return self.path / "datasets"

    @property
    def environments(self) -> Path:
        """The Python environment as tar files, which a cluster's nodes unpack: see `deploy.staging`."""
        return self.path / "environments"

    @property
    def runs(self) -> Path:
        """Run folders, one per run ID."""
        return self.path / "runs"

    @property
    def segments(self) -> Path:
        """Decoded archive pairs, one folder per segment ID; datasets of several pairs link to their files."""
        return self.path / "segments"

    @property
    def registry(self) -> Path:
        """MLflow's database and artifacts, unless a server has them."""
        return self.path / "mlflow"

    @property
    def retrains(self) -> Path:
        """The state of `idxtrain retrain`, one folder per registered model."""
        return self.path / "retrain"

    @property
    def scratch(self) -> Path:
        """Temporary files of the registry's client."""
        return self.retrains / ".scratch"

    @property
    def bin(self) -> Path:
        """What `idxtrain prune` is removing: see `pipelines.retraining.prune`."""
        return self.path / ".removed"

    @property
    def sweeps(self) -> Path:
        """The trials of `idxtrain sweep`, one folder per sweep; their runs are in `runs`."""
        return self.path / "sweeps"

    @property
    def speeds(self) -> Path:
        """Measured speeds of training steps, for `idxtrain plan`: see `jobs.step_speed`."""
        return self.path / "speeds"

    @property
    def locks(self) -> Path:
        """Lease files: see `jobs.lease`."""
        return self.path / ".locks"

    def lease_file(self, name: str) -> Path:
        """Return the lease file of a shared resource: "dataset-ID", "segments", "prune" or "registry"."""
        return self.locks / f"{name}.json"


@dataclass(frozen=True)
class RunDir:
    """One run's folder, `WORK/runs/RUN_ID`: the files in it are all that its stages share."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run ID, which is the directory's name."""
        return self.path.name

    @property
    def selector(self) -> str:
        """The run ID as a user gives it to `--run-id`, followed by `--work` unless the work folder is the default."""
        work = self.work.path.resolve()
        return self.run_id if work == Path("work").resolve() else f"{self.run_id} --work {shlex.quote(str(work))}"

    @property
    def sweep(self) -> str:
        """The name of the sweep that has this run among its points, or an empty text: see `pipelines.sweep.grid`."""
        name = self.run_id.rpartition("-")[0]
        try:
            points = (self.work.sweeps / name / "sweep.json").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return name if f'"{self.run_id}"' in points else ""  # not parsed: lists of runs ask this of a thousand points

    @property
    def resumed_by(self) -> str:
        """What resumes the run, in words: its command, or its sweep's.

        A submitted run goes back to Slurm, so that no login node trains. A point of a sweep must not be resumed alone:
        that would test it, and only the sweep's best point may see the test set.
        """
        if self.sweep:
            return f"the sweep's own command with `--name {self.sweep}`"
        command = "submit" if (self.slurm / "site.json").exists() else "run"
        return f"`idxtrain {command} --run-id {self.selector}`"

    @property
    def tested_by(self) -> str:
        """What to do about a run without test results, in words. Of a sweep, only the best point is tested."""
        if self.sweep:
            return f"take the best point of sweep {self.sweep}: only that one is tested"
        return f"run `idxtrain evaluate --run-id {self.selector}`"

    @property
    def work(self) -> Work:
        """The work folder that contains this run."""
        return Work(self.path.parent.parent)

    @property
    def evaluations(self) -> Path:
        """Evaluations of the run's model on other data, one folder each, laid out as a run."""
        return self.path / "evaluations"

    @property
    def origin(self) -> "RunDir":
        """The run whose model is evaluated: this one, or the one that has this folder among its `evaluations`."""
        parent = self.path.parent
        return RunDir(parent.parent) if parent.name == RunDir(parent.parent).evaluations.name else self

    @property
    def config_file(self) -> Path:
        """The whole config, frozen when the run was made."""
        return self.path / "config.json"

    @property
    def lock_file(self) -> Path:
        """The lease of the process that works on the run: see `jobs.lease`."""
        return self.path / "lock.json"

    @property
    def metrics_file(self) -> Path:
        """The result of the run, from `evaluate`: see `jobs.metrics`."""
        return self.path / "metrics.json"

    @property
    def predictions_file(self) -> Path:
        """The prediction for each test image: see `jobs.evaluate.predictions`."""
        return self.path / "predictions.parquet"

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
        """The comparison with the champion, for the gate of a retraining: see `jobs.evaluate.compare`."""
        return self.path / "comparison.json"

    @property
    def sample_file(self) -> Path:
        """A few test images and their probabilities in `evaluate`, as NumPy's .npz."""
        return self.path / "sample.npz"

    @property
    def decision_file(self) -> Path:
        """The decision of a retraining's gate, with its reasons."""
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
        """The stages' log lines, and the training curve."""
        return self.path / "logs"

    @property
    def usage(self) -> Path:
        """What each process used of its machine: see `jobs.usage`."""
        return self.logs / "usage"

    @property
    def curve_file(self) -> Path:
        """One JSON line per measurement of the training: step, loss, accuracy, images/s."""
        return self.logs / "train.jsonl"

    @property
    def heartbeats(self) -> Path:
        """The ranks' heartbeats while they train: see `jobs.train.telemetry.heartbeat`."""
        return self.path / "heartbeats"

    @property
    def restarts_file(self) -> Path:
        """One JSON line per failed attempt of the training, with its cause."""
        return self.logs / "restarts.jsonl"

    @property
    def slurm(self) -> Path:
        """Batch scripts, site, logs and history of the run's Slurm jobs: see `pipelines.slurm.jobs`."""
        return self.path / "slurm"

    def record_file(self, stage: str) -> Path:
        """Return the file of a finished stage's record: see `jobs.stage`."""
        return self.path / "stages" / f"{stage}.json"

    def read_config(self) -> dict[str, Any]:
        """Return config.json as a dict. Raises InputError if it is missing or not a JSON object."""
        return read_object(self.config_file, "make the run with `idxtrain run`")

    def section(self, name: str, kind: type[S]) -> S:
        """Return one validated section of config.json."""
        try:
            return kind.model_validate(self.read_config()[name])
        except (KeyError, ValueError) as error:
            problem = f"section {name!r} is not valid: {one_line(error)}"
            raise InputError(f"{self.config_file}: {problem}; fix: make a new run with `idxtrain run`") from error
