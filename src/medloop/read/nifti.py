"""One NIfTI volume to slices that lie as a radiologist expects them.

Runs in a worker (:mod:`medloop.read.worker`). The free text of a header is never looked at.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import plain, usable
from medloop.errors import ImageError, MissingError
from medloop.read.about import About
from medloop.read.image import MAX_PIXELS

#: No volume of this field needs more; it is unpacked to a file, not to memory.
MAX_VOLUME = 4_000_000_000
_MAX_SLICES = 100_000

#: A volume of this size may be all zeros; beyond it, what shrinks more is made to fill the disk.
_SMALL = 256_000_000
_MAX_RATIO = 200
#: Bytes that may follow the voxels.
_SPARE = 1 << 20

_SPACINGS = (1e-6, 1e3)
_LARGEST = 1e30

#: Metre, millimetre and micrometre, as the header codes them, in mm.
_UNITS = {1: 1000.0, 2: 1.0, 3: 0.001}


@dataclass(frozen=True)
class Volume:
    """A NIfTI file whose header was checked; voxels are read slice by slice.

    ``shape`` is that of the canonical volume: to the right, to the front, up, and time.
    """

    stream: BinaryIO
    name: str
    header: Any
    stored: tuple[int, ...]
    shape: tuple[int, int, int, int]
    spacing: tuple[float, float, float]
    axes: tuple[tuple[int, int], ...]  # of each stored axis: the canonical axis, 1 or -1
    orientation: str
    scale: tuple[float, float]


def _nothing(size: int) -> None:
    """Take notice of how much memory the next step needs: without limits, nothing to do."""


def open_volume(stream: BinaryIO, name: str, *, unpack: bool = True) -> Volume:
    """Read and check the header of a NIfTI-1 or NIfTI-2 file, packed by gzip or not.

    Parameters
    ----------
    stream : binary file
    name : str
        For messages only.
    unpack : bool
        Unpack a gzip file (to a temporary one), so that slices can be read.

    Raises
    ------
    ImageError
        The header is no NIfTI header, says something impossible, or the voxels do not follow.
    MissingError
        nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError:
        raise MissingError(
            "NIfTI needs nibabel. Install it with: pip install 'medloop[formats]'"
        ) from None
    stream.seek(0, os.SEEK_END)
    size = stream.tell()
    if not size:
        raise ImageError(f"{name} is empty.")
    stream.seek(0)
    packed = stream.read(2) == b"\x1f\x8b"
    block = _first(stream, name, packed, 540)
    kind = _header_class(nibabel, block, name)
    try:
        header = kind(block[: kind.template_dtype.itemsize], check=False)
        volume = _checked(nibabel, stream, header, name)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(
            f"{name} has a header that makes no sense ({type(error).__name__})."
        ) from None
    needed = _start(header) + math.prod(volume.stored) * header.get_data_dtype().itemsize
    if packed:
        if needed > max(_SMALL, _MAX_RATIO * size):
            raise ImageError(
                f"{name} unpacks {size:,} bytes to {needed:,}: such a file is not read."
            )
        if unpack:
            volume = replace(volume, stream=_unpacked(stream, name, needed))
    elif size < needed:
        raise ImageError(f"{name} is truncated: it has {size:,} of {needed:,} bytes.")
    return volume


def _first(stream: BinaryIO, name: str, packed: bool, count: int) -> bytes:
    stream.seek(0)
    if not packed:
        return stream.read(count)
    return b"".join(_parts(stream, name, count))[:count]


def _parts(stream: BinaryIO, name: str, limit: int) -> Iterator[bytes]:
    """Unpack gzip, member after member, until a little more than the limit has come out."""
    stream.seek(0)
    unpacker = zlib.decompressobj(31)
    given = 0
    pending = stream.read(1 << 16)
    try:
        while pending and given < limit:
            part = unpacker.decompress(pending, 1 << 20)
            given += len(part)
            yield part
            if unpacker.eof:
                pending = unpacker.unused_data or stream.read(1 << 16)
                if not pending.startswith(b"\x1f\x8b"):  # zeros may follow the last member
                    return
                unpacker = zlib.decompressobj(31)
            else:
                pending = unpacker.unconsumed_tail or stream.read(1 << 16)
        broken = given < limit
    except zlib.error:
        broken = True
    if broken:
        raise ImageError(f"{name} is packed by gzip, and cut or damaged.")


