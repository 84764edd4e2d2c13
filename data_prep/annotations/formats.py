"""All formats of annotations. A format is one module with a FORMAT, and its name in MODULES."""

from importlib import import_module

from data_prep.annotations.content import Content, Format

MODULES = (
    "geojson",
    "imagescope",
    "asap",
    "histomics",
    "coco",
    "sliderunner",
    "exact",
    "label_mask",
)
FORMATS: tuple[Format, ...] = tuple(
    import_module(f"data_prep.annotations.{name}").FORMAT for name in MODULES
)
KNOWN = ", ".join(each.name for each in FORMATS)


def format_of(content: Content) -> Format | None:
    """The format of a file by its content, whatever its name; None if it is none of them.

    Raises:
      ValueError, RecursionError: the file is damaged.
    """
    if not content.head and not content.text():
        raise ValueError("it is empty")
    return next((each for each in FORMATS if each.sniff(content)), None)
