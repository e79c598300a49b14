"""params.yaml as typed, validated values; nothing else reads that file.

The top level holds the knobs that people sweep and `profile`, which names the entry of
`profiles` that holds the rest, one section per stage. Unknown and misspelt keys are refused.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from reg.datasets import CACHE, MEMORY_MB
from reg.errors import InputError
from reg.methods import canonical
from reg.networks import Form, Precision
from reg.problems import parse_task
from reg.recipe import Recipe

PARAMS = Path("params.yaml")


class Section(BaseModel):
    """A part of params.yaml: unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False
    )


def _check_task(name: str) -> str:
    return parse_task(name).name


def _check_tasks(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("a task is listed twice; list it once")
    return tuple(map(_check_task, names))


def _check_methods(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(map(canonical, names))) < len(names):
        raise ValueError("a method is listed twice; list it once")
    return names


def _check_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if list(seeds) != sorted(set(seeds)):
        raise ValueError("seeds must ascend, each listed once; the first is the main one")
    return seeds


def _check_radii(radii: tuple[float, float]) -> tuple[float, float]:
    if not 0 < radii[0] < radii[1]:
        raise ValueError("must ascend from a least radius above 0 to the greatest")
    return radii


def _check_sigmas(sigmas: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(sigmas)) < len(sigmas):
        raise ValueError("a noise level is listed twice; list it once")
    return sigmas


Tasks = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_check_tasks)]
Methods = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_check_methods)]
Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_check_seeds)
]
Sigmas = Annotated[
    tuple[Annotated[float, Field(ge=0.01, le=255)], ...],
    Field(min_length=1),
    AfterValidator(_check_sigmas),
]


class Data(Section):
    """Where images come from: `root` = "" takes the bundled photographs.

    Decoded training images that take more than `memory_mb` (of 10^6 bytes) lie in a file in the
    folder `cache`. Neither decides any result, so no stage depends on them.
    """

    root: str = ""
    memory_mb: int = Field(default=MEMORY_MB, ge=0)
    cache: Path = CACHE


class DeadLeaves(Section):
    """Generated training images, square."""

    count: int = Field(ge=0)
    size: int = Field(ge=64)
    radii: Annotated[tuple[float, float], AfterValidator(_check_radii)]


class Sizes(Section):
    """Shorter side, in pixels, to which images are reduced; null leaves them as they are.

    Validation and test sizes are multiples of 12, so that every super-resolution factor suits.
    """

    train: int | None = Field(default=None, ge=64)
    validation: int | None = Field(default=None, ge=60, multiple_of=12)
    test: int | None = Field(default=None, ge=60, multiple_of=12)


class Prepare(Section):
    """Stage `prepare`."""

    photographs: dict[str, list[str]]
    dead_leaves: DeadLeaves
    folders: dict[str, list[str] | int]
    sizes: Sizes


class Pretrain(Recipe):
    """Stage `pretrain`; a denoiser in weights/<profile>/pretrain is imported, not trained."""

    channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    blocks: int = Field(gt=0)


class TrainReg(Recipe):
    """Stage `train_reg`; D and G in weights/<profile>/train_reg replace the arm `updated`.

    Each arm is trained once for every k of `seeds`, from params.seed + k.
    """

    seeds: Seeds = (0,)
    lambda_: float = Field(alias="lambda", ge=0)
    form: Form
    scale: float = Field(gt=0)
    start: Literal["random", "denoiser"]

    def record(self) -> dict[str, Any]:
        """All that decides the result of one training: not how many others there are."""
        record = super().record()
        del record["seeds"]
        return record


class TrainGs(Recipe):
    """Stage `train_gs`: the gradient-step denoiser, from the weights of `pretrain`.

    It cannot be compiled: torch.compile has no second derivatives, which its training needs.
    """

    compile: Literal[False] = Field(default=False, exclude=True)


