"""An exported run gives the same numbers, bit for bit, without the workdir and the tiles."""

import json
import shutil

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import sha256_of
from stedm_jax.experiment import saved
from stedm_jax.export.__main__ import main as export
from stedm_jax.inference.__main__ import main as inference
from stedm_jax.interface.loaded_run import load_run
from tests.interface.conftest import layouts_and_styles


@pytest.fixture(scope="module")
def results(run, image):
    """What the run gives."""
    return all_of(run, image)


def all_of(run, image):
    latents = run.encode(image[None, :48, :44])
    arms = [each for arm in run.arms for each in run.segment(image, 2.0, arm)]
    masks, styles = layouts_and_styles()
    made = run.synthesize(masks, styles, steps=2)
    return [*arms, latents, run.decode(latents), made]


@pytest.fixture(scope="module")
def exported(place, results, tmp_path_factory):
    """The exported run, and what remains of the place: nothing."""
    root = tmp_path_factory.mktemp("export")
    shutil.copytree(place, root / "place")
    config = root / "place/runs/demo/config.json"
    moved = config.read_text().replace(str(place), str(root / "place"))
    config.write_text(moved)
    export([str(root / "place/runs/demo"), f"--out={root / 'out'}"])
    shutil.rmtree(root / "place")
    return root / "out"


def test_the_same_numbers_without_the_workdir(exported, results, image):
    again = load_run(exported)
    assert again.classes == ("background", "tumour") and again.mpp == 2.0 and again.tile == 32
    assert again.arms == ("labelled", "labelled+synthetic")
    for one, other in zip(results, all_of(again, image), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match="is no tile set"):
        again.tiles("train")


def test_the_folder_holds_no_code_and_no_patients(exported):
    files = {path.name for path in exported.rglob("*") if path.is_file()}
    assert {name.rpartition(".")[2] for name in files} == {"json", "safetensors", "md"}
    assert "model.safetensors" in files
    texts = {path: path.read_text() for path in exported.rglob("*.json")}
    named = [path.name for path, text in texts.items() if "train0" in text or "test0" in text]
    assert named == ["segmenters.json"]  # which lets inference refuse to score them
    assert not any(str(exported.parent) in text for text in texts.values())


def test_damage_is_found(exported, tmp_path):
    for name in ("model.safetensors", "config.json", "segmentation/labelled/0/scores.json"):
        copy = shutil.copytree(exported, tmp_path / name.replace("/", "-"))
        content = bytearray((copy / name).read_bytes())
        content[-3] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(UserError, match="is damaged or was changed after the export"):
            load_run(copy)
        (copy / name).unlink()
        with pytest.raises(UserError, match="is missing"):
            load_run(copy)


def test_a_record_that_checks_nothing_is_refused(exported, tmp_path):
    record = json.loads((exported / "export.json").read_text())
    known = record["files"]
    for wrong, text in (
        ([], "export.json is no record of an export"),
        ({"format": 1, "entries": {}}, "export.json is no record of an export"),
        (record | {"files": {}}, "no checksum of model.safetensors, config.json"),
        (record | {"files": {**known, "x.json": ""}}, "x.json is missing"),
    ):
        copy = shutil.copytree(exported, tmp_path / "copy", dirs_exist_ok=True)
        (copy / "export.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=text):
            load_run(copy)


def test_of_a_stranger_nothing_is_executed_and_nothing_is_fetched(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(saved, "enable_compile_cache", lambda cache: pytest.fail("it is used"))
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / ".compile_cache").mkdir()  # with machine code of whoever made the folder
    config, record = copy / "config.json", copy / "export.json"
    text = json.dumps(json.loads(config.read_text()) | {"data.tiles": "memory://of/a/stranger"})
    config.write_text(text)
    known = json.loads(record.read_text())
    known["files"]["config.json"] = sha256_of(config)
    record.write_text(json.dumps(known))
    assert load_run(copy).settings.data.tiles == ""


def test_parts_and_what_is_refused(exported, place, tmp_path, capsys):
    run, out = str(place / "runs/demo"), tmp_path / "out"
    export([run, f"--out={out}", "--parts=segmentation/labelled"])
    assert "out: segmentation/labelled/0, " in capsys.readouterr().out
    some = load_run(out)
    assert some.arms == ("labelled",) and some.generators == ()
    with pytest.raises(UserError, match="needs autoencoder"):
        some.encode(np.zeros((1, 32, 32, 3), np.uint8))
    for options, text in (
        ([f"--out={out}"], "out exists; give another --out, or --force"),
        ([f"--out={place / 'tiles'}", "--force"], "tiles was not written by this command"),
        ([f"--out={tmp_path / 'x'}", "--hub"], "give --license=cc-by-4.0"),
        ([f"--out={tmp_path / 'x'}", "--parts=ssl"], "ssl, which was not trained .*there are: seg"),
    ):
        with pytest.raises(UserError, match=text):
            export([run, *options])
    export([run, f"--out={out}", "--parts=autoencoder", "--force"])
    assert load_run(out).arms == ()


def test_the_layout_of_a_hub(exported, tmp_path):
    """An exported run is exported again."""
    out = tmp_path / "hub"
    export([str(exported), f"--out={out}", "--hub", "--license=cc-by-4.0"])
    names = {path.name for path in out.iterdir()}
    assert {"README.md", "config.json", "model.safetensors"} <= names
    head = (out / "README.md").read_text().split("---\n")[1].splitlines()
    values = {name: json.loads(value) for name, value in (line.split(": ", 1) for line in head)}
    assert values["license"] == "cc-by-4.0" and values["pipeline_tag"] == "image-segmentation"
    assert "histopathology" in values["tags"]
    assert json.loads((out / "segmenters.json").read_text())["learnt"] == {}
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (exported / weights).read_bytes()
    assert not [path for path in out.rglob("*.json") if "train0" in path.read_text()]


def test_the_command_of_inference_takes_it(exported, image, results, tmp_path):
    from PIL import Image

    Image.fromarray(image).save(tmp_path / "a.png")
    options = [f"--images={tmp_path / 'a.png'}", f"--out={tmp_path / 'out'}", "--mpp=2"]
    assert inference([f"--workdir={exported}", *options]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), results[0])
