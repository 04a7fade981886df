"""What is exported and imported again is the same to the last bit, as far as a format says."""

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from medloop import masks
from medloop.annotations import Skeleton
from medloop.errors import DataError, UsageError
from medloop.export import FORMATS, export_labels, export_workspace, format_of
from medloop.export.blocks import Source, to_json
from medloop.export.csv import quoted
from medloop.imports import import_labels
from medloop.labels import Labels
from medloop.store import ImageRow, Workspace
from medloop.store.files import sha256_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (14, 18)
FILES = ("a.png", "=b.png", "images/c.png", "ü ö/d.png", "it's.png", "e,f.png", "x/images/g.png")
CLASSES = ("10", "9", "-zwölf", "two words", "a&b <c>")
WITH_IMAGES = ("yolo", "hf", "folder")
quick = settings(
    max_examples=5,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for value, file in enumerate(FILES):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", SIZE[::-1], value).save(folder / file)
    return folder


def rows(rng, images, kind, *, source, digits=None):
    """Draw labels of these images with what a kind of them has."""
    m = int(rng.integers(1, 3 * len(images)))
    near = rng.uniform(-0.4, 5, (m, 2))
    box = np.concatenate([near, near + rng.uniform(0.5, 12, (m, 2))], axis=1)
    score = rng.random(m)
    points = np.concatenate([rng.uniform(-2, 15, (m, 3, 2)), rng.integers(0, 3, (m, 3, 1))], axis=2)
    points[rng.random(m) < 0.3] = 0
    picture = rng.random((m, *SIZE)) < 0.3
    mask = np.empty(m, object)
    mask[:] = [masks.encode(p) if p.any() and rng.random() < 0.8 else None for p in picture]
    probs = rng.dirichlet(np.ones(len(CLASSES)), m)
    held = {"box": box, "keypoints": points, "mask": mask, "probs": probs}
    names = {
        "class": [],
        "boxes": ["box"],
        "points": ["box", "keypoints"],
        "masks": ["box", "mask"],
    }
    names["all"] = list(held)
    return Labels(
        image=rng.choice(images, m),
        class_id=rng.integers(0, len(CLASSES), m),
        score=score,
        source=np.full(m, source),
        round=np.full(m, 0) if source == "human" else rng.integers(0, 4, m),
        **{name: held[name] for name in names[kind]},
    )


def make(folder, pictures, seed, kind):
    """Make a workspace whose images are labelled by persons, models, both, and nobody."""
    rng = np.random.default_rng(seed)
    shutil.rmtree(folder, ignore_errors=True)
    with Workspace.create(folder, config={"recipe": "import", "images": str(pictures)}) as made:
        made.register(
            ImageRow(
                id=3 * i + 2,
                file=file,
                sha256=sha256_of(pictures / file),
                height=SIZE[0],
                width=SIZE[1],
                group=i // 2,
                split=("train", "val", "test")[i % 3],
            )
            for i, file in enumerate(FILES)
        )
        made.finish_scan(classes=CLASSES)
        ids = made.table()["id"]
        points = Skeleton(
            points=("l", "m", "r"), edges=((0, 1),), flip=((0, 2),), sigmas=(0.1,) * 3
        )
        payload = {"skeleton": to_json(points)} if kind in ("points", "all") else {}
        plain = rng.random() < 0.5
        person = rows(rng, ids[:3], "class" if plain else kind, source="human")
        model = rows(rng, ids[2:6], kind, source="model")
        # the last image is to be labelled, the one before was examined
        model = model.with_(looked_at=ids[2:6])
        made.log.append("model", "round", labels=model, round=1, payload=payload)
        made.log.append("person", "given", labels=person, payload=payload)
        if rng.random() < 0.5:
            some = rows(rng, ids[4:5], kind, source="human")
            made.log.append("some", "given", labels=some, looked_by="partly")
    return folder


def said(folder, name="", prefix=False):
    """List the labels of a workspace, as a format can hold them where one is named."""
    found, looked, splits, groups = [], set(), {}, {}
    with Workspace.open(folder, read_only=True) as workspace:
        source = Source(workspace)
        format = format_of(name) if name else None
        format = format and (format.instead(source) or format)
        holds = format.holds(source) if format else None
        for block in source.blocks():
            block = format.held(source, block) if format else block
            files = [
                f"{s}/{f}" if prefix else f for s, f in zip(block.split, block.file, strict=True)
            ]
            splits |= dict(zip(files, block.split, strict=True))
            groups |= dict(zip(files, block.patient, strict=True))
            looked |= {f for f, who in zip(files, block.looked, strict=True) if who}
            labels = block.labels
            for at in range(len(labels)):
                row = {"file": files[block.row[at]], "label": source.classes[labels.class_id[at]]}
                row |= {n: getattr(labels, n)[at].item() for n in ("score", "round")}
                row["source"] = str(labels.source[at])
                for n, none in (("box", 4), ("keypoints", 9), ("probs", len(CLASSES))):
                    column = getattr(labels, n)
                    row[n] = [0.0] * none if column is None else (column[at] + 0.0).ravel().tolist()
                row["mask"] = None if labels.mask is None else labels.mask[at]
                found.append(row)
        skeleton = source.skeleton
    return found, looked, splits, groups, holds, skeleton


def table(found, columns):
    return sorted(json.dumps([row[name] for name in columns]) for row in found)


LABEL = ("file", "label", "score", "source", "round", "box", "keypoints", "mask", "probs")


@pytest.mark.parametrize("kind", ["class", "boxes", "points", "masks", "all"])
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "folder"])
@given(seed=st.integers(0, 2**32))
@quick
def test_labels_come_back_to_the_last_bit(pictures, tmp_path, name, kind, seed):
    folder = make(tmp_path / "ws", pictures, seed, kind)
    if name == "yolo" and kind == "class":
        return  # folders of classes, below
    out, again = tmp_path / "out", tmp_path / "again"
    for path in (out, again):
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
    done = export_workspace(folder, out, format=name)
    images = None if name in WITH_IMAGES else pictures
    back = import_labels(out, again, images=images, allow_leak=True, note=lambda sentence: None)
    assert back.refused == []
    assert back.labels == done.labels
    assert back.quarantined == 0
    want, looked, splits, groups, holds, skeleton = said(folder, name, prefix=name == "hf")
    got, looked_again, splits_again, groups_again, _, skeleton_again = said(again)
    columns = [column for column in LABEL if column in holds]
    if name == "yolo":
        for row in got:  # a line in its file is a person's
            assert (row["score"], row["source"], row["round"]) == (1, "human", 0)
    assert table(got, columns) == table(want, columns)
    assert len(want) == done.labels
    assert set(splits) == set(splits_again)
    if "looked" in holds:
        assert looked == looked_again
    if "split" in holds:
        assert splits == splits_again
    if "patient" in holds:
        pairs = {(groups[f], groups_again[f]) for f in groups}
        assert len(pairs) == len(set(groups.values())) == len(set(groups_again.values()))
    if name in ("coco", "parquet") and any(any(row["keypoints"]) for row in want):
        assert skeleton_again == skeleton
    every = said(folder)[0]
    lost = [n for n in LABEL if n not in holds and any(np.any(row[n]) for row in every)]
    said_so = {"box": "boxes", "mask": "masks", "probs": "probabilities"}
    assert all(said_so.get(n, n.rstrip("s")) in done.lost for n in lost)


