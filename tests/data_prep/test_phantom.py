import csv
import hashlib
import json

import numpy as np
import openslide
import pytest

from data_prep.annotations import draw_mask, read_annotation
from data_prep.phantom import make_phantom, plan_cohort, split_sizes
from data_prep.phantom_annotation import CLASSES, class_regions
from data_prep.phantom_stain import NOMINAL, distance
from data_prep.phantom_tissue import make_tissue, place_nuclei
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID


def read_whole(path):
    """The annotation of the slide that has the file's name."""
    return read_annotation(path, path.stem)


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_default_cohort():
    plans = plan_cohort(19, 4096, 0)
    patients = {}
    for plan in plans:
        patients.setdefault(plan.split, set()).add(plan.patient)
    assert {split: len(names) for split, names in patients.items()} == {
        "train": 5,
        "val": 2,
        "style": 6,
        "test": 6,
    }
    assert len(plans) == 22
    assert len(set.union(*patients.values())) == 19


def test_only_annotated_patients_are_stained_alike():
    for plan in plan_cohort(19, 4096, 0):
        apart = distance(plan.stain, NOMINAL)
        assert apart < 0.12 if plan.split in ("train", "val") else apart > 0.12, plan.name


@pytest.mark.parametrize("patients", [4, 6, 8, 14, 19, 40])
def test_split_sizes_add_up(patients):
    sizes = split_sizes(patients)
    assert sum(sizes.values()) == patients and min(sizes.values()) >= 1


def test_slides_open_with_a_resolution_and_a_pyramid(cohort):
    rows = list(csv.DictReader((cohort / "cohort.csv").open()))
    assert len(rows) == 6
    for row in rows:
        slide = openslide.OpenSlide(cohort / "slides" / row["slide"])
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        assert slide.level_dimensions == ((1024, 1024), (512, 512))
        stem = row["slide"].removesuffix(".tif")
        assert (cohort / "annotations" / f"{stem}.geojson").exists() == (row["split"] != "style")


def test_levels_show_the_same_picture(cohort):
    slide = openslide.OpenSlide(sorted((cohort / "slides").iterdir())[0])
    fine = (
        np.asarray(slide.read_region((0, 0), 0, (1024, 1024)))[..., :3]
        .reshape(512, 2, 512, 2, 3)
        .mean((1, 3))
    )
    coarse = np.asarray(slide.read_region((0, 0), 1, (512, 512)))[..., :3]
    assert np.abs(fine - coarse).mean() < 5


def test_polygons_equal_the_truth(cohort, tmp_path):
    """The mask drawn from the GeoJSON is the raster that was painted, class by class."""
    plan = next(plan for plan in plan_cohort(6, 1024, 0) if plan.split == "train")
    rng = np.random.default_rng(plan.seed)
    regions = class_regions(make_tissue(rng, plan.size, waviness=float(rng.uniform(0.7, 1.3))))
    truth = np.full((1024, 1024), VOID, np.uint8)
    ids = {name: i for i, name in enumerate(CLASSES)}
    for name, region in regions.items():
        truth[region] = ids[name]
    polygons = read_whole(cohort / "annotations" / f"{plan.name}.geojson").polygons
    mask = draw_mask(polygons, ids, (0, 0, 1024, 1024), 1.0)
    for value in (*ids.values(), VOID):
        both, either = (
            np.sum((mask == value) & (truth == value)),
            np.sum((mask == value) | (truth == value)),
        )
        assert either == 0 or both / either > 0.97, value


def test_nuclei_are_dense_in_the_tumor_only():
    rng = np.random.default_rng(0)
    tissue = make_tissue(rng, 2048)
    nuclei = place_nuclei(rng, tissue, 2048, 11.0)
    regions = class_regions(tissue)
    inside = regions["tumour"] & ~regions["necrosis"]
    per_area = len(nuclei["tumor"].xy) / inside.sum() * 4e6 / 1e3  # per 1000 square microns
    assert 6 < per_area < 11
    at = np.clip(np.round(nuclei["tumor"].xy).astype(int), 0, 2047)
    assert inside[at[:, 1], at[:, 0]].mean() > 0.97
    at = np.clip(np.round(nuclei["lymphocyte"].xy).astype(int), 0, 2047)
    assert regions["tumour"][at[:, 1], at[:, 0]].mean() < 0.03


def test_same_seed_same_bytes_whatever_the_workers(cohort, tmp_path):
    make_phantom(tmp_path / "two", patients=6, size=1024, seed=0, workers=2, quiet=True)
    assert digests(tmp_path / "two") == digests(cohort)


def test_goes_on_where_it_stopped(cohort, tmp_path):
    out = tmp_path / "again"
    make_phantom(out, patients=4, size=512, seed=1, workers=1, quiet=True)
    before = digests(out)
    gone = sorted((out / "slides").iterdir())[1]
    gone.unlink()
    (out / "cohort.csv").unlink()
    (out / "slides" / "P01-1.tif.partial-1").write_bytes(b"half")
    kept = sorted((out / "slides").iterdir())[0].stat().st_mtime_ns
    make_phantom(out, patients=4, size=512, seed=1, workers=1, quiet=True)
    assert digests(out) == before
    assert sorted((out / "slides").iterdir())[0].stat().st_mtime_ns == kept


def test_refuses_another_cohort_and_foreign_folders(tmp_path):
    out = tmp_path / "a"
    make_phantom(out, patients=4, size=512, seed=1, workers=1, quiet=True)
    with pytest.raises(UserError, match="other settings"):
        make_phantom(out, patients=4, size=512, seed=2, workers=1, quiet=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        make_phantom(tmp_path / "b", patients=4, size=512, workers=1, quiet=True)
    with pytest.raises(UserError, match="at least 4 patients"):
        make_phantom(tmp_path / "c", patients=3)


def test_truth_is_written_but_the_table_does_not_give_it_away(cohort):
    truth = json.loads((cohort / "truth.json").read_text())
    header = (cohort / "cohort.csv").read_text().splitlines()[0]
    assert header == "slide,patient,split"
    assert len(truth["slides"]) == 6
