"""The evaluation of many images: on several ranks, with the same bits as on one, and in bounded memory."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deploy.launcher.config import LaunchConfig
from deploy.launcher.launch import launch
from deploy.slurm import commands
from deploy.slurm.site import validate
from jobs.batches import read_images, read_labels, read_rows
from jobs.dataset import MANIFEST, Manifest, PixelType, Split, SplitInfo, read_split, shard_path
from jobs.errors import IdxtrainError
from jobs.evaluate.calibration import loss_slopes, with_temperature
from jobs.evaluate.parts import Parts, even_batches, this_world
from jobs.evaluate.predictions import read_predictions
from jobs.evaluate.results import collect
from jobs.files import sealed, write_json
from jobs.run_dir import RunDir
from tests.test_evaluate import REPOSITORY, SHAPE, WIDE, make_run, manifest_of, models, write_shard

__all__ = ["models"]  # a fixture

# Rows of each shard. In batches of 2, which then lie across shards, test is enough for three ranks, validation for two.
SIZES: dict[Split, tuple[int, ...]] = {"validation": (99, 71), "test": (101, 150, 49)}


def add_images(
    folder: Path,
    sizes: dict[Split, tuple[int, ...]],
    shape: tuple[int, int, int] = SHAPE,
    pixel_type: PixelType = "float32",
) -> Manifest:
    """Write random images of three classes in shards of these sizes; return their manifest."""
    random = np.random.default_rng(3)
    splits = {}
    for split, rows in sizes.items():
        shards, counts = [], np.zeros(3, np.int64)
        for number, size in enumerate(rows):
            labels, first = random.integers(0, 3, size), sum(rows[:number])
            images = np.zeros((size, int(np.prod(shape))), np.float32)
            images[:, :20] = random.random((size, 20), np.float32) / 2
            images[np.arange(size), labels] += np.float32(0.2)
            if pixel_type == "uint8":
                images = np.round(255 * images).astype(np.uint8)
            name = shard_path(split, number)
            shards.append(write_shard(folder, name, images, labels, range(first, first + size)))
            counts += np.bincount(labels, minlength=3)
        splits[split] = SplitInfo(rows=sum(rows), label_counts=tuple(counts.tolist()), shards=tuple(shards))
    manifest = manifest_of(shape, np.zeros(0, np.int64), 3, ())
    manifest = manifest.model_copy(update={"splits": {**manifest.splits, **splits}, "pixel_type": pixel_type})
    write_json(folder / MANIFEST, sealed(manifest.model_dump(mode="json")))
    return manifest


def make_larger_run(work: Path, model: Path) -> RunDir:
    run = make_run(work, model)
    add_images(run.work.datasets / "0123456789abcdef", SIZES)
    config = run.read_config()
    write_json(run.config_file, config | {"evaluate": {"batch_size": 2}})
    return run


def start(run: RunDir, ranks: int) -> "subprocess.Popen[str]":
    argv = launch("evaluate", run.path, ranks, LaunchConfig()).argv
    return subprocess.Popen(argv, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)


@pytest.mark.long
def test_one_two_and_three_ranks_write_the_same_bits(tmp_path: Path, models: Path) -> None:
    results = []
    for ranks in (1, 2, 3):
        run = make_larger_run(tmp_path / str(ranks), models / "3.keras")
        process = start(run, ranks)
        _, log = process.communicate()
        assert process.returncode == 0, log
        assert (f"{ranks} ranks share 300 images" in log) == (ranks > 1)
        metrics = json.loads(run.metrics_file.read_text())
        del metrics["seconds"]
        pictures = re.findall("data:image/png;base64,[^\"']+", run.report_file.read_text(encoding="utf-8"))
        results.append((json.dumps(metrics), run.predictions_file.read_bytes(), pictures))
        assert run.record_file("evaluate").exists()
        assert [path.name for path in run.path.iterdir() if path.name.startswith(".")] == []
    assert results[0] == results[1] == results[2]
    assert json.loads(results[0][0])["test"]["count"] == 300
    assert json.loads(results[0][0])["calibration"]["temperature"] is not None
    assert sorted(read_predictions(run.predictions_file)["index"].to_pylist()) == list(range(300))


@pytest.mark.long
def test_a_killed_rank_fails_the_evaluation_and_is_named(tmp_path: Path, models: Path) -> None:
    run = make_larger_run(tmp_path, models / "3.keras")
    process = start(run, 3)
    deadline = time.monotonic() + 60
    while not (victims := [each for each in psutil.Process(process.pid).children() if rank_of(each) == "2"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victims[0].send_signal(signal.SIGKILL)
    _, log = process.communicate()
    assert process.returncode == 1
    [line] = [line for line in log.splitlines() if line.startswith("idxtrain:")]
    assert re.match(r"idxtrain: evaluate: rank 2 on \S+ was killed by SIGKILL", line)
    assert not run.metrics_file.exists()
    assert not run.record_file("evaluate").exists()


def rank_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("HOROVOD_RANK", "")
    except psutil.Error:
        return ""


PEAK = r"""
import re, sys
from pathlib import Path
from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.stage import evaluate
from jobs.run_dir import RunDir
for path in map(Path, sys.argv[1:]):
    evaluate(RunDir(path), EvaluateConfig(batch_size=500))
    print(re.search(r"VmHWM: *([0-9]+)", Path("/proc/self/status").read_text().replace("\t", " "))[1])
