"""Readers of other tools' files: what they say, and what is refused by name."""

import csv
import io
import json
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medloop import masks
from medloop.errors import DataError, UsageError
from medloop.read.annotations import find, kind_of, read_annotations
from medloop.read.cells import defuse, undefuse
from medloop.read.cvat import read_cvat
from medloop.read.findings import plain_columns, read_findings
from medloop.read.folder import read_folder
from medloop.read.hf import read_hf
from medloop.read.label_studio import image_name, read_label_studio
from medloop.read.parquet import read_parquet
from medloop.read.sizes import image_size
from medloop.read.table import read_table
from medloop.read.voc import read_voc
from medloop.read.yolo import label_name, read_yolo

quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def picture(path, width=40, height=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (width, height)).save(path)


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


# -- YOLO ----------------------------------------------------------------------------------


def yolo(tmp_path, lines, about="names: [a, b]\ntrain: images/train\n"):
    picture(tmp_path / "images/train/x.png")
    text(tmp_path / "labels/train/x.txt", lines)
    return read_yolo(text(tmp_path / "data.yaml", about))


def test_yolo_boxes_are_shares_of_the_image(tmp_path):
    picture(tmp_path / "images/train/none.png")
    picture(tmp_path / "images/train/open.png")
    text(tmp_path / "labels/train/none.txt", "")
    found = yolo(tmp_path, "1 0.5 0.5 0.25 0.5\n0 0.25 0.5 0.1 0.2 0.75\n")
    assert found.file.tolist() == ["train/none.png", "train/open.png", "train/x.png"]
    assert found.labels.image.tolist() == [2, 2]
    assert found.labels.box.tolist() == [[15, 5, 25, 15], [8, 8, 12, 12]]
    assert found.labels.score.tolist() == [1, 0.75]
    assert found.labels.source.tolist() == ["human", "model"]
    assert found.labels.looked_at.tolist() == [0, 2]
    assert found.size.tolist() == [[20, 40]] * 3
    assert found.split == ["train"] * 3


def test_yolo_names_may_be_numbered_with_gaps(tmp_path):
    found = yolo(tmp_path, "7 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 0.5\n",
                 "names: {7: seven, 3: three}\ntrain: images/train\n")  # fmt: skip
    assert found.classes == ("three", "seven")
    assert found.labels.class_id.tolist() == [1]
    assert "line 2" in found.refused[0][0]


def test_yolo_polygons_fill_pixels(tmp_path):
    found = yolo(tmp_path, "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n")
    assert masks.area(found.labels.mask[0]) == 20 * 10
    assert found.labels.box.tolist() == [[10, 5, 30, 15]]


def test_yolo_pose_has_a_skeleton(tmp_path):
    about = "names: [a]\ntrain: images/train\nkpt_shape: [3, 3]\nflip_idx: [1, 0, 2]\n"
    found = yolo(tmp_path, "0 .5 .5 .5 .5 .1 .2 2 .3 .4 1 0 0 0\n", about)
    assert found.skeleton.flip == ((0, 1),)
    assert found.labels.keypoints[0].tolist() == [[4, 4, 2], [12, 8, 1], [0, 0, 0]]
    two = about.replace("[3, 3]", "[3, 2]")
    found = yolo(tmp_path, "0 .5 .5 .5 .5 .1 .2 .3 .4 0 0\n", two)
    assert found.labels.keypoints[0].tolist() == [[4, 4, 2], [12, 8, 2], [0, 0, 0]]


@pytest.mark.parametrize(
    "line",
    ["2 .5 .5 .5 .5", "-1 .5 .5 .5 .5", "0.5 .5 .5 .5 .5", "0 .5 .5 .5", "0 nan .5 .5 .5", "x y",
     "0 .5 .5 0 .5", "0 9 9 .5 .5", "0 1e999 .5 .5 .5", "0 .5 .5 .5 .5 7",
     "0 .5 .5 .6 .5 .5 99", "9" * 5000 + " 1 1 1 1"],
)  # fmt: skip
def test_a_bad_yolo_line_is_refused_and_the_others_are_kept(tmp_path, line):
    found = yolo(tmp_path, f"0 .5 .5 .5 .5\n{line}\n\n1 .5 .5 .5 .5\n")
    assert len(found.labels) == 2
    assert [where for where, _ in found.refused] == ["labels/train/x.txt line 2"]


