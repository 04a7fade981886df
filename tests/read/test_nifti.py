import gzip
import io
import itertools

import nibabel
import numpy as np
import pytest

from medloop.errors import ImageError
from medloop.read import nifti

RANDOM = np.random.default_rng(0)
VOXELS = RANDOM.integers(-500, 500, (4, 5, 6), dtype=np.int16)


def opened(data, **options):
    return nifti.open_volume(io.BytesIO(data), "a.nii", **options)


def read(data, which):
    volume = opened(data)
    try:
        return nifti.read_slice(volume, which)
    finally:
        volume.stream.close()


def refusal(data, which="z0"):
    with pytest.raises(ImageError) as caught:
        read(data, which)
    line = str(caught.value)
    assert line.startswith("a.nii")
    assert "\n" not in line
    return line


def changed(voxels=VOXELS, affine=None, kind=nibabel.Nifti1Image, **fields):
    """Write a volume, then set fields of its header as they are."""
    data = kind(voxels, np.eye(4) if affine is None else affine).to_bytes()
    header_class = kind.header_class
    size = header_class.template_dtype.itemsize
    header = header_class(data[:size], check=False)
    for field, value in fields.items():
        header[field] = value
    return header.binaryblock + data[size:]


def as_seen(volume):
    """Turn a canonical array (right, front, up) as a reader of axial slices sees it."""
    return np.flip(volume, (0, 1)).swapaxes(0, 1)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_slices_lie_the_same_however_they_were_stored(order):
    for signs in itertools.product((1, -1), repeat=3):
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for axis in range(3):
            affine[order[axis], axis] = signs[axis] * (axis + 1.5)
        image = nibabel.Nifti1Image(VOXELS, affine)
        want = as_seen(nibabel.as_closest_canonical(image).get_fdata())
        volume = opened(image.to_bytes())
        names = nifti.slices(volume)
        got = np.stack([nifti.read_slice(volume, name) for name in names], axis=2)
        np.testing.assert_array_equal(got, want)
        told = nifti.look(io.BytesIO(image.to_bytes()), "a.nii")
        assert (told.height, told.width, told.frames) == want.shape
        zooms = nibabel.as_closest_canonical(image).header.get_zooms()
        spacing = [float(told.columns[f"spacing_{word}"]) for word in ("column", "row", "slice")]
        np.testing.assert_allclose(spacing, zooms)
        assert told.columns["orientation"] == "".join(nibabel.aff2axcodes(affine))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "f4", "f8", ">i2"])
def test_numbers_come_back_scaled(kind, packed, dtype):
    voxels = RANDOM.integers(0, 100, (3, 4, 2)).astype(dtype)
    image = kind(voxels, np.eye(4))
    image.header.set_data_dtype(dtype)
    data = image.to_bytes()
    data = gzip.compress(data) if packed else data
    got = read(data, "z1")
    np.testing.assert_array_equal(got, as_seen(voxels)[..., 1])
    kept = dtype in ("u1", "u2")
    assert got.dtype == (np.dtype(dtype) if kept else np.float32)
    scaled = changed(voxels.astype("u1"), kind=kind, scl_slope=0.25, scl_inter=-3)
    got = read(scaled, "z0")
    np.testing.assert_array_equal(got, as_seen(voxels)[..., 0] * 0.25 - 3)


def test_a_series_and_colour_are_read():
    voxels = RANDOM.integers(0, 100, (3, 4, 2, 3), dtype=np.int16)
    volume = opened(nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes())
    assert nifti.slices(volume) == ["z0t0", "z1t0", "z0t1", "z1t1", "z0t2", "z1t2"]
    got = nifti.read_slice(volume, "z1t2")
    np.testing.assert_array_equal(got, as_seen(voxels[..., 2])[..., 1])
    rgb = RANDOM.integers(0, 256, (3, 4, 2, 3), dtype=np.uint8)
    colours = rgb.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    volume = opened(nibabel.Nifti1Image(colours, np.eye(4)).to_bytes())
    np.testing.assert_array_equal(nifti.read_slice(volume, "z1"), as_seen(rgb)[:, :, 1])


