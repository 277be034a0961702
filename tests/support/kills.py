"""Kill processes of the pipeline with SIGKILL at random moments, and resume the run each time.

    python -m tests.support.kills WORK DATA KILLS SEED

runs a deterministic training undisturbed, then again under KILLS kills, prints a table of the kills, and exits with 0
if both models are bit-equal.
"""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from jobs import training_log
from jobs.checkpoint_names import step_of

# Checkpoints every few steps in mid-epoch, and enough steps for every kill to find a running training.
SETTINGS = {
    "train.deterministic": "true",
    "train.slices": 4,  # of 16 rows; fewer are faster
    "train.batch_size": 16,
    "train.log_every": 10,
    "train.checkpoint_every_steps": 20,
    "launch.max_restarts": 1,
}
OPTIONS = ("--recipe", "lecture", "--np", "2", *(f"--set={key}={value}" for key, value in SETTINGS.items()))
# For each process of the pipeline: the word of its command line that identifies it, and the stage to kill it in.
VICTIMS = {
    "fetch": ("jobs.fetch", "fetch"),
    "prepare": ("jobs.prepare", "prepare"),
    "Spark's Java": ("/bin/java", "prepare"),
    "launcher": ("deploy.launcher", "train"),
    "rank": ("jobs.train", "train"),
    "evaluate": ("jobs.evaluate", "evaluate"),
    "pipeline": ("pipelines.cli", None),  # in any stage
}
STAGES = ("fetch", "prepare", "train", "evaluate")


@dataclass(frozen=True)
class Planned:
    """A planned kill: which process, in which stage, and when: `moment` in [0, 1) of the stage's duration."""

    victim: str
    stage: str
    moment: float


@dataclass(frozen=True, kw_only=True)
class Kill:
    """A kill that was done.

    `seconds`: since its stage's process was first seen. `step`: of the training, 0 before the first. `saved`: after a
    kill of the pipeline while training, the step of the newest checkpoint once all its ranks had ended.
    """

    planned: Planned
    seconds: float
    step: int
    saved: int | None = None


def plan(kills: int, seed: int) -> list[Planned]:
    """Return kills of all kinds of processes, about equally often, in the order of the stages. A function of `seed`."""
    dice = random.Random(seed)  # noqa: S311 (no secret)
    kinds = dice.sample(sorted(VICTIMS), len(VICTIMS))
    victims = [kinds[n % len(kinds)] for n in range(kills)]
    planned = [Planned(victim, VICTIMS[victim][1] or dice.choice(STAGES), dice.random()) for victim in victims]
    return sorted(planned, key=lambda kill: (STAGES.index(kill.stage), kill.moment))


def command(work: Path, data: Path, run_id: str, steps: int) -> list[str]:
    options = ["--data", str(data), "--work", str(work), "--run-id", run_id, "--set", f"train.max_steps={steps}"]
    return [sys.executable, "-m", "pipelines.cli", "run", *options, *OPTIONS]


def run_undisturbed(work: Path, data: Path, steps: int) -> dict[str, float]:
    """Run without kills; return the seconds of each stage."""
    subprocess.run(command(work, data, "undisturbed", steps), check=True, capture_output=True)
    metrics = json.loads((work / "runs/undisturbed/metrics.json").read_text(encoding="utf-8"))
    return {stage: metrics["seconds"][stage] for stage in STAGES}


