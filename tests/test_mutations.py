"""10,000 mutated archives, manifests, configs, recipes, records, checkpoints and shards.

Each is accepted and right, or refused in one line; nothing else gets out, nothing hangs, no size in a file decides how
much memory is taken. A quarter of the cases runs with the quick tests. A failing case tells its number.
"""

import gzip
import json
import logging
import math
import resource
import struct
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest

from jobs.archive import ROLES, Archive, Role
from jobs.config import Section
from jobs.dataset import MANIFEST, SPLITS, Manifest, read_manifest, read_split, verify
from jobs.errors import InputError
from jobs.prepare import idx
from jobs.prepare.archives import Pair, inflate, read_headers
from jobs.prepare.survey import survey
from jobs.run_dir import RunDir, Work
from jobs.stage import STAGES, is_done, read_record, stage_key
from jobs.train import checkpoint
from pipelines import recipes
from pipelines.config import Config, compose
from pipelines.run import create, read_config
from tests import test_dataset as tiny
from tests import test_stage as stages
from tests.conftest import MakeArchives, describe
from tests.mutate import dump, mutate_bytes, mutate_json, mutate_toml, mutate_value

T = TypeVar("T")


def sealed(x):  # TEMPORARY
    return x


def write_manifest(directory, manifest):  # TEMPORARY
    (directory / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json"), indent=2))


CASES = {
    "archive": 2000, "gzip archive": 1500, "manifest": 1200, "sealed manifest": 800, "config": 1500, "recipe": 1000,
    "record": 1000, "checkpoint": 600, "shard": 400,
}  # fmt: skip
BLOCKS = 4
in_blocks = pytest.mark.parametrize("block", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, BLOCKS))])
pytestmark = pytest.mark.timeout(120)


def test_there_are_ten_thousand_cases() -> None:
    assert sum(CASES.values()) == 10_000
    assert all(count % BLOCKS == 0 for count in CASES.values())


def check_each(kind: str, block: int, check: Callable[[Random], bool]) -> None:
    """Run one block of the cases of a kind. `check` tells whether the mutant was accepted."""
    count, accepted = CASES[kind] // BLOCKS, 0
    with bounded_memory():
        for number in range(block * count, (block + 1) * count):
            try:
                accepted += check(Random(f"{kind} {number}"))
            except Exception as error:
                error.add_note(f"{kind}: case {number}")
                raise
    assert 0 < accepted < count  # a mutator that breaks everything, or nothing, would test little


