"""Tags of slides, such as subtype or grade, and which style patients go with a layout by them."""

from collections.abc import Iterable, Mapping, Sequence

from stedm_jax.common.errors import UserError
from stedm_jax.common.text import nearest
from stedm_jax.data.index import IndexRow
from stedm_jax.experiment.context import Context


def slide_tags(
    context: Context, rows: Iterable[IndexRow]
) -> dict[tuple[str, str], Mapping[str, str]]:
    """(Patient, slide) of each tile -> the tags of the first tile of that slide, which alone is
    read."""
    tiles, first = context.packed_tiles, dict[tuple[str, str], IndexRow]()
    for row in rows:
        first.setdefault((row.patient, row.slide), row)
    return {slide: tiles.read(row.split, row.record).tags for slide, row in first.items()}


class Partners:
    """The style patients whose slides have the value of a tag that the layout's slide has.

    Args:
      context: of the run.
      tag: name of the tag.
      layouts: tiles whose masks are the layouts. styles: tiles that lend their style.
      patients: of `styles`, in the order in which they take turns.

    Raises:
      UserError: no slide has that tag, or a layout has no partner.
    """

    def __init__(
        self,
        context: Context,
        tag: str,
        layouts: Sequence[IndexRow],
        styles: Sequence[IndexRow],
        patients: Sequence[str],
    ):
        own, others = slide_tags(context, layouts), slide_tags(context, styles)
        known = sorted({key for tags in (*own.values(), *others.values()) for key in tags})
        if tag not in known:
            raise UserError(
                f"config.synthesis.pair_by is '{tag}', and no slide has that tag; the tags are: "
                f"{', '.join(known) or 'none'}.{nearest(tag, known)}"
            )
        self.values = {slide: tags.get(tag, "") for slide, tags in own.items()}
        theirs = {(who, tags.get(tag, "")) for (who, _), tags in others.items()}
        self.patients = {
            value: [who for who in patients if (who, value) in theirs]
            for value in sorted({*self.values.values()})
        }
        lonely = [value for value, found in self.patients.items() if not found]
        if lonely:
            there = sorted({value for _, value in theirs})
            count = sum(self.values[row.patient, row.slide] in lonely for row in layouts)
            raise UserError(
                f"config.synthesis.pair_by is '{tag}', but no style patient has its value "
                f"{', '.join(map(repr, lonely))}, which {count} of {len(layouts)} layouts have; "
                f"style patients have {', '.join(map(repr, there))}. Pack style slides with that "
                "value, leave these layouts out of the split, or set pair_by=''."
            )

    def of(self, layout: IndexRow) -> list[str]:
        """Those of a layout."""
        return self.patients[self.values[layout.patient, layout.slide]]
