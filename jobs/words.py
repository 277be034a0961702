"""Numbers of things and time spans in messages."""


def counted(number: int, noun: str, form: str = ",") -> str:
    """Return a number with its noun: `1 error`, `2,345 errors`, `0 classes`.

    `noun`: in the singular, a regular one. `form`: of the number, as in a format string.
    """
    plural = f"{noun}es" if noun.endswith(("s", "x", "sh", "tch")) else f"{noun}s"
    return f"{number:{form}} {noun if number == 1 else plural}"


def duration(seconds: float) -> str:
    """Return a time span for people, to two digits or more: `40 s`, `12 min`, `2 h 5 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