@pytest.mark.parametrize(
    ("about", "said"),
    [("names: []", "names"), ("[1]", "names and images"), ("names: {a: b}", "whole numbers"),
     ("names: [a, a]", "distinct"), ("names: [a]\nkpt_shape: [1, 9]", "kpt_shape"),
     ("names: [a", "not YAML"), ("names: [a]\n", "names no image"),
     ("names: [[a]]\n", "whole numbers"), ("x: " + "[" * 1500, "deep|not YAML")],
)  # fmt: skip
def test_a_yaml_that_says_nothing_is_refused(tmp_path, about, said):
    with pytest.raises(DataError, match=said) as caught:
        read_yolo(text(tmp_path / "data.yaml", about))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["/etc", "../..", "..\\x", "../../etc/passwd"])
def test_yolo_lists_do_not_leave_the_data_set(tmp_path, place):
    folder = tmp_path / "set"
    picture(folder / "images/x.png")
    picture(tmp_path / "y.png")
    text(folder / "train.txt", f"./images/x.png\n{place}\n../y.png\n/tmp/z.png\n")
    found = read_yolo(text(folder / "data.yaml", f"names: [a]\ntrain: train.txt\nval: '{place}'\n"))
    assert found.file.tolist() == ["x.png"]
    assert [where for where, _ in found.refused] == [
        *(f"train.txt line {n}" for n in (2, 3, 4)), "data.yaml val"
    ]  # fmt: skip


def test_an_image_that_cannot_be_measured_costs_its_lines_only(tmp_path):
    picture(tmp_path / "images/train/a.png")
    text(tmp_path / "labels/train/a.txt", "0 .5 .5 .5 .5")
    text(tmp_path / "images/train/x.png", "no image")
    text(tmp_path / "labels/train/x.txt", "0 .5 .5 .5 .5")
    found = read_yolo(text(tmp_path / "data.yaml", "names: [a]\ntrain: images/train\n"))
    assert found.file.tolist() == ["train/a.png", "train/x.png"]
    assert found.labels.image.tolist() == [0]
    assert "cannot be measured" in found.refused[0][1]


