"""The second half of the 10,000: files of a run folder, recipes, and a sample through the command line."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors.numpy import save_file

from jobs.archive import ROLES
from jobs.config import Section
from jobs.files import sha256_file, write_json
from jobs.prepare.archives import read_headers
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.run_dir import RunDir
from jobs.stage import STAGES, read_record, stage_key
from jobs.train import checkpoint
from jobs.train.best import Best
from pipelines import recipes
from pipelines.config import Config, compose
from pipelines.runs import read_config
from tests import test_stage as stages
from tests.conftest import MakeArchives, describe
from tests.support.mutate import check_each, in_blocks, mutate_bytes, mutate_json, mutate_toml, outcome, random_of
from tests.support.prepared import NO_SPARK, new_run

pytestmark = pytest.mark.timeout(120)

# --- configs and recipes


def means(value: Any, given: Any) -> bool:
    """Return whether a config has the values of a file; keys missing from the file have their defaults."""
    if isinstance(given, dict):
        return isinstance(value, dict) and all(key in value and means(value[key], given[key]) for key in given)
    if isinstance(given, list):
        return len(value) == len(given) and all(map(means, value, given))
    if given is None and value == "none":  # the name of an orientation
        return True
    if isinstance(given, int) and value == str(given):  # the number of a column, or its name
        return True
    if isinstance(given, str) and value == str(Path(given).absolute()):  # a path, as seen from this folder
        return True
    return bool(value == given or value == TypeAdapter(type(value)).validate_python(given))  # "3" is 3


@in_blocks
def test_mutated_configs_are_read_as_written_or_refused(tmp_path: Path, block: int) -> None:
    run = RunDir(tmp_path)
    original = compose("lecture", {"fetch.mirrors": ["https://example.org/mnist/"], "spark.properties": {"a": "1"}})
    written = original.to_json()
    sections = {name: type(value) for name, value in original if isinstance(value, Section)}

    def check(random: Random) -> bool:
        run.config_file.write_bytes(mutate_json(written, random))
        read = {name: outcome(lambda: run.section(name, kind)) for name, kind in sections.items()}  # noqa: B023
        outcome(lambda: stage_key(run, "fetch"))
        config = outcome(lambda: read_config(run))
        if config is None:
            return False
        given = json.loads(run.config_file.read_text())
        assert means(config.to_json(), given)
        assert all(section == getattr(config, name) for name, section in read.items() if name in given)
        return same_when_written(config)

    check_each("config", block, check)


def same_when_written(config: Config) -> bool:
    return Config.model_validate_json(json.dumps(config.to_json())) == config


@in_blocks
def test_mutated_recipes_are_read_as_written_or_refused(tmp_path: Path, block: int) -> None:
    texts = [recipes.load(name).text for name in recipes.names()]
    path = tmp_path / "own.toml"

    def check(random: Random) -> bool:
        path.write_bytes(mutate_toml(random.choice(texts), random))
        loaded, config = outcome(lambda: recipes.load(str(path))), outcome(lambda: compose(str(path), {}))
        if loaded is None or config is None:
            assert config is None
            return False
        given = tomllib.loads(path.read_text())
        assert means(loaded.about.model_dump(exclude_unset=True), given.pop("about", {}))
        assert means(config.to_json(), given)
        return same_when_written(config)

    check_each("recipe", block, check)


# --- records and checkpoints


@in_blocks
def test_mutated_records_are_refused_unless_equal(tmp_path: Path, block: int) -> None:
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
            mutated = outcome(lambda: read_record(run, stage))
            done = stages.done(run)
        finally:
            path.write_bytes(original)
        assert done == list(STAGES if mutated else STAGES[:position])
        assert mutated in (None, record)
        return mutated is not None

    check_each("record", block, check)


BEST = Best(step=10, errors=3, loss=0.5, count=100)


def state(step: int) -> checkpoint.Checkpoint:
    random = np.random.default_rng(step)
    arrays: dict[str, NDArray[Any]] = {
        "weight.0": random.random((5, 3), np.float32),
        "m.0": random.random(4),
        "step": np.array([step]),
    }
    return checkpoint.Checkpoint(position=checkpoint.Position(step, "our key"), arrays=arrays, best=BEST)


@in_blocks
def test_mutated_checkpoints_are_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, block: int
) -> None:
    """If the newest checkpoint is not whole, a warning is logged and the one before it is used."""
    for step in (10, 20):
        newest = checkpoint.save(tmp_path, state(step), 3)
    files = {path: path.read_bytes() for path in (newest, newest.with_suffix(".json"))}

    def spoil(random: Random) -> None:
        path = random.choice([None, *files])
        if path is None:  # at its place, with a checksum that fits
            whole = {"position": asdict(state(20).position), "best": asdict(BEST)}
            name = random.choice(list(whole))
            texts = {key: json.dumps(value) for key, value in whole.items()}
            texts[name] = mutate_json(whole[name], random).decode("utf-8", "replace")
            save_file(dict(state(20).arrays), newest, texts | {"format": str(checkpoint.FORMAT)})
            write_json(newest.with_suffix(".json"), {"sha256": sha256_file(newest), "bytes": newest.stat().st_size})
        elif path == newest:
            path.write_bytes(mutate_bytes(files[path], random))
        else:
            path.write_bytes(mutate_json(json.loads(files[path]), random))

    def check(random: Random) -> bool:
        caplog.clear()
        spoil(random)
        newest_whole = checkpoint.latest(tmp_path, "our key")
        for path, data in files.items():
            path.write_bytes(data)
        assert newest_whole is not None
        expected = state(newest_whole.position.step)
        assert newest_whole.position == expected.position
        assert newest_whole.arrays.keys() == expected.arrays.keys()
        assert all((newest_whole.arrays[name] == expected.arrays[name]).all() for name in expected.arrays)
        assert len(caplog.messages) == (newest_whole.position.step == 10)
        assert all(message.isprintable() for message in caplog.messages)
        return newest_whole.position.step == 20

    check_each("checkpoint", block, check)


# --- the command line


def spoil(path: Path, mutate: Callable[[bytes, Random], bytes], seed: str, *readers: Callable[[], object]) -> None:
    """Replace a file by its first mutant that one of its readers refuses."""
    original = path.read_bytes()
    for number in count():
        path.write_bytes(mutate(original, random_of(f"{seed} {number}")))
        if any(outcome(read) is None for read in readers):
            return


def as_json(data: bytes, random: Random) -> bytes:
    return mutate_json(json.loads(data), random)


@pytest.mark.parametrize(
    ("what", "number"),
    [
        *(("archive", n) for n in range(4)),
        *(("stage's config", n) for n in range(2)),
        ("record", 0),
        *(("config", n) for n in range(2)),
        *(("recipe", n) for n in range(3)),
    ],
)
def test_the_command_line_refuses_mutants_in_one_line(
    tmp_path: Path, make_archives: MakeArchives, what: str, number: int
) -> None:
    archives = make_archives(tmp_path / "archives", shape=(5, 6), train=12, test=6, gz=number % 2 == 1)
    work, seed = tmp_path / "work", f"{what} {number}"
    if what == "archive":
        role = ROLES[number]
        spoil(archives[role].path, mutate_bytes, seed, lambda: read_headers(archives))
        archives[role] = describe(role, archives[role].path)
    run = new_run(work, archives, PrepareConfig(), master=NO_SPARK.master)
    command = ["jobs.prepare", str(run.path)]
    if what == "stage's config":
        sections = (lambda: run.section("prepare", PrepareConfig), lambda: run.section("spark", SparkConfig))
        spoil(run.config_file, as_json, seed, lambda: stage_key(run, "fetch"), *sections)
    elif what == "record":
        spoil(run.record_file("fetch"), as_json, seed, lambda: read_record(run, "fetch"))
    elif what == "config":
        write_json(run.config_file, compose("fast", {}).to_json())
        spoil(run.config_file, as_json, seed, lambda: read_config(run))
        command = ["pipelines.cli", "run", "--work", str(work), "--run-id", run.run_id]
    elif what == "recipe":
        recipe = tmp_path / "own.toml"
        recipe.write_text(recipes.load("fast").text)
        spoil(recipe, lambda data, random: mutate_toml(data.decode(), random), seed, lambda: compose(str(recipe), {}))
        command = ["pipelines.cli", "run", "--work", str(work), "--recipe", str(recipe)]
    ended = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert ended.stderr.startswith("idxtrain: ")
    assert ended.stderr.count("\n") == 1
    assert not list(work.glob("datasets/*"))
