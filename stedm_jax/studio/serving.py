"""Serves the page."""

import os
import signal
import tempfile

from stedm_jax.studio.dropped_images import MOST_BYTES
from stedm_jax.studio.easel import Easel
from stedm_jax.studio.guards import guards
from stedm_jax.studio.page import CSS, make_page, theme

WAITING = 16
"""Computations that may wait in the queue."""


def serve(easel: Easel, host: str, port: int) -> None:
    """Serves the page until it is interrupted; what was uploaded and shown is deleted then.

    Args:
      easel: of the run.
      host, port: where.
    """
    for ending in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C, so that the folder goes
        signal.signal(ending, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="stedm_studio_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = make_page(easel, folder)
        page.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)
        print(f"The studio is at http://{host}:{port}; Ctrl-C ends it.", flush=True)
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            allowed_paths=[],
            max_file_size=MOST_BYTES,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            app_kwargs={"middleware": guards(host)},
            theme=theme(),
            css=CSS,
        )
