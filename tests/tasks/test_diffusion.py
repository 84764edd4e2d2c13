from copy import copy
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.demo import get_config
from stedm_jax.common.labels import VOID
from stedm_jax.models.vit import VIT_SIZES, ViTSize
from stedm_jax.settings.diffusion import Judged, Places
from stedm_jax.settings.synthesis import Guidance, Synthesis
from stedm_jax.tasks.diffusion import DiffusionTask, LatentScale
from stedm_jax.tasks.first_stage import FirstStage
from stedm_jax.tasks.segmentation import SegmentationTask, Shown
from stedm_jax.tasks.windows import Windows, over_windows
from tests.sections import settings_of


@pytest.fixture(scope="module")
def made():
    config = get_config("tiny")
    config.autoencoder.model.update({"channels": 4, "multipliers": (1, 1, 1)})
    config.diffusion.unet.update({"base": 8, "multipliers": (1, 1), "heads": 2})
    config.diffusion.style.update({"width": 4, "dim": 8})
    config.diffusion.style.drop = 0.5
    settings = settings_of(config)
    first = FirstStage(settings.autoencoder, jnp.float32)
    scale = LatentScale((0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 0.5, 1.0))
    task = DiffusionTask(settings.diffusion, first, scale, ((0, 0, 0), (9, 9, 9)), jnp.float32)
    keys = jax.random.split(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.05, jax.jit(task.init)(keys[0]))
    frozen = {"first": jax.jit(first.network.init)(keys[1])}
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)),
        "mask": jnp.asarray(rng.integers(0, 2, (4, 16, 16), dtype=np.uint8)),
        "styles": jnp.asarray(rng.integers(0, 256, (4, 2, 16, 16, 3), dtype=np.uint8)),
    }
    return settings, task, params, frozen, batch


def remade(task: DiffusionTask, config, judge=None) -> DiffusionTask:
    """The task with other settings."""
    return DiffusionTask(config, task.autoencoder, task.latents, task.colors, jnp.float32, judge)


def styled(task: DiffusionTask, **changes) -> DiffusionTask:
    """The task with another style."""
    return remade(task, replace(task.config, style=replace(task.config.style, **changes)))


def test_latents_are_scaled_and_back(made):
    task = made[1]
    latents = jnp.arange(64, dtype=jnp.float32).reshape(1, 4, 4, 4)
    z = task.latents.to_z(latents)
    np.testing.assert_allclose(
        z[0, 0, 0], (np.arange(4) - [0.1, 0.2, 0.3, 0.4]) / [1.0, 2.0, 0.5, 1.0], rtol=1e-6
    )
    np.testing.assert_allclose(task.latents.from_z(z), latents, rtol=1e-6)


def test_every_part_learns_and_the_frozen_one_does_not(made):
    _, task, params, frozen, batch = made
    task = styled(task, drop=0.0)
    gradient = jax.jit(
        jax.grad(
            lambda p, f: task.loss(p, f, batch, jax.random.key(1), jnp.int32(0))[0], argnums=(0, 1)
        )
    )
    learned, still = gradient(params, frozen)
    for part in ("unet", "style", "layout"):
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(learned[part])) > 0, part
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(still))


@pytest.mark.slow
def test_style_tiles_in_turn_on_several_devices_give_the_same_gradient(made):
    _, task, params, frozen, batch = made
    in_turn = styled(task, remat=True)
    mesh = jax.make_mesh(
        (4, 1), ("data", "fsdp"), (jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:4]
    )
    styles = {name: params[name] for name in ("style",)}

    def gradient(task):
        images = batch["styles"].astype(jnp.float32) / 255.0
        loss = lambda p, x: jnp.square(task.style_vector(params | p, frozen, x)).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1)))(styles, images)

    plain = gradient(task)
    with jax.set_mesh(mesh):
        cut = gradient(in_turn)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), cut, plain)


