"""Retraining: new archives, a challenger, the gate, and a new champion only if the gate lets it pass.

It is safe to run at any time, twice at once, and again after a kill: what is under way is recorded before it begins,
and every step may be repeated.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.registry.registry import Registry
from deploy.registry.tracking import RegistryDownError, tracking_uri
from jobs.errors import IdxtrainError, InputError
from jobs.run_dir import RunDir
from jobs.stage import dataset_of, is_done
from pipelines import request, runs
from pipelines.config import Config, validate
from pipelines.gate.champion_checks import sample_size_problem
from pipelines.request import Options
from pipelines.retraining import notify
from pipelines.retraining.best_champion import best_besides
from pipelines.retraining.inputs import archives, content_of, settings_of, stamps
from pipelines.retraining.promotion import finish_promotion
from pipelines.retraining.prune import Pruning, summary
from pipelines.retraining.records import Champion, Inputs, Notification, Pending, Promotion, Rivals, State
from pipelines.retraining.register import (
    RetrainOutcome,
    decide_and_register,
    failure_notification,
    record_outcome,
    sync,
)
from pipelines.retraining.retrain_dir import BusyError, RetrainDir, require_name
from pipelines.stages import run_stages

log = logging.getLogger("idxtrain")


@dataclass(frozen=True, kw_only=True)
class RetrainOptions:
    """The options of `idxtrain retrain`. `name`: of the registered model; None: the data set's name.

    `notify`: command that gets the outcome. `keep`: how many of the newest runs stay afterwards; None: all.
    """

    options: Options
    name: str | None = None
    warm_start: bool = False
    notify: str | None = None
    force: bool = False
    keep: int | None = None


def retrain(wanted: RetrainOptions) -> RetrainOutcome:
    """Retrain if there is a reason to. Raises what the stages raise; the same command then resumes."""
    config, retrain_dir = config_and_retrain_dir(wanted)
    notify.check_targets(wanted.notify, os.environ)
    try:
        with retrain_dir.lock():
            return _Retraining(wanted, config, retrain_dir).run()
    except BusyError as error:
        return RetrainOutcome("busy", f"nothing done: {error}")


def config_and_retrain_dir(wanted: RetrainOptions) -> tuple[Config, RetrainDir]:
    """Return the config of a retraining, and the folder of its registered model."""
    values = request.config_of(wanted.options, None).to_json()
    values["fetch"]["segments"] = True
    values["evaluate"]["compare"] = True
    config = validate(values, "retrain")
    name = wanted.name or config.fetch.dataset
    require_name(name)
    return config, RetrainDir(request.work_dir(wanted.options), name)


class _Retraining:
    """One retraining, under the lock of its folder."""

    def __init__(self, wanted: RetrainOptions, config: Config, retrain_dir: RetrainDir) -> None:
        self._wanted, self._config, self._dir = wanted, config, retrain_dir
        self._run: RunDir | None = None
        self._content = ""  # the hash of the archives, once it is known

    def run(self) -> RetrainOutcome:
        self._notify(is_retry=True)
        try:
            outcome, registry = self._retrain()
        except Exception as error:  # any kind, such as a full disk or a bug, must reach the person notified
            self._notify_failure(error)
            raise
        if outcome.event != "nothing-new":
            self._notify()
        if registry is not None and outcome.event in ("promoted", "rejected"):
            self._prune()
        return outcome

    def _retrain(self) -> tuple[RetrainOutcome, Registry | None]:
        """Return the outcome, and the registry if it answered."""
        files = archives(self._config)
        seen, settings = stamps(files.values()), settings_of(self._config)
        is_whole = self._has_copies()
        if is_whole and not self._dir.waiting() and self._dir.read(Promotion) is None:
            nothing = self._nothing_new(files, seen, settings)
            if nothing:
                return nothing, None
        registry = self._open_registry()
        if registry is not None:
            finish_promotion(self._dir, registry)
            if sync(self._dir, registry):
                self._notify()
                is_whole = False
            if not is_whole:  # a run that waited, or the copy fetched again, may be all that was missing
                nothing = self._nothing_new(files, seen, settings)
                if nothing:
                    return nothing, None
        elif not is_whole:
            raise IdxtrainError(
                f"{self._dir.name}: found a damaged copy of the champion in {self._dir.models} and no registry to "
                "fetch it from, expected one or the other; fix: retrain when the registry is reachable"
            )
        self._warn_of_small_test_set()
        pending = self._begin(Inputs(settings=settings, content=self._content_of(files), seen=seen))
        self._run = RunDir(self._dir.work.runs / pending.run_id)
        return self._train_and_decide(self._run, pending, registry), registry

    # --- is there anything to do?

    def _has_copies(self) -> bool:
        """Return whether the copies of the models to compare with are whole."""
        champion = self._dir.read(Champion)
        models = [model for model in (champion, best_besides(self._dir, champion)) if model is not None]
        damaged = [model for model in models if not self._dir.has_copy(model)]
        for model in damaged:
            log.info("retrain: the copy of version %s is damaged or missing", model.version)
        return not damaged

    def _nothing_new(self, files: Mapping[str, Path], seen: Sequence[object], settings: str) -> RetrainOutcome | None:
        """Return the outcome if the last retraining had the same inputs and its results are intact, else None."""
        state = self._dir.read(State)
        if self._wanted.force or state is None or state.inputs.settings != settings or not self._is_intact(state):
            return None
        content = state.inputs.content if state.inputs.seen == seen else self._content_of(files)
        if content != state.inputs.content:
            return None
        inputs = state.inputs.model_copy(update={"seen": seen})
        self._dir.write(state.model_copy(update={"inputs": inputs}))
        self._dir.remove(Pending)
        return RetrainOutcome("nothing-new", f"nothing new; last outcome: {state.text}")

    def _content_of(self, files: Mapping[str, Path]) -> str:
        """Return the hash of the archives' content. They are read once."""
        self._content = self._content or content_of(files)
        return self._content

    def _is_intact(self, state: State) -> bool:
        """Return whether the last run's results, and a local registry, still exist."""
        run = RunDir(self._dir.work.runs / state.run_id)
        if not (is_done(run, "train") and is_done(run, "evaluate")):
            log.info("retrain: the last run, %s, is incomplete", run.run_id)
            return False
        is_local = tracking_uri(self._dir.work, os.environ) == tracking_uri(self._dir.work, {})
        return not is_local or (self._dir.work.registry / "mlflow.db").exists()

    def _open_registry(self) -> Registry | None:
        try:
            return Registry(self._dir.work, self._dir.name, os.environ)
        except RegistryDownError as error:
            log.warning("retrain: %s; training without it", error)
            return None

    def _warn_of_small_test_set(self) -> None:
        """Warn before any training if there are too few test images for gate.delta."""
        from pipelines.plan import test_images

        count = test_images(self._config, self._dir.work)
        problem = sample_size_problem(self._config.gate, count) if count else None
        if problem and self._dir.read(Champion) is not None:
            log.warning("retrain: only a clearly better model can be promoted: %s", problem)

    # --- train, decide

    def _begin(self, inputs: Inputs) -> Pending:
        """Return the interrupted retraining if it still fits, else record a new one."""
        champion = self._dir.read(Champion)
        pending = self._dir.read(Pending)
        if pending is not None and self._fits(pending, inputs, champion):
            log.info("retrain: resuming run %s", pending.run_id)
            return pending
        pending = Pending(
            run_id=runs.new_id(self._config.recipe),
            inputs=inputs,
            rivals=Rivals(champion=champion, best=best_besides(self._dir, champion)),
            warm_start=self._wanted.warm_start,
            champion_dataset=str((self._dataset_of(champion) if champion else None) or ""),
        )
        self._dir.write(pending)
        return pending

    def _fits(self, pending: Pending, inputs: Inputs, champion: Champion | None) -> bool:
        """Return whether an interrupted retraining has the same inputs and can compare with the same models."""
        best = pending.rivals.best
        return (
            (pending.inputs.settings, pending.inputs.content) == (inputs.settings, inputs.content)
            # After a kill just behind its promotion, its own run is the champion's.
            and (champion.run_id if champion else None) in (pending.champion_run, pending.run_id)
            and (best is None or self._dir.has_copy(best))
        )

    def _train_and_decide(self, run: RunDir, pending: Pending, registry: Registry | None) -> RetrainOutcome:
        config = self._config_for(pending)
        runs.make(self._dir.work, run.run_id)
        run_stages(run, config)
        decision = decide_and_register(self._dir, run, config, pending.rivals, registry)
        for check in decision.checks:
            if not check.holds and not check.blocks:
                log.warning("retrain: %s: %s", check.name, check.text)
        outcome = record_outcome(self._dir, run, decision, pending.inputs)
        if outcome.event != "promoted":
            log.warning("retrain: %s: %s", outcome.event, decision.reason)
        self._dir.remove(Pending)
        return outcome

    def _config_for(self, pending: Pending) -> Config:
        values = self._config.to_json()
        champion, best = pending.rivals.champion, pending.rivals.best
        # Only the records name a champion.
        values["evaluate"] |= {"champion": "", "champion_sha256": "", "champion_dataset": ""}
        if champion is not None:
            copy = str(self._dir.copy_of(champion))
            values["evaluate"] |= {
                "champion": copy,
                "champion_sha256": champion.model_sha256,
                "champion_dataset": pending.champion_dataset,
            }
            if pending.warm_start:
                values["train"]["initial_model"] = copy
        if best is not None:
            values["evaluate"] |= {"best": str(self._dir.copy_of(best)), "best_sha256": best.model_sha256}
        return validate(values, "retrain")

    def _dataset_of(self, champion: Champion) -> Path | None:
        """Return the dataset that the champion was trained on; None if it is not here, e.g. after a restored registry.

        `prune` keeps it as long as it keeps the champion's run.
        """
        try:
            dataset = dataset_of(RunDir(self._dir.work.runs / champion.run_id))
        except InputError:
            return None
        return dataset if dataset.is_dir() else None

    # --- afterwards

    def _notify(self, *, is_retry: bool = False) -> None:
        """Deliver the last notification, which is kept until then. After a kill it may go out twice, with one ID."""
        notification = self._dir.read(Notification)
        if notification is None:
            return
        if is_retry:
            log.info("retrain: sending the last outcome again, as its delivery did not finish")
        if notify.send(notification, self._wanted.notify, os.environ):
            self._dir.remove(Notification)
        else:
            file = self._dir.path / Notification.file_name
            log.warning("retrain: the outcome is kept in %s; the next retraining sends it again", file)

    def _notify_failure(self, error: Exception) -> None:
        notification = failure_notification(self._dir, self._run.run_id if self._run else None, error)
        if self._run is None and self._dir.read(Notification) is not None:
            return  # an undelivered outcome matters more than an attempt that never came to a run
        try:
            self._dir.write(notification)
        except OSError:  # perhaps the disk is full: then deliver once, without keeping it
            notify.send(notification, self._wanted.notify, os.environ)
        else:
            self._notify()

    def _prune(self) -> None:
        if self._wanted.keep is None:
            return
        try:
            removed = Pruning(self._dir.work, self._wanted.keep, locked=self._dir).run()
            log.info("retrain: pruned: %s", summary(removed))
        except IdxtrainError as error:
            log.warning("retrain: nothing pruned: %s", error)
