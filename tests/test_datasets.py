import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from reg.datasets import PHOTOGRAPHS, load_images, load_training_arrays, prepare, read_manifest
from reg.errors import InputError
from reg.images import read_pixels, write_pixels

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
