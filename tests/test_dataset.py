"""The contract between stages: what a manifest may contain, and that the files are as it states."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from jobs.dataset import FORMAT, MANIFEST, SPLITS, Manifest, Shard, Split, read_manifest, read_split, verify
from jobs.errors import InputError
from jobs.files import sealed, sha256_file, write_json

SHAPE = (2, 3, 2)
ROWS: dict[Split, tuple[int, ...]] = {"train": (4, 3), "validation": (), "test": (2,)}  # of each shard


def images(split: Split) -> NDArray[Any]:
    random = np.random.default_rng(SPLITS.index(split))
    return random.random((sum(ROWS[split]), *SHAPE), np.float32)


def labels(split: Split) -> NDArray[Any]:
    return (np.arange(sum(ROWS[split])) % 3).astype(np.int32)


def indices(split: Split) -> NDArray[Any]:
    return np.arange(sum(ROWS[split])) * 10


def write_shard(directory: Path, split: Split, number: int) -> dict[str, Any]:
    start = sum(ROWS[split][:number])
    rows = slice(start, start + ROWS[split][number])
    path = directory / split / f"part-{number:05d}.parquet"
    path.parent.mkdir(exist_ok=True)
    pixels = images(split)[rows].reshape(ROWS[split][number], -1)
    columns = {
        "image": pa.array(list(pixels), pa.list_(pa.float32())),
        "label": labels(split)[rows],
        "index": indices(split)[rows],
    }
    pq.write_table(pa.table(columns), path)
    name = str(path.relative_to(directory))
    first = int(indices(split)[rows][0])
    size, digest = path.stat().st_size, sha256_file(path)
    return {"path": name, "rows": len(pixels), "first_index": first, "bytes": size, "sha256": digest}


def valid(directory: Path) -> dict[str, Any]:
    """Write a small dataset and return its manifest as JSON."""
    splits = {
        split: {
            "rows": sum(ROWS[split]),
            "label_counts": np.bincount(labels(split), minlength=3).tolist(),
            "shards": [write_shard(directory, split, number) for number in range(len(ROWS[split]))],
        }
        for split in SPLITS
    }
    return {
        "format": FORMAT,
        "dataset_id": "0123456789abcdef",
        "shape": list(SHAPE),
        "classes": 3,
        "labels": [0, 1, 2],
        "class_names": ["0", "1", "2"],
        "orientation": "none",
        "splits": splits,
        "pixels": {"mean": 0.5, "std": 0.25, "min": 0.0, "max": 1.0},
        "pixel_type": "float32",
        "normalization": {"rule": "type-range", "offset": 0.0, "scale": 1 / 255},
        "duplicates": {"test_images_in_train": 1, "test_rows": [1], "examples": [[1, 5]]},
        "sources": {"train_images": {"name": "train.gz", "bytes": 12, "sha256": "ab"}},
        "options": {"validation_from": "first", "rows_per_shard": 4},
        "versions": {"spark": "3.5"},
    }


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, Manifest]:
    write_json(tmp_path / MANIFEST, sealed(valid(tmp_path)))
    return tmp_path, read_manifest(tmp_path)


def refused(directory: Path) -> str:
    """Return the text of the InputError that reading the manifest must raise: one line with file and fix."""
    with pytest.raises(InputError) as caught:
        read_manifest(directory)
    text = str(caught.value)
    assert text.startswith(f"{directory / MANIFEST}: ")
    assert text.endswith(f"; fix: remove {directory} and prepare it again")
    assert "\n" not in text
    return text


# --- the manifest


def test_a_manifest_round_trips(dataset: tuple[Path, Manifest]) -> None:
    directory, manifest = dataset
    raw = valid(directory)
    assert manifest.model_dump(mode="json") == raw
    assert manifest.values_per_image == 12
    assert [manifest.splits[split].rows for split in SPLITS] == [7, 0, 2]
    write_json(directory / MANIFEST, sealed(manifest.model_dump(mode="json")))
    assert read_manifest(directory) == manifest
    write_json(directory / MANIFEST, sealed({key: raw[key] for key in raw if key != "pixel_type"}))
    assert read_manifest(directory) == manifest  # of a version without the key


def shard(raw: dict[str, Any]) -> dict[str, Any]:
    return raw["splits"]["train"]["shards"][0]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda raw: raw.update(format=3), "found format 3, expected 2"),
        (lambda raw: raw.pop("format"), "found format None, expected 2"),
        (lambda raw: raw.pop("classes"), "classes: Field required"),
        (lambda raw: raw.update(colour=1), "colour: Extra inputs are not permitted"),
        (lambda raw: raw.update(classes=0), "classes: "),
        (lambda raw: raw.update(dataset_id="../../etc"), "dataset_id: "),
        (lambda raw: raw.update(shape=[2, 3]), "shape.2: "),
        (lambda raw: raw.update(shape=[2, 0, 2]), "found shape (2, 0, 2), expected positive sizes"),
        (lambda raw: raw["pixels"].update(std=-0.1), "pixels.std: "),
        (lambda raw: raw["pixels"].update(mean=float("nan")), "pixels.mean: "),
        (lambda raw: raw["splits"].pop("validation"), "found splits ['test', 'train'], expected"),
        (lambda raw: raw["splits"].update(extra=raw["splits"]["test"]), "splits.extra"),
        (lambda raw: raw["splits"]["train"].update(rows=8), "found 7 rows in the train shards, expected 8"),
        (lambda raw: raw["splits"]["train"]["shards"].pop(), "found 4 rows in the train shards, expected 7"),
        (
            lambda raw: raw["splits"]["train"].update(label_counts=[3, 2]),
            "found train label counts [3, 2], expected the sum 7 over 3 classes",
        ),
        (
            lambda raw: raw["splits"]["train"].update(label_counts=[3, 2, 1]),
            "found train label counts [3, 2, 1], expected the sum 7",
        ),
        (lambda raw: shard(raw).update(path="../elsewhere/part-00000.parquet"), "splits.train.shards.0.path: "),
        (lambda raw: shard(raw).update(path="test/part-00000.parquet"), "expected files in train/, each once"),
        (lambda raw: shard(raw).update(path="train/part-00001.parquet"), "expected files in train/, each once"),
        (lambda raw: shard(raw).update(bytes=0), "splits.train.shards.0.bytes: "),
        (lambda raw: shard(raw).update(sha256="no"), "splits.train.shards.0.sha256: "),
    ],
)
def test_an_invalid_or_contradictory_manifest_is_refused(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], object], words: str
) -> None:
    raw = valid(tmp_path)
    spoil(raw)
    write_json(tmp_path / MANIFEST, sealed(raw))
    assert words in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "found no such file"),
        (b"", "cannot be read as JSON"),
        (b'{"format": 1', "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[]", "found list, expected a JSON object"),
    ],
)
def test_a_manifest_that_is_not_a_json_object_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / MANIFEST).write_bytes(content)
    assert words in refused(tmp_path)


# --- the files


def first_shard(directory: Path, manifest: Manifest) -> tuple[Path, Shard]:
    shard = manifest.splits["train"].shards[0]
    return directory / shard.path, shard


def test_an_untouched_dataset_passes_verification(dataset: tuple[Path, Manifest]) -> None:
    verify(*dataset, *SPLITS)


def test_a_changed_byte_is_found(dataset: tuple[Path, Manifest]) -> None:
    path, _ = first_shard(*dataset)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"^{path}: found SHA-256 \w{{12}}…, expected .*; fix: remove .* again$"):
        verify(*dataset, "train")
    verify(*dataset, "validation", "test")  # what was not asked for is not read


def test_a_changed_size_is_found(dataset: tuple[Path, Manifest]) -> None:
    path, shard = first_shard(*dataset)
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(
        InputError, match=f"^{path}: found {shard.bytes + 1} bytes, expected {shard.bytes}; fix: remove "
    ):
        verify(*dataset, "train")


def test_a_missing_file_is_found(dataset: tuple[Path, Manifest]) -> None:
    path, _ = first_shard(*dataset)
    path.unlink()
    with pytest.raises(InputError, match=rf"^{path}: cannot be read \(No such file or directory\); fix: remove "):
        verify(*dataset, "train")


@pytest.mark.parametrize("carrier", ["_common_metadata", "_metadata", "train/_common_metadata", "test/_metadata"])
def test_metadata_that_may_hold_a_pickle_is_refused(dataset: tuple[Path, Manifest], carrier: str) -> None:
    path = dataset[0] / carrier
    path.write_bytes(b"PAR1")
    with pytest.raises(
        InputError, match=f"^{path}: found a file that may hold a pickled schema.*; fix: remove the file$"
    ):
        verify(*dataset, "train")


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_is_read_in_row_order(dataset: tuple[Path, Manifest], split: Split) -> None:
    arrays = read_split(*dataset, split)
    assert [array.dtype for array in arrays] == [np.float32, np.int32, np.int64]
    for array, expected in zip(arrays, (images(split), labels(split), indices(split)), strict=True):
        assert array.shape == expected.shape
        assert (array == expected).all()


def test_a_shard_with_other_rows_than_in_the_manifest_is_refused(tmp_path: Path) -> None:
    raw = valid(tmp_path)
    first, second = raw["splits"]["train"]["shards"]
    first["rows"], second["rows"] = 5, 2
    write_json(tmp_path / MANIFEST, sealed(raw))
    expected = r"part-00000\.parquet: found 4 rows of 48 values in all, expected 5 of 12 each; fix: remove .* again$"
    with pytest.raises(InputError, match=expected):
        read_split(tmp_path, read_manifest(tmp_path), "train")


def test_images_of_another_size_than_in_the_manifest_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / MANIFEST, sealed(valid(tmp_path) | {"shape": [2, 3, 3]}))
    with pytest.raises(InputError, match="found 4 rows of 48 values in all, expected 4 of 18 each"):
        read_split(tmp_path, read_manifest(tmp_path), "train")


def test_reading_a_manifest_imports_nothing_heavy() -> None:
    code = "import sys, jobs.dataset; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "pyarrow", "pyspark", "petastorm", "tensorflow"} & set(imported)
