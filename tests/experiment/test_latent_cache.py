"""The cache of latents: training from it is training without it, and it is what it says or is not
used."""

import dataclasses
import json
import shutil
from functools import cached_property
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data import arrays
from stedm_jax.data.arrays import ArrayStore, ShardWriter
from stedm_jax.data.pipeline import tile_dataset, training_batches
from stedm_jax.experiment import encode_views, latent_cache
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.cost import Costs
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.pinned import Weights
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.stages import generator, latents
from stedm_jax.tasks.build import build_autoencoder, build_generator
from stedm_jax.tasks.latent_diffusion import LatentScale
from stedm_jax.training.loop import TrainResult
from stedm_jax.training.sharding import make_mesh
from stedm_jax.training.signals import Stopped
from tests.experiment.settings import tiny, unchecked
from tests.models.fakes import random_params

KINDS = {
    "kl": {"channels": 4, "multipliers": (1, 1, 1), "latent_channels": 4},
    "vq": {
        "kind": "vq",
        "channels": 4,
        "multipliers": (1, 1, 1),
        "latent_channels": 3,
        "codes": 16,
    },
    "taef2": {"kind": "taef2", "channels": 8, "latent_channels": 4},
    "haar": {"kind": "haar", "patch": 4},
}


class Known(Learned):
    """A run whose autoencoder is small and was drawn by lot."""

    sha256 = "1" * 64

    @cached_property
    def autoencoder(self):
        task = build_autoencoder(self.settings, self.context.dtype)
        return task, random_params(task.network), Weights("somewhere", self.sha256)

    @property
    def denoising(self):
        """The task of the generator with parameters drawn by lot."""
        first, frozen, _ = self.autoencoder
        channels = first.channels
        scale = LatentScale((0.1,) * channels, (0.5,) * channels)
        colors, dtype = self.context.classes.colors, self.context.dtype
        task = build_generator(self.settings, "stedm", first, colors, dtype, scale)
        abstract = jax.eval_shape(task.init, jax.random.key(0))
        return task, random_params(SimpleNamespace(abstract=abstract)), {"first": frozen}


def make_run(tile_set, folder, kind="kl", devices=2, **changes):
    settings = tiny(
        tile_set.path,
        diffusion__style__width=4,
        diffusion__style__dim=8,
        latents__cache=True,
        latents__scale=1.0,
        latents__copies=2,
        **{f"autoencoder__model__{key}": value for key, value in KINDS[kind].items()},
        **changes,
    )
    mesh = make_mesh(devices=jax.devices()[:devices])
    context = Context(settings, Workdir(folder / "run"), mesh)
    (context.workdir.folder("autoencoder") / "done.json").write_text("{}")
    return Known(context)


def changed(known, key, value):
    """The same run with another setting."""
    settings = unchecked(known.settings, key, value)
    other = Known(dataclasses.replace(known.context, settings=settings))
    other.context.__dict__["packed_tiles"] = known.context.packed_tiles
    return other


def run(known):
    """The stage latents."""
    latents.run(known.context, Graph(known.settings)["latents"], known)


def cache(known) -> ArrayStore:
    """As a generator opens it."""
    store = latent_cache.stored(known.context, known)
    assert store is not None
    return store


