"""Every table of the report with its title, and the files and stages it comes from."""

from pathlib import Path

import pandas as pd

from reg.report import findings, tables, unrolled
from reg.report.captions import ADMM_LEVELS, ROUNDING, central_say, named, until_say
from reg.report.inputs import Inputs
from reg.report.page import TableEntry
from reg.report.paper import paper_sheet

GEOMETRIC = f"The mean of the step is geometric.{ROUNDING.format('listed')}"


def table_entries(inputs: Inputs, tuning_trials: int) -> list[TableEntry]:
    """Every table, in the order of the page; a method was tuned by at most `tuning_trials`."""
    evidence = inputs.evidence

    def on(table: pd.DataFrame) -> str:
        return named(inputs.manifest, table["image"].unique())

    return [
        TableEntry(
            "Restoration",
            tables.restoration_sheet(
                evidence.restoration, on(evidence.restoration), until_say(inputs)
            ),
            (inputs.file("evaluate_restoration", "table.csv"),),
            ("evaluate_restoration",),
        ),
        TableEntry(
            "Where runs end",
            tables.falls_sheet(
                evidence.restoration,
                until_say(inputs),
                int(evidence.ablation["iteration"].max()),
            ),
            (inputs.file("evaluate_restoration", "table.csv"),),
            ("evaluate_restoration",),
        ),
        TableEntry(
            "Convergence",
            tables.iterations_sheet(
                evidence.convergence,
                "convergence",
                "Convergence over {iterations} iterations, mean over "
                f"{on(evidence.convergence)}{central_say(inputs, 'evaluate_convergence')}. "
                f"{ADMM_LEVELS} G sees one orientation here (×1). PSNR and SSIM are "
                "of images clipped to [0,1]; the best is in bold, the best iterate chosen by an "
                f"oracle that knows the truth. {GEOMETRIC}",
            ),
            (inputs.file("evaluate_convergence", "table.csv"),),
            ("evaluate_convergence",),
        ),
        TableEntry(
            "Acceleration",
            tables.acceleration_sheet(
                inputs.acceleration,
                f"{on(inputs.acceleration)}{central_say(inputs, 'accelerate')}",
            ),
            (inputs.file("accelerate", "table.csv"),),
            ("accelerate",),
        ),
        TableEntry(
            "Ablation",
            tables.iterations_sheet(
                evidence.ablation,
                "ablation",
                "PnP-GD with G trained beside a fixed or an updated denoiser D, and PnP-ADMM with "
                f"the original or the updated D: mean over {on(evidence.ablation)}"
                f"{central_say(inputs, 'ablate')}, up to "
                "{iterations} iterations. PnP-ADMM stands here twice, within [0,1] and unbounded, "
                "as published, each with the level of D that was tuned for it. PSNR and SSIM are "
                "of images clipped to [0,1]. Best of each pair in bold; the best iterate is chosen "
                f"by an oracle. {GEOMETRIC}"
                f"{findings.seeds_say(evidence.ablation)}",
            ),
            (inputs.file("ablate", "table.csv"),),
            ("ablate",),
        ),
        TableEntry(
            "Diagnostics",
            tables.diagnostics_sheet(inputs.diagnostics),
            (inputs.file("diagnose", "table.csv"),),
            ("diagnose",),
        ),
        TableEntry(
            "Unrolled networks",
            unrolled.unrolled_sheet(
                evidence.unrolled,
                evidence.restoration,
                inputs.unrolled_logs.main_steps,
                on(evidence.unrolled),
            ),
            (inputs.file("finetune_unrolled", "*", "table.csv"),),
            tuple(f"finetune_unrolled@{start}" for start in unrolled.STARTS),
        ),
        TableEntry(
            "What pre-training is worth",
            unrolled.worth_sheet(inputs.unrolled_logs),
            (inputs.file("finetune_unrolled", "*", "logs.csv"),),
            ("finetune_unrolled@reg", "finetune_unrolled@random"),
        ),
        TableEntry(
            "Denoisers",
            tables.denoiser_sheet(inputs.pretrain, inputs.gradient_step, inputs.arms),
            (
                inputs.file("pretrain", "log.csv"),
                inputs.file("train_reg", "*", "*", "log.csv"),
                inputs.file("train_gs", "log.csv"),
            ),
            ("pretrain", "train_reg", "train_gs"),
        ),
        TableEntry(
            "Denoising",
            tables.denoising_sheet(inputs.denoising, inputs.denoiser_costs),
            (
                inputs.file("evaluate_denoising", "table.csv"),
                inputs.file("evaluate_denoising", "costs.csv"),
            ),
            ("evaluate_denoising",),
        ),
        TableEntry(
            "Tuning",
            tables.tuning_sheet(inputs.evidence.trials, inputs.chosen, tuning_trials),
            (inputs.file("tune", "trials.csv"), inputs.file("tune", "chosen.json")),
            ("tune",),
        ),
    ]


def paper_entry(inputs: Inputs, models: Path) -> TableEntry | None:
    """What was done here beside what the paper did, where the profile's parameters are given."""
    if inputs.active is None:
        return None
    sheet = paper_sheet(inputs.active, models, inputs.manifest, inputs.evidence.restoration)
    files = (
        inputs.manifest_file.as_posix(),
        (models / "pretrain" / "denoiser.safetensors").as_posix(),
        (models / "train_reg" / "updated" / "*" / "regularizer.safetensors").as_posix(),
    )
    return TableEntry("How far this is from the paper", sheet, files, ("report",))
