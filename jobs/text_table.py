"""Text in aligned columns, for terminals and logs."""

from collections.abc import Collection, Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]], right: Collection[int] = ()) -> list[str]:
    """Return the lines of a table, with two spaces between columns and no trailing spaces.

    `header`: the column titles. `rows`: one cell per title each. `right`: numbers of the right-aligned columns, from 0;
    the others are left-aligned.
    """
    cells = [tuple(map(str, row)) for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
