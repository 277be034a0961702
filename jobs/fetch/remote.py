"""Archives in an object store or Hadoop, such as `--data s3://bucket/prefix`: copied to WORK/archives, and used there.

How a store is opened and read is in `jobs.object_store`. Copied are files with an archive's name in the folder and in
the folders in it, `data.toml`, and the lists of `idxtrain convert`.

A copy appears whole. An unfinished one is resumed, unless the file was replaced in the meantime. Where the folder has
SHA256SUMS, copies are checked against it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jobs.errors import IdxtrainError, InputError
from jobs.fetch.config import FetchConfig
from jobs.fetch.data_set import FILE
from jobs.fetch.name_words import split_and_kind
from jobs.fetch.names import stem
from jobs.fetch.partial import PartialFile
from jobs.fetch.source import SourceError
from jobs.files import read_object, sealed, sha256_file, sync, take_seal, write_json
from jobs.lease import Lease
from jobs.logs import log
from jobs.object_store import file_system, is_remote, path_of, read_blocks, reporting
from jobs.pictures import CHECKSUMS, SOURCES
from jobs.progress import Progress

_BESIDE = (FILE, SOURCES, CHECKSUMS)  # files that belong to archives
_RECORD = ".remote.json"


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a remote folder. `name`: its path in the folder. `version`: another one after each change."""

    name: str
    path: str
    bytes: int
    version: str


def in_place(config: FetchConfig, archives_dir: Path) -> FetchConfig:
    """Return the config with the copy of a remote folder as its folder. Raises InputError if there is no copy."""
    if not is_remote(config.data):
        return config
    folder = _folder(config, archives_dir)
    if not (folder / _RECORD).exists():
        raise InputError(
            f"--data {config.data}: found no copy of it in {archives_dir}, expected one; fix: run `idxtrain fetch` "
            "with the same options first"
        )
    return config.model_copy(update={"data": str(folder)})


def copied(config: FetchConfig, archives_dir: Path, lock_dir: Path) -> FetchConfig:
    """Return the config with a copy of a remote folder as its folder, after copying what is new in it."""
    if not is_remote(config.data):
        return config
    folder = _folder(config, archives_dir)
    lock_dir.mkdir(mode=0o775, parents=True, exist_ok=True)
    lease = Lease(lock_dir / f"archives-{folder.name}.json", f"fetch: {config.data}", waits=True)
    with lease:
        with reporting(f"--data {config.data}"):
            system = file_system(config.data, "--data")
            files = _listed(system, config.data)
        _copy(system, config.data, files, folder)
    return in_place(config, archives_dir)


def _folder(config: FetchConfig, archives_dir: Path) -> Path:
    return archives_dir / f"{config.dataset}-{hashlib.sha256(config.data.encode()).hexdigest()[:8]}"


def _listed(system: Any, url: str) -> list[RemoteFile]:
    """Return the files to copy. Raises InputError if there are none, or for a name that could leave the folder."""
    root = path_of(system, url)
    found = system.find(root, maxdepth=2, detail=True)
    files = []
    for path, info in sorted(found.items()):
        name = path[len(root) :].lstrip("/")
        base = PurePosixPath(name).name
        if info.get("type") != "file" or not (base in _BESIDE or _has_archives_name(base)):
            continue
        is_inside = path.startswith(f"{root}/") and not any(part in ("", ".", "..") for part in name.split("/"))
        if not is_inside or not name.isprintable():
            raise InputError(
                f"--data {url}: found the name {path!r}, expected one that is fit for a file here; fix: rename it"
            )
        files.append(RemoteFile(name=name, path=path, bytes=int(info["size"]), version=_version(system.info(path))))
    if not files:
        raise InputError(
            f"--data {url}: found no archives, expected names such as train-images-idx3-ubyte.gz; fix: correct the URL"
        )
    return files


