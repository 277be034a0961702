"""The contract between stages: Parquet files in three splits, and manifest.json beside them.

    WORK/datasets/ID/
      manifest.json
      findings.csv  findings.json  data.html   what is odd about the data: see `jobs.prepare.findings`
      pictures.parquet                   the names of the pictures, if they are known: see `jobs.pictures`
      train/part-00000.parquet …         one row group per file, equal in rows (± 1 if they do not divide)
      validation/part-00000.parquet …
      test/part-00000.parquet …

The shards may be in an object store instead, where `store.json` says: see `jobs.dataset_store`. The last key of
manifest.json, `sha256`, is the hash of all others (`jobs.files.sealed`): an altered file is refused.

Columns: `image`, height × width × channels values, row-major H·W·C: list<float32>, each in [0, 1], or, in a dataset of
`pixel_type` uint8, the archive's bytes as fixed_size_binary, which stand for byte / 255 (`jobs.pixels`); `label` int32,
the number of the class; `index` int64, the row number in the archive, which for a test split made of training rows is
the training archive. Classes are numbered from 0 in the order of their labels in the archives, which the manifest
lists: first those that training has, then those that only the test split has. With several training pairs, `index` and
`segments.json` are as in `jobs.segments`. Plain Parquet: any reader reads it. No Spark and no TensorFlow here.
"""

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from jobs.config import Section
from jobs.dataset_store import read_record
from jobs.errors import InputError, one_line
from jobs.files import read_object, sha256_file, take_seal
from jobs.orientation import Orientation
from jobs.parquet_footer import holds_pickle
from jobs.segments import key, require_current, tags
from jobs.shard_copies import local_path, verify_copies

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 2  # raised when a reader of the old contract would misread the new one
SPLITS: tuple["Split", ...] = ("train", "validation", "test")
MANIFEST = "manifest.json"
DATA_PAGE = "data.html"  # what the dataset holds, for people
_MOST_VALUES = 2**31 - 1  # per image: the range of a list column's 32-bit offsets

Split = Literal["train", "validation", "test"]
PixelType = Literal["float32", "uint8"]


class Shard(Section):
    """One Parquet file of one row group. `first_index`: the `index` of its first row, which identifies the shard."""

    path: str = Field(pattern=r"^(train|validation|test)/part-\d+\.parquet$")
    rows: int = Field(ge=1)
    first_index: int = Field(ge=0)
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class SplitInfo(Section):
    """One split: its shards in row order, and the number of images of each entry of the manifest's `labels`."""

    rows: int = Field(ge=0)
    label_counts: tuple[Annotated[int, Field(ge=0)], ...]
    shards: tuple[Shard, ...]


class PixelStatistics(Section):
    """Statistics of all values in the train split, after normalization to [0, 1]. `std` is the population's."""

    mean: float
    std: float = Field(ge=0)
    min: float
    max: float


class Normalization(Section):
    """value = clip((stored − offset) × scale, 0, 1).

    "type-range": by the range of the stored type (uint8: value / 255). "train-range": by the extremes of the training
    archive, for types whose own range says nothing about the pixels.
    """

    rule: Literal["type-range", "train-range"]
    offset: float
    scale: float


class Duplicates(Section):
    """Images of the test archive that are also in the training archive, bit for bit.

    `test_rows`: their `index`; empty if they are more than 100,000.
    """

    test_images_in_train: int = Field(ge=0)
    test_rows: tuple[int, ...] = ()
    examples: tuple[tuple[int, int], ...]  # (test index, training index), at most ten


class Source(Section):
    """An archive that the dataset was made from."""

    name: str
    bytes: int = Field(ge=0)
    sha256: str


class Manifest(Section):
    """manifest.json: all that later stages know about the data.

    `classes`: that training has. `labels`, `class_names`: by class number, the label in the archives and its name.
    Those from `classes` on occur in the test split alone. A split's `label_counts` has an entry for each of them.
    `pixel_type`: of the column `image`; of uint8, the normalization is still to be applied.
    """

    format: int
    dataset_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    shape: tuple[int, int, int]  # height, width, channels
    classes: int = Field(ge=1)
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    orientation: Orientation
    splits: Mapping[Split, SplitInfo]
    pixels: PixelStatistics
    pixel_type: PixelType = "float32"  # as in all manifests that do not have the key
    normalization: Normalization
    duplicates: Duplicates
    sources: Mapping[str, Source]
    options: Mapping[str, int | str]
    versions: Mapping[str, str]

    @property
    def values_per_image(self) -> int:
        """Height × width × channels."""
        return prod(self.shape)

    @property
    def image_bytes(self) -> int:
        """The size of a stored image."""
        return self.values_per_image * (1 if self.pixel_type == "uint8" else 4)

    def class_text(self, number: int) -> str:
        """Return a class in words: its label in the archives, and its name if it has another."""
        label, name = str(self.labels[number]), self.class_names[number]
        return label if name == label else f"{label} {name}"

    @property
    def training_pairs(self) -> dict[str, tuple[str, str]]:
        """By tag, the SHA-256 of the image and of the label archive of each training pair; empty for one plain pair."""
        roles = ("train_images", "train_labels")
        return {
            tag: (self.sources[key(roles[0], tag)].sha256, self.sources[key(roles[1], tag)].sha256)
            for tag in tags(self.sources)
        }


