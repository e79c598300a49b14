"""Stage `prepare`: images by role, with a manifest."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from reg.datasets import prepare
from reg.params import Params
from reg.stage import run


def work(params: Params) -> Path:
    """Write the images and data/<profile>/prepare/manifest.csv."""
    section, root = params.active.prepare, params.data.root
    profile = params.active
    recipes = (profile.pretrain, profile.train_reg, profile.train_gs, profile.finetune_unrolled)
    photographs: Mapping[str, Sequence[str]] = {} if root else section.photographs
    folders: Mapping[str, Sequence[str] | int] = section.folders if root else {}
    return prepare(
        params.folder("data", "prepare"),
        photographs=photographs,
        folders=folders,
        root=Path(root) if root else None,
        sizes=section.sizes.model_dump(),
        crop=max(recipe.crop for recipe in recipes),
        dead_leaves_count=section.dead_leaves.count,
        dead_leaves_size=section.dead_leaves.size,
        dead_leaves_radii=section.dead_leaves.radii,
        seed=params.seed,
    )


if __name__ == "__main__":
    run("prepare", work)
