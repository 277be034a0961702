"""7: prepare with Spark, cold, against pyarrow alone on the same cores; and its growth with the data."""

import shutil
import sys

from jobs.dataset import SPLITS, read_manifest
from jobs.run_dir import RunDir
from jobs.stage import read_record
from jobs.train.compute.devices import usable_cpus
from tests.benchmarks.measures.stages import stage_run, work
from tests.benchmarks.room import Room
from tests.benchmarks.table import Ratio, Rounds, Section, figure, quotients
from tests.benchmarks.timing import run


def once(room: Room, number: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    for factor in (1, room.sizes.factor):
        name = "one" if factor == 1 else "many"
        figures[f"{name} seconds"] = stage_run(room, number, factor, "prepare").seconds
        rows = _rows(room, number, factor)
        figures |= {f"{name} rows": rows, f"{name} rate": rows / figures[f"{name} seconds"]}
        peer = _pyarrow(room, factor, rows)
        figures |= {f"{name} peer seconds": peer, f"{name} peer rate": rows / peer}
    figures["time growth"] = figures["many seconds"] / figures["one seconds"]
    figures["row growth"] = figures["many rows"] / figures["one rows"]
    return figures


def _rows(room: Room, number: int, factor: int) -> int:
    run_dir = RunDir(work(room, number, factor).runs / "r")
    manifest = read_manifest(
        work(room, number, factor).datasets / read_record(run_dir, "prepare").outputs["dataset_id"]
    )
    return sum(manifest.splits[split].rows for split in SPLITS)


def _pyarrow(room: Room, factor: int, rows: int) -> float:
    out = room.folder / "pyarrow"
    module = "tests.benchmarks.peers.pyarrow_only"
    done = run([sys.executable, "-m", module, str(room.archives(factor)), str(out), str(usable_cpus())])
    shutil.rmtree(out)
    if done.figures["rows"] != rows:
        raise RuntimeError(f"pyarrow wrote {done.figures['rows']} rows, idxtrain {rows}")
    return done.seconds


def section(rounds: Rounds) -> Section:
    rows, many = (f"{int(rounds[0][f'{name} rows']):,}" for name in ("one", "many"))
    return Section(
        7,
        "Prepare with Spark",
        (
            Ratio(
                f"images/s on {many}: prepare ÷ pyarrow alone", quotients(rounds, "many rate", "many peer rate"), 0.5
            ),
            Ratio(
                f"seconds on {many} ÷ seconds on {rows}, ÷ growth of the rows",
                quotients(rounds, "time growth", "row growth"),
                None,
                1.0,
            ),
        ),
        (
            figure(rounds, "one seconds", f"prepare, cold start to finish, {rows} images", ".1f", " s"),
            figure(rounds, "many seconds", f"prepare, cold start to finish, {many} images", ".1f", " s"),
            figure(rounds, "many rate", f"— images/s on {many}, start-up included"),
            figure(rounds, "one peer seconds", f"pyarrow alone, {rows} images", ".1f", " s"),
            figure(rounds, "many peer seconds", f"pyarrow alone, {many} images", ".1f", " s"),
            figure(rounds, "many peer rate", f"— images/s on {many}, start-up included"),
        ),
        (
            "Both start from .gz files as fresh processes and use all cores. pyarrow alone inflates and writes. "
            "prepare also checks, takes statistics, looks for duplicates and hashes what it wrote, while its memory is "
            "sampled (measure 8).",
        ),
    )
