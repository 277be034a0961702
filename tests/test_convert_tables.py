"""`idxtrain convert`: CSV, NumPy, CIFAR and Parquet become exactly their numbers, or are refused in one line."""

import csv
import gzip
import io
import json
import shutil
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs.convert.csv_file import parse
from jobs.convert.picture import decode
from jobs.errors import InputError
from tests.support.pictures import encoded, png_file, random_pixels
from tests.test_convert import archive, convert, put, refusal

# --- CSV

NUMBERS = st.one_of(st.integers(-(2**31), 2**31 - 1), st.floats(-1e6, 1e6, width=32))
CLASSES = st.one_of(st.integers(-99, 999).map(str), st.text(st.characters(codec="utf-8"), min_size=1, max_size=9))


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[float]], int]:
    """Return the classes, the pixels and the column of the class of a CSV table."""
    columns = draw(st.integers(1, 9))
    rows = draw(st.lists(st.lists(NUMBERS, min_size=columns, max_size=columns), min_size=1, max_size=12))
    names = CLASSES.map(str.strip).filter(
        lambda name: name and not set(name) & {"\0", "\r"} and name.lower() not in ("label", "class", "target", "y")
    )  # Python writes "\r" unquoted
    classes = draw(st.lists(names, min_size=len(rows), max_size=len(rows)))
    return classes, rows, draw(st.integers(0, columns))


@settings(max_examples=150, deadline=None)
@given(table=tables(), quote=st.booleans(), header=st.booleans(), end=st.sampled_from(["\n", "\r\n"]))
def test_any_csv_table_is_read_exactly(
    table: tuple[list[str], list[list[float]], int], quote: bool, header: bool, end: str
) -> None:
    classes, rows, column = table
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL if quote else csv.QUOTE_MINIMAL, lineterminator=end)
    names = [f"p{number}" for number in range(len(rows[0]))]
    if header:
        writer.writerow([*names[:column], "name", *names[column:]])
    for name, row in zip(classes, rows, strict=True):
        writer.writerow([*row[:column], name, *row[column:]])
    label = "name" if header else str(column)
    blocks = list(parse(io.StringIO(text.getvalue(), newline=""), label, "t.csv"))
    assert [name for names, _ in blocks for name in names] == classes
    pixels = np.concatenate([values for _, values in blocks])
    assert (pixels.astype(np.float32) == np.array(rows, np.float64).astype(np.float32)).all()
    if all(float(value).is_integer() for row in rows for value in row):
        assert pixels.dtype == np.int64
        assert pixels.tolist() == [[int(value) for value in row] for row in rows]


