"""Image files and float tensors: (1, 3, H, W), RGB, values in [0, 1]."""

from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from reg.checkpoints import write_whole
from reg.errors import InputError

Pixels = npt.NDArray[np.uint8]


def read_image(path: Path) -> Tensor:
    """Image file as a float32 tensor of shape (1, 3, H, W), RGB, in [0, 1].

    PNG, JPEG, BMP, TIFF and WebP (whatever Pillow opens; the first frame of several). Gray
    values are repeated over the three channels; palettes and CMYK become RGB without colour
    management; an alpha channel is dropped, not composited, so that pixels hidden by it keep the
    colour that the file stores; EXIF orientation is applied. 16-bit gray keeps its 16 bits,
    16-bit colour is read at the 8 bits that Pillow keeps.

    Raises InputError if the file is missing, empty, damaged, truncated, or holds 32-bit pixels
    (whose range no format fixes).
    """
    pixels = _decode(path)
    image = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None].contiguous()
    return image / np.iinfo(pixels.dtype).max


def read_pixels(path: Path) -> Pixels:
    """Image file as uint8 pixels of shape (H, W, 3), RGB; formats and errors of `read_image`."""
    pixels = _decode(path)
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return pixels.astype(np.uint8, copy=False)


def write_image(path: Path, image: Tensor) -> None:
    """Write a (1, 3, H, W) image with values in [0, 1] as an 8-bit RGB PNG.

    Values are clipped and rounded to the nearest of 256 levels; NaN, which a diverging method
    may leave behind, becomes black. The bytes depend on the pixels only. The file appears whole
    or not at all.
    """
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise ValueError(f"expected an image of shape (1, 3, H, W), got {tuple(image.shape)}")
    clipped = image.detach().float().nan_to_num(nan=0.0).clamp(0, 1)
    levels = (clipped * 255).round().to(torch.uint8)
    write_pixels(path, levels[0].permute(1, 2, 0).cpu().numpy())


def write_pixels(path: Path, pixels: Pixels) -> None:
    """Write uint8 pixels of shape (H, W, 3) as an RGB PNG, whole or not at all.

    Raises InputError if it cannot be written.
    """
    content = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, format="PNG")
    write_whole(path, content.getbuffer())


def _decode(path: Path) -> Pixels | npt.NDArray[np.uint16]:
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty: replace or remove it")
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16"):
                return np.repeat(np.asarray(image).astype(np.uint16)[..., None], 3, axis=2)
            if image.mode in ("I", "F"):
                raise InputError(f"{path} has 32-bit pixels: save it with 8 or 16 bits per channel")
            if image.mode in ("P", "PA", "RGBa"):
                image = image.convert("RGBA")
            return np.array(image.convert("RGB"))
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            f"{path} is not an image that can be read: replace it by an 8- or 16-bit PNG, JPEG, "
            "BMP, TIFF or WebP file, or remove it"
        ) from None
    # Pillow's decoders let almost any exception through when the data are damaged.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(
                f"{path} cannot be read ({error.strerror}): check the path and its permissions"
            ) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is damaged ({reason}): replace or remove it") from error
