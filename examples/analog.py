"""Networks on simulated analog tiles, in PyTorch: what mxc's noise model says, for networks whose weights are trained too.

`Tile` puts the noise of docs/cli.md on one layer; `Network` runs an ONNX file, with a tile on every convolution and fully connected
layer that has stored weights. BatchNorms that the file keeps stay digital.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F


def normal(like: Tensor) -> Tensor:
    """Standard normal numbers in the memory layout of `like`: `randn_like` is slow on channels_last tensors."""
    if like.ndim == 4 and not like.is_contiguous():
        n, c, h, w = like.shape
        return torch.randn(n, h, w, c).permute(0, 3, 1, 2)
    return torch.randn(like.shape)


class Tile:
    """The hooks of one layer: calibration of its ranges, then saturation, noise and what cleans it.

    `mode` is `clean`, `calibrate`, `noisy` or `denoised`; `scale` and `reference` are mxc's `--noise-scale` and
    `--noise-reference` (rms or absmax); `sigma` is a share. `level` scales every sample's noise, [N]. With `follows` the magnitude is
    that of the batch at hand and differentiated, for weights that are trained: the converter is calibrated anew to what they become.
    """

    def __init__(self, layer: nn.Module, name: str) -> None:
        self.layer, self.name = layer, name
        self.mode, self.scale, self.reference, self.sigma = "clean", "range", "rms", 0.0
        self.level: Tensor | None = None
        self.follows = False
        self.adapter: nn.Module | None = None
        self.denoiser: nn.Module | None = None
        self.forget()
        layer.register_forward_pre_hook(self.before)
        layer.register_forward_hook(self.after)

    def forget(self) -> None:
        """Drops the calibration, before another."""
        self.squares, self.elements, self.input_max, self.output_max = 0.0, 0, 0.0, 0.0

    def before(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self.mode == "calibrate":
            self.input_max = max(self.input_max, inputs[0].abs().max().item())
        elif self.mode != "clean" and self.scale == "range":
            self.x = inputs[0] if self.adapter is not None else None
            return (inputs[0].clamp(-self.input_max, self.input_max),)
        self.x = inputs[0] if self.adapter is not None else None
        return None

    def magnitude(self, y: Tensor) -> Tensor | float:
        """What sigma is a share of."""
        if self.scale == "signal":  # each sample's own, differentiated
            axes = tuple(range(1, y.ndim))
            if self.reference == "absmax":
                return y.abs().amax(axes, keepdim=True)
            return y.square().mean(axes, keepdim=True).sqrt()
        if self.follows:
            return y.abs().max() if self.reference == "absmax" else y.square().mean().sqrt()
        return self.output_max if self.reference == "absmax" else (self.squares / self.elements) ** 0.5

    def after(self, _: nn.Module, __: tuple[Tensor, ...], y: Tensor) -> Tensor | None:
        if self.mode == "calibrate":
            self.squares += y.double().square().sum().item()
            self.elements += y.numel()
            self.output_max = max(self.output_max, y.abs().max().item())
            return None
        if self.mode != "clean" and self.sigma > 0:
            y = self.spoil(y)
        if self.adapter is not None and self.mode in ("denoised", "clean_denoised"):
            y = self.adapter(self.x, y)
        if self.denoiser is not None and self.mode in ("denoised", "clean_denoised"):
            y = self.denoiser(y)
        return y

    def spoil(self, y: Tensor) -> Tensor:
        """The noise, and the converter's saturation."""
        if self.mode == "clean_denoised":
            return y
        s, noise = self.magnitude(y), normal(y)
        if self.level is not None:
            noise = noise * self.level.view(-1, *[1] * (y.ndim - 1))
        if isinstance(s, Tensor):
            y = torch.addcmul(y, noise, s.expand_as(y) if s.ndim else s, value=self.sigma)
        else:
            y = torch.add(y, noise, alpha=self.sigma * s)
        return y.clamp(-self.output_max, self.output_max) if self.scale == "range" else y


