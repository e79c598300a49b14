"""The compared methods by name: what each needs, and the two parameters that are tuned.

A name may carry the networks it uses: `pnp-gd@fixed` is PnP-GD with the ReG that was trained
with a fixed denoiser, `pnp-admm@updated` PnP-ADMM with the denoiser that ReG training updated.
Without `@` a method uses what the paper compares: ReG `updated`, denoiser `original`.

Noise levels among the parameters are in /255.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from reg.errors import InputError
from reg.iterations import (
    DenoiserFunction,
    Gradient,
    noise_levels,
    pnp_admm,
    pnp_gd,
    pnp_hqs,
    pnp_pgd,
    red_gd,
    total_variation,
)
from reg.networks import for_inference, load_denoiser, load_regularizer
from reg.problems import Problem, Task, parse_task

Parameters = Mapping[str, float]

REGULARIZERS = ("updated", "fixed")
DENOISERS = ("original", "updated", "fixed")


@dataclass(frozen=True)
class Networks:
    """The trained networks by arm, loaded once for all methods, tasks and images."""

    denoisers: Mapping[str, DenoiserFunction] = field(default_factory=dict)
    regularizers: Mapping[str, Gradient] = field(default_factory=dict)


def load_networks(models: Path) -> Networks:
    """The networks below `models/<profile>`, ready for inference.

    Denoisers: `original`, and those that ReG training left, by its arms; regularizers by arm.
    """
    arms = sorted(path.parent for path in models.glob("train_reg/*/regularizer.safetensors"))
    denoisers = {"original": load_denoiser(models / "pretrain" / "denoiser.safetensors")}
    denoisers |= {arm.name: load_denoiser(arm / "denoiser.safetensors") for arm in arms}
    regularizers = {arm.name: load_regularizer(arm / "regularizer.safetensors") for arm in arms}
    return Networks(
        {name: for_inference(network) for name, network in denoisers.items()},
        {name: for_inference(network) for name, network in regularizers.items()},
    )


@dataclass(frozen=True)
class Method:
    """How a method is run, and where the tuning of its parameters begins."""

    arms: tuple[str, ...]  # of the networks it may use, the usual one first; none without network
    run: Callable[[Problem, Networks, str, Parameters], Iterator[Tensor]]
    begin: Callable[[Task], dict[str, float]]

    @property
    def arm(self) -> str:
        """The arm of a name without `@`."""
        return self.arms[0] if self.arms else ""


def iterate(
    method: str, problem: Problem, networks: Networks, parameters: Parameters
) -> Iterator[Tensor]:
    """The iterates of a method by name; InputError if the name is unknown."""
    known = method_named(method)
    arm = method.partition("@")[2] or known.arm
    trained = networks.regularizers if known.arms == REGULARIZERS else networks.denoisers
    if known.arms and arm not in trained:
        raise InputError(f"method '{method}': no network {arm}, must be of {', '.join(trained)}")
    return known.run(problem, networks, arm, parameters)


def canonical(method: str) -> str:
    """The name without `@arm` where that is the method's usual one: `pnp-gd@updated` → `pnp-gd`."""
    kind, _, arm = method.partition("@")
    return kind if arm == method_named(method).arm else method


def method_named(method: str) -> Method:
    """The entry of METHODS for a name with or without its `@arm`; InputError if unknown."""
    kind, _, arm = method.partition("@")
    if kind not in METHODS:
        raise InputError(f"method '{method}': must be one of {', '.join(METHODS)}")
    arms = METHODS[kind].arms
    if arm and arm not in arms:
        known = ", ".join(f"{kind}@{name}" for name in arms) or kind
        raise InputError(f"method '{method}': must be one of {known}")
    return METHODS[kind]


def _noise(task: Task) -> float:
    """Where to begin with σ: the noise level, and 1/255 without noise."""
    return 255 * task.sigma_n or 1.0


def _pnp_gd(
    problem: Problem, networks: Networks, arm: str, parameters: Parameters
) -> Iterator[Tensor]:
    sigma = parameters["sigma"] / 255
    return pnp_gd(
        problem,
        networks.regularizers[arm],
        sigma=sigma,
        step=1 / (sigma**2 * parameters["curvature"]),
        descent="spectral",
    )


def _red(
    problem: Problem, networks: Networks, arm: str, parameters: Parameters
) -> Iterator[Tensor]:
    # With this step the spectral descent is RED's fixed-point strategy (Romano et al., eq. 37).
    weight = parameters["weight"]
    return red_gd(
        problem,
        networks.denoisers[arm],
        weight=weight,
        sigma=parameters["sigma"] / 255,
        step=1 / weight,
        descent="spectral",
    )


def _pnp_admm(
    problem: Problem, networks: Networks, arm: str, parameters: Parameters
) -> Iterator[Tensor]:
    # `first` and `until`, where given, make s_k fall from `first` to `level` at that iteration.
    level = parameters["level"] / 255
    first = parameters.get("first", parameters["level"]) / 255
    return pnp_admm(
        problem,
        networks.denoisers[arm],
        sigma=parameters["sigma"] / 255,
        levels=noise_levels(first, level, int(parameters.get("until", 1))),
    )


def _pnp_hqs(
    problem: Problem, networks: Networks, arm: str, parameters: Parameters
) -> Iterator[Tensor]:
    # DPIR's schedule: s falls from 49/255 in equal ratios, here over 24 iterations.
    return pnp_hqs(
        problem,
        networks.denoisers[arm],
        sigma=parameters["sigma"] / 255,
        levels=noise_levels(49 / 255, parameters["level"] / 255, 24),
    )


def _pnp_pgd(
    problem: Problem, networks: Networks, arm: str, parameters: Parameters
) -> Iterator[Tensor]:
    return pnp_pgd(
        problem,
        networks.denoisers[arm],
        sigma=parameters["sigma"] / 255,
        step=parameters["step"],
    )


def _total_variation(
    problem: Problem, networks: Networks, arm: str, parameters: Parameters
) -> Iterator[Tensor]:
    return total_variation(problem, weight=parameters["weight"], step=parameters["step"])


METHODS: dict[str, Method] = {
    "pnp-gd": Method(
        REGULARIZERS, _pnp_gd, lambda task: {"sigma": _noise(task), "curvature": 400.0}
    ),
    "red": Method(
        DENOISERS,
        _red,
        lambda task: {"weight": 0.01, "sigma": 10.0 if task.sigma_n else 20.0},
    ),
    "pnp-admm": Method(DENOISERS, _pnp_admm, lambda task: {"sigma": _noise(task), "level": 20.0}),
    "pnp-hqs": Method(DENOISERS, _pnp_hqs, lambda task: {"sigma": _noise(task), "level": 5.0}),
    "pnp-pgd": Method(DENOISERS, _pnp_pgd, lambda task: {"sigma": 5.0, "step": 1.0}),
    "tv": Method((), _total_variation, lambda task: {"weight": 0.005, "step": 1.0}),
}

# The settings in which the paper shows convergence.
CONVERGENCE = ("deblur-k3-2.55", "sr-x2-2.55")
# The ablation of the paper: ReG trained with D fixed or updated, ADMM with D original or updated.
ABLATION = ("pnp-gd@updated", "pnp-gd@fixed", "pnp-admm@original", "pnp-admm@updated")


def begin(method: str, task: str) -> dict[str, float]:
    """The parameters at which tuning begins, for a method and a task by name."""
    return method_named(method).begin(parse_task(task))
