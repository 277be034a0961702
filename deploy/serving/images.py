"""From the body of a request to images as the network takes them."""

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from deploy.serving.inflate import inflated
from deploy.serving.limits import Limits
from deploy.serving.pieces import require_few
from deploy.serving.refusal import RefusalError
from deploy.serving.served import ServedModel
from jobs.convert.picture import BadPictureError
from jobs.errors import one_line
from jobs.predict.picture import decoded
from jobs.prepare.idx import IdxError, read_bytes
from jobs.prepare.idx_header import Header
from jobs.prepare.orientation import upright_shape

RAW, IDX = "application/octet-stream", "application/x-idx"
# Pillow's format of each media type. Its plugins are imported above, as threads would do it at the same time.
PICTURES: Mapping[str, Any] = MappingProxyType(
    {"image/png": PngImagePlugin.PngImageFile.format, "image/jpeg": JpegImagePlugin.JpegImageFile.format}
)
MEDIA_TYPES = (*PICTURES, RAW, IDX)

_SMALL, _SMALL_PICTURE = 1 << 16, 1 << 12  # bytes that take less time to decode than to hand to another thread


def media_type(header: str) -> str:
    """Return the media type of a Content-Type header; raise a RefusalError (415) unless it is one of MEDIA_TYPES."""
    kind = header.partition(";")[0].strip().lower()
    if kind not in MEDIA_TYPES:
        raise RefusalError(415, f"Content-Type: found {kind[:100]!r}, expected one of {', '.join(MEDIA_TYPES)}")
    return kind


def is_small(kind: str, body: bytes) -> bool:
    """Return whether `images` takes about a millisecond at most, whatever the body holds.

    A picture's text may inflate to a thousand times its bytes.
    """
    return len(body) <= {RAW: _SMALL, IDX: 0}.get(kind, _SMALL_PICTURE)


def images(kind: str, body: bytes, model: ServedModel, limits: Limits, *, resize: bool) -> NDArray[Any]:
    """Return the images of a body: float32 [n, height, width, channels] in [0, 1], n from 1 to `limits.images`.

    `kind`: one of MEDIA_TYPES. `resize`: whether a picture may have another size.
    Raises a RefusalError (413 or 422) for anything else.
    """
    if kind in PICTURES:
        _require_few_pixels(kind, body, limits.pixels)
        try:
            return decoded(body, model.manifest, resize=resize)[None]
        except BadPictureError as error:
            height, width, _ = model.manifest.shape
            fix = f"; fix: send {height} x {width} opaque pixels, or ?resize=true for another size"
            raise RefusalError(422, f"body: {error}{fix}") from error
    stored = _raw(body, model) if kind == RAW else _idx(body, model, limits)
    if not 1 <= len(stored) <= limits.images:
        raise _too_many(len(stored), limits)
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise RefusalError(422, "body: found NaN or infinite values, expected numbers")
    return model.classifier.normalized(stored)


def _require_few_pixels(kind: str, body: bytes, most: int) -> None:
    """Raise a RefusalError for a body that is no picture, or whose header claims too many pixels; decode nothing."""
    require_few(body)
    try:
        with Image.open(io.BytesIO(body), formats=[PICTURES[kind]]) as picture:
            pixels = picture.width * picture.height
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusalError(413, f"body: found a picture beyond all limits, expected at most {most:,} pixels") from error
    except UnidentifiedImageError as error:
        raise RefusalError(422, f"body: found no {PICTURES[kind]}, expected one, as its Content-Type says") from error
    except Exception as error:  # Pillow's parsers raise anything on damaged bytes
        raise RefusalError(422, f"body: found a damaged {PICTURES[kind]} ({one_line(error)[:100]})") from error
    if pixels > most:
        raise RefusalError(413, f"body: found a picture of {pixels:,} pixels, expected at most {most:,} (--max-pixels)")


def _raw(body: bytes, model: ServedModel) -> NDArray[Any]:
    shape = _stored_shape(model)
    size = int(np.prod(shape))
    if not body or len(body) % size:
        shown = " x ".join(map(str, shape))
        raise RefusalError(422, f"body: found {len(body)} bytes, expected n x {shown} = n x {size} of uint8")
    return np.frombuffer(body, np.uint8).reshape(-1, *shape)


def _idx(body: bytes, model: ServedModel, limits: Limits) -> NDArray[Any]:
    shape = _stored_shape(model)

    def accept(header: Header) -> None:
        if header.row_shape not in {shape, shape[:2] if shape[2] == 1 else shape}:
            raise RefusalError(422, f"body: found images of {header}, expected n x {' x '.join(map(str, shape))}")
        if model.manifest.normalization.rule == "type-range" and header.dtype != np.uint8:
            raise RefusalError(
                422, f"body: found {header.dtype.name} values, expected uint8, as in the training archives"
            )
        if not 1 <= header.rows <= limits.images:
            raise _too_many(header.rows, limits)

    try:
        return read_bytes(inflated(body, limits), "body", accept).reshape(-1, *shape)
    except IdxError as error:
        raise RefusalError(422, str(error)) from error


def _stored_shape(model: ServedModel) -> tuple[int, int, int]:
    """Return height, width and channels as in the archives, before they are turned upright."""
    return upright_shape(model.manifest.shape, model.manifest.orientation)  # its own inverse


def _too_many(count: int, limits: Limits) -> RefusalError:
    status = 422 if count == 0 else 413
    return RefusalError(status, f"body: found {count:,} images, expected 1 to {limits.images:,} (--max-images)")
