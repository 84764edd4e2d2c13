"""Keys of the tiles."""

from collections.abc import Iterator

from stedm_jax.settings.key import Pairs, Texts, key, nonnegative, positive, section
from stedm_jax.settings.training import share_problems


@section
class Data:
    """The tiles."""

    tiles: str = key(
        "", "a packed tile set, a folder or s3://..., gs://...; {workdir} stands for the workdir"
    )
    prepare: Texts = key((), "commands of data_prep that make it")
    missing: str = key(
        "", "where the data can be downloaded, and how they are prepared", changes=False
    )
    tile: int = positive(512, "side of a tile in pixels")
    mpp: float = nonnegative(0.0, "microns per pixel; 0: whatever the tile set says")
    groups: tuple[tuple[str, Texts], ...] = key(
        (), "(name, (classes...)) pairs; (): the classes of the tile set"
    )
    foreground: Texts = key((), "classes (after grouping) that the scores are about")
    shares: Pairs = key(
        (), "of training tiles: (kind, share) pairs; a kind is a class, foreground, glass or rest"
    )
    uniform: str = key(
        "tile",
        "what is drawn equally often within a share",
        choices=("tile", "slide", "patient"),
    )
    shift: int = nonnegative(
        0, "most pixels that training moves a real tile, into the margin packed with it"
    )
    rotate: bool = key(
        False, "turns real tiles by any angle, not only quarter turns; needs a margin of 0.21 tiles"
    )
    threads: int = positive(8, "threads that read and decode", changes=False)
    cache_mb: int = nonnegative(2048, "decoded tiles kept in memory, in MB", changes=False)
    max_damaged: int = nonnegative(
        0, "unreadable records that are skipped before a run stops", changes=False
    )

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        yield from share_problems(f"{where}.shares", self.shares)
        for command in self.prepare:
            if not command.startswith("data_prep."):
                yield (
                    f"{where}.prepare names '{command.split(' ')[0]}'; only commands of data_prep "
                    "can stand there."
                )
