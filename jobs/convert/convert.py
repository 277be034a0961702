"""Convert a source to IDX, or IDX to another form. The target appears whole or not at all."""

import logging
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np

from jobs.convert.collected import Bad, Collected
from jobs.convert.options import Options, Split
from jobs.convert.staging import Staging
from jobs.errors import InputError, printable
from jobs.fetch.names import files_in
from jobs.fetch.sniff import sniff
from jobs.files import naming_full_disk, sync
from jobs.words import counted

Form = Literal["pictures", "npz", "csv", "cifar", "parquet", "idx"]
Target = Literal["idx", "png", "npz"]

# The forms of source that an option is for.
_APPLIES: Mapping[str, tuple[Form, ...]] = {
    "size": ("pictures", "parquet"),
    "channels": ("pictures", "parquet"),
    "background": ("pictures", "parquet"),
    "skip_bad": ("pictures", "parquet"),
    "shape": ("csv", "npz", "parquet"),
    "label": ("csv", "parquet", "cifar"),
    "validation": ("pictures", "npz", "csv", "parquet"),
    "element_type": ("pictures", "npz", "csv", "parquet", "cifar"),
    "plain": ("pictures", "npz", "csv", "parquet", "cifar"),
}

log = logging.getLogger("idxtrain")

_PEEKED = 20  # members of a tar that show whether it is CIFAR's


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What a conversion wrote. `images`: their number by split. `shape`: height, width, channels of an image."""

    path: Path
    form: Target
    images: Mapping[Split, int]
    shape: tuple[int, ...] = ()
    classes: int = 0
    type_name: str = ""

    def summary(self) -> str:
        """Return one line for people."""
        splits = {"train": "training", "test": "test"}
        counts = " and ".join(f"{number:,} {splits[split]}" for split, number in self.images.items())
        facts = (
            f" of {' x '.join(map(str, self.shape))} {self.type_name}, {counted(self.classes, 'class')}"
            if self.shape
            else ""
        )
        images = "image" if sum(self.images.values()) == 1 else "images"
        return f"{self.path}: {counts} {images}{facts}"


def convert_source(source: Path, target: Path, options: Options, to: Target | None = None) -> Converted:
    """Convert `source` to `target`. `to`: the target's form; None: IDX, or from IDX what the name of the target says.

    Raises InputError, and leaves no target, if the source cannot be used as it is or the target exists.
    """
    form = form_of(source)
    _require_no_file_name(source, form, target, to)
    to = to or ("idx" if form != "idx" else "npz" if target.name.lower().endswith(".npz") else "png")
    if (form == "idx") == (to == "idx"):
        raise InputError(
            f"{source}: found {form}, expected {'another form' if to == 'idx' else 'idx'} for --to {to}; "
            "fix: convert to IDX first, then from IDX to png or npz"
        )
    check_options(options, form)
    _check_target(target, is_folder=to != "npz")
    if to != "idx":
        return _export(source, target, to)
    earlier_list = _path_of_list(target)  # before "." is renamed
    with _whole(target, is_folder=True) as folder:
        converted = _to_idx(source, form, folder, target, options)
    _remove_list_of_failed(earlier_list)
    return converted


def check_options(options: Options, form: Form) -> None:
    """Raise InputError for an option that does nothing for this form of source."""
    for name, forms in _APPLIES.items():
        if options.is_given(name) and form not in forms:
            option = "--type" if name == "element_type" else f"--{name.replace('_', '-')}"
            raise InputError(
                f"{option}: found for a source of form {form}, expected {', '.join(forms)}; fix: leave it out"
            )


def form_of(source: Path) -> Form:
    """Return what a source is, by its name or by what is in it. Raises InputError if it is nothing known."""
    name = source.name.lower()
    if source.is_dir():
        return _form_of_folder(source)
    if not source.is_file():
        raise InputError(f"{source}: found no such file or folder; fix: give a folder, archive or table of images")
    from jobs.convert import csv_file, entries

    if name.endswith(csv_file.SUFFIXES):
        return "csv"
    if name.endswith((".npz", ".parquet")):
        return "npz" if name.endswith(".npz") else "parquet"
    if name.endswith(entries.SUFFIXES):
        return "cifar" if name.endswith(entries.TAR_SUFFIXES) and _is_cifar(source) else "pictures"
    raise InputError(
        f"{source}: found a file of no known form, expected {', '.join(entries.SUFFIXES)}, .npz, .csv or .parquet; "
        "fix: give one of these, or a folder"
    )


def _form_of_folder(source: Path) -> Form:
    from jobs.convert import cifar, csv_file, parquet

    if any(sniff(path) for path in files_in(source)):
        return "idx"
    if any(
        cifar.is_file_of(path.name) for path in islice(chain(source.glob("*.bin"), source.glob("*/*.bin")), _PEEKED)
    ):
        return "cifar"
    if parquet.files(source):
        return "parquet"
    inside = list(source.iterdir())
    is_csv = any(path.name.lower().endswith(csv_file.SUFFIXES) for path in inside)
    return "csv" if is_csv and not any(path.is_dir() for path in inside) else "pictures"


def _is_cifar(source: Path) -> bool:
    from jobs.convert import cifar, entries

    first = islice(entries.entries(source, 0), _PEEKED)  # only their names: no file is small enough to be read
    return any(cifar.is_file_of(entry.path) for entry in first)


def _to_idx(source: Path, form: Form, folder: Path, target: Path, options: Options) -> Converted:
    from jobs.convert.archives import SKIPPED, write_archives, write_bad

    with Staging(folder / ".staged", str(source)) as staging:
        collected = _collect(source, form, staging, options)
        if collected.bad and not options.skip_bad:
            raise _refusal(source, collected, target)
        if not collected.order:
            raise _empty(source, form, collected, target)
        if collected.bad:
            write_bad(folder / SKIPPED, collected.bad)
            log.warning("%s: left out %s, listed in %s", source, counted(len(collected.bad), "file"), target / SKIPPED)
        dtype = write_archives(folder, collected, options)
        if dtype == np.int16 and options.element_type is None and staging.dtype == np.uint8:
            extremes = staging.low, staging.high
            log.info("pixels from %g to %g become int16: training scales it by its range, and uint8 by 255", *extremes)
        return Converted(
            path=target,
            form="idx",
            images={split: len(order) for split, order in collected.order.items()},
            shape=staging.shape,
            classes=len(np.unique(np.concatenate(list(collected.labels.values())))),
            type_name=dtype.name,
        )


def _collect(source: Path, form: Form, staging: Staging, options: Options) -> Collected:
    """Read a source whole."""
    from jobs.convert import cifar, csv_file, npz, parquet, pictures, tables

    if form == "pictures":
        return pictures.collect(source, staging, options)
    if form == "parquet":
        return parquet.collect(source, staging, options)
    read = {"csv": csv_file.table, "npz": npz.table, "cifar": cifar.table}[form]
    return tables.collect(source, read(source, options), staging, options)


def _export(source: Path, target: Path, to: Target) -> Converted:
    from jobs.convert import export

    pairs, class_names = export.pairs_of(source)
    with _whole(target, is_folder=to == "png") as path:
        images = export.to_png(pairs, path, class_names) if to == "png" else export.to_npz(pairs, path)
    return Converted(path=target, form=to, images=images)


def _refusal(source: Path, collected: Collected, target: Path) -> InputError:
    total = len({*collected.sources, *(each.path for each in collected.bad)})
    path = _list_beside(target, collected.bad)
    first = collected.bad[0]
    return InputError(
        f"{source}: found {counted(len(collected.bad), 'unusable file')} among {total:,}, the first "
        f"{printable(first.path)}: "
        f"{first.reason}; all are listed in {path}; fix: repair or remove them, or leave them out with --skip-bad"
    )


def _empty(source: Path, form: Form, collected: Collected, target: Path) -> InputError:
    if form != "pictures" and not collected.bad:
        return InputError(f"{source}: found no rows, expected one image with its label in each; fix: add them")
    found = "no image"
    if collected.bad:
        path = _list_beside(target, collected.bad)
        found = f"no usable image among {counted(len(collected.bad), 'file')} (listed in {path})"
    return InputError(
        f"{source}: found {found}, expected pictures in folders by class; fix: give the folder that holds train and "
        "test, or one folder per class"
    )


def _list_beside(target: Path, bad: Sequence[Bad]) -> Path:
    """Write the list of unusable files beside the target, which will not be made; return its path."""
    from jobs.convert.archives import write_bad

    path = _path_of_list(target)
    write_bad(path, bad)
    return path


def _remove_list_of_failed(path: Path) -> None:
    """Remove the list of a conversion that failed before this one, if it is one: it is out of date."""
    from jobs.convert.archives import is_list_of_bad

    if is_list_of_bad(path):
        path.unlink()
        log.info("%s: removed, as it was the list of an earlier conversion that failed", path)


def _path_of_list(target: Path) -> Path:
    from jobs.convert.archives import SKIPPED

    place = target if target.name not in ("", "..") else target.resolve()
    return place.with_name(f"{place.name}.{SKIPPED}")


def _require_no_file_name(source: Path, form: Form, target: Path, to: Target | None) -> None:
    """Raise InputError for a target that is named like a file where a folder would be made, unless `to` says so."""
    from jobs.convert import csv_file, entries

    name = target.name.lower()
    endings = sorted((".npz", ".parquet", *csv_file.SUFFIXES, *entries.SUFFIXES), key=len, reverse=True)
    ending = next((each for each in endings if name.endswith(each)), None)
    if to is not None or ending is None or (form == "idx" and ending == ".npz"):
        return
    folder = str(target)[: -len(ending)] or "data"
    if form == "idx":
        fix = f"give a folder such as {folder}, or a name that ends with .npz"
    else:
        command = shlex.join(["idxtrain", "convert", str(source), folder])
        fix = f"`{command}`"
        if ending == ".npz":
            fix += f", then `{shlex.join(['idxtrain', 'convert', folder, str(target)])}`"
    expected = "the name of a folder for PNG files, or .npz" if form == "idx" else "the name of a folder for IDX"
    raise InputError(f"{target}: found the ending {ending}, expected {expected}; fix: {fix}")


def _check_target(target: Path, *, is_folder: bool) -> None:
    if is_folder and target.is_dir() and not any(target.iterdir()):
        if target.resolve().is_mount():  # it cannot be replaced by a finished folder
            raise InputError(f"{target}: found a mount point, expected another folder; fix: give {target / 'data'}")
        return
    if target.exists() or target.is_symlink():
        raise InputError(f"{target}: found something there, expected nothing; fix: remove it, or give another target")


@contextmanager
def _whole(target: Path, *, is_folder: bool) -> Iterator[Path]:
    """Give a temporary path beside the target, and rename it to the target in the end; after an error, remove it."""
    place = target.resolve()  # "." has no name
    temporary = place.with_name(f".{secrets.token_hex(4)}.tmp-{place.name}")
    try:  # from here on: a signal may come while the folder is made
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if is_folder:
                temporary.mkdir()
        except OSError as error:
            raise InputError(
                f"{target}: cannot be made ({error.strerror}); fix: give a target where you may write"
            ) from error
        with naming_full_disk(target):
            yield temporary
            sync(temporary)
            temporary.rename(place)
            sync(place.parent)
    finally:
        if is_folder:
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):
                temporary.unlink()