def test_sizes_follow_the_camera(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("L", (30, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path, "a.jpg") == (30, 10)


def test_label_files_lie_where_ultralytics_looks():
    assert label_name("a/images/b/images/c.d.png") == "a/images/b/labels/c.d.txt"


# -- Pascal VOC and CVAT -------------------------------------------------------------------

VOC = """<annotation><filename>a.png</filename>
<size><width>40</width><height>20</height></size>
<object><name>cell</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3.5</xmax><ymax>4</ymax>
</bndbox></object>{more}</annotation>"""
BOX = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>9</xmax><ymax>4</ymax></bndbox>"


def test_voc_corners_are_taken_as_they_stand(tmp_path):
    more = "<object><name>a</name><score>0.5</score></object>"
    text(tmp_path / "Annotations/a.xml", VOC.format(more=more))
    text(tmp_path / "ImageSets/Main/val.txt", "a\n")
    found = read_voc(tmp_path)
    assert found.classes == ("a", "cell")
    assert found.labels.box.tolist() == [[1, 2, 3.5, 4], [0, 0, 0, 0]]
    assert found.labels.source.tolist() == ["human", "model"]
    assert found.split == ["val"]
    assert found.size.tolist() == [[20, 40]]


@pytest.mark.parametrize(
    "more",
    [f"<object><name>a</name>{BOX.format(x)}</object>" for x in ("x", "nan", "", "1e999", 9, -99)]
    + [f"<object><name></name>{BOX.format(1)}</object>",
       "<object><name>a</name><score>7</score></object>",
       "<object><name>a</name><source>me</source></object>"],
)  # fmt: skip
def test_a_bad_voc_object_is_refused(tmp_path, more):
    found = read_voc(text(tmp_path / "a.xml", VOC.format(more=more)))
    assert len(found.labels) == 1
    assert [where for where, _ in found.refused] == ["a.xml object 1"]


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<annotation><filename>&b;</filename></annotation>"
)
LEAK = (
    '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    "<annotation><filename>&a;</filename></annotation>"
)


@pytest.mark.parametrize(
    "content", [BOMB, LEAK, "<annotation>", "", "<annotation>" + "<a>" * 9000, "\x00", "<a/>",
                '<?xml version="1.0" encoding="none"?><annotation/>'], ids=range(8)
)  # fmt: skip
def test_xml_that_bites_is_one_line(tmp_path, content):
    path = text(tmp_path / "a.xml", content)
    for read in (read_voc, read_cvat):
        with pytest.raises(DataError, match=r"a\.xml") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_one_bad_voc_file_costs_no_other(tmp_path):
    text(tmp_path / "a.xml", VOC.format(more=""))
    text(tmp_path / "b.xml", BOMB)
    text(tmp_path / "c.xml", VOC.format(more="").replace("a.png", "../../c.png"))
    found = read_voc(tmp_path)
    assert found.file.tolist() == ["a.png"]
    assert [where for where, _ in found.refused] == ["b.xml", "c.xml"]


CVAT = """<annotations><version>1.1</version>
<image id="0" name="a.png" width="8" height="6" subset="Validation">
<box label="cell" source="auto" xtl="1" ytl="2" xbr="3.5" ybr="4"/>
<polygon label="cell" points="1,1;5,1;5,3;1,3"/>
<mask label="cell" rle="1, 2, 3" left="2" top="1" width="3" height="2"/>
<tag label="bad"/>
<skeleton label="face"><points label="1" points="1,2" occluded="1"/>
<points label="2" points="5,4"/><points label="10" points="0,0" outside="1"/></skeleton>
<box label="cell" xtl="1" ytl="2" xbr="3" ybr="4" rotation="30"/>
<ellipse label="cell" cx="1"/>
<box label="cell" xtl="nan" ytl="2" xbr="3" ybr="4"/>
<mask label="cell" rle="1, 2" left="7" top="1" width="3" height="1"/>
<polygon label="cell" points="1,1;5"/>
</image><image id="1" name="b.png" width="8" height="6"/>
<image id="2" name="..\\c.png" width="8" height="6"/></annotations>"""


def test_cvat_shapes(tmp_path):
    found = read_cvat(text(tmp_path / "a.xml", CVAT))
    assert found.file.tolist() == ["a.png", "b.png"]
    assert found.split == ["val", ""]
    labels = found.labels
    assert [found.classes[k] for k in labels.class_id] == ["cell", "cell", "cell", "bad", "face"]
    assert labels.source.tolist() == ["model", "human", "human", "human", "human"]
    assert labels.box.tolist()[:2] == [[1, 2, 3.5, 4], [1, 1, 5, 3]]
    drawn = np.zeros((6, 8), bool)
    drawn[1, 3:5] = True
    assert np.array_equal(masks.decode(labels.mask[2]), drawn)
    assert found.skeleton.points == ("1", "2", "10")
    assert labels.keypoints[4].tolist() == [[1, 2, 1], [5, 4, 2], [0, 0, 0]]
    assert labels.box[4].tolist() == [1, 2, 5, 4]
    assert [where.split()[-1] for where, _ in found.refused[:-1]] == ["5", "6", "7", "8", "9"]
    assert labels.looked_at.tolist() == [0, 1]


# -- Label Studio --------------------------------------------------------------------------


def region(kind, value, **more):
    return {"type": kind, "value": value, "original_width": 200, "original_height": 100, **more}


def studio(tmp_path, *results, **task):
    tasks = [{"data": {"image": "/data/upload/1/0a1b2c3d-x.png"}, **task}]
    tasks[0].setdefault("annotations", [{"result": list(results)}])
    return read_label_studio(text(tmp_path / "tasks.json", json.dumps(tasks)))


RECTANGLE = {"x": 10, "y": 20, "width": 30, "height": 40, "rectanglelabels": ["cell"]}


def test_label_studio_regions(tmp_path):
    points = [
        region("keypointlabels", {"x": 1, "y": 2, "keypointlabels": [name]}, parentID="r")
        for name in ("eye", "nose")
    ]
    polygon = {"points": [[10, 10], [20, 10], [20, 30]], "polygonlabels": ["spot"]}
    found = studio(
        tmp_path,
        region("rectanglelabels", RECTANGLE, id="r"),
        region("choices", {"choices": ["good"]}),
        region("polygonlabels", polygon),
        *points,
        predictions=[
            {"model_version": "x round 3", "score": 0.5,
             "result": [region("rectanglelabels", RECTANGLE)]}
        ],
    )  # fmt: skip
    labels = found.labels
    assert found.file.tolist() == ["x.png"]
    assert found.refused == []
    assert [found.classes[k] for k in labels.class_id] == ["cell", "good", "spot", "cell"]
    assert labels.box[0].tolist() == [20, 20, 80, 60]
    assert labels.source.tolist() == ["human"] * 3 + ["model"]
    assert labels.score.tolist() == [1, 1, 1, 0.5]
    assert labels.round.tolist() == [0, 0, 0, 3]
    assert found.skeleton.points == ("eye", "nose")
    assert labels.keypoints[0].tolist() == [[2, 2, 2], [2, 2, 2]]
    assert masks.area(labels.mask[2]) > 0


@pytest.mark.parametrize(
    "bad",
    [
        region("brushlabels", {"rle": [1], "brushlabels": ["a"]}),
        region("rectanglelabels", {**RECTANGLE, "rotation": 5}),
        region("rectanglelabels", {**RECTANGLE, "x": "1"}),
        region("rectanglelabels", {**RECTANGLE, "width": 0}),
        region("rectanglelabels", {**RECTANGLE, "width": 1e300}),
        region("rectanglelabels", {**RECTANGLE, "rectanglelabels": []}),
        region("polygonlabels", {"points": [[1], [2]], "polygonlabels": ["a"]}),
        region("rectanglelabels", None),
        region({}, RECTANGLE),
    ],
)
def test_a_bad_region_is_refused(tmp_path, bad):
    found = studio(tmp_path, region("rectanglelabels", RECTANGLE), bad)
    assert len(found.labels) == 1
    assert len(found.refused) == 1
    assert found.refused[0][0] == "task 0 result 0 region 1"


def test_tasks_that_are_none_are_refused(tmp_path):
    tasks = [7, {}, {"data": []}, {"data": {"image": "../x.png"}}, {"data": {"n": 1}}]
    found = read_label_studio(text(tmp_path / "a.json", json.dumps(tasks)))
    assert len(found) == 0
    assert [where for where, _ in found.refused] == [f"task {i}" for i in range(5)]


def test_images_of_tasks_are_named():
    assert image_name({"id": 3, "url": "s3://bucket/scans/a%20b.png"}) == "scans/a b.png"
    assert image_name({"image": "local.png"}) == "local.png"


def test_a_task_nobody_opened_was_not_looked_at(tmp_path):
    assert studio(tmp_path, annotations=[]).labels.looked_at.tolist() == []
    assert studio(tmp_path).labels.looked_at.tolist() == [0]


# -- tables --------------------------------------------------------------------------------


def test_tables_of_findings_need_no_order(tmp_path):
    content = (
        "label;file;x0;y0;x1;y1;score;patient;split\n"
        "b;one.png;1;2;3;4;0.5;p;val\n ;two.png;;;;;;;\na;.\\one.png;5;6;7;8;;p;val\n"
    )
    found = read_findings(text(tmp_path / "a.csv", content))
    assert found.file.tolist() == ["one.png", "two.png"]
    assert found.classes == ("a", "b")
    assert found.labels.class_id.tolist() == [1, 0]
    assert found.labels.source.tolist() == ["model", "human"]
    assert found.labels.looked_at.tolist() == [0]
    assert found.patient == ["p", ""]
    assert found.split == ["val", ""]


@pytest.mark.parametrize(
    "row",
    ["../a.png,x,,,,,", "/a.png,x,,,,,", "C:\\a.png,x,,,,,", ",x,,,,,", "a.png,x,2,,,,",
     "a.png,x,nan?,,,,", "a.png,x,,1,2,0,4", "a.png,x,,1,2,inf,4", "a.png,x,,1,2,,4",
     "a.png,x,,1,2,3,4,5", "good.png,x,,,,,", "a.png,x,,1,2,y,4"],
)  # fmt: skip
def test_a_bad_row_of_a_table_is_refused(tmp_path, row):
    content = f"file,label,score,x0,y0,x1,y1\ngood.png,x,,,,,\n{row}\n"
    found = read_findings(text(tmp_path / "a.csv", content))
    assert len(found.labels) == 1
    assert [where for where, _ in found.refused] == ["row 3"]


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "no column 'file'"), ("file,file,label\n", "twice"), ("file,x\n", "no column 'label'"),
     ('file,label\n"a', "no table"), ("file,label\na\0,b\n", "row 2|no table")],
)  # fmt: skip
def test_what_is_no_table_is_refused(tmp_path, content, said):
    path = text(tmp_path / "a.csv", content)
    if "\0" in content:
        assert read_findings(path).refused[0][0] == "row 2"
        return
    with pytest.raises(DataError, match=said):
        read_findings(path)


