"""The guided denoiser, features of it, and a head that reads them: all on one tiny network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.glas import get_config
from stedm_jax.common.errors import UserError
from stedm_jax.models.functional import Functional
from stedm_jax.models.vit import ViT, ViTSize
from stedm_jax.tasks.features import Features
from stedm_jax.tasks.first_stage import FirstStage
from stedm_jax.tasks.guided import GuidedTask, GuideEncoder
from stedm_jax.tasks.latent_diffusion import LatentScale
from stedm_jax.tasks.pixel_head import DENOISER, HEAD, PixelHeadTask
from stedm_jax.tasks.segmentation import Shown
from tests.models.fakes import random_params
from tests.sections import settings_of

SIZE = ViTSize(width=8, depth=1, heads=2, patch=8, grid=2, size=16)
SHOWN = Shown(((0, 0, 0), (9, 9, 9)), (1,), 16)
STEP = jnp.int32(0)


def changed(**changes):
    config = get_config("pathsegdiff")
    config.autoencoder.model.update(
        {"kind": "kl", "channels": 4, "multipliers": (1, 1), "latent_channels": 3}
    )
    unet = {
        "base": 8,
        "multipliers": (1, 1),
        "res_blocks": 1,
        "attention_at": (2,),
        "heads": 2,
        "context_dim": 6,
    }
    config.guided.unet.update(unet)
    config.guided.guide.update({"dim": 6, "drop": 0.5})
    config.segmentation.features.update(
        {"blocks": ("output_blocks/0", "output_blocks/3"), "timesteps": (50,)}
    )
    config.segmentation.head.update({"width": 8, "norm": "batch"})
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    return settings_of(config)


def task_of(settings, guided=True) -> GuidedTask:
    first = FirstStage(settings.autoencoder, jnp.float32)
    encoder = GuideEncoder(Functional(lambda make: ViT(make, SIZE)), SIZE)
    scale, encoder = LatentScale.unit(3), encoder if guided else None
    return GuidedTask(settings.guided, first, scale, encoder, jnp.float32)


@pytest.fixture(scope="module")
def made():
    """The task, parameters without the zeros of a fresh denoiser, what is frozen, and a batch."""
    task = task_of(changed())
    params = random_params(task.network, 0)
    frozen = {
        "first": task.autoencoder.network.init(jax.random.key(1)),
        "guide": random_params(task.guide, 2),
    }
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)),
        "region": jnp.asarray(rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)),
        "mask": jnp.asarray(rng.integers(0, 2, (4, 16, 16), dtype=np.uint8)),
    }
    return task, params, frozen, batch


def test_denoiser_and_projection_learn_and_what_is_frozen_does_not(made):
    task, params, frozen, batch = made
    gradient = jax.jit(
        jax.grad(lambda p, f: task.loss(p, f, batch, jax.random.key(3), STEP)[0], argnums=(0, 1))
    )
    learned, still = gradient(params, frozen)
    assert set(learned) == {"unet", "guide"} and set(learned["guide"]) == {"patch_fc"}
    for part in learned.values():
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(part)) > 0
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(still))


def test_a_dropped_embedding_is_the_zero_vector_and_each_token_drops_by_itself(made):
    _, _, frozen, batch = made
    known = {f"embedding_{name}": jnp.ones((4, 8)) * 3 for name in ("patch", "region")}
    both = ("patch", "region")
    task = task_of(changed(guided__guide__drop=1.0, guided__guide__tokens=both))
    params = random_params(task.network, 0)
    other = {name: -each for name, each in known.items()}

    @jax.jit
    def loss(params, batch):
        return task.loss(params, frozen, batch, jax.random.key(3), STEP)[0]

    assert loss(params, batch | known) == loss(params, batch | other)
    task = task_of(changed(guided__guide__drop=0.0, guided__guide__tokens=both))
    loss = jax.jit(
        lambda params, batch: task.loss(params, frozen, batch, jax.random.key(3), STEP)[0]
    )
    base = loss(params, batch | known)
    for name in known:
        assert base != loss(params, batch | known | {name: other[name]}), name


def test_known_embeddings_stand_for_those_of_the_guide(made):
    task, params, frozen, batch = made
    found = task.embed(frozen, batch)
    assert (
        found["patch"].shape == (4, 8)
        and task.embed(frozen, {"embedding_patch": found["patch"]}) == found
    )
    with pytest.raises(UserError, match="5 long, but those of the denoiser's guide are 8"):
        task.embed(frozen, {"embedding_patch": jnp.zeros((4, 5))})
    two = task_of(changed(guided__guide__tokens=("patch", "region")))
    assert set(two.embed(frozen, batch)) == {"patch", "region"}
    with pytest.raises(UserError, match="pack them with a margin"):
        two.embed(frozen, {"image": batch["image"]})


def test_a_region_that_no_encoder_is_at_hand_for_is_the_zero_vector(made):
    _, _, frozen, batch = made
    both = ("patch", "region")
    task = task_of(changed(guided__guide__region_width=11, guided__guide__tokens=both))
    found = task.embed(frozen, {"image": batch["image"]})
    assert found["region"].shape == (4, 11) and not found["region"].any() and found["patch"].any()
    assert task.network.abstract["guide"]["region_fc"]["kernel"].shape == (11, 6)


def test_without_a_guide_there_is_no_projection():
    task = task_of(changed(), guided=False)
    assert set(task.network.abstract) == {"unet"} and task.embed({}, {}) is None


def features_of(task, **changes) -> Features:
    config = changed(**{f"segmentation__features__{key}": value for key, value in changes.items()})
    return Features(config.segmentation.features, task)


@pytest.mark.parametrize(
    ("changes", "shapes"),
    [
        ({}, [(4, 4), (8, 8)]),
        ({"blocks": ("middle_block",)}, [(4, 4)]),
        ({"source": "vit"}, [(2, 2)]),
        ({"source": "concat", "timesteps": (0, 50)}, [(4, 4), (8, 8), (4, 4), (8, 8), (2, 2)]),
        ({"scales": (1.0, 0.5)}, [(4, 4), (8, 8), (2, 2), (4, 4)]),
    ],
)
def test_features_have_the_shapes_that_the_head_is_made_for(made, changes, shapes):
    task, params, frozen, batch = made
    features = features_of(task, **changes)
    maps = jax.eval_shape(features, params, frozen, batch)
    assert [each.shape for each in maps] == [(4, *shape, 8) for shape in shapes]
    assert features.channels == (8,) * len(shapes)


def test_all_tiles_share_one_noise_and_nothing_but_the_seed_draws_it(made):
    task, params, frozen, batch = made
    same = batch | {"image": jnp.broadcast_to(batch["image"][:1], batch["image"].shape)}
    maps = jax.jit(features_of(task))(params, frozen, same)
    for each in maps:
        np.testing.assert_allclose(
            each, jnp.broadcast_to(each[:1], each.shape), rtol=1e-5, atol=1e-5
        )
    other = jax.jit(features_of(task, seed=1))(params, frozen, same)
    assert not np.allclose(maps[0], other[0], atol=1e-3)


def test_the_guide_reaches_the_features_unless_it_is_left_out(made):
    task, params, frozen, batch = made
    one, two = (
        {"embedding_patch": jnp.full((4, 8), value).at[:, 0].set(1.0)} for value in (0.5, -0.5)
    )
    with_guide, without = (jax.jit(features_of(task, guided=flag)) for flag in (True, False))
    assert not np.allclose(
        with_guide(params, frozen, batch | one)[1], with_guide(params, frozen, batch | two)[1]
    )
    np.testing.assert_array_equal(
        without(params, frozen, batch | one)[1], without(params, frozen, batch | two)[1]
    )


def test_a_block_that_there_is_not_is_refused(made):
    with pytest.raises(UserError, match="names output_blocks/9, which.*input_blocks/0.*blocks/3"):
        features_of(made[0], blocks=("output_blocks/9",))


def head_of(task, tune=False, **changes) -> PixelHeadTask:
    config = changed(segmentation__head__tune=tune).segmentation
    return PixelHeadTask(config, SHOWN, 2, jnp.float32, features_of(task, **changes))


@pytest.mark.parametrize(
    ("source", "tune"),
    [("ldm", True), ("concat", False), pytest.param("ldm", False, marks=pytest.mark.slow)],
)
def test_a_head_learns_and_the_denoiser_with_it_only_where_it_is_tuned(made, source, tune):
    task, params, frozen, batch = made
    head = head_of(task, tune, source=source)
    mine = {HEAD: head.network.init(jax.random.key(0))} | (params if tune else {})
    frozen = frozen | {DENOISER: params}
    assert jax.tree.structure(jax.eval_shape(head.init, jax.random.key(0))) == jax.tree.structure(
        mine
    )

    @jax.jit
    def step(mine, frozen):
        (loss, extra), slopes = jax.value_and_grad(head.loss, argnums=(0, 1), has_aux=True)(
            mine, frozen, batch, jax.random.key(0), STEP
        )
        return loss, extra, slopes

    loss, extra, (learned, still) = step(mine, frozen)
    assert np.isfinite(loss) and set(extra["state"]) == {HEAD}
    for part in learned.values():
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(part)) > 0
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(still))
    for _ in range(8):
        lower, extra, (slopes, _) = step(mine, frozen)
        mine = jax.tree.map(lambda p, g: p - 0.05 * g, mine, slopes)
    assert step(mine, frozen)[0] < loss


def test_stored_arrays_stand_for_the_tiles(made):
    task, params, frozen, batch = made
    head = head_of(task, source="concat")
    mine = {HEAD: random_params(head.network, 5)}
    frozen = frozen | {DENOISER: params}
    _, tokens = task.guide.apply(
        frozen["guide"], batch["image"].astype(jnp.float32) / 127.5 - 1, method="tokens"
    )
    stored = {
        "mask": batch["mask"],
        "moments": task.autoencoder.moments(
            frozen["first"], batch["image"].astype(jnp.float32) / 127.5 - 1
        ),
        "embedding_patch": task.embed(frozen, batch)["patch"],
        "tokens": tokens,
    }
    logits = jax.jit(lambda batch: head.logits(mine, frozen, batch)[0])
    assert logits(batch).shape == (4, 16, 16, 2)
    np.testing.assert_allclose(logits(batch), logits(stored), atol=1e-4)


def test_scores_come_by_patient_as_those_of_any_segmenter(made):
    task, params, frozen, batch = made
    head = head_of(task)
    mine, judged = (
        {HEAD: random_params(head.network, 5)},
        batch
        | {
            "weight": jnp.array([1.0, 1.0, 1.0, 0.0]),
            "patient": jnp.array([0, 1, 1, 0], jnp.int32),
        },
    )
    counts = jax.jit(head.eval_step)(mine, frozen | {DENOISER: params}, judged, jax.random.key(0))[
        "confusion"
    ]
    assert counts.shape == (2, 2, 2) and counts.sum((1, 2)).tolist() == [256, 512]
