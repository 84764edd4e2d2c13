"""Methods of synthesis sets that need no network, through the stage."""

import shutil
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.labels import VOID
from stedm_jax.data.augment import dihedral
from stedm_jax.data.numbered_parts import NumberedParts
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import SYNTHETIC
from stedm_jax.data.stain import find_colors, match
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.orders import bag_of, load, orders_of, real_shares, tile_of
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.methods import arbitrary_style
from stedm_jax.methods.method import prepare
from stedm_jax.settings.synthesis import Synthesis
from stedm_jax.stages import synthesis
from stedm_jax.training.sharding import make_mesh
from tests.experiment.settings import tiny
from tests.tasks.test_tile_start import Averages


@pytest.fixture
def make(tile_set, tmp_path):
    """Makes a context whose set "s" has a method, and its cell."""

    def made(method, changes=(), called="s", **others):
        sets = {called: {"method": method, "changes": changes}}
        settings = tiny(tile_set.path, synthesis__sets=sets, **others)
        context = Context(settings, Workdir(tmp_path / "run"), make_mesh())
        return context, Graph(settings)[f"synthesis/{called}"]

    return made


@pytest.mark.parametrize("method", ["reinhard", "macenko"])
def test_images_are_functions_of_their_number(make, method):
    context, _ = make(method)
    orders = orders_of(context, "s")
    images = prepare(context, "s", orders, None).make([orders[n] for n in range(6)])
    again = prepare(context, "s", orders, None).make([orders[n] for n in (4, 1)])
    np.testing.assert_array_equal(again, images[[4, 1]])
    assert images.shape == (6, 32, 32, 3) and images.dtype == np.uint8


def test_reinhard_gives_the_colors_of_the_bag(make):
    context, _ = make("reinhard")
    orders = orders_of(context, "s")
    wanted = [orders[n] for n in range(8)]
    for order, image in zip(wanted, prepare(context, "s", orders, None).make(wanted), strict=True):
        bag, tile = bag_of(context.reader, order), tile_of(context.reader, order)[0]
        np.testing.assert_array_equal(image, match("reinhard", tile, bag))
        off = find_colors(image).mean - find_colors(np.concatenate([*bag])).mean
        was = find_colors(tile).mean - find_colors(np.concatenate([*bag])).mean
        assert np.abs(off).max() < 0.1 or np.abs(off).max() < np.abs(was).max()


def test_a_set_may_have_hyphens_in_its_name(make):
    context, cell = make("reinhard", called="tile-30", synthesis__count=2)
    synthesis.run(context, cell, None)
    made = TileSet.open(context.workdir.path / cell.name / "tiles")
    assert made.manifest["name"] == "demo_tile_30" and len(made.index(SYNTHETIC)) == 2


def test_a_set_without_a_denoiser_is_made_of_the_data_alone(make):
    context, cell = make("reinhard")
    assert cell.needs == ("data",)
    synthesis.run(context, cell, None)
    made = TileSet.open(context.workdir.path / cell.name / "tiles")
    orders = orders_of(context, "s")
    assert len(made.index(SYNTHETIC)) == context.settings.synthesis.count
    for number, row in enumerate(made.index(SYNTHETIC)):
        tile, order = made.read(SYNTHETIC, number), orders[number]
        mask = context.reader.read(order.layout)[1]
        np.testing.assert_array_equal(tile.mask, dihedral(mask, order.turn))
        assert row.style_patient == order.style_patient and tile.patient == order.layout.patient
        assert tile.provenance["method"] == "reinhard"
        records = [int(each) for each in tile.provenance["style_records"].split()]
        assert records == [each.record for each in order.styles]


@pytest.mark.parametrize(("batch", "count"), [(3, 8), (5, 8), (8, 20), (4, 6)])
def test_images_of_a_killed_run_come_once_though_batch_and_count_changed(
    make, monkeypatch, batch, count
):
    """Parts are known by the numbers that they hold; what was packed is what is reported."""
    context, cell = make("reinhard", synthesis__batch=4, synthesis__count=12)
    write, written = NumberedParts.write, []

    def killed(parts, numbers, tiles):
        written.append(numbers)
        if len(written) == 3:
            raise KeyboardInterrupt
        write(parts, numbers, tiles)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(NumberedParts, "write", killed)
        synthesis.run(context, cell, None)
    later, cell = make("reinhard", synthesis__batch=batch, synthesis__count=count)
    synthesis.run(later, cell, None)
    made = TileSet.open(context.workdir.path / cell.name / "tiles")
    numbers = [made.read(SYNTHETIC, n).provenance["index"] for n in range(count)]
    assert len(made.index(SYNTHETIC)) == count == later.workdir.result(cell.name)["tiles"]
    assert numbers == [str(number) for number in range(count)]


