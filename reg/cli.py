"""`reg`: what a person asks of the package outside the pipeline.

Commands import what they need when they run: `reg --help` should not wait for torch.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reg.errors import InputError, fail

if TYPE_CHECKING:
    from reg.networks import Network
    from reg.restoration import Restoration, Restored


class OneLineCommand(click.Command):
    """A command whose arguments are refused in one line, as all bad input is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _one_line_of_usage(ctx):
            return super().parse_args(ctx, args)


class OneLineGroup(click.Group):
    """A group whose commands are refused in one line, if unknown or wrongly called."""

    command_class = OneLineCommand
    group_class = type

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:  # click shows the help
            return super().parse_args(ctx, args)
        with _one_line_of_usage(ctx):
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        with _one_line_of_usage(ctx):
            return super().resolve_command(ctx, args)


@contextmanager
def _one_line_of_usage(ctx: click.Context) -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        reason = " ".join(error.format_message().split())
        end = "" if reason.endswith((".", "?")) else "."
        fail(InputError(f"{reason}{end} See `{(error.ctx or ctx).command_path} --help`."))


class Place(click.Path):
    """A path. An empty one is refused: it would be the working folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("is empty; name a file or a folder", param, ctx)
        return super().convert(value, param, ctx)


PLACE = Place(path_type=Path)
FILE = Place(dir_okay=False, path_type=Path)


@click.group(name="reg", cls=OneLineGroup)
@click.version_option(package_name="reg")
def main() -> None:
    """PnP-ReG: restore photographs, and look at what `dvc repro` made of the paper."""


@main.command(short_help="Check params.yaml and the data folder.")
def check() -> None:
    """Check params.yaml and the data folder, before any work starts."""
    with _one_line():
        from reg.params import read_params

        params = read_params()
        root = params.data.root
        if root and not Path(root).is_dir():
            raise InputError(f"data.root = {root}: no such folder; correct it in params.yaml")
    source = root or "bundled photographs and dead leaves"
    click.echo(f"params.yaml is valid. Profile {params.profile}, images from {source}.")


@main.command(short_help="Write the report's provenance.json anew.")
def provenance() -> None:
    """Write reports/<profile>/provenance.json anew from the latest run of each stage."""
    with _one_line():
        from reg.params import read_params
        from reg.provenance import write_provenance

        params = read_params()
        path = params.folder("reports", "provenance.json")
        write_provenance(params, path)
    click.echo(str(path))


@main.command(short_help="Print the paper's claims with their verdicts.")
@click.option("--profile", help="Profile whose report is read; default: the one of params.yaml.")
def claims(profile: str | None) -> None:
    """Print the paper's claims with their verdicts, from reports/<profile>/claims.json."""
    path = Path("reports", _profile(profile), "claims.json")
    lines = []
    try:
        for claim in json.loads(path.read_text(encoding="utf-8")):
            lines.append(f"{claim['verdict']:>15}  {claim['id']}: {claim['claim']}")
            lines.append(f"{'':>15}  {claim['evidence']['why']}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        fail(InputError(f"{path}: cannot be read ({error!r}); run `make reproduce` first"))
    for line in lines:
        click.echo(line)


@main.command(short_help="Compare the report with the committed one; nothing is run.")
@click.option("--profile", help="Profile whose report is compared; default: that of params.yaml.")
@click.option("--against", default="HEAD", show_default=True, help="Commit, tag or branch.")
def verify(profile: str | None, against: str) -> None:
    """Compare reports/<profile>/ with the committed one; nothing is run.

    Prints what moved. Exit status 0: byte-identical, or equal within the tolerances declared in
    reg/verify.py; 1: different; 2: nothing to compare.
    """
    with _one_line():
        from reg.verify import verify_reports

        text, agree = verify_reports(_profile(profile), against)
    click.echo(text)
    if not agree:
        raise SystemExit(1)


# --- weights -------------------------------------------------------------------------------


@main.group(short_help="Fetch, import and export network weights.")
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


@weights.command("import", short_help="Convert PyTorch's format into this package's.")
@click.argument("file", type=FILE)
@click.option("-o", "--output", type=FILE, help="Default: weights/<name of FILE>.safetensors.")
@click.option("--key", help="Which network, if FILE holds several: model2, params_ema, …")
@click.option("--force", is_flag=True, help="Overwrite an existing output.")
def import_(file: Path, output: Path | None, key: str | None, force: bool) -> None:
    """Convert FILE, weights of D or G in PyTorch's format, into this package's format."""
    from reg.weights import check_target, import_weights

    output = output or Path("weights", file.name).with_suffix(".safetensors")
    with _one_line():
        check_target(file, output, "import", force=force)
        click.echo(f"{output}: {_described(import_weights(file, output, key))}")


@weights.command(short_help="Convert this package's format for others: PyTorch, ONNX.")
@click.argument("file", type=FILE)
@click.option("--format", "format_", type=click.Choice(["kair", "onnx"]), required=True)
@click.option("-o", "--output", type=FILE, required=True, help=".pth or .pt of kair, .onnx.")
@click.option("--force", is_flag=True, help="Overwrite an existing output.")
def export(file: Path, format_: str, output: Path, force: bool) -> None:
    """Convert FILE, weights of this package, for others.

    `kair` is a file of PyTorch for KAIR, DPIR and deepinv. It holds D, and G of the paper's plain
    form; a G of the residual form, as profiles that take minutes train it, fits into `onnx` alone.
    `onnx` takes images of any size, and needs the extra `onnx`.
    """
    from reg.weights import check_target, export_kair, export_onnx

    with _one_line():
        check_target(file, output, format_, force=force)
        network = (export_kair if format_ == "kair" else export_onnx)(file, output)
        click.echo(f"{output}: {_described(network)}, format {format_}")


@weights.command(short_help="Make weights/released/, which `reg restore` takes.")
@click.option("--profile", help="Whose networks; default: that of params.yaml.")
def release(profile: str | None) -> None:
    """Make weights/released/, which `reg restore` takes, of a profile's networks and results.

    Stored in 16 bits where that costs less than 0.01 dB, with a model card of what was measured.
    """
    with _one_line():
        from reg.release import RELEASED
        from reg.release import release as make

        for file in make(_profile(profile)):
            click.echo(f"{RELEASED / file.name}: {file.stored}, {file.megabytes:.1f} MB")


@weights.command("download", short_help="Fetch a weights file by URL or by name.")
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


def _photographs(command: Command) -> Command:
    """What `restore` and `degrade` have in common."""
    options = [
        click.argument("inputs", nargs=-1, required=True),
        click.option("-o", "--output", type=PLACE, required=True, help="File or folder."),
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


@main.command(short_help="Restore photographs: deblur, enlarge, fill holes, denoise.")
@_photographs
@click.option("--sigma", default=None, help="Noise level /255, or auto. [auto; inpaint: 0]")
@click.option(
    "--method",
    type=click.Choice(["pnp-gd", "admm", "unrolled", "denoiser"]),
    help="[pnp-gd; denoise: denoiser]",
)
@click.option("--iterations", type=int, help="At most so many. [40]")
@click.option("--weights", type=PLACE, help="Folder of the networks.")
@click.option("--compare", is_flag=True, help="Write <output>-compare.png, before and after.")
@click.option("--truth", type=PLACE, help="For its PSNR: a file, or a folder of equal names.")
@click.option("--skip-existing", is_flag=True, help="Go on where a run was interrupted.")
def restore(
    inputs: tuple[str, ...],
    output: Path,
    *,
    task: Any,
    kernel: str | None,
    mask: Path | None,
    sigma: str | None,
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

    PNG, JPEG, TIFF and WebP, gray or colour. Depth, alpha and metadata are kept; TIFF is written
    without compression. Networks are those of --weights, of weights/released/, or of
    models/<profile>/.
    """
    with _one_line():
        from tqdm import tqdm

        from reg import photos, restoration

        if force and skip_existing:
            raise InputError("--force: contradicts --skip-existing; leave one of them out")
        mend = "name another output, overwrite it by --force, or go on by --skip-existing"
        every = photos.pair_files(inputs, output, existing=force or skip_existing, mend=mend)
        pairs = [pair for pair in every if not (skip_existing and pair[1].exists())]
        how = restoration.Restoration.of(
            task, sigma=sigma and _number(sigma), **_known(kernel, mask), **options
        )
        truths = {} if truth is None else {path: _truth_of(path, truth) for path, _ in pairs}
        sheets = {target: _beside(target, "compare") for _, target in pairs if compare}
        photos.check_outputs(
            [target for _, target in pairs],
            sheets.values(),
            [path for path, _ in every],
            [*truths.values(), *_files(kernel, mask)],
            existing=force or skip_existing,
        )
        for path, target in pairs:  # before any work starts
            photo = photos.read_photo(path)
            photos.check_format(target, photo, how.factor)
            with _naming(path):
                how.check(photo.pixels)
            if path in truths:
                reference = photos.read_photo(truths[path])
                with _naming(path):
                    restoration.trimmed(reference.pixels, photo.pixels, how.factor)
        hidden = None if len(pairs) > 1 else True  # None: but on terminals
        for path, target in tqdm(pairs, desc="photographs", leave=False, disable=hidden):
            began, photo = time.monotonic(), photos.read_photo(path)
            known = photos.read_photo(truths[path]).pixels if path in truths else None
            with tqdm(desc=path.name, leave=False, disable=None) as bar:

                def show(done: int, total: int, bar: Any = bar) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                with _naming(path):
                    restored = how.run(photo.pixels, show)
            note = f"{time.monotonic() - began:.1f} s, {_what_was_done(how, restored)}"
            if known is not None:
                before, after = restoration.measure(photo.pixels, restored.image, known)
                note += f", PSNR {before:.2f} → {after:.2f} dB"
            # The sheet first: for --skip-existing the photograph says that all of it is done.
            if compare:
                restoration.draw_comparison(photo.pixels, restored.image, known, sheets[target])
            photos.write_photo(target, photos.Photo(restored.image, photo.metadata))
            tqdm.write(f"{click.format_filename(target)}: {note}")
            sys.stdout.flush()
        if len(every) > len(pairs):
            click.echo(f"{len(every) - len(pairs)} skipped: their outputs exist")
        _say_left_out(inputs)


@main.command(short_help="Make test inputs: blur, reduce, punch holes, add noise.")
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
    task: Any,
    kernel: str | None,
    mask: Path | None,
    factor: int | None,
    known: float | None,
    sigma: str,
    seed: int,
    force: bool,
) -> None:
    """Make what `reg restore` undoes: the same tasks, and noise by --sigma and --seed.

    With --known the mask that was drawn is written beside the output, as <output>-mask.png.
    """
    with _one_line():
        from reg import photos, restoration

        level = restoration.to_sigma(_number(sigma))
        pairs = photos.pair_files(inputs, output, existing=force)
        if known is not None and (mask is not None or task != "inpaint"):
            raise InputError("--known: is for inpaint without --mask; leave one of them out")
        if task == "inpaint" and known is None and mask is None:
            raise InputError(
                "task inpaint: needs a mask; give it by --mask, or draw one by --known"
            )
        given = {"factor": factor} | _known(kernel, mask)
        drawn = {target: _beside(target, "mask") for _, target in pairs if known is not None}
        photos.check_outputs(
            [target for _, target in pairs],
            drawn.values(),
            [path for path, _ in pairs],
            _files(kernel, mask),
            existing=force,
        )

        def needs(path: Path, photo: photos.Photo) -> dict[str, Any]:
            if known is None:
                return given
            height, width = photo.pixels.shape[:2]
            with _naming(path):
                return given | {"mask": restoration.random_mask(height, width, known, seed)}

        for path, target in pairs:  # before any work starts
            photo = photos.read_photo(path)
            photos.check_format(target, photo)
            degradation = restoration.Degradation.of(task, **needs(path, photo))
            with _naming(path):
                degradation.check_whole(*photo.pixels.shape[:2])
        for path, target in pairs:
            photo = photos.read_photo(path)
            options = needs(path, photo)
            made = restoration.degrade(photo.pixels, task, sigma=level, seed=seed, **options)
            if target in drawn:  # first: without it nothing could undo what is written next
                shown = options["mask"][..., None].astype("uint8") * 255
                photos.write_photo(drawn[target], photos.Photo(shown))
            photos.write_photo(target, photos.Photo(made, photo.metadata))
            click.echo(click.format_filename(target))
        _say_left_out(inputs)


def _known(kernel: str | None, mask: Path | None) -> dict[str, Any]:
    """Kernel and mask as `reg.restoration` takes them; read once."""
    from reg import restoration

    return {
        "kernel": None if kernel is None else restoration.to_kernel(kernel),
        "mask": None if mask is None else restoration.read_mask(mask),
    }


def _files(kernel: str | None, mask: Path | None) -> list[Path]:
    """Those of kernel and mask that are files."""
    return [Path(each) for each in (kernel, mask) if each is not None and Path(each).is_file()]


def _number(text: str) -> float | str:
    """A number where it is one; what else is allowed the library knows."""
    try:
        return float(text)
    except ValueError:
        return text


def _truth_of(path: Path, truth: Path) -> Path:
    return truth / path.name if truth.is_dir() else truth


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f"{target.stem}-{what}.png")


def _what_was_done(how: "Restoration", restored: "Restored") -> str:
    """`sigma 2.5 (estimated), 40 iterations`."""
    said = f"sigma {restored.sigma:.3g}"
    if how.sigma == "auto":
        said += " (estimated)"
    if restored.iterations is not None:
        said += f", {restored.iterations} iteration{'s' * (restored.iterations > 1)}"
    return said


def _say_left_out(inputs: tuple[str, ...]) -> None:
    from reg.photos import left_out

    if count := left_out(inputs):
        click.echo(f"{count} left out: no PNG, JPEG, TIFF or WebP by their suffix")


# --- errors --------------------------------------------------------------------------------


@contextmanager
def _one_line() -> Iterator[None]:
    """Input that cannot be used, and files that cannot be written, end in one line."""
    try:
        yield
    except InputError as error:
        fail(error)
    except BrokenPipeError:  # who reads has enough; click ends quietly
        raise
    except MemoryError:
        fail(InputError("the memory is full; crop or reduce the image"))
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        fail(InputError(reason if error.filename is None else f"{error.filename}: {reason}"))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors within are about one photograph of several: say which."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise InputError(f"{path}: {error}") from None


def _profile(given: str | None) -> str:
    """The profile that was named, else that of params.yaml."""
    from reg.params import read_params

    with _one_line():
        return given or read_params().profile
