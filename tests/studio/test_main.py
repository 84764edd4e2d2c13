"""The command, as far as it goes without gradio."""

import socket
import sys

import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.studio import __main__ as command


def test_without_the_extra_it_says_how_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install 'stedm_jax\[studio\]'"):
        command.main([f"--workdir={tmp_path}"])


def test_a_taken_port_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="give another --port"):
            command.check_port(taken.getsockname()[1])
    for port in (-1, 99999):
        with pytest.raises(UserError, match="give another --port"):
            command.check_port(port)
