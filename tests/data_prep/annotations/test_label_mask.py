import json

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from data_prep.annotations import draw_mask, read_annotation
from stedm_jax.common.errors import UserError


def blocks(rows=20, columns=30, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 4, (rows // 5, columns // 5))
    return np.kron(coarse, np.ones((5, 5), int)).astype(np.uint8)


def drawn(annotation, ids, shape, factor):
    return draw_mask(annotation.polygons, ids, (0, 0, *shape), float(factor), 0)


def save(path, mask, names=None):
    if path.suffix == ".tif":
        tifffile.imwrite(path, mask, tile=(16, 16))
    else:
        Image.fromarray(mask).save(path)
    if names is not None:
        path.with_name(path.stem + ".classes.json").write_text(json.dumps(names))
    return path


@pytest.mark.parametrize("name", ["s.png", "s.tif"])
@pytest.mark.parametrize(
    ("size", "factor"), [((30, 20), 1), ((120, 80), 4), ((119, 77), 4), ((75, 50), 2.5)]
)
def test_masks_of_any_scale_come_back(tmp_path, name, size, factor):
    mask = blocks()
    annotation = read_annotation(save(tmp_path / name, mask), "s.svs", size)
    ids = {f"class {i}": i for i in (1, 2, 3)}
    assert {p.name for p in annotation.polygons} == set(ids)
    inner = (
        np.s_[:-1, :-1] if size == (119, 77) else np.s_[:, :]
    )  # centers of its last pixels lie off the slide
    np.testing.assert_array_equal(drawn(annotation, ids, mask.shape, factor)[inner], mask[inner])
    assert annotation.left_out == ()


def test_names_and_colors_beside_the_mask(tmp_path):
    names = {"0": "rest", "1": {"name": "tumour", "color": [1, 2, 3]}, "2": "rest"}
    path = save(tmp_path / "s.png", blocks(), names)
    annotation = read_annotation(path, "s.svs", (30, 20))
    assert {p.name for p in annotation.polygons} == {"rest", "tumour"}
    assert "holds 3, which s.classes.json does not name" in annotation.left_out[0]
    assert {p.color for p in annotation.polygons if p.name == "tumour"} == {(1, 2, 3)}


def test_palettes_give_colors_and_255_is_unlabeled(tmp_path):
    mask = blocks()
    mask[:5, :5] = 255
    picture = Image.fromarray(mask)
    picture.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.save(tmp_path / "s.png")
    annotation = read_annotation(tmp_path / "s.png", "s.svs", (30, 20))
    colors = {p.name: p.color for p in annotation.polygons}
    assert colors == {"class 1": (10, 20, 30), "class 2": (40, 50, 60), "class 3": (70, 80, 90)}
    colormap = np.repeat(np.arange(256, dtype=np.uint16)[None], 3, 0) * 256
    tifffile.imwrite(tmp_path / "t.tif", mask, photometric="palette", colormap=colormap)
    assert {p.color for p in read_annotation(tmp_path / "t.tif", "t.svs", (30, 20)).polygons} == {
        (1, 1, 1),
        (2, 2, 2),
        (3, 3, 3),
    }


def test_sixteen_bits_and_one_bit(tmp_path):
    Image.fromarray(blocks().astype(np.uint16)).save(tmp_path / "s.png")
    assert len(read_annotation(tmp_path / "s.png", "s.svs", (30, 20)).polygons) > 3
    Image.fromarray(blocks() > 1).save(tmp_path / "b.png")
    assert {p.name for p in read_annotation(tmp_path / "b.png", "s.svs", (30, 20)).polygons} == {
        "class 1"
    }


def test_pyramids_are_read_at_the_finest_level_that_fits(tmp_path, monkeypatch):
    mask = np.kron(blocks(), np.ones((2, 2), np.uint8))
    with tifffile.TiffWriter(tmp_path / "s.tif") as file:
        file.write(mask, tile=(16, 16), subifds=1)
        file.write(mask[::2, ::2], tile=(16, 16), subfiletype=1)
    assert read_annotation(tmp_path / "s.tif", "s.svs", (60, 40)).left_out == ()
    monkeypatch.setattr("data_prep.annotations.label_mask.MOST_PIXELS", 1000)
    annotation = read_annotation(tmp_path / "s.tif", "s.svs", (60, 40))
    assert "read at 1/2 of its size" in annotation.left_out[0]
    ids = {f"class {i}": i for i in (1, 2, 3)}
    np.testing.assert_array_equal(drawn(annotation, ids, (40, 60), 1), mask)


def test_large_ones_are_no_decompression_bombs_to_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    save(tmp_path / "s.png", blocks())
    assert read_annotation(tmp_path / "s.png", "s.svs", (30, 20)).polygons
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr("data_prep.annotations.label_mask.MOST_PIXELS", 100)
    with pytest.raises(UserError, match="too many"):
        read_annotation(tmp_path / "s.png", "s.svs", (30, 20))


def test_what_is_no_mask_of_the_slide_is_refused(tmp_path):
    path = save(tmp_path / "s.png", blocks())
    with pytest.raises(
        UserError, match=r"30x20 pixels, which is no downsampling of the slide's 100x100"
    ):
        read_annotation(path, "s.svs", (100, 100))
    with pytest.raises(UserError, match="size of its slide"):
        read_annotation(path, "s.svs")
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    with pytest.raises(UserError, match="colored"):
        read_annotation(save(tmp_path / "c.png", noise), "s.svs", (30, 20))
    with pytest.raises(UserError, match="no ids"):
        read_annotation(save(tmp_path / "i.tif", blocks().astype(np.int16) - 1), "s.svs", (30, 20))
    with pytest.raises(UserError, match="type float32"):
        read_annotation(save(tmp_path / "f.tif", blocks().astype(np.float32)), "s.svs", (30, 20))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"s\.png"):
        read_annotation(path, "s.svs", (30, 20))
    for names in ('{"x": "a"}', "[1]", "{", '{"1": {}}'):
        path = save(tmp_path / "n.png", blocks())
        (tmp_path / "n.classes.json").write_text(names)
        with pytest.raises(UserError, match=r"n\.classes\.json"):
            read_annotation(path, "s.svs", (30, 20))


def test_pages_that_run_in_a_circle_are_refused(tmp_path):
    path = save(tmp_path / "s.tif", blocks())
    data = bytearray(path.read_bytes())
    first = int.from_bytes(data[4:8], "little")
    end = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    data[end : end + 4] = data[4:8]
    path.write_bytes(data)
    with pytest.raises(UserError, match="circle"):
        read_annotation(path, "s.svs", (30, 20))


def test_a_noisy_mask_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.annotations.label_mask.MOST_AREAS", 50)
    noise = np.random.default_rng(0).integers(0, 3, (60, 60)).astype(np.uint8)
    with pytest.raises(UserError, match=r"s\.png .*smooth it, or use a lower resolution"):
        read_annotation(save(tmp_path / "s.png", noise), "s.svs", (60, 60))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        elements=st.sampled_from([0, 1, 2, 254, 255]),
    ),
    st.sampled_from([1, 8]),
)
def test_drawing_what_was_read_gives_the_mask_again(tmp_path, mask, factor):
    ids = {"rest": 0, "one": 1, "two": 2, "last": 254}
    path = save(tmp_path / "s.png", mask, {str(value): name for name, value in ids.items()})
    size = (mask.shape[1] * factor, mask.shape[0] * factor)
    polygons = read_annotation(path, "s.svs", size).polygons
    for order in (polygons, polygons[::-1]):
        found = draw_mask(order, ids, (0, 0, *mask.shape), float(factor), 255)
        np.testing.assert_array_equal(found, mask)
    labeled = np.count_nonzero(mask != 255)
    assert sum(polygon.area for polygon in polygons) == factor**2 * labeled
