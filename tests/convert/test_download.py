"""Downloads: from a server on this machine, with right and wrong checksums, cut off and absent."""

import dataclasses
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.convert import __main__ as command
from stedm_jax.convert.download import download
from stedm_jax.convert.from_published import unknown_files
from stedm_jax.convert.registry import ENTRIES, Entry, entry

CONTENT = bytes(range(256)) * 5000  # more than one piece
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """/whole is the file, /cut ends in its middle, /late after the header; anything else is not
    there."""

    def do_GET(self) -> None:
        length = {"/whole": len(CONTENT), "/cut": len(CONTENT) // 2, "/late": 0}.get(self.path)
        if length is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:length])
        return None

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of a server on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    here = f"http://127.0.0.1:{server.server_port}"
    yield here
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def asked(server, monkeypatch) -> list[str]:
    """The addresses that were asked for; our server answers instead."""
    urls = []

    def answer(url: str, timeout: int) -> Any:
        urls.append(url)
        return urlopen(re.sub("https://.*/", f"{server}/", url), timeout=timeout)

    monkeypatch.setattr("urllib.request.urlopen", answer)
    return urls


def known(what: str, digest: str = DIGEST) -> Entry:
    urls, sha256 = {"a.bin": f"https://example.org/{what}"}, {"a.bin": digest}
    return dataclasses.replace(entry("taef2"), sha256=sha256, urls=urls)


@pytest.mark.parametrize("digits", (64, 8))
def test_a_file_with_the_right_checksum_gets_its_name(tmp_path, asked, digits):
    out = tmp_path / "new" / "a.bin"
    assert download(known("whole", DIGEST[:digits]), out) == [out]
    assert out.read_bytes() == CONTENT and list(out.parent.iterdir()) == [out]


def test_several_files_go_into_a_folder(tmp_path, asked):
    names = ("a.bin", "b.bin")
    several = dataclasses.replace(
        known("whole"),
        sha256=dict.fromkeys(names, DIGEST),
        urls=dict.fromkeys(names, "https://example.org/whole"),
    )
    assert download(several, tmp_path / "o") == [tmp_path / "o" / name for name in names]


@pytest.mark.parametrize(
    "what, digest, part",
    (
        ("whole", "0" * 64, "another file"),
        ("whole", "0" * 8, "another file"),
        ("cut", DIGEST, "broke off after"),
        ("late", DIGEST, "broke off after 0"),
        ("absent", DIGEST, "404"),
    ),
)
def test_anything_else_leaves_nothing(tmp_path, asked, what, digest, part):
    with pytest.raises(UserError, match=part):
        download(known(what, digest), tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays_until_the_new_file_is_whole(tmp_path, asked):
    out = tmp_path / "a.bin"
    out.write_bytes(b"mine")
    with pytest.raises(UserError, match="exists"):
        download(known("whole"), out)
    with pytest.raises(UserError, match="broke off"):
        download(known("cut"), out, force=True)
    assert out.read_bytes() == b"mine"
    download(known("whole"), out, force=True)
    assert out.read_bytes() == CONTENT


def test_the_command(tmp_path, asked, monkeypatch, capsys):
    """Asks for the file of an entry at the address in the registry."""
    with pytest.raises(UserError, match="resnet18-f37072fd.pth could not be fetched .*404"):
        command.main(["download", "resnet18-imagenet", f"--out={tmp_path / 'r.pth'}"])
    assert asked == ["https://download.pytorch.org/models/resnet18-f37072fd.pth"]
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("stedm_jax.convert.__main__.entry", lambda name: known("whole"))
    command.main(["download", "resnet18-imagenet", f"--out={tmp_path / 'r.pth'}"])
    assert "next: python -m stedm_jax.convert resnet18-imagenet" in capsys.readouterr().out
    assert (tmp_path / "r.pth").read_bytes() == CONTENT


def test_what_can_be_had_and_what_is_refused(tmp_path, asked):
    """Never asks the network for what has no checksum."""
    ready = {name for name, each in ENTRIES.items() if each.urls}
    assert ready == {
        "hipt-vit256",
        "swin-v2-t-imagenet",
        "resnet18-imagenet",
        "resnet34-imagenet",
        "resnet50-imagenet",
        "vgg16-imagenet",
    }
    for name, each in ENTRIES.items():
        if name not in ready:
            with pytest.raises(UserError) as caught:
                download(each, tmp_path / "c")
            assert each.source in str(caught.value) and f"convert {name} FILE" in str(caught.value)
            assert ("asking for access" in str(caught.value)) == each.gated
    assert not asked


def test_a_file_is_known_by_its_first_digits():
    each = entry("resnet18-imagenet")
    digests = {"mine.pth": "f37072fd" + "0" * 56, "old.pth": "5c106cde" + "0" * 56}
    assert unknown_files(each, {"files": digests}) == ["old.pth"]
