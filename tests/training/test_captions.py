"""Names in the margins of a picture."""

import numpy as np
import pytest

from stedm_jax.training import captions
from stedm_jax.training.captions import captioned

RNG = np.random.default_rng(0)


def picture(rows: int, columns: int, side: int) -> np.ndarray:
    return RNG.integers(0, 256, (rows * side, columns * side, 3), dtype=np.uint8)


def centers(margin: np.ndarray, axis: int, parts: int) -> list[float]:
    """Where the ink of each part of a margin lies, in parts; NaN without ink."""
    ink = (margin.min(-1) < 128).any(1 - axis)
    size = len(ink) // parts
    return [np.flatnonzero(ink[i * size : (i + 1) * size]).mean() / size for i in range(parts)]


@pytest.mark.parametrize("side", [32, 64, 400])
def test_the_picture_is_untouched_and_each_name_is_beside_its_row_or_above_its_column(side) -> None:
    given = picture(2, 3, side)
    made = captioned(given, ("tile", "sample"), ("a", "b", "c"))
    top, left = made.shape[0] - given.shape[0], made.shape[1] - given.shape[1]
    np.testing.assert_array_equal(made[top:, left:], given)
    assert (made[:top, :left] == 255).all()
    np.testing.assert_allclose(centers(made[top:, :left], 0, 2), 0.5, atol=0.15)
    np.testing.assert_allclose(centers(made[:top, left:], 1, 3), 0.5, atol=0.1)


def test_either_margin_goes_alone_or_both() -> None:
    given = picture(2, 2, 40)
    assert captioned(given) is not None and np.array_equal(captioned(given), given)
    assert (
        captioned(given, rows=("x", "y")).shape[0]
        == 80
        < captioned(given, rows=("x", "y")).shape[1]
    )
    assert (
        captioned(given, columns=("x", "y")).shape[1]
        == 80
        < captioned(given, columns=("x", "y")).shape[0]
    )


def test_long_names_keep_to_their_cell_and_stay_different() -> None:
    font = captions._font(10)
    slides = ["TCGA-A8-A07C-01Z-00-DX1", "TCGA-A8-A09D-01Z-00-DX1", "mine"]
    assert captions._short(slides, font, 64) == ["…7C…", "…9D…", "mine"]
    assert captions._short(slides, font, 400) == slides
    (one,) = captions._short(["a patient of a very long name"], font, 64)
    assert one[:2] == "a " and one[-2:] == "me" and "…" in one and font.getlength(one) <= 64
    assert captions._short(["a name"], font, 1) == [""]
    made = captioned(picture(2, 3, 64), ("r" * 99, "s"), slides)
    margin = made[: made.shape[0] - 128, made.shape[1] - 192 :]
    assert (
        margin[:, [0, 1, 62, 63, 64, 65, 126, 127, 128, 129, 190, 191]] == 255
    ).all()  # none reaches the next
    assert made.shape[1] - 192 <= 64 + 10


def test_a_picture_that_is_no_such_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="12 x 8 pixels has no 0 columns x 3 rows"):
        captioned(np.zeros((8, 12, 3), np.uint8), ("a", "b", "c"))
    with pytest.raises(ValueError, match="5 columns"):
        captioned(np.zeros((8, 12, 3), np.uint8), (), "abcde")
