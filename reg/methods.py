"""The compared methods by name: what each needs, and the two parameters that are tuned.

A name may carry the networks it uses: `pnp-gd@fixed` is PnP-GD with the ReG that was trained
with a fixed denoiser, `pnp-admm@updated` PnP-ADMM with the denoiser that ReG training updated.
Without `@` a method uses what the paper compares: ReG `updated`, denoiser `original`.

As in the published code of PnP-ReG and of DPIR, the network of a method that keeps nothing of it
from one iteration to the next sees another of the eight orientations at each (`reg.equivariance`),
which costs nothing and keeps errors of one orientation from adding up. PnP-ADMM's dual variable
and the line search of GS-PnP want one function throughout. `+x8` or `+x1` at the end of a name says
otherwise.

Noise levels among the parameters are in /255.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from reg.cpu import fuse
from reg.equivariance import SYMMETRIES, equivariant
from reg.errors import InputError
from reg.gradient_step import load_gradient_step
from reg.iterations import (
    UNBOUNDED,
    DenoiserFunction,
    Descent,
    Gradient,
    PotentialAndGradient,
    gs_pnp,
    noise_levels,
    pnp_admm,
    pnp_gd,
    pnp_hqs,
    pnp_pgd,
    red_gd,
    settle,
    total_variation,
)
from reg.networks import best_device, for_inference, load_denoiser, load_regularizer
from reg.problems import Problem, Task, parse_task

Parameters = Mapping[str, float]

Kind = Literal["none", "regularizers", "denoisers", "potentials"]

# The arms of each kind of network, the usual one first.
ARMS: dict[Kind, tuple[str, ...]] = {
    "none": (),
    "regularizers": ("updated", "fixed"),
    "denoisers": ("original", "updated", "fixed"),
    "potentials": ("gradient-step",),
}
ORIENTATIONS = {"+x8": True, "+x1": False}  # endings of names: whether the network is turned
IMAGE_RANGE = (0.0, 1.0)
# Official rates, and that of super-resolution without noise.
ADAM_STEP = {"deblur": 0.004, "sr": 0.002, "inpaint": 0.01, "denoise": 0.004}
ADAM_STEP_SR_CLEAN = 0.008
# × 1/(‖A‖² + σ²c) is the plain step, stable up to 2/(‖A‖² + σ²L), so for L < 1.43 c + 0.43 ‖A‖²/σ².
PLAIN_STEP = 1.4
HQS_ITERATIONS = 24  # DPIR runs 8 for deblurring and 24 for super-resolution


@dataclass(frozen=True)
class Networks:
    """Trained networks by arm, loaded once for all methods, tasks and images."""

    denoisers: Mapping[str, DenoiserFunction] = field(default_factory=dict)
    regularizers: Mapping[str, Gradient] = field(default_factory=dict)
    potentials: Mapping[str, PotentialAndGradient] = field(default_factory=dict)
    device: str | torch.device = "cpu"


def training_seeds(models: Path, arm: str = "*") -> list[int]:
    """The seeds from which an arm of ReG was trained below `models/<profile>`, the first first."""
    files = models.glob(f"train_reg/{arm}/*/regularizer.safetensors")
    return sorted({int(file.parent.name) for file in files if file.parent.name.isdecimal()})


def arm_folder(models: Path, arm: str, seed: int | None = None) -> Path:
    """Where D and G of an arm of ReG training lie; None takes the first seed that was trained."""
    if seed is None:
        seed = next(iter(training_seeds(models, arm)), 0)
    return models / "train_reg" / arm / str(seed)


def load_networks(models: Path) -> dict[int, Networks]:
    """The networks below `models/<profile>` by training seed, the first seed first.

    They are ready for inference on the best device there is. Denoisers: `original`, and those that
    ReG training left, by its arms; regularizers by arm; the gradient-step denoiser where it was
    trained. `original` and the gradient-step denoiser were trained once: all seeds share them.
    """
    device = best_device()
    original = load_denoiser(models / "pretrain" / "denoiser.safetensors")
    gradient_step = models / "train_gs" / "denoiser.safetensors"
    potentials = {}
    if gradient_step.exists():
        network = for_inference(load_gradient_step(gradient_step), device)
        potentials["gradient-step"] = network.potential_and_gradient
    once = Networks({"original": fuse(for_inference(original, device))}, {}, potentials, device)
    return {seed: _of_seed(models, seed, once) for seed in training_seeds(models) or [0]}


def _of_seed(models: Path, seed: int, once: Networks) -> Networks:
    """The networks of ReG training from one seed, beside those that were trained once."""
    files = sorted(models.glob(f"train_reg/*/{seed}/regularizer.safetensors"))
    folders = {file.parents[1].name: file.parent for file in files}
    denoisers = {
        arm: fuse(for_inference(load_denoiser(folder / "denoiser.safetensors"), once.device))
        for arm, folder in folders.items()
    }
    regularizers = {
        arm: fuse(for_inference(load_regularizer(folder / "regularizer.safetensors"), once.device))
        for arm, folder in folders.items()
    }
    return replace(once, denoisers={**once.denoisers, **denoisers}, regularizers=regularizers)


@dataclass(frozen=True)
class Method:
    """How a method is run, where the tuning of its parameters begins, and what they stay below.

    `run(problem, network, parameters)` gets the one network that the method uses, which is turned
    at each iteration if `turns`. With `from_degraded` iterations begin at `Problem.degraded`.
    """

    kind: Kind
    run: Callable[[Problem, Any, Parameters], Iterator[Tensor]]
    begin: Callable[[Task], dict[str, float]]
    below: Mapping[str, float] = field(default_factory=dict)
    from_degraded: bool = False
    turns: bool = False


def iterate(
    method: str,
    problem: Problem,
    networks: Networks,
    parameters: Parameters,
    tolerance: float | None = None,
) -> Iterator[Tensor]:
    """The iterates of a method by name; InputError if the name or its network is unknown.

    With a `tolerance` they end where every image has settled (`iterations.settle`); if the network
    is turned, by what changes from one time to the next that it is turned alike.
    """
    known, _, turned = _parse(method)
    network = network_of(method, networks)
    iterates = known.run(problem, equivariant(network) if turned else network, parameters)
    if tolerance is None:
        return iterates
    return settle(iterates, problem.start, tolerance, period=SYMMETRIES if turned else 1)


def posed(method: str, problem: Problem) -> Problem:
    """The problem with the start of a method, which `iterate` takes from the problem."""
    return replace(problem, start=problem.degraded) if _parse(method)[0].from_degraded else problem


def network_of(method: str, networks: Networks) -> Any:
    """The network of a method, as it was trained; None for one that has none, else as `iterate`."""
    known, arm, _ = _parse(method)
    if known.kind == "none":
        return None
    trained = getattr(networks, known.kind)
    if arm not in trained:
        raise InputError(
            f"method '{method}': no network {arm}, must be of {', '.join(trained) or 'none'}; "
            "run the stage that trains it"
        )
    return trained[arm]


def canonical(method: str) -> str:
    """The name without what is usual of the method: `pnp-gd@updated+x8` → `pnp-gd`."""
    known, arm, turned = _parse(method)
    kind = without_orientation(method).partition("@")[0]
    ending = next(end for end, turns in ORIENTATIONS.items() if turns == turned)
    return (
        kind
        + ("" if arm == _usual(known) else f"@{arm}")
        + ("" if turned == known.turns else ending)
    )


def without_orientation(method: str) -> str:
    """The name without `+x8` or `+x1`."""
    return method[: -len("+x8")] if method.endswith(tuple(ORIENTATIONS)) else method


def method_named(method: str) -> Method:
    """The entry of METHODS for a name; InputError if it or its `@arm` or `+x8` is unknown."""
    return _parse(method)[0]


def retrained(method: str) -> bool:
    """Whether a method uses a network of ReG training, of which there is one per training seed."""
    return _parse(method)[1] in ARMS["regularizers"]


def _usual(method: Method) -> str:
    return next(iter(ARMS[method.kind]), "")


def _parse(name: str) -> tuple[Method, str, bool]:
    """`kind@arm+x8` → the method, its arm, and whether its network is turned."""
    bare = without_orientation(name)
    kind, _, arm = bare.partition("@")
    if kind not in METHODS:
        raise InputError(f"method '{name}': must be one of {', '.join(METHODS)}")
    method = METHODS[kind]
    arms = ARMS[method.kind]
    if arm and arm not in arms:
        known = ", ".join(f"{kind}@{each}" for each in arms) or kind
        raise InputError(f"method '{name}': must be one of {known}")
    ending = name.removeprefix(bare)
    if ending and method.kind not in ("regularizers", "denoisers"):
        raise InputError(
            f"method '{name}': {kind} has no {ending}, since nothing of it may change from "
            f"one iteration to the next; write {kind}"
        )
    return method, arm or _usual(method), ORIENTATIONS.get(ending, method.turns)


def _noise(task: Task) -> float:
    """Where to begin with σ: the noise level, and without noise the official code's."""
    return 255 * task.sigma_n or (1.2 if task.kind == "sr" else 1.0)


