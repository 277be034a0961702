"""What a model's config may name: Keras's own classes that compute, and nothing that holds code or opens a file."""

import sys
from typing import Any

# Where a config may look for a class. Modules without a name of the public API, as Keras itself writes them, are those
# of `x + y` and of the model.
_MODULES = frozenset(
    {"keras", "keras.layers", "keras.initializers", "keras.regularizers", "keras.constraints", "keras.dtype_policies"}
    | {"keras.src.models.functional", "keras.src.models.sequential"}
    | {f"keras.src.ops.{name}" for name in ("numpy", "nn", "math", "image", "linalg", "einops")}
)
# Where such a class is defined. Left out: Lambda (marshalled code), layers around SavedModels, JAX and Torch (code and
# pickles), lookups (a vocabulary is the path of a file), and operations that take a function.
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
# Values that Keras writes as if they were objects.
_VALUES = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__slice__", "__ellipsis__"})


def require_plain(config: Any) -> None:
    """Raise ValueError unless a model's config names nothing but Keras's own classes that compute.

    Takes out how the model was compiled, optimizer and losses: nobody here needs it. RecursionError where it is nested
    too deep. Keras is to be imported before.
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
        found = getattr(sys.modules.get(module), name, None)
        if isinstance(found, type) and f"{found.__module__}.".startswith(_DEFINED_IN):
            return
    # Keras takes a registered name before the class.
    shown = f"{module}.{name}" if registered in (None, name) else f"{module}.{name} registered as {registered}"
    raise ValueError(f"found {shown[:200]}, expected Keras's own layers without code of their own")
