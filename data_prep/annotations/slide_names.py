"""Which of the names in a file means a slide."""

from pathlib import Path

from data_prep.spelling import base_stem, nfc, stem
from stedm_jax.common.errors import UserError


def same_slide(listed: str, slide: str) -> int:
    """How surely a name in a file means a slide: 2 by file name, 1 by name without the suffix, 0
    not at all.

    Where both have folders, the last folders must be equal, as many as the name with fewer has.
    """
    (*above, listed), (*folders, slide) = (
        nfc(text).replace("\\", "/").split("/") for text in (listed, slide)
    )
    common = min(len(above), len(folders))
    if common and above[-common:] != folders[-common:]:
        return 0
    if listed == slide:
        return 2
    return int(bool(listed) and stem(listed) == stem(slide))


def pick_slide(listed: list[str], slide: str, path: Path) -> int:
    """Position of a slide in a file's list of slides.

    A file that lists a single slide and is named after this one means it.

    Raises:
      UserError: the file does not list it, or more than once.
    """
    for sureness in (2, 1):
        found = [i for i, name in enumerate(listed) if same_slide(name, slide) == sureness]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"The annotation {path} lists the slide {slide} {len(found)} times; give each "
                "slide a name of its own."
            )
    own = base_stem(slide)
    if len(listed) == 1 and path.name.startswith(own) and base_stem(listed[0]) != own:
        return 0  # the slide was renamed after it was annotated
    some = ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
    raise UserError(
        f"The annotation {path} does not list the slide {slide}; it lists {some or 'none'}."
    )
