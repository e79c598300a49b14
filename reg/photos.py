"""Photographs of any format, with all that belongs to them: depth, alpha and metadata.

`reg.images` reads what the pipeline measures; this module reads and writes what people keep. Files
are PNG, JPEG, TIFF and WebP, told apart by their content when read and by their suffix when
written. Pillow has no colour of 16 bits, so these are read and written through its 8-bit images:
PNG's and TIFF's bytes are rearranged, not interpreted.
"""

import io
import logging
import os
import re
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from glob import glob
from os.path import lexists, realpath
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from reg.checkpoints import write_whole
from reg.errors import InputError

Pixels = npt.NDArray[np.uint8 | np.uint16]

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by PNG's colour type
# First column and row, and steps, of the seven passes of an interlaced PNG.
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
ADAM7 += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
# PNG's other chunks that say how its numbers are to be seen.
PNG_COLOUR = (b"cHRM", b"gAMA", b"sRGB", b"cICP")
# Of the first directory of EXIF only what describes the photograph; the rest describes the file.
DESCRIPTION = {270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, 34665, 34853}
DESCRIPTION |= {40091, 40092, 40093, 40094, 40095}
ORIENTATION, EXIF_FOLDER, GPS_FOLDER, INTEROPERABILITY = 0x0112, 0x8769, 0x8825, 0xA005
WIDTH_AND_HEIGHT = 0xA002, 0xA003
RESOLUTION = 282, 283
RESOLUTION_MOST = 65535  # pixels an inch, JPEG's limit
JPEG_SEGMENT = 65500  # bytes of EXIF, XMP or IPTC that fit into one
# IPTC is a tag of TIFF, and one of Photoshop's resources in JPEG and, as hexadecimal text, in PNG.
IPTC_TAG, IPTC_RESOURCE = 33723, b"8BIM\x04\x04"
IPTC_MARK = b"\x1c"  # with which every entry of the record begins
IPTC_TEXT = "Raw profile type iptc"
# From what EXIF's orientation says to the photograph as it is seen.
TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph as it is seen, and what its file says besides.

    ``pixels`` are (H,W,C), uint8 or uint16, with C = 1 gray, 2 gray and alpha, 3 RGB or 4 RGBA,
    in the colours of the file: nothing is converted by its profile. ``metadata`` may hold
    ``exif`` (without orientation, which the pixels have been turned by), ``icc_profile``, ``xmp``,
    ``iptc``, ``dpi``, ``comment``, and ``chunks``, those of a PNG.
    """

    pixels: Pixels
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_photo(path: Path) -> Photo:
    """Read a PNG, JPEG, TIFF or WebP photograph of 8 or 16 bits; see `Photo`.

    Palettes and bilevel images become colour and gray of 8 bits, and a transparent colour an alpha
    channel. Raises InputError if the file is missing, empty, damaged, truncated or of another
    format; if it holds several images (an animation, a TIFF of several pages), CMYK or another
    colour space than gray and RGB, or 32-bit pixels; or if it claims more than Pillow's limit of
    179 million pixels.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a photograph")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    if not content:
        raise InputError(f"{path}: is empty; replace or remove it")
    try:
        with _quiet(libtiff=content[:2] in (b"II", b"MM")):
            return _decode(path, content)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path}: {_unread(content)}") from None
    except (MemoryError, Image.DecompressionBombError):
        raise InputError(f"{path}: claims too many pixels; crop or reduce it") from None
    # The decoders let almost any exception through when the data are damaged.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: is damaged ({reason}); replace or remove it") from None


def write_photo(path: Path, photo: Photo) -> None:
    """Write a photograph in the format of the suffix, whole or not at all.

    JPEG is written at quality 95 without chroma subsampling, everything else without loss. The
    metadata are those that the format can hold. Raises InputError for an unknown suffix, for
    alpha or depth that the format cannot hold, and if the file cannot be written.
    """
    check_format(path, photo)
    write_whole(path, _encode(FORMATS[path.suffix.lower()], photo))


