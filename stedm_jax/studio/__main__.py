"""A page in the browser on which layouts are painted and become tiles.

    python -m stedm_jax.studio --workdir=RUN [--generator=NAME] [--arm=ARM] [--port=7860]

It needs what the extra installs: pip install -e '.[studio]'. It is served to this machine only, at
http://127.0.0.1:PORT, and asks nothing of the internet. Ctrl-C ends it. docs/studio.md describes
the page.
"""

import argparse
import os
import socket
import time
from pathlib import Path

from stedm_jax.common.commands import command_parser, run_command
from stedm_jax.common.errors import UserError

HOST = "127.0.0.1"
SILENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}
"""Environment variables by which gradio and what it imports keep to themselves."""


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("stedm_jax.studio", *(__doc__ or "").split("\n\n", 1))
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="of a run with a trained generator")
    add("--generator", default="", help="of the run (the first that takes a style)")
    add("--arm", default="", help="whose segmenter looks at the tiles (the first that is trained)")
    add("--port", type=int, default=7860, help="of the page (7860)")
    return parser.parse_args(argv)


def check_port(port: int) -> None:
    """Refuses a port that something else listens on.

    Raises:
      UserError: names it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"Port {port} cannot be used ({error}); give another --port."
            ) from error


def main(argv: list[str]) -> None:
    """Opens the run, compiles, and serves the page until it is ended.

    Raises:
      UserError: the extra is not installed, the port is taken, or the run cannot be used.
    """
    args = _arguments(argv)
    os.environ.update(SILENT)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(
            "The studio needs gradio, which is not installed; run pip install 'stedm_jax[studio]', "
            "or pip install -e '.[studio]' in a clone."
        ) from error

    # These import jax and gradio, which --help need not wait for.
    from stedm_jax.studio.easel import open_easel
    from stedm_jax.studio.serving import serve

    check_port(args.port)
    easel = open_easel(args.workdir, args.generator, args.arm)
    print("Compiling, once; the next start with this workdir is faster.", flush=True)
    began = time.monotonic()
    easel.warm_up()
    print(f"Compiled in {time.monotonic() - began:.0f} s.", flush=True)
    serve(easel, HOST, args.port)


if __name__ == "__main__":
    run_command(main)
