"""params.yaml as typed, validated values; nothing else reads that file.

The top level holds the knobs that people sweep and `profile`, which names the entry of
`profiles` that holds the rest, one section per stage. Unknown and misspelt keys are refused.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from reg.errors import InputError
from reg.methods import METHODS
from reg.networks import Form, Precision
from reg.problems import parse_task
from reg.training import Recipe

PARAMS = Path("params.yaml")


class Section(BaseModel):
    """A part of params.yaml: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def _is_task(name: str) -> str:
    parse_task(name)
    return name


def _is_method(name: str) -> str:
    if name.partition("@")[0] not in METHODS:
        raise ValueError(f"unknown method, must be one of {', '.join(METHODS)}")
    return name


class _Named(Section):
    tasks: tuple[str, ...] = Field(min_length=1)

    @field_validator("tasks")
    @classmethod
    def _tasks_are_known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for name in tasks:
            parse_task(name)
        return tasks


Methods = tuple[Annotated[str, Field(min_length=1)], ...]


class Data(Section):
    """Where images come from: `root` = "" takes the bundled photographs."""

    root: str = ""


class DeadLeaves(Section):
    """Generated training images, square."""

    count: int = Field(ge=0)
    size: int = Field(ge=64)


class Sizes(Section):
    """Shorter side, in pixels, to which images are reduced; null leaves them as they are."""

    train: int | None = Field(default=None, ge=64)
    validation: int | None = Field(default=None, ge=64)
    test: int | None = Field(default=None, ge=64)


class Prepare(Section):
    """Stage `prepare`."""

    photographs: dict[Literal["train", "validation", "test"], list[str]]
    dead_leaves: DeadLeaves
    folders: dict[Literal["train", "validation", "test"], list[str] | int]
    sizes: Sizes


class Pretrain(Recipe):
    """Stage `pretrain`; with `weights`, that file is imported and nothing is trained."""

    weights: str = ""
    channels: tuple[int, int, int, int]
    blocks: int = Field(gt=0)


class TrainReg(Recipe):
    """Stage `train_reg`."""

    lambda_: float = Field(alias="lambda", ge=0)
    form: Form
    scale: float = Field(gt=0)
    start: Literal["random", "denoiser"]


class Tune(_Named):
    """Stage `tune`: `trials` per method and task, each of `iterations` on `crop`² pixels."""

    methods: Methods
    trials: int = Field(ge=1)
    iterations: int = Field(ge=1)
    crop: int = Field(ge=32)
    precision: Precision = "auto"

    _methods_are_known = field_validator("methods")(lambda names: tuple(map(_is_method, names)))


class EvaluateRestoration(_Named):
    """Stage `evaluate_restoration`; `keep_images` are the tasks whose images figures need."""

    iterations: int = Field(ge=1)
    keep_images: tuple[str, ...]
    precision: Precision = "auto"


class EvaluateConvergence(_Named):
    """Stage `evaluate_convergence`."""

    iterations: int = Field(ge=500)
    precision: Precision = "auto"


class Ablate(_Named):
    """Stage `ablate`."""

    iterations: int = Field(ge=1)
    precision: Precision = "auto"


class FinetuneUnrolled(Recipe):
    """Stage `finetune_unrolled`: `steps` unrolled steps for one task."""

    task: str
    steps: int = Field(ge=1)


class Profile(Section):
    """One scale of the whole pipeline: a section per stage."""

    prepare: Prepare
    pretrain: Pretrain
    train_reg: TrainReg
    tune: Tune
    evaluate_restoration: EvaluateRestoration
    evaluate_convergence: EvaluateConvergence
    ablate: Ablate
    finetune_unrolled: FinetuneUnrolled


class Params(Section):
    """The whole of params.yaml; `active` is the profile in use."""

    profile: str
    lambda_: float | None = Field(default=None, alias="lambda", ge=0)
    seed: int = Field(ge=0)
    data: Data
    profiles: dict[str, Profile]

    @property
    def active(self) -> Profile:
        """The profile in use."""
        return self.profiles[self.profile]
