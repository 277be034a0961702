"""Aligned columns of text."""

import pytest

from jobs.text_table import text_table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert text_table(("rank", "host"), [(0, "node-1"), (12, "n2")], right=(0,)) == [
        "rank  host",
        "   0  node-1",
        "  12  n2",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert text_table(("rank", "host"), []) == ["rank  host"]


def test_a_row_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="argument"):
        text_table(("rank", "host"), [("only one",)])
