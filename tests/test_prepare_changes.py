"""Archives that change while `prepare` reads them: the hashed bytes are decoded, or the archive is refused."""

import gzip
import hashlib
import os
import pickle
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import segments
from jobs.dataset import SPLITS
from jobs.errors import InputError
from jobs.files import sha256_file
from jobs.prepare import idx
from jobs.prepare.archives import inflate, inflated, pair_of
from jobs.prepare.build import take_shards
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.decode import Decoder
from jobs.prepare.findings.rows import read_view
from jobs.prepare.labels import ClassMap
from jobs.prepare.plan import DatasetPlan, plan_dataset
from jobs.prepare.row_files import RowFiles
from jobs.prepare.spark import Spark
from jobs.prepare.stage import prepare
from jobs.prepare.survey import NORMALIZATION_OF_BYTES
from jobs.run_dir import Work
from tests.conftest import MakeArchives, describe
from tests.support.prepared import Archives


@pytest.fixture
def plain(tmp_path: Path, make_archives: MakeArchives) -> Archives:
    archives = make_archives(tmp_path / "archives", train=60, test=10, gz=False)
    time.sleep(0.02)  # the clock of file times ticks every 4 or 10 ms
    return archives


@pytest.fixture
def packed(tmp_path: Path, make_archives: MakeArchives) -> Archives:
    return make_archives(tmp_path / "archives", train=60, test=10)


def overwrite(path: Path) -> None:
    """Change every label of a label archive in place, under the same header."""
    other = path.with_name(f"other-{path.name}")
    idx.write(other, (idx.read(path) + 1) % 3)
    path.write_bytes(other.read_bytes())
    other.unlink()


def changed(path: Path) -> str:
    return rf"^{re.escape(str(path))}: changed while it was read, expected the fetched bytes \(SHA-256 [^\n]*$"


def while_read(archives: Archives, scratch: Path, act: Callable[[dict[str, Path]], Any]) -> None:
    """Run `act` on the plain files between prepare's first and last reading of the archives."""
    with inflated(archives, scratch) as files:
        act(files)


def test_a_plain_archive_that_is_overwritten_while_it_is_read_is_refused(tmp_path: Path, plain: Archives) -> None:
    labels = plain["train_labels"].path
    with pytest.raises(InputError, match=changed(labels)):
        while_read(plain, tmp_path, lambda files: overwrite(labels))


def test_a_plain_archive_that_is_overwritten_and_restored_is_refused(tmp_path: Path, plain: Archives) -> None:
    labels = plain["test_labels"].path
    original, status = labels.read_bytes(), labels.stat()

    def act(files: dict[str, Path]) -> None:
        overwrite(labels)
        labels.write_bytes(original)
        os.utime(labels, ns=(status.st_atime_ns, status.st_mtime_ns))  # as `rsync --times` does

    with pytest.raises(InputError, match=changed(labels)):
        while_read(plain, tmp_path, act)


def test_a_fault_caused_by_a_changed_archive_is_reported_as_the_change(tmp_path: Path, plain: Archives) -> None:
    images = plain["train_images"].path
    header = idx.read_header(images)

    def act(files: dict[str, Path]) -> None:
        images.write_bytes(images.read_bytes()[:1000])
        idx.read_rows(files["train_images"], header, 0, 60)

    with pytest.raises(InputError, match=changed(images)):
        while_read(plain, tmp_path, act)
    with pytest.raises(InputError, match=rf"^{images}: cannot be read \(No such file or directory\); fix: restore it"):
        while_read({"train_images": describe("train_images", images)}, tmp_path, lambda files: images.unlink())


def test_a_fault_in_unchanged_archives_is_reported_as_it_is(tmp_path: Path, plain: Archives) -> None:
    def act(files: dict[str, Path]) -> None:
        raise InputError("row 7 is bad")

    with pytest.raises(InputError, match="row 7 is bad"):
        while_read(plain, tmp_path, act)


def test_a_gzip_archive_that_changes_after_inflation_is_decoded_as_it_was(tmp_path: Path, packed: Archives) -> None:
    labels = packed["train_labels"].path
    original = idx.read(labels)
    with inflated(packed, tmp_path) as files:
        overwrite(labels)
        assert np.array_equal(idx.read(files["train_labels"]), original)