@pytest.mark.parametrize("name", ["folder", "yolo"])
@given(seed=st.integers(0, 2**32))
@quick
def test_folders_hold_the_most_confident_class(pictures, tmp_path, name, seed):
    folder = make(tmp_path / "ws", pictures, seed, "class")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    shutil.rmtree(tmp_path / "again", ignore_errors=True)
    done = export_workspace(folder, tmp_path / "out", format=name)
    import_labels(tmp_path / "out", tmp_path / "again", allow_leak=True, note=lambda s: None)
    every, looked, splits, *_ = said(folder)
    best = {}
    for row in every:
        key = (row["source"] == "human", row["score"])
        if row["file"] not in best or key > best[row["file"]][0]:
            best[row["file"]] = (key, row["label"])
    want = {}
    for file, split in splits.items():
        label = best[file][1] if file in best else "_none" if file in looked else "_unlabelled"
        want[f"{split}/{label}/{file}"] = best[file][1] if file in best else None
    got, looked_again, splits_again, *_ = said(tmp_path / "again")
    assert {row["file"]: row["label"] for row in got} == {f: k for f, k in want.items() if k}
    assert set(splits_again) == set(want)
    assert looked_again == {f for f in want if "/_unlabelled/" not in f}
    assert done.labels == len(best)


