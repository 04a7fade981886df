import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from medloop.dataset import ArrayPixels
from medloop.errors import DataError, UsageError
from medloop.prepare.border import HOWS, Border, CroppedPixels, crop, cut, inscribed
from medloop.prepare.content import find_border
from medloop.prepare.surround import surround


def tissue(h=256, w=320, seed=0):
    """Smooth colour noise, bright everywhere."""
    random = np.random.default_rng(seed)
    small = random.uniform(90, 230, (9, 11, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC))


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


# -- find -------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    cx=st.floats(0.35, 0.65),
    cy=st.floats(0.35, 0.65),
    r=st.floats(0.25, 0.55),
    softness=st.floats(0, 4),
    noise=st.floats(0, 8),
    black=st.floats(0, 20),
    seed=st.integers(0, 5),
)
def test_a_disc_is_found(cx, cy, r, softness, noise, black, seed):
    frame = tissue(seed=seed)
    truth = Border.circle(frame.shape, cx * 320, cy * 256, r * 256)
    bordered = surround(frame, truth, softness=softness, noise=noise, black=black, seed=seed)
    found = find_border(bordered)
    assert found.kind == "circle"
    assert iou(found.mask(frame.shape), truth.mask(frame.shape)) > 0.97


@settings(max_examples=30, deadline=None)
@given(
    x=st.tuples(st.floats(0.05, 0.4), st.floats(0.6, 0.95)),
    y=st.tuples(st.floats(0.05, 0.4), st.floats(0.6, 0.95)),
    softness=st.floats(0, 3),
    noise=st.floats(0, 8),
    black=st.floats(0, 20),
    open_side=st.integers(0, 4),
    seed=st.integers(0, 5),
)
def test_a_rectangle_is_found(x, y, softness, noise, black, open_side, seed):
    frame = tissue(seed=seed)
    sides = [int(x[0] * 320), int(y[0] * 256), int(x[1] * 320), int(y[1] * 256)]
    if open_side < 4:
        sides[open_side] = (0, 0, 320, 256)[open_side]
    truth = Border("rectangle", *sides)
    bordered = surround(frame, truth, softness=softness, noise=noise, black=black, seed=seed)
    found = find_border(bordered)
    assert found.kind == "rectangle"
    assert iou(found.mask(frame.shape), truth.mask(frame.shape)) > 0.96


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    noise=st.floats(0, 20),
    grey=st.booleans(),
)
def test_a_bright_frame_has_none(seed, size, noise, grey):
    frame = surround(tissue(*size, seed=seed), Border.whole(size), noise=noise, seed=seed)
    found = find_border(frame[..., 0] if grey else frame)
    assert found == Border("none", 0, 0, size[1], size[0])


@pytest.mark.parametrize("value", [0, 3, 20, 128, 255])
def test_an_even_frame_has_none(value):
    assert find_border(np.full((120, 160, 3), value, np.uint8)).kind == "none"


def test_a_black_frame_with_noise_has_none():
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(6, 5, (200, 240, 3))
        assert find_border(np.clip(noise, 0, 255).astype(np.uint8)).kind == "none"


def test_a_dark_region_of_no_shape_has_none():
    y, x = np.mgrid[:256, :320]
    for phase in range(8):
        frame = tissue().copy()
        frame[x < 70 + 50 * np.sin(y / 17 + phase)] = 4
        assert find_border(frame).kind == "none"


def test_a_circle_squeezed_with_its_frame_is_found():
    frame = tissue(400, 400)
    bordered = surround(frame, Border.circle(frame.shape, 190, 205, 150), softness=1)
    squeezed = np.asarray(Image.fromarray(bordered).resize((400, 280)))
    found = find_border(squeezed)
    assert found.kind == "circle"
    assert found.aspect == pytest.approx(0.7, abs=0.01)
    assert (found.cx, found.cy) == pytest.approx((190, 143.5), abs=1)
    assert found.r == pytest.approx(150, abs=1.5)


@pytest.mark.parametrize(
    "where", [(160, 128, 190), (60, 128, 170), (160, 20, 150), (300, 250, 220)]
)
def test_a_circle_cut_by_the_frame_is_found(where):
    frame = tissue()
    truth = Border.circle(frame.shape, *where)
    found = find_border(surround(frame, truth, softness=1, noise=3))
    assert found.kind == "circle"
    assert iou(found.mask(frame.shape), truth.mask(frame.shape)) > 0.98


def test_letters_in_the_black_are_ignored():
    frame = tissue(400, 512)
    for truth in (
        Border.circle(frame.shape, 256, 200, 150),
        Border("rectangle", 120, 60, 400, 340),
    ):
        image = Image.fromarray(surround(frame, truth, black=5, noise=2))
        draw = ImageDraw.Draw(image)
        for y in (4, 20, 36, 350, 366, 382):
            draw.text((4, y), "PATIENT 0123 11:45", fill=(240, 240, 240))
            draw.text((430, y), "SCOPE 7 GAIN", fill=(80, 200, 80))
        found = find_border(np.asarray(image))
        assert found.kind == truth.kind
        assert iou(found.mask(frame.shape), truth.mask(frame.shape)) > 0.98


