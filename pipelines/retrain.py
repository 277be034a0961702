"""Retraining that only ever makes things better: new data, a challenger, the gate, and then maybe a new champion.

Safe to run at any time, twice at once, and again after a kill: what is under way is written down before it begins, and
every step may be done twice.
"""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deploy.registry import Registry
from deploy.tracking import RegistryDownError, tracking_uri
from deploy.versions import CHALLENGER, Version
from jobs.errors import IdxtrainError, InputError
from jobs.fetch.names import find
from jobs.fetch.pairs import find_pairs
from jobs.files import sha256_file, sha256_json, write_json
from jobs.run_dir import RunDir
from jobs.stage import is_done
from pipelines import notify, request
from pipelines import run as runs
from pipelines.config import Config, validate
from pipelines.decision_page import write_page
from pipelines.judgement import entry_of, judge, read_metrics
from pipelines.options import Options
from pipelines.promotion import finish_promotion, note_champion, promote
from pipelines.prune import Pruning, summary
from pipelines.retrain_state import BusyError, Place
from pipelines.train import result_line, run_stages

Event = Literal["promoted", "rejected", "waiting", "nothing-new", "busy", "failed"]

log = logging.getLogger("idxtrain")


@dataclass(frozen=True)
class Retrain:
    """What `idxtrain retrain` was told. `name`: of the registered model; None: the data set's.

    `keep`: how many of the newest runs stay when a retraining is done; None: all of them.
    """

    options: Options
    name: str | None = None
    warm_start: bool = False
    notify: str | None = None
    force: bool = False
    keep: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of it, and one line for a person."""

    event: Event
    text: str


def retrain(wanted: Retrain) -> Outcome:
    """Retrain if there is a reason to. Raises what the stages raise; a rerun goes on from there."""
    config, place = config_and_place(wanted)
    notify.check(wanted.notify, os.environ)
    try:
        with place.lock():
            return _Retraining(wanted, config, place).run()
    except BusyError as error:
        return Outcome("busy", f"nothing done: {error}")


def config_and_place(wanted: Retrain) -> tuple[Config, Place]:
    """Return the config that a retraining has, and where it remembers things."""
    values = request.config_of(wanted.options, None).to_json()
    values["fetch"]["parts"] = True
    values["evaluate"]["compare"] = True
    config = validate(values, "retrain")
    name = wanted.name or config.fetch.dataset
    if not set(name) <= runs.ID_CHARACTERS or name.startswith(".") or len(name) > 100:
        raise InputError(f"--name {name!r}: expected letters, digits, '.', '_' and '-', not starting with '.'")
    return config, Place(request.place(wanted.options), name)


class _Retraining:
    """One retraining, under the lock of its place."""

    def __init__(self, wanted: Retrain, config: Config, place: Place) -> None:
        self._wanted, self._config, self._place = wanted, config, place

    def run(self) -> Outcome:
        self._tell_again()
        files = archives(self._config)
        seen, state = stamps(files), self._place.read("state")
        settings = settings_of(self._config)
        clean = not self._place.waiting() and self._place.read("promotion") is None
        if state and not self._wanted.force and state["settings"] == settings and clean and self._is_whole(state):
            content = state["content"] if state["seen"] == seen else content_of(files)
            if content == state["content"]:
                self._place.write("state", state | {"seen": seen})
                self._place.remove("pending")
                return Outcome("nothing-new", f"nothing new: {state['text']}")
        registry = self._registry()
        if registry is not None:
            finish_promotion(self._place, registry)
            sync(self._place, registry)
            # A run that waited may be what is wanted now.
            state = self._place.read("state")
        pending = self._pending(seen, settings, content_of(files))
        run = RunDir(self._place.work.runs / pending["run_id"])
        try:
            outcome = self._train_and_judge(run, pending, registry)
        except IdxtrainError as error:
            text = f"{self._place.name}: run {run.run_id} failed: {error}"
            attempt = f"{run.run_id}-failed-{time.time():.0f}"
            self._place.write(
                "news",
                {"id": attempt, "event": "failed", "name": self._place.name, "run_id": run.run_id, "reason": text},
            )
            self._tell()
            raise
        self._tell()
        if registry is not None and outcome.event != "waiting":
            self._prune()
        return outcome

    def _is_whole(self, state: dict[str, Any]) -> bool:
        """Tell whether the last model, the champion's copy and our own registry are where they should be."""
        run, note = RunDir(self._place.work.runs / state["run_id"]), self._place.read("champion")
        if not (is_done(run, "train") and is_done(run, "evaluate")):
            log.info("retrain: the last run, %s, is not whole", run.run_id)
            return False
        if note is not None:
            file = self._place.champion_file(note)
            if not file.exists() or file.stat().st_size != note["bytes"]:
                log.info("retrain: the champion's copy is not whole")
                return False
        own = tracking_uri(self._place.work, os.environ) == tracking_uri(self._place.work, {})
        return not own or (self._place.work.registry / "mlflow.db").exists()

    def _registry(self) -> Registry | None:
        try:
            return Registry(self._place.work, self._place.name, os.environ)
        except RegistryDownError as error:
            log.warning("retrain: %s; training all the same", error)
            return None

    def _pending(self, seen: Sequence[Any], settings: str, content: str) -> dict[str, Any]:
        """Return what is under way: as it was written down, if it is still what is wanted; else written down now."""
        champion = self._place.read("champion")
        champion_run = champion["run_id"] if champion else ""
        pending = self._place.read("pending")
        if (
            pending
            and (pending["settings"], pending["content"]) == (settings, content)
            # It is the champion itself where it was killed just after its promotion.
            and champion_run in (pending["champion_run"], pending["run_id"])
        ):
            log.info("retrain: going on with run %s", pending["run_id"])
            return pending
        file = str(self._place.champion_file(champion)) if champion else ""
        pending = {
            "run_id": runs.new_id(self._config.recipe),
            "settings": settings,
            "content": content,
            "seen": list(seen),
            "champion_run": champion_run,
            "champion": file,
            "champion_sha256": champion["model_sha256"] if champion else "",
            "initial": file if self._wanted.warm_start else "",
            "note": champion,
        }
        self._place.write("pending", pending)
        return pending

    def _train_and_judge(self, run: RunDir, pending: dict[str, Any], registry: Registry | None) -> Outcome:
        config = self._config_for(pending)
        runs.make(self._place.work, run.run_id)
        run_stages(run, config)
        decided = decide_and_register(self._place, run, config, pending["note"], registry)
        event: Event = "waiting" if decided["version"] is None else "promoted" if decided["promote"] else "rejected"
        text = f"{_WORDS[event].format(**decided)}; {result_line(run)}"
        if event != "promoted":
            log.warning("retrain: %s: %s", event, decided["reason"])
        metrics = read_metrics(run)["test"]
        news = {
            "id": f"{run.run_id}-{event}",
            "event": event,
            "name": self._place.name,
            "run_id": run.run_id,
            "version": decided["version"],
            "accuracy": metrics["accuracy"],
            "errors": metrics["errors"],
            "count": metrics["count"],
            "champion": decided["champion"],
            "reason": decided["reason"],
            "checks": decided["checks"],
            "report": str(run.decision_page),
        }
        self._place.write("news", news)  # first: a kill from here on does not lose it
        self._place.write(
            "state",
            {
                "run_id": run.run_id,
                "settings": pending["settings"],
                "content": pending["content"],
                "seen": pending["seen"],
                "event": event,
                "text": text,
            },
        )
        self._place.remove("pending")
        return Outcome(event, text)

    def _config_for(self, pending: dict[str, Any]) -> Config:
        values = self._config.to_json()
        values["evaluate"] |= {"champion": pending["champion"], "champion_sha256": pending["champion_sha256"]}
        if pending["initial"]:
            values["train"]["initial_model"] = pending["initial"]
        return validate(values, "retrain")

    def _tell(self) -> None:
        """Tell the last news, which are kept until they are told: after a kill in between, twice, by one id."""
        news = self._place.read("news")
        if news is not None and notify.notify(news, self._wanted.notify, os.environ):
            self._place.remove("news")

    def _tell_again(self) -> None:
        """Tell what a killed process, or one whose webhook was away, has left untold."""
        if self._place.read("news") is not None:
            log.info("retrain: telling the last outcome again")
            self._tell()

    def _prune(self) -> None:
        if self._wanted.keep is None:
            return
        try:
            removed = Pruning(self._place.work, self._wanted.keep, held=self._place).run()
            log.info("retrain: pruned: %s", summary(removed))
        except IdxtrainError as error:
            log.warning("retrain: nothing pruned: %s", error)


