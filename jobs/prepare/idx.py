"""Read and write IDX archives, the format of the MNIST family (source: http://yann.lecun.com/exdb/mnist).

An archive is the bytes 0, 0, TYPE, NDIM, then NDIM sizes (big-endian uint32), then the values (big-endian, the last
dimension fastest), plain or gzip. This module supports 1 to 4 dimensions; a row is one index of the first.

Archives are downloads, so nothing in them is trusted. Sizes are checked against the file before any memory is allocated
for them, and every fault is an `IdxError`. In its text a bare "byte N" counts from the start of the file. For a gzip
archive the text states whether N counts in the compressed file or in the inflated data. N starts at 0.
"""

import gzip
import hashlib
import io
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from jobs.archive import GZIP_MAGIC
from jobs.errors import InputError
from jobs.files import HashedFile, write_atomic
from jobs.prepare.idx_header import DTYPES, MAX_DIMENSIONS, Header, encode, header_of
from jobs.words import counted

__all__ = ["Header", "IdxError", "check", "check_pair", "inflate", "read", "read_blocks", "read_bytes"]
__all__ += ["read_header", "read_rows", "write", "write_blocks"]

_MAX_ROW_BYTES = 2**63 - 1  # the range of numpy's indices, which matters even for an archive without rows

# The densest deflate code is 258 bytes in 2 bits (source: zlib's "Technical Details", Maximum Expansion Factor).
_MAX_EXPANSION = 1032

_BLOCK = 1 << 20  # plain bytes in memory at a time
_GROWTH = 32 << 20  # how far a buffer may exceed the bytes that have arrived

_AGAIN = "download it again"
_NOT_IDX = "check that this is an IDX file, then download it again"


class IdxError(InputError):
    """A fault in an IDX archive (exit code 2). One line: file, byte, found, expected, fix."""


def read_header(path: Path) -> Header:
    """Read and check an archive's header, plain or gzip. Allocates no memory by the sizes in it.

    A plain file must have exactly the length that the header promises. A gzip file must be long enough to inflate to
    it (at most 1032 : 1); `check` verifies that it does. Raises IdxError.
    """
    with _open(path) as source:
        return _take_header(source)


def check(path: Path) -> Header:
    """Verify a whole archive, plain or gzip: header, length, gzip checksums. Needs 1 MiB of memory. Raises IdxError."""
    with _open(path) as source:
        header = _take_header(source)
        for _ in _data_blocks(source, header):
            pass
    return header


def inflate(source: Path, destination: Path, digest: "hashlib._Hash | None" = None) -> Header:
    """Verify an archive, plain or gzip, like `check`, and write it as a plain IDX file, 1 MiB at a time.

    Writes at most the bytes that the header promises, however long the stream is. A file at `destination` is removed
    first, and the new one appears when it is complete, so after an error there is none. `digest` is updated in the same
    pass with the archive's stored bytes, so it covers exactly the bytes that made the plain file. Raises IdxError for
    the archive, ValueError if both paths are one file, OSError if writing fails.
    """
    with _open(source, digest) as archive:
        if destination.exists() and destination.samefile(source):
            raise ValueError(f"{_name(source)}: cannot be inflated onto itself")
        destination.unlink(missing_ok=True)
        header = _take_header(archive)
        write_atomic(destination, lambda path: _write_file(path, header, _data_blocks(archive, header), False))
    return header


def read(path: Path) -> NDArray[Any]:
    """Return a whole archive, plain or gzip, verified like `check`, in native byte order; shape as in its header.

    Needs memory for the data that are really in the file, and at most 64 MB more. Raises IdxError.
    """
    with _open(path) as source:
        header = _take_header(source)
        data = _collect(_data_blocks(source, header), header.data_bytes)
    return _native(data, header.dtype).reshape(header.shape)