@given(st.text("ab,\"\n\r' =", max_size=40), st.sampled_from([",", "b"]), st.integers(2, 3))
def test_columns_are_cut_where_the_csv_library_cuts(content, delimiter, width):
    columns = plain_columns(content, delimiter, width)
    if columns is not None:
        rows = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
        assert list(zip(*columns, strict=True)) == list(map(tuple, rows))


def test_lines_without_quotes_are_cut(tmp_path):
    assert plain_columns("a,b\r\n,\r\n", ",", 2) == [["a", ""], ["b", ""]]
    assert plain_columns("a;b", ";", 2) == [["a"], ["b"]]
    for content in ("a,b\n\n", "a,b,c\n", "a\n", "a,b,c\nd\n", "a\rb,c\n", '"a",b\n', ""):
        assert plain_columns(content, ",", 2) is None


@pytest.mark.parametrize("header", ["file,label,score,source,round,accepted", "label,x0,file"])
@quick
@given(content=st.lists(st.sampled_from(
    ["a.png,x,0.5,model,1,true", "x,,a.png", '"b\n.png",,,,,', ",", "", "'=a,'=x,1,human,0,true",
     "b.png,x,2,,,", "b.png,y,,,,", "c.png,,,human,,", '"x","1",d.png', "../e,x,,,,", "x,1,b.png"]
), max_size=12), end=st.sampled_from(["\n", "\r\n", "\r"]))  # fmt: skip
def test_rows_are_read_alike_with_and_without_cutting(tmp_path, header, content, end):
    path = tmp_path / "a.csv"
    path.write_text(end.join([header, *content, ""]), newline="")
    said = []
    for cut in (plain_columns, lambda *_: None):
        with patch.multiple("medloop.read.findings", BATCH=3, plain_columns=cut):
            found = read_findings(path)
        columns = {name: column.tolist() for name, column in found.labels.columns()}
        looked = found.labels.looked_at.tolist()
        said.append((found.file.tolist(), found.classes, columns, looked, found.refused))
    assert said[0] == said[1]


