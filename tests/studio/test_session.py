"""What a visitor of the page can do, without the page."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.records import TileSet
from stedm_jax.studio.easel import SEEDS, SHOWN, Easel, agreement
from stedm_jax.studio.live_sampler import STREAM, Wish
from stedm_jax.studio.session import CHOSEN, Numbers, Session
from stedm_jax.synthesize.trained_generator import mixed
from tests.studio.easels import easel_of

NUMBERS = Numbers(seed=3, steps=4, guidance=1.5, strength=1.0, mix=0.0)


@pytest.fixture(scope="module")
def easel(tmp_path_factory):
    return easel_of(tmp_path_factory.mktemp("studio"))


@pytest.fixture
def session(easel, tmp_path):
    return Session(easel, tmp_path / "files")


def wish_of(easel: Easel, **changes) -> Wish:
    layout = easel.layouts(0)[0]
    one, other = (easel.bag(easel.tiles(patient)).tiles for patient in easel.patients)
    return replace(Wish(layout.mask, one, other, steps=4, tile=layout.tile), **changes)


def made(easel: Easel, wish: Wish, seed: int = 0) -> np.ndarray:
    return [frame.images for frame in easel.make(wish, seed)][-1]


def far(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())


def test_images_are_those_of_synthesis(easel):
    """The sampler of the task, with the same noise."""
    wish, sampler = wish_of(easel, guidance=2.5, strength=0.5), easel.sampler
    images = made(easel, wish, 5)
    key = jax.random.fold_in(jax.random.key(easel.context.seed), STREAM)
    side = easel.side // sampler.task.factor
    shape = (side, side, sampler.task.channels)
    noise = jnp.stack([jax.random.normal(jax.random.fold_in(key, 5 + n), shape) for n in range(4)])
    copies = [np.broadcast_to(x, (4, *x.shape)) for x in (wish.mask, wish.styles, wish.tile)]
    section = easel.section
    section = replace(
        section,
        steps=wish.steps,
        start="tile",
        strength=0.5,
        guidance=replace(section.guidance, scale=2.5),
    )
    sample = jax.jit(lambda p, f, m, s, n, t: sampler.task.sample(p, f, m, s, n, section, None, t))
    wanted = sample(sampler.params, sampler.frozen, *copies[:2], noise, copies[2])
    assert far(images, np.asarray(wanted)) <= 1
    assert images.std() > 5


def test_an_image_depends_on_its_seed_alone(easel):
    wish = wish_of(easel)
    first, later = made(easel, wish, 0), made(easel, wish, 2)
    assert far(first[2], later[0]) <= 1 and far(first[3], later[1]) <= 1
    assert far(first[0], first[1]) > 5


def test_images_are_shown_on_their_way(easel):
    frames = list(easel.make(wish_of(easel, steps=16), 0))
    assert 4 <= len(frames) <= 9 and frames[-1].done == frames[-1].total == 16
    assert [frame.done for frame in frames] == sorted({frame.done for frame in frames})


def test_the_mix_goes_from_one_style_to_the_other(easel):
    wish = wish_of(easel)
    other = made(easel, replace(wish, styles=wish.others))
    assert far(made(easel, replace(wish, mix=1.0)), other) <= 1
    assert far(made(easel, replace(wish, mix=0.0)), other) > 0


def test_a_style_between_two_is_on_the_line():
    one, other = {"a": jnp.zeros(3), "b": jnp.ones(2, bool)}, {"a": jnp.ones(3), "b": jnp.ones(2)}
    between = mixed(one, other, jnp.float32(0.25))
    np.testing.assert_allclose(between["a"], 0.25)
    assert between["b"].all()


def test_strength_needs_a_tile(easel):
    with pytest.raises(UserError, match="strength of 0.5 starts from a tile"):
        made(easel, wish_of(easel, strength=0.5, tile=None))


def test_layouts_and_styles_are_those_of_training_patients_only(easel):
    assert set(easel.patients) == {"style0", "style1"}
    assert {layout.patient for layout in easel.layouts(0)} == {"train0", "train1"}
    assert len(easel.layouts(0)) <= SHOWN


def test_a_painted_layout_is_what_is_made(session):
    session.blank(0)
    picture = session.canvas
    assert (picture == session.easel.brushes[0]).all()
    picture[:256] = session.easel.brushes[1]
    *_, (pictures, text) = session.make(picture, NUMBERS)
    assert len(pictures) == SEEDS and text.startswith("4 steps")
    files = {name.rsplit("/", 1)[1]: name for name in session.files()}
    mask = np.asarray(Image.open(files["mask.png"]))
    assert (mask[:16] == 1).all() and (mask[16:] == 0).all()
    image = np.asarray(Image.open(files["seed4.png"]))
    np.testing.assert_array_equal(image, session.made.images[1])
    about = json.loads(Path(files["made_of.json"]).read_text())
    assert about["seeds"] == [3, 4, 5, 6] and about["layout"] == "painted"
    assert about["style_patient"] == "style0" and "style_patient_mixed_in" not in about


def test_painting_on_a_layout_keeps_its_tile(session):
    session.load(0)
    layout = session.layout
    *_, _ = session.make(session.canvas, NUMBERS)
    assert session.made.layout is layout
    picture = session.canvas
    picture[:64] = session.easel.brushes[1]
    *_, _ = session.make(picture, replace(NUMBERS, strength=0.5))
    assert session.made.layout.origin["layout"] == "painted over a layout of the run"
    assert session.made.wish.tile is layout.tile


def test_tiles_are_chosen_one_by_one(session):
    marks = [caption for _, caption in session.tiles(0)]
    assert marks.count(CHOSEN) == session.easel.style.tiles
    free = marks.index("")
    assert session.toggle(0, free)[free][1] == CHOSEN
    assert session.toggle(0, free)[free][1] == ""
    for number in list(session.styles[0].chosen):
        session.toggle(0, number)
    with pytest.raises(UserError, match="No style tile is chosen"):
        next(session.make(None, NUMBERS))


def test_dropped_images_become_a_style(session, tmp_path):
    Image.fromarray(np.full((70, 70, 3), 90, np.uint8)).save(tmp_path / "a.png")
    session.drop(1, [tmp_path / "a.png"])
    *_, _ = session.make(None, replace(NUMBERS, mix=0.5))
    about = session.easel.provenance(session.made.wish, session.made.layout, session.made.bags)
    assert about["style_patient_mixed_in"] == "dropped images" and about["mix"] == "0.5"
    assert (session.made.wish.others == 90).all()
    session.choose(1, "style0")
    assert session.styles[1].dropped is None


def test_the_segmenter_is_laid_over(session):
    *_, _ = session.make(None, NUMBERS)
    plain, over = session.pictures(False), session.pictures(True)
    assert all("IoU" in caption or "seed" in caption for _, caption in plain)
    assert any(far(one[0], other[0]) > 10 for one, other in zip(plain, over, strict=True))


def test_agreement_is_the_iou_over_labeled_pixels():
    layout = np.array([[1, 1, 0, VOID]], np.uint8)
    assert agreement(layout, np.array([[1, 0, 0, 1]], np.uint8), [1]) == 0.5
    assert np.isnan(agreement(layout * 0, np.zeros((1, 4), np.uint8), [1]))


def test_a_series_is_a_tile_set_with_provenance(session):
    with pytest.raises(UserError, match="Make tiles first"):
        next(session.series(6, "six"))
    session.load(0)
    *_, _ = session.make(None, NUMBERS)
    *steps, last = session.series(6, "six")
    assert steps[-1].startswith("4 of 6") and last.startswith("6 tiles are in")
    tiles = TileSet.open(session.easel.context.workdir.path / "studio/six")
    assert len(tiles.index("synthetic")) == 6
    shown = [tiles.read("synthetic", number) for number in range(6)]
    for tile, image in zip(shown, session.made.images, strict=False):
        np.testing.assert_array_equal(tile.image, image)
    np.testing.assert_array_equal(shown[5].mask, session.layout.mask)
    assert shown[5].provenance["seed"] == "8" and shown[5].provenance["step"] == "7"
    assert shown[5].patient.startswith("train")
    wrong = [(6, "six", "exists already"), (6, "../x", "is no name"), (0, "n", "0 tiles")]
    for count, name, text in wrong:
        with pytest.raises(UserError, match=text):
            list(session.series(count, name))


@pytest.mark.parametrize(
    ("name", "value"), [("seed", -1), ("steps", 101), ("guidance", None), ("mix", float("nan"))]
)
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(UserError, match=f"The {name} is"):
        Numbers.read(*{**vars(NUMBERS), name: value}.values())
