"""`reg`: what a person asks of the package outside the pipeline."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from reg.console import fail
from reg.errors import InputError
from reg.networks import Denoiser, Network
from reg.params import Params, read_params
from reg.provenance import write_provenance
from reg.verify import verify_reports
from reg.weights import download, export_kair, import_weights


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


@main.command()
@click.option("--profile", help="Profile whose report is compared; default: that of params.yaml.")
@click.option("--against", default="HEAD", show_default=True, help="Commit, tag or branch.")
def verify(profile: str | None, against: str) -> None:
    """Compare reports/<profile>/ with the committed one; nothing is run.

    Prints what moved. Exit status 0: byte-identical, or equal within the tolerances declared in
    reg/verify.py; 1: different; 2: nothing to compare.
    """
    with _one_line():
        text, agree = verify_reports(profile or _params().profile, against)
    click.echo(text)
    if not agree:
        raise SystemExit(1)


# --- weights -------------------------------------------------------------------------------


FILE = click.Path(dir_okay=False, path_type=Path)


@main.group()
def weights() -> None:
    """Fetch, import and export network weights.

    The pipeline takes weights/<profile>/pretrain/denoiser.safetensors for the pre-trained D, and
    weights/<profile>/train_reg/{denoiser,regularizer}.safetensors for G with its updated D,
    instead of training them. For the D from which the paper's training starts:

    \b
      reg weights download drunet_color_fixed_LR.pth
      reg weights import weights/drunet_color_fixed_LR.pth \\
        -o weights/paper/pretrain/denoiser.safetensors
    """


@weights.command("import")
@click.argument("file", type=FILE)
@click.option("-o", "--output", type=FILE, help="Default: weights/<name of FILE>.safetensors.")
@click.option("--key", help="Which network, if FILE holds several: model2, params_ema, …")
def import_(file: Path, output: Path | None, key: str | None) -> None:
    """Convert FILE, weights of D or G in PyTorch's format, into this package's format."""
    output = output or Path("weights", file.name).with_suffix(".safetensors")
    with _one_line():
        click.echo(f"{output}: {_described(import_weights(file, output, key))}")


@weights.command()
@click.argument("file", type=FILE)
@click.option("--format", "format_", type=click.Choice(["kair"]), required=True)
@click.option("-o", "--output", type=FILE, required=True)
def export(file: Path, format_: str, output: Path) -> None:
    """Convert FILE, weights of this package, for others: `kair` also suits DPIR and deepinv."""
    with _one_line():
        click.echo(f"{output}: {_described(export_kair(file, output))}, format {format_}")


@weights.command("download")
@click.argument("source", metavar="NAME|URL")
@click.option("--sha256", help="Of the file's bytes; known of the published names.")
@click.option("-o", "--output", type=FILE, help="Default: weights/<file name>.")
def download_(source: str, sha256: str | None, output: Path | None) -> None:
    """Fetch a weights file by URL, or a published one by name.

    KAIR's denoiser is drunet_color.pth; drunet_color_fixed_LR.pth and ReG.pth are the denoiser and
    the regularizer of PnP-ReG's authors.
    """
    with _one_line():
        click.echo(str(download(source, output, sha256)))


def _described(network: Network) -> str:
    kind = "denoiser" if isinstance(network, Denoiser) else "regularizer"
    size, count = network.network, sum(weight.numel() for weight in network.parameters())
    channels = "-".join(map(str, size.channels))
    return f"{kind}, channels {channels}, blocks {size.blocks}, {count:,} weights"


@contextmanager
def _one_line() -> Iterator[None]:
    """Input that cannot be used, and files that cannot be written, end in one line."""
    try:
        yield
    except InputError as error:
        fail(error)
    except OSError as error:
        fail(InputError(f"{error.filename}: {error.strerror}"))


def _params() -> Params:
    try:
        return read_params()
    except InputError as error:
        fail(error)
