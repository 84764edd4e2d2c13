"""Methods of synthesis sets that need no network, through the stage."""

import numpy as np
import pytest

from stedm_jax.data.augment import dihedral
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import SYNTHETIC
from stedm_jax.data.stain import find_colors, match
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.orders import Orders, bag_of, load, tile_of
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.methods.method import prepare
from stedm_jax.settings.synthesis import Synthesis
from stedm_jax.stages import synthesis
from stedm_jax.training.sharding import make_mesh
from tests.experiment.settings import tiny


@pytest.fixture
def make(tile_set, tmp_path):
    """Makes a context whose set "s" has a method, and its cell."""

    def made(method, changes=(), **others):
        sets = {"s": {"method": method, "changes": changes}}
        settings = tiny(tile_set.path, synthesis__sets=sets, **others)
        context = Context(settings, Workdir(tmp_path / "run"), make_mesh())
        return context, Graph(settings)["synthesis/s"]

    return made


def orders_of(context):
    settings = context.settings
    return Orders(context, settings.synthesis_set("s"), settings.style_of("s"))


@pytest.mark.parametrize("method", ["reinhard", "macenko"])
def test_images_are_functions_of_their_number(make, method):
    context, _ = make(method)
    orders = orders_of(context)
    images = prepare(context, "s", orders, None).make([orders[n] for n in range(6)])
    again = prepare(context, "s", orders, None).make([orders[n] for n in (4, 1)])
    np.testing.assert_array_equal(again, images[[4, 1]])
    assert images.shape == (6, 32, 32, 3) and images.dtype == np.uint8


def test_reinhard_gives_the_colors_of_the_bag(make):
    context, _ = make("reinhard")
    orders = orders_of(context)
    wanted = [orders[n] for n in range(8)]
    for order, image in zip(wanted, prepare(context, "s", orders, None).make(wanted), strict=True):
        bag, tile = bag_of(context.reader, order), tile_of(context.reader, order)[0]
        np.testing.assert_array_equal(image, match("reinhard", tile, bag))
        off = find_colors(image).mean - find_colors(np.concatenate([*bag])).mean
        was = find_colors(tile).mean - find_colors(np.concatenate([*bag])).mean
        assert np.abs(off).max() < 0.1 or np.abs(off).max() < np.abs(was).max()


def test_a_set_without_a_denoiser_is_made_of_the_data_alone(make):
    context, cell = make("reinhard")
    assert cell.needs == ("data",)
    synthesis.run(context, cell, None)
    made = TileSet.open(context.workdir.path / cell.name / "tiles")
    orders = orders_of(context)
    assert len(made.index(SYNTHETIC)) == context.settings.synthesis.count
    for number, row in enumerate(made.index(SYNTHETIC)):
        tile, order = made.read(SYNTHETIC, number), orders[number]
        mask = context.reader.read(order.layout)[1]
        np.testing.assert_array_equal(tile.mask, dihedral(mask, order.turn))
        assert row.style_patient == order.style_patient and tile.patient == order.layout.patient
        assert tile.provenance["method"] == "reinhard"
        records = [int(each) for each in tile.provenance["style_records"].split()]
        assert records == [each.record for each in order.styles]


def test_tiles_to_start_from_are_turned_and_matched_as_their_mask(make):
    context, _ = make("reinhard")
    orders = orders_of(context)
    wanted = [orders[n] for n in range(4)]
    plain = load(context.reader, wanted, Synthesis(start="tile", strength=0.5))
    like = load(context.reader, wanted, Synthesis(start="tile", strength=0.5, match="reinhard"))
    for number, order in enumerate(wanted):
        image, mask = context.reader.read(order.layout)
        np.testing.assert_array_equal(plain["tile"][number], dihedral(image, order.turn))
        np.testing.assert_array_equal(plain["mask"][number], dihedral(mask, order.turn))
        matched = match("reinhard", plain["tile"][number], plain["styles"][number])
        np.testing.assert_array_equal(like["tile"][number], matched)
    assert (like["tile"] != plain["tile"]).any()
    assert "tile" not in load(context.reader, wanted, Synthesis(start="tile", strength=1.0))


def test_inverted_tiles_come_with_style_tiles_of_their_own_patient(make):
    context, _ = make("reinhard", synthesis__start="inversion")
    orders = orders_of(context)
    wanted = [orders[n] for n in range(8)]
    assert wanted == [orders[n] for n in range(8)]
    for order in wanted:
        assert {row.patient for row in order.own} == {order.layout.patient}
        assert order.layout not in order.own and len(order.own) == len(order.styles)
    batch = load(context.reader, wanted, context.settings.synthesis)
    assert batch["own"].shape == batch["styles"].shape and batch["tile"].shape == (8, 32, 32, 3)


def test_finished_images_are_given_the_colors_of_their_style(make):
    context, cell = make("reinhard", changes=(("recolor", "macenko"),))
    orders = orders_of(context)
    plain = prepare(context, "s", orders, None).make
    section = context.settings.synthesis_set("s")
    recolored = synthesis._recolored(context, section, plain)
    wanted = [orders[n] for n in range(4)]
    for order, before, after in zip(wanted, plain(wanted), recolored(wanted), strict=True):
        np.testing.assert_array_equal(
            after, match("macenko", before, bag_of(context.reader, order))
        )
    assert synthesis._recolored(context, Synthesis(), plain) is plain