def read_bytes(data: bytes, name: str, accept: Callable[[Header], None]) -> NDArray[Any]:
    """Return the array of an archive in memory, plain or gzip, verified like `read`. `name`: in messages.

    `accept` gets the header before any of the data is read, and raises if it is not wanted. Raises IdxError.
    """
    source = _Source(Path(name), BufferedReader(io.BytesIO(data)), len(data))
    header = _take_header(source)
    accept(header)
    return _native(_collect(_data_blocks(source, header), header.data_bytes), header.dtype).reshape(header.shape)


def read_blocks(path: Path) -> Iterator[NDArray[Any]]:
    """Yield an archive's rows in order, plain or gzip, verified like `check`, in native byte order.

    A block has at least one row, and at most 1 MiB if it has several. Raises IdxError, even after the last block.
    """
    with _open(path) as source:
        header = _take_header(source)
        rows = max(1, _BLOCK // header.row_bytes)
        for block in _data_blocks(source, header, rows * header.row_bytes):
            yield _native(np.frombuffer(bytearray(block), np.uint8), header.dtype).reshape(-1, *header.row_shape)


def read_rows(path: Path, header: Header, start: int, stop: int) -> NDArray[Any]:
    """Return rows [start, stop) of a plain archive: shape (stop - start, *row_shape), native byte order.

    `header`: from `read_header`, `check` or `inflate` of this file. Reads only these rows. Raises IdxError if the file
    no longer has this header or ends before `stop`; ValueError unless 0 <= start <= stop <= rows.
    """
    if not 0 <= start <= stop <= header.rows:
        raise ValueError(f"rows {start} to {stop}: expected a range within 0 to {header.rows}")
    end = header.header_bytes + stop * header.row_bytes
    with _open(path) as source:
        # Before allocating: the header may be another file's, or the file may have been cut since.
        if source.compressed or source.read(header.header_bytes) != encode(header):
            raise source.error(
                0, "gzip or another header", f"a plain IDX file of {header}", "run the preparation again"
            )
        if source.size < end:
            raise _too_short(source, header, source.size)
        data = np.empty((stop - start) * header.row_bytes, np.uint8)
        filled = source.read_into(end - data.size, data)
        if filled < data.size:
            raise _too_short(source, header, end - data.size + filled)
    return _native(data, header.dtype).reshape(stop - start, *header.row_shape)


def write(path: Path, array: NDArray[Any], compress: bool | None = None) -> None:
    """Write an array as an IDX archive, atomically. The same array always gives the same bytes.

    `array`: 1 to 4 dimensions, of which only the first may be 0; uint8, int8, int16, int32, float32 or float64 in
    any byte order and memory layout. `compress`: gzip or not; None means gzip if the name ends with ".gz".
    Raises ValueError for any other array.
    """
    header = header_of(array)
    step = max(1, _BLOCK // header.row_bytes)
    blocks = (array[start : start + step] for start in range(0, header.rows, step))
    write_blocks(path, header, blocks, compress)


def write_blocks(path: Path, header: Header, blocks: Iterable[NDArray[Any]], compress: bool | None = None) -> None:
    """Write an archive of any size like `write`, from blocks of rows of the header's row shape, in order.

    Raises ValueError, and leaves no file, unless the blocks together are exactly the header's rows.
    """
    gzipped = path.name.endswith(".gz") if compress is None else compress
    write_atomic(path, lambda temporary: _write_file(temporary, header, _encoded(blocks, header), gzipped))


def check_pair(images: Path, image_header: Header, labels: Path, label_header: Header) -> None:
    """Check by their headers that two archives are images and their labels. Raises IdxError, which names both files.

    Images need at least 2 dimensions (usually 3, or 4 with channels), labels 1 dimension of an integer type, and
    both the same number of rows.
    """
    an_image, a_label = f"an archive of {image_header}", f"an archive of {label_header}"
    rules = (
        (len(image_header.shape) >= 2, images, 3, an_image, "images of 3 or 4 dimensions (idx3 or idx4)"),
        (len(label_header.shape) == 1, labels, 3, a_label, "labels of 1 dimension (idx1)"),
        (label_header.dtype.kind in "iu", labels, 2, a_label, "labels of an integer type"),
        (
            label_header.rows == image_header.rows,
            labels,
            4,
            counted(label_header.rows, "label", "d"),
            f"{image_header.rows}",
        ),
    )
    for holds, path, offset, found, expected in rules:
        if not holds:
            expected += f" for the pair {_name(images)} and {_name(labels)}"
            fix = "give images and labels, in this order, of one data set, or download both again"
            raise _error(path, f"byte {offset} of the IDX header", found, expected, fix)


class _Source:
    """The plain bytes of an archive in order, gzip or not. Every fault is an IdxError."""

    def __init__(self, path: Path, file: BufferedReader, size: int) -> None:
        self.path, self.size = path, size
        with _reading(path):
            self.compressed = file.peek(2)[:2] == GZIP_MAGIC
        self._file = file
        self._plain: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=file) if self.compressed else file
        self._inflated = 0

    def error(self, offset: int, found: str, expected: str, fix: str = _NOT_IDX) -> IdxError:
        """Return the error of a fault at `offset` in the plain bytes."""
        position = f"byte {offset} of the inflated data" if self.compressed else f"byte {offset}"
        return _error(self.path, position, found, expected, fix)

    def read(self, size: int) -> bytes:
        """Return `size` plain bytes; fewer only at the end, after gzip's checksums have been verified."""
        with _reading(self.path):
            try:
                data = self._plain.read(size)
            except EOFError as error:
                raise self._damaged("ends too early") from error
            except (gzip.BadGzipFile, zlib.error) as error:
                raise self._damaged(str(error)) from error
        self._inflated += len(data)
        return data

    def read_into(self, offset: int, data: NDArray[Any]) -> int:
        """Fill `data` (uint8) from byte `offset` of the file; return the number of bytes read before its end."""
        with _reading(self.path):
            self._file.seek(offset)
            return self._file.readinto(data.data)

    def _damaged(self, reason: str) -> IdxError:
        # The position of reading is past the fault by at most a buffer of a few KiB.
        position = f"byte {self._file.tell()} of the compressed file or shortly before"
        found = f"a damaged gzip stream ({reason}) after {self._inflated} or more inflated bytes"
        return _error(self.path, position, found, "a complete stream and nothing after it", _AGAIN)


@contextmanager
def _open(path: Path, digest: "hashlib._Hash | None" = None) -> Iterator[_Source]:
    with _reading(path):
        # Before opening: opening a named pipe would wait for its writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise _error(
                path, "byte 0", "a folder or a device", "a regular file", "give the path of the archive itself"
            )
        file: BufferedReader = BufferedReader(HashedFile(path, digest)) if digest else path.open("rb")
    with file:
        yield _Source(path, file, os.fstat(file.fileno()).st_size)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = f"no readable file ({error.strerror or type(error).__name__})"
        raise _error(path, "byte 0", found, "an IDX archive", "correct the path or its permissions") from error


