"""The names of pictures: from `sources.csv` to findings, predictions and pages, each beside the image that it names."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import segments
from jobs.convert.convert import convert_source
from jobs.convert.options import Options
from jobs.convert.picture import decode
from jobs.dataset import read_manifest, read_split
from jobs.errors import InputError
from jobs.fetch.config import FetchConfig
from jobs.fetch.stage import fetch
from jobs.pictures import PICTURES
from jobs.places import Places
from jobs.prepare.pictures import write_pictures
from jobs.records import FetchOutputs
from tests.conftest import Idxtrain
from tests.support.pictures import png_file, put_pictures, random_pixels


def converted(source: Path, target: Path) -> Path:
    convert_source(source, target, Options())
    return target


def fetched(folder: Path, tmp_path: Path) -> FetchOutputs:
    return fetch(FetchConfig(dataset="ours", data=str(folder)), tmp_path / "archives", tmp_path / "locks")


def places_of(directory: Path, outputs: FetchOutputs) -> Places:
    """Return the places of a dataset of these archives, of which only the names of the pictures are written."""
    options = write_pictures(directory, outputs.description.pictures)
    sources = {key: SimpleNamespace(name=archive.path.name) for key, archive in outputs.archives.items()}
    return Places(directory, SimpleNamespace(options=options, sources=sources))  # type: ignore[arg-type]


def test_each_row_of_both_archives_has_the_path_of_its_picture(tmp_path: Path) -> None:
    source = put_pictures(tmp_path / "source", 8)
    folder = converted(source, tmp_path / "idx")
    places = places_of(tmp_path, fetched(folder, tmp_path))
    with (folder / "sources.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 32
    for line in lines:
        place = places.of("test" if line["archive"] == "t10k" else "train", int(line["row"]))
        assert place.picture == line["path"]
        assert str(place) == f"{place.role} {line['row']} · {line['path']}"


def test_pairs_in_folders_have_the_names_of_their_own_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = converted(put_pictures(tmp_path / "source", 3), tmp_path / "data")
    for day in ("monday", "tuesday"):
        put_pictures(tmp_path / day, 2)
        shutil.rmtree(tmp_path / day / "test")
        for path in (tmp_path / day).rglob("*.png"):
            path.rename(path.with_name(f"{day}-{path.name}"))
        converted(tmp_path / day, data / day)
    infos = [
        segments.SegmentInfo(tag=tag, segment_id=f"{number:016x}", rows=6, label_counts=(), mean=0, std=0)
        for number, tag in enumerate(("", "monday", "tuesday"))
    ]
    monkeypatch.setattr(segments, "read_segments", lambda _: infos)
    places = places_of(tmp_path, fetched(data, tmp_path))
    for info in infos:
        place = places.of("train", segments.first_index(info.segment_id) + 1)
        assert place.tag == info.tag
        assert place.picture.rpartition("/")[2].partition("-")[0] in (info.tag or "0.png 1.png 2.png").split()
    assert places.of("test", 2).picture.startswith("test/")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.rpartition("\nt10k")[0] + "\n", "found 11 rows for t10k, expected 12"),
        (lambda text: text.replace("train,3,", "train,4,"), "found row 4 in line 5, expected 3"),
        (lambda text: text + "t10k,12\n", "found 2 columns in line 26, expected 3"),
        (lambda text: text + "t10k,12,x\n", "found 13 rows for t10k, expected 12"),
        (lambda text: "name,url\nours,https://example.org\n", None),
        (lambda _: "", None),
    ],
)
def test_a_list_that_does_not_fit_is_ignored_with_one_warning_and_another_file_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Any, words: str | None
) -> None:
    folder = converted(put_pictures(tmp_path / "source", 6), tmp_path / "idx")
    path = folder / "sources.csv"
    path.write_text(change(path.read_text()))
    assert not fetched(folder, tmp_path).description.pictures
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ([f"fetch: {path}: {words}; the pictures are not named"] if words else [])


def test_a_list_that_changes_after_fetch_and_an_altered_file_of_a_dataset_are_refused(tmp_path: Path) -> None:
    folder = converted(put_pictures(tmp_path / "source", 6), tmp_path / "idx")
    outputs = fetched(folder, tmp_path)
    places = places_of(tmp_path, outputs)
    with (folder / "sources.csv").open("a") as file:
        file.write("t10k,12,x\n")
    with pytest.raises(InputError, match=r"sources.csv: found another content than fetch did"):
        write_pictures(tmp_path, outputs.description.pictures)
    (tmp_path / PICTURES).write_bytes(b"x")
    with pytest.raises(InputError, match=r"pictures.parquet: found SHA-256 .*; fix: remove "):
        places.of("train", 0)


@pytest.mark.long
def test_findings_predictions_and_pages_name_the_picture_of_each_image_also_of_a_made_test_split(
    idxtrain: Idxtrain, tmp_path: Path
) -> None:
    source = put_pictures(tmp_path / "source", 60)
    shutil.rmtree(source / "test")
    (source / "train" / "dog" / "copy.png").write_bytes((source / "train" / "cat" / "7.png").read_bytes())
    converted(source, tmp_path / "idx")
    done = idxtrain("run", "--data", "idx", "--recipe", "softmax", "--set", "train.max_steps=20", "--run-id", "r")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "work" / "runs" / "r"
    dataset = tmp_path / "work" / "datasets" / json.loads((run / "metrics.json").read_text())["dataset_id"]
    with (dataset / "findings.csv").open() as file:
        (conflict,) = [line for line in csv.DictReader(file) if line["finding"] == "conflict"][:1]
    assert {conflict["picture"], conflict["other_picture"]} == {"train/cat/7.png", "train/dog/copy.png"}
    assert " (train/" in next(line for line in done.stderr.splitlines() if "of another class" in line)
    assert "train/dog/copy.png" in (dataset / "data.html").read_text()
    predictions = pq.read_table(run / "predictions.parquet").to_pandas()
    images, _, indices = read_split(dataset, read_manifest(dataset), "test")
    assert predictions["index"].tolist() == indices.tolist()
    for image, path in zip(images, predictions["picture"], strict=True):
        np.testing.assert_array_equal(np.rint(image * 255), decode((source / path).read_bytes()))
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    assert len(wrong)
    report = (run / "report.html").read_text()
    assert all(path in report for path in wrong["picture"][:40])
    other = tmp_path / "other"
    for name in ("cat", "dog"):
        (other / name).mkdir(parents=True)
        for number in range(9):
            (other / name / f"new {number}.png").write_bytes(png_file(random_pixels(number + len(name), 6, 5, 1)))
    converted(other, tmp_path / "new")
    done = idxtrain("evaluate", "--run-id", "r", "--data", "new")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(run / "evaluations" / "new" / "predictions.parquet")
    assert sorted(table["picture"].to_pylist()) == sorted(
        f"{name}/new {n}.png" for name in ("cat", "dog") for n in range(9)
    )
