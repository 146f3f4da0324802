"""The PyTorch baseline: noisy evaluation and fine-tuning of denoising blocks, eager mode, with hooks.

Does what `mxc eval` and `mxc finetune` do on one of the example networks, or on an ONNX classifier and images of an .npz (--onnx,
--images): BatchNorm folded into the convolutions, noise on the output of every convolution and linear layer, denoisers on some of
them, backbone frozen. Set up with examples/setup.sh, then

    examples/.venv/bin/python benches/pytorch_baseline.py --model resnet20 --denoiser mean+affine --channels-last

prints one JSON object with the throughput of each run.
"""

import argparse
import fnmatch
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MODELS = EXAMPLES / "models"
sys.path[:0] = [str(EXAMPLES), str(MODELS)]

import data  # noqa: E402
from analog import Network, Tile, normal  # noqa: E402
from nets import NETS  # noqa: E402

SLOPE = 2.0**-7


class Block(nn.Module):
    """The paper's denoising block; `sampling` keeps the ε·σ̂ path, without it only the mean is subtracted."""

    def __init__(self, channels: int, spatial: bool, sampling: bool) -> None:
        super().__init__()
        hidden = max(1, (channels + 2) // 4)  # round(C / 4), halves away from zero
        self.spatial = spatial
        self.reduce = self.pointwise(channels, hidden)
        # Without spatial axes the depthwise stage is one weight per channel.
        if spatial:
            self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        else:
            self.scale, self.shift = nn.Parameter(torch.ones(hidden)), nn.Parameter(torch.zeros(hidden))
        self.mean = self.pointwise(hidden, channels, zero=True)
        self.std = self.pointwise(hidden, channels, zero=True) if sampling else None

    def pointwise(self, inputs: int, outputs: int, zero: bool = False) -> nn.Module:
        layer = nn.Conv2d(inputs, outputs, 1) if self.spatial else nn.Linear(inputs, outputs)
        if zero:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.reduce(x), SLOPE)
        g = F.leaky_relu(self.depthwise(h) if self.spatial else h * self.scale + self.shift, SLOPE)
        z = self.mean(g)
        if self.std is not None:
            z = torch.addcmul(z, normal(z), self.std(g))
        return x - z


class Affine(nn.Module):
    """One factor and one offset per channel."""

    def __init__(self, channels: int, spatial: bool) -> None:
        super().__init__()
        shape = (channels, 1, 1) if spatial else (channels,)
        self.scale, self.shift = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


def fold(net: nn.Module) -> None:
    """Puts each BatchNorm that follows a convolution into it."""
    for parent in list(net.modules()):
        children = list(parent.named_children())
        for (name, child), (next_name, following) in zip(children, children[1:]):
            if isinstance(child, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                setattr(parent, name, nn.utils.fusion.fuse_conv_bn_eval(child, following))
                setattr(parent, next_name, nn.Identity())


def load(name: str) -> tuple[nn.Module, list[Tile]]:
    """The network with the weights of the committed ONNX file, and its tiles by the names of their ONNX nodes."""
    graph = onnx.load(MODELS / f"{name}.onnx").graph
    values = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    net = NETS[name]().eval()
    fold(net)
    layers: list[nn.Module] = []
    hooks = [
        m.register_forward_pre_hook(lambda module, _: layers.append(module))
        for m in net.modules()
        if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))
    ]
    with torch.no_grad():
        net(torch.zeros(1, 1, 28, 28))
    for hook in hooks:
        hook.remove()
    nodes = [n for n in graph.node if n.op_type in ("Conv", "Gemm", "BatchNormalization")]
    if len(nodes) != len(layers):
        raise SystemExit(f"{name}.onnx has {len(nodes)} layers, nets.py has {len(layers)}")
    tiles = []
    for node, layer in zip(nodes, layers):
        parameters = [values[i] for i in node.input[1:]]
        if isinstance(layer, nn.BatchNorm2d):
            targets = [layer.weight, layer.bias, layer.running_mean, layer.running_var]
        else:
            if layer.bias is None and len(parameters) == 2:
                raise SystemExit(f"{node.name} has a bias, its layer in nets.py has none")
            targets = [layer.weight, layer.bias][: len(parameters)]
            tiles.append(Tile(layer, node.name))
        for target, value in zip(targets, parameters, strict=True):
            target.data.copy_(value)
    return net.requires_grad_(False), tiles


def attach(tiles: list[Tile], kinds: list[str], blocks: list[Tile], affines: list[Tile]) -> list[nn.Parameter]:
    """Puts the denoisers on their layers and returns their parameters."""
    for tile in tiles:
        spatial = isinstance(tile.layer, nn.Conv2d)
        channels = tile.layer.weight.shape[0]
        parts: list[nn.Module] = []
        if tile in blocks:
            parts.append(Block(channels, spatial, "paper" in kinds))
        if tile in affines:
            parts.append(Affine(channels, spatial))
        tile.denoiser = nn.Sequential(*parts) if parts else None
    return [p for tile in tiles if tile.denoiser is not None for p in tile.denoiser.parameters()]


def choose(tiles: list[Tile], spec: str) -> list[Tile]:
    """Layers by comma-separated indices, ONNX node names or globs; `all`, `none`."""
    if spec in ("all", "none"):
        return tiles if spec == "all" else []
    chosen = []
    for item in spec.split(","):
        if item.lstrip("-").isdigit():
            found = [tiles[int(item)]]
        else:
            found = [t for t in tiles if fnmatch.fnmatchcase(t.name, item)]
        if not found:
            raise SystemExit(f"no layer {item}; there are: {', '.join(t.name for t in tiles)}")
        chosen += [t for t in found if t not in chosen]
    return chosen


