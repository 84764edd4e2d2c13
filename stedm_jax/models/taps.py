"""Names and shapes of the UNet's blocks, for those who read features out of it.

A tap is called after the block whose output it is: `input_blocks/3`, `middle_block`,
  `output_blocks/5`.
"""

from collections.abc import Sequence

from stedm_jax.common.errors import UserError


def tap_shapes(
    base: int, multipliers: Sequence[int], res_blocks: int, size: tuple[int, int]
) -> dict[str, tuple[int, int, int]]:
    """Tap -> (height, width, channels), in the order in which the blocks run.

    Args:
        base, multipliers, res_blocks: of the UNet. size: height and width of its input.
    """
    last, (h, w) = len(multipliers) - 1, size
    shapes = [(h, w, base)]
    for depth, multiplier in enumerate(multipliers):
        shapes += [(h, w, base * multiplier)] * res_blocks
        if depth < last:
            h, w = -(-h // 2), -(-w // 2)
            shapes.append((h, w, base * multiplier))
    out = {f"input_blocks/{i}": shape for i, shape in enumerate(shapes)}
    out["middle_block"] = shapes[-1]
    for depth, multiplier in reversed(list(enumerate(multipliers))):
        for i in range(res_blocks + 1):
            if depth > 0 and i == res_blocks:
                h, w = 2 * h, 2 * w
            out[f"output_blocks/{(last - depth) * (res_blocks + 1) + i}"] = (
                h,
                w,
                base * multiplier,
            )
    return out


def tap_names(levels: int, res_blocks: int) -> tuple[str, ...]:
    """All taps of a UNet, in the order in which its blocks run."""
    return tuple(tap_shapes(1, (1,) * levels, res_blocks, (1, 1)))


def check_taps(taps: Sequence[str], names: Sequence[str]) -> None:
    """Raises a UserError that lists the valid names if one of `taps` is not among them."""
    unknown = [tap for tap in taps if tap not in names]
    if unknown:
        raise UserError(
            f"The denoiser has no block called {', '.join(map(repr, unknown))}. Take features from one or more of: "
            f"{', '.join(names)}."
        )
