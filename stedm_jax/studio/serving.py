"""Serves the page, and keeps the browser from asking anyone else."""

import os
import tempfile

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stedm_jax.studio.dropped_images import MOST_BYTES
from stedm_jax.studio.easel import Easel
from stedm_jax.studio.page import CSS, make_page, theme

WAITING = 16
"""Computations that may wait in the queue."""
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:; "
    "frame-ancestors 'none'; form-action 'self'"
)
"""What the page may load: nothing that another server has."""


class OwnOnly:
    """Adds POLICY to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = (b"content-security-policy", POLICY.encode())
                message["headers"] = [*message.get("headers", ()), named]
            await send(message)

        await self.app(scope, receive, marked)


def serve(easel: Easel, host: str, port: int) -> None:
    """Serves the page until it is interrupted; what was uploaded and shown is deleted then.

    Args:
      easel: of the run.
      host, port: where.
    """
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
            app_kwargs={"middleware": [Middleware(OwnOnly)]},
            theme=theme(),
            css=CSS,
        )
