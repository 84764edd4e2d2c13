"""A user's folders become a tile set that says what each tile is made of."""

import dataclasses
import json
import shlex
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.numbered_parts import NumberedParts
from stedm_jax.data.records import TileSet
from stedm_jax.synthesize.__main__ import _parse
from stedm_jax.synthesize.given_files import Layouts, Styles
from stedm_jax.synthesize.made_set import Asked, make_set, recipe
from tests.synthesize.test_trained_generator import STYLE_TILES, Task, generator

NAMES = ("background", "gland")
ROOT = Path(__file__).parents[2]


class Averaging(Task):
    """The style vector is the mean color."""

    def style_vector(self, params, frozen, images):
        return images.astype("float32").mean(axis=(1, 2, 3)) / 255

    def sample_pixels(self, params, frozen, mask, styles, *others):
        return self.style_vector(params, frozen, styles)[:, None, None] + jnp.zeros(
            (*mask.shape, 1)
        )


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    masks, styles = tmp_path / "masks", tmp_path / "styles"
    masks.mkdir()
    (styles / "p1").mkdir(parents=True)
    for number in range(3):
        mask = rng.integers(0, 2, (8, 8)).astype(np.uint8)
        Image.fromarray(mask).save(masks / f"m{number}.png")
    for number, name in enumerate(("p1/a", "p1/b", "p2")):
        image = np.full((12, 10, 3), 100 * (number // 2 + 1), np.uint8)
        Image.fromarray(image).save(styles / f"{name}.png")
    return masks, styles


def found(folders, own="", fit="refuse"):
    return Layouts.find(folders[0], NAMES, own, 8, fit), Styles.find(folders[1], 8)


def made(tmp_path, folders, name="out", **others):
    made_by = dataclasses.replace(generator(tmp_path, batch=2))
    made_by.__dict__["classes"] = NAMES
    about = {"classes": NAMES, "colors": [[0, 0, 0], [9, 9, 9]], "mpp": 1.0}
    (tmp_path / "segmenters.json").write_text(json.dumps(about))
    asked = Asked(tmp_path / name, 7, **others)
    make_set(made_by, *found(folders), asked)
    return TileSet.open(asked.out)


def test_every_layout_meets_every_patient_and_tiles_say_so(tmp_path, folders):
    tiles = made(tmp_path, folders)
    notes = [tiles.read("synthetic", n).provenance for n in range(7)]
    pairs = {(each["layout_file"][-6:], each["style_patient"]) for each in notes[:6]}
    assert len(pairs) == 6
    for number, each in enumerate(notes):
        assert each["index"] == str(number)
        assert len(each["style_files"].split()) == STYLE_TILES
        assert all(each["style_patient"] in file for file in each["style_files"].split())
    mask = np.array(Image.open(folders[0] / "m1.png"))
    np.testing.assert_array_equal(tiles.read("synthetic", 1).mask, mask)


def test_an_interrupted_set_ends_with_the_same_files(tmp_path, folders, monkeypatch):
    whole = made(tmp_path, folders, "whole")
    write, asked = NumberedParts.write, []

    def killed(parts, numbers, tiles):
        asked.append(numbers)
        if len(asked) == 3:
            next(iter(tiles))
            raise KeyboardInterrupt
        write(parts, numbers, tiles)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(NumberedParts, "write", killed)
        made(tmp_path, folders, "out")
    again = made(tmp_path, folders, "out")
    assert again.fingerprint == whole.fingerprint
    assert not (tmp_path / "out-parts").exists()


def test_two_patients_are_mixed_by_weight(tmp_path):
    made_by = dataclasses.replace(
        generator(tmp_path), below=dataclasses.replace(generator(tmp_path).below, task=Averaging())
    )
    made_by.__dict__["classes"] = NAMES
    masks = np.zeros((2, 8, 8), np.uint8)
    one, two = (np.full((2, 8, 8, 3), value, np.uint8) for value in (51, 255))
    (image, _) = made_by.images(masks, [one, one], second=[two, two], mix=0.25)
    # 40 bytes for a style of 1: 0.75 * 0.2 + 0.25 * 1 = 0.4
    assert np.abs(image.astype(int) - 16).max() <= 1
    (plain, _) = made_by.images(masks, [one, one])
    assert np.abs(plain.astype(int) - 8).max() <= 1


def test_a_tile_is_a_function_of_its_number(folders):
    layouts, styles = found(folders)
    for number in (0, 4):
        a, b = (recipe(number, layouts, styles, Asked(folders[0], 9, mix=0.5), 3) for _ in "ab")
        assert (a.patients, a.images) == (b.patients, b.images) and len({*a.patients}) == 2
        np.testing.assert_array_equal(a.bags, b.bags)


def test_masks_of_other_classes_and_sizes(folders):
    layouts, _ = found(folders, own="gland,background")
    as_run, _ = found(folders)
    file = layouts.files[0]
    np.testing.assert_array_equal(layouts.read(file), 1 - as_run.read(file))
    with pytest.raises(UserError, match="tumour; the classes of the run are background, gland"):
        found(folders, own="tumour,gland")
    Image.fromarray(np.ones((6, 6), np.uint8)).save(folders[0] / "small.png")
    with pytest.raises(UserError, match=r"small\.png is 6 x 6 pixels.*8 x 8"):
        found(folders)
    layouts, _ = found(folders, fit="pad")
    padded = layouts.read(folders[0] / "small.png")
    assert padded.shape == (8, 8) and (padded == VOID).sum() == 28 and (padded == 1).sum() == 36
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(folders[0] / "wrong.png")
    with pytest.raises(UserError, match=r"wrong\.png holds the value 7"):
        found(folders, fit="pad")


def test_the_commands_of_the_page_are_commands():
    """Each stedm_jax.synthesize of docs/synthesis.md parses."""
    page = (ROOT / "docs/synthesis.md").read_text().replace("\\\n", " ")
    lines = [line for line in page.splitlines() if line.startswith("python -m stedm_jax.synth")]
    assert len(lines) >= 2
    for line in lines:
        assert _parse(shlex.split(line)[3:]).workdir


def test_empty_folders_and_small_styles(tmp_path, folders):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="--styles=.*empty is no folder with images"):
        Styles.find(tmp_path / "empty", 8)
    with pytest.raises(UserError, match="10 x 12 pixels, smaller than a tile"):
        Styles.find(folders[1], 11)