def set_mode(tiles: list[Tile], mode: str) -> None:
    for tile in tiles:
        tile.mode = mode


def batches(x: Tensor, y: Tensor, size: int, layout: torch.memory_format) -> Iterator[tuple[Tensor, Tensor]]:
    for a, b in zip(x.split(size), y.split(size)):
        yield a.contiguous(memory_format=layout), b


def evaluate(net: nn.Module, x: Tensor, y: Tensor, size: int, layout: torch.memory_format) -> float:
    """Top-1 accuracy in percent."""
    with torch.inference_mode():
        right = sum((net(a).argmax(1) == b).sum().item() for a, b in batches(x, y, size, layout))
    return 100 * right / len(y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=NETS, default="resnet20")
    parser.add_argument("--onnx", type=Path, help="a classifier of examples/analog.py's operators instead of --model")
    parser.add_argument("--images", type=Path, help="with --onnx: an .npz of float images x and labels y")
    parser.add_argument("--data", type=Path, default=data.FOLDER, help="folder with Fashion-MNIST's IDX files")
    parser.add_argument("--sigma", type=float, default=0.06)
    parser.add_argument("--noise-scale", choices=("range", "constant", "signal"), default="range")
    parser.add_argument("--samples", type=int, default=512, help="training images to calibrate on")
    parser.add_argument("--denoiser", default="paper", help="paper, mean, affine, paper+affine, mean+affine")
    parser.add_argument("--blocks", help="layers with a block: indices, ONNX node names, globs; default: the middle four")
    parser.add_argument("--affines", default="all", help="layers with an affine, likewise")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=2560, help="test images a run of evaluation, training images a run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--list", action="store_true", help="print the layers' names and stop")
    args = parser.parse_args()
    kinds = args.denoiser.split("+")
    if not set(kinds) <= {"paper", "mean", "affine"} or {"paper", "mean"} <= set(kinds):
        parser.error(f"no denoiser {args.denoiser}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    if args.onnx:
        net = Network(args.onnx).requires_grad_(False)
        tiles = net.tiles
    else:
        net, tiles = load(args.model)
    net.to(memory_format=layout)
    if args.list:
        print("\n".join(f"{i} {tile.name}" for i, tile in enumerate(tiles)))
        return
    if args.onnx:
        with np.load(args.images) as images:
            train_x, train_y = torch.from_numpy(images["x"]), torch.from_numpy(images["y"])
        test_x, test_y = train_x, train_y
    else:
        (test_x, test_y), (train_x, train_y) = data.load("test", args.data), data.load("train", args.data)
    test_x, test_y = test_x[: args.limit], test_y[: args.limit]
    set_mode(tiles, "calibrate")
    evaluate(net, train_x[: args.samples], train_y[: args.samples], args.batch, layout)
    for tile in tiles:
        tile.scale, tile.sigma = args.noise_scale, args.sigma

    middle = max(0, len(tiles) // 2 - 2)
    blocks = choose(tiles, args.blocks) if args.blocks else tiles[middle : middle + 4]
    affines = choose(tiles, args.affines) if "affine" in kinds else []
    parameters = attach(tiles, kinds, blocks if {"paper", "mean"} & set(kinds) else [], affines)
    for tile in tiles:
        if tile.denoiser is not None:
            tile.denoiser.to(memory_format=layout)
    optimizer = torch.optim.Adam(parameters, lr=args.lr)

    def timed_evaluation(mode: str) -> tuple[list[float], float]:
        """Images per second of each run, and the accuracy of the last."""
        set_mode(tiles, mode)
        evaluate(net, test_x[: args.batch], test_y[: args.batch], args.batch, layout)
        speeds, top1 = [], 0.0
        for _ in range(args.runs):
            begin = time.perf_counter()
            top1 = evaluate(net, test_x, test_y, args.batch, layout)
            speeds.append(len(test_y) / (time.perf_counter() - begin))
        return speeds, top1

    def train(x: Tensor, y: Tensor) -> None:
        for a, b in batches(x, y, args.batch, layout):
            optimizer.zero_grad()
            F.cross_entropy(net(a), b).backward()
            optimizer.step()

    set_mode(tiles, "clean")
    clean_top1 = evaluate(net, test_x, test_y, args.batch, layout)
    eval_speeds, noisy_top1 = timed_evaluation("noisy")
    set_mode(tiles, "denoised")
    train(train_x[: args.batch], train_y[: args.batch])
    train_speeds = []
    for run in range(args.runs):
        first = run * args.limit if (run + 1) * args.limit <= len(train_y) else 0
        x, y = (t[first : first + args.limit] for t in (train_x, train_y))
        begin = time.perf_counter()
        train(x, y)
        train_speeds.append(len(y) / (time.perf_counter() - begin))
    denoised_speeds, denoised_top1 = timed_evaluation("denoised")

    report = {
        "model": str(args.onnx or args.model),
        "torch": torch.__version__,
        "threads": args.threads,
        "batch": args.batch,
        "channels_last": args.channels_last,
        "limit": args.limit,
        "sigma": args.sigma,
        "noise_scale": args.noise_scale,
        "denoiser": args.denoiser,
        "blocks": [t.name for t in blocks],
        "affines": len(affines),
        "denoiser_parameters": sum(p.numel() for p in parameters),
        "clean_top1": clean_top1,
        "noisy_top1": noisy_top1,
        "denoised_top1": denoised_top1,
        "eval_images_per_s": eval_speeds,
        "denoised_eval_images_per_s": denoised_speeds,
        "train_images_per_s": train_speeds,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
