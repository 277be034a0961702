"""Names: the default work folder, and what file names become in run IDs, paths, job names and shells."""

from pathlib import Path

WORK = Path("work")  # the default of --work


def safe_name(text: str, otherwise: str, longest: int) -> str:
    """Return the text with every character but ASCII letters, digits, '.', '_' and '-' replaced by '-'.

    The name starts with a letter or digit and has at most `longest` characters. `otherwise`: returned where no
    character is left.
    """
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text)
    return kept.lstrip("._-")[:longest] or otherwise
