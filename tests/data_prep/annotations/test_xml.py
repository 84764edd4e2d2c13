import numpy as np
import pytest

from data_prep.annotations import read_annotation
from stedm_jax.common.errors import UserError
from tests.data_prep.annotations.shapes import square


def read(tmp_path, text, size=None):
    path = tmp_path / "s.xml"
    path.write_text(text, encoding="utf-8")
    return read_annotation(path, "s.svs", size)


def region(points, **attributes):
    words = "".join(f' {key}="{value}"' for key, value in attributes.items())
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    return f'<Region Id="1"{words}><Attributes/><Vertices>{vertices}</Vertices></Region>'


def layer(*regions, **attributes):
    words = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f"<Annotation{words}><Attributes/><Regions>{''.join(regions)}</Regions></Annotation>"


def imagescope(*layers, root=""):
    return f"<Annotations{root}>{''.join(layers)}</Annotations>"


def test_imagescope_layers_give_classes_and_colors(tmp_path):
    text = imagescope(
        layer(
            region(square(0, 0, 50, 50), Text="a remark"), Id=1, Name="Tumour", LineColor=0x0000FF
        ),
        layer(region(square(0, 0, 40, 40), Text="Stroma"), Id=2, Name="", LineColor=0xFF0000),
        layer(region(square(0, 0, 30, 30)), Id=3, Name=""),
        root=' MicronsPerPixel="0.25"',
    )
    annotation = read(tmp_path, text)
    assert [p.name for p in annotation.polygons] == ["Tumour", "Stroma", "Layer3"]
    assert [p.color for p in annotation.polygons] == [(255, 0, 0), (0, 0, 255), None]
    assert annotation.mpp == 0.25 and annotation.left_out == ()


def test_imagescope_shapes(tmp_path):
    text = imagescope(
        layer(
            region([(10, 10), (30, 50)], Type=1),
            region([(100, 100), (140, 120)], Type=2),
            region([(0, 0), (5, 5)], Type=3),
            region([(0, 0), (5, 5)], Type=4),
            region([(7, 7)], Type=5),
            Name="a",
        )
    )
    annotation = read(tmp_path, text)
    areas = sorted(p.area for p in annotation.polygons)
    assert (
        areas[1] == 800
        and areas[0] == pytest.approx(np.pi * 20 * 10, rel=0.01)
        and annotation.passed_over == 3
    )


def test_imagescope_negative_regions_are_holes_of_their_layer(tmp_path):
    hole = region(square(10, 10, 20, 20), NegativeROA=1)
    text = imagescope(
        layer(hole, region(square(0, 0, 50, 50)), region(square(60, 0, 90, 30)), Name="a"),
        layer(
            region(square(0, 0, 40, 40)), region(square(70, 70, 80, 80), NegativeROA=1), Name="b"
        ),
    )
    annotation = read(tmp_path, text)
    assert {(p.name, p.area, len(p.rings)) for p in annotation.polygons} == {
        ("a", 2400, 2),
        ("a", 900, 1),
        ("b", 1600, 1),
    }
    assert (
        len(annotation.left_out) == 1
        and "negative region at x=75 y=75 lies in no polygon" in annotation.left_out[0]
    )


def point_list(points):
    return "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points))


def asap(*annotations, groups=""):
    found = f"<Annotations>{''.join(annotations)}</Annotations>"
    return f"<ASAP_Annotations>{found}{groups}</ASAP_Annotations>"


def annotated(points, group, kind="Polygon", color="#0000ff"):
    return (
        f'<Annotation Name="n" Type="{kind}" PartOfGroup="{group}" Color="{color}">'
        f"<Coordinates>{point_list(points)}</Coordinates></Annotation>"
    )


def test_asap_groups_types_and_colors(tmp_path):
    groups = '<Group Name="Tumor" PartOfGroup="None" Color="#ff0000"/>'
    groups = f"<AnnotationGroups>{groups}</AnnotationGroups>"
    text = asap(
        annotated(square(0, 0, 50, 50)[:4], "Tumor"),
        annotated(square(0, 0, 30, 30)[:4], "_2", "Spline"),
        annotated(square(0, 0, 20, 20)[:4], "Tumor", "Rectangle"),
        annotated([(1, 1)], "Tumor", "Dot"),
        annotated(square(0, 0, 9, 9), "None"),
        groups=groups,
    )
    annotation = read(tmp_path, text)
    assert [(p.name, p.area, p.color) for p in annotation.polygons] == [
        ("Tumor", 2500, (255, 0, 0)),
        ("_2", 900, (0, 0, 255)),
        ("Tumor", 400, (255, 0, 0)),
    ]
    assert annotation.passed_over == 2


def test_asap_exclusion_is_cut_out(tmp_path):
    text = asap(
        annotated(square(10, 10, 20, 20), "Exclusion"), annotated(square(0, 0, 50, 50), "Tumor")
    )
    annotation = read(tmp_path, text)
    assert [(p.name, p.area, len(p.rings)) for p in annotation.polygons] == [("Tumor", 2400, 2)]


def test_asap_goes_by_the_order_of_points_and_reads_decimal_commas(tmp_path):
    text = asap(annotated(square(0, 0, 10, 10)[:4], "a")).replace('X="10"', 'X="10,5"')
    text = (
        text.replace('Order="1"', 'Order="x"')
        .replace('Order="2"', 'Order="1"')
        .replace('Order="x"', 'Order="2"')
    )
    ring = read(tmp_path, text).polygons
    assert len(ring) == 2  # 0, 2, 1, 3 crosses itself


BOMB = """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>
<Annotations><Annotation Name="&b;"/></Annotations>"""
OUTER = """<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<Annotations>&x;</Annotations>"""


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (BOMB, "entities"),
        (OUTER, "entities"),
        ("<Annotations><Annotation>", "no XML"),
        ("<html></html>", "none of the formats"),
        (imagescope(layer(region([("x", 1)]), Name="a")), "x"),
        (imagescope(layer(region([("nan", 1), (2, 2), (3, 3)]), Name="a")), "not finite"),
        (imagescope(layer(region([("1e30", 1), (2, 2), (3, 3)]), Name="a")), "too large"),
        (annotated([(1, 1)], "a").replace('X="1"', ""), "none of the formats"),
        (asap(annotated([(1, 1)], "a").replace('X="1"', "")), "a coordinate is missing"),
    ],
)
def test_hostile_and_damaged_xml_is_refused(tmp_path, text, word):
    with pytest.raises(UserError, match=rf"s\.xml.*{word}"):
        read(tmp_path, text)


def test_entities_in_other_encodings_are_refused_too(tmp_path):
    path = tmp_path / "s.xml"
    path.write_bytes(BOMB.replace('<?xml version="1.0"?>', "").encode("utf-16"))
    with pytest.raises(UserError, match="entities"):
        read_annotation(path, "s.svs")
