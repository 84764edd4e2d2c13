"""What an export says of itself: the card of the data set, and a table of its tiles."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from data_prep.csv_file import write_csv
from data_prep.exporting.exported import Exported, Item, Whole
from data_prep.exporting.form import Form
from data_prep.inspection.counts import count_by
from stedm_jax.common.files import write_text
from stedm_jax.common.text import table
from stedm_jax.data.index import INDEX_COLUMNS
from stedm_jax.data.schema import SYNTHETIC

UNKNOWN = "not stated; that of the images that the tiles were cut from holds"


class Rows:
    """A row of tiles.csv for each tile: all of the index, tags and provenance."""

    def __init__(self, exported: Exported, form: Form):
        self.exported, self.form = exported, form
        self._rows: list[dict[str, Any]] = []

    def add(self, item: Item, whole: Whole) -> None:
        """Takes in a tile that was written."""
        image, mask = self.form.place(item) or ("", "")
        row = {"image": image, "mask": mask, "tiles": item.tiles.manifest["name"]}
        row |= {name: getattr(item.row, name) for name in INDEX_COLUMNS[:-1]}
        counts = zip(self.exported.classes, item.row.pixels, strict=True)
        row |= {f"pixels {spec.name}": count for spec, count in counts}
        row |= {f"tag {name}": text for name, text in whole.tags.items()}
        self._rows.append(row | {f"made {name}": text for name, text in whole.provenance.items()})

    def write(self, path: Path) -> None:
        """Writes the table; a column that some tiles lack is empty there."""
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        write_csv(path, [columns, *([row.get(name, "") for name in columns] for row in self._rows)])


def write_card(
    path: Path, title: str, exported: Exported, items: Sequence[Item], rows: Rows, license: str
) -> None:
    """Writes the card, in Markdown.

    Args:
      items: the tiles that were written. rows: of them.
      license: of the images; "": it is not known.
    """
    counts = count_by((item.row for item in items), lambda row: (row.split,), _classes(exported))
    people = count_by(
        (item.row for item in items), lambda row: (row.split, row.patient), _classes(exported)
    )
    area = {item.row.split: item.pixels for item in items}
    names = [spec.name for spec in exported.classes]
    head = ["tiles", "labeled", *names]
    by_split = [
        [split, c.patients, c.slides, c.tiles, *c.shares(area[split])]
        for (split,), c in counts.items()
    ]
    by_patient = [
        [split, patient, c.slides, c.tiles, *c.shares(area[split])]
        for (split, patient), c in people.items()
    ]
    environment = Environment(
        loader=PackageLoader("data_prep.exporting"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("set_card.md").render(
        title=title,
        license=license or UNKNOWN,
        about=rows.form.about,
        sets=exported.sets,
        classes=exported.classes,
        synthetic=any(item.row.split == SYNTHETIC for item in items),
        lossy=[tiles for tiles in exported.sets if tiles.manifest["codec"] != "png"],
        by_split=table([["split", "patients", "slides", *head], *by_split]),
        by_patient=table([["split", "patient", "slides", *head], *by_patient], words=2),
        left_out=len(exported.items) - len(items),
    )
    write_text(path, text)


def _classes(exported: Exported) -> int:
    return len(exported.classes)
