"""10,000 mutated archives, manifests, configs, recipes, records, checkpoints and shards.

Each is read correctly or refused in one line. Nothing else is raised, nothing hangs, and no size in a file decides how
much memory is used. A quarter of the cases runs with the fast tests. A failing case shows its number.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs.archive import ROLES, Archive, Role
from jobs.dataset import MANIFEST, SPLITS, Manifest, Split, read_manifest, read_split, verify
from jobs.files import sealed
from jobs.prepare import idx
from jobs.prepare.archives import inflate, pair_of, read_headers
from jobs.prepare.survey import survey
from tests import test_dataset as tiny
from tests.conftest import MakeArchives, describe
from tests.support.mutate import (
    BLOCKS,
    CASES,
    check_each,
    dump,
    in_blocks,
    mutate_bytes,
    mutate_json,
    mutate_value,
    outcome,
)

pytestmark = pytest.mark.timeout(120)


def test_there_are_ten_thousand_cases() -> None:
    assert sum(CASES.values()) == 10_000
    assert all(count % BLOCKS == 0 for count in CASES.values())


# --- archives


def decode(data: bytes) -> NDArray[Any] | None:
    """Read an archive from its bytes, by the specification and without our code; None if it is not valid."""
    try:
        plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        zeros, code, dimensions = struct.unpack_from(">HBB", plain)
        dtype = np.dtype({8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}[code])
        shape = struct.unpack_from(f">{dimensions}I", plain, 4)
    except (OSError, EOFError, zlib.error, struct.error, KeyError):
        return None
    start, size = 4 + 4 * dimensions, math.prod(shape) * dtype.itemsize
    if zeros or not 1 <= dimensions <= 4 or 0 in shape[1:] or len(plain) != start + size:
        return None
    return np.frombuffer(plain, dtype, offset=start).reshape(shape)


@pytest.fixture(scope="module")
def archive_sets(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> list[dict[str, Archive]]:
    """Return sets of four small archives, each plain and gzip: one channel, three, and rows of numbers."""
    root = tmp_path_factory.mktemp("archives")
    kinds: list[dict[str, Any]] = [{}, {"dtype": "int16", "shape": (4, 3, 3)}, {"dtype": "float32", "shape": (5, 4)}]
    return [
        make_archives(root / f"{n}-{gz}", **({"shape": (5, 6)} | kind), train=12, test=6, gz=gz)
        for n, kind in enumerate(kinds)
        for gz in (False, True)
    ]


@in_blocks
@pytest.mark.parametrize("kind", ["archive", "gzip archive"])
def test_mutated_archives_are_read_correctly_or_refused(
    tmp_path: Path, archive_sets: list[dict[str, Archive]], kind: str, block: int
) -> None:
    def check(random: Random) -> bool:
        archives = random.choice(archive_sets[kind == "gzip archive" :: 2])
        role = random.choice(ROLES)
        path, original = tmp_path / role, archives[role].path.read_bytes()
        if kind == "gzip archive" and random.random() < 0.3:  # the content is faulty, the gzip stream is whole
            path.write_bytes(gzip.compress(mutate_bytes(gzip.decompress(original), random), 1))
        else:
            path.write_bytes(mutate_bytes(original, random))
        expected = decode(path.read_bytes())
        check_one(path, expected)
        return check_set(archives, role, path, expected) if expected is not None else False

    check_each(kind, block, check)


def check_one(path: Path, expected: NDArray[Any] | None) -> None:
    """Check that an archive is read as `decode` reads it, or refused by every reader."""
    array, header = outcome(lambda: idx.read(path)), outcome(lambda: idx.read_header(path))
    plain = path.with_suffix(".plain")
    checked, inflated = outcome(lambda: idx.check(path)), outcome(lambda: idx.inflate(path, plain))
    if expected is None:
        assert array is None
        assert checked is None
        assert inflated is None
        assert not plain.exists()
        return
    assert array is not None
    assert header == checked == inflated == idx.Header(expected.dtype, expected.shape)
    assert (array.shape, array.dtype) == (expected.shape, expected.dtype.newbyteorder("="))
    assert array.astype(expected.dtype).tobytes() == expected.tobytes()  # bits: NaN is equal to itself
    assert decode(plain.read_bytes()).tobytes() == expected.tobytes()  # type: ignore[union-attr]


def check_set(archives: Mapping[str, Archive], role: Role, path: Path, expected: NDArray[Any]) -> bool:
    """Check a valid archive beside three good ones: it is refused as not matching, or read as it is; return which."""
    scratch = path.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    before = replace(archives[role], path=path)
    if describe(role, path).sha256 != before.sha256:
        assert outcome(lambda: inflate({role: before}, scratch)) is None  # not the file that fetch saw
    changed = {**archives, role: describe(role, path)}
    headers = outcome(lambda: read_headers(changed))
    if headers is None:
        return False
    plain = inflate(changed, scratch)
    split = role.split("_")[0]
    pair = pair_of(split, changed, plain, headers)
    rows = np.arange(len(expected))
    if not len(rows):
        return True  # the plan refuses it
    if role.endswith("labels"):
        assert pair.read_labels(rows).tolist() == (expected[:, 0] if expected.ndim == 2 else expected).tolist()
    else:
        assert pair.read_images(rows).astype(expected.dtype).tobytes() == expected.tobytes()
    surveyed = outcome(lambda: survey(pair, rows))
    assert surveyed is None or len(surveyed.digests) == 16 * len(rows)
    return surveyed is not None


# --- the dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("dataset")
    return directory, tiny.valid(directory)


def check_manifest(directory: Path, data: bytes) -> Manifest | None:
    (directory / MANIFEST).write_bytes(data)
    return outcome(lambda: read_manifest(directory))


def verified(directory: Path, manifest: Manifest) -> bool:
    def call() -> bool:
        verify(directory, manifest, *SPLITS)
        return True

    return outcome(call) is True


@in_blocks
def test_mutated_manifests_are_refused_unless_equal(dataset: tuple[Path, dict[str, Any]], block: int) -> None:
    directory, raw = dataset
    original, written = Manifest.model_validate(raw), sealed(raw)

    def check(random: Random) -> bool:
        manifest = check_manifest(directory, mutate_json(written, random))
        if manifest is None:
            return False
        assert manifest == original
        verify(directory, manifest, *SPLITS)
        for split in SPLITS:
            images, labels, indices = read_split(directory, manifest, split)
            assert (images == tiny.images(split)).all()
            assert (labels == tiny.labels(split)).all()
            assert (indices == tiny.indices(split)).all()
        return True

    check_each("manifest", block, check)


@in_blocks
def test_forged_manifests_never_change_what_is_read(dataset: tuple[Path, dict[str, Any]], block: int) -> None:
    """Only the files beside them distinguish these from ours: either the files are read as they are, or nothing."""
    directory, raw = dataset

    def check(random: Random) -> bool:
        manifest = check_manifest(directory, dump(sealed(mutate_value(raw, random)), random))
        if manifest is None or not verified(directory, manifest):
            return False
        for split in SPLITS:
            arrays = outcome(lambda: read_split(directory, manifest, split))  # noqa: B023 (called at once)
            if arrays is None:
                return False
            rows = rows_of(manifest, split)
            assert (arrays[0].reshape(-1) == tiny.images(split)[rows].reshape(-1)).all()
            assert (arrays[1] == tiny.labels(split)[rows]).all()
        return True

    check_each("sealed manifest", block, check)


def rows_of(manifest: Manifest, split: Split) -> NDArray[Any]:
    """Return the rows of a split's shards, in the order of the manifest."""
    stops = np.cumsum(tiny.ROWS[split], dtype=int)
    numbers = [int(shard.path.removesuffix(".parquet")[-5:]) for shard in manifest.splits[split].shards]
    return np.concatenate([np.arange(0), *(np.arange(stops[n] - tiny.ROWS[split][n], stops[n]) for n in numbers)])


@in_blocks
def test_mutated_shards_are_refused(dataset: tuple[Path, dict[str, Any]], block: int) -> None:
    directory, raw = dataset
    manifest = Manifest.model_validate(raw)
    paths = [directory / shard.path for split in SPLITS for shard in manifest.splits[split].shards]

    def check(random: Random) -> bool:
        path = random.choice(paths)
        original = path.read_bytes()
        try:
            # A few times it is only rewritten, which must change nothing.
            path.write_bytes(mutate_bytes(original, random) if random.random() < 0.97 else original)
            accepted = verified(directory, manifest)
            assert accepted == (path.read_bytes() == original)
        finally:
            path.write_bytes(original)
        return accepted

    check_each("shard", block, check)
