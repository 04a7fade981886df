import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from medloop.phantoms import draw_phantoms
from medloop.read.lettering import has_lettering


def with_text(pixels, text="DOE^JANE 1970-03-12", at=(8, 12), size=14):
    image = Image.fromarray(pixels)
    white = (255, 255, 255) if pixels.ndim == 3 else 255
    ImageDraw.Draw(image).text(at, text, fill=white, font=ImageFont.load_default(size))
    return np.asarray(image)


GROUNDS = {
    "black": np.zeros((200, 240), np.uint8),
    "ramp": np.tile(np.linspace(0, 140, 240).astype(np.uint8), (200, 1)),
    "noise": np.random.default_rng(0).integers(0, 90, (200, 240), dtype=np.uint8),
    "red": np.full((200, 240, 3), (200, 60, 40), np.uint8),
}


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
@pytest.mark.parametrize("size", [12, 16, 22])
def test_drawn_text_is_suspected_on_any_darker_ground(ground, size):
    assert has_lettering(with_text(ground, size=size))
    assert has_lettering(with_text(ground, at=(20, 150), size=size))
    assert not has_lettering(ground)


def test_the_depth_of_the_pixels_does_not_matter():
    drawn = with_text(GROUNDS["ramp"])
    assert has_lettering(drawn.astype(np.uint16) * 16)
    assert has_lettering(drawn.astype(np.float32) * 3 - 1000)
    large = np.pad(np.kron(drawn, np.ones((3, 3), np.uint8)), ((0, 2000), (0, 1800)))
    assert has_lettering(large)  # as a mammogram is


def test_anatomy_and_noise_are_no_text():
    assert not any(has_lettering(image) for image in draw_phantoms(24, size=128).images)
    random = np.random.default_rng(1)
    assert not has_lettering(random.integers(0, 256, (300, 300), dtype=np.uint8))
    assert not has_lettering(with_text(GROUNDS["black"], "L"))  # the side, not a name


@pytest.mark.data
def test_real_images_without_text_are_not_suspected(data_folder):
    for name in ("knee_kl", "chest_pneumonia"):
        files = sorted((data_folder / name / "images").rglob("*.*"))[:40]
        seen = [has_lettering(np.asarray(Image.open(file).convert("L"))) for file in files]
        assert files
        assert not any(seen)