TEXTS = st.text(st.sampled_from('0123456789,.\n\r"-eEnaif_ \0ü\t'), max_size=60)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, label=st.sampled_from([None, "0", "-1", "a"]))
def test_any_text_is_a_table_or_refused_in_one_line(text: str, label: str | None) -> None:
    refused = ""
    blocks = []
    try:
        blocks = list(parse(io.StringIO(text, newline=""), label, "t.csv"))
    except InputError as error:
        refused = str(error)
    assert bool(blocks) != (refused.startswith("t.csv: ") and "\n" not in refused)
    assert all(len(names) == len(values) and np.isfinite(values).all() for names, values in blocks)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n4,5\n", "line 2: found 2 values, expected 3"),
        ("1,2,3\n4,5,x\n", "line 2: found 'x', expected a number"),
        ("1,2,3\n4,5,\n", "line 2: found '', expected a number"),
        ("1,2,3\n,5,6\n", "line 2: found no class"),
        ("1,2,nan\n2,3,4\n", "not finite"),
        ("1,2,1_0\n2,3,4\n", "found '1_0', expected a number"),
        ("1\n2\n", "found one column"),
        ("", "found no rows"),
        ("a,b,c\n", "found a header without a column label"),
        ("label,a,b\n", "found no rows"),
        ("0,1,2\n0,3,4\n", "the class 0 in every row of the first column, expected several; fix: name the column"),
        ('1,"2,3\n', "found no CSV"),
    ],
)
def test_a_bad_csv_names_the_line_and_the_fix(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        list(parse(io.StringIO(text, newline=""), None, "t.csv"))
    assert message in str(caught.value)


def test_kaggles_mnist_layout_is_found_by_its_header(tmp_path: Path) -> None:
    pixels = random_pixels(0, 30, 784)
    lines = ["label," + ",".join(f"pixel{each}" for each in range(784))]
    lines += [f"{row % 10}," + ",".join(map(str, values)) for row, values in enumerate(pixels.tolist())]
    (tmp_path / "csv").mkdir()
    for name in ("mnist_train.csv", "mnist_test.csv"):
        (tmp_path / "csv" / name).write_text("\n".join(lines))
    folder = convert(tmp_path / "csv", tmp_path / "idx")
    for split in ("train", "t10k"):
        assert (archive(folder, f"{split}-images") == pixels.reshape(-1, 28, 28)).all()
        assert archive(folder, f"{split}-labels").tolist() == [row % 10 for row in range(30)]
    assert not (folder / "data.toml").exists()


@pytest.mark.parametrize(
    ("header", "label"),
    [("label,0,1,2,3", None), ("0,1,2,3,label", None), ("0,1,2,3,target", "-1"), ("Class,0,1,2,3", "0")],
)
def test_a_header_may_call_the_pixels_by_numbers_as_pandas_does(header: str, label: str | None) -> None:
    is_last = header.startswith("0")
    lines = [header, *(f"10,20,30,40,{row}" if is_last else f"{row},10,20,30,40" for row in range(3))]
    ((classes, pixels),) = parse([f"{line}\n" for line in lines], label, "t.csv")
    assert classes == ["0", "1", "2"]
    assert pixels.tolist() == [[10, 20, 30, 40]] * 3


def test_classes_called_as_a_header_are_classes_in_a_row_of_pixels() -> None:
    ((classes, _),) = parse(["y,0,0,7,9\n", "n,1,2,3,4\n"], None, "t.csv")
    assert classes == ["y", "n"]


def test_sklearns_digits_become_int16_so_that_training_scales_them_by_their_range(tmp_path: Path) -> None:
    digits = Path(str(files("sklearn.datasets.data"))) / "digits.csv.gz"
    folder = convert(digits, tmp_path / "idx", label="-1")
    expected = np.loadtxt(digits, delimiter=",", dtype=int)
    images = archive(folder, "train-images")
    assert images.dtype == np.int16
    assert images.shape == (1797, 8, 8)
    assert (images.reshape(-1, 64) == expected[:, :-1]).all()
    assert (archive(folder, "train-labels") == expected[:, -1]).all()
    assert not list(folder.glob("t10k*"))  # a split that the source lacks is not made up
    assert (
        archive(convert(digits, tmp_path / "bytes", label="-1", element_type="uint8"), "train-images").dtype == np.uint8
    )


def test_a_flat_row_that_is_not_square_needs_a_shape(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{row % 2},{row},200,3,4,5,6\n" for row in range(9)))
    assert "found 6 values per image, expected a square number" in refusal(path, tmp_path / "idx")
    assert "expected 2 x 2 = 4" in refusal(path, tmp_path / "idx", shape=(2, 2))
    folder = convert(path, tmp_path / "idx", shape=(1, 2, 3))
    assert archive(folder, "train-images")[8].tolist() == [[[8, 200, 3], [4, 5, 6]]]


# --- NumPy


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([0, 255], np.int64), "uint8"),
        (np.array([False, True]), "int16"),
        (np.array([-1, 300], np.int64), "int16"),
        (np.array([0, 65535], np.uint16), "int32"),
        (np.array([0.5, 1], np.float16), "float32"),
        (np.array([0.1, 1], np.float64), "float64"),
        (np.array([200, 201], ">i4"), "uint8"),
    ],
    ids=str,
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_values_are_kept_exactly_in_a_type_of_idx(
    tmp_path: Path, values: NDArray[Any], dtype: str, order: str
) -> None:
    images = np.array(values[random_pixels(0, 40, 3, 5) % 2], order=order)  # type: ignore[call-overload]
    labels = {"y_train": np.arange(40)[:, None], "y_test": np.zeros(7)}
    np.savez_compressed(tmp_path / "a.npz", x_train=images, x_test=images[:7], **labels)
    folder = convert(tmp_path / "a.npz", tmp_path / "idx")
    stored = archive(folder, "train-images")
    assert stored.dtype == dtype
    assert (stored == images).all()
    assert archive(folder, "train-labels").tolist() == list(range(40))
    assert (archive(folder, "t10k-images") == images[:7]).all()


