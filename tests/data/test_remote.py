"""Stand-ins for object stores: fsspec's memory:// and file://, and one that breaks off in the
middle."""

import json
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from stedm_jax.common.errors import UserError
from stedm_jax.data import remote
from stedm_jax.data.records import TileSet
from tests.conftest import make_tile, written


class Flaky(MemoryFileSystem):
    """Breaks off after so many reads of shards, and counts them."""

    protocol, cachable = "flaky", False
    left, reads = 10**9, 0

    def cat_file(self, path, start=None, end=None, **kwargs):
        if "array_record" in path:
            if Flaky.left <= 0:
                raise TimeoutError("the line went dead")
            Flaky.left -= 1
            Flaky.reads += 1
        return super().cat_file(path, start=start, end=end, **kwargs)


fsspec.register_implementation("flaky", Flaky, clobber=True)


@pytest.fixture
def url():
    return f"memory://bucket-{uuid.uuid4().hex}/cohort"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STEDM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_a_url():
    assert all(map(remote.is_remote, ("s3://b/x", "gs://b", "file:///a", "memory://x")))
    assert not any(
        map(remote.is_remote, ("tiles", "/data/tiles", "C:\\tiles", "a:b", "{workdir}/data"))
    )


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_there_and_back(kind, tile_set, tmp_path, cache, url):
    url = url if kind == "memory" else f"file://{tmp_path / 'store' / 'cohort'}"
    remote.push(tile_set.path, url)
    here = remote.fetch(url)
    assert here.parent == cache and here.name.startswith("cohort-")
    opened = TileSet.open(here)
    opened.verify()
    assert opened.fingerprint == tile_set.fingerprint
    np.testing.assert_array_equal(opened.read("val", 3).image, tile_set.read("val", 3).image)
    assert not list(here.glob("*.partial"))
    assert remote.read_manifest(url) == tile_set.manifest


def test_a_second_fetch_reads_the_manifest_only(tile_set, cache, url):
    url = url.replace("memory", "flaky")
    remote.push(tile_set.path, url)
    first = remote.fetch(url)
    before = Flaky.reads
    assert remote.fetch(url) == first and Flaky.reads == before