def shard_path(split: Split, number: int) -> str:
    """Return the path of a split's shard in its dataset."""
    return f"{split}/part-{number:05d}.parquet"


def shards_of(split: Split, shards: Iterable[Shard]) -> list[Shard]:
    """Return the shards that belong to a split."""
    return [shard for shard in shards if shard.path.startswith(f"{split}/")]


def read_manifest(directory: Path) -> Manifest:
    """Read and check a dataset's manifest. Raises InputError if it is missing or contradicts itself."""
    path = directory / MANIFEST
    fix = _fix(directory)
    raw = read_object(path, fix)
    require_current(directory)
    is_intact = take_seal(raw)
    if raw.get("format") != FORMAT:
        raise InputError(f"{path}: found format {raw.get('format')!r}, expected {FORMAT}; fix: {fix}")
    try:
        manifest = Manifest.model_validate(raw)
    except ValueError as error:
        raise InputError(f"{path}: {one_line(error)}; fix: {fix}") from error
    problem = _contradiction(manifest)
    if problem is None and not is_intact:
        problem = "found a SHA-256 that does not match, expected unchanged content"
    if problem:
        raise InputError(f"{path}: {problem}; fix: {fix}")
    return manifest


def _fix(directory: Path) -> str:
    return f"remove {directory} and prepare it again"


def _contradiction(manifest: Manifest) -> str | None:
    if set(manifest.splits) != set(SPLITS):
        return f"found splits {sorted(manifest.splits)}, expected {sorted(SPLITS)}"
    if min(manifest.shape) < 1:
        return f"found shape {manifest.shape}, expected positive sizes"
    if manifest.values_per_image > _MOST_VALUES:
        return f"found shape {manifest.shape}, expected at most {_MOST_VALUES} values per image"
    if manifest.pixel_type == "uint8" and manifest.normalization.rule != "type-range":
        return f"found pixels of uint8 with the rule {manifest.normalization.rule}, expected type-range"
    if len(set(manifest.labels)) != len(manifest.labels) or len(manifest.labels) < manifest.classes:
        return f"found labels {list(manifest.labels)}, expected at least {manifest.classes}, each once"
    if len(manifest.class_names) != len(manifest.labels):
        return f"found {len(manifest.class_names)} class names, expected {len(manifest.labels)}"
    for name, split in manifest.splits.items():
        if sum(shard.rows for shard in split.shards) != split.rows:
            return f"found {sum(s.rows for s in split.shards)} rows in the {name} shards, expected {split.rows}"
        if len({shard.path for shard in shards_of(name, split.shards)}) != len(split.shards):
            return f"found {name} shards {[s.path for s in split.shards]}, expected files in {name}/, each once"
        if len(split.label_counts) != len(manifest.labels) or sum(split.label_counts) != split.rows:
            counts = f"found {name} label counts {list(split.label_counts)}"
            return f"{counts}, expected the sum {split.rows} over {len(manifest.labels)} classes"
    return None


def verify(directory: Path, manifest: Manifest, *splits: Split) -> None:
    """Check size and SHA-256 of each shard of the given splits, and that the data hold no pickle. Raises InputError.

    Shards in a store are copied to this machine first.

    Petastorm's own metadata (`_common_metadata`) is a pickle that its readers would execute. `prepare` writes none: a
    dataset that has one comes from elsewhere.
    """
    verify_shards(directory, [shard for split in splits for shard in manifest.splits[split].shards])


def verify_shards(directory: Path, shards: Iterable[Shard]) -> None:
    """Check these shards as `verify` does."""
    for name in ("_common_metadata", "_metadata"):
        for path in sorted(directory.rglob(name)):
            raise InputError(
                f"{path}: found a file that may hold a pickled schema, which is never loaded; fix: remove the file"
            )
    if read_record(directory):
        verify_copies(directory, list(shards))
        return
    for shard in shards:
        _verify_shard(directory / shard.path, shard, _fix(directory))