class Tune(Section):
    """Stage `tune`: `trials` per method and task, each of `iterations` on `crop`² pixels.

    An image stops before where its relative change per iteration falls to `tolerance`.
    """

    trials: int = Field(ge=1)
    iterations: int = Field(ge=1)
    tolerance: float = Field(ge=0)
    crop: int = Field(ge=32, multiple_of=12)
    precision: Precision = "auto"


class EvaluateDenoising(Section):
    """Stage `evaluate_denoising`; `sigmas` in /255, both of the denoisers and of the noise."""

    sigmas: Sigmas
    precision: Precision = "fp32"  # bf16 would add an error like that of rounding to 8 bits


class EvaluateRestoration(Section):
    """Stage `evaluate_restoration`, on every `every`-th test image (see `load_images`).

    `keep_images` are the tasks whose images figures need, those of every `keep_every`-th of them.
    """

    tasks: Tasks
    methods: Methods
    iterations: int = Field(ge=1)
    tolerance: float = Field(ge=0)
    every: PositiveInt = 1
    keep_images: Tasks
    keep_every: PositiveInt = 1
    precision: Precision = "auto"

    @model_validator(mode="after")
    def _holds_what_the_claims_need(self) -> Self:
        kinds = {parse_task(name).kind for name in self.tasks}
        if not kinds >= {"deblur", "sr", "inpaint"} or "inpaint-20" not in self.tasks:
            raise ValueError("tasks must hold a deblurring, a super-resolution and inpaint-20")
        if not {"pnp-gd", "red", "pnp-admm"} <= set(self.methods):
            raise ValueError("methods must hold pnp-gd, red and pnp-admm")
        if "inpaint-20" not in self.keep_images or not set(self.keep_images) <= set(self.tasks):
            raise ValueError("keep_images must hold inpaint-20, and only names from tasks")
        return self


class EvaluateConvergence(Section):
    """Stage `evaluate_convergence`, on central crops of `crop`² pixels (null: whole images).

    On every `every`-th test image (see `load_images`).
    """

    iterations: int = Field(ge=1)
    crop: int | None = Field(ge=48, multiple_of=12)
    every: PositiveInt = 1
    precision: Precision = "fp32"  # bf16 would hide differences below 1e-8


class Accelerate(Section):
    """Stage `accelerate`, on central crops of `crop`² pixels (null: whole images).

    On every `every`-th test image (see `load_images`). Adam and the plain step run for
    `iterations`, the spectral schedules for `short`.
    """

    tasks: Tasks
    iterations: int = Field(ge=1)
    short: int = Field(ge=1)
    crop: int | None = Field(ge=48, multiple_of=12)
    every: PositiveInt = 1
    precision: Precision = "auto"


class Ablate(Section):
    """Stage `ablate`, on central crops of `crop`² pixels (null: whole images).

    On every `every`-th test image (see `load_images`).
    """

    tasks: Tasks
    iterations: int = Field(ge=1)
    crop: int | None = Field(ge=48, multiple_of=12)
    every: PositiveInt = 1
    precision: Precision = "fp32"  # bf16 would hide differences below 1e-8

    @model_validator(mode="after")
    def _holds_what_the_claims_need(self) -> Self:
        if not any(parse_task(name).kind == "deblur" for name in self.tasks):
            raise ValueError("tasks must hold a deblurring")
        return self


class Diagnose(Section):
    """Stage `diagnose`, on central `crop`² pixels; `sigmas` in /255, both of D and of the noise."""

    crop: int = Field(ge=48, multiple_of=12)
    probes: int = Field(ge=1)
    power_iterations: int = Field(ge=1)
    iterations: int = Field(ge=1)
    sigmas: Sigmas
    precision: Precision = "auto"


