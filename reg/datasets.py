"""Photographs, dead leaves and folders become a manifest of training, validation and test images.

The manifest is a CSV file with the columns name, role, source, path, width, height, sha256;
`path` is absolute or relative to the manifest's folder, `sha256` is that of the file.
"""

import errno
import fcntl
import hashlib
import io
import mmap
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
import PIL
import skimage
from PIL import Image
from torch import Tensor

from reg.checkpoints import write_whole
from reg.console import progress, say
from reg.dead_leaves import dead_leaves
from reg.errors import InputError
from reg.images import Pixels, read_image, read_pixels, write_pixels

ROLES = ("train", "validation", "test")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}

MEND = "run dvc repro -f prepare"

# Image sizes that the factors 2, 3 and 4 of super-resolution divide.
MULTIPLE = 12

# One broken download among thousands should not cost a night, and no network notices it. More than
# this says that something else is wrong; of fewer than a hundred images none is skipped, because
# there each counts.
SKIPPED_PER_CENT = 1

# Where decoded training images are kept: in memory up to so many MB, else in a file in the folder.
MEMORY_MB = 4096
CACHE = Path("data/cache")

# The cache is synced whenever so many bytes more are written: all that an interruption, be it of
# the power, can lose.
SYNCED_BYTES = 2**30

SKIMAGE_DATA = Path(skimage.__file__).parent / "data"
MATPLOTLIB_DATA = Path(matplotlib.get_data_path()) / "sample_data"

# Colour photographs that the installed packages carry; nothing is downloaded. The motorcycle's
# two views show one scene and so are one photograph: they never get different roles.
PHOTOGRAPHS: dict[str, tuple[Path, ...]] = {
    "astronaut": (SKIMAGE_DATA / "astronaut.png",),
    "chelsea": (SKIMAGE_DATA / "chelsea.png",),
    "coffee": (SKIMAGE_DATA / "coffee.png",),
    "rocket": (SKIMAGE_DATA / "rocket.jpg",),
    "motorcycle": (SKIMAGE_DATA / "motorcycle_left.png", SKIMAGE_DATA / "motorcycle_right.png"),
    "retina": (SKIMAGE_DATA / "retina.jpg",),
    "hubble": (SKIMAGE_DATA / "hubble_deep_field.jpg",),
    "ihc": (SKIMAGE_DATA / "ihc.png",),
    "grace_hopper": (MATPLOTLIB_DATA / "grace_hopper.jpg",),
}


class Row(NamedTuple):
    """One image in the manifest."""

    name: str
    role: str
    source: str
    path: str
    width: int
    height: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """An image file with its role; `label` says in the manifest where it came from."""

    name: str
    role: str
    file: Path
    label: str
    in_place: bool = False


@dataclass(frozen=True)
class Measured:
    """What decoding an image file once tells; width and height are those of the upright image."""

    width: int
    height: int
    pixels_sha256: str
    file_sha256: str


class MappedImages(list[Pixels]):
    """Images whose decoded pixels lie one after the other in a file that is mapped into memory.

    Each is a read-only view (H, W, 3). What is read stays in memory for as long as the system
    has room.
    """

    def __init__(self, path: Path, heights: Sequence[int], widths: Sequence[int]) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._ends = np.cumsum([3 * h * w for h, w in zip(heights, widths, strict=True)])
        flat = np.split(np.frombuffer(self._map, np.uint8), self._ends[:-1])
        super().__init__(
            pixels.reshape(h, w, 3) for pixels, h, w in zip(flat, heights, widths, strict=True)
        )

    def announce(self, k: int, top: int, bottom: int) -> None:
        """Have the system begin to read rows top to bottom of image k; does not wait for it."""
        row = self[k][0].nbytes
        begin = int(self._ends[k]) - self[k].nbytes
        first = (begin + top * row) // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, first, begin + bottom * row - first)