def test_an_interrupted_fetch_goes_on_where_it_stopped(tile_set, cache, url, monkeypatch):
    url = url.replace("memory", "flaky")
    remote.push(tile_set.path, url)
    shards = [shard for shards in tile_set.manifest["shards"].values() for shard in shards]
    monkeypatch.setattr(remote, "BLOCK", 4096)
    wanted = sum(-(-shard["bytes"] // 4096) for shard in shards)
    monkeypatch.setattr(Flaky, "left", wanted // 2)
    monkeypatch.setattr(Flaky, "reads", 0)
    with pytest.raises(
        UserError, match="TimeoutError: the line went dead.*goes on where this stopped"
    ):
        remote.fetch(url)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    assert not (folder / "manifest.json").exists() and list(folder.glob("*.partial"))
    monkeypatch.setattr(Flaky, "left", 10**9)
    TileSet.open(remote.fetch(url)).verify()
    assert Flaky.reads == wanted


def test_a_beginning_that_does_not_fit_is_fetched_again_and_damage_in_the_store_is_named(
    tile_set, cache, url
):
    remote.push(tile_set.path, url)
    folder = remote.fetch(url)
    (folder / "manifest.json").unlink()
    shard = tile_set.manifest["shards"]["train"][0]["file"]
    (folder / shard).unlink()
    (folder / f"{shard}.partial").write_bytes(b"something else")
    TileSet.open(remote.fetch(url)).verify()
    store, root = fsspec.core.url_to_fs(url)
    (path,) = store.glob(f"{root}/*/{shard}")
    data = bytearray(store.cat_file(path))
    data[100] ^= 1
    store.pipe_file(path, bytes(data))
    with pytest.raises(UserError, match=f"{shard}.*checksum"):
        remote.fetch(url, cache / "elsewhere")


def test_the_manifest_comes_last_and_an_interrupted_push_goes_on(tile_set, cache, url, monkeypatch):
    sent = []

    def put_file(self, local, path, **kwargs):
        sent.append(path)
        if len(sent) == 3:
            raise ConnectionError("no route")
        self.pipe_file(path, Path(local).read_bytes())

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    with pytest.raises(UserError, match="no route"):
        remote.push(tile_set.path, url)
    with pytest.raises(UserError, match="still being sent"):
        remote.fetch(url)
    remote.push(tile_set.path, url)
    assert (
        sum("array_record" in path for path in sent)
        == len(list(tile_set.path.glob("*array_record*"))) + 1
    )
    assert TileSet.open(remote.fetch(url)).fingerprint == tile_set.fingerprint
    count = len(sent)
    remote.push(tile_set.path, url)
    assert len(sent) == count


def test_another_set_is_replaced_only_when_asked(tile_set, tmp_path, cache, url):
    remote.push(tile_set.path, url)
    old = remote.fetch(url)
    written(tmp_path / "other", [make_tile()])
    with pytest.raises(UserError, match="Another tile set"):
        remote.push(tmp_path / "other", url)
    remote.push(tmp_path / "other", url, overwrite=True)
    assert remote.fetch(url) != old and len(TileSet.open(remote.fetch(url)).index("train")) == 1
    TileSet.open(old).verify()


def test_a_push_that_is_killed_leaves_the_old_set_readable(
    tile_set, tmp_path, cache, url, monkeypatch
):
    """At whatever file it stops; and when it went through, nothing of the old set is left."""
    remote.push(tile_set.path, url)
    written(tmp_path / "other", [make_tile()])
    old, put = TileSet.open(remote.fetch(url)).fingerprint, MemoryFileSystem.put_file
    for number, count in enumerate((0, 1, 1, 1, 2)):  # files that arrived whole are not sent again
        left = [count]

        def put_file(self, local, path, left=left, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise ConnectionError("no route")
            return put(self, local, path, **kwargs)

        monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
        with pytest.raises(UserError, match="no route"):
            remote.push(tmp_path / "other", url, overwrite=True)
        found = TileSet.open(remote.fetch(url, tmp_path / f"cache{number}"))
        found.verify()
        assert found.fingerprint == old
    monkeypatch.undo()
    remote.push(tmp_path / "other", url, overwrite=True)
    store, root = fsspec.core.url_to_fs(url)
    assert (
        len(store.ls(root)) == 2
        and len(store.find(root)) == len(list((tmp_path / "other").iterdir())) + 1
    )


def test_a_set_that_was_copied_flat_opens_and_is_replaced(tile_set, cache, url):
    store, root = fsspec.core.url_to_fs(url)
    for path in tile_set.path.iterdir():
        store.pipe_file(f"{root}/{path.name}", path.read_bytes())
    store.pipe_file(f"{root}/notes.txt", b"of somebody")
    assert TileSet.open(remote.fetch(url)).fingerprint == tile_set.fingerprint
    manifest = json.loads((tile_set.path / "manifest.json").read_text())
    (tile_set.path / "manifest.json").write_text(json.dumps(manifest))  # other bytes
    with pytest.raises(UserError, match="Another tile set"):
        remote.push(tile_set.path, url)
    remote.push(tile_set.path, url, known=[remote._sha256(store.cat_file(f"{root}/manifest.json"))])
    assert sorted(
        path.rpartition("/")[2]
        for path in store.ls(root, detail=False)
        if len(path) < len(root) + 15
    ) == [
        "manifest.json",
        "notes.txt",
    ]


def test_a_full_disk_here_is_no_matter_of_the_network(tile_set, cache, url, monkeypatch):
    import errno

    def full(*arguments, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device", "shard")

    remote.push(tile_set.path, url)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", full)
    with pytest.raises(
        UserError, match="No space left on device at shard, on this machine"
    ) as raised:
        remote.fetch(url)
    assert "credentials" not in str(raised.value)


def test_mistakes_are_named(tile_set, cache, url, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is no tile set"):
        remote.fetch(url)
    with pytest.raises(UserError, match="no known kind"):
        remote.fetch("nowhere://x/y")
    with pytest.raises(UserError, match="is no tile set"):
        remote.push(tmp_path, url)
    store, root = fsspec.core.url_to_fs(url)
    store.pipe_file(f"{root}/manifest.json", b"{")
    with pytest.raises(UserError, match="damaged"):
        remote.fetch(url)
    store.pipe_file(f"{root}/manifest.json", json.dumps({"schema": 99}).encode())
    with pytest.raises(UserError, match="schema 99"):
        remote.fetch(url)
    evil = tile_set.manifest | {"shards": {"train": [{"file": "../../x", "sha256": ""}]}}
    store.pipe_file(f"{root}/manifest.json", json.dumps(evil).encode())
    with pytest.raises(UserError, match="not to be trusted"):
        remote.fetch(url)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="STEDM_CACHE"):
        remote.push(tile_set.path, url, overwrite=True)
        remote.fetch(url, tmp_path / "file")


@pytest.mark.parametrize(
    ("url", "package"), [("s3://bucket/tiles", "s3fs"), ("gs://bucket/tiles", "gcsfs")]
)
def test_a_missing_driver_is_named(url, package, monkeypatch):
    def missing(url):
        raise ImportError(f"Please install {package}")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(UserError, match=f"Please install {package}.*pip install"):
        remote.fetch(url)


def test_a_tile_set_opens_at_its_url(tile_set, cache, url):
    remote.push(tile_set.path, url)
    tiles = TileSet.open(url)
    assert tiles.path.parent == cache and len(tiles.index("train")) == 16
