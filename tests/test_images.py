import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reg.errors import InputError
from reg.images import read_image, read_pixels, write_image, write_pixels

RGB = np.random.default_rng(0).integers(0, 256, (12, 17, 3)).astype(np.uint8)
SMOOTH = np.stack([*np.meshgrid(np.arange(40), np.arange(60)), np.full((60, 40), 90)], axis=2)
SMOOTH = (SMOOTH * 2).astype(np.uint8)


def write_16_bit_rgb_png(path: Path, pixels: np.ndarray) -> None:
    """Pillow cannot write this format."""
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_keep_every_value(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(RGB).save(path, **({"lossless": True} if suffix == "webp" else {}))
    image = read_image(path)
    assert image.shape == (1, 3, 12, 17)
    assert image.dtype == torch.float32
    assert torch.equal(image[0].permute(1, 2, 0) * 255, torch.from_numpy(RGB).float())
    np.testing.assert_array_equal(read_pixels(path), RGB)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_jpeg_is_close_in_rgb_and_cmyk(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.jpg"
    Image.fromarray(SMOOTH).convert(mode).save(path, quality=95)
    assert np.abs(read_pixels(path).astype(int) - SMOOTH).mean() < 2


def test_gray_is_repeated(tmp_path: Path) -> None:
    path = tmp_path / "gray.png"
    Image.fromarray(RGB[..., 0]).save(path)
    np.testing.assert_array_equal(read_pixels(path), RGB[..., [0, 0, 0]])


def test_palette_becomes_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(path, transparency=3)
    np.testing.assert_array_equal(read_pixels(path), np.array(palette.convert("RGB")))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "alpha.png"
    alpha = np.zeros((12, 17, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([RGB, alpha], axis=2)).save(path)
    np.testing.assert_array_equal(read_pixels(path), RGB)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_gray_keeps_its_precision(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"gray16.{suffix}"
    gray = np.array([[0, 1, 257], [300, 40000, 65535]], dtype=np.uint16)
    Image.fromarray(gray).save(path)
    expected = torch.from_numpy(gray.astype(np.float32)) / 65535
    assert torch.equal(read_image(path), expected.expand(1, 3, 2, 3))
    np.testing.assert_array_equal(read_pixels(path)[..., 2], [[0, 0, 1], [1, 156, 255]])


def test_16_bit_colour_is_read_at_8_bits(tmp_path: Path) -> None:
    path = tmp_path / "rgb16.png"
    write_16_bit_rgb_png(path, RGB.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_pixels(path), RGB)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    Image.fromarray(RGB).save(path, exif=exif)
    np.testing.assert_array_equal(read_pixels(path), np.rot90(RGB, -1))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_file_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(np.tile(RGB, (8, 8, 1))).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=rf"cut\.{suffix}.*(replace|remove)") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_an_image_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    suffix = data.draw(st.sampled_from(["png", "jpg", "tif", "webp"]))
    path = tmp_path_factory.mktemp("damaged") / f"image.{suffix}"
    Image.fromarray(RGB).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        image = read_image(path)
    except InputError:
        return
    assert image.shape[:2] == (1, 3)
    assert 0 <= image.min() <= image.max() <= 1


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "deep.tif"
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(InputError, match=r"deep\.tif has 32-bit pixels: save it"):
        read_image(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no image")
    with pytest.raises(InputError, match=r"notes\.png is not an image"):
        read_image(text)
    with pytest.raises(InputError, match=r"absent\.png cannot be read \(No such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path)


def test_written_image_is_clipped_and_rounded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "image.png"
    values = torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 7.0, torch.inf, torch.nan])
    write_image(path, values.expand(1, 3, 1, 8))
    np.testing.assert_array_equal(read_pixels(path)[0, :, 0], [0, 0, 0, 1, 255, 255, 255, 0])


def test_write_then_read_is_exact_and_bytes_are_equal(tmp_path: Path) -> None:
    image = torch.from_numpy(RGB).permute(2, 0, 1)[None] / 255
    write_image(tmp_path / "a.png", image)
    write_image(tmp_path / "b.png", image.contiguous(memory_format=torch.channels_last))
    assert torch.equal(read_image(tmp_path / "a.png"), image)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_wrong_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, H, W\), got \(3, 4, 4\)"):
        write_image(tmp_path / "a.png", torch.zeros(3, 4, 4))


def test_interrupted_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.png"
    write_pixels(path, RGB)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"image\.png cannot be written \(No space left"):
        write_pixels(path, 255 - RGB)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