def _has_archives_name(name: str) -> bool:
    """Return whether a file may be an archive: `fetch` judges what is copied as it judges any folder."""
    return "idx" in name.lower() or split_and_kind(stem(Path(name)))[1] is not None


def _version(info: Mapping[str, Any]) -> str:
    """Return what changes with a file's content, of the forms that file systems give it."""
    return next((str(info[key]) for key in ("ETag", "mtime", "LastModified", "created") if info.get(key)), "")


def _copy(system: Any, url: str, files: list[RemoteFile], folder: Path) -> None:
    """Copy the files that are new or changed, remove those that are gone, and record them."""
    folder.mkdir(parents=True, exist_ok=True)
    known = _recorded(folder)
    record: dict[str, dict[str, Any]] = {}
    for each in files:
        target = folder / each.name
        digest = sha256_file(target) if target.is_file() else ""
        if known.get(each.name) != asdict(each) | {"sha256": digest}:
            target.parent.mkdir(exist_ok=True)
            _receive(system, url, each, target)
            digest = sha256_file(target)
        record[each.name] = asdict(each) | {"sha256": digest}
    _check_sums(url, record, folder)
    for name in known.keys() - record.keys():
        (folder / name).unlink(missing_ok=True)
    write_json(folder / _RECORD, sealed({"url": url, "files": record}))


def _recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what was copied before; nothing if that is not known."""
    try:
        raw = read_object(folder / _RECORD, "fetch again")
    except InputError:
        return {}
    return dict(raw["files"]) if take_seal(raw) else {}


def _receive(system: Any, url: str, file: RemoteFile, target: Path) -> None:
    """Copy one file, from where an earlier copy of this version ended."""
    version = hashlib.sha256(f"{file.bytes} {file.version}".encode()).hexdigest()[:8]
    part_path = target.with_name(f".{target.name}.{version}.part")
    for stale in target.parent.glob(f".{target.name}.*.part"):
        if stale != part_path:
            stale.unlink()
    with PartialFile(part_path) as part, Progress(f"fetch: {file.name}", file.bytes, "bytes") as progress:
        done = part.length
        part.cut(min(done, file.bytes))
        if done:
            log.info("fetch: %s: resuming after %s bytes", file.name, f"{done:,}")
        for block in _blocks(system, url, file, done):
            part.write(block)
            done += len(block)
            progress.update(done)
        with reporting(f"--data {url}"):
            system.invalidate_cache()
            info = system.info(file.path)
        if (_version(info), int(info["size"])) != (file.version, file.bytes):
            part.cut(0)
            raise IdxtrainError(f"{url}: {file.name} changed while it was copied; fix: run again")
        try:
            part.finish(target)
        except SourceError as error:
            raise IdxtrainError(f"{url}: {file.name}: {error}; fix: run again") from error
    sync(target.parent)


def _blocks(system: Any, url: str, file: RemoteFile, start: int) -> Iterator[bytes]:
    """Yield the bytes of a file from `start` on. A generator: what its caller raises is not taken for the client's."""
    with reporting(f"--data {url}"):
        yield from read_blocks(system, f"{url}: {file.name}", file.path, start, file.bytes)


def _check_sums(url: str, record: dict[str, dict[str, Any]], folder: Path) -> None:
    """Raise InputError, and forget the file, if a copy is not the one that SHA256SUMS beside it lists."""
    for name, entry in record.items():
        sums = (folder / name).with_name(CHECKSUMS)
        if not sums.is_file():
            continue
        lines = (line.split(maxsplit=1) for line in sums.read_text(encoding="utf-8", errors="replace").splitlines())
        listed = {each[1].lstrip("*"): each[0] for each in lines if len(each) == 2}
        expected = listed.get(PurePosixPath(name).name)
        if expected and expected != entry["sha256"]:
            (folder / name).unlink()
            raise InputError(
                f"{url}: {name}: found SHA-256 {entry['sha256'][:12]}…, expected {expected[:12]}… as in {CHECKSUMS}; "
                "fix: upload the file again"
            )
