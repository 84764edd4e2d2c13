"""The cache of latents: training from it is training without it, and it is what it says or is not
used."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.demo import get_config
from stedm_jax.common.errors import UserError
from stedm_jax.data import arrays
from stedm_jax.data.arrays import ArrayStore, ShardWriter
from stedm_jax.data.pipeline import tile_dataset, training_batches
from stedm_jax.stages import autoencoder, diffusion, encode, latents, plan
from stedm_jax.stages.frozen import Weights
from stedm_jax.stages.run import Run
from stedm_jax.tasks.diffusion import DiffusionTask, LatentScale
from stedm_jax.training.loop import TrainResult
from stedm_jax.training.sharding import make_mesh
from stedm_jax.training.signals import Stopped
from stedm_jax.workdir import Workdir
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
}


def make_run(tile_set, folder, monkeypatch, kind="kl", devices=2, **changes):
    """A run whose autoencoder is small and was drawn by lot."""
    config = get_config("tiny")
    config.data.update(
        {"tiles": str(tile_set.path), "prepare": (), "tile": 32, "groups": (), "foreground": ()}
    )
    config.autoencoder.model.update(KINDS[kind])
    config.diffusion.unet.update({"base": 8, "multipliers": (1, 1), "heads": 2})
    config.diffusion.style.update({"width": 4, "dim": 8})
    config.latents.update({"cache": True, "scale": 1.0, "copies": 2})
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    run = Run(config, Workdir(folder / "run"), make_mesh(devices=jax.devices()[:devices]))
    (run.workdir.stage("autoencoder") / "done.json").write_text("{}")
    give(run, monkeypatch)
    return run


def give(run, monkeypatch, sha256="1" * 64):
    task = autoencoder.build(run)
    params = random_params(task.network)
    monkeypatch.setattr(
        autoencoder, "trained", lambda run: (task, params, Weights("somewhere", sha256))
    )


def cache(run) -> ArrayStore:
    """As stage diffusion opens it."""
    store = latents.stored(run)
    assert store is not None
    return store


def batches(run, store=None, count=2, views=True):
    config = run.config.diffusion
    sources = run.sources(dict(config.splits), config.style)
    if views:
        sources = [
            dataclasses.replace(
                source, views=latents.views(run.config), stored=store, pixels=store is None
            )
            for source in sources
        ]
    dataset = tile_dataset(sources, seed=run.config.seed, jitter=config.stain_jitter)
    stream = training_batches(dataset, batch=8, start=0, threads=2)
    return [next(stream) for _ in range(count)]


def denoiser(run):
    """The task of stage diffusion with parameters drawn by lot."""
    first, frozen, _ = autoencoder.trained(run)
    channels = run.config.autoencoder.model.latent_channels
    scale = LatentScale((0.1,) * channels, (0.5,) * channels)
    task = DiffusionTask(run.config.diffusion, first, scale, run.classes.colors, run.dtype)
    abstract = jax.eval_shape(task.init, jax.random.key(0))
    return task, random_params(SimpleNamespace(abstract=abstract)), {"first": frozen}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("kl", {"latents__variants": 1, "latents__dtype": "bfloat16"}),
        ("kl", {"autoencoder__tiling": 16, "diffusion__splits": {"train": 0.0, "style": 1.0}}),
        ("vq", {"dtype": "bfloat16"}),
        ("taef2", {"diffusion__stain_jitter": 0.0}),
    ],
)
def test_training_from_it_sees_the_latents_of_encoding_at_every_step(
    tile_set, tmp_path, monkeypatch, kind, changes
):
    run = make_run(tile_set, tmp_path, monkeypatch, kind, **changes)
    latents.run(run)
    plain = not run.config.diffusion.stain_jitter
    store = cache(run)
    splits = [split for split, weight in run.config.diffusion.splits.items() if weight]
    assert store.spec.views == dict.fromkeys(
        splits, (1 if plain else 2) * run.config.latents.variants
    )
    with_it = batches(run, store)
    # With symmetries alone, these are the batches that training without a cache draws.
    without = batches(run, views=not plain)
    assert "image" not in with_it[0] and with_it[0]["moments"].dtype == run.config.latents.dtype
    task, _, frozen = denoiser(run)
    of = jax.jit(task.latents_of)
    coarse = 2**-8 if "bfloat16" in (run.config.dtype, run.config.latents.dtype) else 2**-11
    for number, (one, other) in enumerate(zip(without, with_it, strict=True)):
        z = np.asarray(of(frozen, one, jax.random.key(number)))
        stored = np.asarray(of(frozen, other, jax.random.key(number)))
        np.testing.assert_allclose(stored, z, rtol=4 * coarse, atol=4 * coarse * np.abs(z).max())
        again = np.asarray(of(frozen, other, jax.random.key(99)))
        assert (again != stored).any() == (kind == "kl")  # it is no draw that is stored


def test_training_from_it_has_the_losses_of_encoding_at_every_step(tile_set, tmp_path, monkeypatch):
    run = make_run(tile_set, tmp_path, monkeypatch)
    latents.run(run)
    task, params, frozen = denoiser(run)
    loss = jax.jit(
        lambda params, frozen, batch, key: task.loss(params, frozen, batch, key, jnp.int32(0))[0]
    )
    one, other = (
        [
            float(loss(params, frozen, batch, jax.random.key(number)))
            for number, batch in enumerate(batches(run, store))
        ]
        for store in (None, cache(run))
    )
    np.testing.assert_allclose(other, one, rtol=2**-11)
    assert one[0] != one[1]


def test_the_moments_are_those_of_the_autoencoder_to_the_last_bit_of_their_type(
    tile_set, tmp_path, monkeypatch
):
    run = make_run(tile_set, tmp_path, monkeypatch, diffusion__train__eval_every=1)
    latents.run(run)
    store, (task, params, _) = cache(run), autoencoder.trained(run)
    assert set(store.spec.tiles) == {"train", "style", "val"} and store.spec.views["val"] == 1
    views = latents.views(run.config)
    for split, record, number in (
        ("train", 3, 0),
        ("train", 12, 13),
        ("style", 15, 7),
        ("val", 2, 0),
    ):
        image = run.reader.read_whole(run.rows(split)[record])[0]
        shown = image if split == "val" else views.of(split, record, number).image(image, 0)
        wanted = np.asarray(
            task.moments(params, jnp.asarray(shown, jnp.float32)[None] / 127.5 - 1.0)
        )[0]
        np.testing.assert_allclose(
            store.read(split, record, number)["moments"], wanted, rtol=2**-10, atol=1e-3
        )
    done = run.workdir.result("latents")
    assert done is not None and done["cache"] == {
        "views": 2 * 16 * 16 + 16,
        "bytes": store.spec.size,
    }


def test_stage_diffusion_trains_judges_and_draws_with_it(tile_set, tmp_path, monkeypatch):
    run = make_run(
        tile_set,
        tmp_path,
        monkeypatch,
        diffusion__train__eval_every=1,
        diffusion__train__visual_every=1,
    )
    latents.run(run)
    seen = {}

    def learnt(run, program, config, folder, *, dataset, visual, labels, frozen, eval_batches):
        seen.update(train=dataset[0], drawn=visual(), named=labels(), judged=next(eval_batches()))
        return TrainResult(program.state, {"loss": 1.0}, 1, 0.0)

    monkeypatch.setattr(diffusion, "learn", learnt)
    diffusion.run(run)
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
    run = make_run(tile_set, tmp_path, monkeypatch, diffusion__stain_jitter=0.0)
    spec = latents.plan(run.config, autoencoder.build(run), {}, {})
    monkeypatch.setattr(arrays, "SHARD_BYTES", 4 * 8 * spec.record_bytes)
    return run


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
            latents.run(small)
    assert small.workdir.result("latents") is None
    names = written(monkeypatch)
    latents.run(small)
    assert names == ["style-00003.array_record", *(f"train-{n:05d}.array_record" for n in range(4))]
    before = {file.name: file.read_bytes() for file in small.workdir.path.rglob("*.array_record")}
    shutil.rmtree(small.workdir.path / "latents")
    latents.run(small)
    after = {file.name: file.read_bytes() for file in small.workdir.path.rglob("*.array_record")}
    assert before == after and len(names) == 13


def test_told_to_stop_it_keeps_what_is_finished(small, monkeypatch):
    asked = iter([False] * 6)  # a shard is 4 batches of 8 views
    monkeypatch.setattr(type(small.signals), "due", lambda self, mesh: next(asked, True))
    small.signals.received = 15
    with pytest.raises(Stopped, match="after 1 of 8 shards, which are saved"):
        latents.run(small)
    assert [file.name for file in small.workdir.path.rglob("*.array_record")] == [
        "style-00000.array_record"
    ]
    assert not list(small.workdir.path.rglob("*.partial*"))


def test_a_lost_shard_is_made_anew_when_training_begins(small, monkeypatch):
    latents.run(small)
    (small.workdir.path / "latents" / "cache" / "style-00002.array_record").unlink()
    names = written(monkeypatch)
    assert isinstance(cache(small), ArrayStore) and names == ["style-00002.array_record"]


def test_too_little_room_is_told_before_anything_is_encoded(small, monkeypatch):
    usage = shutil.disk_usage(small.workdir.path)
    monkeypatch.setattr(encode.shutil, "disk_usage", lambda _: usage._replace(free=10))
    monkeypatch.setattr(encode, "_Encoder", None)
    with pytest.raises(
        UserError, match=r"need 0.00 GB more in .*cache.*latents.copies.*latents.variants=1"
    ):
        latents.run(small)


def test_other_augmentations_are_encoded_anew_and_other_weights_and_tiles_refused(
    small, monkeypatch, capsys
):
    latents.run(small)
    small.config.diffusion.stain_jitter = 0.3
    store = cache(small)
    assert store.spec.views["train"] == 16
    assert (
        "made otherwise (diffusion.stain_jitter: 0.0 -> 0.3; latents.copies: 1 -> 2"
        in capsys.readouterr().out
    )
    give(small, monkeypatch, "2" * 64)
    with pytest.raises(
        UserError, match=r"another autoencoder .*autoencoder: 1111.* -> 2222.*delete .*latents"
    ):
        cache(small)
    give(small, monkeypatch)
    small.tiles.manifest["classes"] = small.tiles.manifest["classes"][::-1]
    with pytest.raises(UserError, match="tiles: "):
        cache(small)


def test_a_split_that_is_added_or_dropped_leaves_the_others_alone(small, monkeypatch):
    latents.run(small)
    names = written(monkeypatch)
    small.config.diffusion.train.eval_every = 1
    assert set(cache(small).spec.tiles) == {"train", "style", "val"}
    assert names and all(name.startswith("val-") for name in names)
    small.config.diffusion.splits = {"train": 1.0, "style": 0.0}
    assert set(cache(small).spec.tiles) == {"train", "val"} and all(
        name.startswith("val-") for name in names
    )
    assert not list((small.workdir.path / "latents/cache").glob("style-*"))


def test_changed_keys_under_a_finished_stage_are_refused_by_the_workdir(small):
    shutil.rmtree(small.workdir.path)
    small.workdir.path.mkdir()
    small.workdir.adopt(small.config, "refuse")
    (small.workdir.stage("latents") / "done.json").write_text("{}")
    for key, value in {"cache": False, "copies": 3, "variants": 1, "dtype": "bfloat16"}.items():
        changed = small.config.copy_and_resolve_references()
        changed.latents[key] = value
        with pytest.raises(UserError, match=f"latents.{key}: .*makes untrue: latents"):
            small.workdir.adopt(changed, "refuse")


def test_damaged_tiles_are_named_and_limited_here_too(small, capfd):
    read = type(small.reader)._arrays

    class Damaged(type(small.reader)):
        def _arrays(self, row, names):
            if (row.split, row.record) == ("train", 5):
                raise self.damage(row, ValueError("no image"))
            return read(self, row, names)

    small.reader.__class__ = Damaged
    with pytest.raises(
        UserError, match=r"Record 0 of .*train.array_record-00001-of-00004 .*max_damaged=0"
    ):
        latents.run(small)
    small.damaged.clear()
    small.reader.max_damaged = 1
    latents.run(small)
    assert cache(small).absent == {"train": {5}, "style": frozenset()}
    shards = [
        json.loads(file.read_text())
        for file in (small.workdir.path / "latents/cache").glob("train-*.json")
    ]
    assert (
        sorted(len(shard["absent"]) for shard in shards) == [0, 0, 0, 1] and len(small.damaged) == 1
    )


def test_a_scale_that_float16_cannot_hold_is_refused(small, monkeypatch):
    task, params, origin = autoencoder.trained(small)
    params["quant_conv"]["bias"] = params["quant_conv"]["bias"] + 1e6
    monkeypatch.setattr(autoencoder, "trained", lambda run: (task, params, origin))
    with pytest.raises(UserError, match="float16 cannot hold.*latents.dtype"):
        latents.run(small)
    assert not list(small.workdir.path.rglob("*.array_record"))


def test_the_plan_tells_views_and_bytes(tile_set, tmp_path, monkeypatch):
    run = make_run(tile_set, tmp_path, monkeypatch)
    task, records = autoencoder.build(run), run.tiles.manifest["records"]
    line = plan._latents(run.config, task, records, 10.0)
    wanted = "cache of 1 kB a view (style x 16, train x 16), 512 views, 0.00 GB; training without it encodes 48 images"
    assert wanted in line.what and line.total == 5120.0
    run.config.latents.update({"cache": False, "scale": 0.0, "tiles": 3})
    line = plan._latents(run.config, task, records, 10.0)
    assert "cache" not in line.what and line.total == 30.0
