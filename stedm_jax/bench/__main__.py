"""Measures how fast this system runs here, against the same network in plain PyTorch where torch is
installed.

    python -m stedm_jax.bench --config=configs/catch.py --size=tiny
    python -m stedm_jax.bench --config=configs/catch.py --batch=8 --json=bench.json

Our program and its peers (PyTorch eager and compiled, with our weights, checked first to give the
same) run in turns, so that whatever else the machine does meets all alike; the least time of each
is compared. Parts:
  train    forward, backward, AdamW and moving average of the denoiser, given style vectors
  sampler  one step for a guided pair: the denoiser on twice the batch, guidance, the sampler's
    update
  task     the train step of stage diffusion from tiles, with the style encoder and the frozen
  autoencoder; ours alone loader   batches of made-up tiles from a temporary folder, against what
  the train step eats
MFU is the share of what one large matrix product reaches here, in the same dtype, measured in the
same run; a step counts as three forward passes. On a CPU that others use too, look at the ratio by
processor time. Without torch only ours is measured. Sizes come from the config; compilation is not
timed.
"""

import argparse
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from stedm_jax.common.commands import run_command
from stedm_jax.common.errors import UserError
from stedm_jax.settings.load import load_config, override, read_settings

WHAT = ("train", "sampler", "task", "loader")


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m stedm_jax.bench",
        description=__doc__,
        epilog="Any key of the configuration can be changed: --config.diffusion.unet.remat=True; "
        "--config.mesh.cpu_devices=2 --batch=2 makes a CPU two devices.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", default="configs/catch.py", help="a file of configs/; default: %(default)s"
    )
    parser.add_argument(
        "--size", default="full", help="full, as the config says, or tiny; default: %(default)s"
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=0,
        help="images a step; default: 1 for a CPU, 8 for an accelerator",
    )
    parser.add_argument("--device", default="", help="cpu, gpu or tpu; default: what JAX takes")
    parser.add_argument(
        "--dtype",
        default="",
        help="default: float32 on a CPU, else bfloat16 with float32 parameters",
    )
    parser.add_argument(
        "--what",
        default="train,sampler,loader",
        help=f"some of {','.join(WHAT)}; default: %(default)s",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        help="to time each part; at least three rounds are made",
    )
    parser.add_argument(
        "--peers",
        default="eager,compile",
        help="some of eager,compile, or none; default: %(default)s",
    )
    parser.add_argument(
        "--memory_order", default="channels_last", help="of the peer, or contiguous"
    )
    parser.add_argument(
        "--cudnn_benchmark", action="store_true", help="lets the peer's cuDNN try its algorithms"
    )
    parser.add_argument("--json", default="", help="a file to write everything to")
    known, rest = parser.parse_known_args(argv)
    stray = [word for word in rest if not word.startswith("--config.")]
    if stray:
        parser.error(f"unknown arguments: {' '.join(stray)}")
    return known, [word.removeprefix("--config.") for word in rest]


def _some_of(text: str, valid: tuple[str, ...], flag: str) -> list[str]:
    chosen = [each for each in text.split(",") if each]
    if not chosen or set(chosen) - set(valid):
        raise UserError(f"{flag}={text} is unknown; give some of {','.join(valid)}.")
    return chosen


def _config(arguments: argparse.Namespace, overrides: list[str]) -> Any:
    config, _, _ = load_config(arguments.config)
    override(config, overrides)
    read_settings(config)
    return config


def main(argv: list[str]) -> None:
    """Measures what the command line names and prints it.

    Raises:
      UserError: for anything that the user can mend.
    """
    arguments, overrides = _arguments(argv)
    config = _config(arguments, overrides)
    what = _some_of(arguments.what, WHAT, "--what")
    kinds = (
        []
        if arguments.peers == "none"
        else _some_of(arguments.peers, ("eager", "compile"), "--peers")
    )
    if arguments.batch < 0 or arguments.seconds <= 0:
        raise UserError(
            f"--batch={arguments.batch} and --seconds={arguments.seconds:g} must be above 0."
        )
    if arguments.json and not Path(arguments.json).absolute().parent.is_dir():
        raise UserError(
            f"--json={arguments.json}: there is no folder {Path(arguments.json).parent}; make it first."
        )
    if importlib.util.find_spec("torch"):  # both share the memory of a GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

    import jax  # --help and a misspelled key need not wait for it

    from stedm_jax.bench import torch_peer
    from stedm_jax.bench.case import make_case
    from stedm_jax.bench.measure import Bench

    if config.mesh.cpu_devices:
        jax.config.update("jax_num_cpu_devices", config.mesh.cpu_devices)
    case = make_case(config, arguments.size, arguments.batch, arguments.dtype, arguments.device)
    missing = torch_peer.why_not(case) if kinds else "--peers=none"
    against = not missing and {"train", "sampler"} & set(what)
    peer = lambda params: torch_peer.TorchPeer(  # noqa: E731
        case, params, arguments.memory_order, arguments.cudnn_benchmark
    )
    bench = Bench(case, peer if against else None, kinds, arguments.seconds)
    run(bench, what, missing, arguments.json)


def run(bench: Any, what: list[str], missing: str, json: str) -> None:
    """Measures the parts one after the other, printing each; `missing` says why there is no
    peer."""
    from stedm_jax.bench.report import OURS, Part, loader_text, write_json

    machine = bench.machine()
    for name, value in machine.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    if missing and {"train", "sampler"} & set(what):
        print(f"only {OURS} is measured: {missing}")
    parts: dict[str, Part] = {}
    for name in ("train", "sampler", "task"):
        if name in what:
            parts[name] = getattr(bench, name)()
            print(f"\n{parts[name].text()}", flush=True)
    found: dict[str, Any] = {}
    if "loader" in what:
        eats = next(
            (parts[name].rows[0].images for name in ("task", "train") if name in parts), None
        )
        found = bench.loader(eats)
        print(f"\n{loader_text(found)}")
    if json:
        write_json(json, machine, list(parts.values()), found)
        print(f"\nwritten to {json}")


def cli() -> None:
    """Runs main; what a user can mend becomes one paragraph and exit status 2."""
    run_command(main)


if __name__ == "__main__":
    cli()