"""


@pytest.mark.long
def test_memory_grows_by_less_than_a_fifth_of_the_images(tmp_path: Path, models: Path) -> None:
    """An image has 3,136 bytes, and 32 of it are kept; while these are sorted and counted, as many again."""
    paths = []
    for name, rows in (("few", (5_000,)), ("many", 13 * (5_000,))):
        run = make_run(tmp_path / name, models / "wide.keras")
        add_images(run.work.datasets / "0123456789abcdef", {"test": rows}, WIDE)
        paths.append(str(run.path))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *paths], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    few, many = map(int, done.stdout.split())
    assert 1024 * (many - few) < 60_000 * 3_136 / 5, done.stdout


@settings(deadline=None)  # a busy machine is not an error
@given(rows=st.integers(0, 2000), size=st.integers(1, 9), ranks=st.integers(1, 7))
def test_every_row_is_of_one_rank_and_batches_are_the_same_at_any_number_of_ranks(
    rows: int, size: int, ranks: int
) -> None:
    batches = even_batches(range(rows), size)
    parts = Parts(folder=Path(), key="k", split="test", batches=batches, classes=3, size=ranks)
    shares = [parts.batches_of(rank) for rank in range(ranks)]
    assert [batch for share in shares for batch in share] == batches
    assert [row for batch in batches for row in batch] == list(range(rows))
    assert {len(share) > 0 for share in shares[: parts.ranks]} <= {True}
    assert [row for rank in range(ranks) for row in parts.rows_of(rank)] == list(range(rows))


def test_several_nodes_of_a_site_evaluate_with_a_rank_on_each() -> None:
    site = validate({"train": {"nodes": 2, "ranks_per_node": 8}, "evaluate": {"nodes": 3, "cpus": 4}}, "")
    run = Path("/shared/work/runs/digits")
    how = " ".join(commands.evaluate_launch(site, "python", run).argv)
    assert "deploy.launcher --stage evaluate --np 3 --max-restarts 0 --run-dir /shared/work/runs/digits --site" in how
    assert how.endswith("-m jobs.evaluate /shared/work/runs/digits")
    step = " ".join(commands.rank_step(site.evaluating(), 3))
    assert step.startswith("srun --nodes=3 --ntasks=3 --ntasks-per-node=1 --distribution=block --cpus-per-task=4 ")
    one = commands.evaluate_launch(validate({}, ""), "python", run)
    assert "deploy.launcher" not in one.argv


def test_a_process_without_a_launcher_is_the_only_rank() -> None:
    assert (this_world({}).rank, this_world({}).size) == (0, 1)
    given = {"HOROVOD_RANK": "5", "HOROVOD_SIZE": "6", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2"}
    assert vars(this_world(given)) == {"rank": 5, "size": 6, "local_rank": 1, "local_size": 2}


@pytest.mark.parametrize("batches", [even_batches(range(300), 7), even_batches(range(95, 262), 40), [range(300)]])
@pytest.mark.parametrize("pixel_type", get_args(PixelType))
def test_batches_of_any_rows_hold_the_images_of_these_rows(
    tmp_path: Path, batches: Sequence[range], pixel_type: PixelType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.batches._CHUNK_BYTES", 1000)  # 12 rows: a shard is read in several chunks
    manifest = add_images(tmp_path, SIZES, pixel_type=pixel_type)
    images, labels, indices = read_split(tmp_path, manifest, "test")
    for batch, found in zip(batches, read_images(tmp_path, manifest, "test", batches), strict=True):
        np.testing.assert_array_equal(found, images[batch.start : batch.stop])
    chosen = [299, 3, 100, 101, 3]
    np.testing.assert_array_equal(read_rows(tmp_path, manifest, "test", chosen), images[chosen])
    np.testing.assert_array_equal(read_labels(tmp_path, manifest, "test"), [labels, indices])


@settings(deadline=None, max_examples=25)  # a busy machine is not an error
@given(rows=st.integers(1, 60), classes=st.integers(2, 40), seed=st.integers(0, 10**6), block=st.integers(1, 20))
def test_figures_of_blocks_have_the_bits_of_the_whole(rows: int, classes: int, seed: int, block: int) -> None:
    random = np.random.default_rng(seed)
    whole = random.dirichlet(np.full(classes, 0.2), rows).astype(np.float32)
    labels = random.integers(0, classes + 1, rows).astype(np.int32)  # the last class is unknown

    def collected(blocks: Sequence[NDArray[Any]]) -> list[Any]:
        return list(vars(collect(labels, np.arange(rows), blocks, 1.7)).values())

    starts = range(0, rows, block)
    blocks = [whole[start : start + block] for start in starts]
    for one, other in zip(collected([whole]), collected(blocks), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(collected(blocks)[-1], with_temperature(whole, 1.7).max(axis=1))
    known = labels % classes
    slopes = [loss_slopes(whole[start : start + block], known[start : start + block], 0.6) for start in starts]
    np.testing.assert_array_equal(np.concatenate(slopes), loss_slopes(whole, known, 0.6))


def parts_of(folder: Path, size: int = 2) -> Parts:
    """Return the parts of 200 rows in batches of 2, which two ranks share."""
    return Parts(folder=folder, key="0" * 16, split="test", batches=even_batches(range(200), 2), classes=3, size=size)


def test_a_part_that_lacks_rows_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    parts.write(0, [np.zeros((99, 3), np.float32)])
    assert not parts.is_written(0)
    parts.write(0, [np.zeros((99, 3), np.float32), np.ones((1, 3), np.float32)])
    assert parts.is_written(0)


def test_the_first_rows_may_lie_in_several_parts(tmp_path: Path) -> None:
    parts, rows = parts_of(tmp_path), np.arange(600, dtype=np.float32).reshape(200, 3)
    for rank in range(2):
        parts.write(rank, [rows[parts.rows_of(rank).start : parts.rows_of(rank).stop]])
    assert parts.first(150).tolist() == rows[:150].tolist()
    assert parts.first(1000).tolist() == rows.tolist()


def test_a_rank_that_writes_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.evaluate.parts._STALL_SECONDS", 0.5)
    parts = parts_of(tmp_path)
    parts.write(0, [np.zeros((100, 3), np.float32)])
    (tmp_path / ".abcdefab.tmp-.0000000000000000-test-1-of-2.float32").write_bytes(b"some")
    with pytest.raises(IdxtrainError, match="rank 1 has written nothing for"):
        parts.wait()
