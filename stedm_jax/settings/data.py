"""Keys of the tiles."""

from collections.abc import Iterator

from stedm_jax.settings.key import key, section
from stedm_jax.settings.training import share_problems


@section
class Data:
    """The tiles."""

    tiles: str = key(
        "", "a packed tile set, a folder or s3://..., gs://...; {workdir} stands for the workdir"
    )
    prepare: tuple[str, ...] = key((), "commands of data_prep that make it")
    missing: str = key(
        "", "where the data can be downloaded, and how they are prepared", changes=False
    )
    tile: int = key(512, "side of a tile in pixels", low=1)
    mpp: float = key(0.0, "microns per pixel; 0: whatever the tile set says", low=0)
    groups: tuple[tuple[str, tuple[str, ...]], ...] = key(
        (), "(name, (classes...)) pairs; (): the classes of the tile set"
    )
    foreground: tuple[str, ...] = key((), "classes (after grouping) that the scores are about")
    shares: tuple[tuple[str, float], ...] = key(
        (), "of training tiles: (kind, share) pairs; a kind is a class, foreground, glass or rest"
    )
    uniform: str = key(
        "tile",
        "what is drawn equally often within a share",
        choices=("tile", "slide", "patient"),
    )
    shift: int = key(
        0, "most pixels that training moves a real tile, into the margin packed with it", low=0
    )
    rotate: bool = key(
        False, "turns real tiles by any angle, not only quarter turns; needs a margin of 0.21 tiles"
    )
    threads: int = key(8, "threads that read and decode", low=1, changes=False)
    cache_mb: int = key(2048, "decoded tiles kept in memory, in MB", low=0, changes=False)
    max_damaged: int = key(
        0, "unreadable records that are skipped before a run stops", low=0, changes=False
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
