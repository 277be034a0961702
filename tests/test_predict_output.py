"""The rows of predictions, and their files: typed, exact, complete, and there whole or not at all."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs.convert.collected import Bad
from jobs.errors import InputError
from jobs.predict.output import check, opened
from jobs.predict.predict import Summary, classify
from jobs.predict.rows import most_probable, schema, to_rows
from jobs.predict.source import Batch, Source
from tests.support.prepared import bare_manifest

NAMES = ('say "a, b"', "ünï\ncode", "-3")
MANIFEST = bare_manifest((1, 3, 1), 3).model_copy(update={"labels": (-5, 7, 40_000), "class_names": NAMES})
KEYS = [b"a.png", b"b,c.png", b'd"e.png', "\u00fc.png".encode(), b"not-\xff-utf8.png", b"line\nbreak.png"]


class EchoClassifier:
    """Takes each image [1, classes, 1] for its probabilities."""

    manifest = MANIFEST

    def probabilities(self, images: NDArray[Any]) -> NDArray[Any]:
        return images[:, 0, :, 0]


ECHO: Any = EchoClassifier()


def some_probabilities(rows: int, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).dirichlet(np.ones(3), rows).astype(np.float32)


def source(batches: list[Batch], key: Any = "row") -> Source:
    return Source(title="images", key=key, total=None, batches=iter(batches))


def classified(batches: list[Batch], path: Path, top: int = 1, *, key: Any = "row", skip_bad: bool = False) -> Summary:
    summary, columns = Summary(), schema(key, top)
    with opened(path, columns) as write:
        classify(ECHO, source(batches, key), columns, write, summary, skip_bad=skip_bad, show=lambda done, pace: None)
    return summary


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, by another reader than ours, with numbers as such."""
    if path.suffix == ".parquet":
        return list(pq.read_table(path, use_threads=False).to_pylist())
    if path.suffix == ".json":
        return list(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = {"row": int, "label": int, "probability": float}
    return [
        {name: kinds.get(name.rpartition("_")[0] or name, str)(value) for name, value in row.items()} for row in rows
    ]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
@settings(deadline=None)  # the first example imports pyarrow
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), top=st.integers(1, 3), seed=st.integers(0, 99))
def test_each_row_is_written_once_in_order_with_exact_values(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, sizes: list[int], top: int, seed: int
) -> None:
    probabilities = some_probabilities(sum(sizes), seed)
    ends = np.cumsum(sizes).tolist()
    batches = [
        Batch(keys=range(end - size, end), images=probabilities[end - size : end, None, :, None])
        for size, end in zip(sizes, ends, strict=True)
    ]
    path = tmp_path_factory.mktemp("rows") / f"p{suffix}"
    assert classified(batches, path, top).images == sum(sizes)
    rows = read(path)
    assert [row["row"] for row in rows] == list(range(sum(sizes)))
    for row, each in zip(rows, probabilities, strict=True):
        order = sorted(range(3), key=lambda number: (-each[number], number))[:top]
        for rank, number in enumerate(order, start=1):
            end = f"_{rank}" if rank > 1 else ""
            assert (row[f"label{end}"], row[f"name{end}"]) == (MANIFEST.labels[number], NAMES[number])
            assert np.float32(row[f"probability{end}"]) == each[number]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_file_names_of_any_bytes_are_kept(tmp_path: Path, suffix: str) -> None:
    keys = [key.decode("utf-8", "surrogateescape") for key in KEYS]
    images = some_probabilities(len(keys))[:, None, :, None]
    classified([Batch(keys=keys, images=images)], tmp_path / f"p{suffix}", key="picture")
    expected = ["a.png", "b,c.png", 'd"e.png', "ü.png", "not-\\xff-utf8.png", "line\nbreak.png"]
    assert [row["picture"] for row in read(tmp_path / f"p{suffix}")] == expected


def test_columns_are_typed() -> None:
    types = {field.name: str(field.type) for field in schema("row", 2)}
    assert types == {
        "row": "int64",
        **{"label": "int64", "name": "string", "probability": "float"},
        **{"label_2": "int64", "name_2": "string", "probability_2": "float"},
    }