def test_npz_to_idx_and_back_is_the_same_and_always_the_same_bytes(tmp_path: Path) -> None:
    images, labels = random_pixels(1, 50, 4, 4, 3), np.arange(50, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    folder = convert(tmp_path / "a.npz", tmp_path / "idx")
    paths = [convert(folder, tmp_path / f"back-{each}.npz") for each in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with np.load(paths[0]) as back:
        assert (back["x_train"] == images).all()
        assert (back["y_train"] == labels).all()


def test_channels_that_come_first_are_moved_last(tmp_path: Path) -> None:
    images = random_pixels(2, 6, 3, 8, 9)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array(["b", "a", "b", "c", "c", "a"]))
    folder = convert(tmp_path / "a.npz", tmp_path / "idx")
    assert (archive(folder, "train-images") == images.transpose(0, 2, 3, 1)).all()
    assert archive(folder, "train-labels").tolist() == [1, 0, 1, 2, 2, 0]
    assert tomllib.loads((folder / "data.toml").read_text())["class_names"] == {"0": "a", "1": "b", "2": "c"}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": np.array([{}, {}], object), "y_train": np.arange(2)}, "found x_train of object"),
        ({"a": np.zeros((2, 3, 3)), "b": np.arange(2)}, "found the arrays a, b, expected x_train and y_train"),
        ({"x_train": np.zeros((2, 3, 3)), "y_train": np.arange(3)}, "2 images in x_train and 3 labels in y_train"),
        ({"x_train": np.zeros((2, 3, 3)), "y_train": np.eye(2)}, "not one-hot"),
        ({"x_train": np.full((2, 3, 3), np.nan), "y_train": np.arange(2)}, "not a finite number"),
        (
            {"x_train": np.zeros((2, 3, 3)) + 2**40, "y_train": np.array([1, 2**40])},
            "expected an integer of at most 32",
        ),
        ({"x_train": np.full((2, 3, 3), 2**40), "y_train": np.arange(2)}, "at most 32 bits with sign"),
        ({"x_train": np.zeros((2, 3, 3, 3, 3)), "y_train": np.arange(2)}, "found images of shape 3 x 3 x 3 x 3"),
        ({"x_train": np.zeros((0, 3, 3)), "y_train": np.arange(0)}, "found no rows, expected one image"),
        ({"x_train": np.array(["a", "b"]), "y_train": np.arange(2)}, "found x_train of text, expected pixels"),
        ({"x_train": np.zeros((10, 0)), "y_train": np.arange(10)}, "found images of shape 0, expected"),
        (
            {"x_train": np.zeros((1, 2, 2)), "y_train": np.array([b"\xff"])},
            "label in y_train that is not UTF-8",
        ),
    ],
)
def test_npz_files_that_are_no_images_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    assert message in refusal(tmp_path / "a.npz", tmp_path / "idx")


def test_a_cut_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=random_pixels(3, 50, 5, 5), y_train=np.arange(50))
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: len(data) // 2])
    refusal(tmp_path / "a.npz", tmp_path / "idx")
    (tmp_path / "a.npz").write_bytes(data[:500] + b"????" + data[504:])
    assert "damaged data in x_train" in refusal(tmp_path / "a.npz", tmp_path / "idx")


# --- CIFAR


def records(seed: int, count: int, label_bytes: int) -> NDArray[Any]:
    data = random_pixels(seed, count, label_bytes + 3072)
    data[:, :label_bytes] %= 10
    return data


def test_cifar_10_batches_keep_their_order_and_pixels(tmp_path: Path) -> None:
    batches = {f"data_batch_{number}.bin": records(number, 30, 1) for number in range(1, 6)}
    for name, data in (batches | {"test_batch.bin": records(9, 20, 1)}).items():
        put(tmp_path / "cifar-10-batches-bin", name, data.tobytes())
    put(
        tmp_path / "cifar-10-batches-bin",
        "batches.meta.txt",
        b"\n".join(f"name {i}".encode() for i in range(10)) + b"\n\n",
    )
    shutil.make_archive(str(tmp_path / "cifar"), "gztar", tmp_path, "cifar-10-batches-bin")
    for number, source in enumerate([tmp_path / "cifar-10-batches-bin", tmp_path / "cifar.tar.gz"]):
        folder = convert(source, tmp_path / f"idx-{number}")
        rows = np.concatenate(list(batches.values()))
        planes = archive(folder, "train-images").transpose(0, 3, 1, 2)
        assert (planes.reshape(150, -1) == rows[:, 1:]).all()
        assert (archive(folder, "train-labels") == rows[:, 0]).all()
        assert archive(folder, "t10k-images").shape == (20, 32, 32, 3)
        assert tomllib.loads((folder / "data.toml").read_text())["class_names"]["9"] == "name 9"


