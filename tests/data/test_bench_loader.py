import itertools

import cv2
import numpy as np
import pytest

from stedm_jax.bench.__main__ import TINY
from tests.bench.sizes import tiny
from tests.data.bench_loader import BATCH, _picture, loader_speed, main, make_tiles


@pytest.mark.parametrize(("style", "read"), [("multipatch", 3), ("none", 1)])
def test_speed_is_batches_over_time_with_every_tile_that_is_read(tmp_path, style, read):
    diffusion = tiny(change=lambda config: config.diffusion.style.update(source=style)).diffusion
    tiles = make_tiles(tmp_path / "tiles", 32, "jpeg90")
    ticks = itertools.count()  # a second passes whenever the clock is read
    speed = loader_speed(diffusion, 2, tiles, 2.5, 0, clock=lambda: float(next(ticks)))
    # Begun at 0; after the first batch the clock is read before each: at 1 and 2 it goes on, at 3
    # it ends, and 4 is when all is counted.
    assert speed["images"] == pytest.approx(3 * BATCH / 4)
    assert speed["tiles"] == pytest.approx(read * speed["images"])


def test_the_made_up_tiles_cost_about_what_tissue_does():
    """PNGs of stained tissue take about two bytes a pixel; blank ones take next to nothing, noise
    takes three."""
    side = 128
    picture = _picture(np.random.default_rng(0), side)
    assert 1.5 < len(cv2.imencode(".png", picture)[1]) / side**2 < 2.6


@pytest.mark.slow
def test_the_command_has_a_line_for_each_codec(capsys):
    main([*(f"--config.{key}" for key in TINY), "--seconds=0"])
    text = capsys.readouterr().out
    assert text.count("tiles/s") == 4 and "png, decoded each time" in text and "jpeg90" in text
