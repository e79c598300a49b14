"""`reg`: what a person asks of the package outside the pipeline.

Commands import what they need when they run: `reg --help` should not wait for torch.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reg.errors import InputError, fail

if TYPE_CHECKING:
    from reg.networks import Network
    from reg.params import Params


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
    from reg.provenance import write_provenance

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
        from reg.verify import verify_reports

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
    from reg.weights import import_weights

    output = output or Path("weights", file.name).with_suffix(".safetensors")
    with _one_line():
        click.echo(f"{output}: {_described(import_weights(file, output, key))}")


@weights.command()
@click.argument("file", type=FILE)
@click.option("--format", "format_", type=click.Choice(["kair", "onnx"]), required=True)
@click.option("-o", "--output", type=FILE, required=True)
def export(file: Path, format_: str, output: Path) -> None:
    """Convert FILE, weights of this package, for others.

    `kair` also suits DPIR and deepinv; `onnx` takes images of any size, and needs the extra `onnx`.
    """
    from reg.weights import export_kair, export_onnx

    with _one_line():
        network = (export_kair if format_ == "kair" else export_onnx)(file, output)
        click.echo(f"{output}: {_described(network)}, format {format_}")


@weights.command()
@click.option("--profile", help="Whose networks; default: that of params.yaml.")
def release(profile: str | None) -> None:
    """Make weights/released/, which `reg restore` takes, of a profile's networks and results.

    Stored in 16 bits where that costs less than 0.01 dB, with a model card of what was measured.
    """
    with _one_line():
        from reg.release import RELEASED
        from reg.release import release as make

        for file in make(profile or _params().profile):
            click.echo(f"{RELEASED / file.name}: {file.stored}, {file.megabytes:.1f} MB")


@weights.command("download")
@click.argument("source", metavar="NAME|URL")
@click.option("--sha256", help="Of the file's bytes; known of the published names.")
@click.option("-o", "--output", type=FILE, help="Default: weights/<file name>.")
def download_(source: str, sha256: str | None, output: Path | None) -> None:
    """Fetch a weights file by URL, or a published one by name.

    KAIR's denoiser is drunet_color.pth; drunet_color_fixed_LR.pth and ReG.pth are the denoiser and
    the regularizer of PnP-ReG's authors.
    """
    from reg.weights import download

    with _one_line():
        click.echo(str(download(source, output, sha256)))


def _described(network: "Network") -> str:
    from reg.networks import Denoiser

    kind = "denoiser" if isinstance(network, Denoiser) else "regularizer"
    size, count = network.network, sum(weight.numel() for weight in network.parameters())
    channels = "-".join(map(str, size.channels))
    return f"{kind}, channels {channels}, blocks {size.blocks}, {count:,} weights"


# --- one's own photographs -----------------------------------------------------------------

SEEDS = 2**63 - 1  # the greatest that torch's generators take

Command = TypeVar("Command", bound=Callable[..., Any])


class OneLineCommand(click.Command):
    """A command whose options are refused in one line, as all bad input is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            reason = " ".join(error.format_message().split())
            fail(InputError(f"{reason} See `reg {ctx.info_name} --help`."))


