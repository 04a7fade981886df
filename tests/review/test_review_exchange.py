"""Answers that come back as Label Studio tasks or COCO, and the report that follows them."""

import json
import os
from html import unescape

import numpy as np
import pytest
import typer
from desks import make
from test_review_objects import landmarks, plain
from typer.testing import CliRunner

from medloop.cli import people
from medloop.errors import DataError, MedloopError
from medloop.export import export_labels
from medloop.labels import MODEL
from medloop.report.certified import certificate_state
from medloop.review.desk import Desk
from medloop.review.reports import is_stale, renew_report
from medloop.review.tables import close_audit, list_audit, read_answers
from medloop.store.workspace import Workspace


def rectangle(box, label="face", *, name="r0", width=100, height=100):
    x0, y0, x1, y1 = box
    return {
        "id": name,
        "type": "rectanglelabels",
        "original_width": width,
        "original_height": height,
        "value": {
            "x": 100 * x0 / width,
            "y": 100 * y0 / height,
            "width": 100 * (x1 - x0) / width,
            "height": 100 * (y1 - y0) / height,
            "rectanglelabels": [label],
        },
    }


def spot(point, label, parent):
    x, y, seen = point
    value = {"x": x, "y": y, "width": 0.5, "keypointlabels": [label]}
    sides = {"original_width": 100, "original_height": 100}
    return {
        "id": f"{parent}{label}",
        "parentID": parent,
        "type": "keypointlabels",
        "meta": {"visibility": seen},
        "value": value,
        **sides,
    }


def task(image, *annotations, predictions=()):
    return {
        "data": {"image": image},
        "annotations": [{"result": list(result)} for result in annotations],
        "predictions": [{"result": list(result)} for result in predictions],
    }


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_label_studio_comes_back_as_a_named_persons_answers(tmp_path):
    ws = landmarks(tmp_path / "ws", 10)
    box = [20.0, 30.0, 60.0, 100.0]
    # points in another order than the workspace has them; the machine's prediction is no answer
    drawn = [rectangle(box), spot([60, 65, 1], "right", "r0"), spot([20, 65, 2], "left", "r0")]
    tasks = [
        task("/data/local-files/?d=f/06.png", drawn, predictions=[[rectangle([0, 0, 5, 5])]]),
        task("/data/upload/3/0a1b2c3d-07.png", []),
        task("f/08.png", predictions=[[rectangle([0, 0, 5, 5])]]),
        {**task("f/09.png", [rectangle(box)]), "annotations": [{"was_cancelled": True}]},
    ]
    export = write(tmp_path / "export.json", tasks)
    done = read_answers(ws, export, reviewer="ann")
    assert (done["fix"], done["same"], done["audit"]) == (2, 0, 0)
    assert read_answers(ws, export, reviewer="ann")["same"] == 2
    with Desk(ws) as desk:
        items = {n: desk.item(desk.item_id(f"f/{n:02d}.png")) for n in (6, 7, 8, 9)}
    assert [items[n].decided for n in (6, 7, 8, 9)] == [True, True, False, False]
    (one,) = plain(items[6].findings)
    assert one["box"] == pytest.approx(box)
    assert one["keypoints"] == [[20, 65, 2], [60, 65, 1]]
    assert items[7].findings == []
    assert items[6].history[-1]["who"] == "ann"