class FinetuneUnrolled(Recipe):
    """Stage `finetune_unrolled`: `steps` unrolled steps, trained for each of `tasks`.

    Every start is trained once for every k of `seeds`, from params.seed + k, at the learning rate
    that is best among `rate_factors` × `learning_rate` after `trial_iterations`; ReG's also with
    each number of `sweep_steps`. `supervision` weighs the earlier iterates in the loss.
    `recompute` bounds memory and changes nothing else, so it is no part of what is dumped. Every
    `every`-th test image is measured (see `load_images`), and every `keep_every`-th of these kept
    for figures.
    """

    tasks: Tasks
    steps: int = Field(ge=1)
    sigma: float = Field(gt=0)
    learn_steps: bool = True
    supervision: float = Field(default=0.0, ge=0)
    recompute: bool = Field(default=False, exclude=True)
    every: PositiveInt = 1
    keep_every: PositiveInt = 1
    seeds: Seeds = (0,)
    rate_factors: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1.0,), min_length=1)
    trial_iterations: PositiveInt
    sweep_steps: tuple[PositiveInt, ...] = ()

    def record(self) -> dict[str, Any]:
        """All that decides the result of the trainings: not on which images they are measured."""
        record = super().record()
        del record["every"], record["keep_every"]
        return record

    @model_validator(mode="after")
    def _crops_suit_the_tasks(self) -> Self:
        for name in self.tasks:
            factor = parse_task(name).factor
            if self.crop % factor:
                raise ValueError(f"crop must be a multiple of {factor}, as {name} is among tasks")
        return self


class Profile(Section):
    """One scale of the whole pipeline: a section per stage."""

    prepare: Prepare
    pretrain: Pretrain
    train_reg: TrainReg
    train_gs: TrainGs
    tune: Tune
    evaluate_denoising: EvaluateDenoising
    evaluate_restoration: EvaluateRestoration
    evaluate_convergence: EvaluateConvergence
    accelerate: Accelerate
    ablate: Ablate
    diagnose: Diagnose
    finetune_unrolled: FinetuneUnrolled


class Params(Section):
    """The whole of params.yaml; `active` is the profile in use."""

    profile: str
    lambda_: float | None = Field(default=None, alias="lambda", ge=0)
    seed: int = Field(ge=0, lt=2**62)  # what is added to it must leave 63 bits
    data: Data
    profiles: dict[str, Profile]

    @property
    def active(self) -> Profile:
        """The profile in use; a top-level λ that is not null wins over the profile's own."""
        chosen = self.profiles[self.profile]
        if self.lambda_ is None:
            return chosen
        train_reg = chosen.train_reg.model_copy(update={"lambda_": self.lambda_})
        return chosen.model_copy(update={"train_reg": train_reg})

    def folder(
        self, kind: Literal["data", "models", "results", "reports", "weights"], *parts: str
    ) -> Path:
        """`<kind>/<profile>/<parts>`: where a stage of this profile reads or writes."""
        return Path(kind, self.profile, *parts)


def read_params(path: Path = PARAMS) -> Params:
    """Read and check params.yaml.

    YAML 1.2, so that `1e-05`, as DVC writes it, is a number. Raises InputError with the file, the
    key and the mend for whatever is unreadable, missing, unknown, misspelt or out of range.
    """
    try:
        raw: Any = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); run from the repository"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a UTF-8 text file; save it as one") from None
    except YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        keys = ", ".join(field.alias or name for name, field in Params.model_fields.items())
        raise InputError(f"{path}: must hold the keys {keys}")
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{path}: {_first_problem(error)}") from None
    if params.profile not in params.profiles:
        known = ", ".join(params.profiles)
        raise InputError(f"{path}: profile '{params.profile}' is not defined, use one of {known}")
    return params


def _first_problem(error: ValidationError) -> str:
    """The first problem as `key: what is wrong (value), mend`."""
    problems = error.errors()
    # A misspelt key is both unknown and missing: the unknown name is what the user must see.
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    first = (unknown or problems)[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    match first["type"]:
        case "extra_forbidden":
            return f"unknown key {key}; correct its spelling or remove it{more}"
        case "missing":
            return f"key {key} is missing; add it{more}"
        case _:
            message = first["msg"].removeprefix("Value error, ")
            value = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
            return f"{key}{value}: {message}{more}"
