"""The options of calls, by name. A test writes this file from the declarations of the command line's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict


class ImportOptions(TypedDict, total=False):
    input_shape: Mapping[str, Sequence[int]]
    """The shape of an input whose dimensions the model leaves open; it pins a batch that the network is made for"""
    max_constant_bytes: str
    """The most memory for constants that an ONNX model computes, such as 4GiB [default: 1GiB, less for a small file]"""


class CompileOptions(TypedDict, total=False):
    budget: float | str
    """Denoiser parameters allowed, as a share of the backbone's [default: 4%]"""
    samples: int
    """Calibration samples [default: 512; 64 synthetic ones without data]"""
    sigma: float | str
    """Standard deviation of Gaussian noise, relative to the layer's magnitude [default: 6%]"""
    noise: str
    """Noise of the layers: ideal, or components joined by +"""
    noise_reference: Literal["rms", "absmax", "mean-abs", "std"]
    """The magnitude that the noise is relative to [default: rms]"""
    noise_scale: Literal["range", "constant", "signal"]
    """What the magnitude is taken of [default: range]"""
    recipe: Literal["best", "paper"]
    """best: what takes most of the loss away within the budget, of any kind, fitted in closed form behind equalized converter ranges; paper: the paper's block and placement, and nothing else. The next four options change parts [default: best]"""
    placement: str
    """Where denoisers go: greedy, greedy-fill, worth, first, last, random or at=GLOB,… [default: the recipe's]"""
    denoiser: str
    """The denoiser: paper, mean, affine, bias, depthwise, lowrank, or a sum of a block and affine or bias such as mean+affine; by --placement worth also any [default: the recipe's]"""
    equalize: bool
    """Whether output channels are scaled towards their converters' full scale, where there are data [default: the recipe's]"""
    energy_budget: float | str
    """Reads layers more than once and takes the mean, or computes them digitally, where that helps most: what it may add to the energy of the analog layers, such as +5%; takes data [default: 0%]"""
    init: Literal["identity", "closed-form"]
    """Where the denoisers' weights come from [default: the recipe's]"""
    logits: str
    """The output that holds the logits [default: the first of floats]"""
    holdout: int
    """Keep the last N training samples out of calibration and fine-tuning [default: 0]"""
    keep_digital: str | Sequence[str]
    """Layers that stay on the digital side"""
    hardware: str | os.PathLike[str]
    """Hardware profile (TOML) [default: the paper's]"""
    emit: Literal["graph", "analog", "denoise", "dtile"]
    """Give the MLIR of a level instead of a package"""
    mean: float | Sequence[float]
    """Mean per channel, subtracted after scaling bytes to 0..1"""
    std: float | Sequence[float]
    """Standard deviation per channel, divided by after the mean"""
    resize: int
    """Scale images so that their shorter side is N pixels"""
    crop: int
    """Then cut out the centre N×N"""
    interpolation: Literal["bilinear", "bicubic"]
    """How --resize interpolates: bilinear or bicubic, both antialiased [default: bilinear]"""
    classes: str | os.PathLike[str]
    """The names of the class folders in the order of the network's outputs, one a line"""
    skip_bad: bool
    """Leave out images that cannot be decoded, and count them, instead of failing"""
    threads: int
    """Worker threads; the results do not depend on it [default: the machine's cores]"""
    seed: int
    """Seed of every random draw [default: 0]"""


class CalibrateOptions(TypedDict, total=False):
    samples: int
    """Samples, half of which judge what the others propose [default: 256, fewer of large images]"""
    equalize: bool
    """Whether the converters' ranges are equalized anew [default: yes]"""
    holdout: int
    """Keep the last N training samples out [default: as compiled]"""
    classes: str | os.PathLike[str]
    """The names of the class folders in the order of the network's outputs, one a line"""
    skip_bad: bool
    """Leave out images that cannot be decoded, and count them, instead of failing"""
    threads: int
    """Worker threads; the results do not depend on it [default: the machine's cores]"""
    seed: int
    """Seed of every random draw [default: 0]"""