def check_format(path: Path, photo: Photo | None = None, factor: int = 1) -> None:
    """InputError unless the format of the suffix is known, and can hold the photograph.

    With a ``factor``, the photograph enlarged by it.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: unknown suffix; write one of {', '.join(FORMATS)}")
    if photo is None:
        return
    if photo.pixels.dtype == np.uint16 and kind in ("JPEG", "WEBP"):
        raise InputError(f"{path}: {kind} cannot hold the 16 bits of the input; write .png or .tif")
    if photo.pixels.shape[2] in (2, 4) and kind == "JPEG":
        raise InputError(f"{path}: JPEG cannot hold the alpha channel; write .png, .tif or .webp")
    if kind == "TIFF" and photo.pixels.dtype == np.uint16 and photo.pixels.shape[2] == 2:
        raise InputError(f"{path}: gray and alpha of 16 bits are not read from TIFF; write .png")
    longest = {"WEBP": 16383, "JPEG": 65500}.get(kind)
    if longest and factor * max(photo.pixels.shape) > longest:
        raise InputError(f"{path}: {kind} ends at {longest} pixels a side; write .png or .tif")


# --- files and folders -----------------------------------------------------------------------


def pair_files(
    inputs: Sequence[str],
    output: Path,
    *,
    existing: bool = False,
    mend: str = "name another output, or overwrite it by --force",
) -> list[tuple[Path, Path]]:
    """Each photograph with the file that is to be written of it, sorted; nothing is read yet.

    `inputs` are files, folders (their files of known suffix) and glob patterns. `output` is a file
    if there is one input, which is a file, and `output` has a suffix or exists as a file; else a
    folder, in which outputs keep the names of their inputs.

    Raises InputError if nothing is found, two outputs have one name, an output exists (unless
    `existing` ones are allowed; else `mend` says what to do), a format is unknown, or `output`
    cannot be written to.
    """
    found = sorted({path for each in inputs for path in _expand(each)})
    alone = len(inputs) == 1 and found == [Path(inputs[0])]
    if alone and not output.is_dir() and (output.suffix or output.exists()):
        check_format(output)
        pairs, folder = [(found[0], output)], output.parent
    else:
        _check_album(found, output)
        pairs, folder = [(path, output / path.name) for path in found], output
    taken: dict[Path, Path] = {}
    for path, target in pairs:
        if target.is_dir():
            raise InputError(f"{target}: is a folder; name a file")
        if target in taken:
            raise InputError(f"{path}: would be written to {target}, as would {taken[target]}")
        taken[target] = path
        if lexists(target) and not existing:
            raise InputError(f"{target}: exists; {mend}")
    check_folder(folder)
    return pairs


def _check_album(found: Sequence[Path], folder: Path) -> None:
    """InputError unless these can be written into a folder, by their own names."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; several photographs need a folder")
    if folder.suffix.lower() in FORMATS and not folder.is_dir():
        raise InputError(
            f"{folder}: is the name of a file; folders, patterns and several photographs need that "
            "of a folder"
        )
    for path in found:
        if path.suffix.lower() not in FORMATS:
            raise InputError(
                f"{path}: unknown suffix; leave it out, or convert it to {', '.join(FORMATS)}"
            )


def check_outputs(
    targets: Iterable[Path],
    beside: Iterable[Path],
    photographs: Iterable[Path],
    others: Iterable[Path],
    *,
    existing: bool = False,
) -> None:
    """InputError where a run would write a file twice, or over what it reads.

    A photograph may be replaced by its target, where `existing` files may be overwritten, but
    nothing may by the files written `beside` the targets, and the `others` that are read (mask,
    kernel, truth) by nothing.
    """
    targets, beside = list(targets), list(beside)
    taken: set[str] = set()
    for path in [*targets, *beside]:
        place = realpath(path)
        if place in taken:
            raise InputError(f"{path}: would be written twice; rename one of the photographs")
        taken.add(place)
    kept = {realpath(path) for path in others}
    read = kept | {realpath(path) for path in photographs}
    for paths, untouched in ((targets, kept), (beside, read)):
        for path in paths:
            if realpath(path) in untouched:
                raise InputError(f"{path}: is read by this very run; name another output")
    for path in beside:
        if lexists(path) and not existing:
            raise InputError(f"{path}: exists; remove it, or use --force")


