"""What kind of file it is, by what stands in it."""

from __future__ import annotations

import re
import stat
import struct
import zlib
from pathlib import Path

DICOM, NIFTI, IMAGE = "DICOM", "NIfTI", "image"

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
NIFTI_SUFFIXES = (".nii", ".nii.gz")

#: Bytes that are enough to tell.
HEAD = 1024

_FRAME = re.compile(r"(?P<file>.+)#(?P<frame>[1-9]\d{0,8}|z\d{1,6}(t\d{1,6})?)", re.DOTALL)
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM")


def split_frame(name: str) -> tuple[str, str]:
    """Split the name of one frame of a file: DICOM counts from 1, a NIfTI slice from z0.

    Examples
    --------
    >>> split_frame("a/b.dcm#3"), split_frame("v.nii.gz#z12t4"), split_frame("a#b.png")
    (('a/b.dcm', '3'), ('v.nii.gz', 'z12t4'), ('a#b.png', ''))
    """
    found = _FRAME.fullmatch(name)
    return (found["file"], found["frame"]) if found else (name, "")


def kind_of(head: bytes, name: str = "") -> str:
    """Tell DICOM, NIfTI or another image by the first kilobyte; empty where it is none of them.

    A name that ends as DICOM and NIfTI files do is believed where the bytes tell nothing.

    Examples
    --------
    >>> kind_of(bytes(128) + b"DICM"), kind_of(b"hello"), kind_of(b"hello", "a.dcm")
    ('DICOM', '', 'DICOM')
    """
    if is_dicom(head):
        return DICOM
    if is_nifti(head):
        return NIFTI
    if head.startswith(_PICTURES):
        return IMAGE
    if name.lower().endswith(DICOM_SUFFIXES):
        return DICOM
    return NIFTI if name.lower().endswith(NIFTI_SUFFIXES) else ""


def is_dicom(head: bytes) -> bool:
    """Tell whether bytes begin as DICOM does, with its preamble or without one."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16:
        return False
    group, element, vr = struct.unpack("<HH2s", head[:6])
    if group == 0x0800 and head[3] <= 0x18 and head[2] == 0:  # big endian
        return head[4:6] in _FIRST
    if group not in (0x0002, 0x0008) or element > 0x0018:
        return False
    if vr in _FIRST:
        return True
    length = struct.unpack("<I", head[4:8])[0]
    return group == 0x0008 and length <= 64 and length % 2 == 0 and _is_text(head[8 : 8 + length])


#: Types of the elements that can come first in a data set.
_FIRST = (b"UL", b"OB", b"CS", b"UI", b"DA", b"TM", b"SH")


def _is_text(value: bytes) -> bool:
    return all(32 <= byte < 127 for byte in value.rstrip(b"\0")) or len(value) == 4


def is_nifti(head: bytes) -> bool:
    """Tell whether bytes begin as NIfTI-1 or NIfTI-2 does, packed by gzip or not."""
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(31).decompress(head, HEAD)
        except zlib.error:
            return False
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def head_of(path: Path) -> bytes:
    """Read the first kilobyte of a regular file; nothing of what is none or cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with path.open("rb") as file:
            return file.read(HEAD)
    except (OSError, ValueError):
        return b""