def test_a_flat_image_needs_no_slice():
    flat = nibabel.Nifti1Image(VOXELS[:, :, :1], np.eye(4)).to_bytes()
    np.testing.assert_array_equal(read(flat, ""), as_seen(VOXELS[:, :, :1])[..., 0])
    assert nifti.look(io.BytesIO(flat), "a.nii").slices == []
    whole = nibabel.Nifti1Image(VOXELS, np.eye(4)).to_bytes()
    assert "has 6 slices: name one, as a.nii#z0" in refusal(whole, "")
    assert "no slice z6" in refusal(whole, "z6")
    assert "name a slice" in refusal(whole, "3")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "32767 x 32767 x 32767"),
        ({"dim": [3, -4, 5, 6, 1, 1, 1, 1]}, "impossible shape [-4, 5, 6]"),
        ({"dim": [9, 4, 5, 6, 1, 1, 1, 1]}, "makes no sense"),
        ({"dim": [5, 4, 5, 3, 1, 2, 1, 1]}, "5 dimensions, expected at most 4"),
        ({"dim": [3, 4, 5, 7, 1, 1, 1, 1]}, "is truncated: it has"),
        ({"scl_slope": np.inf}, "scl_slope of inf"),
        ({"scl_slope": 1, "scl_inter": np.nan}, "scl_inter of nan"),
        ({"scl_slope": 1e35}, "scl_slope of 1e+35"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "not finite"),
        ({"srow_x": [0, 0, 0, 0]}, "fewer than three axes"),
        ({"pixdim": [1, 1e9, 1, 1, 1, 1, 1, 1]}, "voxels of 1e+09 x 1 x 1 mm"),
        ({"datatype": 32}, "type that is not read"),
        ({"datatype": 3}, "type that is not read"),
        ({"vox_offset": np.inf}, "voxels start at inf"),
        ({"vox_offset": -1}, "voxels start at -1"),
        ({"magic": b"ni1"}, "header of a pair"),
        ({"magic": b"abc"}, "is not NIfTI"),
    ],
)
def test_an_impossible_header_is_refused_before_the_data(fields, reason):
    data = changed(**fields)
    assert reason in refusal(data)
    assert reason in nifti.look(io.BytesIO(data), "a.nii").reason
    if "truncated" not in reason:
        assert reason in refusal(gzip.compress(data))


def test_no_scale_is_written_in_two_ways():
    for slope in (0, np.nan):
        got = read(changed(scl_slope=slope, scl_inter=7), "z0")
        np.testing.assert_array_equal(got, as_seen(VOXELS)[..., 0])


def test_what_a_gzip_file_holds_is_counted_while_it_is_unpacked():
    data = changed()
    assert "truncated" in refusal(gzip.compress(data[:-1]))
    assert "cut or damaged" in refusal(gzip.compress(data)[:-9])
    assert "cut or damaged" in refusal(gzip.compress(data)[:150] + bytes(80))
    more = gzip.compress(data) + gzip.compress(bytes(5 << 20))
    assert "more than the" in refusal(more)
    # two members are one file, and a tape is padded with zeros
    two = gzip.compress(data[:400]) + gzip.compress(data[400:]) + bytes(512)
    np.testing.assert_array_equal(read(two, "z0"), as_seen(VOXELS)[..., 0])
    claims = changed(dim=[3, 1000, 1000, 500, 1, 1, 1, 1])
    assert "such a file is not read" in refusal(gzip.compress(claims))


def test_numbers_that_are_not_finite_are_refused():
    voxels = VOXELS.astype(np.float32)
    voxels[0, 0, 2] = np.nan
    data = nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes()
    assert "a.nii#z2 has a pixel of nan" in refusal(data, "z2")
    assert read(data, "z1").shape == (5, 4)


def test_the_free_text_of_a_header_is_not_told():
    data = changed(descrip=b"Zaphod Beeblebrox", aux_file=b"zaphod", db_name=b"Beeblebrox")
    assert "ebleb" not in repr(nifti.look(io.BytesIO(data), "a.nii"))
