"""Files of torch.save: read right, and refused without being executed where they are hostile or
damaged."""

import contextlib
import importlib
import os
import pickle
import struct
import subprocess
import time
import webbrowser
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.convert.torch_file import TorchFile
from stedm_jax.convert.weight_files import read_tensors
from tests.convert.torch_zip import BF16, Call, Exploit, Named, Stored, pickled, whole, write_zip

BASE = np.arange(24, dtype=np.float32)


def state() -> dict[str, Stored]:
    return {
        "whole": whole("0", BASE.reshape(4, 6)),
        "transposed": Stored("0", BASE, 0, (6, 4), (1, 6)),
        "part": Stored("0", BASE, 7, (2, 2), (6, 2)),
        "spread": Stored("1", np.ones(3, np.float32), 0, (3, 5), (1, 0)),
        "brain": whole("2", BASE.astype(BF16)),
        "half": whole("3", BASE.astype(np.float16)),
        "count": Stored("4", np.array([7]), 0, (), ()),
        "flags": whole("5", np.array([True, False])),
        "empty": Stored("6", np.zeros(0, np.float32), 0, (0, 3), (3, 1)),
    }


def refused(path: Path, *parts: str) -> str:
    with pytest.raises(UserError) as caught:
        list(read_tensors(path).values())
    text = str(caught.value)
    assert str(path) in text
    for part in parts:
        assert part in text, text
    return text


def test_tensors_are_read_as_they_were_saved(tmp_path):
    found = read_tensors(write_zip(tmp_path / "a.pt", state()))
    grid = BASE.reshape(4, 6)
    expected = {
        "whole": grid,
        "transposed": grid.T,
        "part": grid[1:3, 1:5:2],
        "spread": np.ones((3, 5)),
        "brain": BASE,
        "half": BASE,
        "count": np.array(7),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3)),
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name], values.dtype), values, err_msg=name)
    assert (
        found["brain"].dtype == BF16
        and found["half"].dtype == np.float16
        and found["flags"].dtype == bool
    )


def test_nothing_is_read_until_it_is_asked_for(tmp_path):
    """The mapped file is the memory: an array of it neither copies nor owns."""
    values = read_tensors(write_zip(tmp_path / "a.pt", {"w": whole("0", BASE)}))["w"]
    assert not values.flags.owndata and not values.flags.writeable


def test_a_checkpoint_of_lightning_is_read_and_its_objects_are_left_out(tmp_path):
    scalar = Call(
        Named("numpy.core.multiarray", "scalar"),
        Call(
            Named("numpy", "dtype"), "f8", False, True, state=(3, "<", None, None, None, -1, -1, 0)
        ),
        Call(Named("_codecs", "encode"), "abc", "latin1"),
    )
    callbacks = {
        Named("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"): {"best": scalar}
    }
    hyper = Call(Named("omegaconf.dictconfig", "DictConfig"), state={"_content": {"lr": 1}})
    content = {
        "epoch": 3,
        "state_dict": OrderedDict(state()),
        "callbacks": callbacks,
        "hyper_parameters": Call(
            Named("argparse", "Namespace"), state={"lr": 0.1, "kind": Named("typing", "Any")}
        ),
        "config": hyper,
        "optimizer_states": [{"state": {0: {"exp_avg": whole("9", BASE)}}}],
    }
    found = read_tensors(write_zip(tmp_path / "a.ckpt", content))
    assert set(found) == set(state())
    assert "hyper_parameters" in found.left_out and "state_dict" not in found.left_out


def test_parameters_and_metadata_of_state_dicts(tmp_path):
    parameter = Call(
        Named("torch._utils", "_rebuild_parameter"), whole("0", BASE), True, OrderedDict()
    )
    ordered = Call(Named("collections", "OrderedDict"), state={"_metadata": {"": {"version": 1}}})
    found = read_tensors(write_zip(tmp_path / "a.pt", {"w": parameter, "extra": ordered}))
    assert list(found) == ["w"]


def attacks(marker: Path) -> dict[str, tuple]:
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": (os.system, f"touch {marker}"),
        "eval": (eval, code),
        "exec": (exec, code),
        "subprocess": (subprocess.check_call, ["touch", str(marker)]),
        "importlib": (importlib.import_module, "this"),
        "getattr": (getattr, "x", "upper"),
        "webbrowser": (webbrowser.open, "file:///"),
        "open": (open, str(marker), "w"),
        "compile": (compile, code, "x", "exec"),
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
@pytest.mark.parametrize("protocol", (0, 2, 4))
def test_hostile_pickles_are_refused_and_not_executed(tmp_path, name, protocol):
    marker = tmp_path / "executed"
    exploit = Exploit(*attacks(marker)[name])
    data = pickle.dumps({"state_dict": {"w": exploit}}, protocol=protocol)
    text = refused(write_zip(tmp_path / "a.pt", data), "which no weights need", "executed")
    function = exploit.function
    assert function.__name__ in text
    (tmp_path / "raw.pt").write_bytes(data)
    if protocol >= 2:
        refused(tmp_path / "raw.pt", function.__name__)
    else:
        refused(tmp_path / "raw.pt")
    assert not marker.exists()
    if name in ("eval", "exec", "os.system"):  # the attack is a real one
        pickle.loads(data)
        assert marker.exists()


