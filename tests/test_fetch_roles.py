"""Which archive has which role: by options, data.toml, names of any convention, checksums, headers, numbers of rows."""

import gzip
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import segments
from jobs.archive import ROLES, Kind, Role, Split
from jobs.fetch.candidates import candidates
from jobs.fetch.data_set import DataSet
from jobs.fetch.name_words import split_and_kind
from jobs.fetch.names import role_of
from jobs.fetch.sniff import Sniffed, sniff
from tests.support.fetching import PLAIN, SHAPES, fill, idx_bytes, lines, refused, run, tiny

__all__ = ["lines", "tiny"]  # fixtures

# --- words


@pytest.mark.parametrize(
    ("name", "split", "kind"),
    [
        ("X_train", "train", "images"),
        ("y_test.npy", "test", "labels"),
        ("emnist-letters-train-images-idx3-ubyte", "train", "images"),
        ("digits-train-labels.idx1", "train", "labels"),
        ("xTrain", "train", "images"),
        ("trainImages.idx", "train", "images"),
        ("TEST_LABELS.IDX1-UBYTE", "test", "labels"),
        ("qmnist-test-labels-idx2-int", "test", "labels"),
        ("t10k_images", "test", "images"),
        ("training imgs", "train", "images"),
        ("ytest", "test", "labels"),
        ("images.idx", None, "images"),
        ("letters-train.idx", "train", None),
        ("train-test-images", None, "images"),
        ("testament-value-xylophone-trainer", None, None),
    ],
)
def test_words_of_a_name_say_split_and_kind(name: str, split: Split | None, kind: Kind | None) -> None:
    assert split_and_kind(name) == (split, kind)


_WORDS = {
    "train": ["train", "Train", "TRAINING"],
    "test": ["test", "t10k", "Testing"],
    "images": ["images", "X", "img", "IMAGES"],
    "labels": ["labels", "y", "Label", "targets"],
}


@settings(deadline=None)  # a busy machine is not an error
@given(
    role=st.sampled_from(ROLES),
    data=st.data(),
    separator=st.sampled_from(["-", "_", ".", " "]),
    other=st.sampled_from(["digits", "emnist", "2026", "ü"]),
)
def test_any_order_of_words_gives_the_role(role: Role, data: st.DataObject, separator: str, other: str) -> None:
    split, _, kind = role.partition("_")
    words = [data.draw(st.sampled_from(_WORDS[word])) for word in (split, kind)]
    name = separator.join(data.draw(st.permutations([*words, other])))
    assert split_and_kind(name) == (split, kind)


@settings(deadline=None)  # a busy machine is not an error
@given(st.text(max_size=30))
def test_any_name_is_read_without_an_error(name: str) -> None:
    split, kind = split_and_kind(name)
    assert split in ("train", "test", None)
    assert kind in ("images", "labels", None)


@settings(deadline=None)  # a busy machine is not an error
@given(st.sampled_from(["train", "t10k", "test"]), st.sampled_from(["images", "labels"]), st.sampled_from(["-", "."]))
def test_a_customary_name_says_the_same_by_its_words(split: str, kind: str, mark: str) -> None:
    name = f"{split}-{kind}{mark}idx3-ubyte"
    assert role_of(name) == "_".join(map(str, split_and_kind(name)))


# --- headers


