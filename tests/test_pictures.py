"""The names of pictures: from `sources.csv` to findings, predictions and pages, each beside the image that it names."""

import csv
import hashlib
import json
import shutil
import subprocess
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
from jobs.pictures import PICTURES, PictureNames
from jobs.places import Places
from jobs.prepare.config import PrepareConfig
from jobs.prepare.inputs import Inputs
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


def test_a_list_is_ignored_for_archives_other_than_those_it_was_made_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = converted(put_pictures(tmp_path / "source", 6), tmp_path / "idx")
    other = put_pictures(tmp_path / "other", 6)
    (other / "test" / "cat" / "0.png").write_bytes(png_file(random_pixels(9, 6, 5, 1)))
    shutil.copy(converted(other, tmp_path / "new") / "t10k-images-idx3-ubyte.gz", folder)  # with as many rows
    assert not fetched(folder, tmp_path).description.pictures
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        f"fetch: {folder / 'sources.csv'}: found a list for another t10k-images-idx3-ubyte.gz, by its checksum in "
        "SHA256SUMS; the pictures are not named"
    ]
    (folder / "SHA256SUMS").unlink()  # a list that people wrote
    assert len(fetched(folder, tmp_path).description.pictures) == 2


def test_archives_are_listed_with_the_checksums_that_sha256sum_checks(tmp_path: Path) -> None:
    folder = converted(put_pictures(tmp_path / "source", 6), tmp_path / "idx")
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True)
    assert checked.stdout.splitlines() == [f"{path.name}: OK" for path in sorted(folder.glob("*.gz"))]


def test_a_list_names_only_archives_that_have_the_names_that_convert_gives(tmp_path: Path) -> None:
    folder = converted(put_pictures(tmp_path / "source", 6), tmp_path / "idx")
    for path in folder.glob("t*.gz"):
        path.rename(folder / f"my{path.name}")
    paths = {f"{split}_{kind}": path for split, name in (("train", "train"), ("test", "t10k"))
             for kind in ("images", "labels") for path in folder.glob(f"my{name}-{kind}*")}  # fmt: skip
    config = FetchConfig(dataset="ours", **{key: str(path) for key, path in paths.items()})  # type: ignore[arg-type]
    assert not fetch(config, tmp_path / "archives", tmp_path / "locks").description.pictures


def test_a_changed_list_makes_another_dataset(tmp_path: Path) -> None:
    folder = converted(put_pictures(tmp_path / "source", 6), tmp_path / "idx")

    def dataset_id() -> str:
        outputs = fetched(folder, tmp_path)
        return Inputs(PrepareConfig(), outputs.archives, outputs.description).dataset_id

    before = dataset_id()
    path = folder / "sources.csv"
    path.write_text(path.read_text().replace("cat/1.png", "cat/one.png"))
    assert dataset_id() != before


def test_a_list_that_changes_after_fetch_is_refused_and_an_altered_file_of_a_dataset_names_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = converted(put_pictures(tmp_path / "source", 6), tmp_path / "idx")
    outputs = fetched(folder, tmp_path)
    places = places_of(tmp_path, outputs)
    with (folder / "sources.csv").open("a") as file:
        file.write("t10k,12,x\n")
    with pytest.raises(InputError, match=r"sources.csv: found another content than fetch did"):
        write_pictures(tmp_path, outputs.description.pictures)
    whole = (tmp_path / PICTURES).read_bytes()
    for content, problem in ((b"x", "found SHA-256 "), (None, "cannot be read (No such file or directory)")):
        (tmp_path / PICTURES).unlink() if content is None else (tmp_path / PICTURES).write_bytes(content)
        caplog.clear()
        places.pictures = PictureNames(tmp_path, {"pictures": hashlib.sha256(whole).hexdigest()})
        assert [places.of("train", row).picture for row in range(2)] == ["", ""]
        assert not places.pictures
        (warning,) = caplog.messages
        assert warning.startswith(f"{tmp_path / PICTURES}: {problem}")
        assert "; the pictures are not named; fix: remove " in warning


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