def test_what_medloop_gave_to_label_studio_comes_back(tmp_path):
    ws = landmarks(tmp_path / "ws", 6)
    out = tmp_path / "tasks.json"
    export_labels(ws, out, format="label-studio")
    tasks = json.loads(out.read_text())
    for one in tasks:  # a person accepts every prediction, and changes one class
        regions = [r for p in one.pop("predictions") for r in p["result"]]
        regions += [r for a in one.get("annotations", []) for r in a["result"]]
        one["annotations"] = [{"result": regions}]
    first = tasks[5]["annotations"][0]["result"][0]
    first["value"]["rectanglelabels"] = ["hand"]
    before = {}
    with Desk(ws) as desk:
        for name, file in desk.files().items():
            before[file] = plain(desk.item(name).findings)
    before["f/05.png"][0]["class"] = "hand"
    done = read_answers(ws, write(tmp_path / "done.json", tasks), reviewer="ann")
    assert done["fix"] == 6
    with Desk(ws) as desk:
        for name, file in desk.files().items():
            found = plain(desk.item(name).findings)
            assert len(found) == len(before[file])
            for one, other in zip(found, before[file], strict=True):
                assert one["class"] == other["class"]
                assert one["box"] == pytest.approx(other["box"], abs=1e-4)
                np.testing.assert_allclose(one["keypoints"], other["keypoints"], atol=1e-4)


def coco(files, annotations, *, names=("face",), **more):
    return {
        "images": [
            {"id": n, "file_name": file, "width": 100, "height": 100, **more}
            for n, file in enumerate(files)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
        "annotations": [
            {"id": k, "iscrowd": 0, "area": 1, "category_id": 0, **one}
            for k, one in enumerate(annotations)
        ],
    }


def test_coco_answers_the_audit_too(tmp_path):
    ws = landmarks(tmp_path / "ws", 40)
    state = list_audit(ws, 4, error_rate=0.2, confidence=0.8, blind=True, loss="iou", repeats=0)
    rows = (ws / "audit.csv").read_text().splitlines()[1:]
    files = [row.partition(",")[0] for row in rows]
    assert len(files) == state["listed"] == 4
    boxes = {}
    with Desk(ws) as desk:
        for name, file in desk.files().items():
            boxes[file] = [one["box"] for one in desk.item(name).findings]
    given = [
        {"image_id": n, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for n, file in enumerate(files)
        for x0, y0, x1, y1 in boxes[file]
    ]
    done = read_answers(ws, write(tmp_path / "coco.json", coco(files, given[1:])))
    assert done["audit"] == 4
    with Desk(ws) as desk:
        audit = desk.home()["audit"]
    assert (audit["counted"], audit["errors"]) == (4, 1)
    # a file with a machine's rows says nothing of images without a person's
    mixed = coco(["f/30.png", "f/31.png"], [{"image_id": 0, "bbox": [1, 1, 9, 9]}])
    mixed["annotations"][0] |= {"score": 0.5, "source": "model"}
    with pytest.raises(DataError, match="has no answer of a person"):
        read_answers(ws, write(tmp_path / "mixed.json", mixed))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            [task("f/77.png", [rectangle([1, 1, 5, 5])])],
            "f/77.png is not an image of",
        ),
        ([task("f/06.png", [rectangle([1, 1, 5, 5], "foot")])], "unknown class 'foot'"),
        ([task("f/06.png", [], [])], "f/06.png has 2 annotations"),
        ([task("f/06.png", [{"type": "ellipselabels", "value": {}}])], "cannot be taken whole"),
        (
            [task("f/06.png", [rectangle([1, 1, 5, 5], width=50)])],
            "has 100 x 100 pixels, but its labels were made for 100 x 50",
        ),
        (
            [task("f/06.png", [rectangle([1, 1, 5, 5]), spot([1, 1, 2], "nose", "r0")])],
            "unknown point 'nose'",
        ),
        (coco(["f/06.png"], [{"image_id": 0, "bbox": [70, 70, 40, 10]}]), "inside the image"),
        (
            coco(["f/06.png", "g/06.png"], [{"image_id": 0, "bbox": [1, 1, 5, 5]}]),
            "is answered twice",
        ),
    ],
)
def test_what_cannot_be_taken_whole_is_not_taken(tmp_path, content, words):
    ws = landmarks(tmp_path / "ws", 10)
    with pytest.raises(DataError, match=words):
        read_answers(ws, write(tmp_path / "a.json", content))
    with Workspace.open(ws, read_only=True) as workspace:
        assert workspace.log.events("review") == []


