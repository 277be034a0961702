"""1: seconds from the .gz files to an evaluated model of 99.15 %, with all start-ups."""

import json
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.benchmarks.room import Room
from tests.benchmarks.table import Ratio, Rounds, Section, figure, quotients
from tests.benchmarks.timing import run

ACCURACY = 0.9915


def once(room: Room, number: int) -> dict[str, float]:
    full = number < room.full_rounds
    return _idxtrain(room, number) | _lecture(room, number, full) | _keras(room, number, full)


def _idxtrain(room: Room, number: int) -> dict[str, float]:
    with TemporaryDirectory(dir=room.folder) as work:
        command = [sys.executable, "-m", "pipelines.cli", "run", "--data", str(room.archives()), "--work", work]
        options = [option for setting in room.sizes.settings for option in ("--set", setting)]
        done = run([*command, "--run-id", "b", "--seed", str(number), *options])
        metrics = json.loads((Path(work) / "runs/b/metrics.json").read_text(encoding="utf-8"))
    seconds = {f"idxtrain {stage}": float(spent) for stage, spent in metrics["seconds"].items() if stage != "total"}
    return {"idxtrain": done.seconds, "idxtrain accuracy": metrics["test"]["accuracy"]} | seconds


def _lecture(room: Room, number: int, full: bool) -> dict[str, float]:
    whole = room.sizes.lecture_steps
    steps = whole if full else room.sizes.lecture_part
    script = [sys.executable, "-m", "tests.benchmarks.peers.lecture_script", str(room.archives())]
    done = run([*script, str(steps), str(number)])
    if full:
        return {"lecture": done.seconds, "lecture in full": done.seconds, "lecture accuracy": done.figures["accuracy"]}
    loop = done.figures["loop_seconds"]
    return {"lecture": done.seconds - loop + whole / steps * loop}


def _keras(room: Room, number: int, full: bool) -> dict[str, float]:
    whole = room.sizes.keras_epochs
    script = [sys.executable, "-m", "tests.benchmarks.peers.keras_example", str(room.archives()), str(number)]
    if full:
        done = run([*script, str(whole)])
        return {"keras": done.seconds, "keras in full": done.seconds, "keras accuracy": done.figures["accuracy"]}
    done = run([*script, "1", str(room.sizes.keras_part)])
    epoch = done.figures["epoch_seconds"]
    return {"keras": done.seconds - epoch + whole * done.figures["share"] * epoch}


def section(rounds: Rounds) -> Section:
    accuracy = median(each["idxtrain accuracy"] for each in rounds)
    stages = [name for name in rounds[0] if name.startswith("idxtrain ") and name != "idxtrain accuracy"]
    reached = "" if accuracy >= ACCURACY else f" **idxtrain's median accuracy is below {ACCURACY}.**"
    return Section(
        1,
        "From the .gz files to an evaluated model of 99.15 %",
        (
            Ratio(
                "seconds: `idxtrain run` ÷ the lecture's script", quotients(rounds, "idxtrain", "lecture"), None, 0.1
            ),
            Ratio("seconds: `idxtrain run` ÷ Keras's example", quotients(rounds, "idxtrain", "keras"), None, 1 / 3),
        ),
        (
            figure(rounds, "idxtrain", "`idxtrain run`", ".1f", " s"),
            *(figure(rounds, name, f"— its stage {name.split()[1]}", ".1f", " s") for name in stages),
            figure(rounds, "idxtrain accuracy", "— its test accuracy", ".4f"),
            figure(rounds, "lecture", "the lecture's script, 20,000 steps of 50", ".0f", " s"),
            figure(rounds, "lecture in full", "— measured in full", ".0f", " s"),
            figure(rounds, "lecture accuracy", "— its test accuracy", ".4f"),
            figure(rounds, "keras", "Keras's `mnist_cnn` example with `fit`, 11 epochs of 128", ".0f", " s"),
            figure(rounds, "keras in full", "— measured in full", ".0f", " s"),
            figure(rounds, "keras accuracy", "— its test accuracy", ".4f"),
        ),
        (
            "Each round has its own seed. A peer runs in full only in the rounds of `--full-rounds`. In the others it "
            "runs a few hundred training steps, with its start-up and evaluation, and the time of its loop is scaled "
            f"to the full number of steps.{reached}",
        ),
    )
