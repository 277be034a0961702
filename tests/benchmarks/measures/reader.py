"""6: the reader alone, rows a second into TensorFlow batches."""

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
    for path in dataset.glob("train/*"):  # for both from the file system's cache, and not for the second alone
        path.read_bytes()
    found = {name: run([sys.executable, "-m", module, str(dataset), _BATCH]).said for name, module in programs.items()}
    if found["idxtrain"]["rows"] != found["petastorm"]["rows"]:
        raise RuntimeError(f"the readers did not read the same: {found}")
    rates = {name: float(said["rows_per_second"]) for name, said in found.items()}
    later = {"idxtrain held": "rows_per_second_held", "petastorm cached": "rows_per_second_cached"}
    return rates | {name: float(found[name.split()[0]][key]) for name, key in later.items()}


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
                "rows/s, later epochs, held in memory: the same",
                quotients(rounds, "idxtrain held", "petastorm"),
                10.0,
            ),
            Ratio(
                "rows/s, later epochs, both held in memory: idxtrain ÷ `make_petastorm_dataset` + `cache`",
                quotients(rounds, "idxtrain held", "petastorm cached"),
            ),
        ),
        (
            figure(rounds, "idxtrain", "rows/s, idxtrain's reader, shuffled, the first epoch"),
            figure(
                rounds, "idxtrain held", "rows/s, idxtrain's reader, shuffled, later epochs where the cache holds them"
            ),
            figure(
                rounds,
                "petastorm",
                "rows/s, `make_petastorm_dataset` + unbatch + batch, row groups shuffled, any epoch",
            ),
            figure(
                rounds,
                "petastorm cached",
                "rows/s, `make_petastorm_dataset` + cache + unbatch + batch, not shuffled anew, later epochs",
            ),
        ),
    )