def prepare(
    output: Path,
    *,
    photographs: Mapping[str, Sequence[str]],
    folders: Mapping[str, Sequence[str] | int],
    root: Path | None,
    sizes: Mapping[str, int | None],
    crop: int,
    dead_leaves_count: int,
    dead_leaves_size: int,
    dead_leaves_radii: tuple[float, float] = (1.0, 1000.0),
    seed: int,
) -> Path:
    """Write `output`/manifest.csv and the images that it does not find elsewhere; its path.

    photographs: role -> names from PHOTOGRAPHS.
    folders: role -> folders under `root` whose images (directly in them) have that role; for
      validation also a number of images to hold back, evenly spread over the sorted training
      files. Training reads them in place. Those of the role train that cannot be read are
      skipped, up to 1 % of them, and named in one line; the manifest holds only what is used.
    sizes: role -> side to which the shorter side is reduced (Lanczos, antialiased). Validation and
      test images are then cut to a central square; None leaves them at their size, less the right
      and bottom rows and columns beyond a multiple of 12, and training photographs untouched.
    crop: side of the training crops, into which every training image must fit.
    dead_leaves_count, dead_leaves_size, dead_leaves_radii, seed: additional training images, with
      discs of the least and greatest radius given; each takes its colours from one training image.

    Raises InputError, before anything is written, for unknown names and roles, folders that are
    missing or empty, images that are unreadable (of the training images in folders: more than
    1 %) or too small, and a photograph (by name or by its decoded pixels) in two roles.
    """
    _check_roles("photographs", photographs)
    _check_roles("folders", folders)
    sources = _photograph_sources(photographs) + _folder_sources(root, folders)
    _check_names(sources)
    for role in ROLES:
        if not any(source.role == role for source in sources):
            raise InputError(f"no image has the role {role}: name photographs or a folder for it")
    if dead_leaves_count and dead_leaves_size < crop:
        raise InputError(
            f"dead leaves of size {dead_leaves_size} are smaller than the training crop of {crop}: "
            "make them larger or the crop smaller"
        )
    reduced = sizes.get("train")
    if reduced is not None and reduced < crop:
        raise InputError(
            f"training photographs reduced to {reduced} pixels are smaller than the training crop "
            f"of {crop}: raise sizes.train or lower the crop"
        )
    smallest = {"train": crop, **{role: sizes.get(role) or MULTIPLE for role in ROLES[1:]}}
    measured = _measure_all(sources, smallest)
    _check_duplicates(measured)

    output.mkdir(parents=True, exist_ok=True)
    rows = [
        _row_in_place(output, source, known)
        if source.in_place
        else _write_source(output, source, sizes.get(source.role))
        for source, known in measured.items()
    ]
    rows += _write_dead_leaves(
        output, list(measured), dead_leaves_count, dead_leaves_size, dead_leaves_radii, seed
    )
    manifest = _write_manifest(output / "manifest.csv", rows)
    _say_skipped(sources, measured)
    return manifest


def read_manifest(path: Path, role: str | None = None) -> pd.DataFrame:
    """Rows of a manifest (those of one role), with `path` usable as it stands.

    Raises InputError if the manifest is missing or malformed or a listed file is missing or has
    other bytes than when it was listed.
    """
    table = _read_table(path, role)
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(_check_listed, table["path"], table["sha256"]):
            pass
    return table


def _read_table(path: Path, role: str | None) -> pd.DataFrame:
    try:
        text = path.read_text(encoding="utf-8")
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {MEND}") from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a manifest ({reason}): {MEND}") from error
    missing = [column for column in Row._fields if column not in table.columns]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}: {MEND}")
    if (table.fillna("") == "").any(axis=None):
        raise InputError(f"{path} has incomplete lines: {MEND}")
    unknown = set(table["role"]) - set(ROLES)
    if unknown:
        raise InputError(f"{path} has the unknown role {min(unknown)!r}: {MEND}")
    try:
        table = table.astype({"width": int, "height": int})
    except ValueError as error:
        raise InputError(f"{path} has a width or height that is no number: {MEND}") from error

    if role is not None:
        table = table[table["role"] == role].reset_index(drop=True)
        if table.empty:
            raise InputError(f"{path} has no image with the role {role}: {MEND}")
    table["path"] = [str(path.parent / file) for file in table["path"]]
    return table


def load_images(manifest: Path, role: str, every: int = 1) -> dict[str, Tensor]:
    """Images of one role, name -> (1, 3, H, W) float32 in [0, 1], in the manifest's order.

    Of each set every `every`-th is taken, beginning with the first, and of one that has no more
    than `every` images all.
    """
    table = read_manifest(manifest, role)
    of_set = table.groupby(table["source"].map(set_of))["name"]
    place, size = of_set.cumcount(), of_set.transform("size")
    taken = table[(place % every == 0) | (size <= every)]
    return {
        name: read_image(Path(path))
        for name, path in zip(taken["name"], taken["path"], strict=True)
    }


