"""Inflate the body of a request, up to the size that a plain one may have."""

import zlib

from deploy.serving.limits import Limits
from deploy.serving.refusal import RefusalError
from jobs.archive import GZIP_MAGIC

_GZIP = 31  # zlib's number for a gzip stream with the largest window
_MOST_STREAMS = 100  # in a row, as some programs write them in blocks


def inflated(body: bytes, limits: Limits) -> bytes:
    """Return a gzip body inflated, any other as it is.

    Raises a RefusalError: 413 for more than `limits.body` bytes, of which no more are inflated, 422 for a damaged one.
    """
    if not body.startswith(GZIP_MAGIC):
        return body
    plain, left = b"", body
    for _ in range(_MOST_STREAMS):
        stream = zlib.decompressobj(_GZIP)
        try:
            plain += stream.decompress(left, limits.body + 1 - len(plain))
        except zlib.error as error:
            raise RefusalError(422, f"body: found damaged gzip ({error})") from error
        if len(plain) > limits.body:
            message = (
                f"body: found gzip that inflates to over {limits.body:,} bytes, expected at most that (--max-body)"
            )
            raise RefusalError(413, message)
        if not stream.eof:
            raise RefusalError(422, "body: found gzip that ends too early")
        left = stream.unused_data
        if not left:
            return plain
    raise RefusalError(422, f"body: found over {_MOST_STREAMS} gzip streams, expected one")
