"""Every figure of the report with its title, caption, and the files and stages it comes from."""

from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from reg.claims import CONVERGENCE_TASKS, VISUAL_TASK, Evidence, task_name, tasks_in_order
from reg.report import figures, findings, pictures, unrolled
from reg.report.captions import (
    ADMM_LEVELS,
    ROUNDING,
    central_say,
    crops_say,
    curves_say,
    first_of_seeds,
    named,
    until_say,
)
from reg.report.findings import BOUND, MAP_RESIDUAL, NEAR
from reg.report.inputs import Inputs
from reg.report.page import FigureEntry

Drawn = tuple[FigureEntry, Callable[[], Figure]]


def figure_entries(inputs: Inputs) -> list[Drawn]:
    """Every figure, in the order of the page, and the function that draws it."""
    return [
        _restoration(inputs),
        _inpainting(inputs),
        _convergence(inputs),
        _acceleration(inputs),
        _admm(inputs),
        _limits(inputs),
        _diagnostics(inputs),
        _update_denoiser(inputs),
        _unrolled(inputs),
        *_unrolled_crops(inputs),
        *_lambda(inputs),
        _training(inputs),
        _data(inputs),
    ]


def _restoration(inputs: Inputs) -> Drawn:
    """Every method against PnP-GD, on every task."""
    table, file = inputs.evidence.restoration, inputs.file("evaluate_restoration", "table.csv")
    images = named(inputs.manifest, table["image"].unique())
    return (
        FigureEntry(
            "restoration",
            "All tasks and methods",
            f"PSNR of the last iterate minus that of PnP-GD with ReG, the paper's PnP-ReG, on "
            f"the same image, so what lies left of the line is behind it; {images}. "
            f"The axis is linear within ±{figures.RESTORATION_LINEAR:g} dB and logarithmic "
            "beyond. Small dots are images, large ones means, bars 95 % paired bootstrap "
            "intervals of the mean, lengthened for few images. Beside a task stands the mean PSNR "
            f"of PnP-GD. {findings.TURNED}"
            f"{until_say(inputs)}{findings.seeds_say(table)}",
            (file,),
            ("evaluate_restoration",),
            findings.restoration_says(table),
        ),
        partial(figures.draw_restoration, table),
    )


def _inpainting(inputs: Inputs) -> Drawn:
    """What every method makes of one image from 20 % of its pixels."""
    shown, truth, caption = pictures.inpainting(inputs)
    table = inputs.file("evaluate_restoration", "table.csv")
    images = inputs.file("evaluate_restoration", "images", VISUAL_TASK)
    return (
        FigureEntry(
            "inpainting",
            "Inpainting from 20 % of the pixels",
            caption,
            (table, images),
            ("evaluate_restoration",),
        ),
        partial(figures.draw_comparison, shown, truth),
    )


def _convergence(inputs: Inputs) -> Drawn:
    """PSNR and steps of PnP-GD by iteration, beside PnP-ADMM without and within its bounds."""
    table = inputs.evidence.convergence
    images = named(inputs.manifest, table["image"].unique())
    return (
        FigureEntry(
            "convergence",
            "Convergence of PnP-GD, beside PnP-ADMM",
            f"{curves_say('pnp-gd+x1')} mean over {images}"
            f"{central_say(inputs, 'evaluate_convergence')}. {ADMM_LEVELS} The "
            "end of that fall makes the step jump. G sees one orientation here (×1): where it sees "
            "eight in turn, for which σ and c were tuned, steps end in a cycle of eight. "
            "The plain step and PnP-ADMM unbounded (broad line, without a band) run as published; "
            "the other two keep every iterate within [0,1]."
            f"{ROUNDING.format('drawn')}{first_of_seeds(inputs.evidence.restoration)}",
            (inputs.file("evaluate_convergence", "table.csv"),),
            ("evaluate_convergence",),
        ),
        partial(figures.draw_iterations, table, CONVERGENCE_TASKS, "pnp-gd+x1"),
    )


