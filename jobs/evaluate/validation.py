"""What is chosen on the validation split before the test split is measured: see `jobs.evaluate.calibration`."""

from pathlib import Path

from jobs.batches import read_labels
from jobs.dataset import Manifest
from jobs.errors import InputError
from jobs.evaluate.calibration import Chosen, choose
from jobs.evaluate.parts import Parts, even_batches
from jobs.metrics import read_metrics
from jobs.run_dir import RunDir


def validation_batches(run: RunDir, manifest: Manifest, size: int) -> list[range]:
    """Return the batches of at most `size` rows of the validation split, each of one shard.

    Empty for an evaluation on other data, which uses the choices of the run whose model it is.
    """
    batches, start = [], 0
    for shard in manifest.splits["validation"].shards if run.origin == run else ():
        batches += even_batches(range(start, start + shard.rows), size)
        start += shard.rows
    return batches


def chosen_for(run: RunDir, directory: Path, manifest: Manifest, parts: Parts) -> Chosen:
    """Return the choices for a run, from the predictions on its dataset's validation split.

    For an evaluation on other data, return those of the run whose model it is, if that run was evaluated.
    """
    if run.origin == run:
        return choose(parts.all(), read_labels(directory, manifest, "validation")[0])
    try:
        earlier = read_metrics(run.origin).calibration
    except InputError:
        return Chosen()
    if earlier is None:
        return Chosen()
    return Chosen(earlier.temperature, earlier.sure.confidence if earlier.sure else None)
