"""What arrays of users have to be. Each check raises a UserError that says what was given."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.microns import LEAST_MPP, MOST_MPP, believable


def check_images(given: Any, name: str, dimensions: str) -> np.ndarray:
    """RGB images, uint8; `dimensions` names those that they have, as "n h w 3"."""
    array = _array(given, name, np.uint8, dimensions, "RGB values from 0 to 255")
    if array.shape[-1] != 3:
        raise UserError(
            f"{name} has the shape {array.shape}; it is ({dimensions}), with red, green and blue "
            "last."
        )
    return array


def check_masks(given: Any) -> np.ndarray:
    """Class numbers of tiles, uint8 (n, h, w); a generator knows which there are."""
    return _array(given, "masks", np.uint8, "n h w", "class numbers")


def check_styles(
    given: Any, name: str, count: int, like: Sequence[np.ndarray] = ()
) -> list[np.ndarray]:
    """Style tiles of each of `count` layouts, uint8 (k, h, w, 3), from one group for all or one for
    each, as large as the tiles of `like`."""
    array = check_images(given, name, "k h w 3" if np.ndim(given) == 4 else "n k h w 3")
    if array.ndim == 5 and len(array) != count:
        raise UserError(
            f"There are {count} layouts, and {name} for {len(array)}; give one group of style "
            "tiles for all, or one for each layout."
        )
    groups = [array] * count if array.ndim == 4 else list(array)
    if like and groups[0].shape[1:] != like[0].shape[1:]:
        raise UserError(
            f"{name} has the shape {array.shape}; its tiles have to be as large as those of "
            f"styles, {like[0].shape[1]} x {like[0].shape[2]} pixels."
        )
    return groups


def check_latents(given: Any, channels: int) -> np.ndarray:
    """Latents, float32 (n, h, w, channels)."""
    array = _array(given, "latents", np.float32, "n h w c", "what encode gives")
    if array.shape[-1] != channels:
        raise UserError(
            f"latents has the shape {array.shape}; the latents of this run have {channels} channels"
            ", which come last."
        )
    if not np.isfinite(array).all():
        raise UserError("latents holds numbers that are not finite; give what encode gives.")
    return array


def check_mpp(mpp: Any) -> float:
    """Microns per pixel that a microscope can have."""
    if not isinstance(mpp, int | float | np.number) or not believable(float(mpp)):
        raise UserError(
            f"mpp={mpp!r} is no microscope's; give microns per pixel from {LEAST_MPP} to "
            f"{MOST_MPP:g}, such as 0.5."
        )
    return float(mpp)


def check_whole(given: Any, name: str) -> int:
    """A seed of random numbers, or the number of an image."""
    if not isinstance(given, int | np.integer) or not 0 <= given < 2**32:
        raise UserError(f"{name}={given!r} is no whole number from 0 to 4294967295.")
    return int(given)


def check_weight(mix: Any) -> float:
    """The weight of a second style."""
    if not isinstance(mix, int | float | np.number) or not 0 <= mix <= 1:
        raise UserError(f"mix={mix!r} is no weight of the second style; give 0 to 1.")
    return float(mix)


def check_sides(array: np.ndarray, name: str, factor: int) -> None:
    """Sides (dimensions 1 and 2) that the first stage can halve."""
    if array.shape[1] % factor or array.shape[2] % factor:
        raise UserError(
            f"{name} are {array.shape[1]} x {array.shape[2]} pixels; both have to be multiples of "
            f"{factor}, the factor of the first stage. Cut or pad them."
        )


def _array(given: Any, name: str, dtype: type, dimensions: str, what: str) -> np.ndarray:
    wanted = f"a numpy array of {np.dtype(dtype)} ({dimensions}) with {what}"
    if not isinstance(given, np.ndarray):
        raise UserError(f"{name} is a {type(given).__name__}; give {wanted}.")
    count = len(dimensions.split())
    if given.dtype != dtype or given.ndim != count or not given.size:
        raise UserError(f"{name} is {given.dtype} {given.shape}; give {wanted}.")
    return given