_WORDS = {
    "promoted": "promoted: {name} version {version}",
    "rejected": "not promoted: {name} version {version}: {reason}",
    "waiting": "not registered yet: {name}: the registry is away; `idxtrain models sync` registers the run",
}


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
    """Return the largest difference of any probability of the registry's copy from what evaluation saw."""
    import numpy as np

    with np.load(run.sample_file, allow_pickle=False) as sample:
        return float(np.abs(registry.predict(version, sample["images"]) - sample["probabilities"]).max())


def read_comparison(run: RunDir) -> dict[str, Any]:
    """Return comparison.json."""
    from jobs.run_dir import read_object

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
        champion = _read_outbox(place, run_id)
        now = note_champion(place, registry)
        if now is not None and now["run_id"] not in (run_id, champion["run_id"] if champion else None):
            log.warning(
                "models: run %s was compared with another champion than %s; not promoted", run_id, now["run_id"]
            )
            version = registry.register(entry_of(run, runs.read_config(run)))
            registry.set_alias(CHALLENGER, version.number)
            (place.outbox / f"{run_id}.json").unlink()
            continue
        done.append(decide_and_register(place, run, runs.read_config(run), champion, registry))
    return done


def _read_outbox(place: Place, run_id: str) -> dict[str, Any] | None:
    from jobs.run_dir import read_object

    found: dict[str, Any] | None = read_object(place.outbox / f"{run_id}.json", "remove it").get("champion")
    return found


def archives(config: Config) -> list[Path]:
    """Return the archives in the data folder, all pairs; none where the data set is the catalog's."""
    if not config.fetch.data:
        return []
    folder = Path(config.fetch.data)
    return [*find(folder).values(), *find_pairs(folder).values()]


def stamps(files: Sequence[Path]) -> list[list[Any]]:
    """Return path, size and modification time of each file: a change of content without one of these goes unseen."""
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def content_of(files: Sequence[Path]) -> str:
    """Return a hash of the files' names and content."""
    return sha256_json(sorted([file.parent.name, file.name, sha256_file(file)] for file in files))


def settings_of(config: Config) -> str:
    """Return a hash of all of the config that decides what a model is."""
    values = config.to_json()
    return sha256_json({key: values[key] for key in ("recipe", "seed", "prepare", "train")} | {
        "dataset": config.fetch.dataset
    })  # fmt: skip