@pytest.mark.parametrize("gain", [0.05, 0.1, 0.2, 0.35])
def test_a_dark_frame_is_right_or_none(gain):
    for seed in range(6):
        frame = (tissue(seed=seed) * gain).astype(np.uint8)
        truth = Border.circle(frame.shape, 150, 130, 100)
        found = find_border(surround(frame, truth, softness=1, noise=1, black=1, seed=seed))
        if found.kind != "none":
            assert iou(found.mask(frame.shape), truth.mask(frame.shape)) > 0.95


def test_other_depths_and_grey_give_the_same_border():
    frame = surround(tissue(), Border.circle((256, 320), 150, 130, 100), black=2)
    want = find_border(frame)
    grey = frame.max(axis=2)
    assert find_border(grey) == want
    assert find_border(np.dstack([grey] * 3)) == want
    for other in (frame.astype(np.uint16) * 257, frame.astype(np.float32) / 255):
        found = find_border(other)
        assert iou(found.mask(frame.shape), want.mask(frame.shape)) > 0.99


def test_the_same_frame_gives_the_same_answer_and_stays_as_it_is():
    frame = surround(tissue(), Border.circle((256, 320), 150, 130, 100), noise=5)
    before = frame.copy()
    assert find_border(frame) == find_border(frame)
    np.testing.assert_array_equal(frame, before)


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_large_frames_are_found_to_the_pixel(scale):
    y, x = np.mgrid[: 300 * scale, : 400 * scale] + 0.5
    disc = (x - 210 * scale) ** 2 + (y - 140 * scale) ** 2 < (110 * scale) ** 2
    found = find_border(np.where(disc, 180, 4).astype(np.uint8))
    assert (found.cx, found.cy, found.r) == pytest.approx(
        (210 * scale, 140 * scale, 110 * scale), abs=0.5 + 0.3 * scale
    )


