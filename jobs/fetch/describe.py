"""What is known of a data set beside its archives: from options, its own `data.toml`, or the catalog."""

from collections.abc import Mapping
from pathlib import Path

from jobs.archive import role_of_key
from jobs.description import Description
from jobs.fetch.catalog import CATALOG
from jobs.fetch.config import FetchConfig
from jobs.fetch.data_set import FILE, DataSet, files_of
from jobs.fetch.identify import Identity
from jobs.fetch.locate import Located
from jobs.label_options import ONE_HOT, Column


def describe(located: Located, identities: Mapping[str, Identity], column: Column = 0) -> Description:
    """Return the description of the located archives. `column`: where the label is, as `check` finds it.

    --classes comes before `data.toml`, and that before the catalog, which knows a data set by --dataset or by the
    checksums of its training archives.
    """
    known = located.data_set or _known_by_checksum(located, identities)
    said_by = [each for each in (located.own, known) if each is not None]
    names = [each for each in (located.class_names, *(each.class_names for each in said_by)) if each]
    orientations = [each.orientation for each in said_by if each.says("orientation")]
    return Description(
        class_names=names[0] if names else {},
        orientation=orientations[0] if orientations else "none",
        label_column=located.label_column or 0,
        one_hot=column == ONE_HOT,
    )


def described_by(config: FetchConfig) -> list[Path]:
    """Return the user's files that a description comes from: after a change of one, fetch runs again."""
    files = [Path(config.class_names)] if config.class_names else []
    own = Path(config.data) / FILE if config.data else None
    return [*files, *files_of(own)] if own and own.is_file() else files


def _known_by_checksum(located: Located, identities: Mapping[str, Identity]) -> DataSet | None:
    """Return the data set of the catalog that all training archives are of, or None."""
    training = [key for key in located.archives if role_of_key(key).startswith("train")]
    names = {identities[key].data_set if key in identities else None for key in training}
    name = next(iter(names)) if len(names) == 1 else None
    return CATALOG[name] if name else None
