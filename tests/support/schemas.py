"""Check a public JSON file against its committed schema."""

import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]

from jobs.schemas import FOLDER


def require_valid(path: Path, schema: str) -> None:
    """Raise jsonschema.ValidationError unless the file fits the schema "metrics" or "manifest"."""
    text = (FOLDER / f"{schema}.schema.json").read_text(encoding="utf-8")
    jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), json.loads(text))
