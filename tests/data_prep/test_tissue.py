import cv2
import numpy as np
import openslide
import pytest

from data_prep.annotations import draw_mask, read_annotation
from stedm_jax.common.labels import VOID
from stedm_jax.imaging.slide import Slide
from stedm_jax.imaging.tissue import find_blur, find_pen, find_tissue, mean_in_boxes

INK = {"blue": (30, 60, 180), "green": (20, 140, 70), "red": (200, 25, 40), "black": (30, 30, 35)}


def read_whole(path):
    """The annotation of the slide that has the file's name."""
    return read_annotation(path, path.stem)


def stroke(image, mpp, color, at, cover=0.85, width=200.0):
    """Draws a stroke of ink from top to bottom; ink takes light away (Beer and Lambert).

    Returns:
      The picture, where the ink is full, and where there is any.
    """
    height, columns = image.shape[:2]
    points = [
        (at * columns, 0.06 * height),
        ((at + 0.04) * columns, 0.5 * height),
        (at * columns, 0.94 * height),
    ]
    drawn = np.zeros((height, columns), np.uint8)
    cv2.polylines(
        drawn, [np.array(points, np.int32)], False, 255, max(round(width / mpp), 1), cv2.LINE_AA
    )
    amount = cv2.GaussianBlur(drawn.astype(np.float32) / 255, (0, 0), max(20 / mpp, 0.5))
    inked = image * np.exp(np.log(np.array(color) / 255) * (cover * amount)[..., None])
    return inked.astype(np.uint8), amount > 0.9, amount > 0.02


def glass(height=256, width=256):
    return np.clip(np.random.default_rng(0).normal(240, 2, (height, width, 3)), 0, 255).astype(
        np.uint8
    )


@pytest.fixture(scope="module")
def overviews(cohort):
    """Phantom slides of several stains at 4 um, and where tissue was annotated (at 256 pixels a
    side)."""
    found = []
    for path in sorted((cohort / "slides").glob("*.tif")):
        slide = openslide.OpenSlide(path)
        found.append((path.stem, np.array(slide.get_thumbnail((256, 256)))))
    return found


def test_finds_the_tissue_and_not_the_glass(cohort, overviews):
    for stem, image in overviews:
        path = cohort / "annotations" / f"{stem}.geojson"
        if not path.exists():
            continue
        polygons = read_whole(path).polygons
        ids = dict.fromkeys((polygon.name for polygon in polygons), 0)
        drawn = draw_mask(polygons, ids, (0, 0, 256, 256), 4.0, VOID) != VOID
        found = find_tissue(image, 2.0)
        assert np.mean(found.mask[drawn]) > 0.97, path
        assert np.mean(found.mask[~drawn]) < 0.2, path


def test_stained_tissue_is_neither_ink_nor_blurred(overviews):
    for stem, image in overviews:
        found = find_tissue(image, 2.0)
        assert not found.pen.any() and not found.blur.any(), stem


@pytest.mark.parametrize("color", INK)
def test_ink_over_a_section(overviews, color):
    """On glass all of it; on tissue green and black, as blue and red ink over stain can have the
    color of stain."""
    for stem, image in overviews:
        before = find_tissue(image, 2.0)
        inked, full, some = stroke(image, 2.0, INK[color], 0.12, width=120.0)
        found = find_tissue(inked, 2.0)
        glass_part = full & ~before.mask
        if glass_part.sum() > 300:
            assert found.pen[glass_part].mean() > 0.8, stem
        if color in ("green", "black"):
            assert found.pen[full].mean() > 0.5, stem
        assert not (found.pen & found.mask).any()
        near = cv2.dilate(some.astype(np.uint8), np.ones((49, 49), np.uint8)) > 0
        assert not found.pen[~near].any(), stem
        assert found.mask[before.mask & ~near].mean() > 0.98, stem


@pytest.mark.parametrize("color", INK)
def test_ink_on_glass_alone(color):
    inked, full, _ = stroke(glass(), 8.0, INK[color], 0.5, width=400.0)
    found = find_tissue(inked, 8.0)
    assert found.pen[full].all() and not found.mask.any() and found.blur.mean() < 0.02


