"""Trains the whole network under its tiles' noise, or low-rank adapters beside them: what denoisers are compared with.

    examples/.venv/bin/python examples/noise_aware.py examples/models/resnet20.onnx --sigma 26 --limit 512 -o trained.onnx

prints one JSON object as `mxc eval` does (`noisy`: the network as it was, `denoised`: as it is now) and, for `--method whole`, writes
the network with the trained weights, which mxc can compile and evaluate as any other. The noise is mxc's (examples/analog.py).

Methods:
    whole  every weight and bias is trained; an analog chip is programmed anew with them. Overhead 0, but another backbone.
    lora   the backbone stays; beside each analog layer y = W·x runs a digital y + B·A·x of low rank, on the digital input.
    dora   the same, and a magnitude for each channel: m·(y + B·A·x).

Adapters go on layers by the norm of the loss's gradient, as mxc places denoisers, one rank each, then another, as long as the budget
lasts. Depthwise layers get none, except a magnitude.

Training is mxc's recipe `best`: towards the clean network's outputs, few images blended in pairs and fewer than 64 shifted and mirrored
as well, batches of 32, Adam decaying to 0, every sample under its own level of noise from 0 to 1.5.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analog import Network, Tile

sys.path.insert(0, str(Path(__file__).parent / "models"))
from data import read_idx  # noqa: E402

LEVELS = 1.5
PASSES, STEPS = 5, 320
# Fewer images come again, as often as makes as many as are enough, shifted by at most a part of their sides.
FEW, ENOUGH, PART = 64, 256, 7
RATES = {"whole": 5e-4, "lora": 2e-3, "dora": 2e-3}


class Images:
    """A split of a data set as bytes, [N,C,H,W], and its labels, as mxc reads it: IDX files, or folders of classes."""

    def __init__(self, args: argparse.Namespace, split: str) -> None:
        prefix = "t10k" if split == "test" else "train"  # the holdout is the end of train
        files = {kind: sorted(args.data.glob(f"{prefix}-{kind}-ubyte*")) for kind in ("images-idx3", "labels-idx1")}
        if all(files.values()):
            images, labels = (torch.from_numpy(read_idx(found[0]).copy()) for found in files.values())
            images = images.unsqueeze(1)
        else:
            images, labels = self.folder(args, split)
        if split != "test":
            most = len(labels) - args.holdout
            part = (
                slice(most, None)
                if split == "holdout"
                else slice(most if args.limit is None else min(most, args.limit))
            )
            images, labels = images[part], labels[part]
        self.bytes, self.labels = images, labels.long()
        shape = (1, -1, 1, 1)
        self.mean, self.std = (
            torch.tensor([float(v) for v in text.split(",")]).view(shape) for text in (args.mean, args.std)
        )

    @staticmethod
    def folder(args: argparse.Namespace, split: str) -> tuple[Tensor, Tensor]:
        import numpy as np
        from PIL import Image

        names = (
            args.classes.read_text().split()
            if args.classes
            else sorted(p.name for p in (args.data / "train").iterdir() if p.is_dir())
        )
        classes = {name: i for i, name in enumerate(names)}
        root = (
            args.data / "train"
            if split != "test"
            else next(p for n in ("test", "val") if (p := args.data / n).is_dir())
        )
        how = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[args.interpolation]
        images, labels = [], []
        for path in sorted(root.glob("*/*")):
            with Image.open(path) as picture:
                picture = picture.convert("RGB")
                # torchvision's: the shorter side exactly, the longer rounded down.
                w, h = picture.size
                size = (args.resize, int(args.resize * h / w)) if w <= h else (int(args.resize * w / h), args.resize)
                picture = picture.resize(size, how)
                left, top = (round((n - args.crop) / 2) for n in size)
                picture = picture.crop((left, top, left + args.crop, top + args.crop))
                images.append(torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1))
            labels.append(classes[path.parent.name])
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        return torch.stack(images)[order], torch.tensor(labels)[order]

    def moved(self, generator: torch.Generator) -> None:
        """Few images come several times: first as they are, then shifted, edges repeated, and mirrored or not."""
        few, (height, width) = len(self.labels), self.bytes.shape[2:]
        if few >= FEW:
            return
        copies = [self.bytes]
        for _ in range(ENOUGH // few - 1):
            for image in self.bytes:
                down, right = (
                    int(torch.randint(-(n // PART), n // PART + 1, (), generator=generator)) for n in (height, width)
                )
                rows, columns = ((torch.arange(n) + by).clamp(0, n - 1) for n, by in ((height, down), (width, right)))
                if torch.rand((), generator=generator) < 0.5:
                    columns = columns.flip(0)
                copies.append(image[:, rows][:, :, columns].unsqueeze(0))
        self.bytes, self.labels = torch.cat(copies), self.labels.repeat(ENOUGH // few)

    def batch(self, which: Tensor | slice) -> Tensor:
        return (self.bytes[which] / 255 - self.mean) / self.std

    def batches(self, size: int) -> list[slice]:
        return [slice(start, start + size) for start in range(0, len(self.labels), size)]


class Adapter(nn.Module):
    """`B·A·x` of a rank beside a layer, and a magnitude for each of its channels if `magnitude`; starts as the identity."""

    def __init__(self, layer: nn.Module, magnitude: bool) -> None:
        super().__init__()
        self.spatial = isinstance(layer, nn.Conv2d)
        self.layer, self.rank = [layer], 0  # in a list: not a part of this module
        shape = (-1, 1, 1) if self.spatial else (-1,)
        self.magnitude = nn.Parameter(torch.ones(layer.weight.shape[0]).view(shape)) if magnitude else None
        self.down = self.up = None

    def cost(self) -> int:
        """The parameters of one more rank."""
        weight = self.layer[0].weight
        return weight[0].numel() + weight.shape[0]

    def grow(self) -> None:
        """One more rank."""
        layer, self.rank = self.layer[0], self.rank + 1
        weight = layer.weight
        bound = weight[0].numel() ** -0.5
        self.down = nn.Parameter(torch.empty(self.rank, *weight.shape[1:]).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], self.rank, *[1] * (weight.ndim - 2)))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.rank:
            layer = self.layer[0]
            if self.spatial:
                y = y + F.conv2d(F.conv2d(x, self.down, None, layer.stride, layer.padding, layer.dilation), self.up)
            else:
                y = y + x @ self.down.T @ self.up.T
        return y * self.magnitude if self.magnitude is not None else y


def ranked(net: Network, images: Images, loss: str) -> list[Tile]:
    """Layers by the mean over samples of the norm of the loss's gradient in their output, largest first."""
    net.set(mode="clean")
    norms = dict.fromkeys((tile.name for tile in net.tiles), 0.0)

    def watch(name: str) -> Callable[..., None]:
        def keep(gradient: Tensor) -> None:
            norms[name] += gradient.flatten(1).norm(dim=1).sum().item()

        def hook(_: nn.Module, __: tuple[Tensor, ...], y: Tensor) -> None:
            y.register_hook(keep)

        return hook

    hooks = [tile.layer.register_forward_hook(watch(tile.name)) for tile in net.tiles]
    for part in images.batches(64)[:8]:
        logits = net(images.batch(part))
        targets = logits.argmax(1) if loss == "distill" else images.labels[part]
        F.cross_entropy(logits, targets, reduction="sum").backward()
    net.zero_grad()
    for hook in hooks:
        hook.remove()
    return sorted(net.tiles, key=lambda tile: -norms[tile.name])