def _photographs(command: Command) -> Command:
    """What `restore` and `degrade` have in common."""
    options = [
        click.argument("inputs", nargs=-1, required=True),
        click.option(
            "-o", "--output", type=click.Path(path_type=Path), required=True, help="File or folder."
        ),
        click.option(
            "--task", type=click.Choice(["deblur", "sr", "inpaint", "denoise"]), required=True
        ),
        click.option(
            "--kernel", help="Of deblur: gaussian:STD[,STD,ANGLE] in pixels, psf.png or psf.npy."
        ),
        click.option("--factor", type=int, help="Of sr: 2, 3 or 4."),
        click.option("--mask", type=FILE, help="Of inpaint: white is known, black a hole."),
        click.option("--force", is_flag=True, help="Overwrite existing outputs."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command(cls=OneLineCommand)
@_photographs
@click.option("--sigma", default=None, help="Noise level /255, or auto. [auto; inpaint: 0]")
@click.option(
    "--method",
    type=click.Choice(["pnp-gd", "admm", "unrolled", "denoiser"]),
    help="[pnp-gd; denoise: denoiser]",
)
@click.option("--iterations", type=int, help="At most so many. [40]")
@click.option("--weights", type=click.Path(path_type=Path), help="Folder of the networks.")
@click.option("--compare", is_flag=True, help="Write <output>-compare.png, before and after.")
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    help="For its PSNR: a file, or a folder of equal names.",
)
@click.option("--skip-existing", is_flag=True, help="Go on where an interrupted run ended.")
def restore(
    inputs: tuple[str, ...],
    output: Path,
    *,
    kernel: str | None,
    mask: Path | None,
    sigma: str | None,
    weights: Path | None,
    compare: bool,
    truth: Path | None,
    force: bool,
    skip_existing: bool,
    **options: Any,
) -> None:
    """Restore photographs: INPUTS are files, folders or glob patterns.

    \b
      reg restore in.png -o out.png --task deblur --kernel gaussian:1.6 --sigma 2.55
      reg restore photos/ -o large/ --task sr --factor 2
      reg restore scan.tif -o whole.tif --task inpaint --mask mask.png
      reg restore in.jpg -o out.png --task denoise

    PNG, JPEG, TIFF and WebP, gray or colour. Depth, alpha and metadata are kept. Networks are those
    of --weights, of weights/released/, or of models/<profile>/.
    """
    with _one_line():
        from tqdm import tqdm

        from reg import photos, restoration

        level: Any = sigma if sigma in (None, "auto") else _number("--sigma", sigma or "")
        pairs = photos.pair_files(inputs, output, force=force, skip=skip_existing)
        options |= _known(kernel, mask)
        options["weights"] = restoration.find_weights(weights)
        degradation = restoration.Degradation.of(
            options["task"], options.get("kernel"), options["factor"], options.get("mask")
        )
        factor = degradation.factor or 1
        if compare:
            _must_differ(_comparison(target) for _, target in pairs)
        for path, target in pairs:  # before any work starts
            photo = photos.read_photo(path)
            height, width = photo.pixels.shape[:2]
            photos.check_format(target, photo, factor)
            degradation.check_size(height, width)
            restoration.check_memory(height, width, factor)
            if truth is not None:
                reference = photos.read_photo(_truth_of(path, truth))
                restoration.trimmed(reference.pixels, photo.pixels, factor)
            if compare and _comparison(target).exists() and not force:
                raise InputError(f"{_comparison(target)}: exists; remove it, or use --force")
        for path, target in pairs:
            began, photo = time.monotonic(), photos.read_photo(path)
            known = None if truth is None else photos.read_photo(_truth_of(path, truth)).pixels
            with tqdm(desc=path.name, leave=False, disable=None) as bar:  # on terminals only

                def show(done: int, total: int, bar: Any = bar) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                restored = photos.Photo(
                    restoration.restore(photo.pixels, sigma=level, notify=show, **options),
                    photo.metadata,
                )
            note = f"{time.monotonic() - began:.1f} s"
            if known is not None:
                before, after = restoration.measure(photo.pixels, restored.pixels, known)
                note += f", PSNR {before:.2f} → {after:.2f} dB"
            photos.write_photo(target, restored)
            if compare:
                restoration.draw_comparison(
                    photo.pixels, restored.pixels, known, _comparison(target)
                )
            click.echo(f"{target}: {note}")


@main.command(cls=OneLineCommand)
@_photographs
@click.option(
    "--known", type=float, help="Of inpaint, instead of --mask: percentage of the pixels that stay."
)
@click.option("--sigma", default="0", help="Noise level /255. [0]")
@click.option("--seed", type=click.IntRange(0, SEEDS), default=0, help="Of noise and holes. [0]")
def degrade(
    inputs: tuple[str, ...],
    output: Path,
    *,
    task: str,
    kernel: str | None,
    mask: Path | None,
    known: float | None,
    sigma: str,
    seed: int,
    force: bool,
    **options: Any,
) -> None:
    """Make what `reg restore` undoes: the same tasks, and noise by --sigma and --seed.

    With --known the mask that was drawn is written beside the output, as <output>-mask.png.
    """
    with _one_line():
        from reg import photos, restoration

        level = _number("--sigma", sigma)
        pairs = photos.pair_files(inputs, output, force=force)
        options |= _known(kernel, mask)
        if known is not None and (mask is not None or task != "inpaint"):
            raise InputError("--known: is for inpaint without --mask; leave one of them out")
        drawn = {target: target.with_name(f"{target.stem}-mask.png") for _, target in pairs}
        if known is not None:
            _must_differ(drawn.values())
        for path, target in pairs:  # before any work starts
            photo = photos.read_photo(path)
            photos.check_format(target, photo)
            height, width = photo.pixels.shape[:2]
            given = options.get("mask")
            if known is not None:
                given = restoration.random_mask(height, width, known, seed)
                if drawn[target].exists() and not force:
                    raise InputError(f"{drawn[target]}: exists; remove it, or use --force")
            restoration.Degradation.of(
                task,  # type: ignore[arg-type]
                options.get("kernel"),
                options["factor"],
                given,
            ).check_whole(height, width)
        for path, target in pairs:
            photo = photos.read_photo(path)
            if known is not None:
                height, width = photo.pixels.shape[:2]
                options["mask"] = restoration.random_mask(height, width, known, seed)
            made = restoration.degrade(photo.pixels, task, sigma=level, seed=seed, **options)  # type: ignore[arg-type]
            photos.write_photo(target, photos.Photo(made, photo.metadata))
            if known is not None:
                shown = options["mask"][..., None].astype("uint8") * 255
                photos.write_photo(drawn[target], photos.Photo(shown))
            click.echo(str(target))


def _known(kernel: str | None, mask: Path | None) -> dict[str, Any]:
    """Kernel and mask, where they are given, as `reg.restoration` takes them; read once."""
    from reg import restoration

    options: dict[str, Any] = {}
    if kernel is not None:
        options["kernel"] = restoration.to_kernel(kernel)
    if mask is not None:
        options["mask"] = restoration.read_mask(mask)
    return options


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name} {text}: must be a number") from None


def _truth_of(path: Path, truth: Path) -> Path:
    return truth / path.name if truth.is_dir() else truth


def _must_differ(targets: Iterable[Path]) -> None:
    """InputError where two photographs, equal but for their suffixes, would share a file."""
    seen: set[Path] = set()
    for target in targets:
        if target in seen:
            raise InputError(f"{target}: would be written twice; rename one of the photographs")
        seen.add(target)


def _comparison(target: Path) -> Path:
    return target.with_name(f"{target.stem}-compare.png")


# --- errors --------------------------------------------------------------------------------


@contextmanager
def _one_line() -> Iterator[None]:
    """Input that cannot be used, and files that cannot be written, end in one line."""
    try:
        yield
    except InputError as error:
        fail(error)
    except OSError as error:
        fail(InputError(f"{error.filename}: {error.strerror}"))


def _params() -> "Params":
    from reg.params import read_params

    try:
        return read_params()
    except InputError as error:
        fail(error)
