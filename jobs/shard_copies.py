"""Copies of shards on the node's own disk, which its processes share: made on the first read, read from then on.

A batch system's job names the folder for them (`deploy.staging`). Without it, shards that are files are read where they
are, and those in an object store (`jobs.dataset_store`) are copied to a private folder in TMPDIR. There the least
recently used copies make room for others, and those that nobody has read for a day are removed.
"""

import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.dataset_store import OPTION, damaged, read_record
from jobs.errors import InputError, one_line
from jobs.files import naming_full_disk, sha256_file
from jobs.logs import log
from jobs.object_store import attempt, file_system, path_of, read_blocks, reporting
from jobs.parquet_footer import holds_pickle
from jobs.process import ProcessId, this_process

if TYPE_CHECKING:
    from jobs.dataset import Shard

FOLDER = "IDXTRAIN_STAGED_SHARDS"  # a private folder on this node's own disk, for all ranks of one job on this node

_BLOCK = 1 << 20
_POLL_SECONDS = 0.01
_PATIENCE_SECONDS = 60.0  # with a copy that another process makes, or made before it was killed where none can see it
_SPARE = 0.05  # the share of a disk that copies leave free: others of the node write there, too
CONNECTIONS = 8  # to a store, of one process
_IN_USE_SECONDS = 60.0  # a copy that was asked for may be opened, and is not removed
_UNUSED_SECONDS = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """A shard, where its copy belongs, and where it is: a file, or, if `file` is None, the object at `url`."""

    shard: "Shard"
    copy: Path
    directory: Path
    file: Path | None = None
    url: str = ""

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes of the shard. Raises InputError if there is no such object, or one of another size."""
        if self.file is None:
            yield from self._blocks_of_object()
            return
        with self.file.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block

    def _blocks_of_object(self) -> Iterator[bytes]:
        with reporting(self.url, f"found no such object, expected a shard; fix: {self._fix}"):
            system = file_system(self.url, OPTION)
            path, size = path_of(system, self.url), self.shard.bytes
            found = int(attempt(lambda: system.info(path), f"{self.url}: cannot be read")["size"])
            if found != size:
                raise damaged(self.url, f"{found} bytes", f"{size} bytes", self.directory)
            yield from read_blocks(system, self.url, path, 0, size)

    def other_bytes(self) -> InputError:
        """Return the error for a shard that is not the one in the manifest."""
        return InputError(
            f"{self.file or self.url}: found bytes other than those of the manifest, expected SHA-256 "
            f"{self.shard.sha256[:16]}…; fix: {self._fix}"
        )

    @property
    def _fix(self) -> str:
        return f"remove {self.directory} and prepare it again"


class ShardCopies:
    """Finds the copy of each shard of a dataset, and makes it on request. Threads may share it."""

    def __init__(self, directory: Path, shards: "Sequence[Shard]", environment: Mapping[str, str] = os.environ) -> None:
        """`directory`: the dataset's; without a folder in the environment, no shard that is a file is copied."""
        staged, record = environment.get(FOLDER), read_record(directory)
        self._giving_up, self._has_given_up = threading.Lock(), False
        self._paths: list[str] = []
        self._origins: dict[str, _Origin] = {}
        for shard in shards:
            if record:
                # Named by its content: datasets may share it, and one that is prepared again may have another.
                copy = (Path(staged) if staged else private_folder()) / f"{shard.sha256}.parquet"
                origin = _Origin(shard=shard, copy=copy, directory=directory, url=record.url_of(shard))
                path = str(copy)
            else:
                file = (directory / shard.path).resolve()
                path = str(file)
                if not staged:
                    self._paths.append(path)
                    continue
                copy = Path(staged) / directory.name / shard.path
                origin = _Origin(shard=shard, copy=copy, directory=directory, file=file)
                path = str(copy) if copy.exists() else path
            self._paths.append(path)
            self._origins[path] = origin
        self._sources = {str(each.copy): str(each.file or each.url) for each in self._origins.values()}

    def source(self, path: str) -> str:
        """Return where a shard is, by the path of its copy, to name it in an error; any other path as it is."""
        return self._sources.get(path, path)

    def readable(self) -> list[str]:
        """Return where to read each shard now: the path of its copy if that is made, otherwise of its file.

        Shards in a store are copied first, several at a time. Raises InputError and OSError as `made` does.
        """
        remote = [path for path, origin in self._origins.items() if origin.file is None]
        if remote:
            with ThreadPoolExecutor(min(CONNECTIONS, len(remote))) as pool:
                list(pool.map(self.made, remote))
        return self._paths

    def made(self, path: str) -> str:
        """Return the path of a shard's copy, which is made if it is missing; of the shard if there is no room.

        `path`: one of those that `readable` returned. Raises InputError if the shard's bytes are not those of the
        manifest; StoreLostError; OSError if it cannot be read, or if one in a store finds no room.
        """
        origin = self._origins.get(path)
        if origin is None or (origin.file and self._has_given_up):
            return path
        try:
            with naming_full_disk(origin.copy):
                return str(_shared(origin))
        except OSError as error:  # a full disk, or one without hard links; if the source is at fault, reading it fails
            if origin.file is None:
                raise
            with self._giving_up:
                is_first, self._has_given_up = not self._has_given_up, True
            if is_first:
                why = error.strerror or one_line(error)
                log.warning("train: %s: %s; reading shards at their source", origin.copy.parents[1], why)
            return str(origin.file)


