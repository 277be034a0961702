"""Sixteen generated data sets as people have them: any size, type, labels, names; each trains or is refused."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.prepare import idx
from tests.conftest import as_stored

_KINDS = {"images": "X", "labels": "y"}


@dataclass(frozen=True, kw_only=True)
class GeneratedSet:
    """A data set and what is expected of it.

    `labels`: by class number. `train`, `test`: rows, by default of each class in turn; `test` 0 writes no test
    archives. `name`: of the files, by `split`, `kind`, `letter` of the kind and `n` dimensions. `unseen`: labels of
    further test rows.
    `column`: of the labels, in label archives of 4 columns. `options`: of `idxtrain run`. `refusal`: words of the line
    that refuses it; None if it trains. `learns`: whether so few steps must beat chance clearly.
    """

    shape: tuple[int, ...]
    labels: NDArray[Any]
    train: int = 600
    test: int = 100
    dtype: str = "uint8"
    label_dtype: str = "int32"
    shares: tuple[float, ...] = ()
    name: str = "{split}-{kind}-idx{n}-ubyte"
    unseen: tuple[int, ...] = ()
    column: int | None = None
    options: tuple[str, ...] = ()
    refusal: str | None = None
    learns: bool = True

    def write(self, folder: Path) -> None:
        """Write the archives into a folder."""
        random = np.random.default_rng(0)
        patterns = random.random((len(self.labels), *self.shape))
        for split, rows in (("train", self.train), ("test", self.test)):
            numbers = np.arange(rows) % len(self.labels)
            if self.shares and rows:
                numbers = np.repeat(np.arange(len(self.labels)), [max(1, round(rows * each)) for each in self.shares])
            images = 0.7 * patterns[numbers] + random.uniform(0, 0.3, (len(numbers), *self.shape))
            labels = self.labels[numbers]
            if split == "test" and self.unseen:
                images = np.concatenate([images, images[: len(self.unseen)]])
                labels = np.concatenate([labels, self.unseen])
            if rows:
                self._write(folder, split, "images", as_stored(images, np.dtype(self.dtype)))
                self._write(folder, split, "labels", self._stored(labels))

    def _stored(self, labels: NDArray[Any]) -> NDArray[Any]:
        if self.column is None:
            return labels.astype(self.label_dtype)
        columns = np.zeros((len(labels), 4), self.label_dtype)
        columns[:, self.column] = labels
        return columns

    def _write(self, folder: Path, split: str, kind: str, array: NDArray[Any]) -> None:
        path = folder / self.name.format(split=split, kind=kind, letter=_KINDS[kind], n=array.ndim)
        path.parent.mkdir(parents=True, exist_ok=True)
        idx.write(path, array)


SETS: dict[str, GeneratedSet] = {
    "8 × 8, 2 classes": GeneratedSet(shape=(8, 8), labels=np.arange(2), label_dtype="uint8"),
    "8 × 8 × 3, dots in names": GeneratedSet(
        shape=(8, 8, 3), labels=np.arange(10), label_dtype="uint8", name="{split}-{kind}.idx{n}-ubyte"
    ),
    "96 × 96 × 3, int16": GeneratedSet(shape=(96, 96, 3), labels=np.arange(3), train=120, test=30, dtype="int16"),
    "96 × 96, X_ and y_": GeneratedSet(
        shape=(96, 96), labels=np.arange(4), train=120, test=40, name="{letter}_{split}-idx{n}-ubyte"
    ),
    "1,000 classes": GeneratedSet(shape=(16, 16), labels=np.arange(1000), train=3000, test=1000, learns=False),
    "sparse labels, .gz": GeneratedSet(
        shape=(12, 20), labels=np.array([3, 700, 70_000, 2**31 - 1]), name="{split}-{kind}-idx{n}-ubyte.gz"
    ),
    "negative labels, EMNIST's names": GeneratedSet(
        shape=(10, 10),
        labels=np.array([-128, -1, 5]),
        label_dtype="int8",
        name="emnist-letters-{split}-{kind}-idx{n}-ubyte",
    ),
    "float32 pixels, a folder a split": GeneratedSet(
        shape=(14, 9), labels=np.arange(1, 27), train=1040, test=130, dtype="float32", name="{split}/{kind}.idx{n}"
    ),
    "float64 pixels, labels in columns": GeneratedSet(
        shape=(9, 9), labels=np.array([10, 20]), dtype="float64", column=2, options=("--set", "prepare.label_column=2")
    ),
    "int8 rows of pixels": GeneratedSet(shape=(100,), labels=np.arange(3), dtype="int8"),
    "int32 pixels, no test archives": GeneratedSet(shape=(16, 16), labels=np.arange(5), test=0, dtype="int32"),
    "one image a class": GeneratedSet(shape=(12, 12), labels=np.arange(40), train=40, test=40, learns=False),
    "unseen test classes": GeneratedSet(
        shape=(12, 12),
        labels=np.array([1, 2]),
        unseen=(7, 7, 9),
        refusal="found 3 of 103 rows with labels that training lacks: 7 (2), 9 (1)",
    ),
    "unseen test classes, counted": GeneratedSet(
        shape=(12, 12), labels=np.array([1, 2]), unseen=(7, 7, 9), options=("--set", "prepare.unseen_classes=count")
    ),
    "10 rows in all": GeneratedSet(shape=(12, 12), labels=np.arange(2), train=8, test=2, learns=False),
    "1 : 1000": GeneratedSet(
        shape=(12, 12), labels=np.array([0, 1]), train=1001, test=1001, shares=(1000 / 1001, 1 / 1001)
    ),
}
