"""The best champion so far: challengers are compared with it, too, so that small losses do not add up.

Each promotion may lose a little less than `gate.delta`; n of them, n times that. So a gate's promotion also writes down
which of the models it compared was the best on the test set: the challenger, the champion, or the best one before.
All were evaluated on the same images in one process, so a new test set needs no rule of its own.

It holds for the champion that this gate made. Another champion, as after `models promote` or `models rollback`, was a
person's choice: from there it begins again, unless that choice is undone.
"""

from collections.abc import Mapping
from typing import Any

from deploy.registry.versions import Version
from pipelines.retraining.retrain_dir import RetrainDir


def best_besides(place: RetrainDir, champion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the note of the best champion so far, None where it is the champion itself or there is none.

    `champion`: its note, as champion.json has it. The note: version, run_id, model_sha256 and accuracy.
    """
    best = place.read("best")
    if champion is None or best is None or best["champion_run"] != champion["run_id"]:
        return None
    return None if best["model_sha256"] == champion["model_sha256"] else best


def best_after(
    version: Version, accuracy: float, comparison: Mapping[str, Any], rivals: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, Any]:
    """Return the note of the best champion once `version`, of that test accuracy, is promoted.

    Of equals it is that version, then the best so far.

    `comparison`: comparison.json. `rivals`: the notes, by "best" and "champion", of the models that are in it.
    """
    challenger = {"version": version.number, "run_id": version.run_id, "model_sha256": version.model_sha256}
    candidates: list[dict[str, Any]] = [challenger | {"accuracy": accuracy}]
    for key in ("best", "champion"):
        note, test = rivals.get(key), comparison.get(key)
        if note is not None and test is not None:
            kept = {name: note[name] for name in ("version", "run_id", "model_sha256")}
            candidates.append(kept | {"accuracy": test["accuracy"]})
    best = max(candidates, key=lambda each: float(each["accuracy"]))
    return best | {"champion_run": version.run_id}
