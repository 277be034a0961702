"""From a finished run to its place in the registry: judged, registered, promoted or not, and written down."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deploy.registry.registry import Registry
from deploy.registry.tracking import RegistryDownError
from deploy.registry.versions import CHALLENGER, Version
from jobs.errors import IdxtrainError, printable
from jobs.files import read_object, write_json
from jobs.run_dir import RunDir
from pipelines import runs
from pipelines.config import Config
from pipelines.retraining.best_champion import best_after
from pipelines.retraining.decision_page import write_page
from pipelines.retraining.evidence import entry_of, judge, read_metrics
from pipelines.retraining.promotion import note_champion, promote
from pipelines.retraining.retrain_dir import RetrainDir
from pipelines.stages import result_line

Event = Literal["promoted", "rejected", "waiting", "nothing-new", "busy", "failed"]

log = logging.getLogger("idxtrain")


@dataclass(frozen=True)
class Outcome:
    """What came of it, and one line for a person."""

    event: Event
    text: str


_WORDS = {
    "promoted": "promoted: {name} version {version}",
    "rejected": "not promoted: {name} version {version}: {reason}",
    "waiting": "not registered yet: {name}: the registry is away; `idxtrain models sync` registers the run",
}


def record(place: RetrainDir, run: RunDir, decided: Mapping[str, Any], inputs: Mapping[str, Any]) -> Outcome:
    """Write down what a retraining came to: first the news, so that a kill does not lose them, then the state.

    `decided`: what decision.json holds. `inputs`: by settings, content and seen, what the next one goes by.
    """
    event: Event = "waiting" if decided["version"] is None else "promoted" if decided["promote"] else "rejected"
    text = f"{_WORDS[event].format(**decided)}; {result_line(run)}"
    metrics = read_metrics(run)["test"]
    news = {
        "id": f"{run.run_id}-{event}",
        "event": event,
        "name": place.name,
        "run_id": run.run_id,
        **{key: decided[key] for key in ("version", "champion", "reason", "checks")},
        **{key: metrics[key] for key in ("accuracy", "errors", "count")},
        "report": str(run.decision_page),
    }
    place.write("news", news)
    kept = {key: inputs[key] for key in ("settings", "content", "seen")}
    place.write("state", {"run_id": run.run_id, **kept, "event": event, "text": text})
    return Outcome(event, text)


def failure(place: RetrainDir, run_id: str | None, error: Exception) -> dict[str, Any]:
    """Return the notification of a retraining that failed; each attempt's has an ID of its own. `run_id`: None where
    it failed before it had a run.
    """
    which = f"run {run_id}" if run_id else "retraining"
    identity = f"{run_id or place.name}-failed-{time.time():.0f}"
    text = f"{place.name}: {which} failed: {_reason(error)}"
    return {"id": identity, "event": "failed", "name": place.name, "run_id": run_id, "reason": text}


def _reason(error: Exception) -> str:
    """Return what may be told of an error to others: a library's own words may hold an address with a password."""
    if isinstance(error, IdxtrainError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
    return f"{type(error).__name__}; its text is in the log"


def decide_and_register(
    place: RetrainDir,
    run: RunDir,
    config: Config,
    champion: dict[str, Any] | None,
    registry: Registry | None,
    best: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Pass a finished run through the gate, register it, promote it or not; return what decision.json holds.

    Where the registry is away, the run waits in the outbox. `champion`, `best`: the notes of the champion and of the
    best one so far that it was compared with.
    """
    rivals = {"champion": champion, "best": best}
    version: Version | None = None
    difference = 0.0
    try:
        if registry is not None:
            version = registry.register(entry_of(run, config))
            difference = _difference(run, registry, version)
    except RegistryDownError as error:
        log.warning("retrain: %s; the run is kept, `idxtrain models sync` registers it", error)
        version = None
    decision = judge(run, config, champion, difference, best)
    comparison = read_comparison(run)
    content = {
        "name": place.name,
        "run_id": run.run_id,
        "version": version.number if version else None,
        **{key: _rival(note, comparison.get(key)) for key, note in rivals.items()},
        **decision.to_json(),
    }
    write_json(run.decision_file, content)
    write_page(run, content, read_metrics(run))
    if version is None or registry is None:
        write_json(place.outbox / f"{run.run_id}.json", rivals)
        return content
    try:
        accuracy = float(read_metrics(run)["test"]["accuracy"])
        now_best = best_after(version, accuracy, comparison, rivals) if decision.promote else None
        _conclude(place, run, registry, version, decision.promote, now_best)
    except RegistryDownError as error:
        log.warning("retrain: %s; `idxtrain models sync` finishes what is left", error)
        write_json(place.outbox / f"{run.run_id}.json", rivals)
        return content | {"version": None}
    (place.outbox / f"{run.run_id}.json").unlink(missing_ok=True)
    return content


def _rival(note: Mapping[str, Any] | None, test: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return which model it was compared with and its accuracy; None where there was none."""
    if note is None:
        return None
    return {"version": note["version"], "run_id": note["run_id"], "accuracy": test["accuracy"] if test else None}


def _conclude(
    place: RetrainDir,
    run: RunDir,
    registry: Registry,
    version: Version,
    is_better: bool,
    best: Mapping[str, Any] | None = None,
) -> None:
    registry.attach(version, run.decision_file, run.decision_page)
    registry.set_tag(version, "decision", "promoted" if is_better else "not promoted")
    if is_better:
        promote(place, registry, version, best)
    else:
        registry.set_alias(CHALLENGER, version.number)
        note_champion(place, registry)


def _difference(run: RunDir, registry: Registry, version: Version) -> float:
    """Return the largest difference of any probability of the registry's copy from what evaluation saw.

    1, the largest there can be, where the copy is no longer what was registered.
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


def read_comparison(run: RunDir) -> dict[str, Any]:
    """Return comparison.json."""
    return read_object(run.comparison_file, "run `idxtrain retrain` again")


def sync(place: RetrainDir, registry: Registry) -> list[dict[str, Any]]:
    """Register the runs that wait, oldest first; return their decisions. One that was compared with another champion
    than there is now is registered as challenger, and not promoted.
    """
    done = []
    for run_id in place.waiting():
        run = RunDir(place.work.runs / run_id)
        if not run.metrics_file.exists():
            log.warning("models: run %s waited for the registry, but is gone", run_id)
            (place.outbox / f"{run_id}.json").unlink()
            continue
        rivals, now = _read_outbox(place, run_id), note_champion(place, registry)
        champion = rivals.get("champion")
        if now is not None and now["run_id"] not in (run_id, champion["run_id"] if champion else None):
            decided = _register_only(place, run, registry, now)
        else:
            decided = decide_and_register(place, run, runs.read_config(run), champion, registry, rivals.get("best"))
        state = place.read("state")
        if state is not None and state["run_id"] == run_id:
            record(place, run, decided, state)
        done.append(decided)
    return done


def _register_only(place: RetrainDir, run: RunDir, registry: Registry, champion: Mapping[str, Any]) -> dict[str, Any]:
    """Register a run as a challenger that was judged by what is no longer so."""
    version = registry.register(entry_of(run, runs.read_config(run)))
    reason = f"it was compared with another champion than there is now, run {champion['run_id']}"
    content = read_object(run.decision_file, "run `idxtrain retrain` again")
    content |= {"version": version.number, "promote": False, "reason": reason}
    write_json(run.decision_file, content)
    write_page(run, content, read_metrics(run))
    _conclude(place, run, registry, version, False)
    (place.outbox / f"{run.run_id}.json").unlink()
    return content


def _read_outbox(place: RetrainDir, run_id: str) -> dict[str, Any]:
    """Return the notes of the models that a waiting run was compared with, by "champion" and "best"."""
    return read_object(place.outbox / f"{run_id}.json", "remove it")
