import numpy as np
import openslide

from data_prep.annotations import draw_mask, read_geojson
from data_prep.tissue import mean_in_boxes, tissue_mask
from stedm_jax.data.schema import VOID


def test_finds_the_tissue_and_not_the_glass(cohort):
    for path in sorted((cohort / "annotations").glob("*.geojson")):
        slide = openslide.OpenSlide(cohort / "slides" / f"{path.stem}.tif")
        image = np.array(slide.get_thumbnail((256, 256)))
        polygons = read_geojson(path).polygons
        drawn = draw_mask(polygons, dict.fromkeys((p.name for p in polygons), 0), (0, 0, 256, 256), 4.0) != VOID
        found = tissue_mask(image, 2.0)
        assert np.mean(found[drawn]) > 0.97, path
        assert np.mean(found[~drawn]) < 0.2, path


def test_glass_alone_has_no_tissue_and_tissue_alone_is_all_tissue():
    rng = np.random.default_rng(0)
    glass = np.clip(rng.normal(240, 2, (200, 200, 3)), 0, 255).astype(np.uint8)
    assert not tissue_mask(glass, 4.0).any()
    tissue = np.clip(rng.normal((200, 120, 180), 12, (200, 200, 3)), 0, 255).astype(np.uint8)
    assert tissue_mask(tissue, 4.0).all()


def test_mean_in_boxes():
    mask = np.zeros((50, 50), bool)
    mask[:10] = True
    boxes = np.array([(0, 0, 40, 40), (0, 0, 80, 80), (100, 100, 40, 40)])
    np.testing.assert_allclose(mean_in_boxes(mask, boxes, 0.25), [1.0, 0.5, 0.0])
