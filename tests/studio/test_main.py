"""The command, as far as it goes without gradio."""

import socket
import sys

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import write_json
from stedm_jax.experiment.workdir import FORMAT
from stedm_jax.settings.flat import flatten
from stedm_jax.studio import __main__ as command
from stedm_jax.studio.easel import open_easel
from stedm_jax.studio.guards import POLICY, guards
from tests.experiment.settings import tiny


def test_without_the_extra_it_says_how_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install 'stedm_jax\[studio\]'"):
        command.main([f"--workdir={tmp_path}"])


def test_a_run_without_a_generator_is_refused(tmp_path):
    with pytest.raises(UserError, match="no workdir of a run"):
        open_easel(tmp_path)
    saved = flatten(tiny(tmp_path / "tiles")) | {"format": FORMAT}
    write_json(tmp_path / "config.json", saved)
    with pytest.raises(UserError, match="has no trained generator"):
        open_easel(tmp_path)
    with pytest.raises(UserError, match="has no trained generator 'other'"):
        open_easel(tmp_path, "other")


def test_a_taken_port_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="give another --port"):
            command.check_port(taken.getsockname()[1])
    for port in (-1, 99999):
        with pytest.raises(UserError, match="give another --port"):
            command.check_port(port)


def test_only_names_of_this_machine_are_answered():
    def answer(request):
        return PlainTextResponse("tiles")

    app = Starlette(routes=[Route("/", answer)], middleware=guards("127.0.0.1"))
    for name, status in (("127.0.0.1:7860", 200), ("localhost", 200), ("evil.example", 400)):
        found = TestClient(app, base_url=f"http://{name}").get("/")
        assert found.status_code == status
        assert (found.text == "tiles") == (status == 200)
    assert (
        TestClient(app, base_url="http://localhost").get("/").headers["content-security-policy"]
        == POLICY
    )