def _pool(x: Tensor, a: dict, function: Callable[..., Tensor], **more: object) -> Tensor:
    pads = a.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:]:
        raise SystemExit("a pooling with other padding before than behind is not supported")
    return function(
        x, a["kernel_shape"], a.get("strides", [1, 1]), pads[:2], ceil_mode=bool(a.get("ceil_mode", 0)), **more
    )


def _axes(a: dict, given: tuple[Tensor, ...]) -> list[int]:
    return given[0].tolist() if given else a["axes"]


def _slice(
    _: dict, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    array, index = x.numpy(), [slice(None)] * x.ndim
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist())):
        axis, step = (int(axes[i]) if axes is not None else i), (int(steps[i]) if steps is not None else 1)
        # ONNX writes "to the very front" as an end far below zero.
        index[axis] = slice(start, None if step < 0 and end < -x.shape[axis] else end, step)
    return torch.from_numpy(array[tuple(index)].copy())


def _padded(a: dict, x: Tensor, pads: Tensor, value: Tensor | None = None, *_: Tensor) -> Tensor:
    half = pads.numel() // 2
    pairs = [(int(pads[i]), int(pads[half + i])) for i in reversed(range(half))]
    return F.pad(
        x,
        [n for pair in pairs for n in pair],
        a.get("mode", b"constant").decode(),
        float(value) if value is not None else 0.0,
    )


def _reshape(_: dict, x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())])


# Attributes, then the operands.
OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda a, x, y: x + y,
    "AveragePool": lambda a, x: _pool(x, a, F.avg_pool2d, count_include_pad=bool(a.get("count_include_pad", 0))),
    "Cast": lambda a, x: x.to({1: torch.float32, 6: torch.int32, 7: torch.int64}[a["to"]]),
    "Clip": lambda a, x, low=None, high=None: x.clamp(a.get("min", low), a.get("max", high)),
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "Constant": lambda a: torch.from_numpy(np.array(numpy_helper.to_array(a["value"]))),
    "ConstantOfShape": lambda a, x: torch.full(
        x.tolist(), numpy_helper.to_array(a["value"]).item() if "value" in a else 0.0
    ),
    "Div": lambda a, x, y: x / y,
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)),
    "Gather": lambda a, x, i: (
        x.index_select(a.get("axis", 0), i.flatten()).squeeze(a.get("axis", 0)) if i.ndim == 0 else x[i]
    ),
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "Identity": lambda a, x: x,
    "MaxPool": lambda a, x: _pool(x, a, F.max_pool2d),
    "Mul": lambda a, x, y: x * y,
    "Pad": _padded,
    "ReduceMean": lambda a, x, *axes: x.mean(_axes(a, axes), keepdim=bool(a.get("keepdims", 1))),
    "Relu": lambda a, x: F.relu(x),
    "Reshape": _reshape,
    "Shape": lambda a, x: torch.tensor(x.shape),
    "Sigmoid": lambda a, x: x.sigmoid(),
    "Slice": _slice,
    "Sub": lambda a, x, y: x - y,
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Unsqueeze": lambda a, x, *axes: x.unsqueeze(_axes(a, axes)[0]),
}


