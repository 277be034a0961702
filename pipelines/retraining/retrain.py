"""Retraining that only ever makes things better: new data, a challenger, the gate, and then maybe a new champion.

Safe to run at any time, twice at once, and again after a kill: what is under way is written down before it begins, and
every step may be done twice.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.registry.registry import Registry
from deploy.registry.tracking import RegistryDownError, tracking_uri
from jobs.errors import IdxtrainError
from jobs.fetch.names import find
from jobs.fetch.pairs import find_pairs
from jobs.files import sha256_file, sha256_json
from jobs.run_dir import RunDir
from jobs.stage import is_done
from pipelines import request, runs
from pipelines.config import Config, validate
from pipelines.gate.decision import test_set_problem
from pipelines.request import Options
from pipelines.retraining import notify
from pipelines.retraining.best_champion import best_besides
from pipelines.retraining.promotion import finish_promotion
from pipelines.retraining.prune import Pruning, summary
from pipelines.retraining.register import Outcome, decide_and_register, failure, record, sync
from pipelines.retraining.retrain_dir import BusyError, RetrainDir, require_name
from pipelines.stages import run_stages

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


def retrain(wanted: Retrain) -> Outcome:
    """Retrain if there is a reason to. Raises what the stages raise; a rerun goes on from there."""
    config, place = config_and_place(wanted)
    notify.check(wanted.notify, os.environ)
    try:
        with place.lock():
            return _Retraining(wanted, config, place).run()
    except BusyError as error:
        return Outcome("busy", f"nothing done: {error}")


def config_and_place(wanted: Retrain) -> tuple[Config, RetrainDir]:
    """Return the config that a retraining has, and where it remembers things."""
    values = request.config_of(wanted.options, None).to_json()
    values["fetch"]["parts"] = True
    values["evaluate"]["compare"] = True
    config = validate(values, "retrain")
    name = wanted.name or config.fetch.dataset
    require_name(name)
    return config, RetrainDir(request.work_dir(wanted.options), name)


class _Retraining:
    """One retraining, under the lock of its place."""

    def __init__(self, wanted: Retrain, config: Config, place: RetrainDir) -> None:
        self._wanted, self._config, self._place = wanted, config, place
        self._run: RunDir | None = None

    def run(self) -> Outcome:
        self._tell("again")
        try:
            outcome, registry = self._retrain()
        except Exception as error:  # a full disk or a bug of ours is told, too
            self._tell_failure(error)
            raise
        if outcome.event != "nothing-new":
            self._tell()
        if registry is not None and outcome.event in ("promoted", "rejected"):
            self._prune()
        return outcome

    def _tell_failure(self, error: Exception) -> None:
        news = failure(self._place, self._run.run_id if self._run else None, error)
        if self._run is None and self._place.read("news") is not None:
            return  # an outcome that nobody has got yet says more than an attempt that never came to a run
        try:
            self._place.write("news", news)
        except OSError:  # the disk may be what is full: then once has to do
            notify.notify(news, self._wanted.notify, os.environ)
        else:
            self._tell()

    def _retrain(self) -> tuple[Outcome, Registry | None]:
        """Return what came of it, and the registry where it answered."""
        files = archives(self._config)
        seen, settings = stamps(files), settings_of(self._config)
        is_whole = self._has_copies()
        if is_whole and not self._place.waiting() and self._place.read("promotion") is None:
            nothing = self._nothing_new(files, seen, settings)
            if nothing:
                return nothing, None
        registry = self._registry()
        if registry is not None:
            finish_promotion(self._place, registry)
            if sync(self._place, registry):
                self._tell()
                is_whole = False
            if not is_whole:  # what waited, or the champion that was fetched again, may be what is wanted now
                nothing = self._nothing_new(files, seen, settings)
                if nothing:
                    return nothing, None
        elif not is_whole:
            raise IdxtrainError(
                f"{self._place.name}: found a damaged copy of the champion in {self._place.models}, and no registry to "
                "fetch it from, so a challenger could not be compared; fix: retrain when the registry answers"
            )
        self._warn_of_test_set()
        pending = self._pending(seen, settings, content_of(files))
        self._run = RunDir(self._place.work.runs / pending["run_id"])
        return self._train_and_judge(self._run, pending, registry), registry

    def _has_copies(self) -> bool:
        """Return whether the copies of the models to compare with are whole, as far as there are such models."""
        champion = self._place.read("champion")
        notes = [note for note in (champion, best_besides(self._place, champion)) if note is not None]
        damaged = [note for note in notes if not self._place.has_copy(note)]
        for note in damaged:
            log.info("retrain: the copy of version %s is damaged or missing", note["version"])
        return not damaged

    def _warn_of_test_set(self) -> None:
        """Log before any training where there are too few test images for the gate's delta."""
        from pipelines.plan import test_images

        count = test_images(self._config, self._place.work)
        problem = test_set_problem(self._config.gate, count) if count else None
        if problem and self._place.read("champion") is not None:
            log.warning("retrain: only a clearly better model can be promoted: %s", problem)

    def _nothing_new(self, files: Sequence[Path], seen: Sequence[Any], settings: str) -> Outcome | None:
        """Return the outcome where the last retraining had the same to go by, and all is where it should be."""
        state = self._place.read("state")
        if self._wanted.force or state is None or state["settings"] != settings or not self._is_whole(state):
            return None
        content = state["content"] if state["seen"] == seen else content_of(files)
        if content != state["content"]:
            return None
        self._place.write("state", state | {"seen": seen})
        self._place.remove("pending")
        return Outcome("nothing-new", f"nothing new: {state['text']}")

    def _is_whole(self, state: dict[str, Any]) -> bool:
        """Return whether the last model and our own registry are where they should be."""
        run = RunDir(self._place.work.runs / state["run_id"])
        if not (is_done(run, "train") and is_done(run, "evaluate")):
            log.info("retrain: the last run, %s, is not whole", run.run_id)
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
            and (not pending.get("best") or self._place.has_copy(pending["best"]))
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
            "best": best_besides(self._place, champion),
        }
        self._place.write("pending", pending)
        return pending

    def _train_and_judge(self, run: RunDir, pending: dict[str, Any], registry: Registry | None) -> Outcome:
        config = self._config_for(pending)
        runs.make(self._place.work, run.run_id)
        run_stages(run, config)
        decided = decide_and_register(self._place, run, config, pending["note"], registry, pending.get("best"))
        outcome = record(self._place, run, decided, pending)
        if outcome.event != "promoted":
            log.warning("retrain: %s: %s", outcome.event, decided["reason"])
        self._place.remove("pending")
        return outcome

    def _config_for(self, pending: dict[str, Any]) -> Config:
        values = self._config.to_json()
        values["evaluate"] |= {"champion": pending["champion"], "champion_sha256": pending["champion_sha256"]}
        best = pending.get("best")
        if best:
            values["evaluate"] |= {
                "best": str(self._place.champion_file(best)),
                "best_sha256": best["model_sha256"],
            }
        if pending["initial"]:
            values["train"]["initial_model"] = pending["initial"]
        return validate(values, "retrain")

    def _tell(self, how: str = "") -> None:
        """Tell the last news, which are kept until they are told: after a kill in between, twice, by one id."""
        news = self._place.read("news")
        if news is None:
            return
        if how:
            log.info("retrain: telling the last outcome %s, as it was not told to its end", how)
        if notify.notify(news, self._wanted.notify, os.environ):
            self._place.remove("news")
        else:
            log.warning("retrain: the outcome stays in %s and is told again", self._place.path / "news.json")

    def _prune(self) -> None:
        if self._wanted.keep is None:
            return
        try:
            removed = Pruning(self._place.work, self._wanted.keep, held=self._place).run()
            log.info("retrain: pruned: %s", summary(removed))
        except IdxtrainError as error:
            log.warning("retrain: nothing pruned: %s", error)


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
