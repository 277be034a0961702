"""python -m jobs.fetch RUN_DIR: find or download the archives of a run, and check them."""

from jobs.fetch.config import FetchConfig
from jobs.fetch.describe import described_by
from jobs.fetch.remote import in_place
from jobs.fetch.stage import fetch
from jobs.label_options import label_options
from jobs.run_dir import RunDir
from jobs.stage import run_as_process, stage_key, write_record


def main(run: RunDir) -> None:
    """Run the stage; see `jobs.fetch.stage`.

    Options of labels are not in the stage's key: they decide what is refused, and a run's config is frozen.
    """
    key = stage_key(run, "fetch")
    config = run.section("fetch", FetchConfig)
    outputs = fetch(config, run.work.archives, run.work.locks, label_options(run))
    files = [archive.path for archive in outputs.archives.values()] + described_by(in_place(config, run.work.archives))
    files += sorted({each.path for each in outputs.description.pictures.values()})
    write_record(run, "fetch", key, outputs.model_dump(mode="json"), files)


if __name__ == "__main__":
    run_as_process("fetch", main)
