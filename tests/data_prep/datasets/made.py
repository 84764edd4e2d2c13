"""Small folders in the form of the published data sets, with contents made up."""

import json
import sqlite3
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.io import savemat

from data_prep.bcss import CODES
from data_prep.catch import REST, TUMORS
from data_prep.tiff import write_pyramid

SIZE, FINE = 1280, 0.2533
CATEGORIES = (
    "Bone",
    "Cartilage",
    "Dermis",
    "Epidermis",
    "Subcutis",
    "Inflamm/Necrosis",
    "Melanoma",
    "Plasmacytoma",
    "Mast Cell Tumor",
    "PNST",
    "SCC",
    "Trichoblastoma",
    "Histiocytoma",
)
assert set(CATEGORIES) == {*REST, *TUMORS.values()}


def tissue(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Pink, with structure at several scales, so that it counts as tissue and not as blurred."""
    rng = np.random.default_rng(seed)
    image = np.full((*shape, 3), (215, 140, 185), np.float32)
    for step in (4, 16, 64):
        coarse = rng.normal(0, 18, (shape[0] // step + 1, shape[1] // step + 1, 3)).astype(
            np.float32
        )
        image += cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_slide(path: Path, seed: int, mpp: float = FINE, size: int = SIZE) -> None:
    """A slide of so many pixels a side: tissue in the upper left four fifths, else glass."""
    image = np.full((size, size, 3), 245, np.uint8)
    side = size * 4 // 5 - 24
    image[:side, :side] = tissue((side, side), seed)
    write_pyramid(path, image, mpp, quality=95)


def box(x: int, y: int, width: int, height: int) -> list[list[int]]:
    """The corners of a box, not closed."""
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


CATCH_ROWS = (
    ("MCT_01_1", "train", "AT2"),
    ("MCT_01_2", "train", "AT2"),
    ("MCT_02_1", "train", "ScanScope v1"),
    ("MCT_03_1", "val", "AT2"),
    ("SCC_01_1", "test", "AT2"),
    ("SCC_02_1", "train", "ScanScope v1"),
    ("SCC_03_1", "train", "AT2"),
)


def catch_polygons(name: str) -> list[tuple[str, list[list[int]]]]:
    """Dermis with a tumor in it; between them and the box around both nothing is drawn."""
    tumor = TUMORS[name.partition("_")[0]]
    return [
        ("Dermis", box(160, 160, 480, 640)),
        (tumor, box(320, 320, 256, 256)),
        ("Epidermis", box(640, 704, 64, 96)),
    ]


def make_catch(folder: Path, form: str = "json") -> Path:
    """CATCH with seven slides; form "json" or "sqlite"."""
    (folder / "MCT").mkdir(parents=True)
    for seed, (name, _, _) in enumerate(CATCH_ROWS):
        write_slide(folder / ("MCT" if name.startswith("MCT") else "") / f"{name}.svs", seed)
    lines = [
        "Slide;Dataset;Scanner",
        *(f"{name}.svs;{split};{scanner}" for name, split, scanner in CATCH_ROWS),
    ]
    (folder / "datasets.csv").write_text("\n".join(lines) + "\n")
    if form == "json":
        _coco(folder / "CATCH.json")
    else:
        _sliderunner(folder / "CATCH.sqlite")
    return folder


def _coco(path: Path) -> None:
    images, annotations = [], []
    for number, (name, _, _) in enumerate(CATCH_ROWS, start=1):
        images.append(
            {"license": 1, "file_name": f"{name}.svs", "id": number, "width": SIZE, "height": SIZE}
        )
        for category, ring in catch_polygons(name):
            x0, y0, x1, y1 = ring[0][0], ring[0][1], ring[2][0], ring[2][1]
            annotations.append(
                {
                    "segmentation": [value for point in [*ring, ring[0]] for value in point],
                    "iscrowd": 0,
                    "image_id": number,
                    "category_id": CATEGORIES.index(category) + 1,
                    "id": len(annotations) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                }
            )
    categories = [
        {"id": i + 1, "name": name, "supercategory": "Tissue" if i < 6 else "Tumor"}
        for i, name in enumerate(CATEGORIES)
    ]
    content = {
        "info": {"version": "1.0"},
        "licenses": [{"id": 1}],
        "categories": categories,
        "images": images,
    }
    path.write_text(json.dumps(content | {"annotations": annotations}))


def _sliderunner(path: Path) -> None:
    base = sqlite3.connect(path)
    base.executescript(
        """
        CREATE TABLE Slides (uid INTEGER PRIMARY KEY AUTOINCREMENT, filename TEXT,
            width INTEGER, height INTEGER, directory TEXT);
        CREATE TABLE Classes (uid INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, color TEXT);
        CREATE TABLE Persons (uid INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT);
        CREATE TABLE Annotations (uid INTEGER PRIMARY KEY AUTOINCREMENT, slide INTEGER, guid TEXT,
            lastModified REAL, deleted INTEGER DEFAULT 0, type INTEGER, agreedClass INTEGER,
            clickable INTEGER DEFAULT 1);
        CREATE TABLE Annotations_label (uid INTEGER PRIMARY KEY AUTOINCREMENT, person INTEGER,
            class INTEGER, annoId INTEGER);
        CREATE TABLE Annotations_coordinates (uid INTEGER PRIMARY KEY AUTOINCREMENT,
            coordinateX INTEGER, coordinateY INTEGER, slide INTEGER, annoId INTEGER,
            orderIdx INTEGER);
        INSERT INTO Persons (name) VALUES ('Coco');
        """
    )
    base.executemany(
        "INSERT INTO Classes (name, color) VALUES (?, '#ff0000')", [(name,) for name in CATEGORIES]
    )
    annotation = 0
    for slide, (name, _, _) in enumerate(CATCH_ROWS, start=1):
        base.execute(
            "INSERT INTO Slides (filename, width, height) VALUES (?, ?, ?)",
            (f"{name}.svs", SIZE, SIZE),
        )
        for category, ring in catch_polygons(name):
            annotation, kind = annotation + 1, CATEGORIES.index(category) + 1
            base.execute(
                "INSERT INTO Annotations (slide, type, agreedClass) VALUES (?, 3, ?)", (slide, kind)
            )
            base.execute(
                "INSERT INTO Annotations_label (person, class, annoId) VALUES (1, ?, ?)",
                (kind, annotation),
            )
            base.executemany(
                "INSERT INTO Annotations_coordinates"
                " (coordinateX, coordinateY, slide, annoId, orderIdx) VALUES (?, ?, ?, ?, ?)",
                [(x, y, slide, annotation, order) for order, (x, y) in enumerate(ring, start=1)],
            )
    base.commit()
    base.close()


def make_her2(folder: Path) -> Path:
    """Five slides: a region of interest in each annotated one, tumor and in-situ tumor within."""
    folder.mkdir(parents=True)
    lines = ["slide,patient,split,score"]
    for seed, (name, split, score) in enumerate(
        (
            ("S1", "train", 3),
            ("S2", "train", 3),
            ("S3", "val", 0),
            ("S4", "test", 1),
            ("S5", "style", 2),
        )
    ):
        write_slide(folder / f"{name}.tiff", seed, 0.25, 768)
        lines.append(f"{name}.tiff,{name},{split},{score}")
        if split == "style":
            continue
        label = f"HER2 {score}+" if score else "HER2 0"
        parts = (
            ("Finished 1", box(64, 64, 384, 384)),
            (label, box(128, 128, 192, 128)),
            ("DCIS", box(320, 320, 64, 64)),
            ("Hard Negative", box(192, 352, 64, 64)),
            (label, box(464, 464, 96, 96)),
        )
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
                "properties": {"objectType": "annotation", "classification": {"name": kind}},
            }
            for kind, ring in parts
        ]
        (folder / f"{name}.geojson").write_text(
            json.dumps({"type": "FeatureCollection", "features": features})
        )
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder


BCSS_NAMES = (
    "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500",
    "TCGA-A2-A0CM-DX1_xmin18562_ymin56852_MPP-0.2500",
    "TCGA-BH-A0B3-DX1_xmin82526_ymin42184_MPP-0.2500",
    "TCGA-D8-A142-DX1_xmin62151_ymin41337_MPP-0.2500",
    "TCGA-OL-A5D6-DX1_xmin115108_ymin40554_MPP-0.2500",
    "TCGA-E2-A14N-DX1_xmin21383_ymin66838_MPP-0.2500",
)


def make_bcss(folder: Path, images: str = "images") -> Path:
    """Six regions; the masks hold every code, in columns."""
    (folder / images).mkdir(parents=True)
    (folder / "masks").mkdir(exist_ok=True)
    codes = np.repeat(np.arange(len(CODES)), 8).astype(np.uint8)
    for seed, name in enumerate(BCSS_NAMES):
        Image.fromarray(tissue((160, len(codes)), seed)).save(folder / images / f"{name}.png")
        Image.fromarray(np.tile(codes, (160, 1))).save(folder / "masks" / f"{name}.png")
    return folder


GLAS_ROWS = (
    ("testA_1", 4, "benign", "adenomatous"),
    ("testB_1", 1, "malignant", "poorly differentiated"),
    ("train_1", 1, "benign", "healthy"),
    ("train_2", 3, "malignant", "moderately differentiated"),
    ("train_3", 8, "benign", "healthy"),
    ("train_4", 7, "malignant", "poorly differentiated"),
    ("train_5", 2, "malignant", "poorly differentiated"),
)


def make_glas(folder: Path) -> Path:
    """Seven images with numbered glands, as the challenge has them: BMP files and Grade.csv with
    spaces."""
    inner = folder / "Warwick QU Dataset (Released 2016_07_08)"
    inner.mkdir(parents=True)
    lines = ["name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"]
    for seed, (name, patient, grade, grade_2015) in enumerate(GLAS_ROWS):
        numbers = np.zeros((120, 160), np.uint8)
        numbers[10:50, 10:60], numbers[60:110, 80:150], numbers[20:40, 100:140] = 1, 2, 17
        Image.fromarray(tissue((120, 160), seed)).save(inner / f"{name}.bmp")
        Image.fromarray(numbers).save(inner / f"{name}_anno.bmp")
        lines.append(f"{name},{patient}, {grade}, {grade_2015}")
    (inner / "Grade.csv").write_text("\n".join(lines) + "\n")
    return folder


FLOWER_CLASSES = (5, 5, 5, 1, 1, 6, 5, 1, 6, 5, 1, 2)
"""Class of each image; the first seven are the official training set, then two each of validation,
three of test."""


def make_flowers(folder: Path, segmentations: bool = True) -> Path:
    """Twelve photographs of 60x80 pixels, with a flower in the middle, in the archives' layout."""
    (folder / "jpg").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(1, len(FLOWER_CLASSES) + 1):
        image = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
        Image.fromarray(image).save(folder / "jpg" / f"image_{number:05d}.jpg", quality=95)
        if segmentations:
            image[:, :] = np.where(flower_mask()[..., None], image // 2 + 60, (0, 0, 254))
            (folder / "segmim").mkdir(exist_ok=True)
            Image.fromarray(image).save(
                folder / "segmim" / f"segmim_{number:05d}.jpg", quality=95, subsampling=0
            )
    savemat(folder / "imagelabels.mat", {"labels": np.array([FLOWER_CLASSES], np.uint8)})
    numbers = np.arange(1, len(FLOWER_CLASSES) + 1, dtype=np.uint16)[None, :]
    savemat(
        folder / "setid.mat",
        {"trnid": numbers[:, :7], "valid": numbers[:, 7:9], "tstid": numbers[:, 9:]},
    )
    return folder


def flower_mask() -> np.ndarray:
    """Where the flower of a made photograph is; edges on the 8-pixel blocks of JPEG."""
    mask = np.zeros((60, 80), bool)
    mask[16:40, 24:56] = True
    return mask