def _step_of_adam(task: Task) -> float:
    clean = task.kind == "sr" and not task.sigma_n
    return ADAM_STEP_SR_CLEAN if clean else ADAM_STEP[task.kind]


def _pnp_gd(
    problem: Problem,
    regularizer: Gradient,
    parameters: Parameters,
    descent: Descent,
    bounds: tuple[float, float],
) -> Iterator[Tensor]:
    sigma = parameters["sigma"] / 255
    if "step" in parameters:
        step = parameters["step"]
    elif descent == "plain":
        step = plain_step(problem, sigma, parameters["curvature"])
    else:
        step = 1 / (sigma**2 * parameters["curvature"])
    return pnp_gd(problem, regularizer, sigma=sigma, step=step, descent=descent, bounds=bounds)


def plain_step(problem: Problem, sigma: float, curvature: float) -> float:
    """μ of the plain schedule: PLAIN_STEP/(‖A‖² + σ²c), with σ in the units of images."""
    norm = problem.operator.norm(*problem.start.shape[-2:])
    return PLAIN_STEP / (norm**2 + sigma**2 * curvature)


def _red(problem: Problem, denoiser: DenoiserFunction, parameters: Parameters) -> Iterator[Tensor]:
    # With μ = 1/w and no momentum the spectral descent is RED's fixed-point strategy (Romano et
    # al., eq. 37). RED gets the momentum and the bounds that PnP-GD has, and for the momentum the
    # shorter step 1/(1.5w), stable while ‖I − J_D‖ < 1.5/0.72 (`iterations.curvature_bound`).
    weight = parameters["weight"]
    return red_gd(
        problem,
        denoiser,
        weight=weight,
        sigma=parameters["sigma"] / 255,
        step=1 / (1.5 * weight),
        descent="accelerated",
        bounds=IMAGE_RANGE,
    )


