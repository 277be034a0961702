"""python -m tests.benchmarks.drawing --work WORK: how many redrawn digits a model classifies correctly.

200 test images of the run's dataset, 20 of each class (the first), are drawn again as strokes: at four places of the
sheet, in three widths of the pen, white on black and black on white. Each drawing goes to the model in the form of the
data, and, for comparison, resized alone, and with each step of the fitting left out. The table shows the share of
correct first guesses.
"""

import os
from argparse import ArgumentParser
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import read_split
from jobs.demo.gallery import Gallery
from jobs.predict.classifier import Classifier
from jobs.predict.drawing import Steps, fitted
from jobs.predict.glyph import Form, measured
from pipelines.model_choice import chosen_model
from tests.support.redrawn import PLACES, WIDTHS, drawn, middle_line

PER_CLASS = 20
RESIZED = Steps(polarity="as-is", center="none", scale=False, thicken=False)
FITTINGS: Mapping[str, Steps] = {
    "fitted": Steps(),
    "resized only": RESIZED,
    "without polarity": Steps(polarity="as-is"),
    "without center": Steps(center="none"),
    "box, not mass": Steps(center="box"),
    "without scale": Steps(scale=False),
    "without stroke width": Steps(thicken=False),
}


def main() -> None:
    """Print a table."""
    parser = ArgumentParser(description="Count the redrawn digits that a model classifies correctly.")
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--run-id")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="validation: to choose by")
    given = parser.parse_args()
    work: Path = given.work
    with chosen_model(given.run_id, work=work) as file:
        classifier = Classifier(file, Path(os.devnull))
    dataset = work / "datasets" / file.manifest.dataset_id
    images, labels, _ = read_split(dataset, file.manifest, given.split)
    form = measured(Gallery(dataset, file.manifest, None).sample(512), file.manifest)
    print(form)
    chosen = np.concatenate([np.flatnonzero(labels == each)[:PER_CLASS] for each in range(file.manifest.classes)])
    lines = [middle_line(images[i, ..., 0]) for i in chosen]
    sheets = {(width, place): [drawn(line, width, place) for line in lines] for width, place in product(WIDTHS, PLACES)}
    print(f"{'':22}" + "".join(f"{f'pen {width}':>8}" for width in WIDTHS) + f"{'inverted':>10}{'all':>8}")
    for name, steps in FITTINGS.items():
        correct = {key: share(classifier, form, steps, each, labels[chosen]) for key, each in sheets.items()}
        by_width = [np.mean([correct[width, place] for place in PLACES]) for width in WIDTHS]
        inverted = np.mean([each[1] for each in correct.values()])
        every = np.mean(list(correct.values()))
        print(f"{name:22}" + "".join(f"{each:8.2%}" for each in by_width) + f"{inverted:10.2%}{every:8.2%}", flush=True)


def share(
    classifier: Classifier, form: Form, steps: Steps, sheets: list[NDArray[Any]], labels: NDArray[Any]
) -> tuple[float, float]:
    """Return the share of correct first guesses, for white ink on black and for black ink on white."""
    shares = []
    for inverted in (False, True):
        drawings = [(255 - sheet if inverted else sheet)[..., None] / np.float32(255) for sheet in sheets]
        probabilities = classifier.probabilities(np.stack([fitted(each, form, steps) for each in drawings]))
        shares.append(float((probabilities.argmax(axis=1) == labels).mean()))
    return shares[0], shares[1]


if __name__ == "__main__":
    main()
