"""The shards of a dataset in an object store (`prepare.store`), while all else of it stays in its folder under WORK.

    URL/DATASET_ID/train/part-00000.parquet …  manifest.json            of one training pair
    URL/segments/SEGMENT_ID/train/part-00000.parquet …  segment.json    of several; datasets share them

`store.json` in WORK/datasets/DATASET_ID, or in WORK/segments/SEGMENT_ID, records where they are. The manifest
is the same bytes as that of a dataset on disk. In the store it is written last, so that shards beside it are those that
it lists. Shards without one are of a `prepare` that was killed: nothing reads them, and the next one takes those that
are whole.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from jobs.config import Section
from jobs.errors import InputError, StoreLostError, one_line
from jobs.files import read_object, sealed, sha256_file, take_seal, write_json
from jobs.object_store import ATTEMPTS, attempt, file_system, path_of, read_blocks, reporting, require_url

if TYPE_CHECKING:
    from jobs.dataset import Shard

FILE = "store.json"
SEGMENTS = "segments"  # the folder of segments in a store
OPTION = "prepare.store"
_NOWHERE = "found no such bucket or folder; fix: correct the URL"


class DamagedError(InputError):
    """An object in a store is missing, or is not the shard that it should be. Without access, that is not known."""


class StoreRecord(Section):
    """store.json: where a dataset's or a segment's shards are.

    `url`: of the store. `folder`: the dataset's in it. `bytes`: of all shards. `objects`: where shards are that other
    datasets share, by their path in the dataset: their path below `url`.
    """

    url: Annotated[str, AfterValidator(require_url)]
    folder: str
    bytes: int = Field(ge=0)
    objects: Mapping[str, str] = {}

    def url_of(self, shard: "Shard") -> str:
        """Return the URL of a shard."""
        return f"{self.url}/{self.objects.get(shard.path, f'{self.folder}/{shard.path}')}"

    @property
    def place(self) -> str:
        """The URL below which all shards are, for people."""
        return f"{self.url}/{SEGMENTS}" if self.objects else f"{self.url}/{self.folder}"


def write_record(directory: Path, record: StoreRecord) -> None:
    """Write store.json into the folder of a dataset or segment."""
    write_json(directory / FILE, sealed(record.model_dump(mode="json")))


def read_record(directory: Path) -> StoreRecord | None:
    """Return where a dataset's shards are; None if they are in its own folder. Raises InputError for a damaged one."""
    path = directory / FILE
    try:
        changed = path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _read(path, changed)


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> StoreRecord:
    fix = f"remove {path.parent} and prepare it again"
    raw = read_object(path, fix)
    try:
        if not take_seal(raw):
            raise ValueError("its SHA-256 does not match")
        return StoreRecord.model_validate(raw)
    except ValueError as error:
        raise InputError(f"{path}: {one_line(error)}; fix: {fix}") from error


def require_shards(record: StoreRecord, directory: Path, shards: Iterable["Shard"]) -> None:
    """Raise DamagedError unless the store has an object of the right size for each shard: a listing shows it.

    Raises another InputError, or StoreLostError, if the store cannot be listed. The bytes are checked whenever a shard
    is copied: see `jobs.shard_copies`. `directory`: of the dataset.
    """
    sizes: dict[str, dict[str, int]] = {}
    for shard in shards:
        url = record.url_of(shard)
        folder = url.rsplit("/", 2)[0]  # SPLIT/NAME is the rest
        if folder not in sizes:
            with reporting(f"{OPTION} {record.url}", _NOWHERE):
                sizes[folder] = attempt(partial(_sizes, folder), f"{folder}: cannot be listed")
        found = sizes[folder].get(url.removeprefix(f"{folder}/"))
        if found != shard.bytes:
            raise damaged(
                url, "no such object" if found is None else f"{found} bytes", f"{shard.bytes} bytes", directory
            )


def damaged(url: str, found: str, expected: str, directory: Path) -> DamagedError:
    """Return the error for an object that is not the shard that it should be."""
    return DamagedError(f"{url}: found {found}, expected {expected}; fix: remove {directory} and prepare it again")