def _pnp_admm(
    problem: Problem,
    denoiser: DenoiserFunction,
    parameters: Parameters,
    bounds: tuple[float, float],
) -> Iterator[Tensor]:
    # `first` and `until`, where given, make s_k fall from `first` to `level` at that iteration.
    level = parameters["level"] / 255
    first = parameters.get("first", parameters["level"]) / 255
    return pnp_admm(
        problem,
        denoiser,
        sigma=parameters["sigma"] / 255,
        levels=noise_levels(first, level, int(parameters.get("until", 1))),
        bounds=bounds,
    )


def _pnp_hqs(
    problem: Problem, denoiser: DenoiserFunction, parameters: Parameters
) -> Iterator[Tensor]:
    # DPIR's schedule: s falls from 49/255 in equal ratios.
    return pnp_hqs(
        problem,
        denoiser,
        sigma=parameters["sigma"] / 255,
        levels=islice(
            noise_levels(49 / 255, parameters["level"] / 255, HQS_ITERATIONS), HQS_ITERATIONS
        ),
        bounds=IMAGE_RANGE,
    )


def _pnp_pgd(
    problem: Problem, denoiser: DenoiserFunction, parameters: Parameters
) -> Iterator[Tensor]:
    norm = problem.operator.norm(*problem.start.shape[-2:])
    return pnp_pgd(
        problem,
        denoiser,
        sigma=parameters["sigma"] / 255,
        step=parameters["relative_step"] / norm**2,
    )


def _gs_pnp(
    problem: Problem, potential: PotentialAndGradient, parameters: Parameters
) -> Iterator[Tensor]:
    sigma = parameters["sigma"] / 255
    return gs_pnp(problem, potential, weight=parameters["weight"], sigma=sigma)


def _total_variation(problem: Problem, network: None, parameters: Parameters) -> Iterator[Tensor]:
    return total_variation(problem, weight=parameters["weight"], step=parameters["step"])


def _sigma_and_curvature(task: Task) -> dict[str, float]:
    return {"sigma": _noise(task), "curvature": 800.0}


def _gd(
    descent: Descent,
    begin: Callable[[Task], dict[str, float]],
    bounds: tuple[float, float] = UNBOUNDED,
) -> Method:
    run = partial(_pnp_gd, descent=descent, bounds=bounds)
    return Method("regularizers", run, begin, turns=True)


