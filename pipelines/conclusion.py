"""From a finished run to its place in the registry: judged, registered, promoted or not, and written down."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deploy.registry import Registry
from deploy.tracking import RegistryDownError
from deploy.versions import CHALLENGER, Version
from jobs.errors import IdxtrainError
from jobs.files import write_json
from jobs.run_dir import RunDir, read_object
from pipelines import run as runs
from pipelines.config import Config
from pipelines.decision_page import write_page
from pipelines.judgement import entry_of, judge, read_metrics
from pipelines.promotion import note_champion, promote
from pipelines.retrain_state import Place
from pipelines.train import result_line

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


def record(place: Place, run: RunDir, decided: Mapping[str, Any], inputs: Mapping[str, Any]) -> Outcome:
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


def failure(place: Place, run: RunDir, reason: str) -> dict[str, Any]:
    """Return the news of a retraining that failed; each attempt's have an ID of their own."""
    text = f"{place.name}: run {run.run_id} failed: {reason}"
    identity = f"{run.run_id}-failed-{time.time():.0f}"
    return {"id": identity, "event": "failed", "name": place.name, "run_id": run.run_id, "reason": text}


def decide_and_register(
    place: Place, run: RunDir, config: Config, champion: dict[str, Any] | None, registry: Registry | None
) -> dict[str, Any]:
    """Pass a finished run through the gate, register it, promote it or not; return what decision.json holds.

    Where the registry is away, the run waits in the outbox. `champion`: the note of the one it was compared with.
    """
    version: Version | None = None
    difference = 0.0
    try:
        if registry is not None:
            version = registry.register(entry_of(run, config))
            difference = _difference(run, registry, version)
    except RegistryDownError as error:
        log.warning("retrain: %s; the run is kept, `idxtrain models sync` registers it", error)
        version = None
    decision = judge(run, config, champion, difference)
    accuracy = (read_comparison(run).get("champion") or {}).get("accuracy")
    content = {
        "name": place.name,
        "run_id": run.run_id,
        "version": version.number if version else None,
        "champion": {"version": champion["version"], "run_id": champion["run_id"], "accuracy": accuracy}
        if champion
        else None,
        **decision.to_json(),
    }
    write_json(run.decision_file, content)
    write_page(run, content, read_metrics(run))
    if version is None or registry is None:
        write_json(place.outbox / f"{run.run_id}.json", {"champion": champion})
        return content
    try:
        _conclude(place, run, registry, version, decision.promote)
    except RegistryDownError as error:
        log.warning("retrain: %s; `idxtrain models sync` finishes what is left", error)
        write_json(place.outbox / f"{run.run_id}.json", {"champion": champion})
        return content | {"version": None}
    (place.outbox / f"{run.run_id}.json").unlink(missing_ok=True)
    return content


def _conclude(place: Place, run: RunDir, registry: Registry, version: Version, is_better: bool) -> None:
    registry.attach(version, run.decision_file, run.decision_page)
    registry.note(version, "decision", "promoted" if is_better else "not promoted")
    if is_better:
        promote(place, registry, version)
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


def sync(place: Place, registry: Registry) -> list[dict[str, Any]]:
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
        champion, now = _read_outbox(place, run_id), note_champion(place, registry)
        if now is not None and now["run_id"] not in (run_id, champion["run_id"] if champion else None):
            decided = _register_only(place, run, registry, now)
        else:
            decided = decide_and_register(place, run, runs.read_config(run), champion, registry)
        state = place.read("state")
        if state is not None and state["run_id"] == run_id:
            record(place, run, decided, state)
        done.append(decided)
    return done


def _register_only(place: Place, run: RunDir, registry: Registry, champion: Mapping[str, Any]) -> dict[str, Any]:
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


def _read_outbox(place: Place, run_id: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = read_object(place.outbox / f"{run_id}.json", "remove it").get("champion")
    return found
