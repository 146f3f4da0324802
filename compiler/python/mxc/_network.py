"""Models and packages."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _arrays
from ._call import Callback, Handle, check, content, make, options, path, pointer, taken, text, watched
from ._models import Costs
from ._native import ffi, lib
from ._report import Evaluation

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from . import _options


def _watched_object(kind: str, callback: Callback | None, call: Any) -> Handle:
    out = ffi.new(f"mxc_{kind} **")
    watched(callback, lambda monitor: call(monitor, out))
    return Handle(kind, out[0])


def _watched_package(callback: Callback | None, call: Any) -> tuple[Package, dict[str, Any]]:
    out, report = ffi.new("mxc_package **"), ffi.new("mxc_bytes **")
    watched(callback, lambda monitor: call(monitor, out, report))
    decided = json.loads(taken(report))
    return Package(Handle("package", out[0]), decided), decided


class Session:
    """A network that is ready to run; several threads may run it at a time."""

    def __init__(self, handle: Handle):
        self._handle = handle

    def run(self, inputs: Any, seed: int = 0) -> np.ndarray | dict[str, np.ndarray]:
        """Runs the network without noise, denoisers on.

        Args:
            inputs: An array, or arrays by the names of the inputs: of NumPy, PyTorch or whatever else knows DLPack.
            seed: Keys what the network itself draws.

        Returns:
            The output; where there are several, arrays by name.
        """
        given = _arrays.arrays(inputs)
        found = _arrays.outputs(make("arrays", lambda out: lib.mxc_session_run(self._handle.pointer, given.pointer, seed, out)))
        return next(iter(found.values())) if len(found) == 1 else found


class Model:
    """A trained network, imported.

    Args:
        source: The file of an ONNX model or (``.mlir``) of a TOSA module, the bytes of an ONNX file, or a ``torch.nn.Module``.
        name: What errors and packages call a model that is no file; external data files are looked up beside it.
        example: An example of a module's input, with which it is traced.
        **given: ``input_shape`` and ``max_constant_bytes``, as of ``mxc compile``.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes | Any,
        *,
        name: str | None = None,
        example: Any = None,
        **given: Unpack[_options.ImportOptions],
    ):
        wanted = options(given)
        if _arrays.is_module(source):
            name = name or f"{type(source).__name__}.onnx"
            source = _arrays.export(source, example)
        if isinstance(source, (bytes, bytearray, memoryview)):
            onnx = bytes(source)
            self._handle = _watched_object(
                "model",
                None,
                lambda monitor, out: lib.mxc_model_from_onnx(
                    onnx, len(onnx), text(name or "model.onnx"), ffi.NULL, wanted.pointer, monitor, out
                ),
            )
        else:
            self._handle = _watched_object(
                "model", None, lambda monitor, out: lib.mxc_model_from_file(path(source), wanted.pointer, monitor, out)
            )

    def describe(self) -> dict[str, Any]:
        """Its inputs (name, shape with None for the batch, is_float), outputs (names) and nodes (operation, name)."""
        return json.loads(content(lambda out: lib.mxc_model_describe(self._handle.pointer, out)))

    @property
    def ir(self) -> str:
        """The MLIR of the graph level; weights are globals without their values."""
        return content(lambda out: lib.mxc_model_ir(self._handle.pointer, lib.MXC_FORMAT_TEXT, out)).decode()

    def weights(self) -> dict[str, np.ndarray]:
        """The values of its module's globals, by name."""
        return _arrays.safetensors(content(lambda out: lib.mxc_model_weights(self._handle.pointer, out)))

    def session(self, **given: Unpack[_options.ModelSessionOptions]) -> Session:
        """Makes the model itself ready to run, without noise or denoisers."""
        wanted = options(given)
        return Session(make("session", lambda out: lib.mxc_model_session(self._handle.pointer, wanted.pointer, out)))

    def _compile(self, data: Any, costs: Costs | None, callback: Callback | None, given: dict[str, Any]) -> Handle:
        samples, wanted = _arrays.data(data), options(given)
        return _watched_object(
            "compiled",
            callback,
            lambda monitor, out: lib.mxc_model_compile(
                self._handle.pointer, pointer(samples), pointer(costs and costs.handle), wanted.pointer, monitor, out
            ),
        )

    def compile(
        self,
        *,
        data: Any = None,
        costs: Costs | None = None,
        callback: Callback | None = None,
        **given: Unpack[_options.CompileOptions],
    ) -> Package:
        """Compiles it to a package: maps matrix-vector products to analog tiles, calibrates, and places denoisers within the budget.

        Args:
            data: Calibrates; a path, arrays ``x`` or ``(x, y)`` (uint8 images, or float32 values as the model takes them), or batches of
                these, such as a ``DataLoader`` gives, which are all held in memory. Without it, synthetic inputs.
            costs: What an energy budget is counted by; without it, the hardware profile's own figures.
            callback: Is told of progress, on another thread; returning False stops the call.
            **given: The options of ``mxc compile``.
        """
        compiled = self._compile(data, costs, callback, dict(given))
        decided = json.loads(content(lambda out: lib.mxc_compiled_report(compiled.pointer, out)))
        return Package(make("package", lambda out: lib.mxc_compiled_package(compiled.pointer, out)), decided)

    def lower(
        self,
        level: str,
        *,
        data: Any = None,
        inline_weights: bool = False,
        callback: Callback | None = None,
        **given: Unpack[_options.CompileOptions],
    ) -> str:
        """The MLIR of a level: ``graph``, ``analog``, ``denoise`` or ``dtile``."""
        compiled = self._compile(data, None, callback, {**given, "emit": level})
        call = lambda out: lib.mxc_compiled_ir(compiled.pointer, lib.MXC_FORMAT_TEXT, inline_weights, out)
        return content(call).decode()


