"""What a model's config may name: Keras's own computing classes, and nothing that contains code or opens a file."""

import sys
from typing import Any

# The modules in which a config may look up a class. Keras itself writes those outside the public API, for `x + y` and
# for the model.
_MODULES = frozenset(
    {"keras", "keras.layers", "keras.initializers", "keras.regularizers", "keras.constraints", "keras.dtype_policies"}
    | {"keras.src.models.functional", "keras.src.models.sequential"}
    | {f"keras.src.ops.{name}" for name in ("numpy", "nn", "math", "image", "linalg", "einops")}
)
# The modules that define such classes. Excluded: Lambda (marshalled code), layers around SavedModels, JAX and Torch
# (code and pickles), lookups (their vocabulary may be a file path), and operations that take a function.
_DEFINED_IN = (
    *(
        f"keras.src.layers.{kind}."
        for kind in ("activations", "attention", "convolutional", "merging", "normalization")
    ),
    *(f"keras.src.layers.{kind}." for kind in ("pooling", "regularization", "reshaping", "rnn")),
    *(f"keras.src.layers.core.{name}." for name in ("dense", "einsum_dense", "embedding", "identity", "input_layer")),
    *(f"keras.src.layers.core.{name}." for name in ("masking", "reversible_embedding", "wrapper")),
    *(f"keras.src.layers.preprocessing.{name}." for name in ("image_preprocessing", "normalization", "rescaling")),
    *(f"keras.src.{kind}." for kind in ("initializers", "regularizers", "constraints", "dtype_policies")),
    *(f"keras.src.models.{name}." for name in ("functional", "sequential")),
    *(f"keras.src.ops.{name}." for name in ("numpy", "nn", "math", "image", "linalg", "einops")),
)
# Values that Keras writes as objects.
_VALUES = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__slice__", "__ellipsis__"})


def require_plain(config: Any) -> None:
    """Raise ValueError unless a model's config names only Keras's own computing classes.

    Removes how the model was compiled, its optimizer and losses, which no caller needs. Raises RecursionError if it is
    nested too deeply. Keras must have been imported.
    """
    if not isinstance(config, dict) or config.get("class_name") not in ("Functional", "Sequential"):
        raise ValueError("found no model of layers in config.json")
    _require_plain(config)


def _require_plain(value: Any) -> None:
    if isinstance(value, list):
        for each in value:
            _require_plain(each)
    elif isinstance(value, dict):
        value.pop("compile_config", None)
        if "class_name" in value:
            _require_known(value)
        for each in value.values():
            _require_plain(each)


def _require_known(value: dict[str, Any]) -> None:
    name, module, registered = value["class_name"], value.get("module"), value.get("registered_name")
    if isinstance(name, str) and name in _VALUES:
        return
    if isinstance(name, str) and isinstance(module, str) and module in _MODULES and registered in (None, name):
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and f"{kind.__module__}.".startswith(_DEFINED_IN):
            return
    # Keras prefers a registered name to the class.
    shown = f"{module}.{name}" if registered in (None, name) else f"{module}.{name} registered as {registered}"
    raise ValueError(f"found {shown[:200]}, expected Keras's own layers without custom code")
