"""Promotion and rollback: two aliases move, and a process that is killed in between is made good.

What is to be is written to a journal first. Whoever next works on the model does it again from there: the steps come to
the same, once or twice. The alias `champion` itself moves in one transaction, so a reader sees the old or the new one.
"""

import logging
from typing import Any

from deploy.registry import Registry
from deploy.versions import CHALLENGER, CHAMPION, PREVIOUS, Version
from jobs.errors import InputError
from pipelines.retrain_state import Place

log = logging.getLogger("idxtrain")


def promote(place: Place, registry: Registry, version: Version) -> None:
    """Make a version the champion, and the champion the previous one. What a killed process began is finished first."""
    finish_promotion(place, registry)
    current = registry.by_alias(CHAMPION)
    if current is not None and current.number == version.number:
        log.info("%s: version %d is the champion already", registry.name, version.number)
        return
    _move(place, registry, version, current, is_rollback=False)


def rollback(place: Place, registry: Registry) -> Version:
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


def _move(place: Place, registry: Registry, champion: Version, previous: Version | None, is_rollback: bool) -> None:
    number = previous.number if previous else None
    place.write("promotion", {"champion": champion.number, "previous": number, "is_rollback": is_rollback})
    finish_promotion(place, registry)


def finish_promotion(place: Place, registry: Registry) -> None:
    """Do what the journal says, if there is one; then note the champion for when the registry is away."""
    journal = place.read("promotion")
    if journal is not None:
        if journal["previous"] is not None:
            registry.set_alias(PREVIOUS, int(journal["previous"]))
        registry.set_alias(CHAMPION, int(journal["champion"]))
        challenger = registry.by_alias(CHALLENGER)
        if challenger is not None and challenger.number == int(journal["champion"]):
            registry.drop_alias(CHALLENGER)
    note_champion(place, registry)
    place.remove("promotion")


def note_champion(place: Place, registry: Registry) -> dict[str, Any] | None:
    """Keep a copy of the champion and of what is known of it; return the note, None where there is no champion."""
    version = registry.by_alias(CHAMPION)
    if version is None:
        place.remove("champion")
        return None
    noted = place.read("champion")
    known = noted is not None and (noted["model_sha256"], noted["run_id"]) == (version.model_sha256, version.run_id)
    if known and noted is not None and place.champion_file(noted).exists():
        return noted
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
    return note
