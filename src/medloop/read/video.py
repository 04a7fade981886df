"""One video file to frames with exact times, or one ImageError."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.engine.local import cores
from medloop.errors import ImageError, MissingError, UsageError
from medloop.read.ahead import ahead
from medloop.read.image import MAX_PIXELS, shown

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")

#: Side of the grey thumbnail that tells a new scene.
_LOW = 16
#: Mean difference of two thumbnails, of 255, that makes a new scene.
SCENE = 12.0
#: A stream that fails so often in a row is over.
_MAX_ERRORS = 64
#: How much of its stated length a video may lack before that is said.
_SHORT = 0.1
#: Decoded frames that wait at most while others are turned into arrays.
_AHEAD = 2
#: Larger blocks change nothing (glibc's limit lies at 32 MiB).
_MOST_KEPT = 24 << 20
#: Frames of these codecs, or so large, cost so much that FFmpeg's own threads gain; else they lose.
_HEAVY = ("h264", "hevc", "vvc", "vp8", "vp9", "libvpx-vp9", "av1", "libdav1d")
_LARGE = 1_000_000
#: Kinds of an H.264 unit that hold a slice, of any picture and of one to start from.
_SLICES = (1, 5)


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Parameters
    ----------
    index : int
        Its number among the frames that could be decoded.
    time : float
        Seconds since the first frame, exactly as the container says (pts times time base).
    pixels : (h, w, 3) uint8
    """

    index: int
    time: float
    pixels: NDArray[np.uint8]