NAMES = (
    ("posix", "system"),
    ("nt", "system"),
    ("runpy", "run_path"),
    ("ctypes", "CDLL"),
    ("shutil", "rmtree"),
    ("socket", "socket"),
    ("pty", "spawn"),
    ("builtins", "__import__"),
    ("builtins", "getattr"),
    ("torch", "os.system"),
    ("torch.os", "system"),
    ("torch", "load"),
    ("torch.serialization", "load"),
    ("torch.hub", "load"),
    ("torch.storage", "_load_from_bytes"),
    ("numpy", "load"),
    ("numpy.testing._private.utils", "runstring"),
    ("collections", "namedtuple"),
    ("pickle", "loads"),
    ("torch.utils.cpp_extension", "load_inline"),
    ("torch", "subprocess.Popen"),
    ("pytorch_lightning", "sys.exit"),
    ("numpy.f2py.capi_maps", "getinit"),
    ("argparse", "FileType"),
    ("pathlib", "Path.unlink"),
    ("codecs", "open"),
    ("operator", "attrgetter"),
    ("functools", "partial"),
    ("types", "FunctionType"),
    ("torch\nos", "system"),
)


@pytest.mark.parametrize("module, name", NAMES)
def test_other_callables_are_refused_by_name(tmp_path, module, name):
    """By STACK_GLOBAL, which can name what GLOBAL cannot."""
    parts = [b"\x8c" + bytes([len(each)]) + each.encode() for each in (module, name)]
    data = b"\x80\x04" + parts[0] + parts[1] + b"\x93)R."
    refused(write_zip(tmp_path / "a.pt", data), name, "refused")


def test_an_object_of_an_unknown_package_is_refused_with_the_remedy(tmp_path):
    data = b"\x80\x02cmy_models.net\nMyNet\n)R."
    refused(
        write_zip(tmp_path / "a.pt", data),
        "my_models.net.MyNet",
        "torch.save(model.state_dict(), FILE)",
    )


def test_a_whole_module_is_refused_with_the_remedy(tmp_path):
    module = Call(Named("torch.nn.modules.linear", "Linear"), state={"weight": whole("0", BASE)})
    refused(write_zip(tmp_path / "a.pt", module), "whole object", "model.state_dict()")


def view(offset: int, shape: tuple, strides: tuple, **changes) -> dict[str, Stored]:
    return {"w": Stored("0", BASE, offset, shape, strides, **changes)}


@pytest.mark.parametrize(
    "content",
    (
        view(0, (1 << 39,), (1,)),
        view(0, (2, 2), (1 << 40, 1)),
        view(0, (2,), (1 << 62,)),
        view(1, (4, 6), (6, 1)),
        view(-1, (2,), (1,)),
        view(4, (2,), (-1,)),
        view(0, (4,), (6, 1)),
        view(0, (1 << 20, 1 << 20), (0, 0)),
        view(0, (2,) * 17, (0,) * 17),
        view(0, (24,), (1,), count=1 << 40),
        view(0, (24,), (1,), count=-1),
        view(0, (True,), (1,)),
        view(0, (2.0,), (1,)),
        {"w": Call(Named("torch._utils", "_rebuild_tensor_v2"), 1, 0, (1,), (1,))},
        {"w": Call(Named("torch._utils", "_rebuild_tensor_v2"))},
    ),
)
def test_views_out_of_their_storage_are_refused(tmp_path, content):
    refused(write_zip(tmp_path / "a.pt", content), "damaged")


def nested(depth: int, *, key: bool) -> bytes:
    """A tuple in a tuple in a tuple, each twice: 2^depth leaves. As a key, hashing it would never
    end."""
    data = b"\x80\x02" + (b"}" if key else b"") + b")" + b"q\x00" + b"h\x00\x86q\x00" * depth
    return data + (b"K\x01s." if key else b".")


def test_deep_and_repeating_structures_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("stedm_jax.convert.unpickle.WORK", 15_000)
    start = time.monotonic()
    refused(write_zip(tmp_path / "a.pt", nested(100, key=True)), "key")
    refused(write_zip(tmp_path / "b.pt", nested(4_000, key=False)), "state dict")
    refused(write_zip(tmp_path / "c.pt", b"\x80\x02" + b"]" * 20_000 + b"."), "more work")
    refused(write_zip(tmp_path / "d.pt", b"\x80\x02" + b"(" * 10_000 + b"."), "damaged")
    many = b"\x80\x02(" + b"K\x01" * 3000 + b"tq\x00" + b"0ctorch\nSize\nh\x00\x85R" * 3000 + b"."
    refused(write_zip(tmp_path / "e.pt", many), "more work")
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    "data",
    (
        b"",
        b"\x80",
        b"\x80\x02",
        b"\x80\x02}",
        b"\x80\x02}q",
        b"\x80\x02h\x05.",
        b"\x80\x02R.",
        b"\x80\x02s.",
        b"\x80\x02(u.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02Ptext\n.",
        b"\x80\x02}}.",
        b"\x80\x02b.",
        b"\xff\xff",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x02}]K\x01s.",
        b"\x80\x05\x97.",
        b"\x80\x02I99x\n.",
        b"cos\n",
    ),
)
def test_malformed_pickles_are_damaged_files(tmp_path, data):
    refused(write_zip(tmp_path / "a.pt", data), "damaged")


