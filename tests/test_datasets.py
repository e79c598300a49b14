import hashlib
import os
import shutil
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from reg import datasets
from reg.datasets import (
    PHOTOGRAPHS,
    MappedImages,
    load_images,
    load_training_arrays,
    prepare,
    read_manifest,
    set_of,
)
from reg.errors import InputError
from reg.images import Pixels, read_pixels, write_pixels
from reg.patches import Patches

SETTINGS = {
    "photographs": {},
    "folders": {},
    "root": None,
    "sizes": {"validation": 24, "test": None},
    "crop": 16,
    "dead_leaves_count": 0,
    "dead_leaves_size": 32,
    "seed": 0,
}
FOLDERS = {"train": ["photos"], "validation": ["val"], "test": ["bench/a"]}


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "images"
    for i in range(8):
        write_pixels(place / "photos" / f"{i}.png", noise(i, 20 + i, 30))
    write_pixels(place / "val" / "1.png", noise(20, 48, 60))
    write_pixels(place / "bench" / "a" / "0001.png", noise(30, 37, 50))
    (place / "photos" / "notes.txt").write_text("not an image")
    (place / "photos" / "._1.png").write_text("left behind by another system")
    return place


def run(output: Path, **changes: object) -> Path:
    return prepare(output, **{**SETTINGS, **changes})


def test_photographs_are_bundled() -> None:
    for files in PHOTOGRAPHS.values():
        for file in files:
            with Image.open(file) as image:
                assert image.mode == "RGB"
                assert min(image.size) >= 256


def test_photographs_and_dead_leaves(tmp_path: Path) -> None:
    photographs = {"train": ["chelsea", "motorcycle"], "validation": ["ihc"], "test": ["rocket"]}
    sizes = {"validation": 96, "test": 64}
    first = run(tmp_path / "a", photographs=photographs, sizes=sizes, dead_leaves_count=4, seed=5)
    table = read_manifest(first)
    assert table["name"].tolist() == [
        *("chelsea", "motorcycle_left", "motorcycle_right", "ihc", "rocket"),
        *(f"dead_leaves_{i:04d}" for i in range(4)),
    ]
    assert table["role"].tolist() == [*["train"] * 3, "validation", "test", *["train"] * 4]
    assert table["sha256"].is_unique  # also where two dead leaves images share a palette
    for row in table.itertuples():
        pixels = read_pixels(Path(row.path))
        assert pixels.shape == (row.height, row.width, 3)
        assert hashlib.sha256(Path(row.path).read_bytes()).hexdigest() == row.sha256
    np.testing.assert_array_equal(
        load_training_arrays(first)[0], read_pixels(PHOTOGRAPHS["chelsea"][0])
    )
    assert {name: image.shape for name, image in load_images(first, "test").items()} == {
        "rocket": (1, 3, 64, 64)
    }

    second = run(tmp_path / "b", photographs=photographs, sizes=sizes, dead_leaves_count=4, seed=5)
    assert first.read_bytes() == second.read_bytes()
    other = run(tmp_path / "c", photographs=photographs, sizes=sizes, dead_leaves_count=4, seed=6)
    changed = read_manifest(other)["sha256"] != table["sha256"]
    assert table["name"][changed].str.startswith("dead_leaves").all()
    assert changed.sum() == 4


def test_every_nth_is_of_each_set_and_small_sets_are_whole(tmp_path: Path) -> None:
    for seed, (folder, count) in enumerate({"train": 3, "big": 8, "small": 3}.items()):
        for k in range(count):
            write_pixels(tmp_path / "root" / folder / f"{k}.png", noise(10 * seed + k, 24, 24))
    folders = {"train": ["train"], "validation": 1, "test": ["big", "small"]}
    manifest = run(tmp_path / "out", root=tmp_path / "root", folders=folders)
    assert list(load_images(manifest, "test", 3)) == [
        *("big-0", "big-3", "big-6"),
        *("small-0", "small-1", "small-2"),
    ]
    assert list(load_images(manifest, "test", 2)) == [
        *("big-0", "big-2", "big-4", "big-6"),
        *("small-0", "small-2"),
    ]
    assert len(load_images(manifest, "test")) == 11


