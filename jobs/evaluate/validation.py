"""What is chosen on the validation split before the test split is measured: see `jobs.evaluate.calibration`."""

from pathlib import Path

import numpy as np

from jobs.dataset import Manifest, read_shard, verify
from jobs.errors import InputError
from jobs.evaluate.calibration import Chosen, choose
from jobs.evaluate.predict import Forward
from jobs.metrics import read_metrics
from jobs.progress import Progress
from jobs.run_dir import RunDir


def chosen_for(run: RunDir, forward: Forward, directory: Path, manifest: Manifest, batch_size: int) -> Chosen:
    """Return the choices for a run, from its dataset's validation split.

    For an evaluation on other data, return those of the run whose model it is, if that run was evaluated.
    """
    if run.origin == run:
        return _choose(forward, directory, manifest, batch_size)
    try:
        earlier = read_metrics(run.origin).calibration
    except InputError:
        return Chosen()
    if earlier is None:
        return Chosen()
    return Chosen(earlier.temperature, earlier.sure.confidence if earlier.sure else None)


def _choose(forward: Forward, directory: Path, manifest: Manifest, batch_size: int) -> Chosen:
    """Evaluate the validation split, one shard in memory at a time, after a check of their checksums."""
    verify(directory, manifest, "validation")
    whole = manifest.splits["validation"]
    probabilities, labels, done = [], [], 0
    with Progress("calibrate", whole.rows, "images") as progress:
        for shard in whole.shards:
            images, numbers, _ = read_shard(directory, manifest, shard)
            probabilities.append(forward(images, batch_size))
            labels.append(numbers)
            done += shard.rows
            progress.update(done)
    if not labels:
        return Chosen()
    return choose(np.concatenate(probabilities), np.concatenate(labels))