def test_a_killed_run_ends_with_the_same_files(make, monkeypatch):
    """In any order of the parts; the third is written by half when it is killed."""
    context, cell = make("reinhard", synthesis__batch=4, synthesis__count=18)
    folder = context.workdir.path / cell.name / "tiles"
    synthesis.run(context, cell, None)
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    write, asked = NumberedParts.write, []

    def killed(parts, numbers, tiles):
        asked.append(numbers)
        if len(asked) == 1:
            return  # the first is lost
        if len(asked) == 4:
            next(tiles)
            finished = parts.folder / "00000004-00000008"  # as if killed before it had its name
            shutil.copytree(finished, parts.folder / ".00000012-00000016.partial")
            raise KeyboardInterrupt
        write(parts, numbers, tiles)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(NumberedParts, "write", killed)
        synthesis.run(context, cell, None)
    made = []
    monkeypatch.setattr(NumberedParts, "write", lambda *args: made.append(args[1]) or write(*args))
    synthesis.run(context, cell, None)
    assert made == [range(0, 4), range(12, 16), range(16, 18)]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole
    assert not (folder.parent / "parts").exists()


def test_tiles_to_start_from_are_turned_and_matched_as_their_mask(make):
    context, _ = make("reinhard")
    orders = orders_of(context, "s")
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
    orders = orders_of(context, "s")
    wanted = [orders[n] for n in range(8)]
    assert wanted == [orders[n] for n in range(8)]
    for order in wanted:
        assert {row.patient for row in order.own} == {order.layout.patient}
        assert order.layout not in order.own and len(order.own) == len(order.styles)
    batch = load(context.reader, wanted, context.settings.synthesis)
    assert batch["own"].shape == batch["styles"].shape and batch["tile"].shape == (8, 32, 32, 3)


def test_finished_images_are_given_the_colors_of_their_style(make):
    context, cell = make("reinhard", changes=(("recolor", "macenko"),))
    orders = orders_of(context, "s")
    plain = prepare(context, "s", orders, None).make
    section = context.settings.synthesis_set("s")
    recolored = synthesis._recolored(context, section, plain)
    wanted = [orders[n] for n in range(4)]
    for order, before, after in zip(wanted, plain(wanted), recolored(wanted), strict=True):
        np.testing.assert_array_equal(
            after, match("macenko", before, bag_of(context.reader, order))
        )
    assert synthesis._recolored(context, Synthesis(), plain) is plain


AVERAGES = SimpleNamespace(autoencoder=(Averages(), {}, SimpleNamespace(sha256="1" * 64)))


def coarse(images):
    return np.asarray(Averages().encode(None, np.asarray(images, float)))


def test_a_reconstruction_has_the_detail_that_the_first_stage_keeps(make):
    context, cell = make("reconstruction")
    orders = orders_of(context, "s")
    assert cell.needs == ("data", "autoencoder")
    wanted = [orders[n] for n in range(10)]  # more than a batch
    images = prepare(context, "s", orders, AVERAGES).make(wanted)
    tiles = [tile_of(context.reader, order)[0] for order in wanted]
    means = np.repeat(np.repeat(coarse(tiles), 4, axis=1), 4, axis=2)
    np.testing.assert_allclose(images, means, atol=0.51)


def test_latents_of_a_tile_get_the_statistics_of_its_style(make):
    context, _ = make("latent_adain", changes=(("keep_detail", True),))
    orders = orders_of(context, "s")
    wanted = [orders[n] for n in range(8)]
    images = prepare(context, "s", orders, AVERAGES).make(wanted)
    for image, order in zip(images, wanted, strict=True):
        latents, style = coarse([image])[0], coarse(bag_of(context.reader, order))
        np.testing.assert_allclose(latents.mean(axis=(0, 1)), style.mean(axis=(0, 1, 2)), atol=4)
        tile = tile_of(context.reader, order)[0].astype(float)
        inside = (image > 0).all(axis=-1) & (image < 255).all(axis=-1)
        means = [
            np.repeat(np.repeat(coarse([each])[0], 4, axis=0), 4, axis=1) for each in (image, tile)
        ]
        fine = np.abs((image - means[0]) - (tile - means[1]))[inside]
        assert np.median(fine) < 2


