"""Stage `report`: figures, tables, claims and the page, from result tables alone."""

from pathlib import Path

from reg.console import say
from reg.params import Params, read_params
from reg.provenance import code_of_stages, write_provenance
from reg.report import make_report
from reg.report.document import compile_document
from reg.report.paper import origin_of_g, settings_of
from reg.stage import run

CROPPED = ("evaluate_convergence", "accelerate", "ablate")


def work(params: Params) -> Path:
    """Write reports/<profile>/ and print the verdicts."""
    train_reg, reports = params.active.train_reg, params.folder("reports")
    models = params.folder("models")
    ledger = make_report(
        params.profile,
        params.folder("results"),
        models,
        params.folder("data"),
        reports,
        tuning_trials=params.active.tune.trials,
        settings=settings_of(models, train_reg),
        parameters={
            "all stages": {"seed": params.seed, "lambda": params.lambda_},
            **params.active.model_dump(mode="json", by_alias=True),
        },
        code=code_of_stages(),
        lambda_=origin_of_g(models, train_reg).lambda_,
        cropped=bool(params.data.root),  # photographs of others are not given away whole
        central={stage: getattr(params.active, stage).crop for stage in CROPPED},
        active=params.active,
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
