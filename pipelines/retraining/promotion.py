"""Promotion and rollback: two aliases move, and a process that is killed in between is made good.

What is to be is written to a journal first. Whoever next works on the model does it again from there: the steps come to
the same, once or twice. The alias `champion` itself moves in one transaction, so a reader sees the old or the new one.
"""

import logging
from collections.abc import Mapping
from typing import Any

from deploy.registry.registry import Registry
from deploy.registry.tracking import RegistryDownError
from deploy.registry.versions import CHALLENGER, CHAMPION, PREVIOUS, Version
from jobs.errors import IdxtrainError, InputError
from pipelines.retraining.best_champion import best_besides
from pipelines.retraining.retrain_dir import RetrainDir

log = logging.getLogger("idxtrain")


def promote(place: RetrainDir, registry: Registry, version: Version, best: Mapping[str, Any] | None = None) -> None:
    """Make a version the champion, and the champion the previous one. What a killed process began is finished first.

    `best`: the best champion from then on, as `best_after` returns it, for a promotion by the gate.
    """
    finish_promotion(place, registry)
    current = registry.by_alias(CHAMPION)
    if current is not None and current.number == version.number:
        log.info("%s: version %d is the champion already", registry.name, version.number)
        return
    _move(place, registry, version, current, is_rollback=False, best=best)


def rollback(place: RetrainDir, registry: Registry) -> Version:
    """Make the previous version the champion again, and the champion the previous one; return the champion.

    One that was killed is finished, not undone by a second one. Raises InputError where there is no previous champion.
    """
    journal = place.read("promotion")
    finish_promotion(place, registry)
    current, previous = registry.by_alias(CHAMPION), registry.by_alias(PREVIOUS)
    if journal is not None and journal.get("is_rollback") and current is not None:
        log.info("%s: the rollback that was interrupted is finished", registry.name)
        return current
    if current is None or previous is None:
        raise InputError(f"{registry.name}: found no previous champion to go back to; see `idxtrain models list`")
    _move(place, registry, previous, current, is_rollback=True)
    return previous


def _move(
    place: RetrainDir,
    registry: Registry,
    champion: Version,
    previous: Version | None,
    is_rollback: bool,
    best: Mapping[str, Any] | None = None,
) -> None:
    number = previous.number if previous else None
    journal = {"champion": champion.number, "previous": number, "is_rollback": is_rollback}
    place.write("promotion", journal | ({"best": dict(best)} if best else {}))
    finish_promotion(place, registry)


def finish_promotion(place: RetrainDir, registry: Registry) -> None:
    """Do what the journal says, if there is one; then note the champion for when the registry is away."""
    journal = place.read("promotion")
    if journal is not None:
        if journal["previous"] is not None:
            registry.set_alias(PREVIOUS, int(journal["previous"]))
        registry.set_alias(CHAMPION, int(journal["champion"]))
        challenger = registry.by_alias(CHALLENGER)
        if challenger is not None and challenger.number == int(journal["champion"]):
            registry.drop_alias(CHALLENGER)
        if journal.get("best"):  # before the copies that nobody needs go
            place.write("best", journal["best"])
    note_champion(place, registry)
    place.remove("promotion")


def note_champion(place: RetrainDir, registry: Registry) -> dict[str, Any] | None:
    """Keep whole copies of the champion and of the best one so far, and what is known of them; return the champion's
    note, None where there is no champion. A damaged copy is fetched again from the registry.
    """
    version = registry.by_alias(CHAMPION)
    if version is None:
        place.remove("champion")
        return None
    note = place.read("champion")
    if note is None or (note["model_sha256"], note["run_id"]) != (version.model_sha256, version.run_id):
        file = registry.model_file(version, place.models)
        note = {
            "version": version.number,
            "run_id": version.run_id,
            "model_sha256": version.model_sha256,
            "bytes": file.stat().st_size,
            "data": registry.training_data(version),
        }
        place.write("champion", note)
        for old in place.models.glob("*.keras"):
            if old != file and not place.in_use(old):
                old.unlink()
    elif not place.has_copy(note):
        registry.model_file(version, place.models)
        log.warning("%s: the champion's copy was damaged or missing; fetched it again from the registry", place.name)
    _keep_best(place, registry, note)
    return note


def _keep_best(place: RetrainDir, registry: Registry, champion: Mapping[str, Any]) -> None:
    """See to a whole copy of the best champion so far; where nobody has one, begin again with the champion."""
    best = best_besides(place, champion)
    if best is None or place.has_copy(best):
        return
    try:
        registry.model_file(registry.find(str(best["run_id"])), place.models)
        log.warning("%s: the best champion's copy was damaged or missing; fetched it again", place.name)
    except RegistryDownError:
        raise
    except IdxtrainError as error:
        log.warning("%s: the best champion so far is lost (%s); the champion takes its place", place.name, error)
        place.remove("best")