def _verify_shard(path: Path, shard: Shard, fix: str) -> None:
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            raise InputError(f"{path}: found {size} bytes, expected {shard.bytes}; fix: {fix}")
        digest = sha256_file(path)
        is_pickled = holds_pickle(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fix: {fix}") from error
    if digest != shard.sha256:
        raise InputError(f"{path}: found SHA-256 {digest[:12]}…, expected {shard.sha256[:12]}…; fix: {fix}")
    if is_pickled:  # a forged dataset whose manifest fits
        raise InputError(f"{path}: found a pickled schema, which is never loaded; fix: {fix}")


def read_split(directory: Path, manifest: Manifest, split: Split) -> "tuple[NDArray[Any], NDArray[Any], NDArray[Any]]":
    """Read a whole split in row order, with pyarrow alone.

    Return images float32 [rows, height, width, channels] in [0, 1], also of a dataset that stores uint8, labels int32
    [rows], indices int64 [rows].
    """
    import numpy as np
    import pyarrow.parquet as pq

    shards = manifest.splits[split].shards
    for shard in shards:
        # Before any memory is allocated for the manifest's claims.
        check_shard_size(directory, manifest, shard, pq.read_metadata(local_path(directory, shard)))
    images = np.empty((manifest.splits[split].rows, manifest.values_per_image), np.float32)
    labels = np.empty(len(images), np.int32)
    indices = np.empty(len(images), np.int64)
    start = 0
    for shard in shards:
        stop = start + shard.rows
        images[start:stop], labels[start:stop], indices[start:stop] = _read_values(directory, manifest, shard)
        start = stop
    return images.reshape(-1, *manifest.shape), labels, indices


def read_shard(directory: Path, manifest: Manifest, shard: Shard) -> "tuple[NDArray[Any], NDArray[Any], NDArray[Any]]":
    """Read one shard; return the same arrays as `read_split`."""
    values, labels, indices = _read_values(directory, manifest, shard)
    return values.reshape(-1, *manifest.shape), labels, indices


def _read_values(
    directory: Path, manifest: Manifest, shard: Shard
) -> "tuple[NDArray[Any], NDArray[Any], NDArray[Any]]":
    """Return images float32 [rows, values], labels and indices of a shard."""
    import pyarrow.parquet as pq

    table = pq.ParquetFile(local_path(directory, shard)).read().combine_chunks()
    if table.num_rows != shard.rows:
        raise InputError(
            f"{directory / shard.path}: found {table.num_rows} rows, expected {shard.rows}; fix: {_fix(directory)}"
        )
    pixels = image_values(directory, manifest, shard, table["image"].combine_chunks())
    return pixels, table["label"].to_numpy(), table["index"].to_numpy()


def image_values(directory: Path, manifest: Manifest, shard: Shard, column: Any) -> "NDArray[Any]":
    """Return the images in rows of a shard, a pyarrow array, as float32 [rows, values] in [0, 1].

    Raises InputError if they are not of the manifest's type and size.
    """
    from jobs.pixels import describe, from_column, to_float

    found, expected = describe(column), f"{manifest.pixel_type} {(len(column), manifest.values_per_image)}"
    if found != expected:
        raise InputError(f"{directory / shard.path}: found images {found}, expected {expected}; fix: {_fix(directory)}")
    return to_float(from_column(column))


def check_shard_size(directory: Path, manifest: Manifest, shard: Shard, footer: Any) -> None:
    """Raise InputError unless a shard's footer, a pyarrow FileMetaData, has the manifest's rows and values."""
    _check_size(directory, manifest, shard, footer.num_rows, _image_values(footer))


def _check_size(directory: Path, manifest: Manifest, shard: Shard, rows: int, values: int) -> None:
    if (rows, values) != (shard.rows, shard.rows * manifest.values_per_image):
        raise InputError(
            f"{directory / shard.path}: found {rows} rows of {values} values in all, expected "
            f"{shard.rows} of {manifest.values_per_image} each; fix: {_fix(directory)}"
        )


def _image_values(footer: Any) -> int:
    """Return the number of pixels in a Parquet file: those of its lists, or the bytes of its fixed-size binaries."""
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    columns = [(number, footer.schema.column(number)) for number in range(footer.num_columns)]
    sizes = {  # the length is 0 but of fixed-size binaries
        number: max(1, column.length) for number, column in columns if column.path.split(".")[0] == "image"
    }
    return sum(group.column(number).num_values * size for group in groups for number, size in sizes.items())
