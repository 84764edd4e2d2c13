import argparse

import pytest

from data_prep.engine.options import add_options, parse_shares, rules_from
from stedm_jax.errors import UserError


def rules(*flags, **fixed):
    parser = argparse.ArgumentParser()
    add_options(parser, tile=64, mpp=1.0, tissue=True)
    return rules_from(parser.parse_args(["--out=x", *flags]), **fixed)


def test_what_is_said_and_what_is_fixed():
    found = rules("--margin=8", "--sample=a:1,glass:3", "--per_slide=10", cover=True, mpp=2.0)
    assert (found.tile, found.margin, found.mpp, found.cover, found.per_slide) == (64, 8, 2.0, True, 10)
    assert found.shares == (("a", 0.25), ("glass", 0.75))


def test_shares_keep_colons_in_names():
    assert parse_shares("Tumor: Positive:0.5,b:0.5") == (("Tumor: Positive", 0.5), ("b", 0.5))


@pytest.mark.parametrize(("flags", "says"), [
    (["--tile=4"], "--tile=4"),
    (["--margin=-1"], "--margin=-1"),
    (["--mpp=nan"], "--mpp=nan"),
    (["--sample=a:0.5"], "--per_slide belong together"),
    (["--per_slide=5"], "--per_slide belong together"),
    (["--sample=a", "--per_slide=5"], "'a' is not KIND:SHARE"),
    (["--sample=a:1,a:2", "--per_slide=5"], "names a kind twice"),
    (["--sample=a:1", "--per_slide=5", "--glass=0.1"], "--glass is for grids"),
    (["--stain_target=nowhere.png"], "without --stain_norm"),
    (["--stain_norm=macenko", "--stain_target=nowhere.png"], "is no file"),
])  # fmt: skip
def test_wrong_options(flags, says):
    with pytest.raises(UserError, match=says):
        rules(*flags)
