"""A photograph from the prompt to the file, and a large one: `python -m benchmarks.photo`.

Blurs scikit-image's astronaut, 512 × 512 pixels, by a motion that is none of the kernels which
parameters were tuned for, adds noise, and lets `reg restore` undo it with the released weights: how
long that takes, and what of it is start-up. Then what memory 12 megapixels take: deblurred by
either iteration, denoised, and enlarged to. Adds rows to reports/benchmarks/benchmarks.json, and
writes the comparison of before, after and truth to reports/benchmarks/photo.jpg.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from math import cos, pi, sin
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage import data

from benchmarks.rows import OUTPUT, Row, row, save

SECONDS, START_UP, GIGABYTES = 15, 3, 4
LARGE = (3000, 4000)  # pixels
FEW = 8  # iterations, one of each orientation: memory does not grow with them
SIGMA = 2.55
LENGTH, ANGLE = 15, 34  # pixels and degrees of the motion
REPETITIONS = 5
REG = (sys.executable, "-c", "from reg.cli import main; main()")


def motion(length: int, angle: float) -> npt.NDArray[np.float64]:
    """A line of so many pixels, each point shared out among the four pixels around it."""
    kernel = np.zeros((length + 2, length + 2))
    along = np.linspace(-(length - 1) / 2, (length - 1) / 2, 20 * length)
    for y, x in np.outer(along, (sin(angle * pi / 180), cos(angle * pi / 180))):
        (top, down), (left, right) = (divmod(value + (length + 1) / 2, 1) for value in (y, x))
        top, left = int(top), int(left)
        kernel[top : top + 2, left : left + 2] += np.outer((1 - down, down), (1 - right, right))
    return np.asarray(kernel / kernel.sum())


def reg(*arguments: object) -> tuple[float, str]:
    """Seconds and output of one command, from the prompt on."""
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    began = time.perf_counter()
    done = subprocess.run(
        [*REG, *map(str, arguments)], env=environment, text=True, capture_output=True, check=True
    )
    return time.perf_counter() - began, done.stdout


def peak(*arguments: object) -> float:
    """Gigabytes that one command held at most."""
    with subprocess.Popen([*REG, *map(str, arguments)], stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, arguments
    return used.ru_maxrss * 1024 / 1e9


def large(folder: Path) -> list[Row]:
    """Memory of 12 megapixels: the astronaut, again and again."""
    height, width = LARGE
    photo, half = folder / "large.png", folder / "half.png"
    pixels = np.tile(data.astronaut(), (-(-height // 512), -(-width // 512), 1))[:height, :width]
    Image.fromarray(pixels).save(photo)
    Image.fromarray(np.ascontiguousarray(pixels[::2, ::2])).save(half)
    deblur = ("--task", "deblur", "--kernel", "gaussian:1.6", "--iterations", FEW)
    tasks = {
        "deblurring": (photo, *deblur),
        "deblurring by ADMM": (photo, *deblur, "--method", "admm"),
        "enlarging ×2 to": (half, "--task", "sr", "--factor", 2, "--iterations", FEW),
        "denoising": (photo, "--task", "denoise"),
    }
    return [
        row(
            f"reg restore, {name} 12 megapixels, peak memory / {GIGABYTES} GB",
            [peak("restore", *how, "-o", folder / "out.png", "--sigma", SIGMA, "--force")
             / GIGABYTES],
            "≤ 1",
        )
        for name, how in tasks.items()
    ]  # fmt: skip


def main() -> None:
    """Restore the photograph some times, and once more for the comparison; then large ones."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth, blurred, restored = (folder / f"{each}.png" for each in ("truth", "y", "x"))
        Image.fromarray(data.astronaut()).save(truth)
        np.save(folder / "psf.npy", motion(LENGTH, ANGLE))
        how = ("--task", "deblur", "--kernel", folder / "psf.npy", "--sigma", SIGMA, "--force")
        reg("degrade", truth, "-o", blurred, *how)
        whole, start_up = [], []
        for _ in range(REPETITIONS):
            seconds, said = reg("restore", blurred, "-o", restored, *how)
            working = re.search(r": ([\d.]+) s", said)
            assert working, said
            whole.append(seconds / SECONDS)
            start_up.append((seconds - float(working[1])) / START_UP)
        _, said = reg("restore", blurred, "-o", restored, *how, "--truth", truth, "--compare")
        print(said.split(": ", 1)[1].strip())
        with Image.open(folder / "x-compare.png") as comparison:
            comparison.convert("RGB").save(OUTPUT.with_name("photo.jpg"), quality=90)
        of_large = large(folder)
    save(
        [
            *of_large,
            row(f"reg restore, deblurring 512², prompt to file / {SECONDS} s", whole, "≤ 1"),
            row(f"reg restore, deblurring 512², start-up / {START_UP} s", start_up, "≤ 1"),
        ]
    )


if __name__ == "__main__":
    main()
