"""What a cell of a CSV file says of its line: the first line is a header where a number belongs and none stands."""


def is_number(text: str) -> bool:
    """Return whether a cell holds a number, as `float` reads it."""
    try:
        float(text)
    except ValueError:
        return False
    return True