def test_dead_leaves_take_their_colours_from_training_images(tmp_path: Path, root: Path) -> None:
    shutil.rmtree(root / "photos")
    write_pixels(root / "photos" / "red.png", np.full((16, 16, 3), [200, 0, 0], np.uint8))
    write_pixels(root / "photos" / "blue.png", np.full((16, 16, 3), [0, 0, 90], np.uint8))
    manifest = run(tmp_path / "out", root=root, folders=FOLDERS, dead_leaves_count=2)
    blue, red = load_training_arrays(manifest)[2:]
    assert (blue == [0, 0, 90]).all()
    assert (red == [200, 0, 0]).all()


def test_measured_images_are_reduced_and_cut(tmp_path: Path, root: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 240)[None, :, None], 96, axis=0).repeat(3, axis=2)
    write_pixels(root / "val" / "1.png", ramp.round().astype(np.uint8))
    manifest = run(tmp_path / "out", root=root, folders=FOLDERS)

    image = load_images(manifest, "validation")["val-1"]
    assert image.shape == (1, 3, 24, 24)
    # A factor of 4 leaves 60 columns, of which the central 24 are kept: a linear ramp stays one.
    expected = (torch.arange(60) * 4 + 1.5) / 239
    assert torch.allclose(image[0, 0, 5], expected[18:42], atol=1.5 / 255)

    untouched = load_images(manifest, "test")["bench-a-0001"]
    assert untouched.shape == (1, 3, 36, 48)
    original = torch.from_numpy(noise(30, 37, 50)).permute(2, 0, 1)[None] / 255
    assert torch.equal(untouched, original[..., :36, :48])