def batches(known, store=None, count=2, views=True):
    settings, section = known.settings, known.settings.diffusion
    sources = known.context.sources(section.splits, section.style)
    if views:
        which = latent_cache.views(settings)
        sources = [
            dataclasses.replace(source, views=which, stored=store, pixels=store is None)
            for source in sources
        ]
    dataset = tile_dataset(sources, seed=settings.seed, jitter=section.stain_jitter)
    stream = training_batches(dataset, batch=8, start=0, threads=2)
    return [next(stream) for _ in range(count)]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("kl", {"latents__variants": 1, "latents__dtype": "bfloat16"}),
        ("kl", {"autoencoder__tiling": 16, "diffusion__splits": {"train": 0.0, "style": 1.0}}),
        ("vq", {"dtype": "bfloat16"}),
        ("taef2", {"diffusion__stain_jitter": 0.0}),
        ("haar", {"autoencoder__train__steps": 0}),
    ],
)
def test_training_from_it_sees_the_latents_of_encoding_at_every_step(
    tile_set, tmp_path, monkeypatch, kind, changes
):
    known = make_run(tile_set, tmp_path, kind, **changes)
    run(known)
    plain = not known.settings.diffusion.stain_jitter
    store = cache(known)
    splits = [split for split, weight in known.settings.diffusion.splits.items() if weight]
    assert store.spec.views == dict.fromkeys(
        splits, (1 if plain else 2) * known.settings.latents.variants
    )
    with_it = batches(known, store)
    # With symmetries alone, these are the batches that training without a cache draws.
    without = batches(known, views=not plain)
    assert "image" not in with_it[0] and with_it[0]["moments"].dtype == known.settings.latents.dtype
    task, _, frozen = known.denoising
    of = jax.jit(task.latents_of)
    coarse = 2**-8 if "bfloat16" in (known.settings.dtype, known.settings.latents.dtype) else 2**-11
    for number, (one, other) in enumerate(zip(without, with_it, strict=True)):
        z = np.asarray(of(frozen, one, jax.random.key(number)))
        stored = np.asarray(of(frozen, other, jax.random.key(number)))
        np.testing.assert_allclose(stored, z, rtol=4 * coarse, atol=4 * coarse * np.abs(z).max())
        again = np.asarray(of(frozen, other, jax.random.key(99)))
        assert (again != stored).any() == (kind == "kl")  # it is no draw that is stored


def test_training_from_it_has_the_losses_of_encoding_at_every_step(tile_set, tmp_path, monkeypatch):
    known = make_run(tile_set, tmp_path)
    run(known)
    task, params, frozen = known.denoising
    loss = jax.jit(
        lambda params, frozen, batch, key: task.loss(params, frozen, batch, key, jnp.int32(0))[0]
    )
    one, other = (
        [
            float(loss(params, frozen, batch, jax.random.key(number)))
            for number, batch in enumerate(batches(known, store))
        ]
        for store in (None, cache(known))
    )
    np.testing.assert_allclose(other, one, rtol=2**-11)
    assert one[0] != one[1]


def test_the_moments_are_those_of_the_autoencoder_to_the_last_bit_of_their_type(
    tile_set, tmp_path, monkeypatch
):
    known = make_run(tile_set, tmp_path, diffusion__train__eval_every=1)
    run(known)
    store, (task, params, _) = cache(known), known.autoencoder
    assert set(store.spec.tiles) == {"train", "style", "val"} and store.spec.views["val"] == 1
    views = latent_cache.views(known.settings)
    for split, record, number in (
        ("train", 3, 0),
        ("train", 12, 13),
        ("style", 15, 7),
        ("val", 2, 0),
    ):
        image = known.context.reader.read_whole(known.context.rows(split)[record])[0]
        shown = image if split == "val" else views.of(split, record, number).image(image, 0)
        wanted = np.asarray(
            task.moments(params, jnp.asarray(shown, jnp.float32)[None] / 127.5 - 1.0)
        )[0]
        np.testing.assert_allclose(
            store.read(split, record, number)["moments"], wanted, rtol=2**-10, atol=1e-3
        )
    done = known.context.workdir.result("latents")
    assert done is not None and done["cache"] == {
        "views": 2 * 16 * 16 + 16,
        "bytes": store.spec.size,
    }