def test_style_and_layout_reach_the_image(made):
    settings, task, params, frozen, batch = made
    guidance = replace(settings.synthesis.guidance, scale=2.0)
    synthesis = replace(settings.synthesis, guidance=guidance)
    noise = jax.random.normal(jax.random.key(2), (4, 4, 4, 4))

    # Parameters are arguments: as constants they would be folded, which takes the compiler longer
    # than the rest.
    @jax.jit
    def compiled(params, frozen, mask, styles):
        return task.sample(params, frozen, mask, styles, noise, synthesis)

    def sample(mask, styles):
        return compiled(params, frozen, mask, styles)

    first = sample(batch["mask"], batch["styles"])
    assert first.shape == (4, 16, 16, 3) and first.dtype == jnp.uint8
    np.testing.assert_array_equal(first, sample(batch["mask"], batch["styles"]))
    np.testing.assert_array_equal(first, sample(batch["mask"], batch["styles"][:, ::-1]))
    assert (first != sample(1 - batch["mask"], batch["styles"])).any()
    assert (first != sample(batch["mask"], 255 - batch["styles"])).any()


def test_without_style_there_is_no_style_encoder(made):
    semantic = styled(made[1], source="none")
    shapes = jax.eval_shape(semantic.init, jax.random.key(0))
    assert set(shapes) == {"unet", "layout"}
    assert semantic.style_vector(shapes, {}, jnp.zeros((1, 1, 8, 8, 3))) is None
    assert "style_block" not in shapes["unet"]


def test_without_style_the_block_may_stay_and_is_given_zeros(made):
    _, task, params, _, _ = made
    kept = styled(task, source="none", keep_block=True)
    mine = {name: params[name] for name in ("unet", "layout")}
    assert jax.tree.map(jnp.shape, mine) == jax.tree.map(
        lambda x: x.shape, jax.eval_shape(kept.init, jax.random.key(0))
    )
    x = jnp.ones((2, 4, 4, 4 + task.config.layout_channels))
    t, style = jnp.array([3, 3]), jnp.array([[0.0], [1.0]]) * jnp.ones((2, 8))
    zeros, ones = jax.jit(task.unet.apply)(params["unet"], x, t, style)
    given_none = jax.jit(kept.unet.apply)(mine["unet"], x, t)
    np.testing.assert_allclose(given_none, jnp.stack([zeros, zeros]), rtol=1e-5, atol=1e-6)
    assert np.abs(ones - zeros).max() > 1e-3


def changed(made, drop: float, drop_layout: float, source: str = "multipatch") -> DiffusionTask:
    task = styled(made[1], drop=drop, source=source)
    return remade(task, replace(task.config, drop_layout=drop_layout))


def reaches(made, drop: float, drop_layout: float, name: str) -> np.ndarray:
    """(keys, images): whether the layout (mask) or the style (styles) of an image reaches the
    loss."""
    _, _, params, frozen, batch = made
    task = changed(made, drop, drop_layout)
    other = {"mask": 1 - batch["mask"], "styles": 255 - batch["styles"]}[name]

    @jax.jit
    def losses(params, frozen, array, key):
        def one(chosen):
            some = batch | {name: array, "weight": chosen}
            return task.loss(params, frozen, some, key, jnp.int32(0))[0]

        return jax.lax.map(one, jnp.eye(4))

    keys = jax.random.split(jax.random.key(5), 12)
    return np.array(
        [
            losses(params, frozen, batch[name], key) != losses(params, frozen, other, key)
            for key in keys
        ]
    )


def test_layout_and_style_are_dropped_independently(made):
    layout, style = (reaches(made, 0.5, 0.5, name) for name in ("mask", "styles"))
    assert {(True, True), (True, False), (False, True), (False, False)} == set(
        zip(layout.ravel().tolist(), style.ravel().tolist(), strict=True)
    )
    assert 0.3 < layout.mean() < 0.7 and abs((layout & style).mean() - 0.25) < 0.15


@pytest.mark.slow
def test_without_drop_every_layout_counts(made):
    assert reaches(made, 1.0, 0.0, "mask").all()
    assert not reaches(made, 1.0, 0.0, "styles").any()


