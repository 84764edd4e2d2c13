"""A run as an object gives what the commands give."""

import doctest
import json
import shutil
import subprocess
import sys
from weakref import WeakSet

import jax
import numpy as np
import pytest
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.records import TileSet
from stedm_jax.experiment.saved import open_run
from stedm_jax.inference.__main__ import main as inference
from stedm_jax.interface import loaded_run
from stedm_jax.interface.checked import check_images
from stedm_jax.interface.loaded_run import load_run
from stedm_jax.synthesize.trained_generator import load_generator
from tests.conftest import CLASSES
from tests.interface.conftest import layouts_and_styles


def test_what_a_run_says_of_itself(run):
    assert run.classes == ("background", "tumour") and run.colors[1] == CLASSES[1].color
    assert (run.mpp, run.tile, run.arms) == (2.0, 32, ("labelled", "labelled+synthetic"))
    assert "labelled+synthetic" in repr(run)


def test_arms_that_only_score_are_not_among_the_arms(run, tmp_path, place):
    folder = shutil.copytree(place / "runs/demo", tmp_path / "run")
    for arm, more in (("a-normalized", {}), ("a-chosen", {"chosen": "labelled"})):
        cell = folder / f"segmentation/{arm}/0"
        cell.mkdir(parents=True)
        scores = {"arm": arm, "seed": 0, "confusion": {}, "taken": "segmentation/labelled/0"}
        (cell / "scores.json").write_text(json.dumps(scores | more))
    assert load_run(folder).arms == ("labelled", "a-chosen", "labelled+synthetic")


def test_the_examples_of_the_docstrings(run, image, place, monkeypatch):
    monkeypatch.chdir(place)
    masks, styles = layouts_and_styles()
    names = {"run": run, "image": image, "masks": masks, "styles": styles, "load_run": load_run}
    found = [
        test for test in doctest.DocTestFinder().find(loaded_run, globs=names) if test.examples
    ]
    assert len(found) >= 4
    runner = doctest.DocTestRunner()
    for test in found:
        assert runner.run(test).failed == 0, test.name


@pytest.mark.parametrize("mpp", [2.0, 1.0])
def test_segment_gives_the_mask_of_the_command(run, image, place, tmp_path, mpp):
    Image.fromarray(image).save(tmp_path / "a.png")
    options = [f"--images={tmp_path / 'a.png'}", f"--out={tmp_path / 'out'}", f"--mpp={mpp}"]
    assert inference([f"--workdir={place / 'runs/demo'}", *options]) == 0
    mask, probabilities = run.segment(image, mpp=mpp)
    np.testing.assert_array_equal(mask, np.asarray(Image.open(tmp_path / "out/a.png")))
    assert len(np.unique(mask)) == 2
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(mask, probabilities.argmax(-1))
    other, _ = run.segment(image, mpp, arm="labelled+synthetic")
    assert (other != mask).any()


def test_encode_and_decode(run):
    images = np.random.default_rng(1).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
    latents = run.encode(images)
    assert latents.shape == (9, 8, 12, 4) and latents.dtype == np.float32
    np.testing.assert_allclose(run.encode(images[8:]), latents[8:], atol=1e-5)
    decoded = run.decode(latents)
    assert decoded.shape == images.shape and decoded.dtype == np.uint8
    assert decoded[0].std() > 0


def test_synthesize_is_a_function_of_seed_and_number(run):
    masks, styles = layouts_and_styles()
    made = run.synthesize(masks, styles, steps=2)
    assert made.shape == (2, 32, 32, 3) and made.dtype == np.uint8 and (made[0] != made[1]).any()
    np.testing.assert_array_equal(run.synthesize(masks[:1], styles, steps=2), made[:1])
    next_one = run.synthesize(masks[1:], styles, first=1, steps=2)
    np.testing.assert_array_equal(next_one, made[1:])
    assert (run.synthesize(masks, styles, seed=1, steps=2) != made).any()
    each = np.stack([styles, 255 - styles])
    other = run.synthesize(masks, each, steps=2)
    np.testing.assert_array_equal(other[0], made[0])
    assert (other[1] != made[1]).any()


def test_a_generator_is_guided_by_other_weights_of_its_own(place):
    context = open_run(place / "runs/demo")
    weaker = {"guidance.on": "weaker", "guidance.weights": "params"}
    made = load_generator(context, changes=weaker)
    plain = load_generator(context, changes={"weights": "params"})
    jax.tree.map(np.testing.assert_array_equal, made.params["weaker"], plain.params)
    assert made.provenance["guidance_weights"] == "params"
    with pytest.raises(UserError, match=r"no whole checkpoint of step 2 .*those there: \[3\]"):
        load_generator(context, changes=weaker | {"guidance.weights": "step:2"})


