"""The files of a work folder. WORK is `--work`; in a path, capitals and N stand for a name or number."""

WORK = {
    "archives/NAME/": "Archives that fetch downloaded or unpacked, a folder per data set.",
    "datasets/ID/": "Prepared datasets, a folder per dataset ID: see below.",
    "segments/ID/": "Decoded segments, a folder per archive pair. Datasets of several pairs are made of them.",
    "runs/ID/": "Runs, a folder per run ID: see below.",
    "retrain/NAME/": "State of `idxtrain retrain`, a folder per registered model: see below.",
    "retrain/.scratch/": "Temporary files of the registry's client.",
    "environments/": "The Python environment as tar files, for sites that stage it. Unused ones go after a week.",
    "sweeps/NAME/": "Sweeps: `sweep.json` has the points, `table.txt` the results. Runs of a sweep are in `runs/`.",
    "mlflow/": "The model registry: MLflow's SQLite file and artifacts. Not used with MLFLOW_TRACKING_URI.",
    "speeds/": "Measured speeds of training steps: `idxtrain doctor --measure` writes them, `plan` reads them.",
    ".locks/": "Leases: which process works on what.",
    ".removed/": "What `idxtrain prune` is removing.",
}

DATASET = {
    "manifest.json": (
        "Shape, classes, rows, files with checksums, label counts, pixel statistics, sources, options and versions."
    ),
    "train/part-N.parquet": (
        "Rows to train on. Columns: `image` list<float32> of height × width × channels values in [0, 1], or the "
        "archive's bytes with `prepare.pixels=uint8`; `label` int32; `index` int64, the row in its archive. One row "
        "group per file."
    ),
    "validation/part-N.parquet": "Rows held out from the training archive.",
    "test/part-N.parquet": "Rows of the test archive.",
    "store.json": "With `prepare.store`: where the shards are, which are then not in this folder.",
    "segments.json": "The segments it is made of, if there are several training pairs.",
}

RUN = {
    "config.json": "The whole config, frozen when the run was made.",
    "metrics.json": "The result of evaluate.",
    "predictions.parquet": (
        "Prediction for each test image: `index` (row in its archive), `label`, `predicted`, `probability`, and "
        "`probabilities` of all classes unless they take more than 16 MB."
    ),
    "report.html": "The result as a page: accuracy, curves, confusion matrix, errors.",
    "model.keras": "The trained model, plain Keras, float32.",
    "evaluations/NAME/": "An evaluation on other data, laid out as a run: `metrics.json`, `report.html`, predictions.",
    "stages/STAGE.json": "Record of a finished stage: what went in, what came out, seconds.",
    "checkpoints/step-N.safetensors": "Training state after N steps: weights, optimizer slots, EMA.",
    "checkpoints/step-N.json": "Its step, key and checksum.",
    "tensorboard/": "Event files for TensorBoard.",
    "logs/STAGE.log": "Log of a stage. Ranks above 0 write `train.rank-N.log`.",
    "logs/tensorflow.log": "What TensorFlow printed while it was imported.",
    "logs/train.jsonl": "A JSON line per measurement and validation: step, loss, accuracy, images/s.",
    "logs/flight.rank-N.jsonl": "Where a rank's time went: input, compute, allreduce. `idxtrain stragglers` reads it.",
    "logs/rows.rank-N.jsonl": "Rows that a rank trained on, with `train.audit=true`.",
    "logs/restarts.jsonl": "A JSON line per failed attempt: what failed.",
    "logs/usage/STAGE.rank-N.BEGAN.HOST.json": "CPU time, memory and seconds of a process: see `idxtrain status`.",
    "heartbeats/": "Which step and phase each rank is in, while it trains.",
    "slurm/STAGE.sh": "Batch script of a job.",
    "slurm/STAGE-JOB.out": "Output of a job.",
    "slurm/site.json": "The site when the run was submitted.",
    "slurm/jobs.json": "The Slurm job ID of each stage.",
    "slurm/history.jsonl": "A JSON line each time a job was submitted, started, ended or requeued.",
    "comparison.json": "What the gate decides on: the challenger and the champions on the same test images.",
    "sample.npz": "A few test images with their probabilities, to check the registered model against.",
    "decision.json": "The gate's decision, with every check.",
    "decision.html": "The decision as a page.",
    "lock.json": "The process that works on the run.",
}

RETRAIN = {
    "state.json": "The last finished retraining.",
    "pending.json": "The retraining in progress, which the next call resumes.",
    "notification.json": "The last outcome, until it is delivered.",
    "promotion.json": "Journal of a promotion, so that a killed one is completed.",
    "champion.json": "The champion, for when the registry is unreachable.",
    "best.json": "The best champion so far.",
    "models/SHA.keras": "Copies of both models, named by their SHA-256.",
    "outbox/RUN.json": "A run that waits to be registered.",
    "retrain.log": "Log of a scheduled `idxtrain retrain`; old ones are `retrain.log.N`.",
    "lock.json": "The process that works on the model.",
}
