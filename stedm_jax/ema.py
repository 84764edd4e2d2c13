"""Averages of the weights with another width than those of the tracks, after the training (EDM2's
power functions).

    python -m stedm_jax.ema WORKDIR/generator/stedm --sigma_rel=0.07 --out=FOLDER

combines the snapshots that a training with train.ema.tracks and train.ema.snapshot_every left, and
writes a folder that `init_from` and `synthesis.weights` of a configuration take. `synthesis.weights
= "ema:0.07"` does the same on the fly.
"""

from pathlib import Path

from stedm_jax.common.commands import command_parser, run_command
from stedm_jax.common.errors import UserError

EXAMPLE = "runs/catch/generator/stedm"


def main(argv: list[str]) -> None:
    """Parses the command line, combines and writes.

    Raises:
      UserError: for anything that the user can repair.
    """
    parser = command_parser("stedm_jax.ema", __doc__)
    add = parser.add_argument
    add("trained", metavar="FOLDER", type=Path, help=f"of a training: {EXAMPLE}")
    add("--sigma_rel", type=float, required=True, help="relative width, between 0 and 0.2887")
    add("--step", type=int, default=None, help="the snapshot where it ends [the last]")
    add("--out", type=Path, required=True, help="where to write; a folder that does not exist")
    add("--force", action="store_true", help="replace what this command wrote there before")
    arguments = parser.parse_args(argv)

    from stedm_jax.training.snapshots import combine  # these bring numpy and JAX
    from stedm_jax.training.weights_folder import new_folder, write_params

    trained: Path = arguments.trained
    if not trained.is_dir():
        raise UserError(f"There is no folder {trained}; name that of a training: {EXAMPLE}.")
    with new_folder(arguments.out, arguments.force) as folder:
        made = combine(trained, arguments.sigma_rel, arguments.step)
        name = "/".join(trained.absolute().parts[-2:])
        info = {
            "name": f"{name} at step {made.step}, averaged with relative width {made.width:g}",
            "network": f"{name} of stedm_jax",
            "source": str(trained),
            "step": made.step,
            "sigma_rel": made.width,
            "profile_error": made.error,
            "snapshots": made.snapshots,
            "snapshots_sha256": made.sha256,
        }
        write_params(folder, made.params, info)
    print(
        f"{arguments.out}: relative width {made.width:g} at step {made.step:,} from "
        f"{made.snapshots} snapshots; its profile is {made.error:.2%} off. Use it: "
        f"init_from=('{arguments.out}',) or synthesis.weights={arguments.out}",
        flush=True,
    )


def cli() -> None:
    """Runs main; what a user can repair becomes one paragraph and an exit status."""
    run_command(main)


if __name__ == "__main__":
    cli()
