"""What may be told about a DICOM or NIfTI file."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class About:
    """What may be told about a file: no name, no number, no date of anybody.

    Parameters
    ----------
    kind : str
        ``"DICOM"``, ``"NIfTI"`` or ``"image"``; empty where the file is to be passed over.
    frames, height, width, bits : int
    patient, study : str
        Pseudonyms; empty where the header names none.
    columns : dict of str to str
    flags : list of str
    reason : str
        Why it cannot be labelled; empty where it can.
    said : list of int
        Parts of the path that hold a patient's name or number.
    marks : list of str
        Words of the header under the key, to find them in other paths.
    slices : list of str
        What follows the ``#`` in the names of its images; empty where it is one image.
    """

    kind: str = ""
    frames: int = 0
    height: int = 0
    width: int = 0
    bits: int = 0
    patient: str = ""
    study: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    reason: str = ""
    said: list[int] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    slices: list[str] = field(default_factory=list)
