"""Arrays, data sets and networks as the library takes them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ._call import Handle, check, make, path, pointer, text
from ._native import ffi, lib

_DTYPES = {"float32": lib.MXC_DTYPE_F32, "int64": lib.MXC_DTYPE_I64, "int32": lib.MXC_DTYPE_I32, "bool": lib.MXC_DTYPE_BOOL}


def to_numpy(value: Any) -> np.ndarray:
    """An array of NumPy from one of any library, by DLPack or the array interface."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    return np.asarray(value)


def _contiguous(array: np.ndarray) -> tuple[np.ndarray, Any, Any]:
    """The array in row-major order, its shape and where it lies."""
    array = np.ascontiguousarray(array)
    return array, ffi.new("size_t[]", array.shape or [1]), ffi.cast("void *", array.ctypes.data)


def arrays(given: Any) -> Handle:
    """Arrays by name, or one alone."""
    named = given if isinstance(given, Mapping) else {"": given}
    handle = make("arrays", lib.mxc_arrays_create)
    for name, value in named.items():
        array = to_numpy(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        if array.dtype.name not in _DTYPES:
            raise TypeError(f"array '{name}' is of {array.dtype}; float32, int64, int32 or bool is wanted")
        array, shape, at = _contiguous(array)
        check(lib.mxc_arrays_add(handle.pointer, text(name), _DTYPES[array.dtype.name], shape, array.ndim, at))
    return handle


def outputs(handle: Handle) -> dict[str, np.ndarray]:
    """Copies of the arrays that a network gave, by name."""
    names = {number: name for name, number in _DTYPES.items()}
    found = {}
    described = ffi.new("mxc_array *")
    for index in range(lib.mxc_arrays_count(handle.pointer)):
        check(lib.mxc_arrays_get(handle.pointer, index, described))
        shape = tuple(described.shape[axis] for axis in range(described.rank))
        dtype = np.dtype(names[described.dtype])
        size = int(np.prod(shape)) * dtype.itemsize
        values = np.frombuffer(bytes(ffi.buffer(described.values, size)), dtype).reshape(shape)
        found[ffi.string(described.name).decode()] = values.copy()
    return found


def weights(given: Mapping[str, Any]) -> tuple[Handle, list[np.ndarray]]:
    """Weights by the name of their global, and the arrays that must live as long as they are used."""
    handle, kept = make("weights", lib.mxc_weights_create), []
    for name, value in given.items():
        array, shape, at = _contiguous(to_numpy(value).astype(np.float32, copy=False))
        values = ffi.cast("float *", at)
        check(lib.mxc_weights_add(handle.pointer, text(name), shape, array.ndim, values, ffi.NULL, ffi.NULL))
        kept.append(array)
    return handle, kept


def safetensors(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file of f32."""
    start = 8 + int.from_bytes(content[:8], "little")
    found = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            first, end = entry["data_offsets"]
            found[name] = np.frombuffer(content[start + first : start + end], np.float32).reshape(entry["shape"]).copy()
    return found


def _batches(loader: Iterable[Any], limit: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """What a loader gives, up to so many samples, in one array each."""
    inputs, labels, count = [], [], 0
    for batch in loader:
        x, y = batch if isinstance(batch, (list, tuple)) and len(batch) == 2 else (batch, None)
        inputs.append(np.array(to_numpy(x)))
        if y is not None:
            labels.append(np.array(to_numpy(y)))
        count += len(inputs[-1])
        if limit is not None and count >= limit:
            break
    if not inputs:
        raise ValueError("the data holds no samples")
    return np.concatenate(inputs), np.concatenate(labels) if labels else None


def data(given: Any, limit: int | None = None) -> Handle | None:
    """Samples: a path; arrays x or (x, y); or batches of these, such as a DataLoader gives."""
    if given is None:
        return None
    if isinstance(given, (str, os.PathLike)):
        return make("data", lambda out: lib.mxc_data_from_path(path(given), out))
    if isinstance(given, (list, tuple)) and len(given) == 2:
        x, y = to_numpy(given[0]), to_numpy(given[1])
    elif hasattr(given, "__dlpack__") or hasattr(given, "__array__"):
        x, y = to_numpy(given), None
    else:
        x, y = _batches(given, limit)
    if x.dtype == np.float64:
        x = x.astype(np.float32)
    kinds = {"uint8": lib.MXC_DTYPE_U8, "float32": lib.MXC_DTYPE_F32}
    if x.dtype.name not in kinds:
        raise TypeError(f"samples are of {x.dtype}; uint8 images or float32 values as the model takes them are wanted")
    labels = ffi.NULL
    if y is not None:
        y = y.reshape(-1)
        if not np.issubdtype(y.dtype, np.integer) or (y.size and y.min() < 0):
            raise TypeError(f"labels are of {y.dtype}; classes, integers from 0, are wanted")
        if len(y) != len(x):
            raise ValueError(f"{len(x)} samples but {len(y)} labels")
        y = np.ascontiguousarray(y, dtype=np.uint32)
        labels = ffi.cast("uint32_t *", y.ctypes.data)
    x, shape, at = _contiguous(x)
    return make("data", lambda out: lib.mxc_data_from_arrays(kinds[x.dtype.name], shape, x.ndim, at, labels, out))


def is_module(value: Any) -> bool:
    """Whether it is a torch.nn.Module, without importing torch."""
    return any(kind.__module__.startswith("torch.nn") and kind.__name__ == "Module" for kind in type(value).__mro__)


def export(module: Any, example: Any) -> bytes:
    """A torch.nn.Module as ONNX, its first axis dynamic, in evaluation mode."""
    import torch

    if example is None:
        raise TypeError("a torch.nn.Module needs an example of its input: compile(module, example=torch.zeros(1, 3, 224, 224))")
    example = example if isinstance(example, torch.Tensor) else torch.from_numpy(np.array(to_numpy(example)))
    training = module.training
    written = io.BytesIO()
    try:
        module.eval()
        torch.onnx.export(
            module,
            (example,),
            written,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    finally:
        module.train(training)
    return written.getvalue()