def sheet(path, rows):
    from openpyxl import Workbook

    book = Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def test_excel_reads_like_csv(tmp_path):
    rows = [
        ["file", "label", "patient", "text"],
        ["a.png", 1, "p", None],
        ["b.png", 2.5, None, True],
    ]
    path = sheet(tmp_path / "labels.bin", rows)
    table = read_table(path)
    assert table.file == ["a.png", "b.png"]
    assert table.label == ["1", "2.5"]
    assert table.patient == ["p", ""]
    assert table.columns == {"text": ["", "true"]}
    assert read_findings(path).classes == ("1", "2.5")
    with pytest.raises(DataError, match=r"line 3: .* another label"):
        read_table(sheet(tmp_path / "b.xlsx", [["file", "label"], ["a.png", 1], ["a.png", 2]]))


def test_excel_that_bites_is_one_line(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "bomb.xlsx", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("xl/worksheets/sheet1.xml", b" " * 30_000_000)
    (tmp_path / "cut.xlsx").write_bytes(b"PK\x03\x04 and nothing")
    with zipfile.ZipFile(tmp_path / "other.xlsx", "w") as packed:
        packed.writestr("a.txt", "a")
    for name, said in (("bomb", "unpacks to"), ("cut", "no Excel"), ("other", "no Excel")):
        for read in (read_findings, read_table):
            with pytest.raises(DataError, match=said) as caught:
                read(tmp_path / f"{name}.xlsx")
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "cell", ["=1+1", "+1", "-1", "@a", "\t=1", "\r", "'=1", "''=1", "'a", "a'", ""]
)
def test_formulas_are_defused_and_come_back(cell):
    safe = defuse(cell)
    assert safe[:1] not in ("=", "+", "-", "@", "\t", "\r")
    assert undefuse(safe) == cell