def adapt(net: Network, tiles: list[Tile], magnitude: bool, budget: int) -> list[nn.Parameter]:
    """Puts adapters on the layers, ranked, within a budget of parameters; magnitudes first."""
    left = budget
    for tile in tiles:
        channels = tile.layer.weight.shape[0]
        has_magnitude = magnitude and channels <= left
        tile.adapter = Adapter(tile.layer, has_magnitude)
        left -= channels * has_magnitude
    grown = True
    while grown:
        grown = False
        for tile in tiles:
            if getattr(tile.layer, "groups", 1) == 1 and tile.adapter.cost() <= left:
                tile.adapter.grow()
                left -= tile.adapter.cost()
                grown = True
    return [p for tile in tiles for p in tile.adapter.parameters()]


def accuracy(net: Network, images: Images, mode: str) -> float:
    """Top-1 in percent."""
    net.set(mode=mode, level=None)
    with torch.inference_mode():
        right = sum(
            (net(images.batch(part)).argmax(1) == images.labels[part]).sum().item() for part in images.batches(250)
        )
    return 100 * right / len(images.labels)


def under_noise(net: Network, images: Images, mode: str, args: argparse.Namespace) -> dict:
    """The accuracy over noise draws."""
    runs = []
    for draw in range(args.seeds):
        torch.manual_seed(1000 + draw)
        runs.append(accuracy(net, images, mode))
    return {"top1": statistics.fmean(runs), "runs": runs}


def passes(images: int, batch: int) -> int:
    """Over few images as many as make enough steps."""
    return max(PASSES, math.ceil(STEPS / math.ceil(images / batch)))


