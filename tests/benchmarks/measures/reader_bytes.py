"""9: the reader alone on pixels stored as bytes, against Petastorm's way on the same files and on its own schema."""

import sys

from tests.benchmarks.room import Room
from tests.benchmarks.table import Ratio, Rounds, Section, figure, quotients
from tests.benchmarks.timing import run

_BATCH = "128"
_PROGRAMS = {
    "idxtrain": "tests.benchmarks.contenders.reader_rows",
    "petastorm": "tests.benchmarks.peers.petastorm_dataset",
    "petastorm schema": "tests.benchmarks.peers.petastorm_schema",
}


def once(room: Room, number: int) -> dict[str, float]:
    dataset = room.dataset(settings={"prepare.pixels": "uint8"})
    for path in dataset.glob("train/*"):  # all read from the file system's cache
        path.read_bytes()
    readers = {
        name: run([sys.executable, "-m", module, str(dataset), _BATCH]).figures for name, module in _PROGRAMS.items()
    }
    if len({figures["rows"] for figures in readers.values()}) > 1:
        raise RuntimeError(f"found different numbers of rows: {readers}")
    rates = {name: float(figures["rows_per_second"]) for name, figures in readers.items()}
    return rates | {"idxtrain held": float(readers["idxtrain"]["rows_per_second_held"])}


def section(rounds: Rounds) -> Section:
    return Section(
        9,
        "The reader alone, `prepare.pixels=uint8`, whole epochs into TensorFlow batches of 128",
        (
            Ratio(
                "rows/s, first epoch: idxtrain ÷ `make_petastorm_dataset` on the same files",
                quotients(rounds, "idxtrain", "petastorm"),
                10.0,
            ),
            Ratio(
                "rows/s, first epoch: idxtrain ÷ `make_reader` on Petastorm's own schema",
                quotients(rounds, "idxtrain", "petastorm schema"),
                10.0,
            ),
        ),
        (
            figure(rounds, "idxtrain", "rows/s, idxtrain's reader, shuffled, the first epoch"),
            figure(rounds, "idxtrain held", "rows/s, idxtrain's reader, shuffled, later epochs from the row cache"),
            figure(
                rounds,
                "petastorm",
                "rows/s, `make_petastorm_dataset` + unbatch + batch + decode, row groups shuffled, any epoch",
            ),
            figure(
                rounds,
                "petastorm schema",
                "rows/s, `make_reader` + `make_petastorm_dataset` + batch, `NdarrayCodec`, row groups shuffled",
            ),
        ),
    )