def load_training_arrays(
    manifest: Path, memory_mb: int = MEMORY_MB, cache: Path = CACHE
) -> list[Pixels]:
    """Training images as uint8 arrays of shape (H, W, 3), in the manifest's order.

    Each is decoded once. If all together take at most `memory_mb` (of 10^6 bytes, in each
    process), they are kept in memory; else they are `MappedImages` in the folder `cache`. The
    pixels are the same either way.

    The cache's file is named by a hash of what decides its content: the listed images' bytes and
    the code that decodes them. So stages, runs and processes share it; one process makes it while
    the others wait, and goes on where one before was interrupted. It may be deleted at any time:
    it is no output of a stage, and the next that needs it makes it again.

    Raises InputError if the manifest or an image is not as `prepare` left it (an image in the
    cache is not looked at again), or if the cache cannot be written; one that does not fit on the
    disk is refused before the first image is decoded.
    """
    table = _read_table(manifest, "train")
    if _sizes(table).sum() > memory_mb * 10**6:
        return _map_cache(table, cache)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_read_listed, *_listed(table)))


def _sizes(table: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Bytes of each image's pixels."""
    pixels: npt.NDArray[np.int64] = (table["width"] * table["height"]).to_numpy(np.int64)
    return 3 * pixels


def _map_cache(table: pd.DataFrame, cache: Path) -> MappedImages:
    path = cache / f"{_cache_key(table)}.pixels"
    ends = _sizes(table).cumsum()
    if not _is_whole(path, ends[-1]):
        try:
            _make_cache(path, table, ends)
        except OSError as error:
            raise InputError(
                f"{path} ({ends[-1] / 1e9:.1f} GB) cannot be written ({error.strerror}): make "
                "room, set data.cache to another folder or raise data.memory_mb"
            ) from error
    return MappedImages(path, table["height"].tolist(), table["width"].tolist())


def _cache_key(table: pd.DataFrame) -> str:
    decoder = PIL.__version__.encode() + Path(__file__).with_name("images.py").read_bytes()
    listed = table[["sha256", "width", "height"]].to_csv(index=False).encode()
    return hashlib.sha256(decoder + listed).hexdigest()[:16]


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _make_cache(path: Path, table: pd.DataFrame, ends: npt.NDArray[np.int64]) -> None:
    """Write the pixels of all images one after the other; `ends` are the bytes where each ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_whole(path, ends[-1]):  # another process made it while this one waited
            return
        partial = path.with_suffix(".partial")
        partial.touch()
        _fill(partial, table, ends)
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def _fill(partial: Path, table: pd.DataFrame, ends: npt.NDArray[np.int64]) -> None:
    written = partial.stat().st_size
    if shutil.disk_usage(partial.parent).free < ends[-1] - written:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    begins = ends - _sizes(table)
    # A block is synced before the next is begun, so all but the last that the file holds are safe.
    blocks = begins // SYNCED_BYTES
    last = blocks[np.searchsorted(begins, max(written, 1)) - 1]
    say(f"  decoding {len(table)} training images once, into {partial.parent}")

    def write(begin: int, file: str, sha256: str, height: int, width: int) -> None:
        pixels = _read_listed(file, sha256, height, width)
        with partial.open("r+b") as stream:
            stream.seek(begin)
            stream.write(np.ascontiguousarray(pixels).data)

    with (
        ThreadPoolExecutor() as pool,
        partial.open("r+b") as stream,
        progress("decoding", len(table), int((blocks < last).sum())) as shown,
    ):
        for block in np.unique(blocks[blocks >= last]):
            inside = blocks == block
            for _ in pool.map(write, begins[inside].tolist(), *_listed(table[inside])):
                shown.step()
            os.fsync(stream.fileno())


def _listed(table: pd.DataFrame) -> tuple["pd.Series[Any]", ...]:
    return table["path"], table["sha256"], table["height"], table["width"]


def _read_listed(file: str, sha256: str, height: int, width: int) -> Pixels:
    _check_listed(file, sha256)
    pixels = read_pixels(Path(file))
    if pixels.shape != (height, width, 3):
        raise InputError(f"{file} is not {width}x{height} pixels, as the manifest says: {MEND}")
    return pixels


def set_of(source: str) -> str:
    """The set that an image is of, from its `source` in the manifest: its folder, or its package.

    `bsd400/12003.jpg` is of bsd400, `scikit-image retina.jpg` of scikit-image, and
    `dead leaves, …` are dead leaves.
    """
    return re.sub(r"(,.*|/[^/]*| \S*)$", "", source)


def _check_roles(key: str, mapping: Mapping[str, object]) -> None:
    for role in mapping:
        if role not in ROLES:
            raise InputError(f"{key}: unknown role {role!r}: use {', '.join(ROLES)}")


def _photograph_sources(photographs: Mapping[str, Sequence[str]]) -> list[Source]:
    role_of: dict[str, str] = {}
    sources = []
    for role in ROLES:
        for name in photographs.get(role, ()):
            if name not in PHOTOGRAPHS:
                known = ", ".join(PHOTOGRAPHS)
                raise InputError(f"photographs.{role}: unknown photograph {name!r}: use {known}")
            if name in role_of:
                raise InputError(
                    f"photographs.{role}: {name} already has the role {role_of[name]}: "
                    "give each photograph once"
                )
            role_of[name] = role
            sources += _views(name, role)
    return sources


def _views(name: str, role: str) -> list[Source]:
    # Training uses all views; measuring on two views would count one scene twice.
    files = PHOTOGRAPHS[name] if role == "train" else PHOTOGRAPHS[name][:1]
    for file in files:
        if not file.is_file():
            raise InputError(
                f"{file} is missing: reinstall scikit-image and matplotlib from wheels"
            )
    names = [file.stem for file in files] if len(files) > 1 else [name]
    package = "matplotlib" if files[0].parent == MATPLOTLIB_DATA else "scikit-image"
    return [
        Source(view, role, file, label=f"{package} {file.name}")
        for view, file in zip(names, files, strict=True)
    ]


def _folder_sources(root: Path | None, folders: Mapping[str, Sequence[str] | int]) -> list[Source]:
    if not folders:
        if root is not None:
            raise InputError(f"data.root is {root} but no folders are named: name them by role")
        return []
    if root is None:
        raise InputError("data.root is not set: set it to the folder that holds the image folders")
    if not root.is_dir():
        raise InputError(f"data.root {root} is not a folder: set it to where the images are")

    sources: list[Source] = []
    held_back = 0
    for role in ROLES:
        value = folders.get(role, ())
        if not isinstance(value, int):
            for folder in value:
                sources += _images_in(root, folder, role)
        elif role == "validation":
            held_back = value
        else:
            raise InputError(f"folders.{role}: {value} is not a list of folders: name folders")
    return _hold_back(sources, held_back)


def _images_in(root: Path, folder: str, role: str) -> list[Source]:
    place = root / folder
    if not (place.is_dir() and os.access(place, os.R_OK | os.X_OK)):
        raise InputError(
            f"folders.{role}: {place} is not a readable folder: check data.root and the name"
        )
    files = sorted(
        file
        for file in place.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    for file in files:
        if any("\ud800" <= letter <= "\udfff" for letter in file.name):  # bytes that are no text
            raise InputError(f"folders.{role}: {place} holds {file.name!a}: rename it in UTF-8")
    if not files:
        raise InputError(
            f"folders.{role}: {place} holds no image ({', '.join(sorted(SUFFIXES))}): "
            "name the folder that holds the files themselves"
        )
    prefix = "-".join(part for part in Path(folder).parts if part not in ("..", os.sep))
    return [
        Source(
            f"{prefix}-{file.stem}" if prefix else file.stem,
            role,
            file,
            label=f"{folder}/{file.name}",
            in_place=role == "train",
        )
        for file in files
    ]


def _hold_back(sources: list[Source], count: int) -> list[Source]:
    """Turn `count` training images, evenly spread over the sorted list, into validation images."""
    if not count:
        return sources
    train = [i for i, source in enumerate(sources) if source.role == "train"]
    if not 0 < count < len(train):
        raise InputError(
            f"folders.validation: cannot hold back {count} of {len(train)} training images: "
            "use a smaller positive number or name a folder"
        )
    held_back = {train[(2 * i + 1) * len(train) // (2 * count)] for i in range(count)}
    return [
        replace(source, role="validation", in_place=False) if i in held_back else source
        for i, source in enumerate(sources)
    ]


def _check_names(sources: Sequence[Source]) -> None:
    file_of: dict[str, Path] = {}
    for source in sources:
        if source.name in file_of:
            raise InputError(
                f"{source.file} and {file_of[source.name]} would both be named {source.name}: "
                "rename one or name its folder once"
            )
        file_of[source.name] = source.file


def _measure_all(sources: Sequence[Source], smallest: Mapping[str, int]) -> dict[Source, Measured]:
    """What is known of each source, less the unreadable training images that may be skipped."""
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda source: _measure(source, smallest[source.role]), sources))
    unreadable = [result for result in results if isinstance(result, InputError)]
    skippable = sum(source.in_place for source in sources)
    if 100 * len(unreadable) > SKIPPED_PER_CENT * skippable:
        raise InputError(
            f"{len(unreadable)} of {skippable} training images cannot be used, but at most "
            f"{SKIPPED_PER_CENT} % may be skipped; the first: {unreadable[0]}"
        )
    return {
        source: result
        for source, result in zip(sources, results, strict=True)
        if isinstance(result, Measured)
    }


def _say_skipped(sources: Sequence[Source], measured: Mapping[Source, Measured]) -> None:
    skipped = [str(source.file) for source in sources if source not in measured]
    if skipped:
        total = sum(source.in_place for source in sources)
        say(f"  {len(skipped)} of {total} training images skipped: {', '.join(skipped)}")


def _measure(source: Source, smallest: int) -> Measured | InputError:
    """What decoding tells; for a training image read in place also why it cannot be decoded."""
    try:
        pixels = read_pixels(source.file)
    except InputError as error:
        if source.in_place:
            return error
        raise
    height, width = pixels.shape[:2]
    if min(width, height) < smallest:
        raise InputError(
            f"{source.file} has {width}x{height} pixels, but {source.role} images need "
            f"{smallest}x{smallest}: remove it or lower the size"
        )
    digest = hashlib.sha256(f"{width}x{height}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return Measured(width, height, digest.hexdigest(), _sha256(source.file))


def _check_duplicates(measured: Mapping[Source, Measured]) -> None:
    first: dict[str, Source] = {}
    for source, known in measured.items():
        twin = first.setdefault(known.pixels_sha256, source)
        if twin.role != source.role:
            raise InputError(
                f"{source.file} ({source.role}) shows the same pixels as {twin.file} "
                f"({twin.role}): remove it from one role"
            )


def _row_in_place(output: Path, source: Source, known: Measured) -> Row:
    # An absolute data.root stays absolute; a relative one moves with the checkout.
    path = source.file
    if not path.is_absolute():  # `output` may be a link to another disk
        path = Path(os.path.relpath(path.absolute(), output.resolve()))
    return Row(
        source.name,
        source.role,
        source.label,
        path.as_posix(),
        known.width,
        known.height,
        known.file_sha256,
    )


def _write_source(output: Path, source: Source, size: int | None) -> Row:
    pixels = read_pixels(source.file)
    if source.role != "train":
        pixels = _reduce_and_cut(pixels, size)
    elif size is not None:
        pixels = _reduce(pixels, size)
    return _write_png(output, source.name, source.role, source.label, pixels)


def _reduce_and_cut(pixels: Pixels, size: int | None) -> Pixels:
    height, width = pixels.shape[:2]
    if size is None:
        return pixels[: height - height % MULTIPLE, : width - width % MULTIPLE]
    reduced = _reduce(pixels, size)
    height, width = reduced.shape[:2]
    top, left = (height - size) // 2, (width - size) // 2
    return reduced[top : top + size, left : left + size]


def _reduce(pixels: Pixels, size: int) -> Pixels:
    """Resize so that the shorter side is `size`; images that are no larger stay as they are."""
    height, width = pixels.shape[:2]
    scale = size / min(height, width)
    if scale >= 1:
        return pixels
    wide_high = round(width * scale), round(height * scale)
    return np.asarray(Image.fromarray(pixels).resize(wide_high, Image.Resampling.LANCZOS))


def _write_dead_leaves(
    output: Path,
    sources: Sequence[Source],
    count: int,
    size: int,
    radii: tuple[float, float],
    seed: int,
) -> list[Row]:
    palettes = [source for source in sources if source.role == "train"]
    rows = []
    with progress("dead leaves", count) as shown:
        for i in range(count):
            palette = palettes[i % len(palettes)]
            colours = read_pixels(palette.file).reshape(-1, 3)
            pixels = dead_leaves(size, colours, np.random.default_rng((seed, i)), *radii)
            label = f"dead leaves, colours of {palette.name}"
            rows.append(_write_png(output, f"dead_leaves_{i:04d}", "train", label, pixels))
            shown.step()
    return rows


def _write_png(output: Path, name: str, role: str, label: str, pixels: Pixels) -> Row:
    path = f"{role}/{name}.png"
    write_pixels(output / path, pixels)
    height, width = pixels.shape[:2]
    return Row(name, role, label, path, width, height, _sha256(output / path))


def _write_manifest(path: Path, rows: Sequence[Row]) -> Path:
    text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
    write_whole(path, text.encode())
    return path


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_listed(file: str, sha256: str) -> None:
    try:
        digest = _sha256(Path(file))
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror}): restore it or {MEND}"
        ) from error
    if digest != sha256:
        raise InputError(f"{file} has changed since the manifest was written: {MEND}")
