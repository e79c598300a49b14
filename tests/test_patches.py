import mmap
from collections import Counter
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch

from reg import patches as module
from reg.datasets import MappedImages
from reg.errors import InputError
from reg.patches import Patches, dihedral


def flat(height: int, width: int, level: int) -> np.ndarray:
    return np.full((height, width, 3), level, dtype=np.uint8)


def numbered(height: int, width: int) -> np.ndarray:
    """An image whose first two channels are the row and column."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns, np.full_like(rows, 7)], axis=2).astype(np.uint8)


@pytest.mark.parametrize("batch", [1, 3, 5, 20])
def test_an_epoch_visits_every_image_in_proportion_to_its_area(batch: int) -> None:
    images = [flat(256, 256, 10), flat(512, 512, 20), flat(384, 512, 30), flat(64, 80, 40)]
    visits = {10: 1, 20: 4, 30: 3, 40: 1}
    patches = Patches(images, 16, batch, seed=3)
    assert patches.samples_per_epoch == 9
    crops = torch.cat([patches.batch(i) for i in range(9)])  # `batch` whole epochs
    levels = (crops[:, 0, 0, 0] * 255).round().int().tolist()
    for epoch in range(batch):
        assert Counter(levels[9 * epoch : 9 * epoch + 9]) == visits


def test_each_epoch_has_its_own_order() -> None:
    images = [flat(16, 16, level) for level in range(20)]
    patches = Patches(images, 16, 20, seed=0)
    orders = [tuple(patches.visited(epoch)) for epoch in range(5)]
    assert len(set(orders)) == 5


def test_batch_depends_on_seed_and_iteration_only() -> None:
    images = [numbered(60, 70), flat(300, 400, 90), numbered(40, 200)]
    sequence = [Patches(images, 24, 4, seed=11).batch(i) for i in range(12)]
    forwards = Patches(images, 24, 4, seed=11)
    backwards = Patches(images, 24, 4, seed=11)
    for i in range(12):
        assert torch.equal(forwards.batch(i), sequence[i])
        assert torch.equal(backwards.batch(11 - i), sequence[11 - i])
    far = 10**9
    assert torch.equal(forwards.batch(far), backwards.batch(far))
    assert not torch.equal(forwards.batch(0), Patches(images, 24, 4, seed=12).batch(0))
    assert not torch.equal(forwards.batch(0), forwards.batch(1))


def test_a_batch_between_two_epochs_draws_each_order_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    generator = module._generator
    monkeypatch.setattr(module, "_generator", lambda *key: drawn.append(key) or generator(*key))
    patches = Patches([flat(16, 16, level) for level in range(10)], 16, 4, seed=6)
    for _ in range(3):
        patches.batch(2)  # crops 8 to 11: the epochs 0 and 1
    assert [key for key in drawn if key[1] == module.ORDER_STREAM] == [(6, 0, 0), (6, 0, 1)]


def mapped(file: Path, images: list[np.ndarray]) -> MappedImages:
    file.write_bytes(b"".join(image.tobytes() for image in images))
    return MappedImages(file, [len(image) for image in images], [i.shape[1] for i in images])


def test_mapped_images_give_the_same_crops(tmp_path: Path) -> None:
    images = [numbered(60, 70), flat(300, 400, 90), numbered(40, 200)]
    views = mapped(tmp_path / "file", images)
    assert not any(view.flags.writeable for view in views)
    ours, theirs = Patches(views, 24, 4, seed=11), Patches(images, 24, 4, seed=11)
    for i in (0, 1, 2, 10**9, 3):
        assert torch.equal(ours.batch(i), theirs.batch(i))


def test_what_the_next_batch_reads_is_announced(tmp_path: Path) -> None:
    class Recorded:
        asked: list[range]

        def madvise(self, advice: int, first: int, length: int) -> None:
            assert advice == mmap.MADV_WILLNEED
            assert first % mmap.PAGESIZE == 0
            assert first + length <= size
            self.asked.append(range(first, first + length))

    # Every byte of an image of its own value, so that a crop tells from which image it is.
    images = [flat(40 + 7 * level, 300, level) for level in range(20)]
    starts = [0, *accumulate(image.nbytes for image in images)]
    size = starts[-1]
    views = mapped(tmp_path / "file", images)
    views._map = recorded = Recorded()  # type: ignore[assignment]
    patches = Patches(views, 32, 6, seed=4)
    for iteration in range(10):
        recorded.asked = []
        patches.batch(iteration)
        chosen, corners, _ = patches._draw(iteration + 1)
        for asked, k, (y, x) in zip(recorded.asked, chosen, corners, strict=True):
            first = starts[k] + 3 * (300 * y + x)
            last = starts[k] + 3 * (300 * (y + 31) + x + 31) + 2
            assert first in asked
            assert last in asked
            assert len(asked) < 32 * 900 + mmap.PAGESIZE


def test_crops_are_float_images_in_channels_last() -> None:
    crops = Patches([numbered(40, 50)], 32, 6, seed=0).batch(0)
    assert crops.shape == (6, 3, 32, 32)
    assert crops.dtype == torch.float32
    assert crops.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(crops[:, 2], torch.full((6, 32, 32), 7 / 255))


def test_all_8_symmetries_occur_evenly_and_nothing_else() -> None:
    image = numbered(5, 5)
    square = [np.rot90(side, k) for side in (image, image.swapaxes(0, 1)) for k in range(4)]
    expected = {symmetry.tobytes() for symmetry in square}
    assert len(expected) == 8
    assert {dihedral(image, k).tobytes() for k in range(8)} == expected

    crops = (Patches([image], 5, 1600, seed=1).batch(0) * 255).round().to(torch.uint8)
    seen = Counter(crop.permute(1, 2, 0).numpy().tobytes() for crop in crops)
    assert set(seen) == expected
    assert min(seen.values()) > 150
    assert max(seen.values()) < 250


def test_all_positions_occur_evenly() -> None:
    crops = (Patches([numbered(7, 9)], 5, 3000, seed=2).batch(0) * 255).round().int()
    corners = Counter(
        (int(crop[0].min()), int(crop[1].min()))
        for crop in crops  # invariant under symmetries
    )
    assert set(corners) == {(y, x) for y in range(3) for x in range(5)}
    assert min(corners.values()) > 140
    assert max(corners.values()) < 260


def test_too_small_or_no_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"training image 1 has 40x16 pixels.*32x32.*smaller"):
        Patches([flat(32, 32, 0), flat(16, 40, 0)], 32, 1, seed=0)
    with pytest.raises(InputError, match="no training image"):
        Patches([], 32, 1, seed=0)


def test_a_share_is_cut_as_the_whole_batch_is() -> None:
    patches = Patches([numbered(40, 50), numbered(64, 33)], 32, 6, seed=0)
    whole = patches.batch(3)
    for share in (slice(0, 2), slice(2, 4), slice(4, 6)):
        assert torch.equal(patches.batch(3, share), whole[share])