def train(net: Network, images: Images, parameters: list[nn.Parameter], args: argparse.Namespace) -> None:
    """Adam decaying to 0 along half a cosine."""
    clean = Network(args.model).requires_grad_(False)
    generator = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    optimizer = torch.optim.Adam(parameters, args.lr or RATES[args.method])
    steps = math.ceil(len(images.labels) / args.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * steps)
    for epoch in range(args.epochs):
        if args.method == "whole":
            calibrate(net, images, args)
        order = torch.randperm(len(images.labels), generator=generator)
        total = 0.0
        for picked in order.split(args.batch):
            x, labels = images.batch(picked), images.labels[picked]
            if args.loss == "distill":
                if passes(len(images.labels), args.batch) > PASSES:
                    # At least half of every image stays.
                    share = torch.rand(len(x), 1, 1, 1, generator=generator) / 2
                    x = torch.lerp(x, x[torch.randperm(len(x), generator=generator)], share)
                with torch.no_grad():
                    targets = clean(x).softmax(1)
            net.set(mode="denoised", level=torch.rand(len(x), generator=generator) * LEVELS)
            logits = net(x)
            if args.loss == "distill":
                loss = F.kl_div(F.log_softmax(logits, 1), targets, reduction="batchmean")
            else:
                loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if not args.quiet:
            print(f"epoch {epoch + 1}: loss {total / steps:.4f}", file=sys.stderr, flush=True)


def calibrate(net: Network, images: Images, args: argparse.Namespace) -> None:
    some = images.bytes[: args.samples]
    net.calibrate([images.batch(slice(i, min(i + 64, len(some)))) for i in range(0, len(some), 64)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an ONNX file")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--method", choices=RATES, default="whole")
    parser.add_argument("--budget", type=float, default=4, help="percent of the backbone's parameters, for adapters")
    parser.add_argument("--sigma", type=float, required=True, help="percent")
    parser.add_argument("--noise-scale", choices=("range", "constant", "signal"), default="range")
    parser.add_argument("--noise-reference", choices=("rms", "absmax"), default="rms")
    parser.add_argument("--samples", type=int, default=512, help="training images to calibrate on")
    parser.add_argument("--limit", type=int, help="use only the first training images")
    parser.add_argument("--holdout", type=int, default=0, help="keep the last training images out")
    parser.add_argument("--loss", choices=("distill", "cross-entropy"), default="distill")
    parser.add_argument("--epochs", type=int, help="default: 5, of few images as many as make 320 steps, as mxc's")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, help=f"default: {RATES}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=5, help="noise draws of the evaluation; 0: none")
    parser.add_argument(
        "--split",
        choices=("test", "holdout"),
        default="test",
        help="what is evaluated; choices are made on the holdout",
    )
    parser.add_argument("--mean", default="0.2860")
    parser.add_argument("--std", default="0.3530")
    parser.add_argument("--resize", type=int, default=256)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear")
    parser.add_argument("--classes", type=Path, help="the names of the class folders in the order of the outputs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("-o", "--output", type=Path, help="the trained network, for --method whole")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    images = Images(args, "train")
    args.samples = min(args.samples, len(images.labels))
    net = Network(args.model).requires_grad_(False)
    backbone = sum(p.numel() for p in net.origin)
    net.set(sigma=args.sigma / 100, scale=args.noise_scale, reference=args.noise_reference)
    calibrate(net, images, args)
    test = Images(args, args.split) if args.seeds else None
    report: dict = {
        "method": args.method,
        "torch": torch.__version__,
        "loss": args.loss,
        "images": len(images.labels),
    }
    if test:
        report |= {
            "samples": len(test.labels),
            "clean": {"top1": accuracy(net, test, "clean")},
            "noisy": under_noise(net, test, "noisy", args),
        }

    net.requires_grad_(True)
    if args.method == "whole":
        parameters = list(net.origin)
        net.set(follows=args.noise_scale != "signal")
    else:
        order = ranked(net, images, args.loss)
        net.requires_grad_(False)
        parameters = adapt(net, order, args.method == "dora", int(backbone * args.budget / 100))
    # What measures the noise has seen images as they are.
    if args.loss == "distill":
        images.moved(torch.Generator().manual_seed(args.seed))
    args.epochs = args.epochs or passes(len(images.labels), args.batch)
    report["epochs"] = args.epochs
    train(net, images, parameters, args)
    net.set(follows=False)
    if args.method == "whole":
        calibrate(net, images, args)
        if args.output:
            net.save(args.output)
    if test:
        report["denoised"] = under_noise(net, test, "denoised", args)
        report["clean_denoised"] = {"top1": accuracy(net, test, "clean_denoised")}
        lost = report["clean"]["top1"] - report["noisy"]["top1"]
        gained = report["denoised"]["top1"] - report["noisy"]["top1"]
        report["recovered_percent"] = 100 * gained / lost if lost > 0 else None
    added = 0 if args.method == "whole" else sum(p.numel() for p in parameters)
    report["parameters"] = {"backbone": backbone, "denoisers": added, "overhead_percent": 100 * added / backbone}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
