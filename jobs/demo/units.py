"""How one unit of a layer comes to its value, with all numbers, so that a reader can check the sum on paper.

An explanation is a JSON object. All have `layer`, `kind`, `at`, `reads` (what to light in the layers before), `value`
(computed here, in float64, from the inputs that Keras computed) and `output` (Keras's own). `parts` add up to `sum`,
and `activation` of the sum is the value. Layers that only select or pass a number on have no sum.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.demo.network import Layer, Network
from jobs.demo.patches import Patch, patch_of
from jobs.errors import InputError

Inputs = Sequence[NDArray[Any]]  # the outputs of the layers that a layer reads
At = tuple[int, ...]
Explanation = dict[str, Any]


def explains(layer: Layer) -> bool:
    """Return whether `explain` knows this kind of layer."""
    if layer.kind in ("Conv2D", "DepthwiseConv2D", "MaxPooling2D", "AveragePooling2D"):
        # Grouped and dilated convolutions occur in none of the project's networks.
        is_plain = getattr(layer.layer, "groups", 1) == 1 and set(getattr(layer.layer, "dilation_rate", (1,))) == {1}
        return is_plain and layer.layer.data_format == "channels_last"
    if layer.kind == "BatchNormalization":
        return layer.layer.axis in (-1, len(layer.shape))
    if layer.kind == "Concatenate":
        return layer.layer.axis in (-1, len(layer.shape))
    return layer.kind in _KINDS


def explain(network: Network, name: str, at: At, image: NDArray[Any]) -> Explanation:
    """Return the explanation of a unit: `at` is (row, column, channel), or (index,) of a flat layer.

    `image`: float32 [height, width, channels]. Raises InputError for a layer or unit that the network has not.
    """
    layer = network.layers.get(name)
    if layer is None:
        raise InputError(f"layer: found {name!r}, expected one of {', '.join(network.layers)}; fix: choose one of them")
    if len(at) != len(layer.shape) or not all(0 <= place < size for place, size in zip(at, layer.shape, strict=True)):
        limits = ",".join(f"0–{size - 1}" for size in layer.shape)
        raise InputError(f"at: found {','.join(map(str, at))}, expected {limits} in {name}; fix: choose such a unit")
    if not explains(layer):
        raise InputError(
            f"layer: found {name} of kind {layer.kind}, expected one with inputs; fix: choose another layer"
        )
    outputs = network.outputs(image)
    output = float(outputs[name][at])
    explanation = _KINDS[layer.kind](layer, [outputs[each].astype(np.float64) for each in layer.inputs], at)
    common = {"layer": name, "kind": layer.kind, "at": list(at), "activation": None, "parts": [], "sum": None}
    return common | explanation | {"output": output}


def _convolution(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    kernel = np.asarray(layer.layer.kernel, np.float64)[..., at[2]]
    patch = patch_of(inputs[0], at, layer.layer.kernel_size, layer.layer.strides, layer.layer.padding)
    return _reads_patch(layer, patch, None) | _weighted(layer, patch.values, kernel, at)


def _depthwise(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    channel, multiplier = divmod(at[2], layer.layer.depth_multiplier)
    kernel = np.asarray(layer.layer.kernel, np.float64)[:, :, channel, multiplier, None]
    one = inputs[0][..., channel, None]
    patch = patch_of(one, at, layer.layer.kernel_size, layer.layer.strides, layer.layer.padding)
    return _reads_patch(layer, patch, channel) | _weighted(layer, patch.values, kernel, at)


def _dense(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    weights = np.asarray(layer.layer.kernel, np.float64)
    explanation = _weighted(layer, inputs[0], weights[:, at[0]], at)
    if explanation["activation"] == "softmax":  # its value depends on the layer's other units
        bias = np.asarray(layer.layer.bias, np.float64) if layer.layer.use_bias else 0.0
        explanation["value"] = float(_softmax(inputs[0] @ weights + bias)[at[0]])
    return {"reads": [{"layer": layer.inputs[0], "index": None}]} | explanation


def _weighted(layer: Layer, values: NDArray[Any], weights: NDArray[Any], at: At) -> Explanation:
    """Return values × weights + bias, and the activation of that sum."""
    products = float((values * weights).sum())
    bias = float(np.asarray(layer.layer.bias)[at[-1]]) if layer.layer.use_bias else None
    parts = [_part("products", products), *([] if bias is None else [_part("bias", bias)])]
    total = products + (bias or 0.0)
    return {
        "shape": list(values.shape),
        "values": values.ravel().tolist(),
        "weights": weights.ravel().tolist(),
        "bias": bias,
        "parts": parts,
        "sum": total,
        "activation": layer.layer.activation.__name__,
        "value": _activated(layer.layer.activation, total),
    }


def _activated(activation: Any, total: float) -> float:
    if activation.__name__ in ("linear", "softmax"):
        return total
    if activation.__name__ == "relu":
        return max(total, 0.0)
    return float(np.asarray(activation(np.array([total], np.float32)))[0])


def _max_pooling(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    patch = _window(layer, inputs[0], at)
    values = patch.values.ravel()
    inside = np.where(np.isin(np.arange(values.size), patch.outside), -np.inf, values)
    winner = int(inside.argmax())
    shown = {"shape": list(patch.values.shape), "values": values.tolist(), "winner": winner}
    return _reads_patch(layer, patch, at[2]) | shown | {"value": float(values[winner])}


def _average_pooling(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    patch = _window(layer, inputs[0], at)
    return _reads_patch(layer, patch, at[2]) | _mean_of(patch.values, len(patch.outside))


def _global_max_pooling(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    channel = inputs[0][..., at[-1], None]
    winner = int(channel.argmax())
    shown = {"shape": list(channel.shape), "values": channel.ravel().tolist(), "winner": winner}
    return _reads_map(layer, channel, at) | shown | {"value": float(channel.ravel()[winner])}


def _global_average_pooling(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    channel = inputs[0][..., at[-1], None]
    return _reads_map(layer, channel, at) | _mean_of(channel, 0)


def _mean_of(values: NDArray[Any], outside: int) -> Explanation:
    """Return the mean of a window's values; those outside the image are 0 and do not count."""
    count = values.size - outside
    mean = float(values.sum()) / count
    part = _part(f"the sum of {count} values, divided by {count}", mean)
    shown = {"shape": list(values.shape), "values": values.ravel().tolist(), "winner": None}
    return shown | {"parts": [part], "sum": mean, "value": mean}


