"""`idxtrain report`: a run in short, as Markdown, and runs side by side as a page. The runs are fakes."""

import json
import os
from pathlib import Path

import pytest

from jobs.errors import InputError
from jobs.files import write_json
from jobs.run_dir import RunDir, Work
from pipelines.history import comparison
from pipelines.report.markdown import text
from pipelines.report.page import own_errors, render, write_page
from pipelines.report.results import evaluated
from tests.conftest import Idxtrain
from tests.test_evaluate_report import HOSTILE, Page
from tests.test_history import make_run

GOLDEN = Path(__file__).parent / "golden" / "report"
CLASSES = [{"label": n, "name": f"class {n}", "precision": 1.0, "recall": 1.0, "support": 10} for n in range(11)]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """Return a work folder with three runs on the same 100 test images."""
    work = Work(tmp_path / "work")
    for seed, (name, wrong) in enumerate({"one": range(20), "other": (0, 1, 99), "third": (0, 1, 98)}.items()):
        run = make_run(work, name, wrong=wrong, seed=seed, settings=("train.epochs=5",) if seed else ())
        add_probability(work, name)
        metrics = json.loads(run.metrics_file.read_text())
        confusion = [[10 * (true == guess) for guess in range(11)] for true in range(10)] + [[0] * 11]
        for index in wrong:
            confusion[index % 10][index % 10] -= 1
            confusion[index % 10][index % 10 + 1] += 1
        metrics["test"] |= {"classes": CLASSES, "confusion": confusion}
        write_json(run.metrics_file, metrics)
        run.curve_file.write_text(
            '{"kind": "train", "step": 5, "loss": 1, "rate": 0.1}\n{"kind": "validation", "step": 9, "accuracy": 0.5}\n'
        )
    return work


def add_probability(work: Work, run_id: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = work.runs / run_id / "predictions.parquet"
    table = pq.read_table(file)
    probability = pa.array([0.5 + row / 200 for row in range(table.num_rows)], pa.float32())
    pq.write_table(table.append_column("probability", probability), file)


def golden(name: str, actual: str) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / name).write_text(actual, encoding="utf-8")
    assert actual == (GOLDEN / name).read_text(encoding="utf-8")


def test_the_markdown_of_a_run_and_of_two(work: Work) -> None:
    """`UPDATE_GOLDEN=1` updates the expected texts."""
    one, other = (evaluated(run_of(work, name)) for name in ("one", "other"))
    golden("one.md", text([one]))
    golden("two.md", text([one, other]))


def run_of(work: Work, name: str) -> RunDir:
    return RunDir(work.runs / name)


def test_the_page_shows_what_differs_and_whose_errors_are_whose(work: Work) -> None:
    results = [evaluated(run_of(work, name)) for name in ("one", "other", "third")]
    page = Page(render(results))
    assert "classified correctly by one alone: 1 image, by other alone: 18; other is better" in page.text
    assert "adjusted for 3 comparisons" in page.text
    assert "train.epochs" in page.text
    assert "+2" in page.cells  # of class 0, which the first run has two errors more of: images 0 and 10
    assert [(result.name, count) for result, count, _ in own_errors(results)] == [
        ("one", 18),
        ("other", 1),
        ("third", 1),
    ]
    (alone,) = own_errors(results)[1][2]
    assert (alone.true, alone.predicted, round(alone.probability, 3)) == ("class 9", "class 10", 0.995)
    assert "Errors that only third makes" in page.text
    assert [line for line in page.tags if line == "polyline"]


def test_the_page_escapes_every_text(work: Work) -> None:
    run = run_of(work, "one")
    metrics = json.loads(run.metrics_file.read_text())
    metrics["test"]["classes"] = [{**each, "name": HOSTILE + str(each["label"])} for each in CLASSES]
    metrics["caveats"][0]["text"] = HOSTILE
    write_json(run.metrics_file, metrics)
    results = [evaluated(run), evaluated(run_of(work, "other"))]
    assert HOSTILE in Page(render(results)).text
    assert "<script" not in text(results)


def test_runs_on_other_test_images_are_shown_without_a_verdict(work: Work) -> None:
    make_run(work, "else", dataset="fedcba9876543210")
    results = [evaluated(run_of(work, name)) for name in ("one", "else")]
    page = Page(render(results))
    assert "not comparable: one and else were evaluated on different test images" in page.text
    assert "is better" not in page.text + text(results)
    assert "Errors that only" not in page.text


def test_the_page_is_private_and_a_wrong_path_is_refused(work: Work, tmp_path: Path) -> None:
    results = [evaluated(run_of(work, name)) for name in ("one", "other")]
    write_page(tmp_path / "page.html", results)
    assert (tmp_path / "page.html").stat().st_mode & 0o777 == 0o600
    for path, words in ((tmp_path / "no" / "page.html", "found no folder"), (tmp_path, "found a folder")):
        with pytest.raises(InputError, match=words):
            write_page(path, results)


def test_a_report_of_one_run_prints_its_result_and_where_the_page_is(work: Work, idxtrain: Idxtrain) -> None:
    done = idxtrain("report", "one", "--work", work.path)
    lines = done.stdout.splitlines()
    assert lines[0] == "run one"
    assert "test accuracy 0.8000 (20 errors in 100), 95 % interval 0.1000 to 0.9000" in lines
    assert "calibration error 0.2500; 0.1250 with temperature 1.500" in lines
    assert "sure (confidence 0.8750 or more) of 50.0% of the test images: 0 errors in 1" in lines
    assert lines[-1] == f"report {work.runs}/one/report.html"


def test_a_report_of_two_runs_is_the_comparison_and_a_page_needs_two(work: Work, idxtrain: Idxtrain) -> None:
    done = idxtrain("report", "one", "other", "--work", work.path)
    runs = [run_of(work, "one"), run_of(work, "other")]
    assert done.stdout.splitlines() == list(comparison.lines(runs))
    refused = idxtrain("report", "one", "one", "--html", "page.html", "--work", work.path)
    assert refused.returncode == 2
    assert refused.stderr == (
        "idxtrain: --html: found one run, expected two or more; fix: name another run, or open "
        f"{work.runs}/one/report.html\n"
    )