def local_paths(directory: Path, shards: "Sequence[Shard]") -> list[Path]:
    """Return where to read these shards: their files, or the copies of those in a store, made as `ShardCopies` does."""
    if read_record(directory) is None:
        return [directory / shard.path for shard in shards]
    return [Path(path) for path in ShardCopies(directory, shards).readable()]


def local_path(directory: Path, shard: "Shard") -> Path:
    """Return where to read one shard, as `local_paths` does."""
    return local_paths(directory, [shard])[0]


def verify_copies(directory: Path, shards: "Sequence[Shard]") -> None:
    """Make the copies of shards in a store, and check those that were there. Raises InputError as `made` does."""
    local_paths(directory, shards)  # several at a time
    for shard in shards:
        path = local_path(directory, shard)  # again, as it may have made room for another one
        if sha256_file(path) != shard.sha256:
            path.unlink(missing_ok=True)
            local_path(directory, shard)


@cache
def private_folder() -> Path:
    """Return this user's folder for copies in TMPDIR, without what nobody has used for a day.

    Raises InputError for one that is not the user's alone: another user might have put anything there.
    """
    parent = Path(tempfile.gettempdir()) / f"idxtrain-{os.geteuid()}"
    folder = parent / "shards"
    for each in (parent, folder):
        each.mkdir(mode=0o700, exist_ok=True)
        status = each.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise InputError(
                f"{each}: found a folder that others may use, expected one of this user's alone; fix: remove it, or "
                "set TMPDIR"
            )
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process removes it, too
            if time.time() - path.stat().st_mtime > _UNUSED_SECONDS:
                path.unlink()
    return folder


def _shared(origin: _Origin) -> Path:
    """Return the copy of a shard. One of the processes that ask for it at a time makes it."""
    copy, claim = origin.copy, origin.copy.with_name(f".{origin.copy.name}.claim")
    root = copy.parent if origin.file is None else copy.parents[2]
    if not root.exists():  # the job's folder on this node, which is removed when the job ends
        raise FileNotFoundError(2, os.strerror(2), str(root))
    copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not _is_made(origin):
        if _is_claimed_by_us(claim):
            try:
                if not _is_made(origin):  # another process may have made it since
                    _make(origin)
            finally:
                claim.unlink(missing_ok=True)
        elif time.monotonic() <= deadline:
            time.sleep(_POLL_SECONDS)
        elif origin.file:
            return origin.file
        else:
            _make(origin)  # twice does no harm
    return copy


def _is_made(origin: _Origin) -> bool:
    """Return whether the copy of a shard is there; one that a store has again counts as used just now."""
    try:
        if origin.file is None:
            os.utime(origin.copy)  # before the check: then it is not removed
        return origin.copy.stat().st_size == origin.shard.bytes  # a power cut may leave an empty file
    except FileNotFoundError:
        return False


def _make(origin: _Origin) -> None:
    """Copy a shard and check its bytes on the way. The copy appears whole or not at all."""
    copy = origin.copy
    temporary = copy.with_name(f".{secrets.token_hex(4)}.{copy.name}")
    _require_room(copy.parent, origin.shard.bytes, may_remove=origin.file is None)
    digest = hashlib.sha256()
    try:
        with temporary.open("xb") as target:
            for block in origin.blocks():
                digest.update(block)
                target.write(block)
        if digest.hexdigest() != origin.shard.sha256:
            raise origin.other_bytes()
        if origin.file is None and holds_pickle(temporary):  # a forged dataset whose manifest fits
            raise InputError(
                f"{origin.url}: found a pickled schema, which is never loaded; fix: prepare the data again"
            )
        temporary.rename(copy)
    finally:
        temporary.unlink(missing_ok=True)


def _require_room(folder: Path, size: int, *, may_remove: bool) -> None:
    """Raise OSError unless there is room for a copy. `may_remove`: after the least recently used ones are removed."""
    while True:
        disk = shutil.disk_usage(folder)
        if disk.free - size >= _SPARE * disk.total:
            return
        if not (may_remove and _remove_oldest(folder)):
            raise OSError(28, os.strerror(28), str(folder))


def _remove_oldest(folder: Path) -> bool:
    """Remove the copy that was read longest ago; return whether there was one that is not in use."""
    ages = {}
    for path in folder.glob("*.parquet"):
        with suppress(FileNotFoundError):
            ages[path] = time.time() - path.stat().st_mtime
    oldest = max(ages, key=lambda path: ages[path], default=None)
    if oldest is None or ages[oldest] < _IN_USE_SECONDS:
        return False
    oldest.unlink(missing_ok=True)
    return True


def _is_claimed_by_us(claim: Path) -> bool:
    """Return whether this process is to make a copy. A claim of a dead process is removed, for the next to take.

    Two processes that see a dead one may both make the copy, which is the same.
    """
    own = claim.with_name(f"{claim.name}-{secrets.token_hex(4)}")
    try:
        own.write_text(json.dumps(asdict(this_process())), encoding="utf-8")
        claim.hardlink_to(own)  # so that others see the whole claim or none
    except FileExistsError:
        with suppress(FileNotFoundError):  # it was just removed
            if _is_dead(claim):
                claim.unlink(missing_ok=True)
        return False
    finally:
        own.unlink(missing_ok=True)
    return True


def _is_dead(claim: Path) -> bool:
    """Return whether the process that made a claim is gone. A claim appears whole, so a torn one is of a power cut."""
    try:
        return ProcessId(**json.loads(claim.read_text(encoding="utf-8"))).runs() is False
    except (ValueError, KeyError, TypeError):
        return True