@pytest.mark.parametrize(("label", "column"), [(None, 1), ("fine", 1), ("coarse", 0)])
def test_cifar_100_has_fine_or_coarse_labels(tmp_path: Path, label: str | None, column: int) -> None:
    source = put(tmp_path / "source", "train.bin", records(1, 30, 2).tobytes())
    put(source, "test.bin", records(2, 10, 2).tobytes())
    for kind in ("fine", "coarse"):
        put(source, f"{kind}_label_names.txt", "\n".join(f"{kind} {i}" for i in range(10)).encode())
    folder = convert(source, tmp_path / "idx", label=label)
    assert (archive(folder, "train-labels") == records(1, 30, 2)[:, column]).all()
    assert tomllib.loads((folder / "data.toml").read_text())["class_names"]["3"] == f"{label or 'fine'} 3"


def test_a_cut_cifar_batch_is_refused(tmp_path: Path) -> None:
    source = put(tmp_path / "source", "data_batch_1.bin", records(1, 3, 1).tobytes()[:-1])
    assert "data_batch_1.bin: found 9,218 bytes, expected records of 3,073" in refusal(source, tmp_path / "idx")


def test_cifar_10_and_cifar_100_in_one_folder_are_refused(tmp_path: Path) -> None:
    source = put(tmp_path / "source", "ten/data_batch_1.bin", records(1, 3, 1).tobytes())
    put(source, "hundred/train.bin", records(1, 3, 2).tobytes())
    assert "found CIFAR-10 and CIFAR-100, expected one of them" in refusal(source, tmp_path / "idx")


# --- Parquet


def hugging_face(path: Path, images: list[Any], labels: list[Any], names: list[str] | None = None) -> None:
    """Write a table as the Hugging Face hub has them."""
    label = {"_type": "ClassLabel", "names": names} if names else {"dtype": "int64", "_type": "Value"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}})}
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(pa.table({"image": images, "label": labels}).replace_schema_metadata(metadata), path)


def test_a_hugging_face_table_has_its_pictures_and_class_names(tmp_path: Path) -> None:
    files_of = [encoded(random_pixels(each, 8, 9, 3), "JPEG") for each in range(600)]
    images = [{"bytes": each, "path": None} for each in files_of]
    labels = [each % 3 for each in range(600)]
    hugging_face(tmp_path / "hub" / "train-00000-of-00001.parquet", images, labels, ["x", "y", "z"])
    hugging_face(tmp_path / "hub" / "test-00000-of-00001.parquet", images[:9], labels[:9], ["x", "y", "z"])
    folder = convert(tmp_path / "hub", tmp_path / "idx")
    assert (archive(folder, "train-images") == np.stack([decode(each) for each in files_of])).all()
    assert archive(folder, "t10k-labels").tolist() == labels[:9]
    assert tomllib.loads((folder / "data.toml").read_text())["class_names"] == {"0": "x", "1": "y", "2": "z"}


def test_broken_pictures_of_a_table_are_listed_by_row(tmp_path: Path) -> None:
    good = {"bytes": png_file(random_pixels(0, 3, 3, 1)), "path": None}
    bad = [{"bytes": b"?", "path": None}, {"bytes": None, "path": "x"}]
    hugging_face(tmp_path / "t.parquet", [good, *bad, good], [0, 1, 2, 3])
    assert "found 2 unusable files among 4" in refusal(tmp_path / "t.parquet", tmp_path / "idx")
    assert 't.parquet row 1,"not a picture (PNG, JPEG, BMP, WEBP)"' in (tmp_path / "idx.skipped.csv").read_text()
    assert archive(convert(tmp_path / "t.parquet", tmp_path / "idx", skip_bad=True), "train-labels").tolist() == [0, 3]