def _admm(bounds: tuple[float, float]) -> Method:
    return Method(
        "denoisers",
        partial(_pnp_admm, bounds=bounds),
        lambda task: {"sigma": _noise(task), "level": 20.0},
    )


ADAM = _gd("adam", lambda task: {"sigma": _noise(task), "step": _step_of_adam(task)})

# `pnp-gd` is the method; the other four follow the same gradient by other schedules. For equal
# terms its bounds are those of RED, PnP-ADMM and PnP-HQS as well. Without bounds, as published, are
# the schedules of the paper's equation and of the official code, `pnp-admm-unbounded`, PnP-PGD,
# which stays behind, and GS-PnP and TV, whose proximal steps have no closed form within them.
# `pnp-gd-published` is the official code to the start, which others have in common.
METHODS: dict[str, Method] = {
    "pnp-gd": _gd("accelerated", _sigma_and_curvature, IMAGE_RANGE),
    "pnp-gd-spectral": _gd("spectral", _sigma_and_curvature, IMAGE_RANGE),
    "pnp-gd-adam": ADAM,
    "pnp-gd-published": replace(ADAM, from_degraded=True),
    "pnp-gd-plain": _gd("plain", _sigma_and_curvature),
    "red": Method(
        "denoisers",
        _red,
        lambda task: {"weight": 0.01, "sigma": 10.0 if task.sigma_n else 20.0},
        turns=True,
    ),
    "pnp-admm": _admm(IMAGE_RANGE),
    "pnp-admm-unbounded": _admm(UNBOUNDED),
    "pnp-hqs": Method(
        "denoisers",
        _pnp_hqs,
        lambda task: {"sigma": _noise(task), "level": 5.0},
        turns=True,
    ),
    # A gradient step on f is non-expansive up to μ‖A‖² = 2, where some images come out best and
    # others diverge.
    "pnp-pgd": Method(
        "denoisers",
        _pnp_pgd,
        lambda task: {"sigma": 5.0, "relative_step": 1.0},
        below={"relative_step": 2.0},
        turns=True,
    ),
    "gs-pnp": Method(
        "potentials",
        _gs_pnp,
        lambda task: {"weight": 0.01, "sigma": 10.0 if task.sigma_n else 20.0},
    ),
    "tv": Method("none", _total_variation, lambda task: {"weight": 0.005, "step": 1.0}),
}

# The schedules of PnP-GD that descend in the metric of the operator's spectrum.
SPECTRAL = ("pnp-gd-spectral", "pnp-gd")
# The settings in which the paper shows convergence.
CONVERGENCE = ("deblur-k3-2.55", "sr-x2-2.55")
# The ablation of the paper: ReG trained with D fixed or updated, ADMM with D original or updated;
# ADMM without bounds, as published, and within those of PnP-GD.
ABLATION = (
    "pnp-gd@updated",
    "pnp-gd@fixed",
    "pnp-admm-unbounded@original",
    "pnp-admm-unbounded@updated",
    "pnp-admm@original",
    "pnp-admm@updated",
)


def schedules(task: str, tuned: Parameters) -> dict[str, dict[str, float]]:
    """Parameters of the schedules of PnP-GD for one task, from the σ and c tuned for `pnp-gd`.

    Adam takes the official rate of the task, the others the step of c: for the plain one see
    PLAIN_STEP. In inpainting, where its start is another, there is Adam as published, too. Where
    there is no noise the spectral steps hardly depend on σ, so that tuning cannot tell it: there
    Adam and the plain step, whose speed it decides, take the official σ, and the schedules no
    longer share their fixed points.
    """
    named = parse_task(task)
    sigma = tuned["sigma"] if named.sigma_n else _noise(named)
    adam = {"sigma": sigma, "step": _step_of_adam(named)}
    return {
        "pnp-gd-adam": adam,
        "pnp-gd-plain": {**tuned, "sigma": sigma},
        **({"pnp-gd-published": dict(adam)} if named.kind == "inpaint" else {}),
        "pnp-gd-spectral": dict(tuned),
        "pnp-gd": dict(tuned),
    }


def begin(method: str, task: str) -> dict[str, float]:
    """The parameters at which tuning begins, for a method and a task by name."""
    return method_named(method).begin(parse_task(task))


def below(method: str) -> Mapping[str, float]:
    """What parameters of a method must stay below, whatever scores best."""
    return method_named(method).below
