"""Data sets of many archive pairs: which pairs are found, what Spark decodes, and that the dataset is as any other."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import dataset, segments
from jobs.archive import ROLES
from jobs.description import Description
from jobs.errors import InputError
from jobs.fetch.config import FetchConfig
from jobs.fetch.pairs import find_pairs
from jobs.fetch.stage import fetch
from jobs.prepare import idx
from jobs.prepare.compose import read_pairs
from jobs.prepare.config import PrepareConfig
from jobs.prepare.inputs import Inputs
from jobs.prepare.labels import ClassMap
from jobs.prepare.stage import dataset_id
from jobs.run_dir import Work
from jobs.stage import dataset_of
from pipelines.config import compose
from pipelines.plan import lines, plan_training
from tests.conftest import MakeArchives
from tests.support.prepared import new_run, start

CONFIG = PrepareConfig(rows_per_shard=64)


def add_pair(folder: Path, tag: str, make_archives: MakeArchives, tmp_path: Path, rows: int = 130, **how: Any) -> None:
    """Put another training pair into a data folder, under its tag."""
    made = make_archives(tmp_path / f"made-{tag}", train=rows, gz=False, seed=hash_of(tag), **how)
    for kind in ("images", "labels"):
        path = made[f"train_{kind}"].path
        path.rename(folder / path.name.replace(f"{kind}-", f"{kind}-{tag}-"))


def hash_of(tag: str) -> int:
    return sum(map(ord, tag))


def fetched(folder: Path, work: Path) -> dict[str, Any]:
    config = FetchConfig(dataset="own", data=str(folder), segments=True)
    return dict(fetch(config, work / "archives", work / ".locks").archives)


def prepared(folder: Path, work: Path, run_id: str) -> tuple[Path, str]:
    """Prepare the folder in its current state; return the dataset and the log."""
    run = new_run(work, fetched(folder, work), CONFIG, run_id)
    with start(run) as process:
        _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return dataset_of(run), stderr


def segment_ids(config: PrepareConfig, archives: dict[str, Any], scratch: Path) -> list[str]:
    """Return the IDs of a data set's training segments."""
    inputs = Inputs(config, archives, Description())
    training = read_pairs(inputs, scratch)[1]
    counts = reduce(add, [pair.counts for pair in training])
    return [pair.segment_id(inputs, ClassMap(counts.labels, len(counts.labels))) for pair in training]


def decoded(stderr: str) -> int:
    """Return the number of rows that Spark decoded, from the log."""
    return sum(
        int(line.split(": ")[2].split()[0].replace(",", "")) for line in stderr.splitlines() if "rows decoded" in line
    )


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> dict[str, Any]:
    """Prepare a data folder, add a pair, and prepare it again."""
    root = tmp_path_factory.mktemp("grown")
    folder, work = root / "data", root / "work"
    make_archives(folder, gz=True)
    first, first_log = prepared(folder, work, "r1")
    before = {path: path.stat().st_mtime_ns for path in (work / "segments").rglob("*.parquet")}
    add_pair(folder, "2026-02-01", make_archives, root)
    second, second_log = prepared(folder, work, "r2")
    return {
        "folder": folder,
        "work": work,
        "datasets": (first, second),
        "logs": (first_log, second_log),
        "before": before,
    }


def test_only_the_new_pair_is_decoded(grown: dict[str, Any]) -> None:
    assert decoded(grown["logs"][0]) == 600 + 100
    assert decoded(grown["logs"][1]) == 130
    assert "2 archive pairs, 2 of them new" in grown["logs"][0]
    assert "3 archive pairs, 1 of them new" in grown["logs"][1]
    assert {path: path.stat().st_mtime_ns for path in grown["before"]} == grown["before"]
    new = set((grown["work"] / "segments").rglob("*.parquet")) - grown["before"].keys()
    assert len({path.parent.parent for path in new}) == 1


