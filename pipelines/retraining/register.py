"""From a finished run to the registry: registered, decided on by the gate, promoted or not, and recorded."""

import logging
import time
from dataclasses import dataclass

from deploy.registry.registry import Registry
from deploy.registry.tracking import RegistryDownError
from deploy.registry.versions import CHALLENGER, Version
from jobs.errors import IdxtrainError, printable
from jobs.files import read_object, write_json
from jobs.metrics import read_metrics
from jobs.run_dir import RunDir
from pipelines import runs
from pipelines.config import Config
from pipelines.gate.decision import Decision
from pipelines.retraining.best_champion import best_after
from pipelines.retraining.comparison import read_comparison
from pipelines.retraining.decision_page import write_page
from pipelines.retraining.evidence import decide_on
from pipelines.retraining.promotion import promote, record_champion
from pipelines.retraining.records import (
    ComparedModel,
    DecisionRecord,
    Inputs,
    Notification,
    RegisteredModel,
    RetrainEvent,
    Rivals,
    State,
    validated,
)
from pipelines.retraining.registry_entry import entry_of
from pipelines.retraining.retrain_dir import RetrainDir
from pipelines.stages import result_line

log = logging.getLogger("idxtrain")

_AGAIN = "run `idxtrain retrain` again"
_TEXTS = {
    "promoted": "promoted: {name} version {version}",
    "rejected": "not promoted: {name} version {version}: {reason}",
    "waiting": "not registered yet: {name}: the registry is unreachable; register later with `idxtrain models sync`",
}


@dataclass(frozen=True)
class RetrainOutcome:
    """What came of a retraining. `text`: one line for people."""

    event: RetrainEvent
    text: str


# --- decide and register


def decide_and_register(
    retrain_dir: RetrainDir, run: RunDir, config: Config, rivals: Rivals, registry: Registry | None
) -> DecisionRecord:
    """Register a finished run, decide on it, promote it or not; return what decision.json holds.

    If the registry is unreachable, the run waits in the outbox. `rivals`: the models that it was compared with.
    """
    version, difference = _register(run, config, registry)
    decision = decide_on(run, config, rivals, difference)
    record = _decision_record(retrain_dir, run, version, rivals, decision)
    _write_decision(run, record)
    if version is None or registry is None:
        retrain_dir.add_waiting(run.run_id, rivals)
        return record
    try:
        accuracy = read_metrics(run).test.accuracy
        best = best_after(version, accuracy, read_comparison(run), rivals) if decision.promote else None
        registry.attach(version, run.decision_file, run.decision_page)
        registry.set_tag(version, "decision", "promoted" if decision.promote else "not promoted")
        if decision.promote:
            promote(retrain_dir, registry, version, best)
        else:
            _make_challenger(retrain_dir, registry, version)
    except RegistryDownError as error:
        log.warning("retrain: %s; `idxtrain models sync` finishes the registration", error)
        retrain_dir.add_waiting(run.run_id, rivals)
        return record.model_copy(update={"version": None})
    retrain_dir.remove_waiting(run.run_id)
    return record


def _register(run: RunDir, config: Config, registry: Registry | None) -> tuple[Version | None, float]:
    """Return the run's version, None if the registry is unreachable, and the difference of its copy's predictions."""
    if registry is None:
        return None, 0.0
    try:
        version = registry.register(entry_of(run, config))
        return version, _difference(run, registry, version)
    except RegistryDownError as error:
        log.warning("retrain: %s; the run is kept; `idxtrain models sync` registers it", error)
        return None, 0.0


def _difference(run: RunDir, registry: Registry, version: Version) -> float:
    """Return the largest difference of any probability between the registry's copy and the evaluation.

    1, the largest possible, if the copy is not what was registered.
    """
    import numpy as np

    try:
        with np.load(run.sample_file, allow_pickle=False) as sample:
            return float(np.abs(registry.predict(version, sample["images"]) - sample["probabilities"]).max())
    except RegistryDownError:
        raise
    except IdxtrainError as error:
        log.warning("retrain: %s", error)
        return 1.0


def _decision_record(
    retrain_dir: RetrainDir, run: RunDir, version: Version | None, rivals: Rivals, decision: Decision
) -> DecisionRecord:
    comparison = read_comparison(run)
    return DecisionRecord(
        name=retrain_dir.name,
        run_id=run.run_id,
        version=version.number if version else None,
        champion=_compared(rivals.champion, comparison.champion_accuracy),
        best=_compared(rivals.best, comparison.best_accuracy),
        promote=decision.promote,
        reason=decision.reason,
        checks=decision.checks,
    )


