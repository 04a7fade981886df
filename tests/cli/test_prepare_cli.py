import csv
import json
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
import typer
from PIL import Image

from medloop.cli.prepare import dataset, prepare
from medloop.errors import LockedError, MedloopError, UsageError
from medloop.prepare import frames as frames_module
from medloop.prepare.border import Border, cut
from medloop.prepare.frames import Settings, prepare_images, prepare_videos
from medloop.prepare.surround import surround
from medloop.store.lock import exclusive

app = typer.Typer()
app.command()(prepare)
app.add_typer(dataset, name="dataset")


@pytest.fixture
def call(capsys):
    """Run a command; return its exit code and what it printed."""

    def run(*words):
        capsys.readouterr()
        try:
            code = app([str(word) for word in words], standalone_mode=False) or 0
        except MedloopError as error:
            return error.exit_code, "", str(error)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def tissue(seed, h=120, w=160):
    small = np.random.default_rng(seed).uniform(90, 230, (7, 9, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC))


@pytest.fixture
def images(tmp_path):
    """Two patients: discs, a rectangle, one without a border, a twin, and a broken file."""
    folder = tmp_path / "images"
    disc, box = Border.circle((120, 160), 80, 60, 45), Border("rectangle", 20, 10, 140, 110)
    made = {
        "P1/a.png": surround(tissue(0), disc),
        "P1/b.bmp": surround(tissue(1), box),
        "P1/twin.png": surround(tissue(0), disc, noise=1),
        "P2/c.png": tissue(2),
        "d.png": surround(tissue(3), disc)[..., 0],
    }
    for name, pixels in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    (folder / "P2" / "broken.png").write_bytes(b"no image")
    return folder


def snapshot(folder):
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def contents(folder):
    return {name: data for name, (data, _) in snapshot(folder).items()}


def table(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


# -- images -----------------------------------------------------------------------------------


def test_images_are_cut_and_told_one_line_each(images, tmp_path, call):
    before = snapshot(images)
    code, out, err = call(
        "prepare", "--images", images, "--out", tmp_path / "out", "--crop-borders", "--json"
    )
    assert code == 3
    assert "broken.png is not a PNG" in err
    lines = {line["file"]: line for line in map(json.loads, out.splitlines())}
    assert list(lines) == ["P1/a.png", "P1/b.bmp", "P1/twin.png", "P2/c.png", "d.png"]
    words = ["file", "kind", "x0", "y0", "x1", "y1", "cx", "cy", "r", "aspect"]
    assert all(list(line) == words for line in lines.values())
    assert [line["kind"] for line in lines.values()] == [
        *("circle", "rectangle", "circle", "none", "circle")
    ]
    assert (lines["P1/b.bmp"]["x0"], lines["P1/b.bmp"]["y1"]) == (20, 110)
    assert lines["P1/a.png"]["r"] == pytest.approx(45, abs=1)
    assert lines["P2/c.png"]["cx"] is None
    assert snapshot(images) == before
    for name in lines:
        written = np.asarray(Image.open(tmp_path / "out" / name.replace(".bmp", ".png")))
        np.testing.assert_array_equal(written, cut(np.asarray(Image.open(images / name))))
    rows = table(tmp_path / "out" / "frames.csv")
    assert [row["patient"] for row in rows] == ["P1", "P1", "P1", "P2", ""]
    assert [row["group"] for row in rows] == ["P1", "P1", "P1", "P2", "d.png"]
    refused = table(tmp_path / "out" / "quarantine.csv")
    assert [(row["file"], row["what"]) for row in refused] == [("P2/broken.png", "refused")]


def test_twins_are_left_out_where_that_is_asked_for(images, tmp_path, call):
    (images / "P2" / "broken.png").unlink()
    words = ["prepare", "--images", images, "--out", tmp_path / "out"]
    code, out, _ = call(*words, "--drop-duplicates")
    assert code == 0
    assert "4 frames" in out
    assert "1 near duplicates left out" in out
    assert not (tmp_path / "out" / "P1" / "twin.png").exists()
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out" / "P1" / "a.png")),
        np.asarray(Image.open(images / "P1" / "a.png")),
    )
    assert call(*words, "--drop-duplicates")[1] == out


