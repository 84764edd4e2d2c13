"""The curve of scores against evaluations: what is compared, scored, printed and drawn."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.curve import sampling_curve
from stedm_jax.curve.__main__ import main
from stedm_jax.curve.curve_chart import curve_chart, curve_text
from stedm_jax.curve.sampling_curve import Row, chosen_set, curve, variants
from stedm_jax.curve.scored_images import Scorer
from stedm_jax.diffusion.guidance import Guidance
from stedm_jax.evaluation.synthesis_quality.kernel_distance import kid
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.encoders import Encoder
from stedm_jax.experiment.learned import Below
from stedm_jax.experiment.orders import Orders, load
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.settings.synthesis import Synthesis
from stedm_jax.training.sharding import make_mesh
from tests.conftest import make_tile, written
from tests.experiment.settings import tiny

COUNT = 6


class Judge:
    """Sees class 1 where an image is bright."""

    def eval_step(self, params, frozen, batch, key):
        seen = (batch["image"][0, ..., 0] > 127).astype(jnp.int32)
        pairs = jax.nn.one_hot(2 * batch["mask"][0].astype(jnp.int32) + seen, 4).sum((0, 1))
        return {"confusion": pairs.reshape(1, 2, 2)}


class Task:
    """A denoiser whose images show noise, and the sampler's steps in one channel."""

    factor, channels = 2, 3
    schedule = SimpleNamespace(steps=1000)

    def sample_pixels(self, params, frozen, mask, styles, noise, synthesis, key, tile, own):
        pixels = jnp.repeat(jnp.repeat(noise, 2, axis=1), 2, axis=2)
        return pixels.at[..., 0].set(synthesis.steps)

    def to_images(self, pixels, synthesis):
        return jnp.clip(pixels + 100, 0, 255).astype(jnp.uint8)

    def evaluated(self, synthesis):
        return np.arange(synthesis.steps)[::-1]

    def guidance(self, synthesis):
        return Guidance(scale=2.0)


def colors() -> Encoder:
    return Encoder("color", "", {}, lambda params, x: x.astype(jnp.float32).mean((1, 2)) / 255)


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> Context:
    folder = tmp_path_factory.mktemp("curve")
    tiles = (
        make_tile(split, f"{split}{number % 2}", number)
        for split in ("train", "val", "test", "style")
        for number in range(12)
    )
    settings = tiny(written(folder / "tiles", tiles).path, synthesis__batch=4)
    return Context(settings, Workdir(folder), make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def scorer(context) -> Scorer:
    synthesis = context.settings.synthesis_set("synthetic")
    orders = Orders(context, synthesis, context.settings.style_of("synthetic"))
    some = [orders[number] for number in range(COUNT)]
    masks = load(context.reader, some, synthesis)["mask"]
    learned = SimpleNamespace(judge=(Judge(), {}))
    return Scorer(context, learned, some, masks, synthesis.styles, colors())


def test_variants_drop_what_not_every_sampler_has_and_halve_the_steps_of_heun():
    section = Synthesis(eta=0.5, as_published_code=True, tail=(40, 10))
    found = variants(section, ["unipc_3", "heun"], [6, 9])
    assert [(each.sampler, each.steps) for each in found] == [
        ("unipc_3", 6), ("heun", 3), ("unipc_3", 9), ("heun", 5)
    ]  # fmt: skip
    assert not any(list(each.problems("synthesis")) or each.tail for each in found)


def test_images_that_show_their_layouts_score_1_and_others_less(scorer):
    shown = np.repeat((scorer.masks == 1)[..., None] * np.uint8(255), 3, axis=-1)
    assert scorer(shown).layout_iou == 1.0
    assert scorer(255 - shown).layout_iou < 0.5


def test_the_kernel_distance_is_that_of_the_features(scorer):
    images = np.full((COUNT, *scorer.masks.shape[1:], 3), 40, np.uint8)
    found = scorer(images)
    features = np.full((COUNT, 3), 40 / 255, np.float32)
    wanted, limits = kid(features, scorer.held_out, scorer.whose)
    assert found.kid == pytest.approx(wanted, rel=1e-4)
    assert [found.kid_low, found.kid_high] == pytest.approx(limits, rel=1e-4)
    assert {name[:3] for name in scorer.whose} == {"val", "tes"}


def test_the_style_error_is_lower_for_real_tiles_of_the_style_patients(scorer):
    real = {tile.patient: tile.image for tile in scorer.real}
    images = np.stack([real[order.style_patient] for order in scorer.orders])
    assert scorer(images).style_error < scorer(np.zeros_like(images)).style_error


@pytest.fixture(scope="module")
def rows(context, scorer) -> list[Row]:
    learned = SimpleNamespace(
        generator=lambda name, section: (Below(Task(), {}, {}), {}, {}),
        judge=(Judge(), {}),
        need=lambda *cells: None,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling_curve, "Learned", lambda context: learned)
        patch.setattr(sampling_curve, "check_made_with", lambda *given: None)
        patch.setattr(sampling_curve, "open_encoder", lambda *given: colors())
        return list(curve(context, "synthetic", ["ddim", "heun"], [8, 4], COUNT, "color"))


def test_rows_differ_in_nothing_but_what_they_say(rows):
    assert [row.row for row in rows[:3]] == ["as published", "other noise", "as configured"]
    assert [(row.sampler, row.evaluations) for row in rows[3:]] == [
        ("ddim", 8), ("heun", 4), ("ddim", 4), ("heun", 2)
    ]  # fmt: skip
    assert all(row.with_guidance == 2 * row.evaluations for row in rows)
    assert all(row.seconds > 0 for row in rows)
    # The images of a row differ from those of the first in the channel that shows the steps.
    ddim = rows[3]
    assert ddim.distance == pytest.approx((228 - 108) / np.sqrt(3))
    assert rows[0].distance == 0 and 0 < rows[1].distance < 2


def test_table_and_figure_show_every_row(rows):
    text = curve_text(rows)
    assert len(text.splitlines()) == 2 + len(rows) and "as configured" in text
    panels = curve_chart(rows).axes
    lines = {line.get_label(): line for line in panels[0].get_lines()}
    assert list(lines["ddim"].get_xdata()) == [4, 8]
    assert len(panels) == 4


def test_a_set_without_a_generator_is_refused(context):
    found, name = chosen_set(context, "")
    assert (found.cell("judge"), name) == ("judge", "synthetic")
    with pytest.raises(UserError, match="--set=nothing.*synthetic"):
        chosen_set(context, "nothing")


def test_on_a_grid_a_set_is_that_of_a_point(context, tmp_path):
    draws = {"a": {"train": ("train0",), "val": ("val0",)}, "b": {"train": ("train1",)}}
    settings = tiny(context.settings.data.tiles, grid__draws=draws)
    grid = Context(settings, Workdir(tmp_path), context.mesh)
    at, name = chosen_set(grid, "synthetic@b.0")
    assert (at.point.draw, name) == ("b", "synthetic")
    assert chosen_set(grid, "synthetic")[0].point.draw == "a"
    (tmp_path / "generator/stedm@b.0").mkdir(parents=True)
    (tmp_path / "generator/stedm@b.0/done.json").write_text('{"stamp": "", "result": {}}')
    assert chosen_set(grid, "synthetic")[0].point.draw == "b"


@pytest.mark.parametrize("wrong", ["--images=1", "--evaluations=0"])
def test_too_small_numbers_are_refused_first(tmp_path, wrong):
    with pytest.raises(UserError, match=wrong.partition("=")[0]):
        main([f"--workdir={tmp_path}", f"--out={tmp_path}", wrong])