def header(code: int, *shape: int) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (header(8, 5), "labels"),
        (header(0x0C, 5), "labels"),
        (header(0x0D, 5), None),
        (header(8, 5, 6, 7), "images"),
        (header(8, 5, 6, 7, 3), "images"),
        (header(8, 5, 784), "images"),
        (header(0x0C, 5, 8), "labels"),
        (header(8, 5, 8), None),
        (header(0x0D, 5, 64), "images"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_header_says_images_or_labels(tmp_path: Path, start: bytes, kind: Kind | None, packed: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(start + bytes(3)) if packed else start + bytes(3))
    read = sniff(path)
    assert read is not None
    assert read.kind == kind


@settings(deadline=None)  # a busy machine is not an error
@given(st.binary(max_size=40))
def test_any_bytes_are_sniffed_without_an_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "sniffed"
    path.write_bytes(data)
    read = sniff(path)
    assert read is None or isinstance(read, Sniffed)
    assert (read is None) == (
        len(data) < 8 or data[:2] != b"\0\0" or data[2] not in (8, 9, 11, 12, 13, 14)
        or not 1 <= data[3] <= 4 or len(data) < 4 + 4 * data[3]
    )  # fmt: skip


# --- folders

CONVENTIONS: dict[str, tuple[str, ...]] = {
    "customary": (
        "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
    ),
    "scikit": ("X_train.gz", "y_train.gz", "X_test.gz", "y_test.gz"),
    "emnist": tuple(f"emnist-letters-{s}-{k}-ubyte" for s in ("train", "test") for k in ("images-idx3", "labels-idx1")),
    "folders": ("train/images.idx", "train/labels.idx", "test/images.idx", "test/labels.idx"),
    "kannada": tuple(f"{k}_kannada_MNIST_{s}.gz" for s in ("train", "test") for k in ("X", "y")),
    "digits": tuple(f"digits-{s}-{k}" for s in ("train", "test") for k in ("images.idx3", "labels.idx1")),
    "headers": ("a-train.bin", "b-train.bin", "a-test.bin", "b-test.bin"),
    "rows": ("pictures.idx", "classes-of-them.idx", "TestX.idx", "testY.idx"),
}  # fmt: skip


def put(folder: Path, names: dict[str, bytes]) -> Path:
    for name, data in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_five_naming_conventions_give_the_same_archives(tmp_path: Path, convention: str) -> None:
    names = dict(zip(ROLES, CONVENTIONS[convention], strict=True))
    folder = put(tmp_path / "data", {name: PLAIN[role] for role, name in names.items()} | {"README": b"ours"})
    archives = run(tmp_path, "ours", data=str(folder))
    assert {role: str(archive.path.relative_to(folder)) for role, archive in archives.items()} == names


def test_options_come_before_data_toml_and_that_before_names(tmp_path: Path, lines: pytest.LogCaptureFixture) -> None:
    folder = put(tmp_path / "data", {f"{role}.idx": PLAIN[role] for role in ROLES})
    for name in ("a", "b"):
        put(folder, {f"{name}-test-images.idx": PLAIN["test_images"]})
    assert "several may be test_images" in refused(tmp_path, "ours", data=str(folder))
    (folder / "data.toml").write_text('[archives.test_images]\nname = "a-test-images.idx"\n')
    assert run(tmp_path, "ours", data=str(folder))["test_images"].path.name == "a-test-images.idx"
    option = str(folder / "b-test-images.idx")
    assert run(tmp_path, "ours", data=str(folder), test_images=option)["test_images"].path.name == "b-test-images.idx"
    assert lines.messages[-1] == "fetch: not used: a-test-images.idx, test_images.idx"


def test_archives_are_named_by_options_alone(tmp_path: Path) -> None:
    folder = put(tmp_path / "data", {role.replace("_", "."): PLAIN[role] for role in ROLES})
    options = {role: str(folder / role.replace("_", ".")) for role in ROLES}
    assert [archive.path.name for archive in run(tmp_path, "ours", **options).values()] == [
        role.replace("_", ".") for role in ROLES
    ]


def test_a_pair_alone_trains_and_the_log_says_where_its_test_split_comes_from(
    tmp_path: Path, lines: pytest.LogCaptureFixture
) -> None:
    folder = put(tmp_path / "data", {"images.idx": PLAIN["train_images"], "labels.idx": PLAIN["train_labels"]})
    assert list(run(tmp_path, "ours", data=str(folder))) == ["train_images", "train_labels"]
    assert lines.messages[-1] == ("fetch: no test archives: prepare makes a stratified test split of the training rows")
    message = refused(tmp_path, "ours", data=str(folder), segments=True)  # retraining compares on one test pair
    assert "found no test pair, expected one that all trainings share" in message


def test_labels_in_columns_make_a_pair(tmp_path: Path) -> None:
    rows, columns = 400, 8
    labels = struct.pack(">BBBB2I", 0, 0, 0x0C, 2, rows, columns) + bytes(4 * rows * columns)
    folder = put(tmp_path / "data", {"qmnist-labels-idx2-int.gz": labels, "images.idx": PLAIN["train_images"]})
    assert run(tmp_path, "ours", data=str(folder))["train_labels"].path.name == "qmnist-labels-idx2-int.gz"
    (folder / "data.toml").write_text("label_column = 8")
    assert "found 8 columns, expected the label in column 8" in refused(tmp_path, "ours", data=str(folder))


@pytest.mark.parametrize("beside", [("X_train", "y_train"), ()])
def test_tagged_pairs_stay_beside_other_names(tmp_path: Path, beside: tuple[str, ...]) -> None:
    names = ("train-images-monday-idx3-ubyte", "train-labels-monday-idx1-ubyte", "X_test", "y_test")
    folder = put(tmp_path / "data", {name: PLAIN[role] for role, name in zip(ROLES, names, strict=True)})
    put(folder, {name: PLAIN[role] for role, name in zip(ROLES, beside, strict=False)})
    archives = run(tmp_path, "ours", data=str(folder))
    assert segments.tags(archives) == ([""] if beside else []) + ["monday"]
    assert archives["test_images"].path.name == "X_test"


def test_one_tagged_pair_alone_is_a_pair_alone(tmp_path: Path) -> None:
    names = ("train-images-monday-idx3-ubyte", "train-labels-monday-idx1-ubyte")
    folder = put(tmp_path / "data", {name: PLAIN[role] for role, name in zip(ROLES, names, strict=False)})
    assert list(run(tmp_path, "ours", data=str(folder))) == ["train_images", "train_labels"]
    for name in names:
        put(folder, {name.replace("monday", "tuesday"): (folder / name).read_bytes()})
    tagged = ["train_images@monday", "train_images@tuesday", "train_labels@monday", "train_labels@tuesday"]
    assert list(run(tmp_path, "ours", data=str(folder))) == tagged
    put(folder, {"more.idx": PLAIN["test_images"]})  # may be of a test pair
    assert "found no archive for test_images, test_labels" in refused(tmp_path, "ours", data=str(folder))


def test_a_file_with_almost_an_archives_name_is_never_left_out_silently(tmp_path: Path) -> None:
    folder = put(
        tmp_path / "data", {name: PLAIN[role] for role, name in zip(ROLES, CONVENTIONS["customary"], strict=True)}
    )
    put(folder, {"train-images_monday-idx3-ubyte": PLAIN["train_images"]})
    assert "found a name that is almost an archive's" in refused(tmp_path, "ours", data=str(folder))


def test_the_gz_of_a_file_that_data_toml_names_is_not_taken_for_another_archive(tmp_path: Path) -> None:
    names = dict(zip(ROLES, CONVENTIONS["customary"], strict=True)) | {"train_images": "train-images_1-idx3-ubyte"}
    folder = put(tmp_path / "data", {name: PLAIN[role] for role, name in names.items()})
    put(folder, {f"{names['train_images']}.gz": PLAIN["train_images"]})
    put(folder, {"data.toml": f"archives.train_images.name = '{names['train_images']}'".encode()})
    assert run(tmp_path, "ours", data=str(folder))["train_images"].path.name == names["train_images"]


def idx(*shape: int) -> bytes:
    return idx_bytes(shape, 7)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"a.idx": idx(9, 4, 4), "a.lab": idx(9), "b.idx": idx(5, 4, 4), "b.lab": idx(5)},
            "found 'a.idx' (9 x 4 x 4 of uint8), 'a.lab' (9 of uint8), 'b.idx' (5 x 4 x 4 of uint8), 'b.lab' (5 of "
            "uint8), which leaves open train_images, train_labels, test_images, test_labels",
        ),
        (
            {"X_train": idx(9, 4, 4), "y_train": idx(9), "X": idx(5, 4, 4), "y": idx(5)},
            "which leaves open test_images, test_labels",
        ),
        ({"X_train": idx(9, 4, 4), "y_train": idx(9), "labels_train": idx(9)}, "several may be train_labels"),
        ({"images.idx": idx(9, 4, 4)}, "which leaves open train_images, train_labels, test_images, test_labels"),
        ({"X_train": idx(9, 4, 4), "y_train": idx(9), "X_test": idx(5, 4, 4)}, "which leaves open test_labels"),
        ({"X_train": b"no IDX", "unnamed": idx(9)}, "found 'X_train' (not IDX), 'unnamed' (9 of uint8)"),
        (
            {"X_test": idx(9, 4, 4), "y_test": idx(9)},
            "test archives alone, by name or checksum, expected a pair to train on; fix: give one as --train-images F",
        ),
        ({f"{i}-{k}": idx(9, 4, 4) for i in range(4) for k in "ab"}, "and 2 more, which leaves open"),
        ({"notes.txt": b"x"}, "test_labels, but 'notes.txt'; expected"),
    ],
)  # fmt: skip
def test_what_is_unclear_is_refused_in_one_line_that_says_what_was_seen(
    tmp_path: Path, files: dict[str, bytes], words: str
) -> None:
    folder = fill(tmp_path / "data", files)
    message = refused(tmp_path, "ours", data=str(folder))
    assert words in message
    assert message.startswith(f"{folder}: found ")
    assert "--train-images F --train-labels F" in message


