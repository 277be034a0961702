"""python -m jobs.evaluate RUN_DIR: evaluate the model of a run on its test split, or an evaluation on other data.

Under a launcher, it is one of several ranks.
"""

import os

from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.parts import this_world
from jobs.evaluate.stage import evaluate
from jobs.files import sha256_file
from jobs.records import EvaluateOutputs
from jobs.run_dir import RunDir
from jobs.stage import run_as_process, stage_key, write_record


def main(run: RunDir) -> None:
    """Run the stage; see `jobs.evaluate.stage`. An evaluation on other data, which is never skipped, has no record."""
    config, world = run.section("evaluate", EvaluateConfig), this_world(os.environ)
    if run.origin != run:
        evaluate(run, config, world)
        return
    key = stage_key(run, "evaluate")
    metrics = evaluate(run, config, world)
    if metrics is None:  # rank 0 writes the result
        return
    test = metrics.test
    outputs = EvaluateOutputs(
        metrics_sha256=sha256_file(run.metrics_file),
        test_accuracy=test.accuracy,
        test_errors=test.errors,
        test_count=test.count,
    )
    files = [run.metrics_file, run.predictions_file, run.report_file]
    if config.compare:
        files += [run.comparison_file, run.sample_file]
    write_record(run, "evaluate", key, outputs.model_dump(mode="json"), files)


if __name__ == "__main__":
    run_as_process("evaluate", main)