def _unpacked(stream: BinaryIO, name: str, needed: int) -> BinaryIO:
    whole: Any = tempfile.TemporaryFile()
    given = 0
    try:
        for part in _parts(stream, name, needed + _SPARE + 1):
            given += len(part)
            if given > needed + _SPARE:
                raise ImageError(
                    f"{name} unpacks to more than the {needed:,} bytes that its header counts."
                )
            whole.write(part)
        if given < needed:
            raise ImageError(f"{name} is truncated: it unpacks to {given:,} of {needed:,} bytes.")
    except BaseException:
        whole.close()
        raise
    return whole  # type: ignore[no-any-return]


def _header_class(nibabel: Any, block: bytes, name: str) -> Any:
    if block[344:348] == b"n+1\0":
        return nibabel.Nifti1Header
    if block[4:8] == b"n+2\0" and len(block) == 540:
        return nibabel.Nifti2Header
    if block[344:348] == b"ni1\0" or block[4:8] == b"ni2\0":
        raise ImageError(f"{name} is the header of a pair of files: join them to one .nii file.")
    raise ImageError(f"{name} is not NIfTI.")


def _start(header: Any) -> int:
    least = int(header["sizeof_hdr"])
    value = float(header["vox_offset"])
    if not (math.isfinite(value) and least <= value <= least + (1 << 24) and value == int(value)):
        raise ImageError(f"voxels start at {value:g}")
    return int(value)


