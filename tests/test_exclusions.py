"""The files of rows to leave out and of groups: what is read, and what is refused in one line."""

import gzip
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import segments
from jobs.archive import Archive
from jobs.description import Description
from jobs.errors import InputError
from jobs.prepare import idx
from jobs.prepare.compose import read_pairs
from jobs.prepare.config import PrepareConfig
from jobs.prepare.exclusions import read_exclusions
from jobs.prepare.groups import read_groups
from jobs.prepare.inputs import Inputs
from tests.conftest import MakeArchives

CSV = "role,tag,row,finding\ntrain,,7,blank\ntrain,,3,duplicate\ntrain,,7,outlier\ntest,,1,duplicate\ntrain,b,2,blank\n"


def put(folder: Path, text: str, name: str = "list.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_training_rows_are_excluded_and_test_rows_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(logging.getLogger("idxtrain"), "warning", lambda text, *values: lines.append(text % values))
    exclusions = read_exclusions(put(tmp_path, CSV))
    assert exclusions.of("", 8) == (3, 7)
    assert exclusions.of("b", 8) == (2,)
    assert exclusions.of("c", 8) == ()
    assert lines == ["prepare: list.csv: its 1 test rows stay: only training rows are left out"]
    entries = [{"archive": "train_images", "row": 3}, {"split": "validation", "row": "7", "tag": None}]
    assert read_exclusions(put(tmp_path, json.dumps(entries))).of("", 8) == (3, 7)
    assert read_exclusions(None).of("", 8) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("role,row\ntrain,x\n", "entry 1: found the row 'x', expected a number from 0"),
        ("role,row\ntrain,-1\n", "entry 1: found the row '-1', expected a number from 0"),
        ("role,row\ntrain,1\nbest,2\n", "entry 2: found the role 'best', expected train or test"),
        ("row\n2\n", "entry 1: found the role None, expected train or test"),
        ('{"role": "train"}', "found JSON that is not a list of objects"),
        ("[1]", "found JSON that is not a list of objects"),
        ("[", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_list_that_cannot_be_understood_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_exclusions(put(tmp_path, text))
    assert words in str(caught.value)
    assert "; fix: give a CSV or JSON list with the columns role, row" in str(caught.value)


def test_a_row_or_tag_that_the_data_set_lacks_is_refused(tmp_path: Path) -> None:
    exclusions = read_exclusions(put(tmp_path, CSV))
    with pytest.raises(InputError, match="found row 7, expected 0 to 6, the rows of the training archive"):
        exclusions.of("", 7)
    with pytest.raises(InputError, match=r"found the tag 'b', expected one of ''"):
        exclusions.require_tags([""])


def test_rows_to_leave_out_of_a_copy_of_a_pair_are_refused(tmp_path: Path, make_archives: MakeArchives) -> None:
    archives: dict[str, Archive] = dict(make_archives(tmp_path / "data"))
    for role in ("train_images", "train_labels"):
        archives |= {segments.key(role, tag): archives[role] for tag in "ab"}
        del archives[role]

    def read(text: str) -> None:
        read_pairs(Inputs(PrepareConfig(exclude=put(tmp_path, text)), archives, Description()), tmp_path)

    read("role,tag,row\ntrain,a,3\ntrain,a,5\ntrain,b,3\n")
    with pytest.raises(InputError, match=r"list\.csv: found row 5 of pair b, .* name the rows under the tag 'a'$"):
        read("role,tag,row\ntrain,a,3\ntrain,b,5\n")


# --- groups


@settings(deadline=None)
@given(st.lists(st.sampled_from(["anna", "bob, jr.", 'c"d', "ü"]), min_size=1, max_size=40), st.booleans())
def test_groups_of_a_csv_are_numbered_by_value(groups: list[str], header: bool) -> None:
    import csv
    import io
    import tempfile

    text = io.StringIO()
    writer = csv.writer(text)
    if header:
        writer.writerow(["row", "writer"])
    writer.writerows([row, group] for row, group in enumerate(groups))
    expected = [sorted(set(groups)).index(group) for group in groups]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(put(Path(folder), text.getvalue()))
        if header or groups.count(groups[0]) > 1:
            assert read_groups(path, "1", len(groups), Path(folder)).tolist() == expected
        else:
            with pytest.raises(InputError, match="which may be a header"):
                read_groups(path, "1", len(groups), Path(folder))
        if header:
            assert read_groups(path, "writer", len(groups), Path(folder)).tolist() == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("writer\n1\n2\n1\n", "found 3 groups under 'writer', which may be a header, expected 4; fix: give a group"),
        ("writer\nann\nbob\nann\n", "found 3 groups under 'writer', which may be a header, expected 4"),
        ("1\n2\n\n3\n4\n", "line 3: found a blank line, expected a group; fix: correct that line"),
        ("\n1\n2\n3\n4\n", "line 1: found a blank line"),
        ("5\n1\n2\n3\n4\n", "found 5 groups, expected 4"),
        ("ann\nbob\nann\nbob\nann\n", "found 5 groups, expected 4"),
        ("writer\n1\n2\n1,9\n2,9\n", None),
        ("1\n2\n1\n2\n\n \n\n", None),
    ],
)
def test_groups_that_may_be_shifted_by_a_line_are_refused(tmp_path: Path, text: str, words: str | None) -> None:
    path = Path(put(tmp_path, text, "g.csv"))
    if words is None:
        assert read_groups(path, "0", 4, tmp_path).tolist() == [0, 1, 0, 1]
        return
    with pytest.raises(InputError) as caught:
        read_groups(path, "0", 4, tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_groups_of_an_idx_file_are_a_column(tmp_path: Path, packed: bool) -> None:
    values = np.array([[1, 70], [2, -5], [3, 70], [4, 900]], np.int32)
    path = tmp_path / "groups"
    idx.write(path, values)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "scratch").mkdir()
    assert read_groups(path, "1", 4, tmp_path / "scratch").tolist() == [1, 0, 1, 2]
    assert not list((tmp_path / "scratch").iterdir())
    idx.write(path, values[:, 0])
    assert read_groups(path, "0", 4, tmp_path / "scratch").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("column", "rows", "words"),
    [
        ("writer", 2, "prepare.group_column: found 'writer', expected a number or one of a, b, the columns of g.csv"),
        ("2", 2, "line 1: found 2 columns, expected more than 2"),
        ("0", 5, "found 3 groups, expected 5, one per row of the training archive"),
    ],
)
def test_groups_that_do_not_fit_are_refused(tmp_path: Path, column: str, rows: int, words: str) -> None:
    path = Path(put(tmp_path, "a,b\n1,2\n3,4\n", "g.csv"))
    with pytest.raises(InputError) as caught:
        read_groups(path, column, rows, tmp_path)
    assert words in str(caught.value)


def test_groups_in_a_file_of_another_kind_are_refused(tmp_path: Path) -> None:
    idx.write(tmp_path / "images", np.zeros((4, 2, 2), np.uint8))
    with pytest.raises(InputError, match="found an archive of 4 x 2 x 2 of uint8, expected groups: integers of 1 or 2"):
        read_groups(tmp_path / "images", "0", 4, tmp_path)
    idx.write(tmp_path / "wide", np.zeros((4, 2), np.uint8))
    with pytest.raises(InputError, match=r"prepare\.group_column: found 2, expected a number from 0 to 1 for wide"):
        read_groups(tmp_path / "wide", "2", 4, tmp_path)
    (tmp_path / "picture").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as CSV"):
        read_groups(tmp_path / "picture", "0", 4, tmp_path)