def test_a_blurred_half(overviews):
    for stem, image in overviews:
        tissue = find_tissue(image, 2.0).mask
        half = image.copy()
        half[:, 128:] = cv2.GaussianBlur(image, (0, 0), 3.5)[:, 128:]
        found = find_tissue(half, 2.0)
        assert found.blur[:, 160:][tissue[:, 160:]].mean() > 0.7, stem
        assert found.blur[:, :96].mean() < 0.02, stem
        np.testing.assert_array_equal(found.blur & found.mask, False)


def test_flat_tissue_is_not_called_blurred():
    image = np.full((200, 200, 3), (200, 120, 180), np.uint8)
    assert not find_blur(image, np.ones((200, 200), bool), 4.0).any()


def test_black_borders_are_no_tissue(overviews):
    image = overviews[0][1].copy()
    image[:, :40] = 3
    image[200:] = 0
    found = find_tissue(image, 2.0)
    assert not found.mask[:, :40].any() and not found.mask[200:].any() and not found.pen.any()
    np.testing.assert_allclose(
        found.mask[20:180, 60:].mean(),
        find_tissue(overviews[0][1], 2.0).mask[20:180, 60:].mean(),
        atol=0.03,
    )


def test_small_dark_spots_are_no_ink():
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal((200, 120, 180), 12, (300, 300, 3)), 0, 255).astype(np.uint8)
    for y, x in rng.integers(10, 290, (60, 2)):
        cv2.circle(image, (int(x), int(y)), 5, (25, 20, 20), -1)
    assert not find_pen(image, 4.0).any() and find_tissue(image, 4.0).mask.mean() > 0.9


@pytest.mark.parametrize("tint", [(240, 240, 240), (250, 235, 225), (225, 230, 240)])
def test_glass_alone_has_no_tissue(tint):
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(tint, 2, (200, 200, 3)), 0, 255).astype(np.uint8)
    image[50:53, 60:63] = (90, 80, 60)  # dust
    found = find_tissue(image, 4.0)
    assert not found.mask.any() and not found.pen.any() and not found.blur.any()


def test_tissue_alone_is_all_tissue():
    rng = np.random.default_rng(0)
    tissue = np.clip(rng.normal((200, 120, 180), 12, (200, 200, 3)), 0, 255).astype(np.uint8)
    assert find_tissue(tissue, 4.0).mask.all()


def test_mean_in_boxes():
    mask = np.zeros((50, 50), bool)
    mask[:10] = True
    boxes = np.array([(0, 0, 40, 40), (0, 0, 80, 80), (100, 100, 40, 40)])
    np.testing.assert_allclose(mean_in_boxes(mask, boxes, 0.25), [1.0, 0.5, 0.0])


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "supplied", "share", "least"),
    [
        ("CMU-1-Small-Region.svs", None, (0.3, 0.45), 0.55),
        ("kidney/histology_image.svs", 0.466667, (0.9, 1.0), 0.5),
    ],
)
@pytest.mark.parametrize("mpp", [2.0, 8.0])
def test_real_slides(real_data, name, supplied, share, least, mpp):
    """Ink on the glass of a biopsy, and on hematoxylin-rich kidney that fills the picture (where
    red is hardest)."""
    with Slide(real_data / "slides" / name, supplied=supplied) as slide:
        image = slide.overview(mpp)
    plain = find_tissue(image, mpp)
    assert share[0] < plain.mask.mean() < share[1] and not plain.pen.any() and not plain.blur.any()
    for color, ink in INK.items():
        inked, full, some = stroke(image, mpp, ink, 0.5, width=150.0)
        found = find_tissue(inked, mpp)
        assert found.pen[full].mean() > least, color
        far = ~(
            cv2.dilate(
                some.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=int(60 / mpp) + 1
            )
            > 0
        )
        assert found.pen[far].mean() < 0.005, color
        assert found.mask[far & plain.mask].mean() > 0.97, color
    blurred = cv2.GaussianBlur(image, (0, 0), 3)
    assert find_tissue(blurred, mpp).blur[plain.mask].mean() > 0.7
