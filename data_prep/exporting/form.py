"""What a form of an export is."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from data_prep.exporting.exported import Item, Whole


@runtime_checkable
class Form(Protocol):
    """Where tiles go, and what describes them."""

    about: str
    """For the card: what lies where."""

    def place(self, item: Item) -> tuple[str, str] | None:
        """Files of the image and the mask, below the folder; None: it has no use for the tile."""
        ...

    def write(self, folder: Path, item: Item, whole: Whole) -> Any:
        """Writes a tile; called from any thread. What it returns goes to `add`."""
        ...

    def add(self, item: Item, found: Any) -> None:
        """Takes in what `write` returned, tile by tile, in order."""
        ...

    def finish(self, folder: Path, items: list[Item]) -> None:
        """Writes what describes all tiles."""
        ...
