"""The catalog: the data sets that idxtrain knows by name, whose archives it recognizes by checksum.

Their facts and sources are in `data_sets/NAME.toml`. An MD5 reveals damaged and mixed-up files. It does not prevent
forgery; each run therefore records SHA-256s.
"""

from collections.abc import Iterator, MutableMapping

from jobs.fetch import data_sets
from jobs.fetch.data_set import DataSet, read_data_set


class _Catalog(MutableMapping[str, DataSet]):
    """Data sets by name. A data set's file is read when it is first used."""

    def __init__(self) -> None:
        self._data_sets: dict[str, DataSet | None] = dict.fromkeys(data_sets.names())

    def __getitem__(self, name: str) -> DataSet:
        known = self._data_sets[name]
        if known is None:
            known = self._data_sets[name] = read_data_set(data_sets.path_of(name), name)
        return known

    def __setitem__(self, name: str, data_set: DataSet) -> None:
        self._data_sets[name] = data_set

    def __delitem__(self, name: str) -> None:
        del self._data_sets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data_sets)

    def __len__(self) -> int:
        return len(self._data_sets)


CATALOG = _Catalog()