def _acceleration(inputs: Inputs) -> Drawn:
    """Adam, the plain step and the spectral ones."""
    table = inputs.acceleration
    images = named(inputs.manifest, table["image"].unique())
    return (
        FigureEntry(
            "acceleration",
            "PnP-GD by several schedules",
            "PSNR minus that of Adam's last iterate, mean over "
            f"{images}"
            f"{central_say(inputs, 'accelerate')}, against iteration. Four "
            "start alike and follow one field, of a G that sees another of the eight orientations "
            "at each iteration, but for inpainting without noise, where "
            "the spectral steps hardly depend on σ and the others take the official 1/255; G's "
            "Jacobian is not symmetric, so that there need be no objective: Adam with the "
            "learning rates of the official code, the plain step of the paper's equation, the "
            "spectral step (the metric of the operator) and, accelerated, the same with "
            "Nesterov's momentum, which is PnP-GD elsewhere in this report. In "
            "inpainting Adam as published begins with 0.5 in the holes, which are filled for the "
            "others. The spectral steps keep "
            "every iterate within [0,1], the others have no bounds: where iterates reach "
            f"one, the limits of both kinds can differ. Within ±{NEAR:g} dB, the band, the "
            "axis is linear, beyond it logarithmic; dots and numbers say from which iteration "
            f"on a schedule stays at most {NEAR:g} dB below or above."
            f"{first_of_seeds(inputs.evidence.restoration)}",
            (inputs.file("accelerate", "table.csv"),),
            ("accelerate",),
            findings.acceleration_says(table),
        ),
        partial(figures.draw_acceleration, table),
    )


def _admm(inputs: Inputs) -> Drawn:
    """PnP-ADMM by iteration, with either D."""
    ablation = inputs.evidence.ablation
    table = ablation[ablation["method"].str.startswith("pnp-admm")]
    images = named(inputs.manifest, table["image"].unique())
    return (
        FigureEntry(
            "admm",
            "PnP-ADMM with the original and the updated denoiser",
            "PnP-ADMM with the pre-trained denoiser (dashed) and with the one updated by ReG "
            "training (dark), unbounded, as published (green, broad lines without a band), and "
            "with every iterate kept within [0,1], as PnP-GD's are (orange and brown). The level "
            f"of D is the one tuned for each. {curves_say('pnp-admm@updated')} mean over "
            f"{images}{central_say(inputs, 'ablate')}."
            f"{ROUNDING.format('drawn')}{findings.seeds_say(ablation)}",
            (inputs.file("ablate", "table.csv"),),
            ("ablate",),
        ),
        partial(
            figures.draw_iterations,
            table,
            tasks_in_order(table["task"].tolist()),
            "pnp-admm@updated",
        ),
    )


def _limits(inputs: Inputs) -> Drawn:
    """Where PnP-GD ends, beside PnP-ADMM with either D, and how G meets what D removes there."""
    ablation, diagnostics = inputs.evidence.ablation, inputs.diagnostics
    tested = named(inputs.manifest, ablation["image"].unique())
    validated = named(inputs.manifest, diagnostics["image"].unique(), "validation")
    return (
        FigureEntry(
            "limits",
            "Why PnP-GD ends ahead of PnP-ADMM, or behind it",
            "If D and G obeyed the MAP condition, PnP-GD and PnP-ADMM would have the same "
            "limits. Left: PSNR of the last iterate minus that of PnP-ADMM with the original D, "
            "all within [0,1]; the distance between the two marks of a task is G's and that of "
            "turning it, which PnP-ADMM goes without, the rest that "
            f"of D's update. {tested}{central_say(inputs, 'ablate')}. Small dots are images, large "
            "ones means, bars 95 % paired bootstrap intervals, the axis as in the first figure."
            f"{findings.seeds_say(ablation)} Right: cosine of the angle between G(D(z)) and "
            "z − D(z), z being what PnP-ADMM gave D last; 1 for a pair that obeys the condition. "
            f"Central crops of {validated}; large marks are means."
            f"{first_of_seeds(inputs.evidence.restoration)}",
            (inputs.file("ablate", "table.csv"), inputs.file("diagnose", "table.csv")),
            ("ablate", "diagnose"),
            findings.limits_say(ablation, diagnostics),
        ),
        partial(figures.draw_limits, ablation, diagnostics),
    )