@contextmanager
def bounded_memory(more: int = 1 << 30) -> Iterator[None]:
    """Let an allocation beyond what these small files need fail with MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(call: Callable[[], T]) -> T | None:
    """Return what the call returns; None where it refuses with an InputError, which must be one line."""
    try:
        return call()
    except InputError as error:
        text = str(error)
        assert text.isprintable(), ascii(text)
        assert 20 < len(text) < 3000, f"{len(text)} characters"
        return None


# --- archives


def decode(data: bytes) -> np.ndarray | None:
    """Read an archive from its bytes, by the book and nothing of ours; None where it is none."""
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
def archive_sets(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> list[dict[Role, Archive]]:
    """Return sets of four small archives, each plain and gzip: one channel, three, and rows of numbers."""
    root = tmp_path_factory.mktemp("archives")
    kinds: list[dict[str, Any]] = [{}, {"dtype": "int16", "shape": (4, 3, 3)}, {"dtype": "float32", "shape": (5, 4)}]
    return [
        {**make_archives(root / f"{n}-{gz}", **({"shape": (5, 6)} | kind), classes=3, train=12, test=6, gz=gz)}  # type: ignore[dict-item]
        for n, kind in enumerate(kinds)
        for gz in (False, True)
    ]


@in_blocks
@pytest.mark.parametrize("kind", ["archive", "gzip archive"])
def test_archives(tmp_path: Path, archive_sets: list[dict[Role, Archive]], kind: str, block: int) -> None:
    def check(random: Random) -> bool:
        archives = random.choice(archive_sets[kind == "gzip archive" :: 2])
        role = random.choice(ROLES)
        path, original = tmp_path / role, archives[role].path.read_bytes()
        if kind == "gzip archive" and random.random() < 0.3:  # what is inside is wrong, its packing is whole
            path.write_bytes(gzip.compress(mutate_bytes(gzip.decompress(original), random), 1))
        else:
            path.write_bytes(mutate_bytes(original, random))
        expected = decode(path.read_bytes())
        check_one(path, expected)
        return check_set(archives, role, path, expected) if expected is not None else False

    check_each(kind, block, check)


def check_one(path: Path, expected: np.ndarray | None) -> None:
    """An archive is read as `decode` reads it, or refused by everything that reads it whole."""
    found, header = outcome(lambda: idx.read(path)), outcome(lambda: idx.read_header(path))
    plain = path.with_suffix(".plain")
    checked, inflated = outcome(lambda: idx.check(path)), outcome(lambda: idx.inflate(path, plain))
    if expected is None:
        assert found is checked is inflated is None
        assert not plain.exists()
        return
    assert found is not None
    assert header == checked == inflated == idx.Header(expected.dtype, expected.shape)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype.newbyteorder("="))
    assert found.astype(expected.dtype).tobytes() == expected.tobytes()  # bits: NaN is equal to itself
    assert decode(plain.read_bytes()).tobytes() == expected.tobytes()  # type: ignore[union-attr]


def check_set(archives: Mapping[Role, Archive], role: Role, path: Path, expected: np.ndarray) -> bool:
    """A whole archive beside three good ones: refused as none of theirs, or all rows are read as they are."""
    scratch = path.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    before = Archive(role, path, archives[role].bytes, archives[role].sha256)
    if describe(role, path).sha256 != before.sha256:
        assert outcome(lambda: inflate({role: before}, scratch)) is None  # fetch has seen another
    changed = {**archives, role: describe(role, path)}
    headers = outcome(lambda: read_headers(changed))
    if headers is None:
        return False
    plain = inflate(changed, scratch)
    split = role.split("_")[0]
    images, labels = f"{split}_images", f"{split}_labels"
    pair = Pair(plain[images], plain[labels], headers[images], headers[labels], path, path)
    rows = np.arange(len(expected))
    if not len(rows):
        return True  # the plan refuses it
    assert pair.read(rows)[role == labels].astype(expected.dtype).tobytes() == expected.tobytes()
    found = outcome(lambda: survey(pair, rows))
    assert found is None or found.label_counts.sum() == len(rows)
    return found is not None


# --- the dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("dataset")
    return directory, tiny.valid(directory)


def check_manifest(directory: Path, data: bytes) -> Manifest | None:
    (directory / MANIFEST).write_bytes(data)
    return outcome(lambda: read_manifest(directory))


@in_blocks
def test_manifests(dataset: tuple[Path, dict[str, Any]], block: int) -> None:
    directory, raw = dataset
    write_manifest(directory, Manifest.model_validate(raw))
    written = json.loads((directory / MANIFEST).read_text())
    original = read_manifest(directory)

    def check(random: Random) -> bool:
        found = check_manifest(directory, mutate_json(written, random))
        if found is None:
            return False
        assert found == original
        verify(directory, found, *SPLITS)
        for split in SPLITS:
            images, labels, indices = read_split(directory, found, split)
            assert (images == tiny.images(split)).all()
            assert (labels == tiny.labels(split)).all()
            assert (indices == tiny.indices(split)).all()
        return True

    check_each("manifest", block, check)


@in_blocks
def test_manifests_of_somebody_who_knows_how_to_seal_them(dataset: tuple[Path, dict[str, Any]], block: int) -> None:
    """Nothing tells these from ours but the files beside them: what is read is what lies there, or nothing."""
    directory, raw = dataset

    def check(random: Random) -> bool:
        found = check_manifest(directory, dump(sealed(mutate_value(raw, random)), random))
        if found is None or outcome(lambda: verify(directory, found, *SPLITS) or True) is None:
            return False
        for split in SPLITS:
            shards = [int(shard.path[-9:-8]) for shard in found.splits[split].shards] arrays = outcome(lambda:
            read_split(directory, found, split))  # noqa: B023 (called at once) rows = np.concatenate([[],
            *(np.split(np.arange(sum(tiny.ROWS[split])), np.cumsum(tiny.ROWS[split]))[n] for n in
            shards)]).astype(int) if arrays is None:
                return False
            assert (arrays[0].reshape(-1) == tiny.images(split)[rows].reshape(-1)).all()
            assert (arrays[1] == tiny.labels(split)[rows]).all()
        return True

    check_each("sealed manifest", block, check)


@in_blocks
def test_shards(dataset: tuple[Path, dict[str, Any]], block: int) -> None:
    directory, raw = dataset
    manifest = Manifest.model_validate(raw)
    paths = [directory / shard.path for split in SPLITS for shard in manifest.splits[split].shards]

    def check(random: Random) -> bool:
        path = random.choice(paths)
        original = path.read_bytes()
        try:
            # Now and then it is only written again, which changes nothing that counts.
            path.write_bytes(mutate_bytes(original, random) if random.random() < 0.97 else original)
            accepted = outcome(lambda: verify(directory, manifest, *SPLITS) or True) is not None
            assert accepted == (path.read_bytes() == original)
        finally:
            path.write_bytes(original)
        return accepted

    check_each("shard", block, check)


# --- configs and recipes


def means(found: Any, given: Any) -> bool:
    """Tell whether a config holds what a file says; keys that the file leaves out have their defaults."""
    if isinstance(given, dict):
        return isinstance(found, dict) and all(key in found and means(found[key], given[key]) for key in given)
    if isinstance(given, list):
        return len(found) == len(given) and all(map(means, found, given))
    return bool(found == given or str(found).lower() == str(given).lower() or float(found) == float(given))


@in_blocks
def test_configs(tmp_path: Path, block: int) -> None:
    run = create(Work(tmp_path), "r1", compose("lecture", {"fetch.mirrors": ["https://example.org/mnist/"]}))
    written = json.loads(run.config_file.read_text())
    sections = {name: type(value) for name, value in read_config(run) if isinstance(value, Section)}

    def check(random: Random) -> bool:
        run.config_file.write_bytes(mutate_json(written, random))
        parts = {name: outcome(lambda: run.section(name, kind)) for name, kind in sections.items()}  # noqa: B023
        outcome(lambda: stage_key(run, "fetch"))
        config = outcome(lambda: read_config(run))
        if config is None:
            return False
        given = json.loads(run.config_file.read_text())
        assert means(config.to_json(), given)
        assert all(part == getattr(config, name) for name, part in parts.items() if name in given)
        return same_when_written(config)

    check_each("config", block, check)


def same_when_written(config: Config) -> bool:
    return Config.model_validate_json(json.dumps(config.to_json())) == config


@in_blocks
def test_recipes(tmp_path: Path, block: int) -> None:
    texts = [recipes.load(name).text for name in recipes.names()]
    path = tmp_path / "mine.toml"

    def check(random: Random) -> bool:
        path.write_bytes(mutate_toml(random.choice(texts), random))
        loaded, config = outcome(lambda: recipes.load(str(path))), outcome(lambda: compose(str(path), {}))
        if loaded is None or config is None:
            assert config is None
            return False
        given = tomllib.loads(path.read_text())
        assert means(loaded.about.model_dump(), given.pop("about"))
        assert means(config.to_json(), given)
        return same_when_written(config)

    check_each("recipe", block, check)


# --- records and checkpoints


@in_blocks
def test_records(tmp_path: Path, block: int) -> None:
    run = RunDir(tmp_path / "runs/r1")
    run.path.mkdir(parents=True)
    (run.config_file).write_text(json.dumps(stages.CONFIG))
    for stage in STAGES:
        stages.finish(run, stage, dataset="/data/0123456789abcdef", figures=[1, 0.5, {"images": 100}])

    def check(random: Random) -> bool:
        position = random.randrange(len(STAGES))
        stage, path = STAGES[position], run.record_file(STAGES[position])
        original, record = path.read_bytes(), read_record(run, stage)
        try:
            path.write_bytes(mutate_json(json.loads(original), random))
            found = outcome(lambda: read_record(run, stage))
            done = stages.done(run)
        finally:
            path.write_bytes(original)
        assert done == list(STAGES if found else STAGES[:position])
        assert found in (None, record)
        return found is not None

    check_each("record", block, check)


def state(step: int) -> checkpoint.Checkpoint:
    random = np.random.default_rng(step)
    arrays = {"weight.0": random.random((5, 3), np.float32), "m.0": random.random(4), "step": np.array([step])}
    return checkpoint.Checkpoint(checkpoint.Position(step, "our key"), arrays)


@in_blocks
def test_checkpoints(tmp_path: Path, caplog: pytest.LogCaptureFixture, block: int) -> None:
    """A newest checkpoint that is not whole is passed over with a warning, and the one before it used."""
    for step in (10, 20):
        newest = checkpoint.save(tmp_path, state(step), 3, accuracy=0.5 + step / 100)
    files = {path: path.read_bytes() for path in (newest, newest.with_suffix(".json"), tmp_path / "best.json")}

    def check(random: Random) -> bool:
        path = random.choice(list(files))
        mutate = mutate_bytes if path == newest else lambda data, random: mutate_json(json.loads(data), random)
        caplog.clear()
        try:
            path.write_bytes(mutate(files[path], random))
            found, best = checkpoint.latest(tmp_path, "our key"), checkpoint.read_best(tmp_path)
        finally:
            path.write_bytes(files[path])
        assert best is None or 0 <= best[1] <= 1
        assert found is not None
        expected = state(found.position.step)
        assert found.position == expected.position
        assert found.arrays.keys() == expected.arrays.keys()
        assert all((found.arrays[name] == expected.arrays[name]).all() for name in expected.arrays)
        assert len(caplog.messages) == (found.position.step == 10)
        assert all(message.isprintable() for message in caplog.messages)
        return found.position.step == 20

    check_each("checkpoint", block, check)
