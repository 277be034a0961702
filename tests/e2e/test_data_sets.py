"""Data sets as people have them: each of sixteen trains with `fast`, or one line says why not."""

import json
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.dataset import read_manifest
from jobs.run_dir import RunDir
from jobs.stage import dataset_of
from tests.conftest import idxtrain_in
from tests.support.generated_sets import SETS

pytestmark = pytest.mark.long

_STEPS = 60


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, subprocess.CompletedProcess[str]]]:
    """Run all sets, two at a time: most of such a run is start-up on one core."""
    root = tmp_path_factory.mktemp("sets")

    def run(number: int, name: str) -> subprocess.CompletedProcess[str]:
        folder, each = root / f"set-{number}", SETS[name]
        each.write(folder)
        steps = ("--set", f"train.max_steps={_STEPS}", "--set", "train.epochs=none")
        return idxtrain_in(root)("run", "--data", folder, "--run-id", folder.name, *steps, *each.options)

    with ThreadPoolExecutor(2) as pool:
        return root, dict(zip(SETS, pool.map(run, range(len(SETS)), SETS), strict=True))


@pytest.mark.parametrize("name", SETS)
def test_a_data_set_trains_or_is_refused_in_one_line(
    runs: tuple[Path, Mapping[str, subprocess.CompletedProcess[str]]], name: str
) -> None:
    (root, ended), each = runs, SETS[name]
    done, run = ended[name], RunDir(root / f"work/runs/set-{list(SETS).index(name)}")
    if each.refusal:
        assert done.returncode == 2
        *_, line = done.stderr.splitlines()
        assert line.startswith("idxtrain: ")
        assert each.refusal in line
        assert not list((root / "work/datasets").glob(".tmp-*"))
        return
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(dataset_of(run))
    assert manifest.labels == (*each.labels.tolist(), *sorted(set(each.unseen)))
    assert manifest.classes == len(each.labels)
    assert manifest.shape == (*(1,) * (2 - len(each.shape)), *each.shape, *(1,) * (3 - max(2, len(each.shape))))
    test = json.loads(run.metrics_file.read_text())["test"]
    assert [entry["label"] for entry in test["classes"]] == each.labels.tolist()
    assert test["count"] == (each.test + len(each.unseen) or each.train // 10)
    if each.learns:
        most = max(each.shares, default=1 / len(each.labels))
        assert test["accuracy"] > (1 + most) / 2 - 0.06
