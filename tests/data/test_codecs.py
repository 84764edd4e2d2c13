import io

import cv2
import numpy as np
import pytest
from PIL import Image

from stedm_jax.data.codecs import encode_png


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (64, 48), (256, 256)])
@pytest.mark.parametrize("kind", ["noise", "smooth", "black", "white"])
def test_every_reader_gets_the_same_pixels(shape, kind):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    if kind == "smooth":
        image = cv2.GaussianBlur(image, (0, 0), 3).reshape(*shape, 3)
    elif kind != "noise":
        image = np.full_like(image, 0 if kind == "black" else 255)
    data = encode_png(image)
    assert np.array_equal(
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], image
    )
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), image)


def test_a_part_of_an_image_is_encoded_as_it_is():
    image = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    part = image[3:19, 5:25]
    assert encode_png(part) == encode_png(np.ascontiguousarray(part))


def test_smooth_images_get_small():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)
    assert len(encode_png(ramp)) < 0.05 * ramp.nbytes
