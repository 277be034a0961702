"""Count the pieces of a picture file before Pillow reads them, as it does so one by one, in Python.

A PNG is a list of chunks (source: PNG specification, third edition, section 5.3). A JPEG is one of segments, and then
scans, each of which can go over all pixels again (source: ITU-T T.81, annex B).
"""

from PIL import JpegImagePlugin

from deploy.serving.refusal import RefusalError

_MOST = 1000  # of an ordinary file of any kind: libpng writes a chunk per 8 KiB, cameras some tens of segments
_BYTES_EACH = 1024  # more are allowed where they are this large
_MOST_SCANS = 100  # of a progressive JPEG; encoders write about ten
_PNG = b"\x89PNG\r\n\x1a\n"
_MARK = 0xFF
_WITHOUT_LENGTH = {
    code & 0xFF for code, (*_, handler) in JpegImagePlugin.MARKER.items() if handler is None
}  # to Pillow
_START_OF_SCAN = b"\xff\xda"  # in the data of a scan, 0 follows each 0xff


def require_few(body: bytes) -> None:
    """Raise a RefusalError (413) for a PNG or JPEG of too many pieces. Any other body, and a damaged one, passes."""
    most = _MOST + len(body) // _BYTES_EACH
    kind, pieces = ("chunks", _chunks(body, most)) if body.startswith(_PNG) else ("segments", _segments(body, most))
    scans = 0 if kind == "chunks" else body.count(_START_OF_SCAN)
    if pieces > most:
        raise RefusalError(413, f"body: found a picture of over {most:,} {kind}, expected at most {most:,}")
    if scans > _MOST_SCANS:
        raise RefusalError(413, f"body: found a JPEG of {scans:,} scans, expected at most {_MOST_SCANS}")


def _chunks(body: bytes, most: int) -> int:
    """Return the number of chunks of a PNG, or `most` + 1 if there are more."""
    position, count = len(_PNG), 0
    while position < len(body) and count <= most:
        position += 12 + int.from_bytes(body[position : position + 4], "big")
        count += 1
    return count


def _segments(body: bytes, most: int) -> int:
    """Return the number of segments of a JPEG before its first scan, or more than `most` if there are more.

    Each byte between two segments counts, too: Pillow skips them one by one.
    """
    position, count = 2, 0
    while count <= most and position + 1 < len(body) and not body.startswith(_START_OF_SCAN, position):
        marker = body[position + 1]
        if body[position] != _MARK or marker in (0, _MARK):
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        else:
            position += 2 + int.from_bytes(body[position + 2 : position + 4], "big")
        count += 1
    return count
