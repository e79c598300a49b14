"""dvc.yaml names the code that decides what a stage makes; here it is compared with the imports.

What it leaves out neither DVC nor the fingerprint of unfinished work would notice.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]

# Imported, but without a part in any number: what is said, where work is kept, who did it.
EVERYWHERE = {"checkpoints", "console", "errors", "provenance"}
# `stage` and `cpu` read inputs and fuse networks for the stages that run methods; of these modules
# trainings take names, `keep_freed_memory`, and the validation of `evaluation`.
OF_METHODS = {"stage", "cpu", "methods", "iterations", "equivariance", "gradient_step"}
# Evaluations reach them through types and through objectives that they never call.
OF_TRAINING = {"losses", "recipe"}
ALLOWED = {
    "prepare": EVERYWHERE | OF_METHODS | OF_TRAINING | {
        "networks", "evaluation", "problems", "operators", "metrics", "processes",
    },
    "pretrain": EVERYWHERE | OF_METHODS | {"dead_leaves"},
    "train_reg": EVERYWHERE | OF_METHODS | {"dead_leaves"},
    "train_gs": EVERYWHERE | OF_METHODS | {"dead_leaves"},
    "finetune_unrolled": EVERYWHERE | OF_METHODS | {"dead_leaves"},
}  # fmt: skip


def imported(path: Path) -> Iterator[str]:
    """The modules of `reg` that a file imports, by their names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reg."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "reg":
            yield from (alias.name for alias in node.names)


def reached(path: Path) -> set[str]:
    """The modules of `reg` that a file imports, directly or not."""
    found: set[str] = set()
    files = [path]
    while files:
        for name in imported(files.pop()):
            module = ROOT / "reg" / f"{name}.py"
            if name not in found and module.exists():
                found.add(name)
                files.append(module)
    return found


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {"report"}))  # report depends on all code
def test_a_stage_depends_on_the_code_that_it_imports(stage: str) -> None:
    dependencies = STAGES[stage].get("do", STAGES[stage])["deps"]
    files = {Path(path) for path in dependencies if "$" not in path}
    assert {Path("stages", f"{stage}.py"), Path("requirements.lock")} <= files
    assert all((ROOT / path).is_file() for path in files)
    named = {path.stem for path in files if path.parent.name == "reg"}
    missing = reached(ROOT / "stages" / f"{stage}.py") - named
    allowed = ALLOWED.get(stage, EVERYWHERE | OF_TRAINING | {"dead_leaves"})
    assert missing == allowed - named


def test_only_trainings_wait_for_the_import_of_lightning() -> None:
    imports = "".join(
        f"import stages.{name}\n"
        for name in sorted(STAGES)
        if "reg/training.py" not in STAGES[name].get("do", STAGES[name])["deps"]
    )
    assert imports.count("import") == len(STAGES) - 4
    code = f"{imports}import sys\nassert 'lightning_fabric' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
