"""The best champion so far: challengers are compared with it, too, so that small losses do not add up.

Each promotion may lose a little less than `gate.delta`; n promotions, n times that. So a promotion by the gate also
records which of the compared models was the best on the test set: the challenger, the champion, or the best one before.
All were evaluated on the same images in one process, so a new test set needs no special case.

The record holds for the champion of that promotion. Another champion, after `models promote` or `models rollback`, is a
person's choice: it counts as the best from then on, until that choice is undone.
"""

from deploy.registry.versions import Version
from pipelines.retraining.comparison import Comparison
from pipelines.retraining.records import BestChampion, RegisteredModel, Rivals
from pipelines.retraining.retrain_dir import RetrainDir


def best_besides(retrain_dir: RetrainDir, champion: RegisteredModel | None) -> BestChampion | None:
    """Return the best champion so far; None if it is `champion` itself or unknown."""
    best = retrain_dir.read(BestChampion)
    if champion is None or best is None or best.champion_run != champion.run_id:
        return None
    return None if best.model_sha256 == champion.model_sha256 else best


def best_after(version: Version, accuracy: float, comparison: Comparison, rivals: Rivals) -> BestChampion:
    """Return the best champion once `version`, of that test accuracy, is promoted.

    Of equal accuracies the new version comes first, then the best so far.
    """
    candidates: list[tuple[Version | RegisteredModel, float]] = [(version, accuracy)]
    for rival, rival_accuracy in (
        (rivals.best, comparison.best_accuracy),
        (rivals.champion, comparison.champion_accuracy),
    ):
        if rival is not None and rival_accuracy is not None:
            candidates.append((rival, rival_accuracy))
    best, best_accuracy = max(candidates, key=lambda candidate: candidate[1])
    return BestChampion(
        version=best.number if isinstance(best, Version) else best.version,
        run_id=best.run_id,
        model_sha256=best.model_sha256,
        accuracy=best_accuracy,
        champion_run=version.run_id,
    )
