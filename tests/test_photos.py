import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin

from reg.errors import InputError
from reg.photos import (
    ADAM7,
    ORIENTATION,
    Photo,
    check_folder,
    check_format,
    left_out,
    pair_files,
    read_photo,
    write_photo,
)

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"<x:xmpmeta><rdf:Description tiff:Orientation='1'/></x:xmpmeta>"
IPTC = b"\x1c\x02\x05\x00\x05Title\x1c\x02\x19\x00\x03sea"  # an odd number of bytes
LOSSLESS = [".png", ".tif", ".webp"]


def pixels_of(channels: int, dtype: type, height: int = 13, width: int = 17) -> np.ndarray:
    generator = np.random.default_rng(channels)
    return generator.integers(
        0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype, endpoint=True
    )


def exif_bytes() -> bytes:
    exif = Image.Exif()
    exif[271] = "Maker"
    exif[0x8769] = {33434: (1, 100), 0xA002: 999, 0xA003: 999, 0xA005: {1: "R98", 2: b"0100"}}
    exif.get_ifd(0x8825).update({1: "N"})
    return exif.tobytes()


def exif_of(photo: Photo) -> Image.Exif:
    exif = Image.Exif()
    exif.load(photo.metadata["exif"])
    return exif


# --- what is kept ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_depth_alpha_and_metadata_go_through(
    suffix: str, dtype: type, channels: int, tmp_path: Path
) -> None:
    path, pixels = tmp_path / f"a{suffix}", pixels_of(channels, dtype)
    metadata = {"exif": exif_bytes(), "icc_profile": ICC, "xmp": XMP, "dpi": (300, 300)}
    metadata["iptc"] = IPTC
    if dtype is np.uint16 and (suffix == ".webp" or (suffix, channels) == (".tif", 2)):
        with pytest.raises(InputError, match=r"a\.(webp|tif)"):
            write_photo(path, Photo(pixels, metadata))
        assert not path.exists()
        return
    write_photo(path, Photo(pixels, metadata))
    back = read_photo(path)
    if suffix == ".webp" and channels < 3:  # WebP has no gray
        pixels = np.concatenate([pixels[..., :1]] * 3 + [pixels[..., 1:]], axis=2)
    else:
        assert back.metadata["icc_profile"] == ICC
    assert back.pixels.dtype == dtype
    np.testing.assert_array_equal(back.pixels, pixels)
    assert back.metadata["xmp"] == XMP
    exif = exif_of(back)
    assert exif[271] == "Maker"
    assert exif.get_ifd(0xA005) == {1: "R98", 2: b"0100"}
    described = {**exif.get_ifd(0x8769), 0xA005: ...}  # where that directory lies
    assert described == {33434: (1, 100), 0xA002: 17, 0xA003: 13, 0xA005: ...}
    assert exif.get_ifd(0x8825) == {1: "N"}
    assert back.metadata.get("iptc") == (None if suffix == ".webp" else IPTC)  # WebP has no place
    if suffix != ".webp":
        assert back.metadata["dpi"] == pytest.approx((300, 300), abs=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_keeps_metadata_and_nearly_the_pixels(channels: int, tmp_path: Path) -> None:
    rows, columns = np.mgrid[:40, :56]
    pixels = np.stack([rows + columns * (1 + c) for c in range(channels)], 2).astype(np.uint8)
    path = tmp_path / "a.jpg"
    write_photo(
        path, Photo(pixels, {"icc_profile": ICC, "exif": exif_bytes(), "comment": b"a walk"})
    )
    back = read_photo(path)
    assert back.pixels.shape == pixels.shape
    assert np.abs(back.pixels.astype(int) - pixels).max() < 8
    assert back.metadata["icc_profile"] == ICC
    assert back.metadata["comment"] == b"a walk"
    assert exif_of(back)[271] == "Maker"


@pytest.mark.parametrize(("channels", "dtype"), [(2, np.uint8), (4, np.uint8), (3, np.uint16)])
def test_jpeg_refuses_what_it_cannot_hold(channels: int, dtype: type, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.jpg: JPEG cannot hold"):
        write_photo(tmp_path / "a.jpg", Photo(pixels_of(channels, dtype)))
    assert list(tmp_path.iterdir()) == []


def test_an_enlarged_photograph_may_be_too_large_for_its_format() -> None:
    photo = Photo(np.zeros((1, 6000, 3), np.uint8))
    check_format(Path("a.webp"), photo, 2)
    with pytest.raises(InputError, match=r"a\.webp: WEBP ends at 16383 pixels a side"):
        check_format(Path("a.webp"), photo, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_texts_and_gamma_of_a_png_are_kept(dtype: type, tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "A. Nonymous")
    info.add_itxt("Title", "Über allen Gipfeln")
    info.add(b"gAMA", struct.pack(">I", 100000))
    Image.fromarray(pixels_of(3, np.uint8)).save(tmp_path / "a.png", pnginfo=info)
    photo = read_photo(tmp_path / "a.png")
    write_photo(tmp_path / "b.png", Photo(photo.pixels.astype(dtype), photo.metadata))
    with Image.open(tmp_path / "b.png") as image:
        image.load()
        assert image.info["Author"] == "A. Nonymous"
        assert image.info["Title"] == "Über allen Gipfeln"
        assert image.info["gamma"] == 1.0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_orientation_is_applied_once(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[271] = "Maker"
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels_of(3, np.uint8)).save(path, exif=exif)
    photo = read_photo(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(photo.pixels, np.asarray(ImageOps.exif_transpose(image)))
    write_photo(tmp_path / "b.png", photo)
    with Image.open(tmp_path / "b.png") as image:
        assert ORIENTATION not in image.getexif()
        assert image.getexif()[271] == "Maker"
        np.testing.assert_array_equal(np.asarray(image), photo.pixels)


def test_orientation_in_a_text_of_a_png_is_applied_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = exif.tobytes()
    texts = PngImagePlugin.PngInfo()  # as ImageMagick writes EXIF
    texts.add_text(
        "Raw profile type exif", f"\nexif\n{len(content):8}\n{content.hex()}\n", zip=True
    )
    Image.fromarray(pixels_of(3, np.uint8)).save(tmp_path / "a.png", pnginfo=texts)
    photo = read_photo(tmp_path / "a.png")
    assert photo.pixels.shape == (17, 13, 3)
    write_photo(tmp_path / "b.png", photo)
    np.testing.assert_array_equal(read_photo(tmp_path / "b.png").pixels, photo.pixels)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_metadata_that_a_format_cannot_hold_are_left_out(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x927C] = bytes(70_000)
    long = {"exif": exif.tobytes(), "xmp": b"<x:xmpmeta>" + b"a" * 70_000 + b"</x:xmpmeta>"}
    long |= {"iptc": bytes(70_000)} if suffix != ".webp" else {}
    write_photo(tmp_path / f"a{suffix}", Photo(pixels_of(3, np.uint8), long))
    kept = read_photo(tmp_path / f"a{suffix}").metadata.keys() & long.keys()
    assert kept == (set() if suffix == ".jpg" else long.keys())


@pytest.mark.parametrize("order", ["<", ">"])
def test_iptc_is_read_as_others_write_it(order: str, tmp_path: Path) -> None:
    """In a TIFF as numbers of 32 bits; in a JPEG and a PNG after another resource, with a name."""
    pixels, record = pixels_of(3, np.uint8), IPTC + b"\0" * (-len(IPTC) % 4)
    numbers = np.frombuffer(record, f"{order}u4").tolist()
    tags = [(33723, 4, len(numbers), numbers, True)]
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", byteorder=order, extratags=tags)
    assert read_photo(tmp_path / "a.tif").metadata["iptc"] == record
    digest = b"8BIM\x04\x25\0\0" + (16).to_bytes(4, "big") + bytes(16)
    named = b"8BIM\x04\x04\x03abc" + len(IPTC).to_bytes(4, "big") + IPTC + b"\0"
    segment = b"Photoshop 3.0\0" + digest + named
    extra = b"\xff\xed" + (2 + len(segment)).to_bytes(2, "big") + segment
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.jpg", extra=extra)
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type iptc", f"\niptc\n{len(segment)}\n{segment.hex()}\n", zip=True)
    image.save(tmp_path / "a.png", pnginfo=text)
    bare = PngImagePlugin.PngInfo()
    bare.add_text("Raw profile type iptc", f"\niptc\n{len(IPTC)}\n{IPTC.hex()}\n")
    image.save(tmp_path / "b.png", pnginfo=bare)
    for name in ("a.jpg", "a.png", "b.png"):
        assert read_photo(tmp_path / name).metadata["iptc"] == IPTC


@pytest.mark.parametrize(
    "text", ["", "\niptc\n4\nzz", "\niptc\n4\n3842494d0404", "no profile at all"]
)
def test_damaged_iptc_does_not_matter(text: str, tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Raw profile type iptc", text)
    Image.fromarray(pixels_of(3, np.uint8)).save(tmp_path / "a.png", pnginfo=texts)
    photo = read_photo(tmp_path / "a.png")
    assert "iptc" not in photo.metadata
    write_photo(tmp_path / "b.jpg", photo)


@pytest.mark.parametrize("resolution", [(0, 0), (1, 0), (2**31, 1)])
def test_a_resolution_that_is_none_does_not_matter(
    resolution: tuple[int, int], tmp_path: Path
) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[282] = tags[283] = TiffImagePlugin.IFDRational(*resolution)
    Image.fromarray(pixels_of(3, np.uint8)).save(tmp_path / "a.tif", tiffinfo=tags)
    photo = read_photo(tmp_path / "a.tif")
    for suffix in (".png", ".jpg", ".tif", ".webp"):
        write_photo(tmp_path / f"b{suffix}", photo)
        found = read_photo(tmp_path / f"b{suffix}").metadata.get("dpi")
        assert found is None or found == (72, 72)  # which Pillow takes JPEGs to have


def test_no_directory_is_added_to_the_description(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271] = "Maker"
    Image.fromarray(pixels_of(3, np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    write_photo(tmp_path / "b.jpg", read_photo(tmp_path / "a.jpg"))
    with Image.open(tmp_path / "b.jpg") as image:
        assert dict(image.getexif()) == {271: "Maker"}


def test_no_resolution_is_invented(tmp_path: Path) -> None:
    Image.fromarray(pixels_of(3, np.uint8)).save(tmp_path / "a.tif")
    write_photo(tmp_path / "b.tif", read_photo(tmp_path / "a.tif"))
    write_photo(tmp_path / "b.png", read_photo(tmp_path / "a.tif"))
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert not {282, 283} & {tag.code for tag in file.pages.first.tags}
    with Image.open(tmp_path / "b.png") as image:
        assert "dpi" not in image.info


# --- 16 bits ---------------------------------------------------------------------------------


def paeth(a: int, b: int, c: int) -> int:
    near = [(abs(b - c), a), (abs(a - c), b), (abs(a + b - 2 * c), c)]
    return min(near, key=lambda pair: pair[0])[1]


def png16(pixels: np.ndarray, colour: int, interlaced: bool, extra: bytes = b"") -> bytes:
    """A PNG that uses all five filters, written byte by byte from the specification."""
    height, width, channels = pixels.shape
    step, data = 2 * channels, bytearray()
    for x0, y0, dx, dy in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        part = pixels[y0::dy, x0::dx].astype(">u2")
        if 0 in part.shape:
            continue
        upper = bytes(part.shape[1] * step)
        for row, line in enumerate(part):
            raw, kind = line.tobytes(), row % 5
            data.append(kind)
            for i, value in enumerate(raw):
                a = raw[i - step] if i >= step else 0
                c = upper[i - step] if i >= step else 0
                b = upper[i]
                guess = (0, a, b, (a + b) // 2, paeth(a, b, c))[kind]
                data.append((value - guess) % 256)
            upper = raw

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, int(interlaced))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", head),
            extra and chunk(b"tRNS", extra),
            chunk(b"IDAT", zlib.compress(bytes(data))),
            chunk(b"IEND", b""),
        ]
    )


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("channels", "colour"), [(1, 0), (2, 4), (3, 2), (4, 6)])
@given(height=st.integers(1, 12), width=st.integers(1, 12))
@settings(max_examples=10)
def test_16_bit_png_with_every_filter(
    channels: int,
    colour: int,
    interlaced: bool,
    height: int,
    width: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("png") / "a.png"
    pixels = pixels_of(channels, np.uint16, height, width)
    path.write_bytes(png16(pixels, colour, interlaced))
    np.testing.assert_array_equal(read_photo(path).pixels, pixels)


def test_transparent_colour_of_a_16_bit_png(tmp_path: Path) -> None:
    pixels = pixels_of(3, np.uint16)
    key = pixels[2, 3].astype(">u2").tobytes()
    (tmp_path / "a.png").write_bytes(png16(pixels, 2, False, key))
    alpha = np.full((13, 17, 1), 65535)
    alpha[2, 3] = 0
    np.testing.assert_array_equal(
        read_photo(tmp_path / "a.png").pixels, np.concatenate([pixels, alpha], 2)
    )


def test_16_bit_files_are_what_others_read(tmp_path: Path) -> None:
    pixels = pixels_of(4, np.uint16)
    write_photo(tmp_path / "a.tif", Photo(pixels))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), pixels)
    write_photo(tmp_path / "a.png", Photo(pixels))
    with Image.open(tmp_path / "a.png") as image:  # Pillow keeps the high bytes
        np.testing.assert_array_equal(np.asarray(image), pixels >> 8)


@pytest.mark.parametrize(
    "options",
    [
        {"byteorder": ">"},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw", "predictor": True},
        {"compression": "zstd"},
        {"planarconfig": "separate"},
        {"tile": (16, 16)},
    ],
)
def test_16_bit_tiffs_of_others(options: dict[str, object], tmp_path: Path) -> None:
    pixels = pixels_of(3, np.uint16)
    stored = np.moveaxis(pixels, 2, 0) if "planarconfig" in options else pixels
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **options)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.tif").pixels, pixels)


# --- 8 bits ----------------------------------------------------------------------------------


def test_palettes_bilevel_and_transparent_colours(tmp_path: Path) -> None:
    colour = Image.fromarray(pixels_of(3, np.uint8))
    palette = colour.quantize(16)
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(
        read_photo(tmp_path / "p.png").pixels, np.asarray(palette.convert("RGB"))
    )
    palette.save(tmp_path / "t.png", transparency=3)
    hidden = np.asarray(palette) == 3
    alpha = read_photo(tmp_path / "t.png").pixels[..., 3]
    np.testing.assert_array_equal(alpha == 0, hidden)
    bilevel = colour.convert("1")
    bilevel.save(tmp_path / "b.png")
    np.testing.assert_array_equal(
        read_photo(tmp_path / "b.png").pixels[..., 0], np.asarray(bilevel.convert("L"))
    )
    gray = colour.convert("L")
    gray.save(tmp_path / "g.png", transparency=int(np.asarray(gray)[0, 0]))
    assert read_photo(tmp_path / "g.png").pixels.shape == (13, 17, 2)
    assert read_photo(tmp_path / "g.png").pixels[0, 0, 1] == 0


def test_the_content_decides_on_the_format(tmp_path: Path) -> None:
    image = Image.fromarray(pixels_of(3, np.uint8))
    image.save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_photo(tmp_path / "a.jpg").pixels, np.asarray(image))


# --- bad input -------------------------------------------------------------------------------


def bytes_of(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format=kind, **options)
    return out.getvalue()


def tiff_of(dtype: type) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, np.zeros((9, 8, 3), dtype), photometric="rgb")
    return out.getvalue()