def _sizes(folder: str) -> dict[str, int]:
    """Return the size of each object below a folder, by its path from there; nothing if there is no such folder.

    Raises the client's errors, also for a missing bucket, which says nothing of the objects.
    """
    system = file_system(folder, OPTION)
    root = path_of(system, folder)
    return {path[len(root) + 1 :]: int(info["size"]) for path, info in system.find(root, detail=True).items()}


@dataclass(frozen=True)
class StoreFolder:
    """A folder of a store to which executors write shards; small, pickled with what they do.

    `earlier`: the SHA-256 of each shard of a whole dataset that is there already, by path.
    """

    url: str
    folder: str
    earlier: Mapping[str, str]

    def put(self, source: Path, name: str) -> None:
        """Upload a file unless it is there already, then read it back. Objects appear whole, under their names.

        Raises InputError for a store that cannot be used, or has another version of this dataset; StoreLostError.
        """
        what = f"{self.url}/{self.folder}/{name}"
        digest, size = sha256_file(source), source.stat().st_size
        with reporting(f"{OPTION} {self.url}", _NOWHERE):
            system = file_system(self.url, OPTION)
            path = path_of(system, what)
            for _ in range(ATTEMPTS):
                if _digest(system, what, path, size) == digest:
                    return
                if self.earlier.get(name, digest) != digest:
                    raise InputError(
                        f"{what}: found the shard of a dataset with the same ID that other versions of software made, "
                        f"expected none; fix: give another folder as {OPTION}, or remove that dataset there"
                    )
                attempt(lambda: system.put_file(str(source), path), f"{what}: the upload ended early")
            if _digest(system, what, path, size) != digest:
                raise StoreLostError(
                    f"{what}: found other bytes than were uploaded, {ATTEMPTS} times; fix: check the store"
                )

    def finish(self, directory: Path, description: str, shards: Sequence["Shard"]) -> None:
        """Upload the file that lists the shards, after them, and write the record beside it in `directory`."""
        self.put(directory / description, description)
        write_record(directory, StoreRecord(url=self.url, folder=self.folder, bytes=sum(each.bytes for each in shards)))

    def require(self, directory: Path, shards: Iterable["Shard"]) -> None:
        """Raise InputError unless each of these shards is there. `directory`: of the dataset."""
        require_shards(StoreRecord(url=self.url, folder=self.folder, bytes=0), directory, shards)


def open_folder(url: str, folder: str, description: str) -> StoreFolder:
    """Return a folder to write shards to. Raises InputError for a store that cannot be listed: is it the right one?

    `description`: the file there that lists the shards of a whole dataset or segment.
    """
    earlier: dict[str, str] = {}
    with reporting(f"{OPTION} {url}", _NOWHERE):
        _sizes(f"{url}/{folder}")  # before any work is done
        system = file_system(url, OPTION)
        path = path_of(system, f"{url}/{folder}/{description}")
        with suppress(FileNotFoundError):
            content = attempt(lambda: system.cat_file(path), f"{url}/{folder}/{description}: cannot be read")
            earlier = _listed(content)
    return StoreFolder(url, folder, earlier)


def _listed(description: bytes) -> dict[str, str]:
    """Return the SHA-256 of the shards that a manifest.json or segment.json lists, by path; empty for another file."""
    try:
        raw: Any = json.loads(description)
        shards = raw["shards"] if "shards" in raw else [s for each in raw["splits"].values() for s in each["shards"]]
        return {shard["path"]: shard["sha256"] for shard in shards}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _digest(system: Any, what: str, path: str, size: int) -> str:
    """Return the SHA-256 of an object; empty if there is none, or one of another size."""
    try:
        info = attempt(lambda: system.info(path), f"{what}: cannot be read")
    except FileNotFoundError:
        return ""
    if int(info["size"]) != size:
        return ""
    digest = hashlib.sha256()
    for block in read_blocks(system, what, path, 0, size):
        digest.update(block)
    return digest.hexdigest()