def _take_header(source: _Source) -> Header:
    start = source.read(4)
    if start[:2] != b"\0\0"[: len(start)]:
        raise source.error(0, f"the bytes {start[:2].hex(' ')}", "00 00")
    if len(start) < 4:
        raise source.error(len(start), "the end of the file", "the rest of the IDX header")
    code, dimensions = start[2:]
    if code not in DTYPES:
        known = ", ".join(f"0x{each:02x} ({dtype.name})" for each, dtype in DTYPES.items())
        raise source.error(2, f"the type 0x{code:02x}", f"one of {known}")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise source.error(3, f"{dimensions} dimensions", f"1 to {MAX_DIMENSIONS}")
    sizes = source.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise source.error(4 + len(sizes), "the end of the file", "the rest of the IDX header")
    header = Header(DTYPES[code], struct.unpack(f">{dimensions}I", sizes))
    _check_sizes(source, header)
    return header


def _check_sizes(source: _Source, header: Header) -> None:
    if 0 in header.row_shape:
        offset = 8 + 4 * header.row_shape.index(0)
        raise source.error(offset, "a dimension of size 0", "1 or more in every dimension after the first")
    if header.row_bytes > _MAX_ROW_BYTES:
        raise source.error(8, f"rows of {header.row_bytes} bytes ({header})", f"at most {_MAX_ROW_BYTES}")
    if source.compressed:
        most = source.size * _MAX_EXPANSION
        if header.file_bytes > most:
            found = f"a header that promises {header.file_bytes} bytes ({header})"
            raise source.error(4, found, f"at most {most}, all that {source.size} compressed bytes can hold")
    elif source.size < header.file_bytes:
        raise _too_short(source, header, source.size)
    elif source.size > header.file_bytes:
        raise _too_long(source, header, f"{source.size - header.file_bytes} trailing bytes")


