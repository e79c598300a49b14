"""`reg`: what a person asks of the package outside the pipeline."""

import json
from pathlib import Path

import click

from reg.console import fail
from reg.errors import InputError
from reg.params import Params, read_params
from reg.provenance import write_provenance


@click.group()
@click.version_option(package_name="reg")
def main() -> None:
    """PnP-ReG: reproduce the paper by `dvc repro`; these commands look at it."""


@main.command()
def check() -> None:
    """Check params.yaml and the data folder, before any work starts."""
    params = _params()
    root = params.data.root
    if root and not Path(root).is_dir():
        fail(InputError(f"data.root = {root}: no such folder; correct it in params.yaml"))
    source = root or "bundled photographs and dead leaves"
    click.echo(f"params.yaml is valid. Profile {params.profile}, images from {source}.")


@main.command()
def provenance() -> None:
    """Write reports/<profile>/provenance.json anew from the latest run of each stage."""
    params = _params()
    path = params.folder("reports", "provenance.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_provenance(params, path)
    click.echo(str(path))


@main.command()
@click.option("--profile", help="Profile whose report is read; default: the one of params.yaml.")
def claims(profile: str | None) -> None:
    """Print the paper's claims with their verdicts, from reports/<profile>/claims.json."""
    path = Path("reports", profile or _params().profile, "claims.json")
    try:
        for claim in json.loads(path.read_text(encoding="utf-8")):
            click.echo(f"{claim['verdict']:>15}  {claim['id']}: {claim['claim']}")
            click.echo(f"{'':>15}  {claim['evidence']['why']}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        fail(InputError(f"{path}: cannot be read ({error!r}); run `make reproduce` first"))


def _params() -> Params:
    try:
        return read_params()
    except InputError as error:
        fail(error)
