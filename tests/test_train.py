"""The train stage on real shards with real Horovod ranks: rows, weights, resuming, refusals."""

import functools
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from jobs import training_log
from tests.conftest import Idxtrain, MakeArchives, idxtrain_in

# A low rate, so that trainings at two world sizes differ by rounding alone, which a high rate would amplify.
RATE = ("--set", "train.learning_rate=0.0005")
FAST = (
    "--set", "train.batch_size=16", "--set", "train.epochs=2", "--set", "train.audit=true",
    "--set", "train.checkpoint_min_seconds=0", *RATE,
)  # fmt: skip


def result(work: Path, run_id: str) -> dict[str, Any]:
    outputs: dict[str, Any] = json.loads((work / f"runs/{run_id}/stages/train.json").read_text())["outputs"]
    return outputs


def rows_by_step(work: Path, run_id: str, ranks: int) -> list[list[int]]:
    """Return the archive rows of each step's global batch in rank order; check that all ranks list the same steps."""
    audits = [
        [json.loads(line) for line in (work / f"runs/{run_id}/logs/rows.rank-{rank}.jsonl").read_text().splitlines()]
        for rank in range(ranks)
    ]
    steps = [[entry["step"] for entry in audit] for audit in audits]
    assert all(of_rank == list(range(len(steps[0]))) for of_rank in steps)
    return [[row for entry in entries for row in entry["rows"]] for entries in zip(*audits, strict=True)]


