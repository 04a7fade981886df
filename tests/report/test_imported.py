"""The page of imported labels: what it counts, draws and says of their certificate."""

from __future__ import annotations

import json
import re
from html import unescape

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medloop.audit import answer_audit, draw_audit, machine_labels
from medloop.certify import audit_size
from medloop.cli.app import app
from medloop.errors import UsageError
from medloop.evaluate import evaluate_workspace
from medloop.imports import import_labels
from medloop.labels import Labels
from medloop.report.imported import in_turn
from medloop.store import Workspace

NAMES = [f"{k:02d}.png" for k in range(12)]


def quiet(sentence):
    """Take no note."""


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for name in NAMES:
        Image.fromarray(random.integers(0, 255, (20, 30), np.uint8)).save(tmp_path / "set" / name)
    return tmp_path / "set"


def coco(folder, annotations, **category):
    """Write a COCO document of these annotations and two classes."""
    listed = [
        {"id": k, "file_name": name, "width": 30, "height": 20} for k, name in enumerate(NAMES)
    ]
    classes = [{"id": 1, "name": "a<b", **category}, {"id": 2, "name": "other", **category}]
    made = [{"id": k, **one} for k, one in enumerate(annotations)]
    document = {"images": listed, "annotations": made, "categories": classes}
    (folder / "x.json").write_text(json.dumps(document))
    return folder / "x.json"


def page_of(workspace):
    return (workspace / "report.html").read_text(encoding="utf-8")


