import json
import shutil

import numpy as np

from data_prep.slides import main
from stedm_jax.common.labels import VOID
from stedm_jax.data.records import TileSet
from stedm_jax.data.stain import KEY, normalizer, stain_info, stain_of
from tests.data_prep.conftest import call
from tests.data_prep.engine.conftest import square

STAINED = 200  # of green; glass of these slides has 244


def glass_of(out, split="train"):
    tiles = TileSet.open(out)
    found = [n for n, row in enumerate(tiles.index(split)) if row.kind == "glass"]
    return tiles, [tiles.read(split, n) for n in found]


def test_tissue_in_the_margin_of_a_glass_tile_is_never_background(options, tmp_path):
    status, _ = call(main, tmp_path / "out", options | {"margin": 64, "glass": 0.3, "limit": 1})
    assert status == 0
    tiles, glass = glass_of(tmp_path / "out")
    assert len(glass) >= 10 and tiles.margin == 64
    for tile in glass:
        assert not (tile.mask[tile.image[..., 1] < STAINED] == 0).any()
        assert (tile.mask[64:-64, 64:-64] == 0).all()


def test_glass_tiles_leave_what_void_polygons_say(options, made, tmp_path):
    shutil.copytree(made / "annotations", tmp_path / "annotations")
    for path in (tmp_path / "annotations").iterdir():
        features = [*json.loads(path.read_text()), square("Dirt", 470, 0, 520, 640)]
        path.write_text(json.dumps(features))
    changes = {
        "annotations": tmp_path / "annotations",
        "void": "Dirt",
        "glass": 0.6,
        "margin": 16,
        "limit": 1,
    }
    status, _ = call(main, tmp_path / "out", options | changes)
    assert status == 0
    tiles, glass = glass_of(tmp_path / "out")
    seen = 0
    for tile in glass:
        columns = tile.x + 2 * (np.arange(64) - 16) + 1  # of the slide, at the pixels' centers
        dirt = (columns >= 470) & (columns < 520)
        seen += int(dirt.any())
        assert (tile.mask[:, dirt] == VOID).all()
        assert (tile.mask[16:-16, 16:-16][:, ~dirt[16:-16]] == 0).all()
    assert seen


def test_tiles_that_keep_their_stain_are_reported(options, tmp_path):
    changes = {"stain_norm": "macenko", "glass": 0.3, "limit": 2}
    status, reports = call(main, tmp_path / "out", options | changes)
    assert status == 0
    for report in reports:
        notes = [note for note in report["left_out"] if "keep their stain" in note]
        glass = report["kinds"]["glass"]
        assert len(notes) == 1 and glass <= int(notes[0].split()[0]) < report["tiles"], notes
    assert "keep their stain" in (tmp_path / "out-report" / "summary.md").read_text()


def test_the_manifest_gets_the_stain_also_of_a_set_that_was_packed_before_it_had_one(
    options, tmp_path
):
    changes = options | {"stain_norm": "macenko", "limit": 1}
    assert call(main, tmp_path / "out", changes)[0] == 0
    file = tmp_path / "out" / "manifest.json"
    manifest, expected = json.loads(file.read_text()), stain_info(normalizer("macenko").target)
    assert json.loads(manifest["source"].pop(KEY)) == expected
    file.write_text(json.dumps(manifest))
    assert call(main, tmp_path / "out", changes)[0] == 0
    assert stain_of(json.loads(file.read_text())["source"]) == expected
