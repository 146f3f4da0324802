"""Noise and costs of the caller's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._call import check, make, text
from ._native import ffi, lib

# What the library calls for as long as the process lives.
_laws: list[Any] = []


def register_noise(
    name: str, draw: Callable[[np.ndarray], np.ndarray], *, mean: float, variance: float, words: int = 1
) -> None:
    """Registers a law of noise: from then on ``NAME(scale=6%)`` is a component of noise specifications as any other.

    >>> mxc.register_noise("telegraph", lambda words: words[:, 0] < 2**30, mean=0.25, variance=0.1875)  # doctest: +SKIP

    Args:
        name: Its name, which it keeps as long as the process lives. A package holds the name, not the law.
        draw: Makes ``n`` draws of uniform uint32 words of shape ``[n, words]``: a pure function, draw by draw, called from several threads.
        mean: The draws' mean.
        variance: The draws' variance. Both are checked, on 2¹⁸ draws.
        words: How many words a draw takes, 1 to 4.
    """

    @ffi.callback("void(void *, const uint32_t *, float *, size_t)")
    def fill(_: Any, given: Any, out: Any, count: int) -> None:
        draws = np.frombuffer(ffi.buffer(out, 4 * count), np.float32)
        # An exception leaves this, which the library refuses by the law's name.
        draws[:] = np.nan
        draws[:] = draw(np.frombuffer(ffi.buffer(given, 4 * words * count), np.uint32).reshape(count, words))

    check(lib.mxc_noise_register(text(name), mean, variance, words, fill, ffi.NULL))
    _laws.append(fill)


@dataclass(frozen=True)
class AnalogLayer:
    """An analog layer: a matrix of ``rows`` inputs and ``outputs`` for each of its groups.

    Attributes:
        name: Its name.
        groups: Its groups: the channels of a depthwise convolution, else mostly 1.
        rows: Inputs of an output: channels of a group × taps.
        outputs: Outputs of a group.
        mvms: Matrix-vector products per sample.
        tiles: The tiles that it takes, all of which each product runs on.
        input_conversions: Input conversions of a product.
        output_conversions: Output conversions of a product.
        additions: Additions of partial sums of a product.
    """

    name: str
    groups: int
    rows: int
    outputs: int
    mvms: int
    tiles: int
    input_conversions: int
    output_conversions: int
    additions: int


@dataclass(frozen=True)
class AnalogCost:
    """What an analog layer costs per sample.

    Attributes:
        picojoules: The first read's.
        further_picojoules: Each further read's, with adding it to the others.
        nanoseconds: How long a read takes.
    """

    picojoules: float
    further_picojoules: float
    nanoseconds: float


class Costs:
    """A cost model: what analog layers cost, by a function of the layer and of what the hardware profile says.

    >>> half = mxc.Costs("half", lambda layer, cost: dataclasses.replace(cost, picojoules=cost.picojoules / 2))  # doctest: +SKIP

    Args:
        name: What errors and packages call it.
        analog: Gives a layer's cost, finite and not negative.
    """

    def __init__(self, name: str, analog: Callable[[AnalogLayer, AnalogCost], AnalogCost]):
        fields = tuple(AnalogLayer.__dataclass_fields__)
        parts = tuple(AnalogCost.__dataclass_fields__)

        @ffi.callback("void(void *, const mxc_analog_layer *, mxc_analog_cost *)")
        def called(_: Any, layer: Any, cost: Any) -> None:
            told = AnalogLayer(ffi.string(layer.name).decode(), *(getattr(layer, field) for field in fields[1:]))
            own = AnalogCost(*(getattr(cost, part) for part in parts))
            # An exception leaves this, which the library refuses by the model's name.
            cost.picojoules = float("nan")
            found = analog(told, own)
            for part in parts:
                setattr(cost, part, getattr(found, part))

        self._called = called
        self.handle = make("costs", lambda out: lib.mxc_costs_create(text(name), called, ffi.NULL, ffi.NULL, out))