@pytest.mark.data
@pytest.mark.parametrize("name", ["csv", "parquet", "coco", "yolo", "voc", "label-studio", "hf"])
@pytest.mark.parametrize("data", ["bccd", "busi", "faces68", "knee_kl"])
def test_real_labels_come_back(data_folder, tmp_path, data, name):
    source = subset(data_folder / data, tmp_path)
    import_labels(source, tmp_path / "ws", images=data_folder / data, allow_leak=True, note=str)
    done = export_workspace(tmp_path / "ws", tmp_path / "out", format=name)
    if name == "yolo" and data == "knee_kl":
        assert "most confident" in done.lost
        return
    images = None if name in WITH_IMAGES else data_folder / data
    import_labels(tmp_path / "out", tmp_path / "again", images=images, allow_leak=True, note=str)
    want, looked, _, _, holds, _ = said(tmp_path / "ws", name, prefix=name == "hf")
    got, looked_again, *_ = said(tmp_path / "again")
    columns = [column for column in LABEL if column in holds]
    assert table(got, columns) == table(want, columns)
    assert looked_again == looked
    assert len(got) > 20


def subset(folder, tmp_path, most=24):
    """Write the first images of a real set with their annotations."""
    if not (folder / "coco.json").exists():
        with (folder / "labels.csv").open(newline="") as stream:
            lines = list(csv.DictReader(stream))[:most]
        path = tmp_path / "labels.csv"
        with path.open("w", newline="") as stream:
            out = csv.DictWriter(stream, lines[0])
            out.writeheader()
            out.writerows(lines)
        return path
    held = json.loads((folder / "coco.json").read_bytes())
    held["images"] = held["images"][:: len(held["images"]) // most]
    ids = {image["id"] for image in held["images"]}
    held["annotations"] = [row for row in held["annotations"] if row["image_id"] in ids]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(held))
    return path


@given(seed=st.integers(0, 2**32))
@quick
def test_pycocotools_reads_the_coco_file(pictures, tmp_path, seed, capsys):
    from pycocotools.coco import COCO

    folder = make(tmp_path / "ws", pictures, seed, "masks")
    export_labels(folder, tmp_path / "out.json", format="coco")
    read = COCO(str(tmp_path / "out.json"))
    capsys.readouterr()
    want, *_ = said(folder)
    assert sorted(image["file_name"] for image in read.imgs.values()) == sorted(FILES)
    assert [read.cats[k]["name"] for k in sorted(read.cats)] == list(CLASSES)
    assert len(read.anns) == len(want)
    for annotation, row in zip(read.anns.values(), want, strict=True):
        assert read.imgs[annotation["image_id"]]["file_name"] == row["file"]
        assert read.cats[annotation["category_id"]]["name"] == row["label"]
        assert (annotation["score"], annotation["source"]) == (row["score"], row["source"])
        x, y, w, h = annotation["bbox"]
        if any(row["box"]):
            assert [x, y, x + w, y + h] == row["box"] or annotation["box"] == row["box"]
        else:
            assert (x, y, w, h) == (0, 0, SIZE[1], SIZE[0])
        if row["mask"]:
            drawn = read.annToMask(annotation)
            assert np.array_equal(drawn, masks.decode(row["mask"]))


@given(seed=st.integers(0, 2**32))
@quick
def test_a_plain_reader_finds_the_yolo_lines(pictures, tmp_path, seed):
    """A reader of twenty lines, written from ultralytics' description of its format."""
    import yaml

    folder = make(tmp_path / "ws", pictures, seed, "boxes")
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    export_labels(folder, out, format="yolo")
    about = yaml.safe_load((out / "data.yaml").read_text())
    got = []
    for split in ("train", "val", "test"):
        for line in (out / about[split]).read_text().splitlines():
            image = out / line.removeprefix("./")
            with Image.open(image) as opened:
                width, height = opened.size
            head, _, tail = str(image).rpartition("/images/")
            text = Path(f"{head}/labels/{tail.rpartition('.')[0]}.txt")
            for words in map(str.split, text.read_text().splitlines() if text.exists() else ()):
                x, y, w, h = (float(word) for word in words[1:])
                box = [(x - w / 2) * width, (y - h / 2) * height]
                box += [(x + w / 2) * width, (y + h / 2) * height]
                got.append(
                    (
                        image.relative_to(out / "images").as_posix(),
                        about["names"][int(words[0])],
                        box,
                    )
                )
    want = [(r["file"], r["label"], r["box"]) for r in said(folder)[0] if any(r["box"])]
    assert len(got) == len(want)
    for mine, theirs in zip(sorted(got), sorted(want), strict=True):
        assert mine[:2] == theirs[:2]
        np.testing.assert_allclose(mine[2], theirs[2], atol=1e-5)


