"""Open an address that has a secret in the browser, without the secret on a command line, which all users can read."""

import html
import webbrowser
from pathlib import Path

_PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={address}">
<title>idxtrain demo</title>
<p><a href="{address}">The demo</a></p>
"""


def open_address(address: str, folder: Path) -> None:
    """Open an address by a page in a private folder that leads to it. The browser is given the page's name."""
    page = folder / "open.html"
    page.touch(mode=0o600)
    page.write_text(_PAGE.format(address=html.escape(address)), encoding="utf-8")
    webbrowser.open(page.absolute().as_uri())
