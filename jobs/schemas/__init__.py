"""JSON schemas of the public files: metrics.json of a run and manifest.json of a dataset."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from jobs.dataset import Manifest
from jobs.files import write_json
from jobs.metrics import Metrics

FOLDER = Path(__file__).parent


def schemas() -> dict[str, dict[str, Any]]:
    """Return each schema by its file name."""
    manifest = _schema(Manifest)
    manifest["properties"]["sha256"] = {"description": "hash of all other keys", "type": "string"}
    manifest["required"].append("sha256")
    return {"metrics.schema.json": _schema(Metrics), "manifest.schema.json": manifest}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def write_schemas(folder: Path) -> list[Path]:
    """Write the schemas into a folder; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, schema in schemas().items():
        files.append(folder / name)
        write_json(files[-1], schema)
    return files