def _data_blocks(source: _Source, header: Header, size: int = _BLOCK) -> Iterator[bytes]:
    """Yield the data after the header in blocks of at most `size` bytes, then verify that nothing follows."""
    left = header.data_bytes
    while left:
        block = source.read(min(size, left))
        if len(block) < min(size, left):
            raise _too_short(source, header, header.file_bytes - left + len(block))
        left -= len(block)
        yield block
    # Even if the data are complete: only the end of the stream verifies its checksum.
    if source.read(1):
        raise _too_long(source, header, "more data")


def _collect(blocks: Iterable[bytes], size: int) -> NDArray[Any]:
    data = np.empty(0, np.uint8)
    filled = 0
    for block in blocks:
        end = filled + len(block)
        if end > data.size:
            # In place, and not to `size` at once: the header's promise is not verified yet.
            data.resize(min(size, data.size + _GROWTH), refcheck=False)
        data[filled:end] = np.frombuffer(block, np.uint8)
        filled = end
    return data


def _native(data: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return bytes as values of `dtype`, swapped in place if that is not the machine's byte order."""
    values = data.view(dtype)
    return values if dtype.isnative else values.byteswap(inplace=True).view(dtype.newbyteorder("="))


def _encoded(blocks: Iterable[NDArray[Any]], header: Header) -> Iterator[bytes]:
    rows = 0
    for block in blocks:
        if block.shape[1:] != header.row_shape:
            raise ValueError(f"a block of shape {block.shape}: expected rows of shape {header.row_shape}")
        rows += len(block)
        yield block.astype(header.dtype, copy=False).tobytes()
    if rows != header.rows:
        raise ValueError(f"{rows} rows: expected {header.rows}")


def _write_file(path: Path, header: Header, blocks: Iterable[bytes], gzipped: bool) -> None:
    with ExitStack() as stack:
        file: IO[bytes] | gzip.GzipFile = stack.enter_context(path.open("wb"))
        if gzipped:
            # The gzip header gets no name and no time, so the bytes depend on the array alone.
            file = stack.enter_context(gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0))
        file.write(encode(header))
        for block in blocks:
            file.write(block)


def _error(path: Path, position: str, found: str, expected: str, fix: str) -> IdxError:
    return IdxError(f"{_name(path)}: {position}: found {found}, expected {expected}; fix: {fix}")


def _name(path: Path) -> str:
    """Return a path as one line of text, even if its name has a newline or is not UTF-8."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def _too_short(source: _Source, header: Header, size: int) -> IdxError:
    expected = f"{header.file_bytes} bytes in all, as the header promises ({header})"
    return source.error(size, "the end of the data", expected, _AGAIN)


def _too_long(source: _Source, header: Header, found: str) -> IdxError:
    expected = f"the end after the {header.file_bytes} bytes that the header promises ({header})"
    return source.error(header.file_bytes, found, expected, _AGAIN)
