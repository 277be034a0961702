"""Promotion and rollback: two aliases move, and what a kill interrupts is finished by the next process.

The plan is written to a journal first. Whoever works on the model next carries it out from there; its steps give the
same result once or twice. The alias `champion` itself moves in one transaction: a reader sees the old or the new one.
"""

import logging

from deploy.registry.registry import Registry
from deploy.registry.tracking import RegistryDownError
from deploy.registry.versions import CHALLENGER, CHAMPION, PREVIOUS, Version
from jobs.errors import IdxtrainError, InputError
from pipelines.retraining.best_champion import best_besides
from pipelines.retraining.records import BestChampion, Champion, Promotion, TrainingData, validated
from pipelines.retraining.retrain_dir import RetrainDir

log = logging.getLogger("idxtrain")


def promote(retrain_dir: RetrainDir, registry: Registry, version: Version, best: BestChampion | None = None) -> None:
    """Make a version the champion, and the champion the previous one. An interrupted promotion is finished first.

    `best`: for a promotion by the gate, the best champion from then on.
    """
    finish_promotion(retrain_dir, registry)
    current = registry.by_alias(CHAMPION)
    if current is not None and current.number == version.number:
        log.info("%s: version %d is already the champion", registry.name, version.number)
        return
    _move(retrain_dir, registry, version, current, is_rollback=False, best=best)


def rollback(retrain_dir: RetrainDir, registry: Registry) -> Version:
    """Make the previous version the champion again, and the champion the previous one; return the new champion.

    A rollback that was killed is finished, and not undone by a second one. Raises InputError if there is no previous
    champion.
    """
    journal = retrain_dir.read(Promotion)
    finish_promotion(retrain_dir, registry)
    current, previous = registry.by_alias(CHAMPION), registry.by_alias(PREVIOUS)
    if journal is not None and journal.is_rollback and current is not None:
        log.info("%s: finished the interrupted rollback", registry.name)
        return current
    if current is None or previous is None:
        raise InputError(
            f"{registry.name}: found no previous champion, expected one to return to; fix: choose a version from "
            "`idxtrain models list` and promote it"
        )
    _move(retrain_dir, registry, previous, current, is_rollback=True)
    return previous


def _move(
    retrain_dir: RetrainDir,
    registry: Registry,
    champion: Version,
    previous: Version | None,
    *,
    is_rollback: bool,
    best: BestChampion | None = None,
) -> None:
    number = previous.number if previous else None
    retrain_dir.write(Promotion(champion=champion.number, previous=number, is_rollback=is_rollback, best=best))
    finish_promotion(retrain_dir, registry)


def finish_promotion(retrain_dir: RetrainDir, registry: Registry) -> None:
    """Carry out the journal, if there is one; then record the champion for when the registry is unreachable."""
    journal = retrain_dir.read(Promotion)
    if journal is not None:
        if journal.previous is not None:
            registry.set_alias(PREVIOUS, journal.previous)
        registry.set_alias(CHAMPION, journal.champion)
        challenger = registry.by_alias(CHALLENGER)
        if challenger is not None and challenger.number == journal.champion:
            registry.drop_alias(CHALLENGER)
        if journal.best is not None:  # before `record_champion` removes the copies that are no longer needed
            retrain_dir.write(journal.best)
    record_champion(retrain_dir, registry)
    retrain_dir.remove(Promotion)


def record_champion(retrain_dir: RetrainDir, registry: Registry) -> Champion | None:
    """Record the registry's champion, and keep whole copies of it and of the best champion so far.

    Return the champion, or None without one. A damaged copy is fetched again from the registry.
    """
    version = registry.by_alias(CHAMPION)
    if version is None:
        retrain_dir.remove(Champion)
        return None
    champion = retrain_dir.read(Champion)
    if champion is None or (champion.model_sha256, champion.run_id) != (version.model_sha256, version.run_id):
        copy = registry.model_file(version, retrain_dir.models)
        champion = Champion(
            version=version.number,
            run_id=version.run_id,
            model_sha256=version.model_sha256,
            data=_training_data(registry, version),
        )
        retrain_dir.write(champion)
        for old in retrain_dir.models.glob("*.keras"):
            if old != copy and not retrain_dir.is_needed(old):
                old.unlink()
    elif not retrain_dir.has_copy(champion):
        registry.model_file(version, retrain_dir.models)
        log.warning(
            "%s: the champion's copy was damaged or missing; fetched it again from the registry", retrain_dir.name
        )
    _keep_best(retrain_dir, registry, champion)
    return champion


def _training_data(registry: Registry, version: Version) -> TrainingData:
    where = f"{registry.name} version {version.number}, training data"
    return validated(TrainingData, registry.training_data(version), where, "retrain under another --name")


def _keep_best(retrain_dir: RetrainDir, registry: Registry, champion: Champion) -> None:
    """Keep a whole copy of the best champion so far; if it cannot be fetched, the champion takes its place."""
    best = best_besides(retrain_dir, champion)
    if best is None or retrain_dir.has_copy(best):
        return
    try:
        registry.model_file(registry.find(best.run_id), retrain_dir.models)
        log.warning("%s: the best champion's copy was damaged or missing; fetched it again", retrain_dir.name)
    except RegistryDownError:
        raise
    except IdxtrainError as error:
        log.warning("%s: the best champion so far is lost (%s); the champion takes its place", retrain_dir.name, error)
        retrain_dir.remove(BestChampion)