def test_synthesize_mixes_two_styles(run):
    masks, styles = layouts_and_styles()
    alone = run.synthesize(masks, styles, steps=2)
    with_itself, with_other = (
        run.synthesize(masks, styles, second=second, mix=0.5, steps=2)
        for second in (styles, np.stack([styles, 255 - styles]))
    )
    np.testing.assert_allclose(with_itself, alone, atol=1)
    np.testing.assert_array_equal(with_other[0], with_itself[0])
    assert (with_other[1] != alone[1]).any()
    none = run.synthesize(masks, styles, second=255 - styles, mix=0.0, steps=2)
    np.testing.assert_array_equal(none, alone)


def test_tiles_are_those_of_the_set(run, place):
    tiles, packed = run.tiles("val"), TileSet.open(place / "tiles")
    assert len(tiles) == 6 and [tile.patient for tile in tiles[:2]] == ["val0", "val1"]
    np.testing.assert_array_equal(tiles[3].image, packed.read("val", 3).image)
    np.testing.assert_array_equal(tiles[3].mask, packed.read("val", 3).mask)
    assert (run.tiles("style")[0].mask == VOID).all()
    with pytest.raises(IndexError):
        tiles[6]


def test_what_is_refused(run, image, tmp_path):
    masks, styles = layouts_and_styles()
    floats, images = image.astype(np.float32), np.zeros((1, 30, 32, 3), np.uint8)
    for call, text in (
        (lambda: run.segment(floats, 2.0), r"image is float32 \(50, 45, 3\); give .*uint8"),
        (lambda: run.segment(image[..., 0], 2.0), r"image is uint8 \(50, 45\); give .*\(h w 3\)"),
        (lambda: check_images([1], "image", "h w 3"), "image is a list; give a numpy array"),
        (lambda: run.segment(image[..., [0, 0, 0, 0]], 2.0), "red, green and blue last"),
        (lambda: run.segment(image, 0.0), "mpp=0.0 is no microscope's"),
        (lambda: run.segment(image, 2.0, arm="none"), "no trained arm 'none'"),
        (lambda: run.segment(image, 2.0, seed=7), "with seed 7; trained are: labelled with seed 0"),
        (lambda: run.encode(images), "30 x 32 pixels; both have to be multiples of 4"),
        (lambda: run.decode(np.zeros((1, 8, 8, 3), np.float32)), "have 4 channels"),
        (lambda: run.decode(np.full((1, 8, 8, 4), np.nan, np.float32)), "not finite"),
        (
            lambda: run.synthesize(masks + 5, styles),
            "class numbers .5, 6.; those of",
        ),
        (lambda: run.synthesize(masks[0], styles), r"masks is uint8 \(32, 32\); give .*\(n h w\)"),
        (lambda: run.synthesize(masks, styles[0]), r"styles is uint8 .*\(n k h w 3\)"),
        (lambda: run.synthesize(masks, styles[None]), "2 layouts, and styles for 1"),
        (lambda: run.synthesize(masks, styles, second=styles[None]), "layouts, and second for 1"),
        (lambda: run.synthesize(masks, styles, second=styles[:, 8:]), "as large as .* 32 x 32 pix"),
        (lambda: run.synthesize(masks, styles, second=styles, mix=1.5), "mix=1.5 is no weight"),
        (lambda: run.synthesize(masks[:, :30, :30], styles), "multiple of 4"),
        (lambda: run.synthesize(masks, styles, seed=-1), "seed=-1 is no whole number"),
        (lambda: run.synthesize(masks, styles, first=-1), "first=-1 is no whole number"),
        (lambda: run.synthesize(masks, styles, first=2**32), "first=4294967296 is no whole"),
        (lambda: run.synthesize(masks, styles, step=3), "step"),
        (lambda: run.synthesize(masks, styles, tail=["a"]), "synthesis.tail"),
        (lambda: run.synthesize(masks, styles, recolor="macenko"), "changes 'recolor', which only"),
        (
            lambda: run.synthesize(masks, styles, start="tile", strength=0.5),
            "start is 'tile', and there are no tiles to start from",
        ),
        (lambda: run.synthesize(masks, styles, start="inversion"), "start is 'inversion'"),
        (lambda: run.synthesize(masks, styles, generator="x"), "no trained generator 'x'"),
        (lambda: run.tiles("nothing"), "no split 'nothing'"),
        (lambda: load_run(tmp_path), "is no workdir of a run"),
    ):
        with pytest.raises(UserError, match=text):
            call()


def test_a_sweep_does_not_keep_the_weights_of_all(place, monkeypatch):
    class Made:
        def images(self, masks, styles, **others):
            return masks[..., None].repeat(3, axis=-1)

    made = WeakSet()

    def load(context, name, changes):
        made.add(one := Made())
        return one

    monkeypatch.setattr(loaded_run, "load_generator", load)
    run = load_run(place / "runs/demo")
    for steps in [*range(1, 20), 19]:
        run.synthesize(*layouts_and_styles(), steps=steps)
    assert len(made) == loaded_run.KEPT


def test_importing_the_package_is_cheap():
    code = "import sys, stedm_jax; assert not {'jax', 'numpy'} & set(sys.modules); "
    code += "assert 'load_run' in stedm_jax.__all__; print(stedm_jax.load_run.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "load_run\n", done.stderr