class Package:
    """A compiled network with its denoisers: what is calibrated, trained, evaluated and run.

    Attributes:
        decided: What the call that made it decided, as the program prints it with ``--json``; None of one that was read.
    """

    def __init__(self, handle: Handle, decided: dict[str, Any] | None = None):
        self._handle = handle
        self.decided = decided

    @classmethod
    def open(cls, file: str | os.PathLike[str]) -> Package:
        """Opens a package's file (``.mxa``), which must not be changed in place while the package lives."""
        return cls(make("package", lambda out: lib.mxc_package_open(path(file), out)))

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "package") -> Package:
        """Reads a package from the bytes of its file; ``name`` is what errors call it."""
        return cls(make("package", lambda out: lib.mxc_package_from_bytes(content, len(content), text(name), out)))

    def save(self, file: str | os.PathLike[str]) -> None:
        """Writes its file, so that a crash leaves the old one or the new one."""
        check(lib.mxc_package_write(self._handle.pointer, path(file)))

    def to_bytes(self) -> bytes:
        """The bytes of its file: the same package gives the same bytes."""
        return content(lambda out: lib.mxc_package_bytes(self._handle.pointer, out))

    __reduce__ = lambda self: (Package.from_bytes, (self.to_bytes(),))

    @property
    def manifest(self) -> dict[str, Any]:
        """What it is and how it was made: what ``mxc inspect --json`` prints."""
        return json.loads(content(lambda out: lib.mxc_package_manifest(self._handle.pointer, out)))

    @property
    def ir(self) -> str:
        """The MLIR of its module, at the denoise level."""
        return content(lambda out: lib.mxc_package_ir(self._handle.pointer, out)).decode()

    def calibrate(
        self, data: Any, *, callback: Callback | None = None, **given: Unpack[_options.CalibrateOptions]
    ) -> Package:
        """A package whose denoisers are fitted in closed form and whose converters' ranges are equalized; labels are not looked at.

        Args:
            data: As of :meth:`Model.compile`.
            callback: Is told of progress, on another thread; returning False stops the call.
            **given: The options of ``mxc calibrate``.
        """
        samples, wanted = _arrays.data(data), options(given)
        return _watched_package(
            callback,
            lambda monitor, out, report: lib.mxc_package_calibrate(
                self._handle.pointer, pointer(samples), wanted.pointer, monitor, out, report
            ),
        )[0]

    def finetune(
        self,
        data: Any,
        *,
        callback: Callback | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        **given: Unpack[_options.FinetuneOptions],
    ) -> Package:
        """A package whose denoisers are trained under simulated noise; the backbone stays as it is, to the bit.

        Args:
            data: As of :meth:`Model.compile`; of batches no more than ``limit`` samples are taken.
            callback: Is told of every step, on another thread; returning False stops the training.
            checkpoint: The file that the state is written to, after every epoch and when the training is stopped; ``resume=True`` goes on
                from it. Whoever has saved the package removes it.
            **given: The options of ``mxc finetune``.
        """
        samples, wanted = _arrays.data(data, given.get("limit")), options(given)
        state = ffi.NULL if checkpoint is None else path(checkpoint)
        return _watched_package(
            callback,
            lambda monitor, out, report: lib.mxc_package_finetune(
                self._handle.pointer, pointer(samples), state, wanted.pointer, monitor, out, report
            ),
        )[0]

    def evaluate(
        self, data: Any, *, callback: Callback | None = None, **given: Unpack[_options.EvaluateOptions]
    ) -> Evaluation:
        """Measures clean, noisy and denoised accuracy.

        Args:
            data: As of :meth:`Model.compile`, with labels; of batches no more than ``limit`` samples are taken.
            callback: Is told of progress, on another thread; returning False stops the call.
            **given: The options of ``mxc eval``.
        """
        return Evaluation._of(json.loads(self._evaluate(data, callback, dict(given))))

    def evaluate_shard(
        self, data: Any, shard: int, shards: int, *, callback: Callback | None = None, **given: Unpack[_options.EvaluateOptions]
    ) -> str:
        """The part of an evaluation that is shard ``shard`` of ``shards``, from 1: :func:`merge` puts all of them together."""
        return self._evaluate(data, callback, {**given, "shard": f"{shard}/{shards}"}).decode()

    def _evaluate(self, data: Any, callback: Callback | None, given: dict[str, Any]) -> bytes:
        samples, wanted = _arrays.data(data, given.get("limit")), options(given)
        out = ffi.new("mxc_bytes **")
        watched(
            callback,
            lambda monitor: lib.mxc_package_evaluate(self._handle.pointer, pointer(samples), wanted.pointer, monitor, out),
        )
        return taken(out)

    def session(self, **given: Unpack[_options.SessionOptions]) -> Session:
        """Makes it ready to run many times."""
        wanted = options(given)
        return Session(
            _watched_object(
                "session",
                None,
                lambda monitor, out: lib.mxc_package_session(self._handle.pointer, wanted.pointer, monitor, out),
            )
        )

    def run(self, inputs: Any, seed: int = 0, **given: Unpack[_options.SessionOptions]) -> np.ndarray | dict[str, np.ndarray]:
        """Runs it once, without noise, denoisers on: see :meth:`Session.run`."""
        return self.session(**given).run(inputs, seed)

    def to_onnx(self, **given: Unpack[_options.ExportOptions]) -> bytes:
        """The source ONNX model with the denoisers spliced in, checked against the package; external data files are the source's."""
        wanted = options(given)
        return content(lambda out: lib.mxc_package_export(self._handle.pointer, wanted.pointer, out))

    def report(self, *, costs: Costs | None = None, **given: Unpack[_options.ReportOptions]) -> dict[str, Any]:
        """Cycles and energy of the denoisers, energy and time of the analog layers: what ``mxc report --json`` prints.

        Args:
            costs: What they are counted by; without it, the hardware profile's own figures.
            **given: The options of ``mxc report``.
        """
        wanted, out = options(given), ffi.new("mxc_bytes **")
        watched(None, lambda monitor: lib.mxc_package_report(self._handle.pointer, pointer(costs and costs.handle), wanted.pointer, monitor, out))
        return json.loads(taken(out))


