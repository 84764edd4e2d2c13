import csv

import cv2
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.schema import ClassSpec
from stedm_jax.data.whole import WholeSet, WholeWriter

CLASSES = (ClassSpec("stroma", (1, 2, 3)), ClassSpec("gland", (4, 5, 6)))


@pytest.fixture
def made(tmp_path):
    """Two images, one without numbered objects."""
    rng = np.random.default_rng(0)
    with WholeWriter(tmp_path / "whole", CLASSES) as out:
        for name, numbers in (("a", rng.integers(0, 700, (20, 30))), ("b", None)):
            cv2.imwrite(
                str(tmp_path / f"{name}.png"), rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            )
            mask = rng.integers(0, 2, (20, 30), dtype=np.uint8)
            out.write(
                tmp_path / f"{name}.png",
                mask,
                numbers,
                patient=name,
                split="test",
                mpp=0.5,
                tags={"part": "A"},
            )
    return tmp_path / "whole"


def test_what_is_written_is_read(made, tmp_path):
    there = WholeSet.open(made)
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 700, (20, 30))
    first, second = there.images
    assert (first.name, first.patient, first.mpp, first.tags) == ("a", "a", 0.5, {"part": "A"})
    np.testing.assert_array_equal(there.instances(first), numbers)
    assert there.instances(second) is None and there.mask(second).dtype == np.uint8
    assert (
        there.file(first).read_bytes() == (tmp_path / "a.png").read_bytes()
        and there.classes == CLASSES
    )
    assert not list(tmp_path.glob("*partial*"))


def test_damage_is_an_error(made):
    there = WholeSet.open(made)
    image, mask = made / there.images[0].image, made / there.images[0].mask
    image.write_bytes(image.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"images/a\.png is missing, damaged"):
        there.file(there.images[0])
    mask.unlink()
    with pytest.raises(UserError, match=r"masks/a\.png is missing"):
        there.mask(there.images[0])
    (made / "index.csv").write_text((made / "index.csv").read_text().replace("test", "train"))
    with pytest.raises(UserError, match=r"index\.csv is damaged or was changed"):
        WholeSet.open(made)


def test_what_is_no_such_set(tile_set, tmp_path):
    with pytest.raises(UserError, match="holds made, not whole images"):
        WholeSet.open(tile_set.path)
    with pytest.raises(UserError, match="--whole"):
        WholeSet.open(tmp_path)


def test_a_failed_or_empty_writing_leaves_nothing(made, tmp_path):
    with (
        pytest.raises(UserError, match="Two images are called a"),
        WholeWriter(tmp_path / "other", CLASSES) as out,
    ):
        for _ in range(2):
            mask = np.zeros((20, 30), np.uint8)
            out.write(tmp_path / "a.png", mask, None, patient="p", split="test", mpp=1.0, tags={})
    with WholeWriter(tmp_path / "empty", CLASSES):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "whole"]
    with (made / "index.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
