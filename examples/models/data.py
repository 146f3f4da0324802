"""Fashion-MNIST from IDX files (Debian package dataset-fashion-mnist), and augmentation of whole batches."""

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path("/usr/share/datasets/fashion-mnist")
MEAN, STD = 0.2860, 0.3530  # of the training images' bytes / 255
HOLDOUT = 5000  # the last training images, used for choices only


def read_idx(path: Path) -> np.ndarray:
    """Reads one IDX file of unsigned bytes, gzipped or not."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        raw = file.read()
    zeros, kind, rank = struct.unpack(">HBB", raw[:4])
    if zeros != 0 or kind != 8:
        raise ValueError(f"{path}: not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def load(split: str, folder: Path = FOLDER) -> tuple[Tensor, Tensor]:
    """Normalised images [N,1,28,28] and labels [N] of `train` (without the holdout), `holdout` or `test`."""
    prefix = "t10k" if split == "test" else "train"
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    part = {"train": slice(None, -HOLDOUT), "holdout": slice(-HOLDOUT, None), "test": slice(None)}[split]
    x = torch.from_numpy(images[part].astype(np.float32)).unsqueeze(1)
    return (x / 255 - MEAN) / STD, torch.from_numpy(labels[part].astype(np.int64))


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """A random horizontal flip and a random shift by up to two pixels, for each image of a batch."""
    n, _, height, width = x.shape
    flip = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
    x = torch.where(flip, x.flip(3), x)
    black = -MEAN / STD
    windows = torch.nn.functional.pad(x[:, 0], (2, 2, 2, 2), value=black)
    windows = windows.unfold(1, height, 1).unfold(2, width, 1)  # [N,5,5,28,28], a view
    rows = torch.randint(5, (n,), generator=generator)
    columns = torch.randint(5, (n,), generator=generator)
    return windows[torch.arange(n), rows, columns].unsqueeze(1)