@pytest.mark.parametrize(
    ("on", "source", "interval", "matters"),
    [
        ("both", "multipatch", (0.0, 1.0), (False, False)),
        ("both", "multipatch", (0.0, 0.5), (True, False)),
        ("separate", "multipatch", (0.0, 1.0), (False, False)),
        ("style", "none", (0.0, 1.0), (True, False)),
        pytest.param("style", "multipatch", (0.0, 1.0), (True, False), marks=pytest.mark.slow),
        pytest.param("both", "none", (0.0, 1.0), (False, False), marks=pytest.mark.slow),
        pytest.param("separate", "none", (0.0, 1.0), (False, False), marks=pytest.mark.slow),
    ],
)
def test_with_scale_0_only_the_unconditional_branch_is_left(made, on, source, interval, matters):
    """Whether layout and style matter to it."""
    settings, _, params, frozen, batch = made
    task = changed(made, 0.5, 0.5, source)
    if source == "none":
        params = jax.tree.map(lambda x: x + 0.05, jax.jit(task.init)(jax.random.key(0)))
    noise = jax.random.normal(jax.random.key(2), (4, 4, 4, 4))
    layout_scale = 0.0 if on == "separate" else 1.0
    guidance = Guidance(
        on=on, scale=0.0, layout_scale=layout_scale, rescale=0.0, layout_interval=interval
    )
    synthesis = replace(settings.synthesis, guidance=guidance)

    @jax.jit
    def sample(params, frozen, mask, styles):
        return task.sample(params, frozen, mask, styles, noise, synthesis)

    mask, styles = batch["mask"], batch["styles"]
    image = sample(params, frozen, mask, styles)
    others = sample(params, frozen, 1 - mask, styles), sample(params, frozen, mask, 255 - styles)
    assert tuple(bool((image != other).any()) for other in others) == matters


@pytest.mark.parametrize("other", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_autoguidance_goes_from_a_weaker_model_towards_the_stronger_one(made, other):
    """With scale 0 only the weaker one is left; from itself a model is not guided away."""
    settings, task, params, frozen, batch = made
    weak, theirs = task, jax.tree.map(lambda x: x + 0.03, params)
    if other:
        weak = changed(made, 0.5, 0.5, "none")
        theirs = jax.tree.map(lambda x: x + 0.05, jax.jit(weak.init)(jax.random.key(0)))
        task = copy(task)
        task.weaker = weak
    noise = jax.random.normal(jax.random.key(2), (4, 4, 4, 4))

    def pixels(task, params, frozen, **guidance):
        section = replace(settings.synthesis, guidance=Guidance(rescale=0.0, **guidance))
        given = frozen, batch["mask"], batch["styles"], noise
        return jax.jit(lambda params, *rest: task.sample_pixels(params, *rest, section))(
            params, *given
        )

    both = params | {"weaker": theirs}
    alone = pixels(weak, theirs, frozen, scale=1.0)
    found = pixels(task, both, frozen | {"weaker": frozen}, on="weaker", weights="x", scale=0.0)
    np.testing.assert_allclose(found, alone, atol=1e-5)
    if not other:
        same = params | {"weaker": params}
        found = pixels(task, same, frozen, on="weaker", weights="x", scale=3.0)
        np.testing.assert_allclose(found, pixels(task, params, frozen, scale=1.0), atol=1e-5)


def test_the_judge_teaches_where_the_configuration_says_so(made):
    _, task, params, frozen, batch = made
    judge = SegmentationTask(made[0].segmentation, Shown(task.colors), 1, jnp.float32)
    judge.log_classes = lambda params, image: jax.nn.log_softmax(params * image[..., :2])
    taught = Judged(layouts=1.0, weight=0.5, below=1.0)
    config = replace(task.config, judge=taught, places=Places(boundary=1.0), layout_edges=True)
    task, step = remade(task, config, judge), jnp.int32(0)
    assert set(task.abstract_frozen) == {"first", "judge"}
    params = params | {"layout": {"kernel": jnp.full((3, config.layout_channels), 0.3)}}
    bare = batch | {"mask": jnp.full_like(batch["mask"], VOID)}

    @jax.jit
    def compiled(params, frozen, sign):
        return task.loss(params, frozen | {"judge": sign}, bare, jax.random.key(1), step)

    (total, parts), (_, other) = (compiled(params, frozen, sign) for sign in (9.0, -9.0))
    assert parts["layout_loss"] > 0
    expected = parts["denoising_loss"] + 0.5 * parts["layout_loss"]
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert parts["denoising_loss"] != other["denoising_loss"]  # it is given what the judge sees


def test_a_frozen_pathology_encoder_reads_the_style_and_is_no_parameter(made, monkeypatch):
    small = ViTSize(patch=8, width=16, depth=1, heads=2, grid=2, size=16)
    monkeypatch.setitem(VIT_SIZES, "small", small)
    task, batch = styled(made[1], encoder="vit:small", drop=0.0), made[4]
    params = jax.tree.map(lambda x: x + 0.05, jax.jit(task.init)(jax.random.key(0)))
    frozen = made[3] | {"guide": task.guide.init(jax.random.key(1))}
    assert set(params["style"]) == {"project", "aggregation"}
    step = jnp.int32(0)

    @jax.jit
    def gradient(params, frozen, styles):
        def loss(params, frozen):
            some = batch | {"styles": styles}
            return task.loss(params, frozen, some, jax.random.key(1), step)[0]

        return jax.value_and_grad(loss, argnums=(0, 1))(params, frozen)

    loss, (learned, still) = gradient(params, frozen, batch["styles"])
    assert float(jnp.abs(learned["style"]["project"]["kernel"]).max()) > 0
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(still))
    assert loss != gradient(params, frozen, 255 - batch["styles"])[0]