def test_the_dataset_holds_every_row_of_every_pair_once(grown: dict[str, Any]) -> None:
    directory = grown["datasets"][1]
    manifest = dataset.read_manifest(directory)
    dataset.verify(directory, manifest, *dataset.SPLITS)
    assert {split: info.rows for split, info in manifest.splits.items()} == {
        "train": 550 + 120,
        "validation": 50 + 10,
        "test": 100,
    }
    known = {info.tag: info for info in segments.read_segments(directory)}
    assert list(known) == ["", "2026-02-01"]
    archives = fetched(grown["folder"], grown["work"])
    for tag, info in known.items():
        images = idx.read(archives[segments.key("train_images", tag)].path)
        labels = idx.read(archives[segments.key("train_labels", tag)].path)
        seen = []
        for split in ("train", "validation"):
            pixels, classes, indices = dataset.read_split(directory, manifest, split)
            of_segment = indices >> 32 == segments.first_index(info.segment_id) >> 32
            rows = indices[of_segment] & 0xFFFFFFFF
            assert np.array_equal(pixels[of_segment][..., 0], (images[rows] / 255).astype(np.float32))
            assert np.array_equal(classes[of_segment], labels[rows])
            seen += rows.tolist()
            if split == "train":
                assert tuple(np.bincount(labels[rows], minlength=3)) == info.label_counts
                assert info.mean == pytest.approx(images[rows].mean() / 255)
                assert info.std == pytest.approx((images[rows] / 255).std())
        assert sorted(seen) == list(range(len(images))) == list(range(info.rows))
    pixels, _, _ = dataset.read_split(directory, manifest, "train")
    assert manifest.pixels.mean == pytest.approx(pixels.mean(dtype=np.float64))
    assert manifest.pixels.std == pytest.approx(pixels.std(dtype=np.float64))
    _, classes, indices = dataset.read_split(directory, manifest, "test")
    assert indices.tolist() == list(range(100))
    assert np.array_equal(classes, idx.read(archives["test_labels"].path))
    firsts = [shard.first_index for shard in manifest.splits["train"].shards]
    assert len(set(firsts)) == len(firsts)


def test_the_plan_counts_all_pairs_as_prepare_does(grown: dict[str, Any]) -> None:
    settings = {"fetch.data": str(grown["folder"]), "fetch.dataset": "data", "prepare.rows_per_shard": 64}
    planned = plan_training(compose("fast", settings), Work(grown["work"]), 2)
    manifest = dataset.read_manifest(grown["datasets"][1])
    assert planned.pairs == 2
    assert planned.shards == {
        split: tuple(shard.rows for shard in info.shards) for split, info in manifest.splits.items()
    }
    assert "pairs       2 training pairs" in lines(planned)


def test_a_dataset_takes_no_disk_space_beside_its_segments(grown: dict[str, Any]) -> None:
    for directory in grown["datasets"]:
        for path in directory.glob("*/*.parquet"):
            assert path.stat().st_nlink >= 2
    assert segments.segment_ids(grown["datasets"][1]) >= segments.segment_ids(grown["datasets"][0])
    assert {path.name for path in (grown["work"] / "segments").iterdir()} == segments.segment_ids(grown["datasets"][1])


def test_a_damaged_segment_is_made_again(grown: dict[str, Any], tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(grown["work"] / "segments", work / "segments")
    damaged = sorted((work / "segments").glob("*/train/*.parquet"))[0]
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-100] + bytes(100))
    (work / "segments/.tmp-of-a-dead-process").mkdir()
    directory, stderr = prepared(grown["folder"], work, "r1")
    assert "3 archive pairs, 1 of them new" in stderr
    assert damaged.read_bytes() == content
    assert not list((work / "segments").glob(".tmp-*"))
    assert directory.name == grown["datasets"][1].name
    dataset.verify(directory, dataset.read_manifest(directory), *dataset.SPLITS)


def test_test_images_in_a_segment_are_logged(tmp_path: Path, make_archives: MakeArchives) -> None:
    folder, work = tmp_path / "data", tmp_path / "work"
    archives = make_archives(folder, gz=False)
    add_pair(folder, "b", make_archives, tmp_path, rows=24)
    path = folder / "train-images-b-idx3-ubyte"
    images = idx.read(path)
    images[7] = idx.read(archives["test_images"].path)[3]
    path.unlink()
    idx.write(path, images)
    directory, stderr = prepared(folder, work, "r1")
    duplicates = dataset.read_manifest(directory).duplicates
    (info,) = [info for info in segments.read_segments(directory) if info.tag == "b"]
    assert duplicates.test_images_in_train == 1
    assert duplicates.examples == ((3, segments.first_index(info.segment_id) + 7),)
    assert segments.archive_row(duplicates.examples[0][1], [info]) == ("train_images@b", 7)
    assert segments.archive_row(7, []) == ("train_images", 7)
    assert "row 3 of t10k-images-idx3-ubyte is row 7 of train-images-b-idx3-ubyte (from 0)" in stderr