@pytest.mark.parametrize("shape", [(4,), (4, 5, 1), (4, 5, 4), (0, 5), (4, 0, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(DataError, match="pixels must have shape"):
        find_border(np.zeros(shape, np.uint8))


# -- crop -------------------------------------------------------------------------------------


def circles():
    return st.builds(
        lambda cx, cy, r, aspect: Border.circle((120, 160), cx, cy, r, aspect),
        st.floats(40, 120),
        st.floats(30, 90),
        st.floats(15, 110),
        st.floats(0.6, 1.6),
    )


@settings(max_examples=100, deadline=None)
@given(border=circles())
def test_the_inscribed_rectangle_is_content_and_no_larger_one_is(border):
    x0, y0, x1, y1 = inscribed(border)
    content = border.mask((120, 160))
    assert content[y0:y1, x0:x1].all()
    area = (x1 - x0) * (y1 - y0)
    # brute force over rectangles whose corners lie on a grid
    summed = np.zeros((121, 161), int)
    summed[1:, 1:] = np.cumsum(np.cumsum(content, 0), 1)
    xs, ys = np.arange(0, 161, 8), np.arange(0, 121, 8)
    a, b = (part.ravel() for part in np.meshgrid(xs, xs))
    c, d = (part.ravel() for part in np.meshgrid(ys, ys))
    a, b, c, d = a[:, None], b[:, None], c[None], d[None]
    size = np.maximum(b - a, 0) * np.maximum(d - c, 0)
    full = summed[d, b] - summed[c, b] - summed[d, a] + summed[c, a] == size
    assert area >= 0.97 * size[full].max() - 2 * (160 + 120)


@settings(max_examples=30, deadline=None)
@given(border=circles())
def test_stretched_the_content_fills_its_rectangle_and_nothing_else_enters(border):
    frame = np.zeros((120, 160), np.float32)
    frame[border.mask(frame.shape)] = 1
    out = crop(frame, border, "stretch")
    assert out.shape == (border.y1 - border.y0, border.x1 - border.x0)
    assert out.min() >= 0
    # only pixels that touch the rim may be mixed with black
    assert (out[2:-2, 2:-2] > 0.99).mean() > 0.97
    assert out.mean() > 0.93


def test_stretching_is_the_elliptical_map():
    size = 201
    y, x = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    border = Border("circle", 0, 0, size, size, cx=size / 2, cy=size / 2, r=size / 2)
    for plane, want in ((x, "x"), (y, "y")):
        out = crop(plane.astype(np.float32), border, "stretch")
        u, v = (x, y) if want == "x" else (y, x)
        np.testing.assert_allclose(out, u * np.sqrt(1 - v**2 / 2), atol=0.02)


def test_a_rectangle_is_cut_out_whichever_way():
    frame = tissue(50, 60)
    border = Border("rectangle", 10, 5, 40, 45)
    for how in ("bounding", "inscribed", "stretch"):
        np.testing.assert_array_equal(crop(frame, border, how), frame[5:45, 10:40])
    np.testing.assert_array_equal(crop(frame, border, "none"), frame)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("how", HOWS)
def test_a_crop_keeps_the_type_and_is_a_copy(dtype, how):
    frame = tissue(60, 60).astype(dtype)
    for border in (Border.circle(frame.shape, 30, 30, 20), Border.whole(frame.shape)):
        out = crop(frame, border, how)
        assert out.dtype == dtype
        out[:] = 0
        assert frame.all()


def test_borders_and_ways_that_cannot_be_are_refused():
    frame = np.zeros((10, 10), np.uint8)
    with pytest.raises(UsageError, match="Did you mean 'stretch'"):
        crop(frame, Border.whole(frame.shape), "strech")
    with pytest.raises(DataError, match="reaches to \\(20, 10\\)"):
        crop(frame, Border("rectangle", 0, 0, 20, 10))
    with pytest.raises(DataError, match="Did you mean 'circle'"):
        Border("circel", 0, 0, 1, 1)
    for box in ((3, 0, 3, 5), (0, 6, 4, 5), (-1, 0, 4, 5)):
        with pytest.raises(DataError, match="at least a pixel"):
            Border("rectangle", *box)
    for r in (None, 0.0, -3.0, math.nan):
        with pytest.raises(DataError, match="circle needs"):
            Border("circle", 0, 0, 4, 4, cx=2, cy=2, r=r)


def test_a_border_is_plain_json():
    said = json.loads(json.dumps(Border.circle((10, 10), 5, 5, 3).to_dict()))
    assert Border(**said) == Border.circle((10, 10), 5, 5, 3)
    assert json.loads(json.dumps(Border.whole((3, 4)).to_dict()))["cx"] is None


def test_pixels_are_cut_the_same_way_in_training_and_in_serving():
    frames = np.stack(
        [surround(tissue(seed=s), Border.circle((256, 320), 160, 128, 90)) for s in (0, 1)]
    )
    pixels = CroppedPixels(ArrayPixels({"train": frames}))
    for i in range(2):
        name = f"train/{i}"
        read = pixels.read(name)
        np.testing.assert_array_equal(read, pixels.decode(pixels.raw(name), name))
        np.testing.assert_array_equal(read, cut(frames[i]))
        assert read.shape[0] == pytest.approx(180, abs=3)
        assert pixels.raw(name) == frames[i].tobytes()


# -- surround ---------------------------------------------------------------------------------


def test_a_border_put_on_leaves_the_content_as_it_was():
    frame = tissue(80, 90)
    border = Border.circle(frame.shape, 45, 40, 30)
    out = surround(frame, border, black=7)
    inside = border.mask(frame.shape)
    np.testing.assert_array_equal(out[inside], frame[inside])
    assert (out[~inside] == 7).all()


def test_what_cannot_be_put_on_is_refused():
    with pytest.raises(DataError, match="uint8"):
        surround(np.zeros((4, 4)), Border.whole((4, 4)))
    with pytest.raises(DataError, match="0 or more"):
        surround(np.zeros((4, 4), np.uint8), Border.whole((4, 4)), noise=-1)


# -- real frames ------------------------------------------------------------------------------


def real(folder, name, n):
    files = sorted((folder / name / "images").iterdir())
    return [np.asarray(Image.open(f).convert("RGB")) for f in files[:: max(1, len(files) // n)]]


@pytest.mark.data
def test_real_frames_without_a_border_have_none(data_folder):
    kinds = [find_border(frame).kind for frame in real(data_folder, "vocalfolds", 120)]
    assert np.mean([kind == "none" for kind in kinds]) >= 0.98


@pytest.mark.data
def test_borders_on_real_frames_are_found(data_folder):
    scores = []
    for i, frame in enumerate(real(data_folder, "vocalfolds", 20)):
        random = np.random.default_rng(i)
        cx, cy, r = random.uniform((200, 200, 130), (312, 312, 280))
        disc = Border.circle(frame.shape, cx, cy, r)
        x0, y0, x1, y1 = (int(v) for v in random.uniform((5, 5, 300, 300), (200, 200, 505, 505)))
        for truth in (disc, Border("rectangle", x0, y0, x1, y1)):
            made = surround(
                frame, truth, softness=random.uniform(0, 5), noise=random.uniform(0, 8), seed=i
            )
            scores.append(iou(find_border(made).mask(frame.shape), truth.mask(frame.shape)))
    assert np.mean(scores) >= 0.97


@pytest.mark.data
def test_of_real_bordered_frames_nothing_black_stays(data_folder):
    for frame in real(data_folder, "otoscopy_aom_border", 25):
        border = find_border(frame)
        assert border.kind == "circle"
        brightest = frame.max(axis=2)
        black = np.median(brightest[:5, :5]) + 12
        outside = ~border.mask(frame.shape)
        # what lies outside is black but for a blurred rim, and the rim inside is not
        assert (brightest[outside] > black + 40).mean() < 0.03
        wide = Border.circle(frame.shape, border.cx, border.cy, border.r + 3, border.aspect)
        ring = wide.mask(frame.shape) & outside
        assert brightest[ring].mean() < brightest[~outside].mean() / 2
