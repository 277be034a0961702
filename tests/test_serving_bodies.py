"""Bodies that are small and ask for much: many pieces of a picture, gzip that inflates far. They are refused unread."""

import gzip
import zlib

import numpy as np
import pytest

from deploy.serving.images import images
from deploy.serving.limits import Limits
from deploy.serving.refusal import RefusalError
from tests.support.served_models import SHAPE, NamedModel
from tests.test_serving import IDX, PNG, archive, png

JPEG = "image/jpeg"
LIMITS = Limits(body=20_000)
FLAT = np.full(SHAPE, 100, np.uint8)
COMMENT = b"\xff\xfe\0\2"


def with_chunks(count: int) -> bytes:
    """Return a PNG with empty chunks before its end."""
    chunk = bytes(4) + b"tEXt" + zlib.crc32(b"tEXt").to_bytes(4, "big")
    picture = png(FLAT)
    return picture[:-12] + chunk * count + picture[-12:]


def with_segments(segment: bytes, count: int) -> bytes:
    """Return a JPEG with segments before its first one."""
    picture = png(FLAT, form="JPEG")
    return picture[:2] + segment * count + picture[2:]


PLAIN = archive((20, 6, 5))
# Of each fault: status, content type, body, and part of the message.
REFUSED = {
    "PNG of too many chunks": (413, PNG, with_chunks(1200), "found a picture of over 1,014 chunks"),
    "JPEG of too many segments": (413, JPEG, with_segments(COMMENT, 1200), "found a picture of over 1,005 segments"),
    "JPEG with bytes between segments": (413, JPEG, with_segments(b"\xff\0", 1200), "expected at most 1,00"),
    # To Pillow this segment has no length: it goes through the 1,500 bytes one by one.
    "JPEG with a length to skip": (
        413,
        JPEG,
        with_segments(b"\xff\xf0\5\xdc" + bytes(1498), 1),
        "expected at most 1,00",
    ),
    "JPEG of too many scans": (413, JPEG, with_segments(COMMENT, 1) + b"\xff\xda" * 150, "found a JPEG of 151 scans"),
    "gzip that inflates far": (413, IDX, gzip.compress(PLAIN + bytes(1 << 24)), "inflates to over 20,000 bytes"),
    "gzip of values that fit but are too long": (413, IDX, gzip.compress(archive((900, 6, 5))), "over 20,000 bytes"),
    "gzip of too many streams": (422, IDX, gzip.compress(b"") * 200, "found over 100 gzip streams"),
    "gzip that is cut off": (422, IDX, gzip.compress(PLAIN)[:-5], "found gzip that ends too early"),
    "gzip that is damaged": (422, IDX, gzip.compress(PLAIN)[:-4] + b"\1\2\3\4", "found damaged gzip"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_body_that_asks_for_much_is_refused(fault: str) -> None:
    status, kind, body, message = REFUSED[fault]
    with pytest.raises(RefusalError) as refused:
        images(kind, body, NamedModel(), LIMITS, resize=False)  # type: ignore[arg-type]
    assert refused.value.status == status, refused.value.message
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("kind", "body", "count"),
    [
        (PNG, with_chunks(900), 1),
        (JPEG, with_segments(COMMENT, 900), 1),
        (IDX, gzip.compress(PLAIN[:50]) + gzip.compress(PLAIN[50:]), 20),
    ],
    ids=["PNG", "JPEG", "gzip"],  # by its bytes, which hold the time, a test would be another one in each worker
)
def test_pictures_of_many_pieces_and_gzip_in_several_streams_are_read(kind: str, body: bytes, count: int) -> None:
    assert images(kind, body, NamedModel(), LIMITS, resize=False).shape == (count, *SHAPE)  # type: ignore[arg-type]