class FinetuneOptions(TypedDict, total=False):
    recipe: Literal["best", "paper", "cosine"]
    """best: distill, few images moved and blended, Adam 1e-2 decaying to 0, batches of 32, noise of any level up to 1.5 times; paper: Adam 1e-3, constant; cosine: Adam 1e-2 decaying to 0 [default: paper for the denoiser paper, else best]"""
    loss: Literal["cross-entropy", "distill"]
    """What to train towards: cross-entropy with the labels, or distill, the clean model's own outputs (no labels needed) [default: the recipe's]"""
    match_features: float | str
    """How much it counts, beside the loss, that layers are given what the clean network gives them, up to a gain [default: 0]"""
    limit: int
    """Use only the first N training samples"""
    epochs: int
    """Passes over the data [default: the recipe's: 5, by best more of few images]"""
    lr: float | str
    """Learning rate [default: the recipe's]"""
    batch: int
    """Samples a step [default: the recipe's, 32 or 128]"""
    sigma: float | str
    """Another sigma than the package's: the standard deviation of Gaussian noise"""
    noise: str
    """Another noise than the package's: ideal, or components joined by +"""
    holdout: int
    """Keep the last N training samples out [default: as compiled]"""
    resume: bool
    """Go on from the checkpoint"""
    classes: str | os.PathLike[str]
    """The names of the class folders in the order of the network's outputs, one a line"""
    skip_bad: bool
    """Leave out images that cannot be decoded, and count them, instead of failing"""
    threads: int
    """Worker threads; the results do not depend on it [default: the machine's cores]"""
    seed: int
    """Seed of every random draw [default: 0]"""


class EvaluateOptions(TypedDict, total=False):
    seeds: int
    """Noise draws (runs) over the data [default: 5]"""
    chips: int
    """Also simulate N chips (noise components with lifetime=chip are drawn once a chip) and give the yield"""
    floor: float | str
    """The accuracy in percent that a good chip reaches"""
    sigma: float | str
    """Another sigma than the package's: the standard deviation of Gaussian noise"""
    noise: str
    """Another noise than the package's: ideal, or components joined by +"""
    split: Literal["test", "train", "holdout"]
    """The split: test, train or holdout [default: test]"""
    limit: int
    """Use only the first N samples"""
    holdout: int
    """The last N training samples are the holdout [default: as compiled]"""
    batch: int
    """Samples a batch; the results do not depend on it [default: 256]"""
    digital: Literal["float", "fixed"]
    """The denoisers' arithmetic: float, or fixed (the digital tile's integers) [default: float]"""
    backend: str
    """What computes: onednn, or reference (plain f64 arithmetic, slowly, to check results) [default: onednn]"""
    classes: str | os.PathLike[str]
    """The names of the class folders in the order of the network's outputs, one a line"""
    skip_bad: bool
    """Leave out images that cannot be decoded, and count them, instead of failing"""
    threads: int
    """Worker threads; the results do not depend on it [default: the machine's cores]"""
    seed: int
    """Seed of every random draw [default: 0]"""


class SessionOptions(TypedDict, total=False):
    sigma: float | str
    """Another sigma than the package's: the standard deviation of Gaussian noise"""
    noise: str
    """Another noise than the package's: ideal, or components joined by +"""
    digital: Literal["float", "fixed"]
    """The denoisers' arithmetic: float, or fixed (the digital tile's integers) [default: float]"""
    backend: str
    """What computes: onednn, or reference (plain f64 arithmetic, slowly, to check results) [default: onednn]"""
    threads: int
    """Worker threads; the results do not depend on it [default: the machine's cores]"""
    seed: int
    """Seed of every random draw [default: 0]"""


class ModelSessionOptions(TypedDict, total=False):
    digital: Literal["float", "fixed"]
    """The denoisers' arithmetic: float, or fixed (the digital tile's integers) [default: float]"""
    backend: str
    """What computes: onednn, or reference (plain f64 arithmetic, slowly, to check results) [default: onednn]"""
    threads: int
    """Worker threads; the results do not depend on it [default: the machine's cores]"""
    seed: int
    """Seed of every random draw [default: 0]"""


class ExportOptions(TypedDict, total=False):
    source: str | os.PathLike[str]
    """The source ONNX file [default: the path recorded in the package]"""
    sampling: bool
    """Add the paper's σ̂ path with RandomNormal"""


class ReportOptions(TypedDict, total=False):
    hardware: str | os.PathLike[str]
    """Hardware profile (TOML) [default: the package's]"""


class PassesOptions(TypedDict, total=False):
    hardware: str | os.PathLike[str]
    """Hardware profile (TOML) [default: the package's]"""
    verify_each: bool
    """Verify after each pass"""
    threads: int
    """Worker threads; the results do not depend on it [default: the machine's cores]"""
    seed: int
    """Seed of every random draw [default: 0]"""
