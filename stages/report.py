"""Stage `report`: figures, tables, claims and the page, from result tables alone."""

from pathlib import Path

from reg.console import say
from reg.params import Params, read_params
from reg.provenance import code_of_stages, write_provenance
from reg.report import make_report
from reg.report.document import compile_document
from reg.stage import run

CROPPED = ("evaluate_convergence", "accelerate", "ablate")


def work(params: Params) -> Path:
    """Write reports/<profile>/ and print the verdicts."""
    train_reg, reports = params.active.train_reg, params.folder("reports")
    ledger = make_report(
        params.profile,
        params.folder("results"),
        params.folder("models"),
        params.folder("data"),
        reports,
        tuning_trials=params.active.tune.trials,
        settings={
            "λ": train_reg.lambda_,
            "form of G": f"{train_reg.form}, scale {train_reg.scale:g}, start {train_reg.start}",
            "training seeds of ReG": f"{', '.join(map(str, train_reg.seeds))}; methods are tuned "
            f"with the networks of {train_reg.seeds[0]}, whose step of PnP-GD evaluate_restoration "
            "carries over to the others by the norm of G's Jacobian",
        },
        parameters={
            "all stages": {"seed": params.seed, "lambda": params.lambda_},
            **params.active.model_dump(mode="json", by_alias=True),
        },
        code=code_of_stages(),
        lambda_=train_reg.lambda_,
        cropped=bool(params.data.root),  # photographs of others are not given away whole
        central={stage: getattr(params.active, stage).crop for stage in CROPPED},
    )
    for claim in ledger:
        say(f"  {claim['id']}: {claim['verdict']}")
    compile_document(reports / "report.tex")
    return reports / "index.md"


if __name__ == "__main__":
    run("report", work)
    # After the stage, so that its own time counts; no output of DVC's, as times differ each run.
    params = read_params()
    write_provenance(params, params.folder("reports", "provenance.json"))
