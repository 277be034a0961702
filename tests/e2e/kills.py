"""Kill -9 at random moments: a process of the pipeline picked at random, again and again, and the run gone on with.

    python -m tests.e2e.kills WORK DATA KILLS SEED

runs a deterministic training undisturbed, then once more under that many kills, prints a table of the kills, and ends
with 0 where both models are bit-equal.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# Mid-epoch checkpoints every few steps, and enough steps for every kill to find a training under way.
SETTINGS = {
    "train.deterministic": "true",
    "train.slices": 4,  # of 16 rows; fewer are quicker
    "train.batch_size": 16,
    "train.log_every": 10,
    "train.checkpoint_every_steps": 20,
    "launch.max_restarts": 1,
}
OPTIONS = ("--recipe", "lecture", "--np", "2", *(f"--set={key}={value}" for key, value in SETTINGS.items()))
VICTIMS = {
    "fetch": "jobs.fetch",
    "prepare": "jobs.prepare",
    "Spark's Java": "/bin/java",
    "launcher": "deploy.gang",
    "rank": "jobs.train",
    "evaluate": "jobs.evaluate",
    "pipeline": "pipelines.cli",
}


@dataclass(frozen=True)
class Kill:
    """One kill: which process, how long after the pipeline was started, and at which training step (0: none yet)."""

    victim: str
    seconds: float
    step: int


def command(work: Path, data: Path, run_id: str, steps: int) -> list[str]:
    options = ["--data", str(data), "--work", str(work), "--run-id", run_id, "--set", f"train.max_steps={steps}"]
    return [sys.executable, "-m", "pipelines.cli", "run", *options, *OPTIONS]


def run_undisturbed(work: Path, data: Path, steps: int) -> None:
    subprocess.run(command(work, data, "undisturbed", steps), check=True, capture_output=True)


def run_under_kills(work: Path, data: Path, steps: int, kills: int, seed: int) -> list[Kill]:
    """Run to the end under so many kills, starting the pipeline again whenever it has ended."""
    dice = random.Random(seed)  # noqa: S311 (no secret: the same seed, the same kills)
    done: list[Kill] = []
    work.mkdir(parents=True, exist_ok=True)
    with (work / "killed.log").open("ab") as log:
        for _ in range(3 * kills + 10):
            process = subprocess.Popen(command(work, data, "killed", steps), stdout=log, stderr=log)
            begin = time.monotonic()
            while process.poll() is None and len(done) < kills:
                wait_for_a_moment(process, work, steps, dice)
                victim = pick(process, dice)
                if victim:
                    done.append(Kill(victim, time.monotonic() - begin, step_of(work)))
            if process.wait() == 0:
                # Kills that are left find nothing more to kill: the last stage is made undone.
                if len(done) >= kills:
                    return done
                undo_last_stage(work, dice)
    raise RuntimeError(f"the run did not come to an end; its output is in {work / 'killed.log'}")


def wait_for_a_moment(process: "subprocess.Popen[bytes]", work: Path, steps: int, dice: random.Random) -> None:
    """Wait for some seconds, which often ends in fetch, prepare or start-up, or for some step of the training.

    A run that ends by itself ends the wait.
    """
    reached = step_of(work)
    target = dice.randint(reached, min(reached + steps // 4, steps)) if dice.random() < 0.6 else None
    deadline = time.monotonic() + (dice.uniform(0.3, 12.0) if target is None else 120.0)
    while process.poll() is None and time.monotonic() < deadline:
        if target is not None and step_of(work) > target:
            return
        time.sleep(0.02)


def pick(process: "subprocess.Popen[bytes]", dice: random.Random) -> str | None:
    """Kill one process of the pipeline, the pipeline included; return what it was, or None where it has ended."""
    try:
        pipeline = psutil.Process(process.pid)
        family = {named: p for p in [pipeline, *pipeline.children(recursive=True)] if (named := name_of(p))}
    except psutil.NoSuchProcess:
        return None
    if not family:
        return None
    victim = dice.choice(sorted(family))
    try:
        family[victim].kill()
    except psutil.NoSuchProcess:
        return None
    return victim.split("#")[0]


def name_of(process: psutil.Process) -> str | None:
    try:
        line = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None
    for victim, mark in VICTIMS.items():
        # A launcher's command line names the stage it launches, too: the first mark in the line is the process's own.
        if any(mark in word for word in line[:4]):
            return f"{victim}#{process.pid}"
    return None


def step_of(work: Path) -> int:
    try:
        lines = (work / "runs/killed/logs/train.jsonl").read_text(encoding="utf-8").splitlines()
        return int(json.loads(lines[-1])["step"])
    except (OSError, ValueError, IndexError):
        return 0


def undo_last_stage(work: Path, dice: random.Random) -> None:
    stages = work / "runs/killed/stages"
    for stage in dice.choice([("evaluate",), ("train", "evaluate")]):
        (stages / f"{stage}.json").unlink()


def weights(work: Path, run_id: str) -> list[str]:
    record = json.loads((work / f"runs/{run_id}/stages/train.json").read_text(encoding="utf-8"))
    found: list[str] = record["outputs"]["weights_sha256"]
    return found


def model_weights(work: Path, run_id: str) -> list[bytes]:
    """The weights inside model.keras, as bytes."""
    import keras

    model = keras.models.load_model(work / f"runs/{run_id}/model.keras")
    return [array.tobytes() for array in model.get_weights()]


def table(kills: Sequence[Kill]) -> str:
    lines = ["| kill | process | after, s | at step |", "|---:|---|---:|---:|"]
    lines += [f"| {n} | {kill.victim} | {kill.seconds:.1f} | {kill.step} |" for n, kill in enumerate(kills, 1)]
    return "\n".join(lines)


def main(work: Path, data: Path, kills: int, seed: int, steps: int = 1200) -> int:
    run_undisturbed(work, data, steps)
    print(table(run_under_kills(work, data, steps, kills, seed)))
    equal = weights(work, "undisturbed") == weights(work, "killed")
    print("bit-equal" if equal else "NOT EQUAL", weights(work, "killed")[0])
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