def compile(  # noqa: A001, it is what it does
    model: str | os.PathLike[str] | bytes | Any | Model,
    *,
    data: Any = None,
    costs: Costs | None = None,
    callback: Callback | None = None,
    example: Any = None,
    input_shape: Any = None,
    max_constant_bytes: Any = None,
    **given: Unpack[_options.CompileOptions],
) -> Package:
    """Imports a network and compiles it: :class:`Model`, then :meth:`Model.compile`.

    >>> package = mxc.compile("resnet20.onnx", budget=0.04, data=(x, y), sigma=0.2)  # doctest: +SKIP
    """
    if not isinstance(model, Model):
        if example is None and _arrays.is_module(model) and isinstance(data, (list, tuple)) and len(data) == 2:
            example = np.asarray(_arrays.to_numpy(data[0])[:1], dtype=np.float32)
        model = Model(model, example=example, input_shape=input_shape, max_constant_bytes=max_constant_bytes)
    return model.compile(data=data, costs=costs, callback=callback, **given)


def merge(parts: Iterable[str]) -> Evaluation:
    """Puts the parts of an evaluation together that :meth:`Package.evaluate_shard` gave."""
    kept = [text(part) for part in parts]
    found = content(lambda out: lib.mxc_merge(ffi.new("char *[]", kept), len(kept), out))
    return Evaluation._of(json.loads(found))


def run_passes(
    module: str,
    pipeline: str,
    *,
    weights: Mapping[str, Any] | None = None,
    name: str = "module",
    **given: Unpack[_options.PassesOptions],
) -> tuple[str, dict[str, np.ndarray]]:
    """Runs passes by name on the text of an MLIR module.

    >>> text, weights = mxc.run_passes(model.ir, "canonicalize-graph,map-to-analog", weights=model.weights())  # doctest: +SKIP

    Args:
        module: The text.
        pipeline: Passes, separated by commas, each with its options in braces: :func:`passes` lists them.
        weights: The values of the module's globals, by name.
        name: What errors call the module.
        **given: ``hardware``, ``seed`` and ``threads``, as of ``mxc opt``.

    Returns:
        The text of the module that they make, and the values of its globals.
    """
    source, wanted = module.encode(), options(given)
    values, _kept = _arrays.weights(weights or {})
    out, changed = ffi.new("mxc_bytes **"), ffi.new("mxc_bytes **")
    watched(
        None,
        lambda monitor: lib.mxc_passes_run(
            source,
            len(source),
            text(name),
            text(pipeline),
            values.pointer,
            ffi.NULL,
            wanted.pointer,
            monitor,
            lib.MXC_FORMAT_TEXT,
            out,
            changed,
        ),
    )
    return taken(out).decode(), _arrays.safetensors(taken(changed))


def passes() -> list[dict[str, Any]]:
    """Every pass and named pipeline: name, description, options, pipeline."""
    return json.loads(content(lib.mxc_passes_list))
