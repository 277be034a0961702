"""6: the reader alone, rows per second into TensorFlow batches."""

import sys

from tests.benchmarks.room import Room
from tests.benchmarks.table import Ratio, Rounds, Section, figure, quotients
from tests.benchmarks.timing import run

_BATCH = "128"


def once(room: Room, number: int) -> dict[str, float]:
    programs = {
        "idxtrain": "tests.benchmarks.contenders.reader_rows",
        "petastorm": "tests.benchmarks.peers.petastorm_dataset",
    }
    dataset = room.dataset()
    for path in dataset.glob("train/*"):  # both read from the file system's cache, not only the second
        path.read_bytes()
    readers = {
        name: run([sys.executable, "-m", module, str(dataset), _BATCH]).figures for name, module in programs.items()
    }
    if readers["idxtrain"]["rows"] != readers["petastorm"]["rows"]:
        raise RuntimeError(f"found different numbers of rows: {readers}")
    rates = {name: float(figures["rows_per_second"]) for name, figures in readers.items()}
    later = {"idxtrain held": "rows_per_second_held", "petastorm cached": "rows_per_second_cached"}
    return rates | {name: float(readers[name.split()[0]][key]) for name, key in later.items()}


def section(rounds: Rounds) -> Section:
    return Section(
        6,
        "The reader alone, whole epochs into TensorFlow batches of 128",
        (
            Ratio(
                "rows/s, first epoch: idxtrain ÷ `make_petastorm_dataset`",
                quotients(rounds, "idxtrain", "petastorm"),
                10.0,
            ),
            Ratio(
                "rows/s, later epochs, from the row cache: the same",
                quotients(rounds, "idxtrain held", "petastorm"),
                10.0,
            ),
            Ratio(
                "rows/s, later epochs, both from memory: idxtrain ÷ `make_petastorm_dataset` + `cache`",
                quotients(rounds, "idxtrain held", "petastorm cached"),
            ),
        ),
        (
            figure(rounds, "idxtrain", "rows/s, idxtrain's reader, shuffled, the first epoch"),
            figure(rounds, "idxtrain held", "rows/s, idxtrain's reader, shuffled, later epochs from the row cache"),
            figure(
                rounds,
                "petastorm",
                "rows/s, `make_petastorm_dataset` + unbatch + batch, row groups shuffled, any epoch",
            ),
            figure(
                rounds,
                "petastorm cached",
                "rows/s, `make_petastorm_dataset` + cache + unbatch + batch, not reshuffled, later epochs",
            ),
        ),
    )
