"""Averages of the weights with another width than those of the tracks, after the training (EDM2's
power functions).

    python -m stedm_jax.ema WORKDIR/diffusion --sigma_rel=0.07 --out=FOLDER

combines the snapshots that a training with train.ema.tracks and train.ema.snapshot_every left, and
writes a folder that `init_from` and `synthesis.weights` of a configuration take. `synthesis.weights
= "ema:0.07"` does the same on the fly.
"""

import argparse
from pathlib import Path
from typing import Any

from stedm_jax.common.commands import run_command
from stedm_jax.common.errors import UserError


def main(argv: list[str]) -> None:
    """Parses the command line, combines and writes.

    Raises:
      UserError: for anything that the user can mend.
    """
    parser = argparse.ArgumentParser(
        prog="python -m stedm_jax.ema",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "stage", metavar="STAGE", type=Path, help="folder of a trained stage: runs/catch/diffusion"
    )
    parser.add_argument(
        "--sigma_rel", type=float, required=True, help="relative width, above 0 and below 0.2887"
    )
    parser.add_argument(
        "--step", type=int, default=None, help="of the snapshot where it ends; default: the last"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="where to write; must not exist yet, but for --force",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace what this command wrote there before"
    )
    arguments = parser.parse_args(argv)

    from stedm_jax.training.snapshots import Combined, combine
    from stedm_jax.training.weights_folder import (  # these bring numpy and JAX
        new_folder,
        write_params,
    )

    if not arguments.stage.is_dir():
        raise UserError(
            f"There is no folder {arguments.stage}; name a trained stage, as runs/catch/diffusion."
        )
    with new_folder(arguments.out, arguments.force) as folder:
        made: Combined = combine(arguments.stage, arguments.sigma_rel, arguments.step)
        info: dict[str, Any] = {
            "name": f"{arguments.stage.name} at step {made.step}, averaged with relative width {made.width:g}",
            "network": f"stage {arguments.stage.name} of stedm_jax",
            "source": str(arguments.stage),
            "step": made.step,
            "sigma_rel": made.width,
            "profile_error": made.error,
            "snapshots": made.snapshots,
            "snapshots_sha256": made.sha256,
        }
        write_params(folder, made.params, info)
    print(
        f"{arguments.out}: relative width {made.width:g} at step {made.step:,} from {made.snapshots} snapshots; its "
        f"profile is {made.error:.2%} off. Use it: init_from=('{arguments.out}',) or synthesis.weights={arguments.out}",
        flush=True,
    )


def cli() -> None:
    """Runs main and turns what a user can mend into one paragraph and an exit status."""
    run_command(main)


if __name__ == "__main__":
    cli()
