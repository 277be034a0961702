"""Keras files as an attacker would write them, made from a good file. None may run, open or write anything."""

import io
import json
import pickle
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

RAN = "ran"  # the file that each would create if its code ran
PRIVATE = "private.h5"  # a file of the victim: valid HDF5, so that reading it would work

Members = dict[str, bytes]
Config = dict[str, Any]


def corpus(good: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Write all files into `folder`, from a good file of a functional model; yield the name and path of each."""
    with h5py.File(folder / PRIVATE, "w") as file:
        file["kernel"] = np.ones(4, np.float32)
    files = {**_configs(good, folder), **_weights(good, folder), **_archives(good, folder), **_no_archives(good)}
    for name, content in files.items():
        path = folder / f"{name.replace(' ', '_')}.keras"
        path.write_bytes(content)
        yield name, path


def members_of(good: Path) -> Members:
    with zipfile.ZipFile(good) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: Members) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


# --- config.json: the layers to build


def _configs(good: Path, folder: Path) -> dict[str, bytes]:
    shell = {"class_name": "function", "config": "system", "module": "os", "registered_name": "system"}
    made = {
        "Lambda": _layer(good, "Lambda", function=_code(folder)),
        "Lambda that calls": _layer(good, "Lambda", function=_function("keras.models", "load_model")),
        "activation by code": _activation(good, _code(folder)),
        "activation os.system": _activation(good, shell),
        "activation builtins.exec": _activation(good, _function("builtins", "exec")),
        "activation get_file": _activation(good, _function("keras.utils", "get_file")),
        "activation unsafe": _activation(good, _function("keras.config", "enable_unsafe_deserialization")),
        "custom object": _layer(good, "Evil", "tests.support.hostile", registered="evil>Evil"),
        "custom object as Dense": _layer(good, "Dense", registered="evil>Evil", units=3),
        "subprocess.Popen": _layer(good, "Popen", "subprocess", args=["touch", str(folder / RAN)]),
        "numpy.load": _layer(good, "load", "numpy", file=str(folder / PRIVATE)),
        "pathlib": _layer(good, "Path", "pathlib"),
        "SavedModel": _layer(good, "TFSMLayer", filepath=str(folder)),
        "Torch": _layer(good, "TorchModuleWrapper", module="gASV"),
        "JAX": _layer(good, "JaxLayer", call_fn=_code(folder)),
        "vocabulary": _layer(good, "StringLookup", vocabulary=str(folder / PRIVATE)),
        "vocabulary of text": _layer(good, "TextVectorization", vocabulary=str(folder / PRIVATE)),
        "type": _activation(good, {"class_name": "__typespec__", "config": [], "module": "os", "spec_name": "system",
                                   "registered_name": None}),
        "old layer": _changed(good, lambda config: _layers(config)[1].pop("module")),
        "nested": _layer(good, "TimeDistributed", layer={"class_name": "Popen", "module": "subprocess", "config": {}}),
        "a function": _changed(good, lambda config: config.update(shell)),
        "no model": _changed(good, lambda config: config.update(class_name="Dense", module="keras.layers")),
        "a thousand million units": _changed(good, lambda config: _dense(config).update(units=10**9)),
        "a huge output": _layer(good, "ZeroPadding2D", padding=10**6),
    }  # fmt: skip
    return {f"config: {name}": content for name, content in made.items()}


def _changed(good: Path, change: Callable[[Config], Any]) -> bytes:
    members = members_of(good)
    config = json.loads(members["config.json"])
    change(config)
    return archive_of(members | {"config.json": json.dumps(config).encode()})


def _layers(config: Config) -> list[Config]:
    return list(config["config"]["layers"])


def _dense(config: Config) -> Config:
    (last,) = [layer for layer in _layers(config) if layer["config"]["name"] == "logits"]
    config_of_layer: Config = last["config"]
    return config_of_layer


def _activation(good: Path, value: Config) -> bytes:
    return _changed(good, lambda config: _dense(config).update(activation=value))


def _layer(good: Path, name: str, module: str = "keras.layers", registered: str | None = None, **values: Any) -> bytes:
    """Replace the first layer after the input."""

    def change(config: Config) -> None:
        layer = _layers(config)[1]
        common = {key: layer["config"][key] for key in ("name", "dtype")}
        layer.update(class_name=name, module=module, registered_name=registered, config=common | values)
        layer.pop("build_config", None)

    return _changed(good, change)


def _function(module: str, name: str) -> Config:
    return {"class_name": "function", "config": name, "module": module, "registered_name": name}


def _code(folder: Path) -> Config:
    from keras.src.utils.python_utils import func_dump

    marker = str(folder / RAN)
    value = func_dump(lambda x, marker=marker: [open(marker, "w"), x][1])  # noqa: SIM115, PTH123
    return {"class_name": "__lambda__", "config": {"value": value}}


@contextmanager
def custom_object(folder: Path) -> Iterator[None]:
    """Register a custom object in this process, as an imported library might."""
    import keras

    @keras.saving.register_keras_serializable("evil", "Evil")
    class Evil(keras.layers.Layer):
        def __init__(self, **_: Any) -> None:
            (folder / RAN).touch()
            super().__init__()

    try:
        yield
    finally:
        keras.saving.get_custom_objects().pop("evil>Evil")


# --- model.weights.h5


def _weights(good: Path, folder: Path) -> dict[str, bytes]:
    private = str(folder / PRIVATE)
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource(private, "kernel", (4,))
    huge = (1 << 17, 1 << 14)  # 8 GiB of float32
    changes: dict[str, Callable[[h5py.File], Any]] = {
        "external link": lambda file: file.__setitem__("x", h5py.ExternalLink(private, "kernel")),
        "soft link": lambda file: file.__setitem__("x", h5py.SoftLink("/layers")),
        "external storage": lambda file: file.create_dataset("x", (4,), np.float32, external=[(private, 0, 16)]),
        "virtual": lambda file: file.create_virtual_dataset("x", layout),
        "text": lambda file: file.create_dataset("x", data="text"),
        "references": lambda file: file.create_dataset("x", data=file.ref, dtype=h5py.ref_dtype),
        "a type": lambda file: file.__setitem__("x", np.dtype("f4")),
        "never stored": lambda file: file.create_dataset("x", huge, np.float32),
        "compressed": lambda file: file.create_dataset("x", data=np.zeros(1 << 20, np.float32), compression="gzip"),
        "chunks": lambda file: file.create_dataset("x", huge, np.float32, chunks=(1024, 1024)),
        "a circle": lambda file: file["layers"].__setitem__("x", file["layers"]),
    }
    return {f"weights: {name}": _with_weights(good, change) for name, change in changes.items()}


def _with_weights(good: Path, change: Callable[[h5py.File], Any]) -> bytes:
    members = members_of(good)
    target = io.BytesIO(members["model.weights.h5"])
    with h5py.File(target, "r+") as file:
        change(file)
    return archive_of(members | {"model.weights.h5": target.getvalue()})


# --- the archive


def _archives(good: Path, folder: Path) -> dict[str, bytes]:
    members = members_of(good)
    pickled = pickle.dumps(_Touch(folder / RAN))
    npz = io.BytesIO()
    np.savez(npz, _=np.array([_Touch(folder / RAN)], dtype=object))
    less = {name: content for name, content in members.items() if name != "model.weights.h5"}
    deep = b"[" * 100_000 + b"]" * 100_000
    made = {
        "path upwards": archive_of(members | {"../../ran": b"x"}),
        "path upwards in assets": archive_of(members | {"assets/../../../ran": b"x"}),
        "absolute path": archive_of(members | {str(folder / RAN): b"x"}),
        "pickle beside": archive_of(members | {"custom_objects.cloudpickle": pickled}),
        "no weights": archive_of(less),
        "pickled weights": archive_of(less | {"model.weights.npz": npz.getvalue()}),
        "weights as a link": _linked(members, folder),
        "config twice": _twice(members),
        "compressed": _compressed(members),
        "long config": archive_of(members | {"config.json": b" " * (5 << 20) + members["config.json"]}),
        "deep config": archive_of(members | {"config.json": deep}),
        "config is no JSON": archive_of(members | {"config.json": pickled}),
        "weights are a pickle": archive_of(members | {"model.weights.h5": pickled}),
    }
    return {f"archive: {name}": content for name, content in made.items()}


class _Touch:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self._path,)


def _linked(members: Members, folder: Path) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name)
            if name == "model.weights.h5":
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
                content = str(folder / PRIVATE).encode()
            archive.writestr(entry, content)
    return target.getvalue()


def _twice(members: Members) -> bytes:
    target = io.BytesIO(archive_of(members))
    with zipfile.ZipFile(target, "a") as archive:
        entry = zipfile.ZipInfo("config.jsoN")
        archive.writestr(entry, members["config.json"])
    return target.getvalue().replace(b"config.jsoN", b"config.json")


def _compressed(members: Members) -> bytes:
    """Return 1 GiB of zeros in 1 MiB."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            if name == "model.weights.h5":
                with archive.open(name, "w", force_zip64=True) as file:
                    for _ in range(1 << 10):
                        file.write(bytes(1 << 20))
            else:
                archive.writestr(name, content)
    return target.getvalue()


# --- other files with that suffix


def _no_archives(good: Path) -> dict[str, bytes]:
    members = members_of(good)
    legacy = io.BytesIO(members["model.weights.h5"])
    with h5py.File(legacy, "r+") as file:
        file.attrs["model_config"] = members["config.json"].decode()
    return {
        "HDF5": legacy.getvalue(),
        "a pickle": pickle.dumps(_Touch(good.with_name(RAN))),
        "nothing": b"",
        "half": good.read_bytes()[:-500],
    }