def losses(work: Path, run_id: str) -> list[float]:
    """Return the training losses of a run, from its training log."""
    entries = training_log.read(work / f"runs/{run_id}/logs/train.jsonl")
    return [entry["loss"] for entry in entries if entry["kind"] == "train"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> dict[str, Path]:
    """Return archives with a prime number of training rows, and archives with ten training rows."""
    folder = tmp_path_factory.mktemp("archives")
    make_archives(folder / "prime", (8, 8), 3, train=211, test=40)
    make_archives(folder / "ten", (8, 8), 2, train=10, test=4)
    return {"prime": folder / "prime", "ten": folder / "ten"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def trained(archives: dict[str, Path], work: Path) -> Callable[[str, int], str]:
    """Return a function that trains on some archives with some ranks, each once, and returns the run's ID."""

    @functools.cache
    def train(data: str, ranks: int) -> str:
        run_id = f"{data}-{ranks}"
        batch = ("--set", "train.batch_size=4") if data == "ten" else ()
        options = ("--set", "prepare.rows_per_shard=29", "--set", "prepare.validation_rows=0")
        command = ("train", "--data", archives[data], "--work", work, "--run-id", run_id, "--np", ranks)
        done = idxtrain_in(work)(*command, *FAST, *batch, *options)
        assert done.returncode == 0, done.stderr
        return run_id

    return train


@pytest.mark.parametrize(
    ("data", "ranks"),
    [("prime", 1), ("prime", 2), ("prime", 3), pytest.param("ten", 3, marks=pytest.mark.long)],
)
def test_every_row_is_trained_exactly_once_per_epoch(
    trained: Callable[[str, int], str], work: Path, data: str, ranks: int
) -> None:
    run_id = trained(data, ranks)
    outputs = result(work, run_id)
    rows = 211 if data == "prime" else 10
    steps = rows_by_step(work, run_id, ranks)
    per_epoch = len(steps) // 2
    for epoch in (steps[:per_epoch], steps[per_epoch:]):
        assert Counter(row for step in epoch for row in step) == Counter(range(rows))
    assert steps[:per_epoch] != steps[per_epoch:]
    assert outputs["world_size"] == ranks
    assert outputs["steps"] == len(steps)
    assert outputs["images"] == 2 * rows
    # The ranks' weights and optimizer slots are bit-equal at the end.
    assert len(outputs["weights_sha256"]) == ranks
    assert len(set(outputs["weights_sha256"])) == 1
    assert outputs["validation"]["accuracy"] is None


def test_global_batches_are_the_same_at_any_number_of_ranks(trained: Callable[[str, int], str], work: Path) -> None:
    one, two, three = (rows_by_step(work, trained("prime", ranks), ranks) for ranks in (1, 2, 3))
    assert one == two == three


def test_losses_agree_at_any_number_of_ranks(trained: Callable[[str, int], str], work: Path) -> None:
    one, two, three = (losses(work, trained("prime", ranks)) for ranks in (1, 2, 3))
    np.testing.assert_allclose(two, one, rtol=1e-4)
    np.testing.assert_allclose(three, one, rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(("compression", "tolerance"), [("float16", 2e-3), ("bfloat16", 1e-2)])
def test_compressed_gradients_train_almost_the_same(
    idxtrain: Idxtrain,
    archives: dict[str, Path],
    trained: Callable[[str, int], str],
    work: Path,
    compression: str,
    tolerance: float,
) -> None:
    options = (
        "--set",
        "prepare.rows_per_shard=29",
        "--set",
        "prepare.validation_rows=0",
        f"--set=train.compression={compression}",
    )
    done = idxtrain(
        "train", "--data", archives["prime"], "--work", work, "--run-id", compression, "--np", 2, *FAST, *options
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(work, compression), losses(work, trained("prime", 2)), rtol=tolerance)
    digests = set(result(work, compression)["weights_sha256"])
    assert len(digests) == 1
    assert digests != set(result(work, "prime-2")["weights_sha256"])


@pytest.mark.long
def test_deterministic_training_gives_the_same_bits_at_any_number_of_ranks(
    idxtrain: Idxtrain, archives: dict[str, Path], work: Path
) -> None:
    # 16 rows in 12 slices: 5 ranks take 2 or 3 slices each. An epoch ends with a batch of 3 rows: some ranks have none.
    weights = ("--set", "train.class_weights={0 = 3.0, 2 = 0.3}")
    settings = ("--set", "train.deterministic=true", "--set", "train.shift=1", "--recipe", "lecture", *weights, *FAST)
    options = ("--set", "prepare.rows_per_shard=29", "--set", "prepare.validation_rows=0", *settings)
    digests = set()
    for ranks in (1, 3, 5):
        run_id = f"exact-{ranks}"
        # Streamed rows are the same as rows kept in memory, and stored bytes the same as stored floats.
        storage = f"--set=prepare.pixels={'uint8' if ranks > 1 else 'float32'}"
        cache = f"--set=train.cache={'never' if ranks == 3 else 'always'}"
        command = ("train", "--data", archives["prime"], "--work", work, "--run-id", run_id, "--np", ranks)
        done = idxtrain(*command, *options, storage, cache)
        assert done.returncode == 0, done.stderr
        digests |= set(result(work, run_id)["weights_sha256"])
        rows = rows_by_step(work, run_id, ranks)
        assert rows == rows_by_step(work, "exact-1", 1)
        assert Counter(row for step in rows for row in step) == Counter(list(range(211)) * 2)
    assert len(digests) == 1


@pytest.mark.long
def test_batch_normalization_ema_and_augmentation_train_the_same_at_any_number_of_ranks(
    idxtrain: Idxtrain, archives: dict[str, Path], work: Path
) -> None:
    config = {"model": "residual", "ema_decay": 0.9, "label_smoothing": 0.1, "clip_norm": 1, "optimizer": "muon"}
    config |= {
        "elastic": 1,
        "rotate": 10,
        "zoom": 0.1,
        "dropout": 0.2,
        "flip": "true",
        "border": "reflect",
        "cutout": 3,
    }
    settings = [f"--set=train.{key}={value}" for key, value in config.items()]
    options = ("--set", "prepare.rows_per_shard=29", "--set", "prepare.validation_rows=40", *FAST, *settings)
    curves, results = [], []
    for ranks in (1, 2):
        run = work / f"runs/all-{ranks}"
        done = idxtrain(
            "run", "--data", archives["prime"], "--work", work, "--run-id", run.name, "--np", ranks, *options
        )
        assert done.returncode == 0, done.stderr
        curves.append([entry["loss"] for entry in training_log.read(run / "logs/train.jsonl")])
        results.append(json.loads((run / "metrics.json").read_text()))
    # Each epoch of 171 rows has three measurements: after ten full batches, after the smaller last one, and validation.
    assert len(curves[0]) == 2 * 3
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3)
    assert [metrics["test"]["count"] for metrics in results] == [40, 40]
    # The exported model has the EMA of the weights, not the last weights.
    state = load_file(max((work / "runs/all-1/checkpoints").glob("*.safetensors")))
    ema, last = (
        {array.tobytes() for name, array in state.items() if name.startswith(kind)} for kind in ("average.", "weight.")
    )
    exported = {weight.tobytes() for weight in keras.models.load_model(work / "runs/all-1/model.keras").get_weights()}
    assert exported <= ema
    assert not exported & last


def test_a_run_directory_has_the_files_of_the_contract(trained: Callable[[str, int], str], work: Path) -> None:
    run = work / "runs" / trained("prime", 2)
    assert {path.name for path in run.iterdir()} >= {"config.json", "model.keras", "checkpoints", "tensorboard", "logs"}
    assert run.stat().st_mode & 0o077 == 0
    events = b"".join(path.read_bytes() for path in (run / "tensorboard").iterdir())
    for tag in (b"train/loss", b"train/accuracy", b"speed/images_per_second", b"first layer", b"VariableV2"):
        assert tag in events


def test_a_finished_training_is_not_repeated(
    idxtrain: Idxtrain, trained: Callable[[str, int], str], work: Path
) -> None:
    before = (work / "runs" / trained("prime", 1) / "model.keras").stat().st_mtime_ns
    done = idxtrain("train", "--work", work, "--run-id", "prime-1")
    assert done.returncode == 0, done.stderr
    assert "train: already done, skipped" in done.stderr
    assert (work / "runs/prime-1/model.keras").stat().st_mtime_ns == before


def test_a_training_resumes_from_the_last_intact_checkpoint(
    idxtrain: Idxtrain, trained: Callable[[str, int], str], work: Path
) -> None:
    run = work / "runs" / trained("prime", 1)
    expected = result(work, "prime-1")["weights_sha256"]
    (run / "stages/train.json").unlink()
    newest = max((run / "checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    done = idxtrain("train", "--work", work, "--run-id", "prime-1", "--set", "train.log_every=50")
    assert done.returncode == 2  # the config differs from the run's
    done = idxtrain("train", "--work", work, "--run-id", "prime-1")
    assert done.returncode == 0, done.stderr
    assert f"{newest.name}: damaged checkpoint (" in done.stderr
    assert "train: resuming from step 14 of 28" in done.stderr
    assert result(work, "prime-1")["weights_sha256"] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "train.model=nope"), "train.model: found 'nope', expected one of compact, lecture, mnist_cnn"),
        (("--np", "3", "--set", "train.batch_size=2"), "train.batch_size: found 2, the global batch, for 3 ranks"),
        (
            ("--np", "3", "--set", "train.deterministic=true", "--set", "train.slices=2"),
            "train.slices: found 2 for 3 ranks, expected at least one slice per rank",
        ),
        (
            ("--set", "train.deterministic=true", "--set", "train.microbatches=2"),
            "train: found microbatches=2 with deterministic, expected 1",
        ),
        (
            ("--set", "train.deterministic=true", "--set", "train.compression=float16"),
            "train: found compression=float16 with deterministic, expected float32",
        ),
        (
            ("--set", "train.deterministic=true", "--set", "train.model=residual"),
            "train.deterministic: found model residual, whose batch normalization",
        ),
        (("--set", "train.batchsize=2"), "did you mean batch_size or "),
        (("--set", "train.epochs=0"), "train.epochs: found 0"),
        (("--set", "train.learning_rate=fast"), "train.learning_rate: found 'fast'"),
        (("--set", "train.epochs"), "found no '='"),
        (("--recipe", "best.toml"), "best.toml: cannot be read"),
        (("--run-id", "../x"), "expected letters, digits"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line_before_work_starts(
    idxtrain: Idxtrain, archives: dict[str, Path], work: Path, options: tuple[str, ...], message: str
) -> None:
    done = idxtrain("train", "--data", archives["ten"], "--work", work, "--set", "prepare.rows_per_shard=29",
                    "--set", "prepare.validation_rows=0", *options)  # fmt: skip
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("idxtrain:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("model=compact", "max_steps=1", "learning_rate=1e35"),
            r"train: step 1: found weights or outputs that are not finite after the update, .*; fix: lower ",
        ),
        (
            ("model=lecture", "max_steps=9", "optimizer=sgd", "learning_rate=50", "log_every=1", "deterministic=true"),
            r"train: step \d: found gradients up to \S+ in sum, expected less than 512, .*; fix: lower ",
        ),
    ],
)
def test_a_training_that_diverges_ends_with_an_error_and_without_a_record(
    idxtrain: Idxtrain, archives: dict[str, Path], work: Path, settings: tuple[str, ...], message: str
) -> None:
    run = work / f"runs/diverged-{settings[0].partition('=')[2]}"
    done = idxtrain(
        "train", "--data", archives["ten"], "--work", work, "--run-id", run.name, "--set", "prepare.rows_per_shard=29",
        "--set", "prepare.validation_rows=0", "--set", "train.batch_size=10", *(f"--set=train.{s}" for s in settings),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("idxtrain:")]
    assert re.match(f"idxtrain: {message}", error)
    assert not (run / "stages/train.json").exists()
    states = [load_file(path) for path in (run / "checkpoints").glob("*.safetensors")]
    assert all(np.isfinite(array).all() for state in states for array in state.values())


# A rank that gets SIGTERM just as it measures the last step of its first epoch.
STOPPED = """
import os, signal, sys
from jobs.tensorflow_import import import_tensorflow
from pathlib import Path
import_tensorflow(Path(os.devnull))
from jobs.train import worker
measure = worker.Training._measure
def measure_and_stop(training, step, rows):
    if step == training.order.steps:
        signal.raise_signal(signal.SIGTERM)
    return measure(training, step, rows)
worker.Training._measure = measure_and_stop
from jobs.train.__main__ import main
from jobs.stage import run_as_process
run_as_process("train", main)
"""


@pytest.mark.long
def test_a_training_stopped_at_the_end_of_an_epoch_validates_it_when_resumed(
    idxtrain: Idxtrain, archives: dict[str, Path], work: Path
) -> None:
    run = work / "runs/stopped"
    options = ("--set", "prepare.rows_per_shard=29", "--set", "prepare.validation_rows=40", *FAST)
    prepared = idxtrain("prepare", "--data", archives["prime"], "--work", work, "--run-id", run.name, *options)
    assert prepared.returncode == 0, prepared.stderr
    stopped = subprocess.run([sys.executable, "-c", STOPPED, run], capture_output=True, text=True, check=False)
    assert stopped.returncode == 75, stopped.stderr
    (checkpoint,) = (run / "checkpoints").glob("*.safetensors")
    assert checkpoint.name == "step-00000011.safetensors"
    done = idxtrain("train", "--work", work, "--run-id", run.name)
    assert done.returncode == 0, done.stderr
    entries = training_log.read(run / "logs/train.jsonl")
    assert [entry["step"] for entry in entries if entry["kind"] == "validation"] == [11, 22]


@pytest.mark.long
def test_an_altered_dataset_is_refused(idxtrain: Idxtrain, archives: dict[str, Path], work: Path) -> None:
    options = ("--data", archives["ten"], "--work", work, "--set", "prepare.rows_per_shard=3", "--run-id", "tampered")
    assert idxtrain("prepare", *options).returncode == 0
    record = json.loads((work / "runs/tampered/stages/prepare.json").read_text())
    shard = Path(record["outputs"]["dataset"]) / "train/part-00001.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    done = idxtrain("train", "--work", work, "--run-id", "tampered")
    assert done.returncode == 2
    assert "part-00001.parquet: found SHA-256" in done.stderr
