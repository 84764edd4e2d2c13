"""The page in a real browser: the extra studio, playwright and a Chromium are needed.

pytest -n 0 -m browser tests/studio
"""

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stedm_jax.data.records import TileSet
from tests.studio.easels import easel_of

pytestmark = pytest.mark.browser
SIZES = {"desktop": (1400, 1000), "phone": (390, 844)}


SERVER = """
import sys
from pathlib import Path
from stedm_jax.studio.serving import serve  # before conftest, whose checks hide generators
from tests.studio.easels import easel_of
easel = easel_of(Path(sys.argv[1]))
easel.warm_up()
serve(easel, "127.0.0.1", int(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The same easel, the folder of its run, and the address of its page, served by a process of
    its own."""
    pytest.importorskip("gradio")
    ours, theirs = (tmp_path_factory.mktemp(name) for name in ("ours", "theirs"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVER, str(theirs), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout and any("studio is at" in line for line in server.stdout)
        yield easel_of(ours), theirs / "run", f"http://127.0.0.1:{port}"
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    where = shutil.which("chromium") or shutil.which("google-chrome")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=where, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=SIZES)
def page(served, browser, request):
    """The page, loaded, and all addresses that it asks."""
    width, height = SIZES[request.param]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.asked = []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.goto(served[2])
    page.wait_for_selector("#layouts img")
    page.wait_for_selector("#editor canvas")
    page.wait_for_timeout(1500)  # until the canvas has its place
    yield page
    page.close()


def paint(page) -> None:
    """A stroke in the color of the brush, from the middle to the lower right."""
    canvas = page.locator("#editor canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 50, y + 50, steps=10)
    page.mouse.up()
    page.wait_for_timeout(500)


def make(page) -> None:
    page.click("#make")
    page.wait_for_function(r"/\d\.\d s/.test(document.querySelector('#note')?.innerText)")
    page.wait_for_selector("#files a")


def downloaded(page, name: str, folder: Path) -> Path:
    with page.expect_download() as started:
        page.locator(f"#files a[download='{name}']").click()
    started.value.save_as(folder / name)
    return folder / name


def test_paint_make_download(page, served, tmp_path):
    address = served[2]
    paint(page)
    make(page)
    mask = np.asarray(Image.open(downloaded(page, "mask.png", tmp_path)))
    assert mask.shape == (32, 32) and set(np.unique(mask)) == {0, 1}
    assert mask[17, 17] == 1 and mask[2, 2] == 0 and mask[2, 29] == 0
    image = np.asarray(Image.open(downloaded(page, "seed0.png", tmp_path)))
    assert image.shape == (32, 32, 3)
    about = json.loads(downloaded(page, "made_of.json", tmp_path).read_text())
    assert about["layout"] == "painted" and about["seeds"] == [0, 1, 2, 3]
    assert page.locator("#tiles img").count() == 4
    assert all(url.startswith((address, "blob:", "data:")) for url in page.asked)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_layout_of_the_run_comes_back_exactly(page, served, tmp_path):
    page.locator("#layouts button").nth(1).click()
    page.wait_for_timeout(1500)
    make(page)
    mask = np.asarray(Image.open(downloaded(page, "mask.png", tmp_path)))
    np.testing.assert_array_equal(mask, served[0].layouts(0)[1].mask)


def test_the_segmenter_and_a_set(page, served):
    make(page)
    before = page.locator("#tiles img").first.get_attribute("src")
    page.locator("#opinion input").check()
    page.wait_for_function(f"document.querySelector('#tiles img').src !== '{before}'")
    width = page.viewport_size["width"]
    page.get_by_text("Many of these").click()
    page.get_by_label("Name of the set").fill(f"set{width}")
    page.get_by_label("Tiles", exact=True).fill("5")
    page.click("#series")
    page.wait_for_function("document.querySelector('#series_note')?.innerText.includes('are in')")
    tiles = TileSet.open(served[1] / f"studio/set{width}")
    assert len(tiles.index("synthetic")) == 5


def test_what_is_no_image_is_refused(page, tmp_path):
    wrong = tmp_path / "tile.png"
    wrong.write_text("<script>alert(1)</script>")
    page.locator("input[type=file][multiple]").first.set_input_files(wrong)
    page.get_by_text("cannot be read as an image").wait_for()
