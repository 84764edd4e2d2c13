"""Annotations of slides in many formats, read as polygons with holes and drawn as masks."""

from data_prep.annotations.draw import draw_mask
from data_prep.annotations.find import find_annotations, misfits, shared_annotations
from data_prep.annotations.origin import Origin, origin_of
from data_prep.annotations.polygon import Annotation, Polygon
from data_prep.annotations.read import load_annotation, read_annotation

__all__ = [
    "Annotation",
    "Origin",
    "Polygon",
    "draw_mask",
    "find_annotations",
    "load_annotation",
    "misfits",
    "origin_of",
    "read_annotation",
    "shared_annotations",
]
