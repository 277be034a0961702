"""Open an address that has a secret in the browser, without the secret on a command line, which all users can read."""

import html
import threading
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
    # In a thread: a text browser, such as w3m on a login node, keeps its caller waiting until it is closed.
    threading.Thread(target=webbrowser.open, args=(page.absolute().as_uri(),), daemon=True).start()
