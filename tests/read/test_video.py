from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medloop.errors import ImageError, UsageError
from medloop.read import video
from medloop.read.video import Told, block_means, frames, slices

CODECS = {"mp4": "libx264", "mov": "mjpeg", "avi": "mpeg4", "mkv": "libx264"}


def pictures(n, h=96, w=128, seed=0):
    """n pictures whose mean tells which one it is."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(n):
        small = random.uniform(0, 60, (4, 5, 3)) + 20 + 8 * i
        image = Image.fromarray(np.clip(small, 0, 255).astype(np.uint8))
        made.append(np.asarray(image.resize((w, h), Image.Resampling.BICUBIC)))
    return made


def write(path, images, times=None, *, rate=10, base=None, codec=None, options=None):
    """Write a video whose frames stand at these times in seconds."""
    base = Fraction(1, rate) if base is None else base
    times = [Fraction(i, rate) for i in range(len(images))] if times is None else times
    codec = codec or CODECS[path.suffix[1:]]
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = int(time / base), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", CODECS)
def test_every_frame_comes_back_with_its_time(tmp_path, suffix):
    images = pictures(20)
    path = write(tmp_path / f"a.{suffix}", images)
    told = Told()
    read = list(frames(path, told=told))
    assert [frame.index for frame in read] == list(range(20))
    np.testing.assert_allclose([frame.time for frame in read], np.arange(20) / 10, atol=1e-3)
    for frame, image in zip(read, images, strict=True):
        assert frame.pixels.shape == image.shape
        assert np.abs(frame.pixels.astype(float) - image).mean() < 6
    assert told.decoded == 20
    assert told.problems == []


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_times_of_a_variable_rate_are_exact(tmp_path, suffix):
    milli = Fraction(1, 1000)
    gaps = np.random.default_rng(0).integers(20, 400, 24)
    times = [int(t) * milli for t in np.concatenate([[0], np.cumsum(gaps)])]
    path = write(tmp_path / f"a.{suffix}", pictures(25), times, base=milli)
    read = [frame.time for frame in frames(path)]
    np.testing.assert_allclose(read, [float(t) for t in times], atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(
    gaps=st.lists(st.integers(10, 900), min_size=1, max_size=20),
    fps=st.sampled_from([0.5, 1, 2, 3.7, 30]),
)
def test_a_rate_takes_the_first_frame_at_or_after_each_tick(tmp_path_factory, gaps, fps):
    milli = Fraction(1, 1000)
    times = [int(t) * milli for t in np.concatenate([[0], np.cumsum(gaps)])]
    path = tmp_path_factory.mktemp("video") / "a.mkv"
    write(path, pictures(len(times), 32, 48), times, base=milli)
    want, tick = [], 0
    for i, time in enumerate(times):
        if time >= tick / Fraction(str(fps)):
            want.append(i)
            while tick / Fraction(str(fps)) <= time:
                tick += 1
    assert [frame.index for frame in frames(path, fps=fps)] == want


def test_scenes_are_told_apart(tmp_path):
    one, two = pictures(1, seed=1)[0], 255 - pictures(1, seed=2)[0]
    path = write(tmp_path / "a.mp4", [one] * 6 + [two] * 5 + [one] * 4)
    assert [frame.index for frame in frames(path, scene=12)] == [0, 6, 11]
    assert [frame.index for frame in frames(path, scene=12, fps=2)] == [0, 10]


def test_a_stream_that_breaks_off_keeps_what_was_read(tmp_path):
    path = write(tmp_path / "a.mkv", pictures(25, 240, 320) * 2)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    told = Told()
    read = list(frames(path, told=told))
    assert 5 < len(read) < 45
    assert told.problems
    for frame in read:
        assert frame.time == pytest.approx(frame.index / 10, abs=1e-3)


def test_damage_in_the_middle_costs_only_some_frames(tmp_path):
    path = write(tmp_path / "a.avi", pictures(25, 240, 320) * 2)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(np.random.default_rng(0).integers(0, 256, 400).tolist())
    path.write_bytes(bytes(data))
    read = list(frames(path))
    assert len(read) >= 20


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"hello, this is no video at all", "is not an mp4"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "is not an mp4"),
        (b"\0\0\0\x18ftypmp42" + b"\0" * 200, "cannot be read as a video"),
        (b"RIFF\xff\0\0\0AVI LIST" + b"\0" * 100, "a.mp4"),
        (b"\x1aE\xdf\xa3" + b"\xff" * 100, "a.mp4"),
    ],
)
def test_what_is_no_video_is_one_error(tmp_path, content, said, capfd):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=said) as caught:
        list(frames(path))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_truncated_mp4_without_its_index_is_one_error(tmp_path):
    path = write(tmp_path / "a.mp4", pictures(10))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ImageError, match=r"a\.mp4"):
        list(frames(path))


def test_random_damage_never_raises_anything_else(tmp_path):
    path = write(tmp_path / "a.mp4", pictures(10, 48, 64))
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    for _ in range(60):
        data = bytearray(whole)
        for at in random.integers(0, len(data), 40):
            data[at] = random.integers(256)
        path.write_bytes(bytes(data))
        with suppress(ImageError):
            for frame in frames(path):
                assert frame.pixels.ndim == 3


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        out.mux(stream.encode(sound))
        out.mux(stream.encode(None))
    with pytest.raises(ImageError, match="no video stream"):
        list(frames(path))


def test_too_large_frames_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", pictures(3))
    monkeypatch.setattr("medloop.read.video.MAX_PIXELS", 128 * 96 - 1)
    with pytest.raises(ImageError, match="128 x 96"):
        list(frames(path))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_rates_that_cannot_be_are_refused(tmp_path, value):
    for word in ("fps", "scene"):
        with pytest.raises(UsageError, match=word):
            frames(tmp_path / "a.mp4", **{word: value})


def test_a_missing_file_is_one_error(tmp_path):
    with pytest.raises(ImageError, match=r"a\.mp4 cannot be read"):
        list(frames(tmp_path / "a.mp4"))


@pytest.mark.parametrize("shape", [(3, 5), (16, 16), (33, 50)])
def test_block_means_are_means_of_blocks(shape):
    grey = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    found = block_means(grey, 16)
    assert found.shape == (16, 16)
    if min(shape) >= 16:
        a, b = shape[0] // 16, shape[1] // 16
        assert found[3, 5] == pytest.approx(grey[3 * a : 4 * a, 5 * b : 6 * b].mean(), abs=1e-3)


def test_reading_ahead_changes_nothing_that_is_said(tmp_path):
    path = write(tmp_path / "a.mkv", pictures(25, 240, 320) * 2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    told = Told()
    taken = frames(path, fps=5, told=told)
    for frame in taken:
        # what is decoded ahead is not told yet
        assert told.decoded == frame.index + 1
        assert told.seconds == frame.time
        if frame.index > 8:
            break
    assert told.problems == []
    taken.close()
    assert told.decoded == frame.index + 1


@pytest.mark.parametrize("suffix", CODECS)
def test_pixels_are_those_of_the_plain_way(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", pictures(20, 98, 134))
    with av.open(str(path)) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    read = [frame.pixels for frame in frames(path)]
    assert len(plain) == len(read) == 20
    for one, other in zip(plain, read, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({pixels.__array_interface__["data"][0] for pixels in read}) == 20


def sliced(path, number):
    """Write a video whose pictures have so many slices."""
    options = {"x264-params": f"sliced-threads=0:slices={number}"}
    return write(path, pictures(12, 256, 128), codec="libx264", options=options)


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_slices_are_counted_behind_lengths_and_behind_start_codes(tmp_path, suffix, number):
    with av.open(str(sliced(tmp_path / f"a.{suffix}", number))) as container:
        stream = container.streams.video[0]
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
        behind_lengths = (stream.codec_context.extradata or b"")[:1] == b"\x01"
        assert behind_lengths == (suffix == "mp4")
        assert [slices(packet, stream.codec_context) for packet in packets] == [number] * 12


@pytest.mark.parametrize("number", [1, 2, 4])
def test_threads_follow_the_slices_and_change_no_pixel(tmp_path, monkeypatch, number):
    path = sliced(tmp_path / "a.mkv", number)
    with av.open(str(path)) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    monkeypatch.setattr(video, "cores", lambda: 2)
    chosen = []
    kept = video._with_threads

    def watched(stream, packets):
        yield from kept(stream, packets)
        chosen.append(stream.thread_type.name)

    monkeypatch.setattr(video, "_with_threads", watched)
    read = [frame.pixels for frame in frames(path)]
    assert chosen == ["AUTO" if number == 1 else "SLICE"]
    np.testing.assert_array_equal(read, plain)


@given(st.binary(max_size=60), st.binary(max_size=8))
def test_no_packet_is_too_damaged_to_be_counted(packet, about):
    class Codec:
        name = "h264"
        extradata = about

    assert 0 <= slices(packet, Codec) <= len(packet)
