"""The MLflow runs behind the versions: what one records, and how an unfinished one is removed."""

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from deploy.registry.versions import Entry

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "idxtrain.run_id"
DATA_FILE = "training-data.json"
MAX_CHARACTERS = 500  # of a parameter's or a tag's value; MLflow refuses longer ones
_MAX_POINTS, _MAX_PARAMETERS = 1000, 100  # of one call; MLflow refuses more


def create_run(client: "MlflowClient", experiment: str, entry: Entry) -> Any:
    """Start an MLflow run that records parameters, metrics, training data and files; return MLflow's `Run`."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    tags = {RUN_TAG: entry.run_id, **{f"idxtrain.{key}": value for key, value in entry.code.items()}}
    run = client.create_run(experiment, run_name=entry.run_id, tags=tags)
    mlflow_id = run.info.run_id
    now = int(time.time() * 1000)
    parameters = [Param(key, value[:MAX_CHARACTERS]) for key, value in entry.parameters.items()]
    for start in range(0, len(parameters), _MAX_PARAMETERS):
        client.log_batch(mlflow_id, params=parameters[start : start + _MAX_PARAMETERS])
    points = [Metric(key, value, now, 0) for key, value in entry.metrics.items()]
    points += [Metric(key, value, now, step) for key, value, step in entry.curve]
    for start in range(0, len(points), _MAX_POINTS):
        client.log_batch(mlflow_id, metrics=points[start : start + _MAX_POINTS])
    source = json.dumps({"dataset_id": entry.dataset_id})
    dataset = Dataset(entry.dataset_id, entry.dataset_id, "idxtrain", source, profile=json.dumps(dict(entry.data)))
    client.log_inputs(mlflow_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    client.log_dict(mlflow_id, dict(entry.data), DATA_FILE)
    for file in entry.files:
        if file.exists():
            client.log_artifact(mlflow_id, str(file))
    return run


def recorded_run_ids(client: "MlflowClient", experiment: str) -> set[str]:
    """Return the IDs of the idxtrain runs that an experiment's MLflow runs record."""
    return {str(run.data.tags[RUN_TAG]) for run in _search(client, experiment, f"tags.`{RUN_TAG}` != ''")}


def delete_runs(client: "MlflowClient", experiment: str, run_id: str, *, with_files: bool) -> None:
    """Delete the MLflow runs of one idxtrain run. `with_files`: also their artifacts, if they are on this machine."""
    for run in _search(client, experiment, f"tags.`{RUN_TAG}` = '{run_id}'"):
        client.delete_run(run.info.run_id)
        location = urlsplit(run.info.artifact_uri)
        if with_files and location.scheme in ("", "file"):
            shutil.rmtree(Path(url2pathname(location.path)).parent, ignore_errors=True)


def _search(client: "MlflowClient", experiment: str, query: str) -> list[Any]:
    return list(client.search_runs([experiment], query, max_results=1000))