COLOUR = Image.fromarray(pixels_of(3, np.uint8, 40, 40))


def claiming(width: int, height: int) -> bytes:
    """A PNG whose head claims a size, with a valid checksum and next to no data."""
    content = bytearray(bytes_of(COLOUR, "PNG"))
    struct.pack_into(">II", content, 16, width, height)
    struct.pack_into(">I", content, 29, zlib.crc32(bytes(content[12:29])))
    return bytes(content)


BAD: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", "is empty"),
    "text.png": (b"no image at all", "convert it"),
    "page.jpg": (b"<html>404</html>", "convert it"),
    "photo.gif": (bytes_of(COLOUR.convert("P"), "GIF"), "convert it"),
    "huge.png": (claiming(60000, 60000), "claims too many pixels"),
    "wide.png": (claiming(2**31 - 1, 2**31 - 1), "claims too many pixels"),
    "large.png": (claiming(9000, 9000), "damaged"),
    "zero.png": (claiming(0, 0), "damaged|no pixels|convert it"),
    "cmyk.jpg": (bytes_of(COLOUR.convert("CMYK"), "JPEG"), "is CMYK; convert it"),
    "cmyk.tif": (bytes_of(COLOUR.convert("CMYK"), "TIFF"), "is CMYK; convert it"),
    "lab.tif": (bytes_of(COLOUR.convert("LAB"), "TIFF"), "is LAB; convert it"),
    "float.tif": (bytes_of(COLOUR.convert("F"), "TIFF"), "more than 16 bits"),
    "floats.tif": (tiff_of(np.float32), "float32.; save it as a PNG of 8 or 16 bits"),
    "long.tif": (tiff_of(np.uint32), "uint32.; save it as a PNG of 8 or 16 bits"),
    "animated.png": (
        bytes_of(COLOUR, "PNG", save_all=True, append_images=[COLOUR.rotate(90)]),
        "holds 2 images",
    ),
    "animated.webp": (
        bytes_of(COLOUR, "WEBP", save_all=True, append_images=[COLOUR.rotate(90)]),
        "holds 2 images",
    ),
    "pages.tif": (
        bytes_of(COLOUR, "TIFF", save_all=True, append_images=[COLOUR.rotate(90)]),
        "holds 2 images",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_in_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content, words = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_photo(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.png", tmp_path, tmp_path / "nowhere" / "a.png"):
        with pytest.raises(InputError, match=str(path)):
            read_photo(path)


GOOD: list[Callable[[], bytes]] = [
    lambda: bytes_of(COLOUR, "PNG"),
    lambda: bytes_of(COLOUR, "JPEG", exif=exif_bytes()),
    lambda: bytes_of(COLOUR, "WEBP", lossless=True),
    lambda: bytes_of(COLOUR, "TIFF"),
    lambda: bytes_of(COLOUR, "TIFF", compression="tiff_lzw"),
    lambda: png16(pixels_of(3, np.uint16), 2, False),
]


@pytest.mark.parametrize("kind", range(len(GOOD)))
@given(data=st.data())
@settings(max_examples=60)
def test_damage_of_any_kind_is_one_line_or_still_a_photograph(
    kind: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(GOOD[kind]())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    path = tmp_path_factory.mktemp("damaged") / "a.png"
    path.write_bytes(content)
    outcome = read_or_error(path)
    if isinstance(outcome, str):
        assert outcome.startswith(str(path))
        assert "\n" not in outcome
    else:
        assert outcome.pixels.ndim == 3
        assert outcome.pixels.dtype in (np.uint8, np.uint16)


def read_or_error(path: Path) -> Photo | str:
    try:
        return read_photo(path)
    except InputError as error:
        return str(error)


def test_nothing_is_printed_about_damaged_tiffs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(bytes_of(COLOUR, "TIFF", compression="tiff_lzw"))
    content[20:600] = bytes(580)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InputError):
        read_photo(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="file"):
        write_photo(tmp_path / "file" / "a.png", Photo(pixels_of(3, np.uint8)))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- files and folders -----------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png"):
        Path("album").mkdir(exist_ok=True)
        Path("album", name).write_bytes(b"x")
    return Path("album")


def test_a_file_goes_to_a_file_or_into_a_folder(album: Path) -> None:
    given_ = album / "b.png"
    assert pair_files([str(given_)], Path("out.tif")) == [(given_, Path("out.tif"))]
    assert pair_files([str(given_)], Path("out")) == [(given_, Path("out/b.png"))]
    assert pair_files([str(album)], Path("photos.d"))[1] == (given_, Path("photos.d/b.png"))
    Path("dots.d").mkdir()
    assert pair_files([str(given_)], Path("dots.d")) == [(given_, Path("dots.d/b.png"))]


def test_folders_and_patterns_are_sorted_photographs(album: Path) -> None:
    expected = [(album / name, Path("out", name)) for name in ("a.JPG", "b.png")]
    assert pair_files([str(album)], Path("out")) == expected
    assert pair_files(["album/*[Gg]"], Path("out")) == expected
    Path("album/folder.png").mkdir()
    assert pair_files([str(album)], Path("out")) == expected
    assert not Path("out").exists()  # nothing is written yet


def test_files_that_are_left_out_of_folders_are_counted(album: Path) -> None:
    assert left_out([str(album), "album/*"]) == 1
    for name in ("c.bmp", "d.gif", ".DS_Store"):
        (album / name).write_bytes(b"x")
    (album / "raw").mkdir()
    assert left_out([str(album)]) == 3
    assert left_out(["album/b.png"]) == 0


def test_existing_outputs_are_refused_or_allowed(album: Path) -> None:
    Path("out").mkdir()
    Path("out/b.png").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"out/b.png: exists; .*--force"):
        pair_files([str(album)], Path("out"))
    assert len(pair_files([str(album)], Path("out"), existing=True)) == 2
    assert Path("out/b.png").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("inputs", "output", "words"),
    [
        (["nowhere.png"], "out.png", "nowhere.png: no such file"),
        (["no*.png"], "out", r"no\*.png: no such file"),
        (["empty"], "out", "empty: holds no photographs"),
        (["album"], "album/notes.txt", "is a file; several"),
        (["album/b.png"], "out.xyz", "out.xyz: unknown suffix"),
        (["album/notes.txt"], "out", "^album/notes.txt: unknown suffix; leave it out"),
        (["album/*"], "out", "^album/notes.txt: unknown suffix; leave it out"),
        (["album/b.png"], "/dev/null", "^/dev/null: unknown suffix; write one of"),
        (["album"], "out.png", "^out.png: is the name of a file; folders"),
        (["album/b.png", "album/a.JPG"], "out.TIF", "^out.TIF: is the name of a file"),
        (["album/b*"], "out.png", "^out.png: is the name of a file; .* patterns"),
        (["", "album"], "out", "an input is empty"),
        (["album/b.png", "twin/b.png"], "out", "twin/b.png: would be written to out/b.png"),
        (["album/b.png"], "album/notes.txt/out.png", "cannot be written to"),
        (["album/b.png"], "/proc/nowhere/out.png", "/proc/nowhere: cannot be written to"),
    ],
)
def test_paths_that_cannot_be_used(inputs: list[str], output: str, words: str, album: Path) -> None:
    Path("empty").mkdir()
    Path("twin").mkdir()
    Path("twin/b.png").write_bytes(b"x")
    with pytest.raises(InputError, match=words):
        pair_files(inputs, Path(output))
    assert not Path("out").exists()


def test_a_folder_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("reg.photos.tempfile.TemporaryFile", refuse)
    for folder in (tmp_path, tmp_path / "new" / "newer"):
        with pytest.raises(InputError, match=r"cannot be written to \(Permission denied"):
            check_folder(folder)


def test_a_folder_that_can_be_written_to_is_not_made(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "newer")
    assert list(tmp_path.iterdir()) == []
