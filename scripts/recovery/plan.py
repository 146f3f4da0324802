"""What is compared: methods, noises, numbers of images, networks, and which rows are run first."""

import dataclasses
import fnmatch
import itertools
from collections.abc import Iterator, Sequence

# The same for every method that adds parameters.
BUDGET = "4%"
IMAGES = (10, 64, 512, None)
SEEDS = (0, 1, 2)
SIGMAS = (2, 4, 6, 8, 10, 12, 14, 16)
# Points that the noisy network has lost, on held-out images, at the sigma that rows without one of their own take.
DROP = 11


@dataclasses.dataclass(frozen=True)
class Noise:
    """A noise scale and reference, and the sigmas in percent among which the row's is looked for."""

    scale: str
    reference: str
    sigmas: tuple[float, ...]

    @property
    def name(self) -> str:
        return self.scale if self.scale == "signal" else f"{self.scale}-{self.reference}"


_SHARES_OF_RMS = (2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 35, 40, 50, 60)
_SHARES_OF_ABSMAX = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 12, 15)
NOISES = (
    Noise("range", "rms", _SHARES_OF_RMS),
    Noise("range", "absmax", _SHARES_OF_ABSMAX),
    Noise("signal", "rms", _SHARES_OF_RMS),
)


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to recover accuracy: options of `mxc compile`, and of `mxc finetune` unless it is not trained; or a method of
    examples/noise_aware.py."""

    name: str
    about: str
    compile: tuple[str, ...] = ()
    finetune: tuple[str, ...] | None = None
    script: str | None = None


# Layers by gradient until the budget is full: other than the paper's own placement it skips what no longer fits.
_FILLED = ("--placement", "greedy-fill")


def _alone(kind: str) -> Method:
    """A kind of denoiser by itself: converters' ranges as they are, trained from the identity."""
    options = (*_FILLED, "--denoiser", kind, "--equalize", "no", "--init", "identity")
    return Method(kind, f"`{kind}` alone, trained", options, ("--recipe", "best"))


METHODS = (
    # What is left of the recipe `best` where the budget allows no denoiser.
    Method("scales", "converter ranges alone, no training", ("--budget", "0%", "--equalize", "yes")),
    _alone("bias"),
    Method(
        "moments",
        "affines from moments, no training",
        (*_FILLED, "--denoiser", "affine", "--equalize", "no", "--init", "closed-form"),
    ),
    _alone("affine"),
    _alone("depthwise"),
    _alone("lowrank"),
    _alone("mean"),
    _alone("mean+affine"),
    Method("paper", "the paper's block and training, with labels", ("--recipe", "paper", *_FILLED), ("--recipe", "paper")),
    Method("best, untrained", "`compile` by default, without `finetune`"),
    Method("best, affine", "`best` with affines only", ("--denoiser", "affine"), ("--recipe", "best")),
    Method("best", "`compile` and `finetune` by default", (), ("--recipe", "best")),
    Method("lora", "low-rank adapters beside the layers, digital", script="lora"),
    Method("dora", "the same with a magnitude per channel", script="dora"),
    Method("whole", "noise-aware training of the whole network", script="whole"),
)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, its data and how they are prepared: options that `mxc compile` and the script share. The last `holdout` training
    images serve the choice of sigma alone."""

    name: str
    model: str
    data: str
    holdout: int
    preprocess: tuple[str, ...]
    # Noise draws of an evaluation; seeds of training add more.
    draws: int = 3


@dataclasses.dataclass(frozen=True)
class Row:
    """One training seed of one cell. `images` None is all of them, `sigma` None the network's for that noise."""

    network: Network
    noise: Noise
    images: int | None
    sigma: float | None
    method: Method
    seed: int

    @property
    def cell(self) -> tuple:
        """What seeds are averaged over."""
        return self.network.name, self.noise.name, self.images, self.sigma, self.method.name

    @property
    def name(self) -> str:
        """For people and `--only`: resnet20/range-rms/512/best/0, and /sigma=6 behind it."""
        parts = [self.network.name, self.noise.name, str(self.images or "all"), self.method.name, str(self.seed)]
        return "/".join(parts + ([f"sigma={self.sigma:g}"] if self.sigma is not None else []))


def rows(networks: Sequence[Network]) -> list[Row]:
    """Every row, the most telling first. The examples' first two networks lead, then what adds a dimension to what is there."""
    mxc, scripts = [m for m in METHODS if not m.script], [m for m in METHODS if m.script]
    tables = [m for m in METHODS if m.name in ("best", "paper")]
    first, rest, rms = networks[:2], networks[2:], NOISES[:1]

    def product(networks, noises, images, methods, seeds, sigmas=(None,)) -> Iterator[Row]:
        for seed, network, noise, count, sigma, method in itertools.product(
            seeds, networks, noises, images, sigmas, methods
        ):
            yield Row(network, noise, count, sigma, method, seed)

    stages = (
        product(first, rms, (64, 512), mxc, SEEDS),
        product(first, rms, (64, 512), scripts, SEEDS[:1]),
        product(first, rms, (512,), tables, SEEDS[:1], SIGMAS),
        product(first, rms, (10,), mxc, SEEDS),
        product(first, rms, (None,), METHODS, SEEDS[:1]),
        product(rest, rms, (512,), METHODS, SEEDS[:1]),
        product(networks, NOISES[1:], (512,), METHODS, SEEDS[:1]),
        product(networks, rms, (512,), tables, SEEDS, SIGMAS),
        product(networks, NOISES, IMAGES, METHODS, SEEDS),
    )
    return list(dict.fromkeys(itertools.chain(*stages)))


def chosen(plan: Sequence[Row], only: Sequence[str]) -> list[Row]:
    """The rows whose names match one of the globs; without any, all."""
    return [row for row in plan if not only or any(fnmatch.fnmatchcase(row.name, glob) for glob in only)]


def estimate(row: Row, finished: Sequence[tuple[Row, float]]) -> float | None:
    """Seconds that a row will take, from the most similar finished rows; None where there are none."""
    # Those of the same method and number of images come first: these make the time.
    alike = (
        lambda other: (other.network, other.images, other.method) == (row.network, row.images, row.method),
        lambda other: (
            (other.network, other.images, bool(other.method.script))
            == (row.network, row.images, bool(row.method.script))
        ),
        lambda other: other.network == row.network and bool(other.method.script) == bool(row.method.script),
        lambda other: True,
    )
    for same in alike:
        if seconds := [spent for other, spent in finished if same(other)]:
            return sum(seconds) / len(seconds)
    return None