def _diagnostics(inputs: Inputs) -> Drawn:
    """What was measured of the networks themselves."""
    table = inputs.diagnostics
    images = named(inputs.manifest, table["image"].unique(), "validation")
    return (
        FigureEntry(
            "diagnostics",
            "What updating D changes in the networks",
            f"Mean over central crops of {images}. "
            "The pair is D original with G fixed (dashed, hollow) or both updated (solid, "
            f"filled). MAP residual: {MAP_RESIDUAL}, z with noise σ₀; 0 for an exact pair, 1 "
            "for G = 0. Asymmetry: Frobenius norms by Hutchinson's estimator; G is a gradient "
            "and D a prox only where it is 0. Spectral norms, which are local Lipschitz "
            "constants: I − D is nonexpansive where its norm is at most 1, and D firmly "
            "nonexpansive, of which PnP-ADMM's convergence follows, where that of 2D − I is. "
            f"PnP-GD's step μ = 1/(σ²c): a curvature c above {BOUND}, with L the spectral norm "
            "of G's Jacobian, would suffice for stability near the iterate if that were "
            f"symmetric with no negative eigenvalue.{first_of_seeds(inputs.evidence.restoration)}",
            (inputs.file("diagnose", "table.csv"),),
            ("diagnose",),
            findings.diagnostics_says(table),
        ),
        partial(figures.draw_diagnostics, table),
    )


def _update_denoiser(inputs: Inputs) -> Drawn:
    """What PnP-GD restores with G trained beside a fixed and an updated D."""
    rows, shown, limits, crops = pictures.update_denoiser(inputs)
    return (
        FigureEntry(
            "update_denoiser",
            "Training G with D fixed or updated",
            f"Last iterate of PnP-GD on {shown}: each row shows the kept image with the "
            "median PSNR difference between the two (the lower one of an even number), the "
            f"square with the strongest gradients of the truth enlarged. {_whole(inputs)} "
            "Error maps: mean absolute error over colours, each row on a scale of its own."
            f"{first_of_seeds(inputs.evidence.restoration)}{crops}",
            (inputs.file("ablate", "table.csv"), inputs.file("ablate", "images")),
            ("ablate",),
        ),
        partial(figures.draw_update_denoiser, rows, limits),
    )


def _whole(inputs: Inputs) -> str:
    """Of what PSNR is in the figure of the stage `ablate`."""
    side = inputs.central.get("ablate")
    return (
        f"Shown and measured are the central {side} × {side} pixels of an image."
        if side
        else "PSNR is that of the whole image."
    )


def _unrolled(inputs: Inputs) -> Drawn:
    """Unrolled networks while they train, and by their number of steps."""
    evidence = inputs.evidence
    images = named(inputs.manifest, evidence.unrolled["image"].unique())
    return (
        FigureEntry(
            "unrolled",
            "Unrolled gradient descent from four starts",
            "Left: PSNR on the validation images during training, mean over "
            f"{_trainings(inputs)} and the range of them; end to end is a DRUNet of the same "
            f"size without unrolling. Right: {images}, "
            "first seed: networks that were trained from ReG for each number of steps K; one "
            "of them run for other numbers (dashed); and PnP-GD with the same ReG run until it "
            "settles (black).",
            (inputs.file("finetune_unrolled", "*"),),
            tuple(f"finetune_unrolled@{start}" for start in unrolled.STARTS),
            unrolled.unrolled_says(inputs.unrolled_logs),
        ),
        partial(unrolled.draw_unrolled, inputs.unrolled_logs, _descents(evidence)),
    )


def _trainings(inputs: Inputs) -> str:
    seeds = inputs.unrolled_logs.trainings["seed"].nunique()
    return f"{seeds} fine-tuning seed{'s' if seeds > 1 else ''}"