@dataclass
class Told:
    """What reading a video told; filled while its frames are taken."""

    decoded: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def frames(
    path: Path,
    name: str | None = None,
    *,
    fps: float | None = None,
    scene: float | None = None,
    told: Told | None = None,
) -> Generator[Frame, None, None]:
    """Read the frames of a video, in order and one at a time.

    Parameters
    ----------
    path : Path
        mp4, mov, avi, mkv or webm, known by its first bytes.
    name : str, optional
        For messages; the file's name where not given.
    fps : float, optional
        Frames a second of the video's own time: the first frame at or after each k / fps. All
        frames where neither this nor ``scene`` is given.
    scene : float, optional
        Only frames that differ from the last one taken by this mean grey value, of 255; 12 is a
        cut, 4 a movement. With ``fps``, of the frames at that rate.
    told : Told, optional
        Filled with how many frames were decoded and with what went wrong: a stream that breaks
        in the middle gives the frames before (and, where they can be decoded, behind) the break.

    Raises
    ------
    ImageError
        Not one frame can be read.
    MissingError
        PyAV is not installed.
    UsageError
        ``fps`` or ``scene`` is not above 0.
    """
    for word, value in (("fps", fps), ("scene", scene)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{word} must be above 0, got {value}.")
    name = shown(path.name if name is None else name)
    return _frames(path, name, fps, scene, Told() if told is None else told)


def _frames(
    path: Path, name: str, fps: float | None, scene: float | None, told: Told
) -> Generator[Frame, None, None]:
    """Turn frames into arrays while a thread decodes those that follow."""
    lost = 0
    converter: Any = None
    with closing(ahead(lambda: _taken(path, name, fps, scene), _AHEAD)) as taken:
        for frame, known in taken:
            told.decoded, told.seconds = known.decoded, known.seconds
            told.problems += known.problems
            if known.failed is not None:
                raise known.failed
            if frame is None:
                return
            if converter is None:
                converter = _converter()
                _keep_memory(3 * frame.width * frame.height)
            try:
                pixels = to_array(frame, converter)
            except Exception as error:  # a damaged header may name a colour space that is none
                lost += 1
                if lost == 1:
                    said = f"frame {known.decoded - 1} cannot be converted: {_reason(error)}"
                    told.problems.append(said)
                continue
            yield Frame(known.decoded - 1, known.seconds, pixels)


@dataclass(frozen=True)
class _Known:
    """What is known of a stream when a frame is taken: frames, time, and what is new."""

    decoded: int
    seconds: float
    problems: tuple[str, ...]
    failed: ImageError | MissingError | None = None


def _taken(
    path: Path, name: str, fps: float | None, scene: float | None
) -> Iterator[tuple[Any, _Known]]:
    """Yield the decoded frames that are wanted, and None behind the last one."""
    told = Told()
    last: NDArray[np.float32] | None = None
    wanted = 0  # the next k of k / fps
    rate = None if fps is None else Fraction(fps).limit_denominator(1_000_000)
    failed: ImageError | MissingError | None = None
    try:
        for frame, time in _decoded(path, name, told):
            told.decoded += 1
            told.seconds = float(time)
            if rate is not None:
                if time * rate < wanted:
                    continue
                wanted = int(time * rate) + 1
            if scene is not None:
                low = thumbnail(frame)
                if last is not None and float(np.abs(low - last).mean()) < scene:
                    continue
                last = low
            yield frame, _Known(told.decoded, told.seconds, _drained(told.problems))
    except (ImageError, MissingError) as error:
        failed = error
    yield None, _Known(told.decoded, told.seconds, _drained(told.problems), failed)


def _drained(problems: list[str]) -> tuple[str, ...]:
    said = tuple(problems)
    problems.clear()
    return said


def _decoded(path: Path, name: str, told: Told) -> Iterator[tuple[Any, Fraction]]:
    """Yield what the decoder gives, with the exact seconds since the first frame."""
    try:
        import av
    except ImportError:
        raise MissingError(
            "reading videos needs av. Install it with: pip install 'medloop[video]'"
        ) from None
    kind = _kind(path, name)
    try:
        # by a file object and a stated format: no other file or address is opened
        with (
            path.open("rb") as stream,
            av.open(stream, format=kind, metadata_errors="replace") as container,
        ):
            yield from _stream(container, name, told)
    except ImageError:  # which is a ValueError, too
        raise
    except Exception as error:  # FFmpeg, PyAV and the system raise a dozen classes
        if not told.decoded:
            raise ImageError(f"{name} cannot be read as a video: {_reason(error)}.") from None
        told.problems.append(f"stops after {told.decoded} frames: {_reason(error)}")
    if not told.decoded:
        more = f": {told.problems[0]}" if told.problems else ""
        raise ImageError(f"{name} holds no frame that can be decoded{more}.")


def _stream(container: Any, name: str, told: Told) -> Iterator[tuple[Any, Fraction]]:
    import av

    if not container.streams.video:
        raise ImageError(f"{name} holds no video stream.")
    stream = container.streams.video[0]
    if stream.width * stream.height > MAX_PIXELS:
        raise ImageError(
            f"{name} has frames of {stream.width:,} x {stream.height:,} pixels, "
            f"at most {MAX_PIXELS:,} are read."
        )
    clock = _Clock(stream)
    broken = in_row = 0
    first: Fraction | None = None
    at = Fraction(0)
    packets = container.demux(stream)
    if stream.codec_context.name in _HEAVY or stream.width * stream.height >= _LARGE:
        packets = _with_threads(stream, packets)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except av.error.FFmpegError as error:
            told.problems.append(f"stops after {told.decoded} frames: {_reason(error)}")
            break
        try:
            decoded = packet.decode()
            in_row = 0
        except av.error.EOFError:
            break
        except av.error.FFmpegError as error:
            broken, in_row = broken + 1, in_row + 1
            if broken == 1:
                told.problems.append(f"a part cannot be decoded: {_reason(error)}")
            if in_row >= _MAX_ERRORS:
                break
            continue
        for frame in decoded:
            if frame.width * frame.height > MAX_PIXELS:
                raise ImageError(f"{name} has a frame of more than {MAX_PIXELS:,} pixels.")
            at = clock(frame, at, first=first is None)
            first = at if first is None else first
            yield frame, at - first if first else at
    _tell_short(container, stream, clock, first, at, told)


def _with_threads(stream: Any, packets: Iterator[Any]) -> Iterator[Any]:
    """Choose FFmpeg's threads by the first packet, and yield that and those that follow.

    Pictures of as many slices as there are cores keep all cores busy; threads that each decode
    another frame do the same for any other stream, but wait for one another, which costs a tenth.
    """
    before = []
    for packet in packets:
        before.append(packet)
        if packet.size:
            if slices(bytes(packet), stream.codec_context) < max(2, cores()):
                stream.thread_type = "AUTO"  # of its own accord PyAV takes slices alone
            break
    yield from chain(before, packets)


def slices(packet: bytes, codec: Any) -> int:
    """Count the slices of an H.264 picture; 0 of any other."""
    if codec.name != "h264":
        return 0
    about = codec.extradata or b""
    if about[:1] != b"\x01" or len(about) < 5:  # units behind start codes (Annex B)
        units = packet.split(b"\0\0\1")[1:]
        return sum(unit[:1] != b"" and unit[0] & 31 in _SLICES for unit in units)
    size = (about[4] & 3) + 1  # units behind their lengths (ISO/IEC 14496-15)
    at = found = 0
    while at + size < len(packet):
        found += packet[at + size] & 31 in _SLICES
        at += size + int.from_bytes(packet[at : at + size], "big")
    return found


class _Clock:
    """Times of frames; where a container keeps none, they follow at its average rate."""

    def __init__(self, stream: Any) -> None:
        self.step = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
        self.base = Fraction(stream.time_base or 0)

    def __call__(self, frame: Any, before: Fraction, *, first: bool) -> Fraction:
        if frame.pts is not None and self.base:
            return int(frame.pts) * self.base
        return before if first else before + self.step


def _tell_short(
    container: Any, stream: Any, clock: _Clock, first: Fraction | None, at: Fraction, told: Told
) -> None:
    """Say that a file ends before the time its header names."""
    if first is None:
        return
    if stream.duration and stream.time_base:
        stated = float(Fraction(stream.duration) * Fraction(stream.time_base))
    elif container.duration:
        stated = container.duration / 1e6
    else:
        return
    seen = float(at - first + clock.step)
    if seen < stated * (1 - _SHORT) and stated - seen > 0.5:
        told.problems.append(f"ends after {seen:.1f} s of {stated:.1f} s")


def _kind(path: Path, name: str) -> str:
    """Return FFmpeg's name of a container by its first bytes."""
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise ImageError(f"{name} cannot be read: {error.strerror}.") from None
    if not head:
        raise ImageError(f"{name} is empty.")
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return "mov"
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return "avi"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    raise ImageError(f"{name} is not an mp4, mov, avi, mkv or webm video.")


def _reason(error: Exception) -> str:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return shown(said.splitlines()[0].rstrip("."))


def _converter() -> Any:
    """Make what turns frames into RGB; kept for a whole video, it costs half."""
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

    made = VideoReformatter()
    try:  # threads of its own cost more than they gain, and older versions have none
        made.reformat(VideoFrame(16, 16, "yuv420p"), format="rgb24", threads=1)
    except TypeError:
        return partial(made.reformat, format="rgb24")
    return partial(made.reformat, format="rgb24", threads=1)


def _keep_memory(size: int) -> None:
    """Let memory that one frame frees serve the next one.

    The C library of Linux returns freed blocks of this size to the system and gets them back page
    by page, which costs twice as much as the conversion does. A larger block, freed once, tells
    it to keep them; elsewhere this does nothing.
    """
    np.empty(min(8 * size, _MOST_KEPT), np.uint8)


def to_array(frame: Any, converter: Any = None) -> NDArray[np.uint8]:
    """Return (h, w, 3) pixels of a decoded frame, turned as its camera noted."""
    converted = (converter or _converter())(frame)
    pixels = np.asarray(converted.to_ndarray(), np.uint8)
    turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def thumbnail(frame: Any) -> NDArray[np.float32]:
    """Return (16, 16) grey values of a decoded frame, without converting all of it."""
    plane = frame.planes[0] if frame.format.name.startswith(("yuv", "gray", "nv12")) else None
    if plane is None or plane.line_size < frame.width or "1" in frame.format.name[-4:]:
        grey = np.asarray(frame.to_ndarray(format="gray"))
    else:
        rows = np.frombuffer(plane, np.uint8)[: plane.line_size * frame.height]
        grey = rows.reshape(frame.height, plane.line_size)[:, : frame.width]
    # a sample is enough to tell scenes, and costs less than all of it
    step = max(1, min(grey.shape) // (8 * _LOW))
    return block_means(grey[::step, ::step], _LOW)


def block_means(grey: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Return (side, side) means of equal blocks; a remainder at the ends is left out.

    Examples
    --------
    >>> block_means(np.arange(16).reshape(4, 4), 2).tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    h, w = grey.shape
    if min(h, w) < side:
        rows, columns = np.arange(side) * h // side, np.arange(side) * w // side
        return np.asarray(grey[rows][:, columns], np.float32)
    part = grey[: h // side * side, : w // side * side]
    blocks = part.reshape(side, h // side, side, w // side)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32))
