import json

import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep.annotations import Origin, load_annotation
from data_prep.class_plan import ClassPlan
from data_prep.cohort_table import Row
from data_prep.engine.job import CutRules, Job, SlideReport, Task
from data_prep.engine.source import open_source
from data_prep.tiff import write_pyramid
from stedm_jax.common.errors import UserError
from stedm_jax.data.schema import ClassSpec
from stedm_jax.imaging.open_slide import open_slide
from stedm_jax.inference.outlines import features
from stedm_jax.inference.outputs import write_outlines
from stedm_jax.inference.view import view_image, view_slide
from tests.imaging.pictures import noise, waves, write_ome, write_scn


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "one.tif"
    write_pyramid(path, waves(1000, 1024), 0.25, quality=95)
    return path


@pytest.mark.parametrize("wanted", [0.25, 0.5, 0.7, 1.24])
def test_inference_sees_the_pixels_that_packing_packs(slide, wanted):
    view = view_slide(slide, None, wanted)
    job = Job("one.tif", Row("one.tif", "p", "style", {}, {}, 2), slide, None)
    plan = ClassPlan((ClassSpec("a", (1, 2, 3)),), {"a": 0}, 255, None)
    task = Task(job, plan, CutRules(wanted, 64))
    source = open_source(task, SlideReport.__new__(SlideReport))
    packed = source.read((0, 0, *source.shape))
    assert view.size == view.picture.shape == source.shape
    source.close()
    height, width = view.size
    assert view.scale == pytest.approx(wanted / 0.25) and view.mpp == wanted
    np.testing.assert_array_equal(view.picture.read(0, 0, height, width), packed)
    half = height // 2 + 3
    parts = [
        view.picture.read(0, 0, half, width),
        view.picture.read(half, 0, height - half, width),
    ]
    np.testing.assert_array_equal(np.vstack(parts), packed)
    view.close()


def test_a_region_of_a_slide(slide):
    view = view_slide(slide, None, 0.5, (200, 100, 400, 300))
    assert view.size == (150, 200) and view.corner == (200, 100)
    whole = view_slide(slide, None, 0.5)
    np.testing.assert_array_equal(
        view.picture.read(0, 0, 150, 200), whole.picture.read(50, 100, 150, 200)
    )
    shifted = view_slide(slide, None, 0.7, (201, 101, 300, 300))  # begins at a pixel of packing
    assert shifted.corner == pytest.approx((72 * 2.8, 36 * 2.8))
    assert view_slide(slide, None, 0.7, (1022, 998, 2, 2)).size == (1, 1)
    with pytest.raises(UserError, match="does not lie in .*1024 x 1000"):
        view_slide(slide, None, 0.5, (1000, 0, 100, 100))


def test_a_slide_coarser_than_the_network_is_enlarged(slide):
    view = view_slide(slide, None, 0.125)
    assert view.size == (2000, 2048)
    whole = view.picture.read(0, 0, 2000, 2048)
    assert np.abs(whole[1:-1:2, 1:-1:2].astype(int) - waves(1000, 1024)[:-1, :-1]).mean() < 3
    part = view.picture.read(700, 900, 250, 300)
    assert np.abs(part.astype(int) - whole[700:950, 900:1200]).max() <= 1


def test_outlines_for_qupath_are_read_back_at_the_same_place(tmp_path):
    """QuPath counts from the corner of what was scanned, 400, 300."""
    write_scn(tmp_path / "s.scn", waves(512, 512), (400, 300), (1200, 1000))
    for region, first in ((None, (0, 0)), ((300, 200, 800, 700), (300, 200))):
        view = view_slide(tmp_path / "s.scn", None, 2.0, region)
        assert view.corner == (first[0] - 400, first[1] - 300)
        mask = np.zeros(view.size, np.uint8)
        y, x = 75 - first[1] // 4, 100 - first[0] // 4
        mask[y : y + 10, x : x + 10] = 1
        kinds = (("rest", "gland"), ((0, 0, 0), (200, 0, 0)), (1,))
        parts = features(mask, mask.astype(np.int32), *kinds, view.scale, view.corner)
        write_outlines(tmp_path / "s.geojson", parts)
        written = json.loads((tmp_path / "s.geojson").read_text())["features"][0]
        assert np.min(written["geometry"]["coordinates"][0], axis=0).tolist() == [0, 0]
        origin = Origin(*open_slide(tmp_path / "s.scn").origin)
        found = load_annotation([tmp_path / "s.geojson"], "s", (1200, 1000), origin).polygons
        assert found[0].box == (400, 300, 440, 340)


def test_microns_are_believed_as_packing_believes_them(tmp_path):
    write_pyramid(tmp_path / "dpi.tif", noise(600, 600), mpp=352.8)
    with pytest.raises(UserError, match=r"does not say .* \(its tags say 352.*; give --mpp=0\.25"):
        view_slide(tmp_path / "dpi.tif", None, 1.0)
    assert view_slide(tmp_path / "dpi.tif", 0.5, 1.0).size == (300, 300)
    write_ome(tmp_path / "far.ome.tif", noise(64, 64), mpp=40.0)
    with pytest.raises(UserError, match="does not say"):
        view_slide(tmp_path / "far.ome.tif", None, 1.0)
    write_ome(tmp_path / "near.ome.tif", noise(64, 64), mpp=0.5)
    assert view_slide(tmp_path / "near.ome.tif", 0.25, 1.0).scale == 2.0  # the file's own counts


def test_an_ordinary_image_keeps_its_size_for_the_mask(tmp_path):
    path, image = tmp_path / "a.png", waves(80, 100)
    Image.fromarray(image).save(path)
    view = view_image(path, 0.62, 1.24)
    assert view.size == (80, 100) and view.picture.shape == (40, 50) and view.mpp == 0.62
    want = image.reshape(40, 2, 50, 2, 3).mean((1, 3))
    assert np.abs(view.picture.read(0, 0, 40, 50) - want).max() <= 1
    assert view_image(path, 1.24, 1.24).picture.shape == (80, 100)
    assert view_image(path, 2.48, 1.24).picture.shape == (160, 200)


def test_an_image_is_enlarged_in_pieces(tmp_path):
    """Each as it lies in the whole, which would be 0.8 GB here."""
    image = waves(70, 110)
    Image.fromarray(image).save(tmp_path / "a.png")
    view = view_image(tmp_path / "a.png", 1.0, 0.4)
    whole = cv2.resize(image, (275, 175), interpolation=cv2.INTER_LINEAR)
    assert view.picture.shape == (175, 275) and view.size == (70, 110)
    for box in ((0, 0, 175, 275), (60, 31, 40, 50), (170, 270, 5, 5)):
        y, x, height, width = box
        expected = whole[y : y + height, x : x + width].astype(int)
        assert np.abs(view.picture.read(*box) - expected).max() <= 2
    large = view_image(tmp_path / "a.png", 1.0, 0.0054)
    assert large.picture.shape == (12963, 20370)
    assert large.picture.read(12900, 20300, 63, 70).shape == (63, 70, 3)