@pytest.mark.parametrize("flat", [False, True])
def test_a_table_of_numbers_has_its_numbers(tmp_path: Path, flat: bool) -> None:
    images = random_pixels(0, 300, 4, 4)
    column = images.reshape(300, 16) if flat else images
    names = ["cat", "dog", "cow"]
    labels = [names[row % 3] for row in range(300)]
    pq.write_table(pa.table({"img": column.tolist(), "label": labels}), tmp_path / "t.parquet")
    folder = convert(tmp_path / "t.parquet", tmp_path / "idx")
    assert (archive(folder, "train-images") == images).all()
    assert archive(folder, "train-labels").tolist() == [[0, 2, 1][row % 3] for row in range(300)]


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_a_table_of_floats_keeps_their_type(tmp_path: Path, kind: str) -> None:
    images = pa.array([[[0.1, 0.2], [0.3, 0.4]]] * 2, pa.list_(pa.list_(pa.type_for_alias(kind))))
    pq.write_table(pa.table({"image": images, "label": [0, 1]}), tmp_path / "t.parquet")
    assert archive(convert(tmp_path / "t.parquet", tmp_path / "idx"), "train-images").dtype == kind


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1], "b": [2]}, "found the columns a, b, expected images in image"),
        ({"image": [[1, 2, 3, 4]], "b": [2]}, "expected classes in label"),
        ({"image": [[1, 2, 3, 4]], "label": [0.5]}, "found label of double, expected integers or text"),
        ({"image": [[1, 2, 3, 4]], "label": pa.array([None], pa.int32())}, "found a row without label"),
        ({"image": [[1, 2, 3, 4], [1, 2, 3]], "label": [0, 1]}, "found images of several shapes"),
        ({"image": [["x"]], "label": [0]}, "expected numbers"),
    ],
)
def test_tables_that_are_no_images_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert message in refusal(tmp_path / "t.parquet", tmp_path / "idx")


def test_an_option_for_another_kind_of_table_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [[1, 2, 3, 4]], "label": [0]}), tmp_path / "t.parquet")
    assert refusal(tmp_path / "t.parquet", tmp_path / "idx", size=(2, 2)).startswith("--size: ")
    hugging_face(tmp_path / "t.parquet", [{"bytes": png_file(random_pixels(0, 2, 2, 1)), "path": None}], [0])
    assert refusal(tmp_path / "t.parquet", tmp_path / "idx", shape=(2, 2)).startswith("--shape: ")


def test_files_of_one_name_in_two_folders_keep_their_rows(tmp_path: Path) -> None:
    pictures = {each: {"bytes": png_file(random_pixels(each, 2, 2, 1)), "path": None} for each in range(2)}
    for each, picture in pictures.items():
        hugging_face(tmp_path / "hub" / str(each) / "train.parquet", [picture], [each])
    folder = convert(tmp_path / "hub", tmp_path / "idx")
    assert archive(folder, "train-labels").tolist() == [0, 1]
    assert (folder / "sources.csv").read_text().splitlines()[1:] == [
        "train,0,0/train.parquet row 0",
        "train,1,1/train.parquet row 0",
    ]


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "t.parquet", b"PAR1" + bytes(50) + b"PAR1")
    assert "cannot be read as Parquet" in refusal(tmp_path / "t.parquet", tmp_path / "idx")


def test_a_gzip_csv_is_read(tmp_path: Path) -> None:
    put(tmp_path, "t.csv.gz", gzip.compress(b"0,1,2,3,255\n1,5,6,7,8\n"))
    assert archive(convert(tmp_path / "t.csv.gz", tmp_path / "idx"), "train-images")[1].tolist() == [[5, 6], [7, 8]]
    whole = gzip.compress(b"0,1,2,3,255\n1,5,6,7,8\n")
    put(tmp_path, "t.csv.gz", whole[:12] + b"\xff\xff\xff" + whole[15:])
    assert "cannot be read as CSV" in refusal(tmp_path / "t.csv.gz", tmp_path / "other")
    put(tmp_path, "t.csv.gz", whole[:-9])
    assert "cannot be read as CSV" in refusal(tmp_path / "t.csv.gz", tmp_path / "other")