def test_a_segment_id_depends_on_content_and_options_not_on_the_tag(
    tmp_path: Path, make_archives: MakeArchives, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    make_archives(folder)
    add_pair(folder, "a", make_archives, tmp_path)
    archives = fetched(folder, tmp_path / "work")
    ids = segment_ids(CONFIG, archives, tmp_path)
    for kind, ending in (("images", "idx3"), ("labels", "idx1")):
        (folder / f"train-{kind}-a-{ending}-ubyte").rename(folder / f"train-{kind}-z-{ending}-ubyte")
    renamed = fetched(folder, tmp_path / "work")
    assert segment_ids(CONFIG, renamed, tmp_path) == ids
    for other in (PrepareConfig(rows_per_shard=65), PrepareConfig(rows_per_shard=64, pixels="uint8")):
        assert not set(segment_ids(other, renamed, tmp_path)) & set(ids)


def test_a_pair_with_two_tags_counts_once(tmp_path: Path, make_archives: MakeArchives) -> None:
    folder = tmp_path / "data"
    make_archives(folder)
    (folder / "again").mkdir()
    for path in folder.glob("train-*"):
        shutil.copy(path, folder / "again" / path.name)
    archives = fetched(folder, tmp_path / "work")
    assert segments.tags(archives) == ["", "again"]
    assert len(segment_ids(CONFIG, archives, tmp_path)) == 1


def test_one_plain_pair_makes_no_segments(tmp_path: Path, make_archives: MakeArchives) -> None:
    folder = tmp_path / "data"
    make_archives(folder)
    plain = fetch(FetchConfig(dataset="own", data=str(folder)), tmp_path / "archives", tmp_path / "locks").archives
    assert tuple(plain) == ROLES
    assert segments.tags(plain) == []
    assert dataset_id(CONFIG, plain) != dataset_id(CONFIG, fetched(folder, tmp_path))


@pytest.mark.parametrize(
    ("names", "tags"),
    [
        (["train-images-2026-02-01-idx3-ubyte.gz", "train-labels-2026-02-01-idx1-ubyte"], ["2026-02-01"]),
        (["train-images.day1.idx3-ubyte", "train-labels.day1.idx1-ubyte"], ["day1"]),
        (["b/train-images-idx3-ubyte", "b/train-labels-idx1-ubyte", "b/README"], ["b"]),
        (["b/train-images-idx3-ubyte", "b/train-labels-idx1-ubyte", "b/t10k-images-idx3-ubyte"], []),
        (["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "train-pictures-x-idx3-ubyte", ".x/train"], []),
        (["train-images-a-idx3-ubyte", "train-images-a-idx3-ubyte.gz", "train-labels-a-idx1-ubyte"], ["a"]),
        (["train-images-a-idx3-ubyte.gz.part", "train-labels-a-idx1-ubyte.bak", ".train-images-a-idx3-ubyte"], []),
        ([".old/train-images-idx3-ubyte", ".old/train-labels-idx1-ubyte"], []),
        *(
            ([f"train-images-{tag}-idx3-ubyte", f"train-labels-{tag}-idx1-ubyte.gz"], [tag])
            for tag in ("2026-11-27T03:00", "monday (2)", "Monday_ä", "week+1", "漢", ".x", "a@b", "x" * 80)
        ),
        *(
            ([f"{tag}/train-images-idx3-ubyte", f"{tag}/train-labels.idx1-ubyte"], [tag])
            for tag in ("week 2", "2026-11-27T03:00", "+", "x" * 80)
        ),
    ],
)
def test_pairs_are_found_by_name_or_folder(tmp_path: Path, names: list[str], tags: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    pairs = find_pairs(tmp_path)
    assert segments.tags(pairs) == tags
    assert all(not path.name.endswith(".gz") for path in pairs.values() if path.with_name(path.name[:-3]).exists())


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train-images-a-idx3-ubyte"], "found no train_labels of a for it; fix: add that archive"),
        (["train-labels-a-idx1-ubyte"], "found no train_images of a for it"),
        (["test-images-a-idx3-ubyte"], "found a test archive with a tag, expected one untagged test pair"),
        (["a/train-images-idx3-ubyte", "train-images-a-idx3-ubyte"], "found .* for train_images of a too"),
        (["t10k-images-week 2-idx3-ubyte"], "found a test archive with a tag, expected one untagged test pair"),
        (["week 2/train-images-idx3-ubyte"], "found no train_labels of week 2 for it; fix: add that archive"),
    ],
)
def test_an_incomplete_or_ambiguous_pair_is_refused(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=words):
        find_pairs(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "train-images--idx3-ubyte",
        "train-images- -idx3-ubyte",
        "train-images-two\nlines-idx3-ubyte",
        "train-images_monday-idx3-ubyte.gz",
        "train-images-monday_idx3-ubyte",
        "train-images monday idx3-ubyte",
        "train_images-monday-idx3-ubyte",
        "Train-Labels-Monday-IDX5-ubyte",
        "train-labels-monday-idx1",
        "train-images-monday.idx3.gz",
        "t10k-images_monday-idx3-ubyte",
    ],
)
def test_a_name_that_is_almost_an_archive_name_is_refused_with_the_rule(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        find_pairs(tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(tmp_path / name).replace("\n", "\\n"))
    assert (
        "expected train-images-TAG-idx3-ubyte or train-labels-TAG-idx1-ubyte (also .idx for -idx, and with .gz)" in text
    )
    assert text.endswith("; fix: rename it, or move it out of --data")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("week2/train-images-monday-idx3-ubyte", "week2/train-images-monday-idx3-ubyte"),
        ("two\nlines/train-images-idx3-ubyte", "two\\nlines"),
    ],
)
def test_a_pair_in_a_folder_whose_name_is_not_a_tag_is_refused(tmp_path: Path, name: str, named: str) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        find_pairs(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/{named}: found a name that is almost an archive's, expected ")


def test_a_tagged_archive_that_is_not_a_file_is_refused_unless_another_is_one(tmp_path: Path) -> None:
    (tmp_path / "train-images-a-idx3-ubyte").mkdir()  # what some unpackers make
    for name in ("train-images-a.idx3-ubyte", "train-labels-a.idx1-ubyte"):
        (tmp_path / name).touch()
    assert segments.tags(find_pairs(tmp_path)) == ["a"]
    os.mkfifo(tmp_path / "train-labels-b-idx1-ubyte")
    with pytest.raises(InputError, match=r"/train-labels-b-idx1-ubyte: found a named pipe, expected a regular file; "):
        find_pairs(tmp_path)


def test_an_unreadable_folder_of_pairs_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    warnings: list[str] = []
    monkeypatch.setattr(os, "access", lambda *question: False)  # a mode would not stop root
    monkeypatch.setattr(logging.getLogger("idxtrain"), "warning", lambda text, *values: warnings.append(text % values))
    assert find_pairs(tmp_path) == {}
    assert warnings == [f"{tmp_path / 'locked'}: cannot be read; training pairs in it are skipped"]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"shape": (6, 8)}, "expected the shape and type of"),
        ({"dtype": "int16"}, "expected the shape and type of"),
    ],
)
def test_a_pair_of_another_shape_or_type_is_refused(
    tmp_path: Path, make_archives: MakeArchives, how: dict[str, Any], words: str
) -> None:
    make_archives(tmp_path / "data")
    add_pair(tmp_path / "data", "b", make_archives, tmp_path, **how)
    with pytest.raises(InputError, match=words):
        segment_ids(CONFIG, fetched(tmp_path / "data", tmp_path), tmp_path)