def test_stage_diffusion_trains_judges_and_draws_with_it(tile_set, tmp_path, monkeypatch):
    known = make_run(
        tile_set,
        tmp_path,
        diffusion__train__eval_every=1,
        diffusion__train__visual_every=1,
    )
    run(known)
    seen = {}

    def learn(
        context, program, section, cell, *, dataset, visual, labels, frozen, eval_batches, seed
    ):
        assert seed == context.settings.seed
        seen.update(train=dataset[0], drawn=visual(), named=labels(), judged=next(eval_batches()))
        return TrainResult(program.state, {"loss": 1.0}, 1, 0.0)

    monkeypatch.setattr(generator, "learn", learn)
    generator.run(known.context, Graph(known.settings)["generator/stedm"], known)
    rows, columns = seen["named"][
        "samples"
    ]  # a row of styles and a column of layouts stand before the samples
    assert (len(rows), len(columns)) == tuple(side + 1 for side in seen["drawn"]["mask"].shape[:2])
    assert set(seen["train"]) == {"moments", "mask", "styles"} and set(seen["drawn"]) == {
        "mask",
        "styles",
    }
    assert {"moments", "weight"} <= set(seen["judged"]) and "image" not in seen["judged"]


@pytest.fixture
def small(tile_set, tmp_path, monkeypatch):
    """A run whose cache has eight shards of four tiles."""
    known = make_run(tile_set, tmp_path, diffusion__stain_jitter=0.0)
    spec = latent_cache.plan(known.settings, known.autoencoder[0], {}, {})
    monkeypatch.setattr(arrays, "SHARD_BYTES", 4 * 8 * spec.record_bytes)
    return known


def written(monkeypatch):
    """Names of the shards that are written from now on."""
    names, finish = [], ShardWriter.finish

    def noted(self):
        names.append(self.file.name)
        finish(self)

    monkeypatch.setattr(ShardWriter, "finish", noted)
    return names


class Killed(BaseException):
    pass


def test_killed_in_the_middle_it_goes_on(small, monkeypatch):
    finish, count = ShardWriter.finish, iter(range(3))

    def dies(self):
        if next(count, None) is None:
            raise Killed
        finish(self)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "finish", dies)
        with pytest.raises(Killed):
            run(small)
    assert small.context.workdir.result("latents") is None
    names = written(monkeypatch)
    run(small)
    assert names == ["style-00003.array_record", *(f"train-{n:05d}.array_record" for n in range(4))]
    before = {
        file.name: file.read_bytes() for file in small.context.workdir.path.rglob("*.array_record")
    }
    shutil.rmtree(small.context.workdir.path / "latents")
    run(small)
    after = {
        file.name: file.read_bytes() for file in small.context.workdir.path.rglob("*.array_record")
    }
    assert before == after and len(names) == 13


def test_when_asked_to_stop_it_keeps_what_is_finished(small, monkeypatch):
    asked = iter([False] * 6)  # a shard is 4 batches of 8 views
    monkeypatch.setattr(type(small.context.signals), "due", lambda self, mesh: next(asked, True))
    small.context.signals.received = 15
    with pytest.raises(Stopped, match="after 1 of 8 shards, which are saved"):
        run(small)
    assert [file.name for file in small.context.workdir.path.rglob("*.array_record")] == [
        "style-00000.array_record"
    ]
    assert not list(small.context.workdir.path.rglob("*.partial*"))


def test_a_lost_shard_is_made_anew_when_training_begins(small, monkeypatch):
    run(small)
    (small.context.workdir.path / "latents" / "cache" / "style-00002.array_record").unlink()
    names = written(monkeypatch)
    assert isinstance(cache(small), ArrayStore) and names == ["style-00002.array_record"]


def test_too_little_room_is_an_error_before_anything_is_encoded(small, monkeypatch):
    usage = shutil.disk_usage(small.context.workdir.path)
    monkeypatch.setattr(encode_views.shutil, "disk_usage", lambda _: usage._replace(free=10))
    monkeypatch.setattr(encode_views, "_Encoder", None)
    with pytest.raises(
        UserError, match=r"need 0.00 GB more in .*cache.*latents.copies.*latents.variants=1"
    ):
        run(small)


