"""What a model's HDF5 file may contain: groups and plain arrays, each once, all inside the file."""

import io
import math
from typing import Any

import h5py


def stored_values(content: bytes) -> int:
    """Return the number of values in all arrays of an HDF5 file.

    Raises ValueError for links to elsewhere, and for arrays that are in other files, compressed or not stored: with
    these a small file could demand any amount of memory.
    """
    with h5py.File(io.BytesIO(content), "r") as file:
        return _values(file, "", len(content), {h5py.h5o.get_info(file.id).addr})


def _values(group: Any, where: str, most_bytes: int, seen: set[int]) -> int:
    total = 0
    for name in group:
        path = f"{where}/{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"weights {path}: found a link to elsewhere, expected an array")
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise ValueError(f"weights {path}: found in the file twice, expected each array once")
        seen.add(address)
        if isinstance(item, h5py.Group):
            total += _values(item, path, most_bytes, seen)
        elif isinstance(item, h5py.Dataset):
            total += _length(item, path, most_bytes)
        else:
            raise ValueError(f"weights {path}: found a {type(item).__name__}, expected an array")
    return total


def _length(array: Any, path: str, most_bytes: int) -> int:
    if array.external or array.is_virtual:
        raise ValueError(f"weights {path}: found an array in another file, expected it in this one")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"weights {path}: found type {array.dtype}, expected numbers")
    count = math.prod(array.shape)
    size = count * array.dtype.itemsize
    is_filtered = array.id.get_create_plist().get_nfilters()
    if is_filtered or size > most_bytes or array.id.get_storage_size() != size:
        problem = f"found an array {list(array.shape)} that is compressed or not wholly stored"
        raise ValueError(f"weights {path}: {problem}, expected plain values")
    return count
