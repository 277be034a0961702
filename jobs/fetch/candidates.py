"""The files in a data folder that may be archives, and what their names, headers and checksums say about them."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.archive import Kind, Role, Split, is_git_lfs_pointer, role_for
from jobs.fetch.identify import identify
from jobs.fetch.name_words import split_and_kind, split_of_folder
from jobs.fetch.names import files_in, has_gz_suffix, role_of, stem
from jobs.fetch.sniff import Sniffed, sniff

# Endings of the names that people give to IDX archives, beside those with `idx` in them.
_ENDINGS = ("", ".ubyte", ".bin", ".dat", ".data")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A file that may be an archive. `split`, `kind`: None where nothing says it. `header`: None if it is not IDX."""

    path: Path
    split: Split | None
    kind: Kind | None
    header: Sniffed | None
    is_canonical: bool

    @property
    def role(self) -> Role | None:
        """The archive's role, or None where split or kind is unknown."""
        return role_for(self.split, self.kind) if self.split and self.kind else None

    @property
    def rows(self) -> int | None:
        """The number of rows that its header promises."""
        return self.header.rows if self.header else None

    def __str__(self) -> str:
        if self.header:
            what = str(self.header)
        else:
            what = "a Git LFS pointer; run `git lfs pull`" if is_git_lfs_pointer(self.path) else "not IDX"
        # Quoted: a name may contain a line break, and an error is one line.
        return f"{self.path.name!r} ({what})"


def candidates(folder: Path, taken: Collection[Path] = ()) -> list[Candidate]:
    """Return the files of a folder, and of its `train` and `test` folders, that may be archives.

    `taken`: files that are not considered, as their role is known. Of a plain file and its .gz, the plain one is
    returned.
    """
    found = [_candidate(path, None) for path in plain_first(files_in(folder)) if _may_be_archive(path)]
    for below in _split_folders(folder):
        split = split_of_folder(below.name)
        inside = [_candidate(path, split) for path in plain_first(files_in(below)) if _may_be_archive(path)]
        if all(each.split == split for each in inside):  # otherwise it is another data set
            found += inside
    return [_with_checksum(each) for each in found if each.path not in taken]


def folder_with_archives(folder: Path, levels: int = 2) -> Path | None:
    """Return the first folder below, by name, that has archives, such as `MNIST/raw`; None if there is none."""
    below = sorted(path for path in folder.iterdir() if path.is_dir() and os.access(path, os.R_OK | os.X_OK))
    for path in below:
        if any(_has_an_archives_name(file) for file in files_in(path)):
            return path
    deeper = (folder_with_archives(path, levels - 1) for path in below) if levels > 1 else iter(())
    return next((path for path in deeper if path), None)


def _candidate(path: Path, split: Split | None) -> Candidate:
    header = sniff(path)
    split_by_name, kind_by_name = split_and_kind(stem(path))
    return Candidate(
        path=path,
        split=split_by_name or split,
        kind=kind_by_name or (header.kind if header else None),
        header=header,
        is_canonical=role_of(path.name) is not None and split is None,
    )


def _with_checksum(candidate: Candidate) -> Candidate:
    """Return the candidate with the role that its checksum has in the catalog, where its name does not say it."""
    if candidate.role or not candidate.header:
        return candidate
    known = identify(candidate.path)
    if not known:
        return candidate
    split, _, kind = known.role.partition("_")
    return replace(candidate, split=split, kind=kind)  # type: ignore[arg-type]  # the words of a role


def _may_be_archive(path: Path) -> bool:
    name = stem(path).lower()
    if name.startswith(".") or name.endswith((".part", ".tmp", ".bak", "~")):
        return False
    return _has_an_archives_name(path) or sniff(path) is not None or is_git_lfs_pointer(path)


def _has_an_archives_name(path: Path) -> bool:
    """Return whether a name says split and kind, and does not end like that of another format."""
    suffix = Path(stem(path).lower()).suffix
    return all(split_and_kind(stem(path))) and (suffix in _ENDINGS or "idx" in suffix)


def plain_first(paths: list[Path]) -> list[Path]:
    """Return the paths without the .gz of each plain file that is among them."""
    plain = {path for path in paths if not has_gz_suffix(path)}
    return [path for path in paths if path in plain or path.with_name(stem(path)) not in plain]


def _split_folders(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and split_of_folder(path.name):
            yield path