def rows_of(page):
    table = page.partition("<tbody>")[2].partition("</tbody>")[0]
    return [
        [unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in table.split("<tr>")[1:]
    ]


def test_labels_are_counted_by_class_and_source_and_drawn(images, tmp_path):
    boxes = [{"image_id": k, "category_id": 1 + k % 2, "bbox": [k, 2, 5, 6]} for k in range(8)]
    boxes += [{"image_id": 8, "category_id": 1, "bbox": [1, 2, 5, 6], "score": 0.7}]
    boxes += [{"image_id": 8, "category_id": 1, "bbox": [11, 2, 5, 6], "score": 0.6}]
    (images / NAMES[11]).write_bytes(b"no image")
    import_labels(coco(images, boxes), tmp_path / "ws", note=quiet)
    page = page_of(tmp_path / "ws")
    assert rows_of(page) == [["a<b", "4", "2", "5"], ["other", "4", "0", "4"]]
    assert page.count('<rect class="person"') == 8
    assert page.count('<rect class="machine"') == 2
    assert 'x="7.0" y="2.0" width="5.0" height="6.0"' in page
    assert "a&lt;b x 2" in page
    assert "medloop review ws" in page  # boxes are looked at in the browser
    with Workspace.open(tmp_path / "ws", read_only=True) as workspace:
        pool = len(machine_labels(workspace.log).looked_at)
    assert pool > 1  # with images in which the machine found nothing
    least = audit_size(pool, error_rate=0.05, confidence=0.95)
    assert f"at least {least} of them" in page
    assert "1 file could not be used" in page
    assert NAMES[11] in page
    assert "a<b" not in page
    assert not re.findall(r"<script|https?://(?!www\.w3\.org)", page)


def test_points_without_boxes_are_drawn(images, tmp_path):
    given = {"keypoints": ["p", "q"], "skeleton": []}
    points = [{"image_id": 0, "category_id": 1, "keypoints": [3, 4, 2, 10, 12, 1]}]
    import_labels(coco(images, points, **given), tmp_path / "ws", note=quiet)
    page = page_of(tmp_path / "ws")
    assert page.count('<circle class="person"') == 2
    assert 'cx="10.0" cy="12.0"' in page


def test_the_certificate_of_classes_stands_on_the_page(images, tmp_path):
    table = tmp_path / "labels.csv"
    lines = [f"{name},{'yes' if k % 3 else 'no'},model,0.8" for k, name in enumerate(NAMES)]
    table.write_text("\n".join(["file,label,source,score", *lines]) + "\n")
    ws = tmp_path / "ws"
    import_labels(table, ws, images=images, note=quiet)
    page = page_of(ws)
    assert rows_of(page) == [["no", "0", "4", "4"], ["yes", "0", "8", "8"]]
    assert "medloop certify ws --error-rate" in page
    assert page.count('<rect class="') == 0
    right = {name: "yes" if k % 3 else "no" for k, name in enumerate(NAMES)}
    truth = tmp_path / "truth.csv"
    wrong = {**right, "01.png": "no"}
    truth.write_text("\n".join(["file,label", *map(",".join, wrong.items())]) + "\n")
    found = evaluate_workspace(ws, truth, note=quiet)
    assert found["rounds"][0]["accuracy"] == pytest.approx(11 / 12)
    draw_audit(ws, 8, error_rate=0.4, confidence=0.8)
    answers = (ws / "audit.csv").read_text().splitlines()
    told = [f"{line.split(',')[0]},{right[line.split(',')[0]]}" for line in answers[1:]]
    (tmp_path / "answers.csv").write_text("\n".join([answers[0], *told]) + "\n")
    said = answer_audit(ws, tmp_path / "answers.csv")
    assert said["holds"]
    assert said["sentence"] in unescape(page_of(ws))


def test_a_persons_labels_are_not_compared_with_the_truth(images, tmp_path):
    boxes = [{"image_id": 0, "category_id": 1, "bbox": [0, 2, 5, 6]}]
    import_labels(coco(images, boxes), tmp_path / "ws", note=quiet)
    with pytest.raises(UsageError, match="no label of a machine"):
        evaluate_workspace(tmp_path / "ws", tmp_path / "truth.csv", note=quiet)


def test_a_table_of_classes_does_not_judge_boxes(images, tmp_path):
    boxes = [{"image_id": 0, "category_id": 1, "bbox": [0, 2, 5, 6], "score": 0.9}]
    ws = tmp_path / "ws"
    import_labels(coco(images, boxes), ws, note=quiet)
    truth = tmp_path / "truth.csv"
    truth.write_text(f"file,label\n{NAMES[0]},a<b\n")
    with pytest.raises(UsageError, match="say where things are"):
        evaluate_workspace(ws, truth, note=quiet)


def test_the_commands_know_imported_labels(images, tmp_path):
    boxes = [{"image_id": 0, "category_id": 1, "bbox": [0, 2, 5, 6]}]
    ws = tmp_path / "ws"
    import_labels(coco(images, boxes), ws, note=quiet)
    (ws / "report.html").unlink()
    said = CliRunner().invoke(app, ["report", str(ws)])
    assert said.exit_code == 0
    assert "Imported from coco" in page_of(ws)
    told = CliRunner().invoke(app, ["status", str(ws)]).output
    assert "resume" not in told
    assert "1 labels by human" in told
    gone = CliRunner().invoke(app, ["resume", str(ws)])
    assert isinstance(gone.exception, UsageError)
    assert "imported" in str(gone.exception)
    asked = ["predict", str(ws), "--images", str(images), "--out", str(tmp_path / "new.csv")]
    none = CliRunner().invoke(app, asked)
    assert isinstance(none.exception, UsageError)
    assert "it holds no model" in str(none.exception)


def test_classes_come_in_turn():
    random = np.random.default_rng(1)
    for _ in range(50):
        n, k = random.integers(1, 30), int(random.integers(1, 5))
        labels = Labels(image=random.integers(0, 12, n), class_id=random.integers(0, k, n))
        found = in_turn(labels, k, 5).tolist()
        assert len(set(found)) == len(found) == min(5, len(np.unique(labels.image)))
        held = [set(labels.image[labels.class_id == c].tolist()) for c in range(k)]
        present = [images for images in held if images]
        # as far as it goes, every class has an image before any has a second one of its own
        if len(present) <= 5:
            assert all(images & set(found) for images in present)
