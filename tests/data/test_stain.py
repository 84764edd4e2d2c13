"""What a tile set says of its stain, and what inference makes of that."""

import json

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.stain import (
    KEY,
    KINDS,
    Normalizer,
    find_colors,
    find_stains,
    normalizer,
    read_target,
    stain_info,
    stain_of,
)
from stedm_jax.inference.trained_segmenter import _stain


def tissue(seed=0, side=48):
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.1, 1.0, (side, side, 2)) * np.where(
        rng.random((side, side, 1)) < 0.5, (1, 0.2), (0.2, 1)
    )
    density = amounts @ np.array([[0.65, 0.70, 0.29], [0.27, 0.57, 0.78]])
    return np.clip(240 * np.exp(-density), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("find", [find_stains, find_colors])
def test_a_target_survives_the_manifest(find):
    target = find(tissue(1))
    found = read_target(
        stain_of({KEY: json.dumps(stain_info(target)), "stain_norm": "x", "stain_target": "x.png"})
    )
    assert type(found) is type(target)
    np.testing.assert_array_equal(Normalizer(found)(tissue(2)), Normalizer(target)(tissue(2)))


@pytest.mark.parametrize("kind", KINDS)
def test_older_sets_are_known_by_the_reference_or_not_at_all(kind):
    found = read_target(stain_of({"stain_norm": kind, "stain_target": "None"}))
    np.testing.assert_array_equal(Normalizer(found)(tissue()), normalizer(kind)(tissue()))
    with pytest.raises(UserError, match="mine.png.*without its numbers.*again with --overwrite"):
        stain_of({"stain_norm": kind, "stain_target": "mine.png"})


@pytest.mark.parametrize(
    "text",
    [
        "H&E",
        "{}",
        '{"kind": "macenko"}',
        '{"kind": "macenko", "vectors": [1, 2], "amounts": null}',
        '{"kind": "reinhard", "mean": [1, 2, NaN], "std": [1, 1, 1]}',
    ],
)
def test_what_is_no_stain_is_refused(text):
    with pytest.raises(UserError, match="without its numbers"):
        stain_of({KEY: text})


@pytest.mark.parametrize("kind", KINDS)
def test_a_margin_is_changed_and_not_measured(kind):
    core = tissue(3)
    around = np.pad(core, ((16, 16), (16, 16), (0, 0)), mode="reflect")
    around[:16], around[-16:], around[:, :16], around[:, -16:] = (
        (90, 20, 120),
        (90, 20, 120),
        60,
        60,
    )
    found = normalizer(kind)(around, 16)
    np.testing.assert_array_equal(found[16:-16, 16:-16], normalizer(kind)(core))
    assert (found[:16] != around[:16]).any()


def test_tiles_with_their_own_stain_tell_none():
    assert stain_of({"stain_norm": "", "stain_target": "None"}) is None
    assert stain_of({}) is None


def test_patches_are_brought_to_the_stain_of_the_tiles_one_by_one():
    patches = np.stack(
        [tissue(1), (tissue(2) * 0.8).astype(np.uint8), np.full((48, 48, 3), 240, np.uint8)]
    )
    found = _stain(stain_info(normalizer("reinhard").target))(patches)
    for patch, each in zip(patches[:2], found, strict=False):
        np.testing.assert_array_equal(each, normalizer("reinhard")(patch))
        assert np.abs(each.astype(float) - patch).mean() > 2
    np.testing.assert_array_equal(found[2], patches[2])
    assert _stain(None)(patches) is patches