def test_the_verb_takes_both(tmp_path):
    ws = landmarks(tmp_path / "ws", 10)
    app = typer.Typer()
    app.command()(people.answers)
    export = write(tmp_path / "e.json", [task("f/06.png", [rectangle([1, 1, 50, 50], "hand")])])
    done = CliRunner().invoke(app, [str(ws), str(export), "--reviewer", "ann", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output)["fix"] == 1
    with Workspace.open(ws, read_only=True) as workspace:
        assert [event.actor for event in workspace.log.events("review")] == ["ann"]


# -- the report -----------------------------------------------------------------------------------


def test_the_report_follows_the_audit(workspace, image_set):
    state = list_audit(workspace, 100, error_rate=0.3, confidence=0.95, blind=True, repeats=0)
    with Workspace.open(workspace, read_only=True) as opened:
        machine = int((opened.log.current(columns=[]).source == MODEL).sum())
        said = certificate_state(opened, machine)
    assert said["state"] == "drawn"
    name = workspace.name
    assert said["command"] == f"medloop answers {name} FILE && medloop certify {name} --close"
    rows = (workspace / "audit.csv").read_text().splitlines()[1:]
    assert len(rows) == state["listed"]
    table = workspace.parent / "a.csv"
    files = [row.partition(",")[0] for row in rows]
    table.write_text("file,label\n" + "".join(f"{f},{image_set.truth[f]}\n" for f in files))
    read_answers(workspace, table)
    before = (workspace / "report.html").read_text()
    old = json.loads((workspace / "metrics.json").read_text())
    assert is_stale(workspace)
    done = close_audit(workspace)
    after = (workspace / "report.html").read_text()
    assert done["sentence"] not in before
    assert done["sentence"].split(" Nothing")[0].split(" It is")[0] in after
    assert not is_stale(workspace)
    assert json.loads((workspace / "metrics.json").read_text())["rounds"] == old["rounds"]
    # an undo would be a change, and a change makes a new report
    with Desk(workspace) as desk:
        item = desk.item(desk.item_id(files[0]))
        desk.answer("a", item.id, item.findings, base=item.version, kind="edit")
        assert is_stale(workspace)
        assert renew_report(workspace)
    assert not is_stale(workspace)


def test_the_report_of_an_imported_workspace_follows_its_audit(tmp_path):
    ws = make(tmp_path / "ws", n=60)
    text = (ws / "run.yaml").read_text().replace("few_labels", "import\nimages: gone")
    (ws / "run.yaml").write_text(text)
    with Desk(ws) as desk:
        desk.start_audit(0.2, 0.8, blind=True, repeats=0)
    said = close_audit(ws, give_up=True)
    assert not said["holds"]
    assert renew_report(ws)
    assert said["sentence"] in unescape((ws / "report.html").read_text())


def test_a_fixed_audit_of_a_workspace_without_figures_is_answered(tmp_path):
    from medloop.audit import answer_audit, draw_audit

    ws = make(tmp_path / "ws", n=60)
    draw_audit(ws, 5, error_rate=0.3, confidence=0.8)
    rows = (ws / "audit.csv").read_text().replace(".png,", ".png,no")
    (tmp_path / "a.csv").write_text(rows)
    try:
        said = answer_audit(ws, tmp_path / "a.csv")
    except MedloopError as error:
        pytest.fail(str(error))
    assert said["audited"] == 5


def test_times_decide_whether_a_report_is_old(tmp_path):
    assert is_stale(tmp_path)
    for name in ("labels.db", "report.html"):
        (tmp_path / name).write_text("")
    os.utime(tmp_path / "labels.db", ns=(5, 5))
    os.utime(tmp_path / "report.html", ns=(4, 4))
    assert is_stale(tmp_path)
    os.utime(tmp_path / "report.html", ns=(5, 5))
    assert not is_stale(tmp_path)
