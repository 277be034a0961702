"""Pictures of the first layer for the report: its filters, and what they make of one test image of each class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs import png
from jobs.evaluate.results import ImagesOf, Predictions
from jobs.first_layer import FirstLayer, colored, first_layer

_MOST_FILTERS = 64
_MOST_CLASSES = 10  # a row of feature maps each
_MOST_MAPS = 12  # in a row
_LONGEST_MAP = 64  # pixels
_GRAYS = 16  # of a feature map: half the bytes of 256


@dataclass(frozen=True)
class Maps:
    """The feature maps of one test image of a class. `image`, `maps`: data: URIs; `maps` in the order of `shown`."""

    name: str
    image: str
    maps: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LayerPictures:
    """The first layer's pictures, as data: URIs. `is_convolution`: else each of `filters` belongs to a class or unit.

    `total`: the number of filters, of which `filters` has at most 64. `shown`: the numbers of the filters whose maps
    are shown: those whose maps differ most. `rows`: a class each; empty unless the layer is a convolution.
    """

    layer: str
    is_convolution: bool
    total: int
    filters: tuple[str, ...]
    shown: tuple[int, ...] = ()
    rows: tuple[Maps, ...] = ()


def layer_pictures(
    model: Any, predictions: Predictions, images_of: ImagesOf, names: Sequence[str]
) -> LayerPictures | None:
    """Return the pictures of a keras.Model's first layer, or None if it has no weights on pixels.

    `images_of`: returns images of the predictions. `names`: of the classes, by class number.
    """
    first = first_layer(model)
    if first is None:
        return None
    shown, rows = _feature_maps(model, first, predictions, images_of, names) if first.is_convolution else ((), ())
    return LayerPictures(
        layer=first.layer.name,
        is_convolution=first.is_convolution,
        total=len(first.kernels),
        filters=tuple(png.data_uri(colored(kernel)) for kernel in first.kernels[:_MOST_FILTERS]),
        shown=shown,
        rows=rows,
    )


def samples(predictions: Predictions) -> list[int]:
    """Return the row of one test image of each of the first 10 classes: the first that is predicted correctly."""
    rows = np.flatnonzero(predictions.correct)
    _, first = np.unique(predictions.labels[rows], return_index=True)
    return [int(row) for row in rows[first[:_MOST_CLASSES]]]


def _feature_maps(
    model: Any, first: FirstLayer, predictions: Predictions, images_of: ImagesOf, names: Sequence[str]
) -> tuple[tuple[int, ...], tuple[Maps, ...]]:
    import keras

    chosen = samples(predictions)
    if not chosen:
        return (), ()
    images = images_of(chosen)
    outputs = keras.Model(model.inputs, first.layer.output)([images], training=False)
    maps = np.asarray(outputs, np.float32)  # [images, height, width, filters]
    differ = maps.std(axis=0).mean(axis=(0, 1))[:_MOST_FILTERS]
    shown = tuple(sorted(np.argsort(-differ, kind="stable")[:_MOST_MAPS].tolist()))
    rows = tuple(
        Maps(
            names[predictions.labels[row]],
            png.data_uri(image),
            tuple(_map_uri(own[..., number], maps[..., number]) for number in shown),
        )
        for row, image, own in zip(chosen, images, maps, strict=True)
    )
    return shown, rows


def _map_uri(own: NDArray[Any], all_of_filter: NDArray[Any]) -> str:
    """Return a feature map as a data: URI; black and white are the filter's lowest and highest value on all images."""
    from PIL import Image

    low, high = float(all_of_filter.min()), float(all_of_filter.max())
    step = -(-max(own.shape) // _LONGEST_MAP)
    grays = np.round((own[::step, ::step] - low) / max(high - low, 1e-12) * (_GRAYS - 1))
    picture = Image.fromarray(grays.astype(np.uint8), "P")
    picture.putpalette([gray * 255 // (_GRAYS - 1) for gray in range(_GRAYS) for _ in range(3)])
    return png.uri_of(picture)
