"""python -m stedm_jax.evaluate --synthesis, and the same numbers in a run."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.records import SetSpec, TileSet, write_tiles
from stedm_jax.data.schema import ClassSpec, Tile
from stedm_jax.evaluate.__main__ import main
from stedm_jax.evaluation.synthesis_quality.frechet_distance import frechet
from stedm_jax.evaluation.synthesis_quality.measure import SHEET
from stedm_jax.experiment.encoders import Encoder, encode, open_encoder
from stedm_jax.experiment.measured_set import Computed
from stedm_jax.training.weights_folder import write_params

RNG = np.random.default_rng(0)
CLASSES = (ClassSpec("a", (0, 0, 0)), ClassSpec("b", (9, 9, 9)))
COUNTS = {"train": 24, "val": 12, "test": 12}
ORIGIN = {"style_split": "train", "layout_split": "train"}


def tile(split, patient, number, **more):
    image = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = (image[..., 0] > 99).astype(np.uint8)
    return Tile(image, mask, patient, f"{patient}{number % 2}", split, 0, 0, 0, 1.0, **more)


def synthetic(number, patient="train0"):
    origin = ORIGIN | {"style_patient": patient, "style_records": "0 2", "layout_record": "1"}
    return tile("synthetic", "train1", number, provenance=origin)


def packed(out, tiles, side=16, classes=CLASSES):
    write_tiles(out, SetSpec("s", classes, 1.0, side), tiles)
    return out


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Real tiles, two patients a split, and a set in the style of the first."""
    path = tmp_path_factory.mktemp("sets")
    real = [tile(s, f"{s}{i % 2}", i // 2) for s, n in COUNTS.items() for i in range(n)]
    return packed(path / "real", real), packed(path / "made", map(synthetic, range(15)))


@pytest.fixture(autouse=True)
def no_weights(tmp_path, monkeypatch):
    """Weights that were converted here would be taken."""
    monkeypatch.setenv("STEDM_WEIGHTS", str(tmp_path))


@pytest.fixture
def values(tmp_path):
    """A file of features for both."""
    found = {s: RNG.normal(size=(n, 3)) for s, n in (COUNTS | {"synthetic": 15}).items()}
    np.savez(tmp_path / "f.npz", allow_pickle=False, **found)
    return found


def run(folders, tmp_path, *more):
    real, made = folders
    words = ["--synthesis", made, "--real", real, "--features", tmp_path / "f.npz"]
    main([str(word) for word in (*words, "--out", tmp_path / "out", *more)])
    return json.loads((tmp_path / "out" / "quality.json").read_text())


def test_a_set_is_compared_with_patients_it_has_not_seen(folders, tmp_path, values, capsys):
    found = run(folders, tmp_path)
    held_out = np.concatenate([values["test"], values["val"]])
    assert found["frechet"] == pytest.approx(frechet(values["synthetic"], held_out), rel=1e-4)
    assert found["held_out_tiles"] == 24 and found["n_images"] == found["compared_images"] == 15
    text = capsys.readouterr().out
    assert "against held-out patients" in text and "f.npz" in text
    assert (tmp_path / "out" / SHEET).is_file()
    assert (tmp_path / "out" / "quality.txt").read_text().strip() in text


def test_splits_can_be_chosen(folders, tmp_path, values):
    found = run(folders, tmp_path, "--held_out", "val")
    wanted = frechet(values["synthetic"], values["val"])
    assert found["frechet"] == pytest.approx(wanted, rel=1e-4) and found["held_out_tiles"] == 12


def test_several_sets_stand_in_one_table(folders, tmp_path, values, capsys):
    other = packed(tmp_path / "second", map(synthetic, range(15)))
    words = ["--synthesis", folders[1], other, "--real", folders[0]]
    words += ["--features", tmp_path / "f.npz", "--out", tmp_path / "o"]
    main([str(word) for word in words])
    assert capsys.readouterr().out.splitlines()[0].split()[-2:] == ["made", "second"]
    assert (tmp_path / "o" / "second" / "quality.json").is_file()


def wrong(folders, tmp_path, *more, real=None, made=None):
    words = ["--synthesis", made or folders[1], "--real", real or folders[0], *more]
    with pytest.raises(UserError) as error:
        main([str(word) for word in (*words, "--out", tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    return str(error.value)


def test_wrong_folders_end_in_one_paragraph(folders, tmp_path):
    assert "is no tile set" in wrong(folders, tmp_path, made=tmp_path / "none")
    assert "has no synthetic tiles" in wrong(folders, tmp_path, made=folders[0])
    assert "has no real tiles" in wrong(folders, tmp_path, real=folders[1])
    more = "--synthesis", folders[1], folders[1]
    assert "several sets called made" in wrong(folders, tmp_path, *more)


def test_sets_of_other_tiles_end_in_one_paragraph(folders, tmp_path, values):
    real = [tile(s, f"{s}{i % 2}", i) for s in COUNTS for i in range(4)]
    names = (ClassSpec("a", (0, 0, 0)), ClassSpec("c", (9, 9, 9)))
    renamed = packed(tmp_path / "renamed", real, classes=names)
    source = "--features", tmp_path / "f.npz"
    assert "has the classes a, b" in wrong(folders, tmp_path, *source, real=renamed)
    moved = packed(tmp_path / "moved", real[1:])
    assert "was made from other tiles" in wrong(folders, tmp_path, real=moved)
    short = packed(tmp_path / "short", [tile("val", "v", 0)])
    assert "name no style tiles" in wrong(folders, tmp_path, real=short)
    pixels = np.zeros((32, 32, 3), np.uint8)
    large = replace(tile("train", "p", 0), image=pixels, mask=pixels[..., 0])
    assert "differ in side: 16 and 32" in wrong(
        folders, tmp_path, real=packed(tmp_path / "large", [large], 32)
    )
    assert "no held-out tiles" in wrong(folders, tmp_path, *source, "--held_out", "style")


def test_wrong_features_end_in_one_paragraph(folders, tmp_path, values):
    file = tmp_path / "g.npz"
    for change, words in (
        ({"val": values["val"][1:]}, "'val' needs 12 rows"),
        ({"val": values["val"] * np.nan}, "not finite"),
        ({"val": values["val"][:, :2]}, "all the same features"),
    ):
        np.savez(file, **values | change)
        assert words in wrong(folders, tmp_path, "--features", file)
    np.savez(file, synthetic=values["synthetic"])
    assert "has no such array" in wrong(folders, tmp_path, "--features", file)
    file.write_bytes(b"no archive")
    assert "cannot be read" in wrong(folders, tmp_path, "--features", file)
    assert "--features names 'nothing'" in wrong(folders, tmp_path, "--features", "nothing")


def test_encoders_that_make_no_vector_are_refused(tmp_path):
    write_params(tmp_path, {"a": np.zeros(2, np.float32)}, {"name": "l", "network": "lpips-alex"})
    with pytest.raises(UserError, match="no network that makes a vector.*inception-fid"):
        open_encoder(str(tmp_path), "--features")
    (tmp_path / "cell" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="lies in no workdir"):
        open_encoder(str(tmp_path / "cell"), "--features")


def test_features_are_computed_in_batches_and_once(folders, tmp_path):
    tiles, calls = TileSet.open(folders[0]), []
    encoder = Encoder(
        "mean", "1", jnp.float32(2), lambda p, x: p * x.astype(jnp.float32).mean((1, 2))
    )
    rows = tiles.index("train")

    def read(row):
        calls.append(row.record)
        return tiles.read(row.split, row.record).image

    computed = Computed(encoder, tmp_path / "kept")
    first = computed(tiles, rows, read)
    wanted = [2 * tiles.read("train", row.record).image.mean((0, 1)) for row in rows]
    np.testing.assert_allclose(first, wanted, rtol=1e-5)
    np.testing.assert_array_equal(computed(tiles, rows, read), first)
    assert sorted(calls) == list(range(24))
    assert computed(tiles, rows[:3], read).shape == (3, 3)
    images = np.stack([read(rows[i % 24]) for i in range(300)])
    np.testing.assert_allclose(
        encode(encoder, images.__getitem__, 300), 2 * images.mean((1, 2)), rtol=1e-5
    )