def check_folder(folder: Path) -> None:
    """InputError if nothing can be written to a folder; one that is missing is not made."""
    try:
        nearest = next(place for place in (folder, *folder.parents) if place.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror}); choose another output"
        ) from None


def left_out(inputs: Sequence[str]) -> int:
    """How many files of those `inputs` that are folders are no photographs by their suffix."""
    listed = [path for each in inputs if Path(each).is_dir() for path in _visible(Path(each))]
    return sum(path.suffix.lower() not in FORMATS for path in listed)


def _visible(folder: Path) -> list[Path]:
    listed = [folder / name for name in os.listdir(folder) if not name.startswith(".")]
    return [path for path in listed if path.is_file()]


def _expand(given: str) -> list[Path]:
    if not given:
        raise InputError("an input is empty; name a file, a folder or a pattern")
    path = Path(given)
    if path.is_dir():
        found = [file for file in _visible(path) if file.suffix.lower() in FORMATS]
        if not found:
            raise InputError(f"{path}: holds no photographs ({', '.join(FORMATS)})")
        return found
    if path.exists():
        return [path]
    matches = [Path(match) for match in glob(given, recursive=True)]
    found = [match for match in matches if match.is_file()]
    if not found:
        raise InputError(f"{given}: no such file, folder or match; correct the path")
    return found


# --- reading ---------------------------------------------------------------------------------


@contextmanager
def _quiet(libtiff: bool) -> Iterator[None]:
    """The decoders' warnings would stand beside the one line of an error.

    Those of libtiff, which is C, go to the file descriptor of stderr itself.
    """
    level = logging.root.manager.disable
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, level)
        if libtiff:
            stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, stderr)
            stack.callback(os.dup2, stderr, 2)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        yield


def _decode(path: Path, content: bytes) -> Photo:
    with Image.open(io.BytesIO(content), formats=["PNG", "JPEG", "TIFF", "WEBP"]) as image:
        width, height = image.size
        if width < 1 or height < 1:
            raise InputError(f"{path}: has no pixels; replace or remove it")
        # Phones append previews to a JPEG: its first image is the photograph.
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format in ("PNG", "TIFF", "WEBP"):
            raise InputError(f"{path}: holds {frames} images; extract one")
        if content.startswith(PNG_SIGNATURE) and content[24] == 16:
            pixels = _decode_png16(content)
        elif image.format == "TIFF" and 16 in _bits(image):
            pixels = _decode_tiff16(path, content)
        else:
            pixels = _decode_8bit(path, image)
        metadata, orientation = _read_metadata(image, content)
    # Of a TIFF that is turned, Pillow says the size after, tifffile gives the pixels before.
    if sorted(pixels.shape[:2]) != sorted((height, width)):
        raise InputError(f"{path}: is damaged (two sizes); replace or remove it")
    if orientation in TURNS:
        pixels = TURNS[orientation](pixels)
    return Photo(np.ascontiguousarray(pixels), metadata)


def _unread(content: bytes) -> str:
    """What is wrong with a file that Pillow does not take for an image, and the mend."""
    try:
        with _quiet(libtiff=False), tifffile.TiffFile(io.BytesIO(content)) as file:
            values = file.pages.first.dtype
    # Not a TIFF, or not a whole one.
    except Exception:
        values = None
    if values is None:
        return "is no PNG, JPEG, TIFF or WebP image; convert it"
    return f"is a TIFF of a kind that is not read ({values}); save it as a PNG of 8 or 16 bits"


def _bits(image: Image.Image) -> tuple[int, ...]:
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    return tuple(np.atleast_1d(tags.get(258, 1)).tolist())