def run_under_kills(
    work: Path, data: Path, steps: int, planned: Sequence[Planned], lengths: Mapping[str, float]
) -> list[Kill]:
    """Run to the end under these kills; start the pipeline again whenever it has ended.

    `lengths`: the seconds of each undisturbed stage.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / "killed.log").open("ab") as log:

        def begin() -> "subprocess.Popen[bytes]":
            return subprocess.Popen(command(work, data, "killed", steps), stdout=log, stderr=log)

        process = begin()
        done: list[Kill] = []
        for kill in planned:
            struck = None
            while struck is None:
                if finished(work, kill.stage):
                    # The stage ended before the moment of this kill: run it again, and kill it earlier.
                    process.terminate()
                    process.wait()
                    undo_from(work, kill.stage)
                    lengths = {**lengths, kill.stage: lengths[kill.stage] / 2}
                if process.poll() is not None:
                    process = begin()
                struck = strike(process, work, kill, steps, lengths[kill.stage])
            if (kill.victim, kill.stage) == ("pipeline", "train"):
                struck = replace(struck, saved=last_saved_step(work))
            done.append(struck)
        for _ in range(5):
            if process.wait() == 0:
                return done
            process = begin()
    raise RuntimeError(f"the run did not finish; its output is in {work / 'killed.log'}")


def strike(process: "subprocess.Popen[bytes]", work: Path, kill: Planned, steps: int, length: float) -> Kill | None:
    """Kill at the planned moment; return None if the pipeline or the stage ended before it."""
    # The moments of a training are steps, except in the first fifth, which is its start.
    step = max(0, round((kill.moment - 0.2) / 0.8 * steps)) if kill.stage == "train" else 0
    delay = kill.moment * (length if step == 0 else 5.0)
    seen = None
    while process.poll() is None and not finished(work, kill.stage):
        if seen is None and find(process, f"jobs.{kill.stage}"):
            seen = time.monotonic()
        if seen is not None and time.monotonic() >= seen + delay and current_step(work) >= step:
            victims = find(process, VICTIMS[kill.victim][0])  # several ranks, or one
            with suppress(psutil.NoSuchProcess, IndexError):
                struck = Kill(planned=kill, seconds=time.monotonic() - seen, step=current_step(work))
                victims[int(kill.moment * len(victims))].kill()
                return struck
        time.sleep(0.02)
    return None


def find(process: "subprocess.Popen[bytes]", mark: str) -> list[psutil.Process]:
    """Return the processes of the pipeline with `mark` in their command line."""
    try:
        pipeline = psutil.Process(process.pid)
        # A launcher's command line also names the stage that it launches, after the first four words.
        family = [pipeline, *pipeline.children(recursive=True)]
        return [p for p in family if any(mark in word for word in p.cmdline()[:4])]
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def current_step(work: Path) -> int:
    steps = [entry["step"] for entry in training_log.read(work / "runs/killed/logs/train.jsonl")]
    return steps[-1] if steps else 0


def last_saved_step(work: Path) -> int:
    """Wait until no process of the run is left; return the step of its newest checkpoint, 0 without one."""
    run = str(work / "runs/killed")
    while any(run in word for process in psutil.process_iter(["cmdline"]) for word in process.info["cmdline"] or ()):
        time.sleep(0.05)
    # A checkpoint is complete once its checksum has been written.
    complete = (work / "runs/killed/checkpoints").glob("step-*.json")
    return max((step_of(path.with_suffix(".safetensors").name) or 0 for path in complete), default=0)


def finished(work: Path, stage: str) -> bool:
    return (work / f"runs/killed/stages/{stage}.json").exists()


def undo_from(work: Path, stage: str) -> None:
    """Remove the records of a stage and of later ones; keep the checkpoints of the training."""
    for later in STAGES[STAGES.index(stage) :]:
        (work / f"runs/killed/stages/{later}.json").unlink(missing_ok=True)
    if stage in ("fetch", "prepare"):
        shutil.rmtree(work / "datasets", ignore_errors=True)


def weights(work: Path, run_id: str) -> list[str]:
    record = json.loads((work / f"runs/{run_id}/stages/train.json").read_text(encoding="utf-8"))
    digests: list[str] = record["outputs"]["weights_sha256"]
    return digests


def model_weights(work: Path, run_id: str) -> list[bytes]:
    """Return the weights in model.keras as bytes."""
    import keras

    model = keras.models.load_model(work / f"runs/{run_id}/model.keras")
    return [array.tobytes() for array in model.get_weights()]


def table(kills: Sequence[Kill]) -> str:
    lines = ["| kill | stage | process | after, s | at step | saved |", "|---:|---|---|---:|---:|---:|"]
    lines += [
        f"| {n} | {kill.planned.stage} | {kill.planned.victim} | {kill.seconds:.1f} | {kill.step} | {kill.saved} |"
        for n, kill in enumerate(kills, 1)
    ]
    return "\n".join(lines)


def main(work: Path, data: Path, kills: int, seed: int, steps: int = 1200) -> int:
    lengths = run_undisturbed(work, data, steps)
    print(table(run_under_kills(work, data, steps, plan(kills, seed), lengths)))
    equal = weights(work, "undisturbed") == weights(work, "killed")
    print("bit-equal" if equal else "NOT EQUAL", weights(work, "killed")[0])
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
