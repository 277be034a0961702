"""The catalog: data sets whose archives are known by checksum.

MNIST: file names and sizes as published by LeCun, Cortes and Burges; MD5 of the .gz files as in torchvision's
`datasets.MNIST`; MD5 of the content computed from those files. Fashion-MNIST: MD5 of the .gz files as in Zalando's
README and torchvision. Kuzushiji-MNIST: as in torchvision's `datasets.KMNIST`, from ROIS-CODH. An MD5 reveals damaged
and mixed-up files. It does not prevent forgery; each run therefore records SHA-256s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from jobs.archive import ROLES, Role


@dataclass(frozen=True, kw_only=True)
class KnownArchive:
    """One archive. `name`: of the plain file; mirrors serve `name`.gz. `md5`: of the content. None: unknown."""

    name: str
    shape: tuple[int, ...]
    gz_md5: str
    gz_bytes: int | None = None
    md5: str | None = None

    @property
    def gz_name(self) -> str:
        """The file name on mirrors."""
        return f"{self.name}.gz"

    @property
    def bytes(self) -> int:
        """Length of the plain archive: its header, then one byte per value."""
        return 4 + 4 * len(self.shape) + prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class KnownDataSet:
    """A data set: its four archives, and the HTTPS mirrors that serve them."""

    name: str
    archives: Mapping[Role, KnownArchive]
    mirrors: tuple[str, ...]


_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_SHAPES: tuple[tuple[int, ...], ...] = ((60000, 28, 28), (60000,), (10000, 28, 28), (10000,))


def _archives(*gz_md5s: str) -> dict[Role, KnownArchive]:
    """Return archives with MNIST's names and shapes, known only by the MD5s of their .gz files."""
    rows = zip(ROLES, _NAMES, _SHAPES, gz_md5s, strict=True)
    return {role: KnownArchive(name=name, shape=shape, gz_md5=gz_md5) for role, name, shape, gz_md5 in rows}


_MNIST = KnownDataSet(
    name="mnist",
    archives={
        "train_images": KnownArchive(
            name=_NAMES[0],
            shape=_SHAPES[0],
            gz_md5="f68b3c2dcbeaaa9fbdd348bbdeb94873",
            gz_bytes=9_912_422,
            md5="6bbc9ace898e44ae57da46a324031adb",
        ),
        "train_labels": KnownArchive(
            name=_NAMES[1],
            shape=_SHAPES[1],
            gz_md5="d53e105ee54ea40749a09fcbcd1e9432",
            gz_bytes=28_881,
            md5="a25bea736e30d166cdddb491f175f624",
        ),
        "test_images": KnownArchive(
            name=_NAMES[2],
            shape=_SHAPES[2],
            gz_md5="9fb629c4189551a2d022fa330f9573f3",
            gz_bytes=1_648_877,
            md5="2646ac647ad5339dbf082846283269ea",
        ),
        "test_labels": KnownArchive(
            name=_NAMES[3],
            shape=_SHAPES[3],
            gz_md5="ec29112dd5afa0611ce80d1b7f02629c",
            gz_bytes=4_542,
            md5="27ae3e4e09519cfbb04c329615203637",
        ),
    },
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)
_FASHION_MNIST = KnownDataSet(
    name="fashion-mnist",
    archives=_archives(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    mirrors=("https://storage.googleapis.com/tensorflow/tf-keras-datasets/",),
)
_KMNIST = KnownDataSet(
    name="kmnist",
    archives=_archives(
        "bdb82020997e1d708af4cf47b453dcf7",
        "e144d726b3acfaa3e44228e80efcd344",
        "5c965bf0a639b31b8f53240b1b52f4d7",
        "7320c461ea6c1c855c0b718fb2a4b134",
    ),
    mirrors=(),  # its publisher serves it only over http://
)

CATALOG: dict[str, KnownDataSet] = {data_set.name: data_set for data_set in (_MNIST, _FASHION_MNIST, _KMNIST)}
