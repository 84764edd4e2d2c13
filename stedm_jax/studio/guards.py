"""Keeps the page to this machine: whom it answers, and what its browser may load."""

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


def guards(host: str) -> list[Middleware]:
    """What stands before the page.

    A page of another server whose name resolves to this machine (DNS rebinding) would be asked for
    under that name; only the names of this machine are answered.

    Args:
      host: that the page is served at.
    """
    names = sorted({host, "127.0.0.1", "localhost"})
    return [Middleware(TrustedHostMiddleware, allowed_hosts=names), Middleware(OwnOnly)]
