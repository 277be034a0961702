"""python -m tests.benchmarks.split_rules WORK QMNIST_TRAIN_LABELS: how far validation is from test, by split rule.

Trains three recipes on MNIST with each rule that holds out validation rows, and prints |validation − test| accuracy.
The second argument is QMNIST's `qmnist-train-labels-idx2-int.gz`, which states the writer of each image: with
`validation_from=group` no writer is in both splits. Finished runs in WORK are used again.
"""

import json
import subprocess
import sys
from math import sqrt
from pathlib import Path

from jobs.metrics import Metrics
from jobs.text_table import text_table

_WRITER = 2  # QMNIST's column
_RECIPES: dict[str, tuple[str, ...]] = {
    "softmax": (),
    "fast": (),
    "keras": ("train.epochs=3",),  # of 12, for time: the rules are compared, not the recipes
}


def main() -> None:
    """Run all trainings, then print the table."""
    work, writers = Path(sys.argv[1]), Path(sys.argv[2])
    grouped = ("prepare.validation_from=group", f"prepare.groups={writers}", f"prepare.group_column={_WRITER}")
    rules: dict[str, tuple[str, ...]] = {
        rule: (f"prepare.validation_from={rule}",) for rule in ("first", "spread", "stratified")
    }
    rules["group (writer)"] = grouped
    rows = []
    for recipe, options in _RECIPES.items():
        for rule, settings in rules.items():
            metrics = _metrics(work, recipe, rule.split()[0], (*options, *settings))
            validation, test = metrics.validation.accuracy or 0.0, metrics.test.accuracy
            count = metrics.validation.count
            noise = sqrt(test * (1 - test) * (1 / count + 1 / metrics.test.count))
            row = (recipe, rule, count, validation, test, abs(validation - test), noise)
            rows.append((*row[:3], *(f"{100 * each:.2f}" for each in row[3:])))
    header = ("recipe", "rule", "validation rows", "validation %", "test %", "|difference|", "standard error")
    print("\n".join(text_table(header, rows, right=range(2, len(header)))))


def _metrics(work: Path, recipe: str, rule: str, settings: tuple[str, ...]) -> Metrics:
    run_id = f"{recipe}-{rule}"
    assignments = [part for setting in settings for part in ("--set", setting)]
    command = [str(Path(sys.executable).with_name("idxtrain")), "run", "--recipe", recipe, "--work", str(work)]
    subprocess.run([*command, "--run-id", run_id, *assignments], check=True, stdout=subprocess.DEVNULL)
    return Metrics.model_validate(json.loads((work / "runs" / run_id / "metrics.json").read_text()))


if __name__ == "__main__":
    main()
