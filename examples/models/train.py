"""Trains one example network on Fashion-MNIST: train.py --model NAME writes out/NAME.pt and out/NAME.json.

The last 5,000 training images are held out for choices; the test images are evaluated once, at the end.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import data
from nets import NETS, macs

OUT = Path(__file__).parent / "out"
# What the committed models were trained with. The number of threads changes the sums' order, hence the digits.
RECIPES = {
    "resnet20": {"epochs": 16, "decay": 5e-4, "threads": 2},
    "mobilenetv2": {"epochs": 10, "decay": 1e-4, "threads": 1},
    "densenet": {"epochs": 6, "decay": 5e-4, "threads": 1},
    "efficientnet": {"epochs": 8, "decay": 1e-4, "threads": 1},
}


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Top-1 accuracy in percent."""
    net.eval()
    with torch.no_grad():
        right = sum((net(a).argmax(1) == b).sum().item() for a, b in zip(x.split(500), y.split(500)))
    return 100 * right / len(y)


def train(args: argparse.Namespace) -> tuple[nn.Module, float]:
    """Trains with SGD, one learning-rate cycle and label smoothing; returns the net and its holdout accuracy."""
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    net = NETS[args.model]().to(memory_format=torch.channels_last)
    (x, y), (held_x, held_y) = data.load("train"), data.load("holdout")
    steps = len(y) // args.batch
    # BatchNorm and bias parameters are not decayed.
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": args.decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.epochs * steps, pct_start=0.25, cycle_momentum=False
    )
    loss_fn = nn.CrossEntropyLoss(label_smoothing=args.smoothing)
    held = 0.0
    for epoch in range(args.epochs):
        net.train()
        begin, total = time.time(), 0.0
        order = torch.randperm(len(y), generator=generator)
        for step in range(steps):
            picked = order[step * args.batch : (step + 1) * args.batch]
            images = data.augment(x[picked], generator).contiguous(memory_format=torch.channels_last)
            loss = loss_fn(net(images), y[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.time() - begin
        held = accuracy(net, held_x, held_y)
        progress = f"{args.model} epoch {epoch + 1}/{args.epochs} loss {total / steps:.4f}"
        print(f"{progress} holdout {held:.2f} % {seconds:.0f} s", flush=True)
    return net, held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=NETS, required=True)
    parser.add_argument("--epochs", type=int, help="default, as for --decay and --threads: the model's recipe")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.2, help="the cycle's highest learning rate")
    parser.add_argument("--decay", type=float)
    parser.add_argument("--smoothing", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    for option, value in RECIPES[args.model].items():
        if getattr(args, option) is None:
            setattr(args, option, value)
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)

    net, held = train(args)
    OUT.mkdir(exist_ok=True)
    torch.save(net.to(memory_format=torch.contiguous_format).state_dict(), OUT / f"{args.model}.pt")
    record = {
        "model": args.model,
        "parameters": sum(p.numel() for p in net.parameters()),
        "macs": macs(net),
        "holdout": held,
        "test": round(accuracy(net, *data.load("test")), 2),
        "options": vars(args),
        "torch": torch.__version__,
    }
    (OUT / f"{args.model}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