@pytest.mark.parametrize("name", ["csv", "parquet", "coco", "label-studio", "voc", "hf", "folder"])
def test_the_same_workspace_gives_the_same_bytes(pictures, tmp_path, name):
    folder = make(tmp_path / "ws", pictures, 5, "all")
    for out in ("one", "two"):
        export_labels(folder, tmp_path / out, format=name)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*")]
    if (tmp_path / "one").is_file():
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    for file in files:
        if (tmp_path / "one" / file).is_file():
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("name", ["csv", "coco", "voc", "yolo"])
def test_small_blocks_make_no_difference(pictures, tmp_path, name, monkeypatch):
    folder = make(tmp_path / "ws", pictures, 7, "all")
    export_labels(folder, tmp_path / "large", format=name)
    monkeypatch.setattr("medloop.export.blocks.IMAGES", 2)
    monkeypatch.setattr("medloop.export.blocks.LABELS", 3)
    monkeypatch.setattr("medloop.export.blocks.CHUNK", 2)
    export_labels(folder, tmp_path / "small", format=name)
    large, small = tmp_path / "large", tmp_path / "small"
    if name == "coco":
        assert json.loads(small.read_bytes()) == json.loads(large.read_bytes())
    elif name == "csv":
        assert small.read_bytes() == large.read_bytes()
    else:
        for path in large.rglob("*.*"):
            if path.is_file():
                assert (small / path.relative_to(large)).read_bytes() == path.read_bytes()


@given(st.lists(st.text('ab,"\n\r =', max_size=6), min_size=1))
def test_cells_are_quoted_as_the_csv_library_does(cells):
    line = ",".join([*quoted(cells), "x"])
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow([*cells, "x"])
    if "\r" not in line:  # which some versions of the library leave bare and cannot read back
        assert f"{line}\n" == stream.getvalue()
    assert next(csv.reader(io.StringIO(line, newline=""), strict=True)) == [*cells, "x"]


def test_columns_that_a_format_does_not_write_are_not_read(pictures, tmp_path):
    with Workspace.open(make(tmp_path / "ws", pictures, 3, "boxes"), read_only=True) as workspace:
        source = Source(workspace)
        whole, some = next(source.blocks()), next(source.blocks(images=("patient",)))
        val = next(source.blocks(split="val"))
    assert some.file == whole.file == list(FILES)
    assert some.patient == whole.patient == [str(i // 2) for i in range(len(FILES))]
    assert whole.size.tolist() == [list(SIZE)] * len(FILES)
    assert not some.size.any()
    assert set(some.split) == set(some.sha256) == {""}
    assert val.file == list(FILES[1::3])
    there = set(whole.row.tolist())
    assert whole.bare().tolist() == [at for at in range(len(FILES)) if at not in there]


def test_a_target_that_holds_something_is_left_alone(pictures, tmp_path):
    folder = make(tmp_path / "ws", pictures, 1, "boxes")
    (tmp_path / "out").mkdir()
    export_labels(folder, tmp_path / "out", format="voc")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="not empty"):
        export_labels(folder, tmp_path / "out", format="voc")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["csv", "parquet", "coco", "voc", "label-studio"])
def test_what_does_not_read_back_is_not_delivered(pictures, tmp_path, name, monkeypatch):
    folder = make(tmp_path / "ws", pictures, 2, "boxes")
    format = format_of(name)

    def moved(block):
        box = block.labels.box
        if box is None:
            return block
        return replace(block, labels=block.labels.with_(box=np.where(box != 0, box + 0.25, 0)))

    def spoilt(source, blocks, path):
        format.write(source, lambda: map(moved, blocks()), path)

    monkeypatch.setattr("medloop.export.format_of", lambda _: replace(format, write=spoilt))
    with pytest.raises(DataError, match="it has another box"):
        export_labels(folder, tmp_path / "out", format=name)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*.part"))
