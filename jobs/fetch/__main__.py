"""python -m jobs.fetch RUN_DIR: find or download the archives of a run, and check them."""

from jobs.fetch.config import FetchConfig
from jobs.fetch.stage import fetch
from jobs.run_dir import RunDir
from jobs.stage import run_as_process, stage_key, write_record


def main(run: RunDir) -> None:
    """Run the stage; see `jobs.fetch.stage`."""
    key = stage_key(run, "fetch")
    archives = fetch(run.section("fetch", FetchConfig), run.work.archives, run.work.locks)
    outputs = {"archives": {role: archive.to_json() for role, archive in archives.items()}}
    write_record(run, "fetch", key, outputs, [archive.path for archive in archives.values()])


if __name__ == "__main__":
    run_as_process("fetch", main)