def test_a_gzip_archive_is_hashed_in_the_pass_that_inflates_it(
    tmp_path: Path, packed: Archives, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, real = packed["train_labels"].path, idx.inflate

    def overwrite_first(source: Path, *arguments: Any) -> idx.Header:
        if source == labels:
            overwrite(source)
        return real(source, *arguments)

    monkeypatch.setattr(idx, "inflate", overwrite_first)
    with pytest.raises(
        InputError, match=rf"^{labels}: found SHA-256 .* as fetched; fix: run again, as it changed since$"
    ):
        inflate(packed, tmp_path)


@pytest.mark.parametrize("form", ["plain", "one member", "many members and padding"])
def test_the_digest_covers_the_whole_archive(tmp_path: Path, packed: Archives, form: str) -> None:
    data, path, digest = gzip.decompress(packed["test_images"].path.read_bytes()), tmp_path / "any", hashlib.sha256()
    halves = [gzip.compress(half) for half in (data[:1000], data[1000:])]
    path.write_bytes({"plain": data, "one member": gzip.compress(data)}.get(form, b"".join(halves) + bytes(100_000)))
    idx.inflate(path, tmp_path / "plain", digest)
    assert (tmp_path / "plain").read_bytes() == data
    assert digest.hexdigest() == sha256_file(path)


def decoder_of(plain: Archives, tmp_path: Path) -> tuple[Decoder, DatasetPlan]:
    """Return a decoder of plain archives, with its row files and empty folders of the splits, and its plan."""
    headers = {role: idx.read_header(archive.path) for role, archive in plain.items()}
    train, test = (
        pair_of(split, plain, {role: archive.path for role, archive in plain.items()}, headers)
        for split in ("train", "test")
    )
    plan = plan_dataset(PrepareConfig(rows_per_shard=25), 60, 10, train.image_header.row_shape)
    rows = RowFiles(tmp_path)
    with rows.writing(*SPLITS) as writer:
        for split, (low, high) in {"train": (5, 60), "validation": (0, 5), "test": (0, 10)}.items():
            writer.add(split, np.arange(low, high))  # type: ignore[arg-type]
            (tmp_path / split).mkdir()
    return Decoder(rows=rows, train=train, test=test, classes=ClassMap(np.arange(3), 3)), plan


def test_what_spark_returns_of_a_shard_does_not_grow_with_its_rows(tmp_path: Path, plain: Archives) -> None:
    """Spark limits the results of all tasks to 1 GiB."""
    decoder, plan = decoder_of(plain, tmp_path)
    write = partial(replace(decoder, views=True).write, NORMALIZATION_OF_BYTES, tmp_path)
    written = [write(shard) for shard in plan.shards]
    assert max(len(pickle.dumps(each)) for each in written) < 2000  # 25 rows of a view have 6000
    surveyed = [decoder.survey((split, 0, rows)) for split, rows in plan.rows.items()]
    assert max(len(pickle.dumps(each)) for each in surveyed) < 500
    assert [decoder.digest_file(split, 0).stat().st_size for split in plan.rows] == [16 * 55, 16 * 5, 16 * 10]
    views = [read_view(each.view) for each in written if each.view]
    assert np.concatenate([view.sketch.indices for view in views]).tolist() == [*range(5, 60), *range(5), *range(10)]
    assert [view.sums is not None for view in views] == [shard.split == "train" for shard in plan.shards]


def test_labels_that_differ_from_the_survey_are_refused(tmp_path: Path, plain: Archives) -> None:
    decoder, plan = decoder_of(plain, tmp_path)
    train, rows = decoder.train, decoder.rows
    expected = {split: np.bincount(decoder.pair(split).read_labels(rows.whole(split)), minlength=3) for split in SPLITS}
    written = [decoder.write(NORMALIZATION_OF_BYTES, tmp_path, shard) for shard in plan.shards]
    shards = take_shards(decoder, written, expected)
    assert [shard.path for shard in shards] == [shard.path for shard in plan.shards]
    overwrite(train.labels)
    written = [decoder.write(NORMALIZATION_OF_BYTES, tmp_path, shard) for shard in plan.shards]
    changed_labels = rf"^{train.labels}: found other labels while writing than while"
    with pytest.raises(InputError, match=changed_labels):
        take_shards(decoder, written, expected)
    with pytest.raises(InputError, match=changed_labels):  # a label without a class
        replace(decoder, classes=ClassMap(np.arange(2), 2)).write(NORMALIZATION_OF_BYTES, tmp_path, plan.shards[0])


@pytest.mark.long
@pytest.mark.parametrize("kind", ["dataset", "segment"])
def test_labels_that_change_between_survey_and_decoding_leave_no_dataset(
    tmp_path: Path, plain: Archives, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    labels, real = plain["train_labels"].path, Spark.collect

    def overwrite_first(spark: Spark, what: str, function: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
        if "writing" in what and any(task.split == "train" for task in tasks):
            overwrite(labels)
        return real(spark, what, function, tasks)

    monkeypatch.setattr(Spark, "collect", overwrite_first)
    archives, work = plain, Work(tmp_path / "work")
    if kind == "segment":
        archives = {segments.key(role, "") if role.startswith("train") else role: each for role, each in plain.items()}
    with pytest.raises(InputError, match=changed(labels)) as caught:
        prepare(PrepareConfig(), SparkConfig(), archives, work)
    assert caught.value.exit_code == 2
    assert not list(work.datasets.iterdir())
    assert not [*work.segments.glob("*/train/*.parquet"), *work.segments.glob(".tmp-*")]