def test_reduction_is_antialiased(tmp_path: Path, root: Path) -> None:
    stripes = np.zeros((96, 96, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    write_pixels(root / "val" / "1.png", stripes)
    manifest = run(tmp_path / "out", root=root, folders=FOLDERS)
    image = load_images(manifest, "validation")["val-1"]
    assert (image[..., 2:-2] - 0.5).abs().max() < 0.05


def test_training_folders_stay_in_place(tmp_path: Path, root: Path) -> None:
    manifest = run(tmp_path / "out", root=root, folders=FOLDERS)
    assert not (tmp_path / "out" / "train").exists()
    table = read_manifest(manifest, "train")
    assert table["path"].tolist() == [str(root / "photos" / f"{i}.png") for i in range(8)]
    for i, pixels in enumerate(load_training_arrays(manifest)):
        np.testing.assert_array_equal(pixels, noise(i, 20 + i, 30))


def test_relative_root_is_found_from_anywhere(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(Path("data/out"), root=Path(root.name), folders=FOLDERS)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(load_training_arrays(tmp_path / "data/out/manifest.csv")) == 8


def test_relative_root_is_found_from_a_folder_on_another_disk(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far" / "away" / "disk").mkdir(parents=True)
    Path("data").symlink_to("far/away/disk")
    manifest = run(Path("data/out"), root=Path(root.name), folders=FOLDERS)
    assert len(load_training_arrays(manifest)) == 8


def test_a_name_that_is_no_text_is_refused(tmp_path: Path, root: Path) -> None:
    (root / "photos" / "0.png").rename(root / "photos" / os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(InputError, match=r"photos holds 'caf\\udce9\.png': rename it in UTF-8"):
        run(tmp_path / "out", root=root, folders=FOLDERS)


def test_upright_size_of_a_turned_photograph(tmp_path: Path, root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(50, 20, 30)).save(root / "photos" / "0.png", exif=exif)
    row = read_manifest(run(tmp_path / "out", root=root, folders=FOLDERS)).iloc[0]
    assert (row["width"], row["height"]) == (20, 30)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [4]), (2, [2, 6]), (3, [1, 4, 6]), (7, [0, 1, 2, 4, 5, 6, 7])]
)
def test_validation_images_are_held_back_evenly(
    tmp_path: Path, root: Path, count: int, expected: list[int]
) -> None:
    folders = {**FOLDERS, "validation": count}
    manifest = run(
        tmp_path / "out", root=root, folders=folders, sizes={"validation": 16, "test": None}
    )
    names = {role: list(read_manifest(manifest, role)["name"]) for role in ("train", "validation")}
    assert names["validation"] == [f"photos-{i}" for i in expected]
    assert names["train"] == [f"photos-{i}" for i in range(8) if i not in expected]


@pytest.mark.parametrize(
    ("photographs", "message"),
    [
        ({"train": ["astronot"]}, r"photographs\.train: unknown photograph 'astronot': use astr"),
        ({"trane": ["ihc"]}, r"photographs: unknown role 'trane': use train, validation, test"),
        ({"train": ["ihc"], "test": ["ihc"]}, r"photographs\.test: ihc already has the role train"),
        ({"train": ["ihc", "ihc"]}, r"photographs\.train: ihc already has the role train"),
        ({"train": ["ihc"], "test": ["coffee"]}, "no image has the role validation: name"),
    ],
)
def test_wrong_photographs(tmp_path: Path, photographs: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path / "out", photographs=photographs)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"train": ["fotos"]}, r"folders\.train: .*images/fotos is not a readable folder: check"),
        ({"train": ["bench"]}, r"folders\.train: .*images/bench holds no image .*: name the"),
        ({"train": 3}, r"folders\.train: 3 is not a list of folders: name"),
        ({**FOLDERS, "validation": 8}, r"folders\.validation: cannot hold back 8 of 8"),
        ({**FOLDERS, "validation": -1}, r"folders\.validation: cannot hold back -1"),
        ({**FOLDERS, "test": ["bench/a", "bench/a"]}, "both be named bench-a-0001: rename"),
        ({**FOLDERS, "test": ["bench/a", "./photos"]}, "both be named photos-0: rename"),
        ({}, "data.root is .*images but no folders are named"),
    ],
)
def test_wrong_folders(
    tmp_path: Path, root: Path, folders: dict[str, list[str] | int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path / "out", root=root, folders=folders)
    assert not (tmp_path / "out").exists()


def test_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.root .*absent is not a folder: set it"):
        run(tmp_path / "out", root=tmp_path / "absent", folders=FOLDERS)
    with pytest.raises(InputError, match=r"data\.root is not set: set it"):
        run(tmp_path / "out", folders=FOLDERS)


def test_same_pixels_in_two_roles_are_found_in_other_formats(tmp_path: Path, root: Path) -> None:
    Image.fromarray(noise(30, 37, 50)).save(root / "photos" / "copy.bmp")
    with pytest.raises(InputError, match=r"0001\.png \(test\) shows the same .*copy\.bmp \(train"):
        run(tmp_path / "out", root=root, folders=FOLDERS)


def test_same_pixels_in_one_role_are_allowed(tmp_path: Path, root: Path) -> None:
    Image.fromarray(noise(0, 20, 30)).save(root / "photos" / "copy.bmp")
    assert len(load_training_arrays(run(tmp_path / "out", root=root, folders=FOLDERS))) == 9


def test_small_and_damaged_images_are_named_before_anything_is_written(
    tmp_path: Path, root: Path
) -> None:
    with pytest.raises(InputError, match=r"photos/0\.png has 30x20 pixels, but train .* 21x21"):
        run(tmp_path / "out", root=root, folders=FOLDERS, crop=21)
    sizes = {"validation": 49, "test": None}
    with pytest.raises(InputError, match=r"val/1\.png has 60x48 pixels, but validation .* 49x49"):
        run(tmp_path / "out", root=root, folders=FOLDERS, sizes=sizes)
    with pytest.raises(InputError, match="dead leaves of size 10 are smaller"):
        run(
            tmp_path / "out",
            root=root,
            folders=FOLDERS,
            dead_leaves_count=1,
            dead_leaves_size=10,
        )
    damaged = root / "photos" / "5.png"
    damaged.write_bytes(damaged.read_bytes()[:500])
    with pytest.raises(InputError, match=r"photos/5\.png is damaged .*: replace or remove it"):
        run(tmp_path / "out", root=root, folders=FOLDERS)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def many(root: Path) -> list[Path]:
    """200 training images in place of the 8."""
    shutil.rmtree(root / "photos")
    (root / "photos").mkdir()
    files = [root / "photos" / f"{i:03d}.png" for i in range(200)]
    for i, file in enumerate(files):
        Image.fromarray(noise(1000 + i, 16, 16)).save(file)
    return files


def test_one_training_image_of_a_hundred_may_be_unreadable(
    tmp_path: Path, root: Path, many: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"root": root, "folders": FOLDERS, "dead_leaves_count": 3}
    run(tmp_path / "all", **settings)
    assert "skipped" not in capsys.readouterr().out

    many[7].write_bytes(many[7].read_bytes()[:300])
    many[150].write_bytes(b"")
    first = run(tmp_path / "a", **settings)
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"  2 of 200 training images skipped: {many[7]}, {many[150]}"
    second = run(tmp_path / "b", **settings)
    assert first.read_bytes() == second.read_bytes()
    used = [f"photos-{i:03d}" for i in range(200) if i not in (7, 150)]
    assert read_manifest(first, "train")["name"].tolist()[:198] == used
    assert len(load_training_arrays(first)) == 201

    many[80].write_text("not an image")
    message = (
        r"^3 of 200 training images cannot be used, but at most 1 % may be skipped; the first: "
        r".*photos/007\.png is damaged .*: replace or remove it$"
    )
    with pytest.raises(InputError, match=message):
        run(tmp_path / "c", **settings)
    assert not (tmp_path / "c").exists()


def test_measured_and_small_images_are_never_skipped(
    tmp_path: Path, root: Path, many: list[Path]
) -> None:
    many[50].write_bytes(b"")  # held back: the second of 2 would be 150
    folders = {**FOLDERS, "validation": 2}
    with pytest.raises(InputError, match=r"^.*photos/050\.png is empty: replace or remove it$"):
        run(tmp_path / "out", root=root, folders=folders, sizes={"validation": 12, "test": None})
    Image.fromarray(noise(7, 8, 40)).save(many[50])
    with pytest.raises(InputError, match=r"^.*photos/050\.png has 40x8 pixels, but train"):
        run(tmp_path / "out", root=root, folders=FOLDERS)
    Image.fromarray(noise(8, 16, 16)).save(many[50])
    (root / "bench" / "a" / "0001.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"^.*bench/a/0001\.png is empty"):
        run(tmp_path / "out", root=root, folders=FOLDERS)


class Cached(NamedTuple):
    """A manifest of the 8 photographs, a folder for the cache, and who was decoded how often."""

    manifest: Path
    folder: Path
    decoded: Counter[str]

    def load(self) -> list[Pixels]:
        return load_training_arrays(self.manifest, 0, self.folder)

    def is_right(self) -> bool:
        expected = [noise(i, 20 + i, 30) for i in range(8)]
        return all(map(np.array_equal, self.load(), expected))

    @property
    def file(self) -> Path:
        return next(self.folder.glob("*.p*"))


@pytest.fixture
def cached(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Cached:
    manifest = run(tmp_path / "out", root=root, folders=FOLDERS)
    decoded: Counter[str] = Counter()

    def counted(file: Path) -> Pixels:
        decoded[file.stem] += 1
        return read_pixels(file)

    monkeypatch.setattr(datasets, "read_pixels", counted)
    return Cached(manifest, tmp_path / "cache", decoded)


def test_images_within_the_budget_are_in_memory(cached: Cached) -> None:
    images = load_training_arrays(cached.manifest, 1, cached.folder)
    assert not isinstance(images, MappedImages)
    assert not cached.folder.exists()
    assert cached.decoded == dict.fromkeys("01234567", 1)


def test_images_beyond_the_budget_are_decoded_once_for_all(cached: Cached, root: Path) -> None:
    before = sorted(cached.manifest.parent.rglob("*"))
    in_memory = load_training_arrays(cached.manifest, 1, cached.folder)
    cached.decoded.clear()
    assert isinstance(cached.load(), MappedImages)
    shutil.rmtree(root / "photos")  # what is in the cache is not read again
    assert cached.is_right()
    assert cached.decoded == dict.fromkeys("01234567", 1)
    assert sorted(cached.manifest.parent.rglob("*")) == before
    ours, theirs = (Patches(images, 16, 3, seed=2) for images in (cached.load(), in_memory))
    for iteration in (0, 1, 2, 10**6):
        assert torch.equal(ours.batch(iteration), theirs.batch(iteration))


def test_other_images_have_another_cache(cached: Cached, tmp_path: Path, root: Path) -> None:
    cached.load()
    write_pixels(root / "photos" / "3.png", noise(99, 23, 30))
    other = run(tmp_path / "other", root=root, folders=FOLDERS)
    np.testing.assert_array_equal(
        load_training_arrays(other, 0, cached.folder)[3], noise(99, 23, 30)
    )
    assert len(list(cached.folder.glob("*.pixels"))) == 2
    assert cached.is_right()


def test_images_that_do_not_match_the_manifest_never_enter_the_cache(
    cached: Cached, root: Path
) -> None:
    table = pd.read_csv(cached.manifest)
    table.assign(width=table["height"], height=table["width"]).to_csv(cached.manifest, index=False)
    with pytest.raises(InputError, match=r"photos/0\.png is not 20x30 pixels.*run dvc repro"):
        cached.load()
    table.to_csv(cached.manifest, index=False)
    write_pixels(root / "photos" / "3.png", noise(99, 23, 30))
    with pytest.raises(InputError, match=r"photos/3\.png has changed since .*: run dvc repro"):
        cached.load()
    assert not list(cached.folder.glob("*.pixels"))


def test_an_interrupted_cache_is_continued_where_it_is_safe(
    cached: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The blocks are the images 0 to 2, 3, 4 and 5, 6 and 7.
    monkeypatch.setattr(datasets, "SYNCED_BYTES", 3700)
    whole = datasets.read_pixels

    def stopped(file: Path) -> Pixels:
        if file.stem == "5":
            raise KeyboardInterrupt
        return whole(file)

    monkeypatch.setattr(datasets, "read_pixels", stopped)
    with pytest.raises(KeyboardInterrupt):
        cached.load()
    assert cached.file.suffix == ".partial"
    # After a loss of power, what was written since the last synced block may be anything.
    with cached.file.open("r+b") as file:
        file.seek(3 * 30 * (20 + 21 + 22 + 23))
        file.write(b"\1" * 2000)
    cached.decoded.clear()
    monkeypatch.setattr(datasets, "read_pixels", whole)
    assert cached.is_right()
    assert cached.decoded == dict.fromkeys("4567", 1)


@pytest.mark.parametrize("length", [0, 1, 1800, 1801, 5000, 14000])
def test_a_cache_cut_anywhere_is_made_whole(
    cached: Cached, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "SYNCED_BYTES", 3700)
    cached.load()
    part = cached.file.read_bytes()[:length]
    cached.file.with_suffix(".partial").write_bytes(part)
    cached.file.unlink()
    assert cached.is_right()
    cached.file.write_bytes(part)  # under its final name, too
    assert cached.is_right()


def test_processes_that_start_together_decode_once(cached: Cached) -> None:
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: cached.load(), range(4)))
    assert all(all(map(np.array_equal, loaded[0], images)) for images in loaded)
    assert cached.decoded == dict.fromkeys("01234567", 1)


def test_a_cache_that_does_not_fit_is_refused_before_any_work(
    cached: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(".")._replace(free=14000)  # of the 16,920 bytes needed
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = r"^.*\.pixels \(0\.0 GB\) cannot be written \(No space left on device\): make room, "
    with pytest.raises(InputError, match=message):
        cached.load()
    assert not cached.decoded


def test_a_disk_that_fills_up_is_said_in_one_line(cached: Cached) -> None:
    cached.load()
    partial = cached.file.with_suffix(".partial")
    cached.file.unlink()
    partial.symlink_to("/dev/full")
    with pytest.raises(
        InputError, match=r"cannot be written \(No space left on device\): make"
    ) as caught:
        cached.load()
    assert "\n" not in str(caught.value)
    partial.unlink()
    assert cached.is_right()


def test_a_folder_that_cannot_be_written_is_named(cached: Cached) -> None:
    cached.folder.write_text("a file")
    with pytest.raises(InputError, match=r"cache/\w+\.pixels .* cannot be written .*data\.cache"):
        cached.load()


def test_memory_stays_small_beyond_the_budget(tmp_path: Path, root: Path) -> None:
    for i in range(192):
        Image.fromarray(noise(i, 256, 256)).save(root / "photos" / f"large{i}.bmp")
    manifest = run(tmp_path / "out", root=root, folders=FOLDERS)
    total = 192 * 3 * 256 * 256

    def peak(memory_mb: int) -> int:
        tracemalloc.start()
        patches = Patches(
            load_training_arrays(manifest, memory_mb, tmp_path / "cache"), 16, 16, seed=0
        )
        for iteration in range(20):
            patches.batch(iteration)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(1000) > total
    assert peak(1) < total / 2  # while the cache is made: two images for each of up to 32 threads
    assert peak(1) < total / 50


def test_numeric_and_missing_looking_names_stay_text(tmp_path: Path, root: Path) -> None:
    write_pixels(root / "NA.png", noise(70, 40, 40))
    write_pixels(root / "007.png", noise(71, 40, 40))
    manifest = run(tmp_path / "out", root=root, folders={**FOLDERS, "test": ["."]})
    assert list(load_images(manifest, "test")) == ["007", "NA"]


def test_manifest_notices_what_changed(tmp_path: Path, root: Path) -> None:
    manifest = run(tmp_path / "out", root=root, folders=FOLDERS)
    mend = "run dvc repro -f prepare"
    write_pixels(root / "photos" / "3.png", noise(99, 23, 30))
    with pytest.raises(InputError, match=rf"photos/3\.png has changed since .*: {mend}"):
        load_training_arrays(manifest)
    assert list(load_images(manifest, "test")) == ["bench-a-0001"]  # untouched by the change
    (root / "photos" / "3.png").unlink()
    with pytest.raises(InputError, match=rf"photos/3\.png cannot be read .*{mend}"):
        read_manifest(manifest)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table.drop(columns=["sha256"]), "has no column sha256"),
        (lambda table: table.replace("test", "tset"), "unknown role 'tset'"),
        (lambda table: table[table["role"] != "test"], "no image with the role test"),
        (lambda table: table.replace(36, "many"), "width or height that is no number"),
    ],
)
def test_malformed_manifest(tmp_path: Path, root: Path, damage: object, message: str) -> None:
    manifest = run(tmp_path / "out", root=root, folders=FOLDERS)
    damage(pd.read_csv(manifest)).to_csv(manifest, index=False)
    with pytest.raises(InputError, match=rf"manifest\.csv .*{message}.*: run dvc repro -f prepare"):
        load_images(manifest, "test")


def test_unreadable_manifest(tmp_path: Path, root: Path) -> None:
    manifest = run(tmp_path / "out", root=root, folders=FOLDERS)
    text = manifest.read_text()
    manifest.write_text(text[: text.rindex(",", 0, text.rindex(","))] + "\n")
    with pytest.raises(InputError, match=r"manifest\.csv has incomplete lines"):
        read_manifest(manifest)
    manifest.write_bytes(b"")
    with pytest.raises(InputError, match=r"manifest\.csv is not a manifest"):
        read_manifest(manifest)
    manifest.unlink()
    with pytest.raises(InputError, match=r"manifest\.csv cannot be read .*: run dvc repro -f"):
        read_manifest(manifest)


@pytest.mark.parametrize(
    ("source", "of"),
    [
        ("bsd400/12003.jpg", "bsd400"),
        ("sets/set5/a bird.png", "sets/set5"),
        ("scikit-image retina.jpg", "scikit-image"),
        ("dead leaves, colours of retina", "dead leaves"),
    ],
)
def test_the_set_of_an_image_is_its_folder_or_package(source: str, of: str) -> None:
    assert set_of(source) == of