def _decode_8bit(path: Path, image: Image.Image) -> Pixels:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise InputError(f"{path}: has pixels of more than 16 bits; save it with 8 or 16")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise InputError(f"{path}: is {image.mode}; convert it to RGB or gray")
    image.load()
    if image.mode in ("P", "PA") or "transparency" in image.info:
        gray = image.mode in ("1", "L")
        transparent = "transparency" in image.info or image.mode == "PA"
        image = image.convert(("L" if gray else "RGB") + ("A" if transparent else ""))
    elif image.mode == "1":
        image = image.convert("L")
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def _decode_png16(content: bytes) -> Pixels:
    """A PNG of 16 bits per channel, as two PNGs of 8.

    PNG filters each byte with the bytes of the same place in neighbouring pixels, so the high bytes
    of all channels, with the filters of the rows, are an image of their own; so are the low ones.
    """
    chunks = list(_png_chunks(content))
    width, height, _, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    channels = PNG_CHANNELS[colour]
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    sizes = [(-((y - height) // dy), -((x - width) // dx)) for x, y, dx, dy in passes]
    sizes = [(rows, columns) for rows, columns in sizes if rows > 0 and columns > 0]
    total = sum(rows * (1 + 2 * channels * columns) for rows, columns in sizes)
    inflate = zlib.decompressobj()
    raw = inflate.decompress(b"".join(data for name, data in chunks if name == b"IDAT"), total)
    if len(raw) < total:
        raise ValueError("truncated")
    scan = np.frombuffer(raw, np.uint8)
    halves: tuple[list[bytes], list[bytes]] = ([], [])
    for rows, columns in sizes:
        lines, scan = np.split(scan, [rows * (1 + 2 * channels * columns)])
        lines = lines.reshape(rows, -1)
        for which, half in enumerate(halves):
            half.append(np.hstack([lines[:, :1], lines[:, 1 + which :: 2]]).tobytes())
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, interlaced)
    high, low = (_png_plane(head, b"".join(half), channels) for half in halves)
    pixels = high.astype(np.uint16) * np.uint16(256) + low
    hidden = [data for name, data in chunks if name == b"tRNS"]
    if hidden and channels in (1, 3):
        key = np.frombuffer(hidden[0], ">u2")
        alpha = np.where((pixels == key).all(axis=2), 0, 65535).astype(np.uint16)
        pixels = np.dstack([pixels, alpha])
    return pixels


def _png_plane(head: bytes, scan: bytes, channels: int) -> npt.NDArray[np.uint8]:
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(scan, 0)), (b"IEND", b"")]
    with Image.open(io.BytesIO(_png_file(parts)), formats=["PNG"]) as image:
        plane = np.asarray(image)
    return plane.reshape(*plane.shape[:2], channels)


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(PNG_SIGNATURE)
    while position < len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        data = content[position + 8 : position + 8 + length]
        (check,) = struct.unpack_from(">I", content, position + 8 + length)
        if zlib.crc32(name + data) != check:
            raise ValueError(f"checksum of {name!r}")
        yield name, data
        if name == b"IEND":
            return
        position += 12 + length
    raise ValueError("truncated")


def _png_file(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    parts = [PNG_SIGNATURE]
    for name, data in chunks:
        checked = name + data
        parts += [struct.pack(">I", len(data)), checked, struct.pack(">I", zlib.crc32(checked))]
    return b"".join(parts)


def _decode_tiff16(path: Path, content: bytes) -> Pixels:
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages.first
        if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
            raise InputError(f"{path}: is neither RGB nor gray with 0 as black; save it as a PNG")
        extra = [int(sample) for sample in page.extrasamples]
        if extra not in ([], [0], [2]) or page.sampleformat != 1:
            raise InputError(f"{path}: its alpha or numbers are unusual; save it as a 16-bit PNG")
        pixels = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, 2)
    return pixels.astype(np.uint16).reshape(*pixels.shape[:2], -1)


