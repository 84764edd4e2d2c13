"""Measures how fast this system runs here, against the same network in plain PyTorch.

    python -m stedm_jax.bench --config=configs/catch.py --size=tiny
    python -m stedm_jax.bench --config=configs/catch.py --batch=8 --json=bench.json

Our program and its peers (PyTorch eager and compiled, with our weights, checked first to give the
same) run in turns, so that whatever else the machine does meets all alike; the least time of each
is compared. The peer is not part of the package: it is a module of the tests, so that comparing
takes a checkout of the project, from whose folder this is run, and torch. Without them only ours is
measured.

Parts:
  train    forward, backward, AdamW and moving average of the denoiser, given style vectors
  sampler  one step for a guided pair: the denoiser on twice the batch, guidance, the sampler's
           update
  task     the train step of stage generator from tiles, with the style encoder and the frozen
           autoencoder; ours alone
MFU is the share of what one large matrix product reaches here, in the same dtype, measured in the
same run; a step counts as three forward passes. On a CPU that others use too, look at the ratio by
processor time. Sizes come from the config (its first generator and set); compilation is not timed.
"""

import argparse
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from stedm_jax.common.commands import parse_with_keys, run_command
from stedm_jax.common.errors import UserError
from stedm_jax.settings.load import load_config, override, read_settings

PARTS = ("train", "sampler", "task")
PEERS = ("eager", "compile")
PEER_MODULE = "tests.bench.torch_peer"
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


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m stedm_jax.bench",
        description=__doc__,
        epilog="Any key of the configuration can be changed: --config.diffusion.unet.remat=True; "
        "--config.mesh.cpu_devices=2 --batch=2 makes a CPU two devices.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
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
    add("--peers", default="eager,compile", help="some of eager,compile, or none [%(default)s]")
    add("--peer_module", default=PEER_MODULE, help="the peer [%(default)s]")
    orders = {"choices": ("channels_last", "contiguous"), "default": "channels_last"}
    add("--memory_order", **orders, help="of the peer [%(default)s]")
    add("--cudnn_benchmark", action="store_true", help="the peer's cuDNN tries its algorithms")
    add("--json", default="", help="a file to write everything to")
    return parse_with_keys(parser, argv)


def _some_of(text: str, valid: tuple[str, ...], flag: str) -> list[str]:
    chosen = [each for each in text.split(",") if each]
    if not chosen or set(chosen) - set(valid):
        raise UserError(f"{flag}={text} is unknown; give some of {','.join(valid)}.")
    return chosen


def main(argv: list[str]) -> None:
    """Measures what the command line names and prints it.

    Raises:
      UserError: for anything that the user can repair.
    """
    arguments, overrides = _arguments(argv)
    config, _, _ = load_config(arguments.config)
    override(config, [*overrides, *(TINY if arguments.size == "tiny" else ())])
    settings = read_settings(config)
    what = _some_of(arguments.what, PARTS, "--what")
    kinds = [] if arguments.peers == "none" else _some_of(arguments.peers, PEERS, "--peers")
    if arguments.batch < 0 or arguments.seconds <= 0:
        flags = f"--batch={arguments.batch} and --seconds={arguments.seconds:g}"
        raise UserError(f"{flags} must be above 0.")
    folder = Path(arguments.json).absolute().parent
    if arguments.json and not folder.is_dir():
        raise UserError(f"--json={arguments.json}: there is no folder {folder}; make it first.")
    if importlib.util.find_spec("torch"):  # both share the memory of a GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

    import jax  # --help and a misspelled key need not wait for it

    from stedm_jax.bench.case import make_case
    from stedm_jax.bench.comparison import Bench

    if settings.mesh.cpu_devices:
        jax.config.update("jax_num_cpu_devices", settings.mesh.cpu_devices)
    case = make_case(settings, arguments.batch, arguments.dtype, arguments.device)
    make_peer, missing = None, "--peers=none"
    if kinds and {"train", "sampler"} & set(what):
        make_peer, missing = _peer(arguments, case)
    run(Bench(case, make_peer, kinds, arguments.seconds), what, missing, arguments.json)


def _peer(arguments: argparse.Namespace, case: Any) -> tuple[Any, str]:
    """What makes the peer from our weights, or None and why there is none."""
    name = arguments.peer_module
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        return None, (
            f"the peer {name} is not here ({error}); run this in the folder of a checkout, or name "
            "another module with --peer_module"
        )
    missing = module.why_not(case)
    options = arguments.memory_order, arguments.cudnn_benchmark
    return (None if missing else lambda params: module.TorchPeer(case, params, *options)), missing


def run(bench: Any, what: list[str], missing: str, json: str) -> None:
    """Measures the parts one after the other, printing each; `missing` says why there is no
    peer."""
    from stedm_jax.bench.results import OURS, Part, write_results

    machine = bench.machine()
    for name, value in machine.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    if missing and {"train", "sampler"} & set(what):
        print(f"only {OURS} is measured: {missing}")
    parts: list[Part] = []
    for name in PARTS:
        if name in what:
            parts.append(getattr(bench, name)())
            print(f"\n{parts[-1].text()}", flush=True)
    if json:
        write_results(json, machine, parts)
        print(f"\nwritten to {json}")


def cli() -> None:
    """Runs main; what a user can repair becomes one paragraph and exit status 2."""
    run_command(main)


if __name__ == "__main__":
    cli()