# -- the others, and which is which --------------------------------------------------------


def test_folders_are_classes_and_splits(tmp_path):
    for name in ("train/a/x.png", "train/b/y.png", "val/_none/z.png", "val/w.png"):
        picture(tmp_path / name)
    found = read_folder(tmp_path)
    assert found.classes == ("a", "b")
    assert found.labels.image.tolist() == [0, 1]
    seen = found.file[found.labels.looked_at].tolist()
    assert seen == ["train/a/x.png", "train/b/y.png", "val/_none/z.png"]
    assert found.split == ["train", "train", "val", "val"]


def test_metadata_of_an_image_folder(tmp_path):
    lines = [
        {"file_name": "a.png", "label": "x"},
        {"file_name": "b.png", "objects": {"bbox": [[1, 2, 3, 4]], "categories": ["y"]}},
        {"file_name": "../c.png"},
        {"file_name": "d.png", "objects": {"bbox": [[1, 2, 3]], "categories": ["y"]}},
        {"file_name": "e.png", "objects": {"bbox": [], "categories": 3}},
        [],
    ]
    content = "\n".join([*map(json.dumps, lines), "{"])
    text(tmp_path / "train/metadata.jsonl", content)
    found = read_hf(tmp_path)
    assert found.file.tolist() == [f"train/{n}.png" for n in "abde"]
    assert found.labels.box.tolist() == [[0, 0, 0, 0], [1, 2, 4, 6]]
    assert found.split == ["train"] * 4
    assert [int(where.split()[2]) for where, _ in found.refused] == [3, 4, 5, 6, 7]


def test_parquet_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(DataError, match="no Parquet file"):
        read_parquet(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"PK\x03\x04", "table"), (b"PAR1", "parquet"), (b"<?xml?><annotation>", "voc"),
     (b"\xef\xbb\xbf<annotations>", "cvat"), (b"<html>", ""), (b"[]", "label-studio"),
     (b' {"images": []}', "coco"), (b'{"file_name": "a"}\n{}', "hf"), (b"label;file\n", "table"),
     (b"file\tlabel\n", "table"), (b"# x\nnames: [a]\n", "yolo"), (b"hello", ""), (b"", ""),
     (b"\xff\xfe\x00", "")],
)  # fmt: skip
def test_the_kind_is_told_by_content(tmp_path, content, kind):
    path = tmp_path / "any.name"
    path.write_bytes(content)
    assert kind_of(path) == kind
    if not kind:
        with pytest.raises(UsageError, match="no kind that is read"):
            find(path)


def test_the_kind_of_a_folder(tmp_path):
    picture(tmp_path / "f/a/x.png")
    assert find(tmp_path / "f") == (tmp_path / "f", "folder")
    text(tmp_path / "f/labels.csv", "file,label\na/x.png,a\n")
    assert find(tmp_path / "f") == (tmp_path / "f/labels.csv", "table")
    text(tmp_path / "f/coco.json", '{"images": [], "categories": [], "annotations": []}')
    with pytest.raises(UsageError, match="several label files"):
        find(tmp_path / "f")
    assert find(tmp_path / "f", "csv")[1] == "table"
    assert find(tmp_path / "f", "folder")[1] == "folder"
    text(tmp_path / "f/data.yaml", "names: [a]\n")
    assert find(tmp_path / "f") == (tmp_path / "f/data.yaml", "yolo")
    with pytest.raises(UsageError, match="Did you mean 'coco'"):
        find(tmp_path / "f", "cocoa")
    with pytest.raises(UsageError, match="no labels at"):
        read_annotations(tmp_path / "none")