def _read_metadata(image: Image.Image, content: bytes) -> tuple[dict[str, Any], int]:
    """What `Photo.metadata` holds, and EXIF's orientation."""
    info = image.info
    metadata = {name: info[name] for name in ("icc_profile", "dpi", "comment") if info.get(name)}
    if not all(0 < each <= RESOLUTION_MOST for each in metadata.get("dpi", ())):  # 0/0 is nan
        metadata.pop("dpi")
    if image.format == "PNG":  # what Pillow calls so elsewhere is a text here
        metadata.pop("comment", None)
        metadata["chunks"] = _describing_chunks(content)
    if image.format == "TIFF" and not {*RESOLUTION} <= {*getattr(image, "tag_v2", {})}:
        metadata.pop("dpi", None)  # Pillow makes one up
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or getattr(image, "tag_v2", {}).get(700)
    if xmp:
        xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
        metadata["xmp"] = re.sub(rb'tiff:Orientation(="|>)[0-9]', rb"tiff:Orientation\g<1>1", xmp)
    if iptc := _read_iptc(image):
        metadata["iptc"] = iptc
    try:
        exif = image.getexif()
        orientation = exif.get(ORIENTATION, 1)
        folders = {tag: dict(exif.get_ifd(tag)) for tag in (EXIF_FOLDER, GPS_FOLDER)}
        kept = Image.Exif()
        if INTEROPERABILITY in folders[EXIF_FOLDER]:  # where it lay in the file that was read
            interoperability = dict(exif.get_ifd(INTEROPERABILITY))
            folders[EXIF_FOLDER][INTEROPERABILITY] = interoperability
        for tag, value in exif.items():
            if tag in DESCRIPTION and tag not in folders:
                kept[tag] = value
        for tag, values in folders.items():
            if values:  # asking for a directory makes one
                kept.get_ifd(tag).update(values)
        if len(kept) or any(folders.values()):
            metadata["exif"] = kept.tobytes()
    # A photograph is worth more than a damaged description of it.
    except Exception:
        return metadata, 1
    return metadata, orientation if isinstance(orientation, int) else 1


def _read_iptc(image: Image.Image) -> bytes:
    """The record of IPTC as it is stored, empty where there is none, or a damaged one."""
    stored = b""
    # As bytes, for many declare them numbers of 32 bits, of which Pillow gives the first.
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        stored = image.tag_v2._tagdata.get(IPTC_TAG, b"")
    if image.format in ("JPEG", "MPO"):
        stored = image.info.get("photoshop", {}).get(0x0404, b"")
    if image.format == "PNG" and IPTC_TEXT in image.info:
        try:  # a line of its name, one of its length, then lines of digits
            block = bytes.fromhex("".join(image.info[IPTC_TEXT].split()[2:]))
            if block.startswith(IPTC_MARK):  # some leave the resource out
                return block
            start = block.index(IPTC_RESOURCE) + len(IPTC_RESOURCE)
            start += block[start] // 2 * 2 + 2  # the resource's own name, padded to be even
            (length,) = struct.unpack_from(">I", block, start)
            stored = block[start + 4 : start + 4 + length]
        except (ValueError, IndexError, struct.error):
            return b""
    return bytes(stored)


