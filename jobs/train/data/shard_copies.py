"""Copies of shards on the node's own disk, which its ranks share: made on the first read, read from then on.

A batch system's job names the folder for them (`deploy.staging`). Without it, shards are read where they are.
"""

import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from jobs.dataset import Shard
from jobs.errors import InputError, one_line
from jobs.logs import log
from jobs.process import ProcessId, this_process

FOLDER = "IDXTRAIN_STAGED_SHARDS"  # a private folder on this node's own disk, for all ranks of one job on this node

_BLOCK = 1 << 20
_POLL_SECONDS = 0.01
_PATIENCE_SECONDS = 60.0  # with a copy that another process makes, or made before it was killed where none can see it
_SPARE = 0.05  # the share of a disk that copies leave free: others of the node write there, too


class ShardCopies:
    """Finds the copy of each shard of a dataset, and makes it on request. Threads may share it."""

    def __init__(self, directory: Path, shards: Sequence[Shard], environment: Mapping[str, str] = os.environ) -> None:
        """`directory`: the dataset's; without a folder in the environment, nothing is copied."""
        folder = environment.get(FOLDER)
        self._folder = Path(folder) / directory.name if folder else None
        self._giving_up = threading.Lock()
        self._sources = {str((directory / shard.path).resolve()): shard for shard in shards} if folder else {}
        self._copies = {str(self._copy(source)): source for source in self._sources}  # to name a shard in an error

    def source(self, path: str) -> str:
        """Return a shard's own path for that of its copy; any other path as it is."""
        return self._copies.get(path, path)

    def known(self, source: str) -> str:
        """Return where to read a shard: the path of its copy if it is made already, otherwise its own."""
        copy = self._copy(source)
        return str(copy) if copy and copy.exists() else source

    def made(self, path: str) -> str:
        """Return the path of a shard's copy, which is made if it is missing; of the shard if there is no room.

        `path`: what `known` returned. Raises InputError if the shard's bytes are not those of the manifest; OSError if
        it cannot be read.
        """
        copy = self._copy(path)
        if copy is None:
            return path
        claim = copy.with_name(f".{copy.name}.claim")
        try:
            if not copy.parents[2].exists():  # the job's folder on this node, which is removed when the job ends
                raise FileNotFoundError(2, os.strerror(2), str(copy.parents[2]))
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while not copy.exists():
                if _is_claimed_by_us(claim):
                    try:
                        if not copy.exists():  # another rank may have made it since
                            _make(Path(path), copy, self._sources[path])
                    finally:
                        claim.unlink(missing_ok=True)
                elif time.monotonic() > deadline:
                    return path
                else:
                    time.sleep(_POLL_SECONDS)
        except OSError as error:  # a full disk, or one without hard links; if the source is at fault, reading it fails
            with self._giving_up:
                is_first, self._folder = self._folder is not None, None
            if is_first:
                why = error.strerror or one_line(error)
                log.warning("train: %s: %s; reading shards at their source", copy.parent.parent, why)
            return path
        return str(copy)

    def _copy(self, source: str) -> Path | None:
        shard, folder = self._sources.get(source), self._folder  # another thread may give the folder up
        return folder / shard.path if folder and shard else None


def _make(source: Path, copy: Path, shard: Shard) -> None:
    """Copy a file and check its bytes on the way. The copy appears whole or not at all."""
    temporary = copy.with_name(f".{secrets.token_hex(4)}.{copy.name}")
    _require_room(copy.parent, shard.bytes)
    digest = hashlib.sha256()
    try:
        with source.open("rb") as file, temporary.open("xb") as target:
            while block := file.read(_BLOCK):
                digest.update(block)
                target.write(block)
        if digest.hexdigest() != shard.sha256:
            raise InputError(
                f"{source}: found bytes other than those of the manifest, expected SHA-256 {shard.sha256[:16]}…; "
                f"fix: remove {source.parents[1]} and prepare it again"
            )
        temporary.rename(copy)
    finally:
        temporary.unlink(missing_ok=True)


def _require_room(folder: Path, size: int) -> None:
    disk = shutil.disk_usage(folder)
    if disk.free - size < _SPARE * disk.total:
        raise OSError(28, os.strerror(28), str(folder))


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
            if ProcessId(**json.loads(claim.read_text(encoding="utf-8"))).runs() is False:
                claim.unlink(missing_ok=True)
        return False
    finally:
        own.unlink(missing_ok=True)
    return True