class Network(nn.Module):
    """An ONNX image classifier of the operators above, one input and one output; `tiles` are its layers in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.model = onnx.load(path)
        graph = self.model.graph
        stored = {
            tensor.name: torch.from_numpy(np.array(numpy_helper.to_array(tensor))) for tensor in graph.initializer
        }
        self.constants: dict[str, Tensor] = dict(stored)
        self.input = next(value.name for value in graph.input if value.name not in stored)
        self.result = graph.output[0].name
        self.layers, self.tiles = nn.ModuleList(), []
        # Of every parameter, the initializer that it is written back to, and whether transposed.
        self.origin: dict[nn.Parameter, tuple[str, bool]] = {}
        self.steps: list[tuple[onnx.NodeProto, nn.Module | dict]] = []
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type in ("Conv", "Gemm", "BatchNormalization") and node.input[1] in stored:
                layer = self.layer(node, attributes, [stored[name] for name in node.input[1:]])
                self.layers.append(layer)
                self.steps.append((node, layer))
            elif node.op_type not in OPERATORS:
                raise SystemExit(
                    f"{path}: {node.name}: no operator {node.op_type}; examples/analog.py lists what there is"
                )
            elif all(name in self.constants for name in node.input if name):
                # Shapes and constants, once.
                self.constants[node.output[0]] = self.value(node, attributes, self.constants)
            else:
                self.steps.append((node, attributes))
        names = [name for name, _ in self.origin.values()]
        if len(set(names)) != len(names):
            raise SystemExit(f"{path}: two layers share weights")
        self.eval()

    def layer(self, node: onnx.NodeProto, a: dict, values: list[Tensor]) -> nn.Module:
        """The module of a convolution, a fully connected layer or a BatchNorm; the first two with a tile."""
        weight, transposed = values[0], False
        if node.op_type == "BatchNormalization":
            layer: nn.Module = nn.BatchNorm2d(len(weight), a.get("epsilon", 1e-5))
            layer.running_mean.copy_(values[2])
            layer.running_var.copy_(values[3])
        elif node.op_type == "Gemm":
            if a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0 or a.get("transA", 0):
                raise SystemExit(f"{node.name}: only Gemm as a fully connected layer is supported")
            transposed = not a.get("transB", 0)
            weight = weight.T if transposed else weight
            layer = nn.Linear(weight.shape[1], weight.shape[0], len(values) > 1)
        else:
            pads, group = a.get("pads", [0, 0, 0, 0]), a.get("group", 1)
            if pads[:2] != pads[2:]:
                raise SystemExit(f"{node.name}: a convolution with other padding before than behind is not supported")
            layer = nn.Conv2d(
                weight.shape[1] * group,
                weight.shape[0],
                weight.shape[2:],
                a.get("strides", [1, 1]),
                pads[:2],
                a.get("dilations", [1, 1]),
                group,
                len(values) > 1,
            )
        layer.weight.data.copy_(weight)
        self.origin[layer.weight] = (node.input[1], transposed)
        if len(values) > 1:
            layer.bias.data.copy_(values[1])
            self.origin[layer.bias] = (node.input[2], False)
        if node.op_type != "BatchNormalization":
            self.tiles.append(Tile(layer, node.name))
        return layer

    @staticmethod
    def value(node: onnx.NodeProto, attributes: dict, values: dict[str, Tensor]) -> Tensor:
        return OPERATORS[node.op_type](attributes, *(values[name] if name else None for name in node.input))

    def forward(self, x: Tensor) -> Tensor:
        values = {**self.constants, self.input: x}
        for node, how in self.steps:
            values[node.output[0]] = (
                how(values[node.input[0]]) if isinstance(how, nn.Module) else self.value(node, how, values)
            )
        return values[self.result]

    def set(self, **facts: object) -> None:
        """Gives all tiles the same mode, sigma, …"""
        for tile in self.tiles:
            for name, value in facts.items():
                setattr(tile, name, value)

    def calibrate(self, batches: list[Tensor]) -> None:
        """Measures every layer's magnitudes on the clean network."""
        for tile in self.tiles:
            tile.forget()
        self.set(mode="calibrate")
        with torch.no_grad():
            for x in batches:
                self(x)

    def save(self, path: Path) -> None:
        """Writes the ONNX file with the weights as they are now."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        values = {name: (p.detach().T if transposed else p.detach()) for p, (name, transposed) in self.origin.items()}
        for tensor in model.graph.initializer:
            if tensor.name in values:
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name].numpy()), tensor.name))
        onnx.save(model, path)
