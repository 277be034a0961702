"""The benchmarks: every measure and peer at tiny sizes, on the path of `make bench`, and the text of the table."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jobs.fetch.names import find
from jobs.prepare import idx
from tests.benchmarks import bench, machine, timing, torch_environment
from tests.benchmarks.measures import MEASURES
from tests.benchmarks.measures.matmul_peak import GFLOP_AN_IMAGE
from tests.benchmarks.room import TINY, Room, repeat
from tests.benchmarks.table import Ratio, spread
from tests.conftest import MakeArchives

GOLDEN = Path(__file__).parent / "golden" / "bench"
# The figures that each measure must return.
FIGURES = {
    "step_speed": {"50 float32", "128 float32", "lecture", "keras"},
    "matmul_peak": {"float32 images/s", "float32 used", "float32 peak"},
    "real_input": {"real", "synthetic"},
    "scaling": {"idxtrain 1", "idxtrain 2", "idxtrain apart", "horovod 1", "horovod 2"},
    "reader": {"idxtrain", "idxtrain held", "petastorm", "petastorm cached"},
    "reader_bytes": {"idxtrain", "idxtrain held", "petastorm", "petastorm schema"},
    "prepare": {"one seconds", "many seconds", "many rate", "many peer rate", "time growth", "row growth"},
    "memory": {f"{stage} {size}" for stage in ("fetch", "prepare", "train", "evaluate") for size in ("one", "many")},
}

FAST = ("prepare", "step_speed", "matmul_peak", "reader")  # longest first: two run side by side


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Room:
    folder = tmp_path_factory.mktemp("bench")
    make_archives(folder / "archives", shape=(28, 28), classes=10, train=600, test=100)
    return Room(folder, TINY, folder / "archives", torch_environment.existing(), full_rounds=1)


@pytest.fixture(scope="module")
def rounds(room: Room) -> dict[str, dict[str, float]]:
    """One round of the fast measures, two side by side."""
    room.dataset()
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(FAST, pool.map(lambda name: MEASURES[name].once(room, 0), FAST), strict=True))


def check(name: str, figures: dict[str, float]) -> None:
    assert figures.keys() >= FIGURES[name]
    assert min(figures.values()) > 0
    assert all(ratio.values for ratio in MEASURES[name].section([figures]).ratios if ratio.target)


@pytest.mark.long
@pytest.mark.parametrize("name", FAST)
def test_each_fast_measure_returns_its_figures(rounds: dict[str, dict[str, float]], name: str) -> None:
    check(name, rounds[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FIGURES.keys() - set(FAST)))
def test_each_slow_measure_returns_its_figures(room: Room, name: str) -> None:
    check(name, MEASURES[name].once(room, 0))


@pytest.mark.long
def test_prepare_counts_its_rows(rounds: dict[str, dict[str, float]]) -> None:
    figures = rounds["prepare"]
    assert (figures["one rows"], figures["many rows"], figures["row growth"]) == (700, 700 * TINY.factor, TINY.factor)


@pytest.mark.slow
def test_to_accuracy_runs_peers_in_full_only_in_full_rounds(room: Room) -> None:
    figures = MEASURES["to_accuracy"].once(room, 0)
    partial = MEASURES["to_accuracy"].once(room, 1)
    for name in ("idxtrain", "lecture", "keras"):
        assert figures[name] > 0
        assert partial[name] > 0
    assert "lecture in full" in figures
    assert "lecture in full" not in partial
    assert "seconds: `idxtrain run`" in MEASURES["to_accuracy"].section([figures, partial]).ratios[0].what


def test_repeated_archives_hold_every_row_repeatedly(room: Room, tmp_path: Path) -> None:
    for role, path in find(room.archives()).items():
        repeat(path, tmp_path / path.name, 3)
        once, thrice = idx.read(path), idx.read(tmp_path / path.name)
        assert thrice.shape == (3 * len(once), *once.shape[1:]), role
        assert (thrice.reshape(3, *once.shape) == once).all()


def test_operations_per_image_match_the_network() -> None:
    """Two operations per weight and position, forward and twice backward."""
    positions = {"conv1": 28 * 28, "conv2": 14 * 14, "dense": 1, "logits": 1}
    weights = {"conv1": 25 * 32, "conv2": 25 * 32 * 64, "dense": 3136 * 1024, "logits": 1024 * 10}
    products = {"conv1": 2, "conv2": 3, "dense": 3, "logits": 3}
    exact = sum(2 * positions[name] * weights[name] * products[name] for name in positions)
    assert GFLOP_AN_IMAGE == pytest.approx(exact / 1e9, rel=1e-3) == pytest.approx(0.082, rel=0.01)


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (Ratio("a", (0.9, 0.7, 0.8), at_least=0.8), "met"),
        (Ratio("a", (0.9, 0.7, 0.79), at_least=0.8), "**not met**"),
        (Ratio("a", (0.1, 9.0, 0.2), at_most=0.2), "met"),
        (Ratio("a", (0.3, 0.3), at_most=0.2), "**not met**"),
        (Ratio("a", (), at_most=0.2), "not measured"),
        (Ratio("a", (0.3,)), ""),
    ],
)
def test_a_verdict_compares_the_median_with_the_bound(ratio: Ratio, verdict: str) -> None:
    assert ratio.verdict == verdict


def test_spread_shows_median_and_range() -> None:
    assert spread([3.0, 1.0, 2.0], ".1f", " s") == "2.0 s (1.0 to 3.0)"
    assert spread([1234.0], ",.0f") == "1,234"
    assert spread([], ".1f") == "not measured"


def test_the_document_matches_the_golden_file() -> None:
    results: dict[str, Any] = json.loads((GOLDEN / "results.json").read_text(encoding="utf-8"))
    assert bench.text(results, "## Tried\n\n- nothing\n") == (GOLDEN / "RESULTS.md").read_text(encoding="utf-8")


def test_results_md_is_generated_from_results_json() -> None:
    """RESULTS.md is generated, never edited: run `bench --render` after a change of TRIED.md."""
    folder = Path(bench.__file__).parent
    results = json.loads((folder / "RESULTS.json").read_text(encoding="utf-8"))
    tried = (folder / "TRIED.md").read_text(encoding="utf-8")
    assert bench.text(results, tried) == (folder / "RESULTS.md").read_text(encoding="utf-8")


def test_other_measures_stay_if_the_machine_is_the_same(tmp_path: Path) -> None:
    out = tmp_path / "RESULTS.md"
    here = {"machine": machine.describe(), "measures": {"reader": {"date": "2026-01-01", "rounds": []}}}
    out.with_suffix(".json").write_text(json.dumps(here))
    assert bench.kept(out, append=False) == here
    elsewhere = here | {"machine": machine.describe() | {"cpu": "another"}}
    out.with_suffix(".json").write_text(json.dumps(elsewhere))
    assert bench.kept(out, append=False)["measures"] == {}
    with pytest.raises(SystemExit, match="found results of another"):
        bench.kept(out, append=True)


def test_an_unknown_measure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.parse(["--only", "reader,speed"])
    assert "found speed, expected names from to_accuracy" in capsys.readouterr().err


@pytest.fixture
def memory_hog() -> list[str]:
    child = "import time; data = bytearray(200 << 20); time.sleep(1)"
    code = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('[0]<stdout>:{{\"a\": 1}}')"
    )
    return [sys.executable, "-c", code]


def test_memory_of_children_counts_and_json_is_read_after_a_rank_prefix(memory_hog: list[str]) -> None:
    done = timing.run(memory_hog, watch_memory=True)
    assert 200e6 < done.peak_bytes < 400e6
    assert done.figures == {"a": 1}
    assert done.seconds > 1


def test_a_failed_contender_is_reported_with_the_end_of_its_stderr() -> None:
    with pytest.raises(RuntimeError, match="exit code 3\nno such data"):
        timing.run([sys.executable, "-c", "import sys; print('no such data', file=sys.stderr); sys.exit(3)"])


def test_pytorch_comes_from_pips_links_first() -> None:
    first, second = torch_environment.installs("uv", Path("env/bin/python"))
    assert first[-1].endswith("+cpu")
    assert "--torch-backend" in second
    assert torch_environment.links({"PIP_FIND_LINKS": "/a /b"}) == {"UV_FIND_LINKS": "/a,/b"}
    assert torch_environment.links({}) == {}


def test_bfloat16_units_are_those_that_linux_reports() -> None:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    assert machine.has_bfloat16() == (
        "amx_bf16" in cpuinfo or ("avx512_bf16" in cpuinfo and "GenuineIntel" not in cpuinfo)
    )