def _window(layer: Layer, source: NDArray[Any], at: At) -> Patch:
    one = source[..., at[2], None]
    return patch_of(one, at, layer.layer.pool_size, layer.layer.strides, layer.layer.padding)


def _normalization(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    keras, channel, value = layer.layer, at[-1], float(inputs[0][at])
    mean, variance = float(np.asarray(keras.moving_mean)[channel]), float(np.asarray(keras.moving_variance)[channel])
    gamma = float(np.asarray(keras.gamma)[channel]) if keras.scale else 1.0
    beta = float(np.asarray(keras.beta)[channel]) if keras.center else 0.0
    scaled = (value - mean) / float(np.sqrt(variance + keras.epsilon)) * gamma
    parts = [_part("(input − mean) / √(variance + epsilon) × gamma", scaled), _part("beta", beta)]
    given = {"input": value, "mean": mean, "variance": variance, "gamma": gamma, "beta": beta, "epsilon": keras.epsilon}
    return _reads_unit(layer, at) | given | {"parts": parts, "sum": scaled + beta, "value": scaled + beta}


def _rescaling(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    value = float(inputs[0][at])
    scale, offset = float(np.asarray(layer.layer.scale)), float(np.asarray(layer.layer.offset))
    parts = [_part("input × scale", value * scale), _part("offset", offset)]
    total = value * scale + offset
    given = {"input": value, "scale": scale, "offset": offset}
    return _reads_unit(layer, at) | given | {"parts": parts, "sum": total, "value": total}


def _relu(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    value, keras = float(inputs[0][at]), layer.layer
    threshold, slope = float(keras.threshold or 0), float(keras.negative_slope or 0)
    passed = value if value >= threshold else slope * (value - threshold)
    if keras.max_value is not None:
        passed = min(passed, float(keras.max_value))
    return _reads_unit(layer, at) | {"input": value, "value": passed}


def _add(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    reads = [_read(name, at) for name in layer.inputs]
    parts = [_part(name, float(values[at])) for name, values in zip(layer.inputs, inputs, strict=True)]
    total = sum(part["value"] for part in parts)
    return {"reads": reads, "parts": parts, "sum": total, "value": total}


def _concatenation(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    ends = np.cumsum([values.shape[-1] for values in inputs])
    which = int(np.searchsorted(ends, at[-1], side="right"))
    place = (*at[:-1], at[-1] - int(ends[which]) + inputs[which].shape[-1])
    value = float(inputs[which][place])
    return {"reads": [_read(layer.inputs[which], place)], "input": value, "value": value}


def _reshaped(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    source = np.unravel_index(np.ravel_multi_index(at, layer.shape), inputs[0].shape)
    value = float(inputs[0][source])
    return {"reads": [_read(layer.inputs[0], tuple(map(int, source)))], "input": value, "value": value}


def _passed_on(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    value = float(inputs[0][at])
    return _reads_unit(layer, at) | {"input": value, "value": value}


def _softmax_layer(layer: Layer, inputs: Inputs, at: At) -> Explanation:
    logits = inputs[0]
    shown = {"shape": list(logits.shape), "values": logits.ravel().tolist(), "input": float(logits[at])}
    return {"reads": [{"layer": layer.inputs[0], "index": None}], **shown, "value": float(_softmax(logits)[at])}


def _softmax(logits: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[Any] = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _part(name: str, value: float) -> dict[str, Any]:
    return {"name": name, "value": value}


def _read(name: str, at: At) -> dict[str, Any]:
    if len(at) == 3:
        return {"layer": name, "from": list(at[:2]), "size": [1, 1], "channel": at[2]}
    return {"layer": name, "index": at[0]}


def _reads_unit(layer: Layer, at: At) -> Explanation:
    return {"reads": [_read(layer.inputs[0], at)]}


def _reads_patch(layer: Layer, patch: Patch, channel: int | None) -> Explanation:
    place = {"from": [patch.row, patch.column], "size": list(patch.values.shape[:2]), "channel": channel}
    return {"reads": [{"layer": layer.inputs[0], **place}], "outside": list(patch.outside)}


def _reads_map(layer: Layer, values: NDArray[Any], at: At) -> Explanation:
    place = {"from": [0, 0], "size": list(values.shape[:2]), "channel": at[-1]}
    return {"reads": [{"layer": layer.inputs[0], **place}], "outside": []}


_KINDS: dict[str, Callable[[Layer, Inputs, At], Explanation]] = {
    "Conv2D": _convolution,
    "DepthwiseConv2D": _depthwise,
    "Dense": _dense,
    "MaxPooling2D": _max_pooling,
    "AveragePooling2D": _average_pooling,
    "GlobalMaxPooling2D": _global_max_pooling,
    "GlobalAveragePooling2D": _global_average_pooling,
    "BatchNormalization": _normalization,
    "Rescaling": _rescaling,
    "ReLU": _relu,
    "Add": _add,
    "Concatenate": _concatenation,
    "Flatten": _reshaped,
    "Reshape": _reshaped,
    "Dropout": _passed_on,
    "Softmax": _softmax_layer,
}
