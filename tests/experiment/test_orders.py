"""What a context gives to stages, and what samples are made from."""

import json
from dataclasses import replace

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.experiment.arm_tiles import Rows, learned_patients
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.context import Context, spread
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.orders import Orders, bag_of, tile_of
from stedm_jax.experiment.segmenters import check_leaks
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.stages import generator
from stedm_jax.training.sharding import make_mesh
from tests.conftest import make_tile, written
from tests.experiment.settings import tiny


@pytest.fixture
def make(tile_set, tmp_path):
    """Makes a context of settings with changed keys."""
    mesh = make_mesh()
    return lambda **changes: Context(
        tiny(tile_set.path, **changes), Workdir(tmp_path / "run"), mesh
    )


def orders(context):
    settings = context.settings
    return Orders(context, settings.synthesis, settings.diffusion.style)


@pytest.fixture
def graded(tmp_path):
    """A context of patients with tags: train0 and style0 have one grade, the others another."""
    tiles = [
        make_tile(split, f"{split}{n % 2}", n, tags={"grade": "ab"[n % 2], "site": split})
        for split in ("train", "val", "test", "style")
        for n in range(6)
    ]
    place = written(tmp_path / "graded", tiles).path

    def context(**changes):
        return Context(tiny(place, **changes), Workdir(tmp_path / "run"), make_mesh())

    return context


def test_a_layout_and_its_style_patient_have_the_same_tag(graded):
    def pairs(**changes):
        some = orders(graded(**changes))
        found = (some[number] for number in range(30))
        return {(order.layout.patient, order.style_patient) for order in found}

    assert pairs(synthesis__pair_by="grade") == {("train0", "style0"), ("train1", "style1")}
    assert len(pairs()) == 4


def test_pairs_that_cannot_be_are_refused(graded):
    with pytest.raises(UserError, match="the tags are: grade, site. Did you mean 'grade'"):
        orders(graded(synthesis__pair_by="grad"))
    with pytest.raises(UserError, match="no style patient has its value 'train', which 6 of 6"):
        orders(graded(synthesis__pair_by="site"))


def test_training_on_held_out_patients_is_refused(make):
    with pytest.raises(UserError, match="trains on the split test"):
        make().sources({"train": 0.5, "test": 0.5})


def test_styles_of_held_out_patients_are_refused(make):
    with pytest.raises(UserError, match="'test0' in synthesis and test"):
        orders(make(synthesis__styles="test"))


def test_judging_a_patient_who_was_learned_from_is_refused(make):
    context = make()
    scored = {
        split: Rows(context.reader, context.rows(name))
        for split, name in (("val", "val"), ("test", "train"))
    }
    with pytest.raises(UserError, match="'train0' in test and training"):
        check_leaks(learned_patients(context, "labelled"), scored)


def test_orders_are_functions_of_seed_and_number_and_use_the_right_patients(make):
    one, other = orders(make()), orders(make())
    assert [one[n] for n in range(20)] == [other[n] for n in (*range(10), *range(10, 20))]
    for order in (one[n] for n in range(20)):
        assert order.layout.split == "train"
        assert {row.patient for row in order.styles} == {order.style_patient}
        assert {row.split for row in order.styles} == {"style"}
    assert {one[n].style_patient for n in range(20)} == {"style0", "style1"}
    third = orders(make(seed=1))
    assert [third[n] for n in range(20)] != [one[n] for n in range(20)]


def test_the_grid_keeps_a_style_in_a_column_and_a_layout_in_a_row(make):
    grid = orders(make()).grid(3, 2)
    assert len(grid) == 3 and all(len({order.layout for order in row}) == 1 for row in grid)
    assert all(len({order.styles for order in column}) == 1 for column in zip(*grid, strict=True))


def test_the_names_of_watched_samples_are_those_of_what_is_drawn(make):
    context = make(diffusion__watch__layouts=3, diffusion__watch__styles=2)
    cell = Graph(context.settings)["generator/stedm"]
    batch = generator.watched(context, cell)
    ((picture, (rows, columns)),) = generator.names(context, cell).items()
    assert picture == "samples" and (rows[0], columns[0]) == ("style", "layout")
    grid = orders(context).grid(3, 2)
    assert rows[1:] == [row[0].layout.patient for row in grid]
    assert columns[1:] == [order.style_patient for order in grid[0]] == ["style0", "style1"]
    assert batch["mask"].shape[:2] == (len(rows) - 1, len(columns) - 1)
    file = context.workdir.path / cell.name / "images" / generator.WHOSE
    assert json.loads(file.read_text()) == {"layouts": rows[1:], "styles": columns[1:]}


def test_tiles_of_another_size_are_refused(make):
    context = make()
    data = replace(context.settings.data, tile=64)
    context = replace(context, settings=replace(context.settings, data=data))
    with pytest.raises(UserError, match="32 px at 2 um/px"):
        _ = context.tiles


def test_what_has_not_finished_is_refused(make):
    with pytest.raises(UserError, match="needs autoencoder, latents"):
        Learned(make()).need("autoencoder", "latents")


def test_spread_is_even_and_never_repeats():
    assert spread(list(range(10)), 4) == [0, 3, 6, 9] and spread([1, 2], 5) == [1, 2]


def test_layouts_are_distorted_with_their_tiles_at_the_share_that_is_asked_for(make):
    plain, context = orders(make()), make(synthesis__augment_layouts=0.5)
    some = orders(context)
    moved = [some[n] for n in range(60)]
    assert 15 < sum(order.distorted is not None for order in moved) < 45
    same = [replace(order, distorted=None) for order in moved]
    assert same == [plain[n] for n in range(60)] and moved == [some[n] for n in range(60)]
    order = next(order for order in moved if order.distorted is not None)
    before, after = (tile_of(context.reader, each) for each in (same[order.index], order))
    for way, one, other in zip(("image", "mask"), before, after, strict=True):
        np.testing.assert_array_equal(getattr(order.distorted, way)(one), other)
    assert some.grid(1, 1)[0][0].distorted is None


def test_the_published_code_distorts_half_of_the_augmented_style_tiles_at_synthesis(make):
    context = make(diffusion__style__source="augmented", diffusion__style__as_published_code=True)
    found = [orders(context)[n] for n in range(40)]
    drawn = [each for order in found for each in order.styles_distorted]
    assert 0.3 < sum(each is not None for each in drawn) / len(drawn) < 0.7
    bags = [(order, order.styles_distorted[0]) for order in found]
    order, by = next((order, by) for order, by in bags if by is not None)
    own = context.reader.read(order.styles[0])[0]
    np.testing.assert_array_equal(bag_of(context.reader, order)[0], by.image(own))
    paper = orders(make(diffusion__style__source="augmented"))
    assert not any(any(paper[n].styles_distorted) for n in range(20))