def test_virtual_templates_vary_as_the_style_tiles_do(make):
    context, _ = make("randstainna")
    orders = orders_of(context, "s")
    wanted = [orders[n] for n in range(200)]
    method = prepare(context, "s", orders, None)
    images = method.make(wanted)
    np.testing.assert_array_equal(images[[7, 3]], method.make([wanted[7], wanted[3]]))
    style = np.array([find_colors(context.reader.read(row)[0]).mean for row in orders.styles])
    made = np.array([find_colors(image).mean for image in images])
    np.testing.assert_allclose(made.mean(axis=0), style.mean(axis=0), atol=0.1)
    assert (made.std(axis=0) > style.std(axis=0) / 3).all()


class FakeJudge:
    """Sure of class 1 where red is above 150, of class 0 below 100, of nothing in between."""

    def maps(self, params, frozen, image):
        red = image[..., 0]
        one = jnp.where(red > 150, 0.97, jnp.where(red < 100, 0.02, 0.6)).astype(jnp.float32)
        return jnp.stack([1 - one, one], axis=-1)


def test_pseudo_labels_are_what_the_judge_is_sure_of_on_tiles_of_the_style_patients(make):
    context, cell = make("pseudo_labels", synthesis__count=32)
    assert cell.needs == ("data", "judge")
    synthesis.run(context, cell, SimpleNamespace(judge=(FakeJudge(), {})))
    made = TileSet.open(context.workdir.path / cell.name / "tiles")
    seen = []
    for number, row in enumerate(made.index(SYNTHETIC)):
        tile = made.read(SYNTHETIC, number)
        red = tile.image[..., 0]
        wanted = np.where(red > 150, 1, np.where(red < 100, 0, VOID))
        np.testing.assert_array_equal(tile.mask, wanted)
        assert row.patient == row.style_patient and row.patient.startswith("style")
        seen.append(tile.provenance["layout_record"])
    assert len(set(seen[:16])) == 16 and sorted(seen[:16]) == sorted(seen[16:])
    result = context.workdir.result(cell.name)
    assert result["style_patients"] == ["style0", "style1"]
    assert sum(result["class_shares"]["synthetic"].values()) == pytest.approx(1.0)
    assert np.load(context.workdir.path / cell.name / "grid.npy").shape[1:] == (32, 32, 3)


def test_class_shares_of_layouts_are_those_of_real_training_by_default(make):
    context, cell = make("reinhard", synthesis__count=64, synthesis__min_labelled=0.0)
    orders = orders_of(context, "s")
    assert orders.class_shares == real_shares(context)
    synthesis.run(context, cell, None)
    shares = context.workdir.result(cell.name)["class_shares"]
    assert shares["real"] == real_shares(context)
    for name, share in shares["real"].items():
        assert shares["synthetic"][name] == pytest.approx(share, abs=0.1)


class Identity:
    """In place of AdaIN's networks: the features are the colors."""

    abstract = {"w": jnp.zeros(1)}

    def apply(self, params, x, method):
        return x


def test_adain_gives_features_the_statistics_of_the_style(make, monkeypatch):
    context, cell = make("adain", changes=(("adain", "somewhere"),))
    assert cell.needs == ("data",)
    monkeypatch.setattr(arbitrary_style, "network", lambda *_: Identity())
    monkeypatch.setattr(arbitrary_style, "load_weights", lambda *_: Identity.abstract)
    monkeypatch.setattr(arbitrary_style, "identify", lambda *_: SimpleNamespace(sha256="2" * 64))
    orders = orders_of(context, "s")
    wanted = [orders[n] for n in range(4)]
    method = prepare(context, "s", orders, None)
    assert method.provenance["adain_sha256"] == "2" * 64
    for image, order in zip(method.make(wanted), wanted, strict=True):
        bag = bag_of(context.reader, order)
        np.testing.assert_allclose(image.mean(axis=(0, 1)), bag.mean(axis=(0, 1, 2)), atol=4)
