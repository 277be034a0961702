"""Write the bill of materials, CycloneDX 1.5 as JSON: `make sbom`. The same lock gives the same bytes.

uv writes it from the lock. The time, which differs on each run, is removed; the serial number is a hash of the rest.
"""

import hashlib
import json
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent.parent


def exported(uv: str) -> dict[str, Any]:
    """Return uv's bill of the lock: all that a user's environment may hold, without development tools."""
    command = [uv, "export", "--quiet", "--frozen", "--format", "cyclonedx1.5", "--all-extras", "--no-dev"]
    command += ["--group", "offline-data", "--preview-features", "sbom-export", "--directory", str(_ROOT)]
    bom: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return bom


def reproducible(bom: dict[str, Any]) -> dict[str, Any]:
    """Return the bill without its time, with a hash of the rest as serial number."""
    metadata = {key: value for key, value in bom["metadata"].items() if key != "timestamp"}
    rest = {key: value for key, value in bom.items() if key != "serialNumber"} | {"metadata": metadata}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).digest()
    return rest | {"serialNumber": f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}"}


def main(arguments: Sequence[str]) -> None:
    """Write the bill. `arguments`: the path of uv, the file to write."""
    uv, target = arguments
    text = json.dumps(reproducible(exported(uv)), indent=2, sort_keys=True) + "\n"
    Path(target).write_text(text, encoding="utf-8")
    print(f"{target}: {len(json.loads(text)['components'])} components")


if __name__ == "__main__":
    main(sys.argv[1:])
