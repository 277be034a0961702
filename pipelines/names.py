"""Names made of what people call their files, fit for run IDs, paths, job names and shells."""


def safe_name(text: str, otherwise: str, longest: int) -> str:
    """Return the text with each character that is no ASCII letter, digit, '.', '_' or '-' replaced by '-'.

    It begins with a letter or digit and has `longest` characters or fewer; `otherwise` where nothing is left of it.
    """
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text)
    return kept.lstrip("._-")[:longest] or otherwise