def _describing_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Texts and colour of a PNG, as they are stored; not those that are XMP, EXIF or IPTC."""
    names = (*PNG_COLOUR, b"tEXt", b"zTXt", b"iTXt")
    profiles = tuple(b"Raw profile type " + name for name in (b"exif", b"APP1", b"iptc"))
    others = (b"XML:com.adobe.xmp", *profiles)
    chunks = [(name, data) for name, data in _png_chunks(content) if name in names]
    return [chunk for chunk in chunks if not chunk[1].startswith(others)]


# --- writing ---------------------------------------------------------------------------------


def _encode(kind: str, photo: Photo) -> bytes:
    pixels, metadata = photo.pixels, dict(photo.metadata)
    options: dict[str, Any] = {
        name: metadata[name] for name in ("icc_profile", "dpi", "xmp") if name in metadata
    }
    resource = _iptc_resource(metadata.get("iptc", b""))
    if kind == "WEBP":
        options.pop("dpi", None)
        options |= {"lossless": True, "exact": True}
        if pixels.shape[2] < 3:  # WebP is colour, and a gray profile would contradict it
            options.pop("icc_profile", None)
            pixels = np.concatenate([pixels[..., :1]] * 3 + [pixels[..., 1:]], axis=2)
    if kind == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
        options |= {name: metadata[name] for name in ("comment",) if name in metadata}
        if len(options.get("xmp", b"")) > JPEG_SEGMENT:
            options.pop("xmp")
        if 0 < len(resource) <= JPEG_SEGMENT:
            segment = b"Photoshop 3.0\0" + resource
            options["extra"] = b"\xff\xed" + struct.pack(">H", 2 + len(segment)) + segment
    exif = _exif_of_size(metadata.get("exif"), *pixels.shape[:2])
    if kind == "TIFF":
        if xmp := options.pop("xmp", None):
            exif[700] = xmp
        if "iptc" in metadata:
            exif[IPTC_TAG] = metadata["iptc"]
        options["tiffinfo"] = exif  # Pillow cannot compress a TIFF that has EXIF
    elif "exif" in metadata:
        content = exif.tobytes()
        if kind != "JPEG" or len(content) <= JPEG_SEGMENT:
            options["exif"] = content
    if kind == "PNG":
        texts = metadata.get("chunks", [])
        if resource:
            texts = [*texts, _png_iptc(resource)]
        return _encode_png(pixels, options, texts)
    if pixels.dtype == np.uint16:
        return _encode_tiff16(pixels, options)
    return _by_pillow(pixels, kind, options)


def _iptc_resource(iptc: bytes) -> bytes:
    """The record as a resource of Photoshop: without a name, padded to be even."""
    if not iptc:
        return b""
    return IPTC_RESOURCE + struct.pack(">HI", 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)


def _png_iptc(resource: bytes) -> tuple[bytes, bytes]:
    digits = resource.hex()
    lines = [digits[start : start + 72] for start in range(0, len(digits), 72)]
    text = "\n".join(["", "iptc", f"{len(resource):8}", *lines, ""])
    return b"zTXt", IPTC_TEXT.encode() + b"\0\0" + zlib.compress(text.encode())


def _exif_of_size(content: bytes | None, height: int, width: int) -> Image.Exif:
    """EXIF that speaks of the sides of the photograph, where it speaks of them."""
    exif = Image.Exif()
    if content is not None:
        exif.load(content)
        folder = exif.get_ifd(EXIF_FOLDER) if EXIF_FOLDER in exif else {}
        if INTEROPERABILITY in folder:  # itself, not where it lies in `content`
            folder[INTEROPERABILITY] = dict(exif.get_ifd(INTEROPERABILITY))
        for tag, side in zip(WIDTH_AND_HEIGHT, (width, height), strict=True):
            if tag in folder:
                folder[tag] = side
    return exif


def _by_pillow(pixels: Pixels, kind: str, options: Mapping[str, Any]) -> bytes:
    image = Image.fromarray(
        np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    )
    out = io.BytesIO()
    image.save(out, format=kind, **options)
    return out.getvalue()


def _encode_png(
    pixels: Pixels, options: dict[str, Any], chunks: Sequence[tuple[bytes, bytes]]
) -> bytes:
    texts = PngImagePlugin.PngInfo()
    if xmp := options.pop("xmp", None):
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    for name, data in chunks:
        texts.add(name, data)
    options["pnginfo"] = texts
    if pixels.dtype != np.uint16:
        return _by_pillow(pixels, "PNG", options)
    # Pillow writes one pixel with all that surrounds the image; head and data are then exchanged.
    surroundings = _by_pillow(pixels[:1, :1].astype(np.uint8), "PNG", options)
    height, width, channels = pixels.shape
    colour = {count: colour for colour, count in PNG_CHANNELS.items()}[channels]
    raw = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    upper = np.vstack([np.zeros_like(raw[:1]), raw[:-1]])
    filtered = np.hstack([np.full((height, 1), 2, np.uint8), raw - upper])  # filter "up"
    exchanged = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0),
        b"IDAT": zlib.compress(filtered.tobytes(), 6),
    }
    return _png_file(
        [(name, exchanged.get(name, data)) for name, data in _png_chunks(surroundings)]
    )


def _encode_tiff16(pixels: Pixels, options: Mapping[str, Any]) -> bytes:
    """A row of 16-bit pixels is a row of twice as many 8-bit ones: only two tags differ."""
    height, width, channels = pixels.shape
    doubled = pixels.astype("<u2").view(np.uint8).reshape(height, 2 * width, channels)
    content = bytearray(_by_pillow(doubled, "TIFF", options))
    (folder,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, folder)
    for entry in range(folder + 2, folder + 2 + 12 * count, 12):
        tag, kind, values, offset = struct.unpack_from("<HHII", content, entry)
        if tag == 256:
            struct.pack_into("<I" if kind == 4 else "<H", content, entry + 8, width)
        if tag == 258:
            start = entry + 8 if values <= 2 else offset
            struct.pack_into(f"<{values}H", content, start, *[16] * values)
    return bytes(content)