def test_zip_bombs_and_false_archives_are_refused(tmp_path):
    bomb = write_zip(
        tmp_path / "bomb.pt",
        state(),
        extra={"data/0": bytes(50_000_000)},
        method=zipfile.ZIP_DEFLATED,
    )
    assert bomb.stat().st_size < 200_000
    refused(bomb, "zip bomb")
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(tmp_path / "twice.pt", "w") as archive,
    ):
        for _ in range(2):
            archive.writestr("archive/data.pkl", pickled({})[0])
    refused(tmp_path / "twice.pt", "share a name")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("model.ckpt", "x")
    refused(tmp_path / "other.pt", "zip archive", "Unpack")
    refused(write_zip(tmp_path / "script.pt", {}, extra={"constants.pkl": b""}), "TorchScript")
    refused(write_zip(tmp_path / "big.pt", state(), extra={"byteorder": b"big"}), "big-endian")


def test_sizes_that_the_archive_only_claims_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.pt", {"w": whole("0", BASE)})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"archive/data/0") - 46
    assert data[entry : entry + 4] == b"PK\x01\x02"
    for size in (1 << 31, len(data) - 40):
        data[entry + 20 : entry + 28] = struct.pack("<II", size, size)
        path.write_bytes(data)
        refused(path)


def test_a_missing_and_a_changed_storage_are_damage(tmp_path):
    lost = view(0, (24,), (1,))
    data, _ = pickled(lost)
    refused(write_zip(tmp_path / "lost.pt", data), "no data for the storage")
    path = write_zip(tmp_path / "a.pt", lost)
    changed = path.read_bytes().replace(BASE[3:5].tobytes(), BASE[4:6].tobytes())
    path.write_bytes(changed)
    refused(path, "checksum")


def test_cut_off_files_are_refused_at_every_length(tmp_path):
    data = write_zip(tmp_path / "a.pt", state()).read_bytes()
    for length in (1, 2, 3, 30, 100, len(data) // 2, len(data) - 30, len(data) - 1):
        (tmp_path / "cut.pt").write_bytes(data[:length])
        refused(tmp_path / "cut.pt")


def test_random_damage_never_raises_anything_but_user_errors(tmp_path):
    data = bytearray(write_zip(tmp_path / "a.pt", state()).read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = data.copy()
        for place in rng.integers(0, len(data), 3):
            changed[place] = rng.integers(0, 256)
        (tmp_path / "b.pt").write_bytes(changed)
        with contextlib.suppress(UserError):
            list(read_tensors(tmp_path / "b.pt").values())


def legacy(content: object, *, little: bool = True) -> bytes:
    data, storages = pickled(content)
    head = [
        pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": little})
    ]
    tail = b"".join(
        struct.pack("<q", values.size) + values.tobytes() for values in storages.values()
    )
    return b"".join(head) + data + pickle.dumps(list(storages), 2) + tail


def test_the_format_before_torch_1_6(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(legacy(state()))
    found = read_tensors(path)
    np.testing.assert_array_equal(found["transposed"], BASE.reshape(4, 6).T)
    assert found["brain"].dtype == BF16
    data = path.read_bytes()
    for length in (10, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        refused(path)
    path.write_bytes(legacy(state(), little=False))
    refused(path, "big-endian")
    path.write_bytes(pickle.dumps({"w": 1}, 2))
    refused(path, "not one of torch.save")
    path.write_bytes(legacy(view(0, (24,), (1,), count=1 << 70)))
    refused(path, "damaged")


def test_what_was_saved_is_given_as_plain_objects(tmp_path):
    made = write_zip(tmp_path / "a.pt", {"n": 1, "l": [1.5, None, True, "x", {2}], 3: (1, 2)})
    content = TorchFile(made).content
    assert (
        content["n"] == 1 and content["l"] == [1.5, None, True, "x", {2}] and content[3] == (1, 2)
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_gives_what_was_pickled(tmp_path, protocol):
    """Protocol 0 makes lists and dicts from a mark, the others from empty ones."""
    saved = {"l": [1, [2.5, None], []], "t": ((), (1,), (1, 2), (1, 2, 3)), "d": {"s": {1, 2}}}
    saved["big"] = {number: -number for number in range(1500)}
    data = pickle.dumps(saved, protocol)
    assert TorchFile(write_zip(tmp_path / "a.pt", data)).content == saved
