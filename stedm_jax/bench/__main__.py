"""Measures how fast this system runs here.

    python -m stedm_jax.bench --config=configs/catch.py --size=tiny
    python -m stedm_jax.bench --config=configs/catch.py --batch=8 --json=bench.json

Parts:
  train    forward, backward, AdamW and moving average of the denoiser, given style vectors
  sampler  one step for a guided pair: the denoiser on twice the batch, guidance, the sampler's
           update
  task     the train step of stage generator from tiles, with the style encoder and the frozen
           autoencoder
MFU is the share of what one large matrix product reaches here, in the same dtype, measured in the
same run; a step counts as three forward passes. Sizes come from the config (its first generator and
set); compilation is not timed. In a checkout, python -m tests.bench.compare measures the same
network in PyTorch beside ours, with the same options and some of its own.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stedm_jax.common.commands import command_parser, parse_with_keys, run_command
from stedm_jax.common.errors import UserError
from stedm_jax.settings.load import load_config, override, read_settings

if TYPE_CHECKING:
    from stedm_jax.bench.case import Case
    from stedm_jax.bench.results import Part

PARTS = ("train", "sampler", "task")
TINY = (
    "data.tile=64",
    "autoencoder.crop=0",
    "autoencoder.model.channels=16",
    "autoencoder.model.multipliers=(1, 2, 2)",
    "autoencoder.model.res_blocks=1",
    "autoencoder.model.codes=16",
    "diffusion.unet.base=32",
    "diffusion.unet.multipliers=(1, 2)",
    "diffusion.unet.res_blocks=1",
    "diffusion.unet.heads=4",
    "diffusion.style.encoder=conv",
    "diffusion.style.weights=",
    "diffusion.style.width=8",
    "diffusion.style.dim=32",
    "diffusion.style.tiles=2",
    "segmentation.border=0",
    "segmentation.border_scored=-1",
)
"""Overrides for the same kind of network, small enough to be compiled in seconds."""


def make_parser(prog: str, about: str | None) -> argparse.ArgumentParser:
    """The options of a bench."""
    parser = command_parser(
        prog,
        about,
        "Any key of the configuration can be changed: --config.diffusion.unet.remat=True; "
        "--config.mesh.cpu_devices=2 --batch=2 makes a CPU two devices.",
    )
    add = parser.add_argument
    add("--config", default="configs/catch.py", help="a file of configs/ [%(default)s]")
    add("--size", choices=("full", "tiny"), default="full", help="full is that of the config")
    add("--batch", type=int, default=0, help="images a step [1 on a CPU, 8 on an accelerator]")
    add("--device", default="", help="cpu, gpu or tpu [what JAX takes]")
    types = {"choices": ("float32", "bfloat16"), "default": ""}
    add("--dtype", **types, help="[float32 on a CPU, else bfloat16 with float32 parameters]")
    parts = ",".join(PARTS)
    add("--what", default="train,sampler", help=f"some of {parts} [%(default)s]")
    add("--seconds", type=float, default=30.0, help="to time each part; at least three rounds")
    add("--json", default="", help="a file to write everything to")
    return parser


def some_of(text: str, valid: Sequence[str], flag: str) -> list[str]:
    """The words of an option, in the order of those that are valid.

    Raises:
      UserError: none, or another one.
    """
    chosen = [each for each in text.split(",") if each]
    if not chosen or set(chosen) - set(valid):
        raise UserError(f"{flag}={text} is unknown; give some of {','.join(valid)}.")
    return [each for each in valid if each in chosen]


def read_case(arguments: argparse.Namespace, overrides: list[str]) -> "tuple[Case, list[str]]":
    """What is to be measured, and its parts.

    Raises:
      UserError: for anything that the user can repair.
    """
    config, _, _ = load_config(arguments.config)
    override(config, [*overrides, *(TINY if arguments.size == "tiny" else ())])
    settings = read_settings(config)
    what = some_of(arguments.what, PARTS, "--what")
    if arguments.batch < 0 or arguments.seconds <= 0:
        flags = f"--batch={arguments.batch} and --seconds={arguments.seconds:g}"
        raise UserError(f"{flags} must be above 0.")
    folder = Path(arguments.json).absolute().parent
    if arguments.json and not folder.is_dir():
        raise UserError(f"--json={arguments.json}: there is no folder {folder}; make it first.")
    import jax  # --help and a misspelled key need not wait for it

    from stedm_jax.bench.case import make_case

    if settings.mesh.cpu_devices:
        jax.config.update("jax_num_cpu_devices", settings.mesh.cpu_devices)
    return make_case(settings, arguments.batch, arguments.dtype, arguments.device), what


def show(
    machine: dict[str, Any], what: Sequence[str], measure: "Callable[[str], Part]", json: str
) -> None:
    """Measures the parts one after the other, printing each."""
    from stedm_jax.bench.results import write_results

    for name, value in machine.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    parts = []
    for name in what:
        parts.append(measure(name))
        print(f"\n{parts[-1].text()}", flush=True)
    if json:
        write_results(json, machine, parts)
        print(f"\nwritten to {json}")


def main(argv: list[str]) -> None:
    """Measures what the command line names and prints it.

    Raises:
      UserError: for anything that the user can repair.
    """
    arguments, overrides = parse_with_keys(make_parser("stedm_jax.bench", __doc__), argv)
    case, what = read_case(arguments, overrides)
    from stedm_jax.bench.own_speed import machine, measure, measure_ceiling

    reached = measure_ceiling(case)
    own = lambda name: measure(case, name, arguments.seconds, reached)  # noqa: E731
    show(machine(case, reached), what, own, arguments.json)


def cli() -> None:
    """Runs main; what a user can repair becomes one paragraph and exit status 2."""
    run_command(main)


if __name__ == "__main__":
    cli()