def test_a_grid_of_layouts_and_styles_is_drawn_and_scored(made):
    settings, task, params, frozen, batch = made
    judge = SegmentationTask(settings.segmentation, Shown(task.colors), 3, jnp.float32)
    # 16 px are too few for a network.
    judge.predict = lambda params, _, batch: (batch["image"][..., 0] > params).astype(jnp.int32)
    watch = replace(task.config.watch, steps=2)
    task = remade(task, replace(task.config, watch=watch), judge)
    frozen = frozen | {"judge": jnp.uint8(127)}
    grid = {name: jnp.stack([batch[name][:2], batch[name][2:]]) for name in ("mask", "styles")}
    draw = jax.jit(task.visualize)
    drawn = draw(params, frozen, grid, jax.random.key(0))
    assert drawn["samples"].shape == (3 * 16, 3 * 16, 3) and drawn["samples"].dtype == jnp.uint8
    assert -1 <= float(drawn["style_correlation"]) <= 1 and 0 <= float(drawn["layout_iou"]) <= 1
    again = draw(params, frozen, grid, jax.random.key(0))
    np.testing.assert_array_equal(drawn["samples"], again["samples"])
    other = draw(params, frozen, grid | {"styles": 255 - grid["styles"]}, jax.random.key(0))
    assert (drawn["samples"][16:, 16:] != other["samples"][16:, 16:]).any()


def test_a_canvas_of_one_window_is_a_tile_and_larger_ones_come_out(made):
    _, task, params, frozen, batch = made
    large = over_windows(task, Windows(16, 8, task.factor), at_once=3)
    section = Synthesis(steps=2, sampler="dpmpp_2m", guidance=Guidance(scale=2.0, rescale=0.0))
    noise = jax.random.normal(jax.random.key(2), (1, 8, 8, 4))
    styles = batch["styles"][:1]

    def sampled(own, side):
        mask = jnp.tile(batch["mask"][:1], (1, side // 16, side // 16))
        own_noise = noise[:, : side // task.factor, : side // task.factor]
        return jax.jit(
            lambda: own.sample_pixels(params, frozen, mask, styles, own_noise, section)
        )()

    np.testing.assert_allclose(sampled(large, 16), sampled(task, 16), atol=1e-5)
    canvas = sampled(large, 32)
    assert canvas.shape == (1, 32, 32, 3) and jnp.isfinite(canvas).all()