def _checked(nibabel: Any, stream: BinaryIO, header: Any, name: str) -> Volume:
    try:
        _start(header)
    except ImageError as error:
        raise ImageError(f"{name} has a header that makes no sense: {error}.") from None
    dims = [int(value) for value in header["dim"]]
    if not 2 <= dims[0] <= 7 or any(value < 1 for value in dims[1 : dims[0] + 1]):
        raise ImageError(f"{name} has the impossible shape {dims[1 : max(dims[0], 1) + 1]}.")
    stored = tuple(dims[1 : dims[0] + 1]) + (1,) * (4 - dims[0])
    if any(value > 1 for value in stored[4:]):
        raise ImageError(f"{name} has {len(stored)} dimensions, expected at most 4.")
    stored = stored[:4]
    try:
        dtype = header.get_data_dtype()
        if dtype.fields is None and dtype.kind not in "uif":
            raise TypeError(dtype)
    except Exception:
        code = int(header["datatype"])
        raise ImageError(f"{name} holds voxels of a type that is not read (code {code}).") from None
    size = math.prod(stored) * dtype.itemsize
    largest = max(math.prod(stored[:3]) // side for side in stored[:3])
    if largest > MAX_PIXELS or size > MAX_VOLUME:
        raise ImageError(
            f"{name} has {' x '.join(map(str, stored))} voxels, at most {MAX_PIXELS:,} a slice "
            f"and {MAX_VOLUME:,} bytes are read."
        )
    scale = _scale(header, name)
    affine = np.asarray(header.get_best_affine(), np.float64)
    if not np.isfinite(affine).all() or abs(affine).max() > _LARGEST:
        raise ImageError(f"{name} has an orientation that is not finite.")
    turn = nibabel.io_orientation(affine)
    for flat in np.flatnonzero(np.isnan(turn).any(axis=1)):
        if stored[flat] > 1:
            raise ImageError(f"{name} has an orientation of fewer than three axes.")
        turn[flat] = next(axis for axis in range(3) if axis not in turn[:, 0]), 1  # a flat image
    axes = tuple((int(axis), int(flip)) for axis, flip in turn)
    unit = _UNITS.get(int(header["xyzt_units"]) & 7, 1.0)
    shape, spacing = [1, 1, 1, stored[3]], [0.0, 0.0, 0.0]
    for at, (axis, _) in enumerate(axes):
        shape[axis] = stored[at]
        spacing[axis] = abs(float(header["pixdim"][at + 1])) * unit
    low, high = _SPACINGS
    if not all(mm == 0 or low <= mm <= high for mm in spacing):
        said = " x ".join(f"{mm:g}" for mm in spacing)
        raise ImageError(f"{name} has voxels of {said} mm, expected {low:g} to {high:g}.")
    if shape[2] * shape[3] > _MAX_SLICES:
        raise ImageError(
            f"{name} has {shape[2] * shape[3]:,} slices, at most {_MAX_SLICES:,} are read."
        )
    return Volume(
        stream=stream,
        name=name,
        header=header,
        stored=stored,
        shape=(shape[0], shape[1], shape[2], shape[3]),
        spacing=(spacing[0], spacing[1], spacing[2]),
        axes=axes,
        orientation="".join(nibabel.orientations.ornt2axcodes(turn)),
        scale=scale,
    )


def _scale(header: Any, name: str) -> tuple[float, float]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or (math.isnan(slope) and not math.isinf(inter)):
        return 1.0, 0.0  # the standard's ways to say that there is no scale
    for word, value in (("scl_slope", slope), ("scl_inter", inter)):
        if not abs(value) < _LARGEST:
            raise ImageError(
                f"{name} has a {word} of {value:g}, expected a number below {_LARGEST:g}."
            )
    return slope, inter


def slices(volume: Volume) -> list[str]:
    """Name every slice, as in ``v.nii.gz#z12`` or, in a series, ``v.nii.gz#z12t3``."""
    _, _, depth, times = volume.shape
    if times == 1:
        return [f"z{z}" for z in range(depth)]
    return [f"z{z}t{t}" for t in range(times) for z in range(depth)]


def read_slice(volume: Volume, which: str, allow: Callable[[int], None] = _nothing) -> NDArray[Any]:
    """Read one axial slice of the canonical volume.

    Parameters
    ----------
    volume : Volume
    which : str
        ``"z12"`` counts from 0 at the feet; ``"z12t3"`` in a series; empty in a volume of one
        slice.
    allow : callable
        Told how many bytes of memory a step may need, before it takes them.

    Returns
    -------
    (h, w) or (h, w, 3) array
        Seen from the feet: row 0 is at the front of the patient, column 0 at the patient's right,
        as in an axial DICOM image. Scaled as the header says. uint8 and uint16 as stored, else
        float32, or float64 where that would lose digits.

    Raises
    ------
    ImageError
        There is no such slice, or it holds numbers that are not finite.
    """
    from nibabel.fileslice import fileslice

    name = volume.name
    found = re.fullmatch(r"z(\d+)(?:t(\d+))?", which)
    if which and found is None:
        raise ImageError(f"{name} is NIfTI: name a slice as {name}#z0, not #{which}.")
    z, t = (int(found[1]), int(found[2] or 0)) if found else (0, 0)
    width, height, depth, times = volume.shape
    if not which and depth * times > 1:
        raise ImageError(f"{name} has {depth * times:,} slices: name one, as {name}#z0.")
    if z >= depth or t >= times:
        raise ImageError(f"{name} has {depth} slices at {times} times, and no slice {which}.")
    dtype = volume.header.get_data_dtype()
    allow(width * height * (dtype.itemsize + 24))
    across = next(at for at, (axis, _) in enumerate(volume.axes) if axis == 2)
    picked: list[Any] = [slice(None)] * 3 + [t]
    picked[across] = z if volume.axes[across][1] > 0 else depth - 1 - z
    try:
        start = _start(volume.header)
        plane: NDArray[Any] = fileslice(  # type: ignore[no-untyped-call]
            volume.stream, tuple(picked), volume.stored, dtype, start, order="F"
        )
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(f"{name} cannot be read at {which} ({type(error).__name__}).") from None
    left = [volume.axes[at] for at in range(3) if at != across]
    for at, (_, flip) in enumerate(left):
        if flip < 0:
            plane = np.flip(plane, at)
    if left[0][0] > left[1][0]:
        plane = plane.T
    plane = plane[::-1, ::-1].T  # to the right and to the front; rows go back, columns go left
    return usable(_values(volume, plane), name if not which else f"{name}#{which}")


def _values(volume: Volume, plane: NDArray[Any]) -> NDArray[Any]:
    if plane.dtype.fields:
        colours = [plane[word] for word in ("R", "G", "B")]
        return np.ascontiguousarray(np.stack(colours, axis=-1))
    slope, inter = volume.scale
    values: NDArray[Any] = plane
    if (slope, inter) != (1.0, 0.0):
        values = plane.astype(np.float64) * slope + inter
    return np.ascontiguousarray(plain(values))


def look(stream: BinaryIO, name: str) -> About:
    """Tell what a NIfTI file holds."""
    try:
        volume = open_volume(stream, name, unpack=False)
    except ImageError as error:
        return About("NIfTI", reason=str(error))
    width, height, depth, times = volume.shape
    right, front, up = volume.spacing
    columns = {"orientation": volume.orientation}
    for word, mm in (("row", front), ("column", right), ("slice", up)):
        if mm:  # nothing is known of a voxel of no size
            columns[f"spacing_{word}"] = f"{mm:.9g}"
    dtype = volume.header.get_data_dtype()
    bits = 8 if dtype.fields else 8 * dtype.itemsize
    names = slices(volume)
    return About(
        "NIfTI",
        frames=depth * times,
        height=height,
        width=width,
        bits=bits,
        columns=columns,
        slices=names if len(names) > 1 else [],
    )