def _compared(model: RegisteredModel | None, accuracy: float | None) -> ComparedModel | None:
    return ComparedModel(version=model.version, run_id=model.run_id, accuracy=accuracy) if model else None


def _write_decision(run: RunDir, record: DecisionRecord) -> None:
    write_json(run.decision_file, record.model_dump(mode="json"))
    write_page(run, record, read_metrics(run).test)


def read_decision(run: RunDir) -> DecisionRecord:
    """Return a run's decision; raise InputError if decision.json is missing or of another format."""
    raw = read_object(run.decision_file, _AGAIN)
    return validated(DecisionRecord, raw, str(run.decision_file), _AGAIN)


def _make_challenger(retrain_dir: RetrainDir, registry: Registry, version: Version) -> None:
    registry.set_alias(CHALLENGER, version.number)
    record_champion(retrain_dir, registry)


# --- runs that waited for the registry


def sync(retrain_dir: RetrainDir, registry: Registry) -> list[DecisionRecord]:
    """Register the runs that wait, oldest first; return their decisions.

    A run that was compared with another champion than the current one becomes challenger, and is not promoted.
    """
    decisions = []
    for run_id in retrain_dir.waiting():
        run = RunDir(retrain_dir.work.runs / run_id)
        if not run.metrics_file.exists():
            log.warning("models: run %s waited for the registry, but no longer exists", run_id)
            retrain_dir.remove_waiting(run_id)
            continue
        rivals, present = retrain_dir.read_waiting(run_id), record_champion(retrain_dir, registry)
        compared = (run_id, rivals.champion.run_id if rivals.champion else None)
        if present is not None and present.run_id not in compared:
            decision = _register_challenger(retrain_dir, run, registry, present)
        else:
            decision = decide_and_register(retrain_dir, run, runs.read_config(run), rivals, registry)
        state = retrain_dir.read(State)
        if state is not None and state.run_id == run_id:
            record_outcome(retrain_dir, run, decision, state.inputs)
        decisions.append(decision)
    return decisions


def _register_challenger(
    retrain_dir: RetrainDir, run: RunDir, registry: Registry, champion: RegisteredModel
) -> DecisionRecord:
    """Register a run as challenger whose decision is out of date."""
    version = registry.register(entry_of(run, runs.read_config(run)))
    reason = f"it was compared with another champion than the current one, run {champion.run_id}"
    update = {"version": version.number, "promote": False, "reason": reason}
    record = read_decision(run).model_copy(update=update)
    _write_decision(run, record)
    registry.attach(version, run.decision_file, run.decision_page)
    registry.set_tag(version, "decision", "not promoted")
    _make_challenger(retrain_dir, registry, version)
    retrain_dir.remove_waiting(run.run_id)
    return record


# --- the outcome


def record_outcome(retrain_dir: RetrainDir, run: RunDir, decision: DecisionRecord, inputs: Inputs) -> RetrainOutcome:
    """Record what came of a retraining: first the notification, so that a kill does not lose it, then the state."""
    event: RetrainEvent = "waiting" if decision.version is None else "promoted" if decision.promote else "rejected"
    result = _TEXTS[event].format(name=decision.name, version=decision.version, reason=decision.reason)
    text = f"{result}; {result_line(run)}"
    retrain_dir.write(_notification(retrain_dir, run, decision, event))
    retrain_dir.write(State(run_id=run.run_id, inputs=inputs, event=event, text=text))
    return RetrainOutcome(event, text)


def _notification(retrain_dir: RetrainDir, run: RunDir, decision: DecisionRecord, event: RetrainEvent) -> Notification:
    test = read_metrics(run).test
    return Notification(
        id=f"{run.run_id}-{event}",
        event=event,
        name=retrain_dir.name,
        run_id=run.run_id,
        reason=decision.reason,
        version=decision.version,
        champion=decision.champion,
        checks=decision.checks,
        accuracy=test.accuracy,
        errors=test.errors,
        count=test.count,
        report=str(run.decision_page),
    )


def failure_notification(retrain_dir: RetrainDir, run_id: str | None, error: Exception) -> Notification:
    """Return the notification of a failed retraining; each attempt has an ID of its own.

    `run_id`: None if it failed before it had a run.
    """
    which = f"run {run_id}" if run_id else "retraining"
    return Notification(
        id=f"{run_id or retrain_dir.name}-failed-{time.time():.0f}",
        event="failed",
        name=retrain_dir.name,
        run_id=run_id,
        reason=f"{retrain_dir.name}: {which} failed: {_public_reason(error)}",
    )


def _public_reason(error: Exception) -> str:
    """Return what others may read of an error. A library's own text may hold an address with a password."""
    if isinstance(error, IdxtrainError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
    return f"{type(error).__name__}; its text is in the log"
