"""Calls of the C library: handles, errors, options, and calls that are watched and can be stopped."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ._native import ffi, lib

_log = logging.getLogger("mxc")
_KINDS = {
    getattr(lib, name): name.removeprefix("MXC_ERROR_").lower() for name in dir(lib) if name.startswith("MXC_ERROR_")
}
_STAGES = {getattr(lib, name): name.removeprefix("MXC_STAGE_").lower() for name in dir(lib) if name.startswith("MXC_STAGE_")}


class Error(Exception):
    """Why a call failed: the message names the file, node, layer or option.

    Attributes:
        kind: What failed: ``argument``, ``option``, ``import``, ``pass``, ``module``, ``package``, ``data``, ``run``, ``part``, ``export``,
            ``hardware``, ``io``, ``internal`` or ``other``.
        hint: How to mend it, where the message does not say.
        location: The location of the operation that it is about, which names the source's node.
    """

    def __init__(self, message: str, kind: str, hint: str | None = None, location: str | None = None):
        super().__init__(f"{message}\nhelp: {hint}" if hint else message)
        self.kind = kind
        self.hint = hint
        self.location = location


class OptionError(Error, ValueError):
    """An option is unknown, has a value that it does not take, or contradicts another, the model or the package."""


class Cancelled(Error):
    """The callback stopped the call; of training, its state is in the checkpoint, if there is one."""


class MxcWarning(UserWarning):
    """Something that is probably not meant."""


@dataclass(frozen=True)
class Progress:
    """How far a call is.

    Attributes:
        stage: ``pass``, ``evaluate``, ``finetune`` or ``measure``.
        name: The pass that has ended, or what is evaluated, such as ``noisy``; else empty.
        done: Samples of an evaluation, steps of training, layers measured.
        total: How many there are; 0 where that is not known.
        seconds: How long the pass took; else 0.
        epoch: The epoch of training, from 1; else 0.
        epochs: How many there are.
        loss: The mean loss of the epoch so far.
        accuracy: The share of the epoch's samples so far that were classified as taught, in percent.
    """

    stage: str
    name: str
    done: int
    total: int
    seconds: float
    epoch: int
    epochs: int
    loss: float
    accuracy: float


Callback = Callable[[Progress], "bool | None"]


def _text(pointer: Any) -> str | None:
    return None if pointer == ffi.NULL else ffi.string(pointer).decode()


def check(error: Any) -> None:
    """Raises what the library says."""
    if error == ffi.NULL:
        return
    kind = _KINDS.get(lib.mxc_error_get_kind(error), "other")
    message = _text(lib.mxc_error_message(error)) or ""
    hint, location = _text(lib.mxc_error_hint(error)), _text(lib.mxc_error_location(error))
    lib.mxc_error_destroy(error)
    raised = {"option": OptionError, "cancelled": Cancelled, "stopped": Cancelled}.get(kind, Error)
    raise raised(message, kind, hint, location)


class Handle:
    """An object of the library, destroyed with this one."""

    def __init__(self, kind: str, pointer: Any):
        self.pointer = ffi.gc(pointer, getattr(lib, f"mxc_{kind}_destroy"))


def make(kind: str, call: Callable[[Any], Any]) -> Handle:
    """The object that a call puts where it is told to."""
    out = ffi.new(f"mxc_{kind} **")
    check(call(out))
    return Handle(kind, out[0])


def pointer(handle: Handle | None) -> Any:
    """What C takes for a handle."""
    return ffi.NULL if handle is None else handle.pointer


def path(value: str | os.PathLike[str]) -> Any:
    """A path as C takes it."""
    return text(os.fspath(value))


def text(value: str) -> Any:
    """Text as C takes it."""
    return ffi.new("char[]", value.encode())


def taken(out: Any) -> bytes:
    """The bytes that a call has put where it was told to."""
    found = Handle("bytes", out[0]).pointer
    return bytes(ffi.buffer(lib.mxc_bytes_data(found), lib.mxc_bytes_size(found)))


def content(call: Callable[[Any], Any]) -> bytes:
    """The bytes that a call gives."""
    out = ffi.new("mxc_bytes **")
    check(call(out))
    return taken(out)


def _values(value: Any) -> list[str]:
    """An option's values as the command line takes them: of a list one each, of shapes by input one each."""
    if isinstance(value, Mapping):
        return [f"{name}={','.join(map(str, sizes))}" for name, sizes in value.items()]
    if isinstance(value, (list, tuple)):
        return [word for item in value for word in _values(item)]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    return [os.fspath(value) if isinstance(value, os.PathLike) else str(value)]


def options(given: Mapping[str, Any]) -> Handle:
    """Options by name; those that are None are left out."""
    handle = make("options", lib.mxc_options_create)
    for name, value in given.items():
        for word in _values(value) if value is not None else []:
            check(lib.mxc_options_set(handle.pointer, text(name), text(word)))
    return handle


def watched(callback: Callback | None, call: Callable[[Any], Any]) -> None:
    """Makes a call that the callback watches, on a thread of its own, so that Ctrl-C stops it."""
    raised: list[BaseException] = []

    @ffi.callback("bool(void *, const mxc_progress *)", error=False)
    def progress(_: Any, now: Any) -> bool:
        if callback is None:
            return True
        told = Progress(
            _STAGES.get(now.stage, "other"),
            _text(now.name) or "",
            now.done,
            now.total,
            now.seconds,
            now.epoch,
            now.epochs,
            now.loss,
            now.accuracy,
        )
        try:
            return callback(told) is not False
        except BaseException as error:  # noqa: BLE001, it is raised again where the call was made
            raised.append(error)
            return False

    said: list[str] = []

    @ffi.callback("void(void *, mxc_severity, const char *)")
    def diagnostic(_: Any, severity: int, message: Any) -> None:
        if severity == lib.MXC_SEVERITY_WARNING:
            said.append(_text(message) or "")
        else:
            _log.info("%s", _text(message))

    monitor = make("monitor", lambda out: lib.mxc_monitor_create(progress, diagnostic, ffi.NULL, out))
    errors: list[Any] = []
    done = threading.Event()

    def work() -> None:
        try:
            errors.append(call(monitor.pointer))
        finally:
            done.set()

    thread = threading.Thread(target=work, name="mxc")
    thread.start()
    try:
        done.wait()
    except BaseException:
        lib.mxc_monitor_cancel(monitor.pointer)
        thread.join()
        for error in errors:
            lib.mxc_error_destroy(error)
        raise
    thread.join()
    for message in said:
        warnings.warn(message, MxcWarning, stacklevel=4)
    if raised:
        for error in errors:
            lib.mxc_error_destroy(error)
        raise raised[0]
    check(errors[0])