def _descents(evidence: Evidence) -> dict[str, tuple[float, float]]:
    """PSNR of PnP-GD and its iterations, on the tasks and images of the unrolled networks."""
    rows = unrolled.pnp_gd_beside(evidence.unrolled, evidence.restoration)
    means = rows.pivot_table(index="task", columns="metric", values="value")
    return {str(task): (row["psnr"], row["iterations"]) for task, row in means.iterrows()}


def _unrolled_crops(inputs: Inputs) -> list[Drawn]:
    """One figure for every task whose degraded images were kept."""
    table = inputs.evidence.unrolled
    entries: list[Drawn] = []
    for task in tasks_in_order(table["task"].tolist()):
        if not (inputs.results / "evaluate_restoration" / "images" / task).exists():
            continue
        image, kept = unrolled.crops(inputs.results, table, task)
        entry = FigureEntry(
            f"unrolled_{task.replace('.', '_')}",
            f"Unrolled networks: {task_name(task)}",
            f"Test image {image}, of those kept the one with the median PSNR of ReG's start (the "
            "lower one of an even number), first training seed. Below, the square with the "
            f"strongest gradients of the truth.{crops_say(inputs, [image])}",
            (inputs.file("finetune_unrolled", "*", "images"),),
            tuple(f"finetune_unrolled@{start}" for start in unrolled.STARTS),
        )
        truth, kept = pictures.shown(kept[0][1], kept, inputs.cropped)
        draw = partial(figures.draw_comparison, kept, truth, per_row=len(kept))
        entries.append((entry, draw))
    return entries


def _lambda(inputs: Inputs) -> list[Drawn]:
    """The figure of the sweep of λ, where that was run."""
    if inputs.sweep is None:
        return []
    iterations = int(inputs.sweep["iterations"].max())
    own = inputs.active.train_reg.iterations if inputs.active else iterations
    against = "" if own == iterations else f" (the profile's own training has {own:,})"
    line = "" if inputs.lambda_ is None else " The dotted line is the λ in use."
    entry = FigureEntry(
        "lambda",
        "How much λ matters",
        f"G and D trained together from the same start with {inputs.sweep['lambda'].nunique()} "
        f"weights λ of L_G, {iterations:,} iterations each{against}, and measured on the "
        "validation images. "
        "Top: PSNR of PnP-GD by task (filled), of PnP-ADMM, unbounded, with that D at its last "
        "iterate (hollow), both tuned for each λ by equally many trials, and of D itself (dashed); "
        f"bottom: relative MAP residual {MAP_RESIDUAL} of the pair at σ = 25/255.{line} The "
        "numbers come from `make sweep`.",
        (inputs.sweep_file.as_posix(),),
        ("report",),
        findings.lambda_says(inputs.sweep),
    )
    return [(entry, partial(figures.draw_lambda, inputs.sweep, inputs.lambda_))]


def _training(inputs: Inputs) -> Drawn:
    """Curves of all trainings but the unrolled ones."""
    return (
        FigureEntry(
            "training",
            "Training curves",
            "All on validation images or training crops, none on test images. The relative "
            f"MAP residual {MAP_RESIDUAL}, its norms over all crops of a mean together, is 0 "
            "for an exact pair (D, G) and 1 for G = 0; long noisy curves show a running "
            "median. Thin lines, where there are any, are training seeds.",
            tuple(
                inputs.file(*parts, "log.csv")
                for parts in (("pretrain",), ("train_gs",), ("train_reg", "*", "*"))
            ),
            ("pretrain", "train_gs", "train_reg"),
        ),
        partial(figures.draw_training, inputs.pretrain, inputs.gradient_step, inputs.arms),
    )


def _data(inputs: Inputs) -> Drawn:
    """Thumbnails of what each role has."""
    return (
        FigureEntry(
            "data",
            "Images by role",
            f"{pictures.data_says(inputs)} No photograph has two roles.",
            (inputs.manifest_file.as_posix(),),
            ("prepare",),
        ),
        partial(figures.draw_data_sheet, pictures.data_groups(inputs)),
    )