@pytest.mark.parametrize("name", ["cat/1.png", "train/cat/1.JPG", "digits.npz", "train.csv"])
def test_a_folder_of_another_format_is_pointed_at_convert(tmp_path: Path, name: str) -> None:
    folder = put(tmp_path / "data", {name: b"x"})
    message = refused(tmp_path, "ours", data=str(folder))
    assert f"found no IDX archive, but {name.rpartition('/')[2]!r}; fix: " in message
    assert f"`idxtrain convert {folder} {folder}-idx`" in message


def test_archives_that_lie_deeper_are_pointed_at(tmp_path: Path) -> None:
    folder = put(tmp_path / "data", {f"MNIST/raw/X_{role}": PLAIN[role] for role in ROLES})
    assert refused(tmp_path, "ours", data=str(folder)) == (
        f"{folder}: found no archives, but some in MNIST/raw; fix: give --data {folder}/MNIST/raw"
    )


def test_training_archives_of_ones_own_never_get_the_catalogs_test_pair(tmp_path: Path, tiny: DataSet) -> None:
    folder = put(tmp_path / "data", {"x": PLAIN["train_images"], "y": idx(400)})
    options = {"train_images": str(folder / "x"), "train_labels": str(folder / "y")}
    assert f"{folder}/y: found MD5 " in refused(tmp_path, "tiny", **options)
    assert list(run(tmp_path, "ours", **options)) == ["train_images", "train_labels"]


def test_of_a_plain_file_and_its_gz_the_plain_one_is_used(tmp_path: Path) -> None:
    folder = put(tmp_path, {"X_train": PLAIN["train_images"], "X_train.gz": PLAIN["train_images"], "y_train.part": b""})
    assert [each.path.name for each in candidates(folder)] == ["X_train"]
    assert SHAPES["train_images"] == candidates(folder)[0].header.shape  # type: ignore[union-attr]
