"""Numbers of things in messages."""


def counted(number: int, noun: str, form: str = ",") -> str:
    """Return a number with its noun: `1 error`, `2,345 errors`, `0 classes`.

    `noun`: in the singular, a regular one. `form`: of the number, as in a format string.
    """
    plural = f"{noun}es" if noun.endswith(("s", "x", "sh", "tch")) else f"{noun}s"
    return f"{number:{form}} {noun if number == 1 else plural}"
