"""python -m tests.benchmarks.bench [--only NAME,…] [--rounds 5]: measure idxtrain and its peers, as one Markdown table.

Every contender is a fresh process. A round runs each of them once. The table shows medians, the spread, and ratios
within a round. RESULTS.json keeps the figures, and RESULTS.md is written from it. With --only, the other measures stay
unchanged, if they were taken on this machine with these versions. Nothing else should run at the same time.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks import machine, torch_environment
from tests.benchmarks.measures import MEASURES
from tests.benchmarks.room import FULL, Room
from tests.benchmarks.table import Taken, document

_HERE = Path(__file__).parent
_NOTHING: dict[str, Any] = {"seconds": 0.0, "busy": 0.0, "rounds": []}


def main() -> None:
    options = parse(sys.argv[1:])
    if options.render:
        write(json.loads(options.out.with_suffix(".json").read_text(encoding="utf-8")), options.out)
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        torch = torch_environment.python() if "step_speed" in options.only else None
        room = Room(Path(folder), FULL, torch=torch, full_rounds=options.full_rounds)
        measure(room, options, kept(options.out, options.append))
    print(options.out.read_text(encoding="utf-8"))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench")
    parser.add_argument(
        "--only", type=names, default=list(MEASURES), help=f"measures to take, from {', '.join(MEASURES)}"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--full-rounds", type=int, default=0, help="rounds in which the peers of to_accuracy run in full"
    )
    parser.add_argument("--append", action="store_true", help="add the rounds to the existing ones")
    parser.add_argument(
        "--out", type=Path, default=_HERE / "RESULTS.md", help="the file to write, with a RESULTS.json beside it"
    )
    parser.add_argument("--render", action="store_true", help="only rewrite the table from RESULTS.json")
    parser.add_argument(
        "--scratch", type=Path, help="a folder with 10 GB free (default: the system's temporary folder)"
    )
    return parser.parse_args(arguments)


def names(text: str) -> list[str]:
    wanted = text.split(",")
    unknown = [name for name in wanted if name not in MEASURES]
    if unknown:
        raise argparse.ArgumentTypeError(f"found {', '.join(unknown)}, expected names from {', '.join(MEASURES)}")
    return wanted


def kept(out: Path, append: bool) -> dict[str, Any]:
    """Return the earlier results on this machine with these versions: measures by name."""
    path, here = out.with_suffix(".json"), machine.describe()
    if path.exists():
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if before["machine"] == here:
            return before
        if append:
            there = machine.in_words(before["machine"])
            sys.exit(f"{path}: found results of {there}, expected this machine's; fix: run without --append")
    return {"machine": here, "measures": {}}


def measure(room: Room, options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Run the rounds, each with all chosen measures; write the results after each measure, as a run takes long."""
    measures = results["measures"]
    for number in range(options.rounds):
        for name in options.only:
            busy = psutil.cpu_percent(interval=1)  # of other programs: nothing of ours runs now
            begin = time.perf_counter()
            figures = MEASURES[name].once(room, number)
            seconds = time.perf_counter() - begin
            print(
                f"round {number + 1} of {options.rounds}: {name}, {seconds:.0f} s, other programs {busy:.0f} %",
                file=sys.stderr,
                flush=True,
            )
            before = measures.get(name, _NOTHING) if number or options.append else _NOTHING
            measures[name] = {
                "date": time.strftime("%Y-%m-%d"),
                "seconds": round(before["seconds"] + seconds, 1),
                "busy": max(before["busy"], busy),
                "rounds": [*before["rounds"], figures],
            }
            write(results, options.out)


def write(results: dict[str, Any], out: Path) -> None:
    """Write RESULTS.json and RESULTS.md."""
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    out.write_text(text(results, (_HERE / "TRIED.md").read_text(encoding="utf-8")), encoding="utf-8")


def text(results: dict[str, Any], tried: str) -> str:
    """Return RESULTS.md for these results."""
    sections = [
        (
            MEASURES[name].section(measured["rounds"]),
            Taken(measured["date"], len(measured["rounds"]), measured["seconds"], measured["busy"]),
        )
        for name, measured in results["measures"].items()
    ]
    return document(machine.in_words(results["machine"]), sections, tried)


if __name__ == "__main__":
    main()
