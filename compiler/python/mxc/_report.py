"""What calls give, as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Accuracy:
    """Accuracy in percent.

    Attributes:
        top1: The label has the largest logit.
        top5: The label is among the five largest.
        ci95: Half the width of the 95 % interval of ``top1`` over noise draws (Student's t); None with one draw or none.
        runs: Each noise draw's top-1; empty without noise.
    """

    top1: float
    top5: float
    ci95: float | None = None
    runs: tuple[float, ...] = ()

    @classmethod
    def _of(cls, found: dict[str, Any]) -> Accuracy:
        return cls(found["top1"], found["top5"], found.get("ci95"), tuple(found.get("runs", ())))


@dataclass(frozen=True)
class Yield:
    """How many chips of a population are good.

    Attributes:
        percent: Their share.
        ci95: Its 95 % interval (Clopper-Pearson), in percent.
        top1: Each chip's accuracy, in percent.
    """

    percent: float
    ci95: tuple[float, float]
    top1: tuple[float, ...]

    @classmethod
    def _of(cls, found: dict[str, Any]) -> Yield:
        return cls(found["percent"], tuple(found["ci95"]), tuple(found["top1"]))


@dataclass(frozen=True)
class Chips:
    """A population of simulated chips.

    Attributes:
        floor: The accuracy in percent that a good chip reaches.
        noisy: Without denoisers.
        denoised: With denoisers.
    """

    floor: float
    noisy: Yield
    denoised: Yield


@dataclass(frozen=True)
class Evaluation:
    """What ``mxc eval`` measures.

    Attributes:
        samples: The number of samples.
        clean: No noise, no denoisers.
        noisy: Noise, no denoisers.
        denoised: Noise and denoisers, on the same noise draws.
        clean_denoised: Denoisers, no noise.
        recovered_percent: The share of the drop that the denoisers undo; None where nothing was lost.
        backbone_parameters: Weights and biases after folding.
        denoiser_parameters: The denoisers' parameters.
        chips: The yield, if a population of chips was asked for.
        skipped: Images that could not be decoded; None unless such are left out.
        json: All of it, as ``mxc eval --json`` prints it.
    """

    samples: int
    clean: Accuracy
    noisy: Accuracy
    denoised: Accuracy
    clean_denoised: Accuracy
    recovered_percent: float | None
    backbone_parameters: int
    denoiser_parameters: int
    chips: Chips | None
    skipped: int | None
    json: dict[str, Any]

    @classmethod
    def _of(cls, found: dict[str, Any]) -> Evaluation:
        chips = found.get("chips")
        return cls(
            found["samples"],
            *(Accuracy._of(found[name]) for name in ("clean", "noisy", "denoised", "clean_denoised")),
            found["recovered_percent"],
            found["parameters"]["backbone"],
            found["parameters"]["denoisers"],
            chips and Chips(chips["floor"], Yield._of(chips["noisy"]), Yield._of(chips["denoised"])),
            found.get("skipped"),
            found,
        )
