"""Log which archives were found: role, file, shape, and what the catalog knows them as."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import segments
from jobs.archive import TEST, Archive, role_of_key
from jobs.errors import printable
from jobs.fetch.config import FetchConfig
from jobs.fetch.identify import Identity
from jobs.fetch.names import files_in, stem
from jobs.fetch.sniff import sniff
from jobs.label_options import ONE_HOT, Column
from jobs.words import counted

if TYPE_CHECKING:
    from jobs.prepare.idx import Header

log = logging.getLogger("idxtrain")

_PAIRS = 8  # tagged pairs that are logged one by one


def log_archives(
    archives: Mapping[str, Archive],
    headers: "Mapping[str, Header]",
    identities: Mapping[str, Identity],
    config: FetchConfig,
) -> None:
    """Log one line for each archive, and one for what is not there or not used."""
    tags = [tag for tag in segments.tags(archives) if tag]
    for key in archives:
        tag = key.partition(segments.MARK)[2]
        if tag not in tags[_PAIRS:]:
            log.info("fetch: %s", found_line(key, archives[key], headers[key], identities.get(key)))
    if len(tags) > _PAIRS:
        rows = sum(headers[segments.key("train_images", tag)].rows for tag in tags[_PAIRS:])
        log.info("fetch: %s with %s", counted(len(tags) - _PAIRS, "more training pair"), counted(rows, "image"))
    if not set(TEST) & set(archives):
        log.info("fetch: no test archives: prepare makes a stratified test split of the training rows")
    unused = _unused(Path(config.data), archives) if config.data else []
    if unused:
        log.info("fetch: not used: %s", printable(", ".join(unused)))


def log_one_hot(headers: "Mapping[str, Header]", column: Column) -> None:
    """Log that labels are read as one-hot, if they are."""
    if column == ONE_HOT:
        labels = [header for key, header in headers.items() if role_of_key(key).endswith("labels")]
        last = max(header.shape[1] for header in labels if header.row_shape) - 1
        log.info("fetch: labels: one-hot, read as classes 0 to %d; prepare.label_column=N reads column N instead", last)


def found_line(key: str, archive: Archive, header: "Header", identity: Identity | None) -> str:
    """Return one archive in a line, such as `train_labels: y_train.gz: 60000 of uint8; mnist's train-labels-…`."""
    known = f"; {identity}" if identity else ""
    return printable(f"{key.rstrip(segments.MARK)}: {archive.path.name}: {header}{known}")


def _unused(folder: Path, archives: Mapping[str, Archive]) -> list[str]:
    """Return the names of the IDX files in a folder that have no role, without the .gz of a plain file in use."""
    used = {(each.path.parent, stem(each.path)) for each in archives.values()}
    return [path.name for path in files_in(folder) if (folder, stem(path)) not in used and sniff(path)]