@pytest.mark.parametrize("twins", [False, True])
def test_a_cut_call_goes_on_and_ends_with_the_same_bytes(images, tmp_path, monkeypatch, twins):
    settings = Settings(crop="stretch", drop_duplicates=twins)
    prepare_images(images, tmp_path / "whole", settings)

    def stop(stage, done, total):
        if done == last[-1]:
            raise KeyboardInterrupt

    last = []
    for at in range(1, 7):
        last.append(at)
        with pytest.raises(KeyboardInterrupt):
            prepare_images(images, tmp_path / "cut", settings, progress=stop)
        assert not (tmp_path / "cut" / "frames.csv").exists()
    saved = []
    save = frames_module._save
    monkeypatch.setattr(frames_module, "_save", lambda *a: (saved.append(a[0].name), save(*a)))
    told = []
    done = prepare_images(images, tmp_path / "cut", settings, tell=told.append)
    assert saved == []
    assert len(told) == len(done.rows) == (4 if twins else 5)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_changed_source_is_prepared_again(images, tmp_path):
    prepare_images(images, tmp_path / "out")
    Image.fromarray(tissue(9)).save(images / "P1" / "a.png")
    (tmp_path / "out" / "d.png").unlink()
    prepare_images(images, tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/P1/a.png")), tissue(9))
    assert (tmp_path / "out" / "d.png").exists()


def test_names_that_would_be_one_keep_their_suffix(images, tmp_path):
    shutil.copy(images / "P1" / "b.bmp", images / "P1" / "a.bmp")
    done = prepare_images(images, tmp_path / "out")
    assert {row["file"] for row in done.rows if "/a" in row["file"]} == {
        *("P1/a-bmp.png", "P1/a-png.png")
    }


def test_deep_pixels_are_kept_in_png_and_jpeg_is_8_bit(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    deep = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    Image.fromarray(deep).save(folder / "a.png")
    prepare_images(folder, tmp_path / "png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "png" / "a.png")), deep)
    prepare_images(folder, tmp_path / "jpg", Settings(format="jpg"))
    assert np.asarray(Image.open(tmp_path / "jpg" / "a.jpg")).dtype == np.uint8


def test_what_cannot_be_asked_is_refused(images, tmp_path, call):
    out = tmp_path / "out"
    for words, said in (
        (["--out", out], "one of --images DIR and --videos DIR"),
        (["--out", out, "--images", images, "--videos", images], "one of --images"),
        (["--out", images / "out", "--images", images], "must lie outside"),
        (["--out", images, "--images", images], "must lie outside"),
        (["--out", out, "--images", tmp_path / "none"], "no folder at"),
        (["--out", out, "--images", images, "--fps", "2"], "need --videos"),
        (["--out", out, "--images", images, "--format", "gif"], "unknown format 'gif'"),
        (["--out", out, "--videos", images], "holds no video"),
        (["--out", out, "--images", images, "--crop-borders", "--crop", "x"], "unknown crop 'x'"),
    ):
        code, _, err = call("prepare", *words)
        assert code == 2
        assert said in err
    assert not (images / "out").exists()


def test_a_folder_of_other_settings_or_of_others_is_left_alone(images, tmp_path):
    prepare_images(images, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with pytest.raises(UsageError, match="made with crop 'none', now 'stretch'"):
        prepare_images(images, tmp_path / "out", Settings(crop="stretch"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not empty"):
        prepare_images(images, tmp_path / "mine")
    with exclusive(tmp_path / "out"), pytest.raises(LockedError):
        prepare_images(images, tmp_path / "out")
    assert snapshot(tmp_path / "out") == before


# -- videos -----------------------------------------------------------------------------------


def write_video(path, pictures, rate=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, rate)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


@pytest.fixture
def videos(tmp_path):
    """Patient P1 with two videos of 3 s, a video of nobody, a broken and a cut one."""
    folder = tmp_path / "videos"
    disc = Border.circle((120, 160), 80, 60, 45)
    still = [surround(tissue(0), disc)] * 30
    moving = [np.roll(tissue(i // 5), 4 * i, axis=1) for i in range(30)]
    write_video(folder / "P1" / "Ear_1.mp4", still)
    write_video(folder / "P1" / "Ear_2.avi", moving)
    write_video(folder / "alone.mkv", moving)
    write_video(folder / "P2" / "cut.mkv", moving)
    whole = (folder / "P2" / "cut.mkv").read_bytes()
    (folder / "P2" / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (folder / "P2" / "broken.mp4").write_bytes(b"no video")
    return folder


def test_videos_become_frames_with_times_and_patients(videos, tmp_path, call):
    before = snapshot(videos)
    words = ["prepare", "--videos", videos, "--out", tmp_path / "out", "--fps", "2"]
    code, out, err = call(*words, "--crop-borders", "--json")
    assert code == 3
    assert snapshot(videos) == before
    rows = table(tmp_path / "out" / "frames.csv")
    assert [json.loads(line)["file"] for line in out.splitlines()] == [row["file"] for row in rows]
    still = [row for row in rows if row["source"] == "P1/Ear_1.mp4"]
    assert [row["file"] for row in still] == [f"P1/Ear_1_{5 * i:06d}.png" for i in range(6)]
    assert [row["timestamp"] for row in still] == [f"{i / 2:.6f}" for i in range(6)]
    assert {row["patient"] for row in still} == {"P1"}
    assert {row["kind"] for row in still} == {"circle"}
    alone = [row for row in rows if row["source"] == "alone.mkv"]
    assert {(row["patient"], row["group"]) for row in alone} == {("", "alone.mkv")}
    for row in rows:
        assert (tmp_path / "out" / row["file"]).is_file()
    told = {row["file"]: row for row in table(tmp_path / "out" / "quarantine.csv")}
    assert told["P2/broken.mp4"]["what"] == "refused"
    assert told["P2/cut.mkv"]["what"] == "read in part"
    assert 0 < len([row for row in rows if row["source"] == "P2/cut.mkv"]) < 6
    assert "broken.mp4 is not an mp4" in err
    assert call(*words, "--crop-borders", "--json")[1] == out


def test_a_still_video_gives_one_frame_where_twins_are_dropped(videos, tmp_path):
    done = prepare_videos(videos, tmp_path / "out", Settings(fps=5, drop_duplicates=True))
    count = [row["source"] for row in done.rows].count
    assert count("P1/Ear_1.mp4") == 1
    assert count("P1/Ear_2.avi") >= 6
    # another patient's frames are not twins of this one's
    assert count("alone.mkv") == count("P1/Ear_2.avi")
    assert done.dropped >= 14


def test_finished_videos_are_not_opened_again(videos, tmp_path, monkeypatch):
    settings = Settings(fps=2)
    prepare_videos(videos, tmp_path / "whole", settings)

    def stop(stage, done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_videos(videos, tmp_path / "cut", settings, progress=stop)
    opened = []
    read = frames_module.video.frames

    def listen(path, *words, **more):
        opened.append(path.name)
        return read(path, *words, **more)

    monkeypatch.setattr(frames_module.video, "frames", listen)
    prepare_videos(videos, tmp_path / "cut", settings)
    # a video that could not be read is tried again: somebody may have copied it anew
    assert opened == ["broken.mp4", "cut.mkv", "alone.mkv"]
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


# -- versions ---------------------------------------------------------------------------------


@pytest.fixture
def versions(tmp_path):
    (tmp_path / "frames").mkdir()
    lines = ["path,organ,quality,split"]
    for i in range(12):
        quality = "bad" if i % 4 == 0 else "good"
        lines.append(f"{i}.png,{('Ear', 'Nose')[i % 3 == 0]},{quality},{'test' * (i > 8)}")
        (tmp_path / "frames" / f"{i}.png").write_bytes(bytes([i]))
    (tmp_path / "sheet.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "v.yaml").write_text(
        "sheet: sheet.csv\nimages: frames\nnoise: quality=bad\nversions:\n"
        "  v0: {noisy: true, about: everything}\n  v1: {noisy: false, cropped: true}\n"
    )
    return tmp_path / "v.yaml"


def test_versions_are_listed_shown_frozen_and_compared(versions, call):
    code, out, _ = call("dataset", "list", versions)
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["v0", "12"], ["v1", "9"]]
    assert "not frozen" in out
    code, out, _ = call("dataset", "freeze", versions, "--json")
    hashes = json.loads(out)
    listed = json.loads(call("dataset", "list", versions, "--json")[1])
    assert {one["name"]: one["sha256"] for one in listed} == hashes
    code, out, _ = call("dataset", "show", versions, "v1", "--json")
    shown = json.loads(out)
    assert shown["counts"] == {
        "test": {"Ear": 2, "Nose": 1},
        "train": {"Ear": 4, "Nose": 2},
    }
    assert shown["sha256"] == hashes["v1"]
    assert shown["frozen"]
    assert "train: Ear 4, Nose 2" in call("dataset", "show", versions, "v1")[1]
    code, out, _ = call("dataset", "diff", versions, "v0", "v1")
    assert code == 0
    assert "noisy: True -> False" in out
    assert "train Ear: 6 -> 4 (-2)" in out
    assert "only in v0: 3 files, such as 0.png" in out
    found = json.loads(call("dataset", "diff", versions, "v0", "v1", "--json")[1])
    assert found["only_first"] == ["0.png", "4.png", "8.png"]


def test_a_changed_version_fails_where_it_is_shown(versions, call):
    call("dataset", "freeze", versions)
    (versions.parent / "frames" / "5.png").write_bytes(b"x")
    code, _, err = call("dataset", "show", versions, "v0")
    assert code == 1
    assert "was frozen as" in err
    code, _, err = call("dataset", "show", versions, "v9")
    assert code == 2
    assert "no version 'v9'" in err
