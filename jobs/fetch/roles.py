"""Which file of a folder has which role, by names, headers, checksums and numbers of rows.

A name that says the role decides. Where names do not, two archives with the same number of rows make a pair. A pair
that nothing says more about trains, if there is no other one to train on. Anything else is unclear, and is refused in
one line: nobody should train on a guess.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jobs.archive import ROLES, TEST, TRAINING, Kind, Role, Split, role_for
from jobs.errors import InputError
from jobs.fetch.candidates import Candidate
from jobs.fetch.data_set import FILE
from jobs.fetch.sniff import sniff

_SHOWN = 6  # files that an error lists
_SPLITS: tuple[Split, ...] = ("train", "test")
_KINDS: tuple[Kind, ...] = ("images", "labels")
_FIX = f"fix: name the roles by --train-images F --train-labels F --test-images F --test-labels F, or in {FILE} there"


def assign(
    folder: Path, files: Sequence[Candidate], given: Mapping[Role, Path], is_trained_on_others: bool = False
) -> dict[Role, Path]:
    """Return the archives by role: a training pair, and a test pair if there is one. Raises InputError if unclear.

    `given`: archives whose role is known already. `is_trained_on_others`: there are tagged pairs, so the training pair
    may be missing.
    """
    chosen = dict(given)
    for role in ROLES:
        best = _best([each for each in files if each.role == role])
        if role not in chosen and len(best) == 1:
            chosen[role] = best[0].path
    _complete_by_rows(chosen, files)
    _take_unnamed_pair(chosen, files)
    lacking = tuple(role for role in ROLES if role not in chosen)
    if is_trained_on_others and lacking[:2] == TRAINING:
        lacking = lacking[2:]
    if lacking:
        _require_clear(folder, lacking, _unused(chosen, files), files)
    return {role: chosen[role] for role in ROLES if role in chosen}


def _best(options: list[Candidate]) -> list[Candidate]:
    """Return the options with an archive's customary name, or all where none has one."""
    return [each for each in options if each.is_canonical] or options


def _complete_by_rows(chosen: dict[Role, Path], files: Iterable[Candidate]) -> None:
    """Add the other archive of each pair of which one is known, if exactly one file has as many rows."""
    for split in _SPLITS:
        for kind, other in (_KINDS, _KINDS[::-1]):
            known, wanted = role_for(split, kind), role_for(split, other)
            header = sniff(chosen[known]) if known in chosen and wanted not in chosen else None
            if header is None:
                continue
            fitting = [
                each
                for each in _unused(chosen, files)
                if each.kind == other
                and each.split in (None, split)
                and each.header
                and each.header.rows == header.rows
            ]
            if len(fitting) == 1:
                chosen[wanted] = fitting[0].path


def _take_unnamed_pair(chosen: dict[Role, Path], files: Iterable[Candidate]) -> None:
    """Make the one pair without a split in its names the training pair, if nothing else may be it."""
    if any(role in chosen for role in TRAINING) or any(each.split == "train" for each in files):
        return
    images, labels = (
        [each for each in _unused(chosen, files) if each.split is None and each.kind == kind] for kind in _KINDS
    )
    if len(images) == len(labels) == 1:
        chosen |= {"train_images": images[0].path, "train_labels": labels[0].path}


def _unused(chosen: Mapping[Role, Path], files: Iterable[Candidate]) -> list[Candidate]:
    return [each for each in files if each.path not in chosen.values()]


def _require_clear(
    folder: Path, lacking: tuple[Role, ...], rest: Sequence[Candidate], files: Sequence[Candidate]
) -> None:
    """Raise InputError for lacking roles, unless only a test pair lacks and no file of the `rest` may be in it."""
    seen = f"{folder}: found {_listing(files)}"
    if lacking[:2] == TRAINING and all(each.split == "test" for each in files):
        raise InputError(
            f"{seen}: test archives alone, by name or checksum, expected a pair to train on; fix: give one as "
            "--train-images F --train-labels F, or as --dataset NAME with these as --test-images F --test-labels F"
        )
    several = [role for role in lacking if sum(each.role == role for each in rest) > 1]
    if several:
        raise InputError(f"{seen}: several may be {', '.join(several)}, expected one of each; {_FIX}")
    if lacking == TEST and not any(each.split is None and each.kind for each in rest):
        return  # `prepare` makes a test split
    raise InputError(f"{seen}, which leaves open {', '.join(lacking)}; {_FIX}")


def _listing(files: Sequence[Candidate]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(map(str, files[:_SHOWN])) + more
