"""Reviewing images that hold several findings: toggles, tables, and an audit that may stop."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image
from web_running import running
from web_workspaces import image_row

from medloop.errors import DataError
from medloop.labels import Labels
from medloop.phantoms import draw_phantoms
from medloop.recipes.zero_shot import ZeroShotRecipe
from medloop.review.desk import Desk
from medloop.review.findings import read_findings
from medloop.review.replay import check_certificates
from medloop.review.tables import close_audit, list_audit, read_answers, write_queue
from medloop.store import Workspace

CLASSES = ["mass", "nodule", "hernia"]
N = 40
TERMS = {"error_rate": 0.2, "confidence": 0.9, "blind": True}


def truth_of(image):
    """The machine is right but for image 7, where there is nothing."""
    return {name for k, name in enumerate(CLASSES) if image % (k + 2) == 0}


@pytest.fixture
def path(tmp_path):
    """40 images, some with several findings and some with none, found by a machine."""
    (tmp_path / "images").mkdir()
    for i, pixels in enumerate(draw_phantoms(N, size=48).images):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i:03d}.png")
    config = ZeroShotRecipe(images=str(tmp_path / "images"), classes=CLASSES, multi_label=True)
    with Workspace.create(tmp_path / "ws", config=config.model_dump(mode="json")) as workspace:
        workspace.register(image_row(tmp_path / "images", i, f"{i:03d}.png") for i in range(N))
        workspace.finish_scan(classes=CLASSES)
        rows = [
            (i, CLASSES.index(name))
            for i in range(N)
            for name in sorted(truth_of(i), key=CLASSES.index)
        ]
        rows += [(7, 1)]
        image, code = np.array(rows).T
        score = np.linspace(0.55, 0.95, len(rows))
        found = Labels(image=image, class_id=code, score=score, looked_at=np.arange(N))
        workspace.log.append("round-0-0", "round", labels=found)
    return tmp_path / "ws"


def findings_of(path, image):
    with Workspace.open(path, read_only=True) as workspace:
        labels = workspace.log.current()
    rows = labels.image == image
    assert image in labels.looked_at
    return {CLASSES[k] for k in labels.class_id[rows]}, set(labels.source[rows].tolist())


def answer(path, table, files, *, spoil=None):
    """Answer in columns of 0 and 1."""
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", *CLASSES))
        for file in files:
            held = truth_of(int(file[:3]))
            rows.writerow((file, *(int(name in held) for name in CLASSES)))
    return read_answers(path, table, reviewer="ann")


def test_an_audit_of_findings_may_be_stopped_and_is_replayed(path, tmp_path):
    state = list_audit(path, N, **TERMS)
    with open(state["file"], newline="") as stream:
        listed = list(csv.DictReader(stream))
    assert list(listed[0]) == ["file", *CLASSES]
    files = [row["file"] for row in listed]
    done = answer(path, tmp_path / "answers.csv", files)
    assert done["audit"] == N
    said = close_audit(path)
    assert (said["holds"], said["errors"]) == (True, 1)
    assert check_certificates(path)["agrees"]
    assert findings_of(path, 7)[0] == set()
    assert findings_of(path, 12) == (set(CLASSES), {"human"})


def test_a_queue_names_whole_sets_and_takes_them_back(path, tmp_path):
    write_queue(path, tmp_path / "queue.csv")
    with (tmp_path / "queue.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    said = {row["file"]: row["label"] for row in rows}
    assert (said["012.png"], said["001.png"]) == ("mass;nodule;hernia", "none")
    (tmp_path / "answers.csv").write_text("file,label\n012.png,hernia;mass\n013.png,none\n")
    assert read_answers(path, tmp_path / "answers.csv")["fix"] == 2
    assert findings_of(path, 12) == ({"mass", "hernia"}, {"human"})
    with Desk(path) as desk:
        assert desk.item(desk.item_id("013.png")).decided


def test_a_finding_is_there_once(path):
    twice = [{"class": "mass"}, {"class": "mass"}]
    with pytest.raises(DataError, match="holds a finding once, got 'mass' twice"):
        read_findings(twice, image=0, classes=CLASSES, several=True)
    both = [{"class": "mass"}, {"class": "hernia"}]
    found = read_findings(both, image=0, classes=CLASSES, several=True)
    assert found.class_id.tolist() == [0, 2]
    with pytest.raises(DataError, match="needs a box"):
        read_findings(both, image=0, classes=CLASSES)


def test_findings_are_toggles_in_the_browser(path, new_page):
    with running(path, reviewer="ana") as serving:
        page = new_page()
        page.goto(serving.address + "image/" + serving.desk.item_id("012.png"))
        page.wait_for_function("() => document.querySelector('.stage')?.dataset.item")
        pressed = ".classes button[aria-pressed=true] .name"
        assert page.locator(pressed).all_inner_texts() == CLASSES
        page.keyboard.press("2")
        assert page.locator(pressed).all_inner_texts() == ["mass", "hernia"]
        page.keyboard.press("z")
        assert page.locator(pressed).all_inner_texts() == CLASSES
        page.keyboard.press("1")
        page.keyboard.press("3")
        assert "Save 1 finding" in page.locator("[data-run=confirm]").inner_text()
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelectorAll('.history li').length === 2")
        assert findings_of(path, 12) == ({"nodule"}, {"human"})
        # nothing here is an answer too
        page.goto(serving.address + "image/" + serving.desk.item_id("004.png"))
        page.wait_for_function("() => document.querySelector('.stage')?.dataset.item")
        page.keyboard.press("q")
        assert "Save none" in page.locator("[data-run=confirm]").inner_text()
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelectorAll('.history li').length === 2")
        assert findings_of(path, 4)[0] == set()
        assert serving.desk.item(serving.desk.item_id("004.png")).decided


def test_the_grid_confirms_whole_sets(path, new_page):
    with running(path, reviewer="ana") as serving:
        page = new_page()
        page.goto(serving.address + "grid")
        page.wait_for_selector(".tile")
        first = page.locator(".tile b").first.inner_text()
        files = [row["file"] for row in serving.desk.queue(36)]
        image = int(files[0][:3])
        held = {name for name in first.split(";") if name != "none"}
        page.keyboard.press("2")
        now = set(page.locator(".tile b").first.inner_text().split(";")) - {"none"}
        assert now == held ^ {"nodule"}
        page.keyboard.press("Enter")
        page.wait_for_selector(".toast:not([hidden])")
        assert findings_of(path, image)[0] == now
        other = int(files[1][:3])
        assert findings_of(path, other)[1] <= {"human"}