def test_other_augmentations_are_encoded_anew_and_other_weights_and_tiles_refused(
    small, monkeypatch, capsys
):
    run(small)
    other = changed(small, "diffusion.stain_jitter", 0.3)
    store = cache(other)
    assert store.spec.views["train"] == 16
    assert (
        "was made with other settings (diffusion.stain_jitter: 0.0 -> 0.3; latents.copies: 1 -> 2"
        in capsys.readouterr().out
    )
    del other.autoencoder
    other.sha256 = "2" * 64
    with pytest.raises(
        UserError, match=r"another autoencoder .*autoencoder: 1111.* -> 2222.*delete .*latents"
    ):
        cache(other)
    del other.autoencoder
    other.sha256 = "1" * 64
    manifest = other.context.tiles.manifest
    manifest["classes"] = manifest["classes"][::-1]
    with pytest.raises(UserError, match="tiles: "):
        cache(other)


def test_a_split_that_is_added_or_dropped_leaves_the_others_alone(small, monkeypatch):
    run(small)
    names = written(monkeypatch)
    more = changed(small, "diffusion.train.eval_every", 1)
    assert set(cache(more).spec.tiles) == {"train", "style", "val"}
    assert names and all(name.startswith("val-") for name in names)
    less = changed(more, "diffusion.splits", {"train": 1.0, "style": 0.0})
    assert set(cache(less).spec.tiles) == {"train", "val"}
    assert all(name.startswith("val-") for name in names)
    assert not list((small.context.workdir.path / "latents/cache").glob("style-*"))


@pytest.mark.parametrize(
    ("key", "value"), [("cache", False), ("copies", 3), ("variants", 1), ("dtype", "bfloat16")]
)
def test_the_settings_of_the_cache_are_read_by_the_cell(small, key, value):
    before = Graph(small.settings).stamps("t")
    after = Graph(changed(small, f"latents.{key}", value).settings).stamps("t")
    assert before["latents"] != after["latents"]
    assert before["autoencoder"] == after["autoencoder"]


def test_damaged_tiles_are_named_and_limited_here_too(small, capfd):
    read = type(small.context.reader)._arrays

    class Damaged(type(small.context.reader)):
        def _arrays(self, row, names):
            if (row.split, row.record) == ("train", 5):
                raise self.damage(row, ValueError("no image"))
            return read(self, row, names)

    small.context.reader.__class__ = Damaged
    with pytest.raises(
        UserError, match=r"Record 0 of .*train.array_record-00001-of-00004 .*max_damaged=0"
    ):
        run(small)
    small.context.damaged.clear()
    small.context.reader.max_damaged = 1
    run(small)
    assert cache(small).absent == {"train": {5}, "style": frozenset()}
    shards = [
        json.loads(file.read_text())
        for file in (small.context.workdir.path / "latents/cache").glob("train-*.json")
    ]
    assert (
        sorted(len(shard["absent"]) for shard in shards) == [0, 0, 0, 1]
        and len(small.context.damaged) == 1
    )


def test_a_scale_that_float16_cannot_hold_is_refused(small):
    params = small.autoencoder[1]
    params["quant_conv"]["bias"] = params["quant_conv"]["bias"] + 1e6
    with pytest.raises(UserError, match="float16 cannot hold.*latents.dtype"):
        run(small)
    assert not list(small.context.workdir.path.rglob("*.array_record"))


def test_the_plan_says_views_and_bytes(tile_set, tmp_path):
    known = make_run(tile_set, tmp_path)
    records, graph = known.context.tiles.manifest["records"], Graph(known.settings)
    costs = Costs(known.settings, known.context.classes, records)
    costs.encoder = 10.0
    cost = costs.of(graph["latents"])
    assert "cache of 1 kB a view (style x 16, train x 16), 512 views, 0.00 GB" in cost.what
    assert "training without it encodes 48 images" in cost.what and cost.total == 5120.0
    latents = dataclasses.replace(known.settings.latents, cache=False, scale=0.0, tiles=3)
    settings = dataclasses.replace(known.settings, latents=latents)
    costs = Costs(settings, known.context.classes, records)
    costs.encoder = 10.0
    cost = costs.of(graph["latents"])
    assert "cache" not in cost.what and cost.total == 30.0
