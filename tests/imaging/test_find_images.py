import pytest
import tifffile
from PIL import Image

from data_prep.tiff import write_pyramid
from stedm_jax.common.errors import UserError
from stedm_jax.imaging.find_images import RESULT, find_images, is_slide
from tests.imaging.pictures import noise, write_ome


def test_images_of_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"no image in .*\.svs"):
        find_images(tmp_path)
    (tmp_path / "below").mkdir()
    for name in ("b.png", "a.JPG", "below/b.SVS", "text.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_images(tmp_path)] == ["a.JPG", "b.png", "b.SVS"]
    assert find_images(tmp_path / "b.png") == [tmp_path / "b.png"]
    (tmp_path / "link.png").symlink_to(tmp_path / "b.png")
    assert tmp_path / "link.png" in find_images(tmp_path)
    (tmp_path / "b.tif").touch()
    with pytest.raises(UserError, match="differ in their ending only"):
        find_images(tmp_path)


def test_hidden_files_and_results_are_no_images(tmp_path, capsys):
    (tmp_path / ".hidden").mkdir()
    for name in ("._a.png", ".DS_Store", ".b.png.partial-7", ".hidden/c.png", "a.png"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "a_mask.png").write_bytes(b"\x89PNG....tEXtSoftware\0" + RESULT)
    assert find_images(tmp_path) == [tmp_path / "a.png"]
    (tmp_path / "notes.TXT").touch()
    assert find_images(tmp_path) == [tmp_path / "a.png"]
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"passed over in {tmp_path}: 4 hidden, 1 results of stedm_jax.inference, "
        "1 of the unknown ending '.txt'"
    )
    with pytest.raises(UserError, match=r"a_mask\.png is a result of"):
        find_images(tmp_path / "a_mask.png")


def test_what_is_a_slide(tmp_path):
    image = noise(100, 100)
    write_pyramid(tmp_path / "pyramid.tif", noise(600, 600), mpp=0.5)
    write_ome(tmp_path / "one.ome.tif", image, levels=1)
    tifffile.imwrite(tmp_path / "flat.tif", image, photometric="rgb", tile=(64, 64))
    Image.fromarray(image).save(tmp_path / "a.png")
    (tmp_path / "empty.svs").touch()
    (tmp_path / "damaged.tif").write_bytes(b"II*\0 nothing")
    names = ("pyramid.tif", "one.ome.tif", "flat.tif", "a.png", "empty.svs", "damaged.tif")
    found = {name: is_slide(tmp_path / name) for name in names}
    assert [name for name in names if not found[name]] == ["flat.tif", "a.png"]