def test_of_equal_probabilities_the_lower_class_comes_first() -> None:
    equal = np.full((1, 40), 1 / 40, np.float32)
    assert most_probable(equal, 40).tolist() == [list(range(40))]
    assert most_probable(equal, 1).tolist() == [[0]]


def test_large_files_have_few_row_groups(tmp_path: Path) -> None:
    columns = schema("row", 1)
    with opened(tmp_path / "p.parquet", columns) as write:
        for start in range(0, 150_000, 500):
            write(to_rows(range(start, start + 500), np.eye(3, dtype=np.float32)[[0] * 500], MANIFEST, columns))
    footer = pq.read_metadata(tmp_path / "p.parquet")
    assert (footer.num_rows, footer.num_row_groups) == (150_000, 3)


def test_the_accuracy_counts_labels_that_the_model_does_not_know_as_errors(tmp_path: Path) -> None:
    images = np.eye(3, dtype=np.float32)[[0, 1, 2, 0], None, :, None]
    labels = np.array([-5, 7, 7, 99])
    summary = classified([Batch(keys=range(4), images=images, labels=labels)], tmp_path / "p.csv")
    assert (summary.labeled, summary.correct, summary.unknown) == (4, 2, 1)
    assert list(summary.lines("run r1")) == [
        "4 images by run r1",
        "accuracy 0.5000 (2 errors in 4, of which 1 have labels unknown to the model)",
    ]
    by_name = [Batch(keys=range(4), images=images, labels=np.array([NAMES[0], NAMES[1], NAMES[1], "z"]))]
    assert classified(by_name, tmp_path / "p.csv").correct == 2


def with_bad(images: NDArray[Any]) -> list[Batch]:
    bad = [Bad(path=f"{number}.png", reason="damaged (cut)") for number in range(2)]
    return [
        Batch(keys=["x.png"], images=images[:1]),
        Batch(keys=["y.png"], images=images[1:2], bad=bad),
        Batch(keys=["z.png"], images=images[2:3], inverted=1),
    ]


def test_unusable_pictures_are_all_listed_and_refused_or_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = some_probabilities(3)[:, None, :, None]
    with pytest.raises(InputError) as error:
        classified(with_bad(images), tmp_path / "p.csv", key="picture")
    assert str(error.value).startswith("images: found 2 unusable pictures, the first 0.png: damaged (cut); fix: ")
    assert [record.message for record in caplog.records] == ["0.png: damaged (cut)", "1.png: damaged (cut)"]
    summary = classified(with_bad(images), tmp_path / "p.csv", key="picture", skip_bad=True)
    assert [row["picture"] for row in read(tmp_path / "p.csv")] == ["x.png", "y.png", "z.png"]
    assert list(summary.lines("run r1")) == ["3 images by run r1, 1 of them inverted; 2 unusable pictures left out"]


def test_no_image_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images: found no usable image, expected at least one"):
        classified([], tmp_path / "p.csv")


def test_output_that_is_not_probabilities_is_refused_with_its_row(tmp_path: Path) -> None:
    images = np.full((2, 1, 3, 1), 1 / 3, np.float32)
    images[1] = np.nan
    with pytest.raises(InputError, match="the model's output for row 8: found the sum nan"):
        classified([Batch(keys=range(7, 9), images=images)], tmp_path / "p.csv")


def test_an_error_of_the_writer_ends_the_work(tmp_path: Path) -> None:
    def write(rows: object) -> None:
        raise OSError("disk full")

    batches = [Batch(keys=[0], images=some_probabilities(1)[:, None, :, None])] * 9
    with pytest.raises(OSError, match="disk full"):
        classify(ECHO, source(batches), schema("row", 1), write, Summary(), skip_bad=False, show=lambda *_: None)


@pytest.mark.parametrize(
    ("name", "message"),
    [("p.txt", "expected .csv, .json, .jsonl, .parquet"), ("no/p.csv", "found no folder"), ("d.csv", "found a folder")],
)
def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError) as error:
        check(tmp_path / name)
    assert message in str(error.value)