def test_several_pairs_of_a_type_other_than_uint8_are_refused(tmp_path: Path, make_archives: MakeArchives) -> None:
    make_archives(tmp_path / "data", dtype="float32")
    add_pair(tmp_path / "data", "b", make_archives, tmp_path, dtype="float32")
    with pytest.raises(InputError, match="expected uint8 in a data set of several pairs"):
        segment_ids(CONFIG, fetched(tmp_path / "data", tmp_path), tmp_path)


def test_segments_json_is_sealed(grown: dict[str, Any], tmp_path: Path) -> None:
    raw = json.loads((grown["datasets"][1] / segments.SEGMENTS).read_text())
    raw["train"][0]["rows"] += 1
    (tmp_path / segments.SEGMENTS).write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"segments\.json: found a SHA-256 that does not match"):
        segments.read_segments(tmp_path)


def test_a_dataset_of_an_older_version_is_refused_with_a_fix(grown: dict[str, Any], tmp_path: Path) -> None:
    directory = tmp_path / "dataset"
    shutil.copytree(grown["datasets"][1], directory)
    (directory / segments.SEGMENTS).rename(directory / "parts.json")
    readers: tuple[Callable[[Path], object], ...] = (
        dataset.read_manifest,
        segments.read_segments,
        segments.segment_ids,
    )
    for read in readers:
        with pytest.raises(InputError) as caught:
            read(directory)
        assert str(caught.value) == (
            f"{directory}/parts.json: found a dataset of an older version, expected segments.json; fix: remove "
            f"{directory} and prepare it again"
        )
