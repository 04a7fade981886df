"""Objects, DICOM and the end of an audit in a real browser."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_review_objects import points_of
from test_web_browser import CONTRAST, answers, current, drag, ready, settled
from web_running import client_of, running
from web_workspaces import SKELETON, class_workspace, image_row, object_workspace

from medloop.intake import list_sources, take_in
from medloop.labels import HUMAN, PARTLY, Labels
from medloop.progress import silent
from medloop.recipes.few_labels import FewLabels
from medloop.review.web.images import CROP, boxes_of
from medloop.store import Workspace


def partly_workspace(folder):
    """Cells with points: a person named the first of each image, a machine the others."""
    path = object_workspace(folder, 4, points=True)
    with Workspace.open(path) as workspace:
        log = workspace.log
        held = log.labels(log.events("round")[0].seq)
        first = np.unique(held.image, return_index=True)[1]
        own = held[first]
        named = own.with_(
            source=np.full(len(own), HUMAN), score=np.ones(len(own)), looked_at=own.image
        )
        log.append("given", "given", labels=named, looked_by=PARTLY)
        log.append("again", "round", labels=held[np.setdiff1d(np.arange(len(held)), first)])
    return path


def test_a_persons_points_are_corrected_with_the_machines_beside(tmp_path, new_page):
    path = partly_workspace(tmp_path)
    with Workspace.open(path, read_only=True) as workspace:
        given = workspace.log.labels(workspace.log.events("given")[0].seq)
        file = workspace.table()["file"][2]
    points = given.keypoints[2].tolist()
    moved = [[points[0][0] + 9, points[0][1] + 4, 2], *points[1:]]
    doubt = {"image": 2, "file": str(file), "class": "round cell", "score": 0.8}
    doubt |= {"box": given.box[2].tolist(), "points": moved}
    (path / "doubts.json").write_text(json.dumps([doubt]))
    with running(path, reviewer="ana") as serving:
        page = new_page()
        page.goto(serving.address + "fix")
        item = serving.desk.item(ready(page))
        assert item.file == file
        assert (
            "would place a person's points elsewhere"
            in page.locator("[data-at=under]").inner_text()
        )
        assert "the machine would place" in page.locator(".marks").text_content()
        assert page.locator(".marks circle.other").count() == 3
        page.keyboard.press("g")
        assert page.locator(".marks .other").count() == 0
        page.keyboard.press("g")
        page.locator("[data-at=objects] button").last.click()  # the person's own
        drag(page, points[0][:2], moved[0][:2])
        page.keyboard.press("Enter")
        ready(page, item.id)
        settled(page)
        now = current(path).of([2])
        assert set(now.source) == {"human"}
        assert len(now) == len(item.findings)
        np.testing.assert_allclose(now.keypoints[-1, 0], moved[0], atol=1.5)
        # taken back: both stand again, the person's as some of what there is
        page.keyboard.press("z")
        page.wait_for_function(
            "id => document.querySelector('.stage').dataset.item === id", arg=item.id
        )
        assert serving.desk.item(item.id).findings == item.findings
        page.goto(serving.address + "image/" + item.id)
        ready(page)
        assert "taken back" in page.locator(".history li").first.inner_text()


@pytest.mark.parametrize("loss", ["iou", "nme"])
def test_objects_are_audited_with_a_loss(tmp_path, new_page, loss):
    path = partly_workspace(tmp_path)
    with running(path) as serving:
        page = new_page()
        page.goto(serving.address + "audit")
        offered = page.locator("[name=loss] option").evaluate_all("all => all.map(o => o.value)")
        assert offered == ["nme", "iou", ""]  # the first is taken where nobody chooses
        assert page.input_value("[name=tolerance]") == "0.1"
        page.select_option("[name=loss]", loss)
        assert page.input_value("[name=tolerance]") == {"iou": "0.5", "nme": "0.1"}[loss]
        page.click("text=Freeze the labels")
        before = ready(page)
        item = serving.desk.item(before)
        assert {one["source"] for one in item.findings} == {"human", "model"}
        x0, y0, x1, y1 = item.findings[0]["box"]
        if loss == "iou":
            drag(page, (x1, y1), (x0 + (x1 - x0) / 3, y0 + (y1 - y0) / 3))
        else:
            x, y, _ = item.findings[0]["keypoints"][2]
            drag(page, (x, y), (x, y + 40))
        page.keyboard.press("Enter")
        before = ready(page, before)
        page.keyboard.press("Enter")
        ready(page, before)
        settled(page)
        audit = serving.desk.home()["audit"]
        assert (audit["loss"], audit["counted"] - audit["repeats"], audit["errors"]) == (loss, 2, 1)
        # given up from Home, after it was asked again
        page.goto(serving.address)
        page.keyboard.press("c")
        page.wait_for_selector("#give-up[open]")
        page.keyboard.press("Escape")
        assert serving.desk.home()["audit"]["open"]
        page.keyboard.press("c")
        page.click("#give-up button[value=yes]")
        page.wait_for_function("() => !document.getElementById('close')")
        assert serving.desk.home()["certificate"]["holds"] is False
        assert "Audited, but not certified" in page.locator("#certificate").inner_text()


def test_an_audit_that_may_stop_is_closed_from_home(tmp_path, new_page):
    path = class_workspace(tmp_path, 30, size=16)
    with running(path) as serving:
        desk = serving.desk
        desk.start_audit(0.3, 0.8, blind=False, repeats=0)
        while not desk.home()["audit"]["may_stop"]:
            item = desk.next_item("audit")
            found = [{"class": item.findings[0]["class"]}]
            desk.answer(item.id, item.id, found, base=item.version, kind="audit")
        page = new_page()
        page.goto(serving.address)
        page.keyboard.press("c")
        page.wait_for_function("() => !document.getElementById('close')")
        assert desk.home()["certificate"]["holds"]
        assert page.locator("#certificate.good").count() == 1


def test_findings_by_the_dozen(tmp_path, new_page):
    path = object_workspace(tmp_path, 14)
    with running(path, reviewer="ana") as serving:
        page = new_page()
        page.goto(serving.address)
        page.keyboard.press("g")
        page.wait_for_selector(".field:nth-child(12)")
        queue = serving.desk.queue(14)
        counts = [len(row["findings"]) for row in queue]
        assert page.locator(".field:nth-child(1) .crop").count() == counts[0]
        assert page.locator(".crop").count() == sum(counts[:12])
        assert page.locator(".field:nth-child(1) .overview rect").count() == counts[0]
        assert page.evaluate(CONTRAST) == []
        # the first finding is not there, the second is of another class, the second image waits
        other = 1 + (queue[0]["findings"][1]["class"] == "round cell")
        page.keyboard.press("x")
        page.keyboard.press(str(other))
        for _ in range(counts[0] - 2):
            page.keyboard.press("ArrowRight")
        page.keyboard.press(" ")
        said = page.locator("[data-at=count]").inner_text()
        assert "11 of 12" in said
        assert "1 changed" in said
        assert "1 removed" in said
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelectorAll('.field').length === 2")
        ids = [serving.desk.image_id(row["id"]) for row in queue]
        now = current(path)
        first = now.of([ids[0]])
        boxes = [one["box"] for one in queue[0]["findings"]]
        np.testing.assert_allclose(first.box, boxes[1:])
        assert first.class_id[0] == other - 1
        assert set(first.source) == {"human"}
        decided = set(now.image[now.source == "human"].tolist())
        assert decided == set(ids[:12]) - {ids[1]}
        assert len(answers(path)) == 1
        page.keyboard.press("z")
        page.wait_for_function("() => document.querySelectorAll('.field').length === 12")
        assert serving.desk.home()["decided"] == 0
        # stale images are named, and the others decided
        serving.desk.answer("x", queue[2]["id"], [], reviewer="bob", base=99, kind="edit")
        page.keyboard.press("Enter")
        page.wait_for_selector(".field.clashed")
        assert "bob: nothing here" in page.locator(".field.clashed").inner_text()
        page.keyboard.press("Enter")
        page.wait_for_function("() => !document.querySelector('.field.clashed')")
        assert serving.desk.item(queue[2]["id"]).findings == []
        assert serving.desk.item(queue[0]["id"]).decided


def test_crops_show_what_lies_in_the_boxes(tmp_path):
    path = object_workspace(tmp_path, 1)
    with running(path) as serving, client_of(serving) as client:
        row = serving.desk.queue(1)[0]
        answer = client.get(f"/picture/{row['id']}/crops")
        assert answer.headers["content-type"] == "image/jpeg"
        sheet = np.asarray(Image.open(io.BytesIO(answer.content)), float)
        boxes = boxes_of(serving.desk.item(row["id"]))
        assert sheet.shape == (CROP, CROP * len(boxes), 3)
        pixels = np.asarray(Image.open(tmp_path / "images" / "field-000.png"), float)
        for at, (x0, y0, x1, y1) in enumerate(boxes):
            side = max(x1 - x0, y1 - y0) * 1.3
            cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
            tile = sheet[:, CROP * at : CROP * (at + 1)]
            for dx, dy in ((0, 0), (0.3, 0), (0, -0.3), (-0.2, 0.2)):
                x, y = cx + dx * side, cy + dy * side
                if not (2 < x < pixels.shape[1] - 3 and 2 < y < pixels.shape[0] - 3):
                    continue
                around = pixels[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].mean((0, 1))
                u, v = int((0.5 + dx) * CROP), int((0.5 + dy) * CROP)
                seen = tile[v - 5 : v + 6, u - 5 : u + 6].mean((0, 1))
                assert np.abs(seen - around).max() < 30
        # nothing there, nothing shown
        serving.desk.answer("a", row["id"], [], base=99, kind="edit")
        assert client.get(f"/picture/{row['id']}/crops").status_code == 404


def test_a_box_is_a_box_where_others_have_masks(tmp_path, new_page):
    path = object_workspace(tmp_path, 2, masks=True)
    with running(path) as serving:
        page = new_page()
        page.goto(serving.address + "fix")
        item = serving.desk.item(ready(page))
        page.keyboard.press("b")
        drag(page, (5, 5), (45, 35))
        page.keyboard.press("Enter")
        ready(page, item.id)
        settled(page)
        found = serving.desk.item(item.id).findings
        assert len(found) == len(item.findings) + 1
        assert ["mask" in one for one in found] == [True] * len(item.findings) + [False]
        np.testing.assert_allclose(found[-1]["box"], [5, 5, 45, 35], atol=1.5)
        now = current(path)
        assert now.mask is not None  # of the others


def test_both_exports(tmp_path, new_page):
    path = object_workspace(tmp_path, 3, points=True)
    with running(path) as serving:
        page = new_page()
        page.goto(serving.address)
        for key, name in (("e", "labels.csv"), ("o", "labels.json")):
            with page.expect_download() as download:
                page.keyboard.press(key)
            assert download.value.suggested_filename == name
            text = Path(download.value.path()).read_text()
            rows = sum(len(row["findings"]) for row in serving.desk.queue(9))
            if name == "labels.csv":
                assert len(text.splitlines()) == rows + 1
            else:
                held = json.loads(text)
                assert len(held["annotations"]) == rows
                assert held["categories"][0]["keypoints"] == SKELETON["points"]
        with client_of(serving) as client:
            assert client.get("/export/labels.db").status_code == 404


# -- DICOM ----------------------------------------------------------------------------------------


def write_dicom(path, values, *, centre, width):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID = meta.MediaStorageSOPClassUID
    made.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    made.Modality, made.PatientName, made.PatientID = "CT", "Doe^Jane", "12345"
    made.Rows, made.Columns = values.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.RescaleSlope, made.RescaleIntercept = "1", "-1024"
    made.WindowCenter, made.WindowWidth = str(centre), str(width)
    made.PixelData = values.astype("<i2").tobytes()
    made.save_as(path, enforce_file_format=True)


def dicom_workspace(folder):
    """Two slices of 16 bits with a window in their header; stored values are 1024 above HU."""
    images = folder / "images"
    images.mkdir(parents=True)
    y, x = np.mgrid[:96, :96]
    hounsfield = -1000 + 1100 * (np.hypot(x - 48, y - 48) < 30) + 300 * (np.abs(x - 48) < 6)
    for name, shift in (("a.dcm", 0), ("b.dcm", 40)):
        write_dicom(images / name, hounsfield + shift + 1024, centre=40, width=401)
    (folder / "labels.csv").write_text("file,label\na.dcm,no\nb.dcm,yes\n")
    config = FewLabels(images=str(images), labels=str(folder / "labels.csv"))
    with Workspace.create(folder / "ws", config=config.model_dump(mode="json")) as workspace:
        listing = list_sources(config)
        take_in(workspace, listing, config, silent, lambda sentence: None)
        ids = workspace.table()["id"]
        table = Labels(image=ids, class_id=[0, 1], score=[0.9, 0.8])
        workspace.log.append("round", "round", labels=table)
    return folder / "ws", hounsfield


def test_dicom_is_shown_in_its_window_and_in_others(tmp_path, new_page):
    path, hounsfield = dicom_workspace(tmp_path)
    with running(path) as serving:
        page = new_page()
        ids = {file: one for one, file in serving.desk.files().items()}
        (here,) = [one for file, one in ids.items() if "a" in file.rpartition("/")[2][:1]]
        page.goto(serving.address + "image/" + here)
        ready(page)
        grey = (
            "([x, y]) => { const c = document.querySelector('canvas.picture');"
            "return c.getContext('2d').getImageData(x, y, 1, 1).data[0] }"
        )
        # the header asks for 401 values around 40: -160.5 ... 239.5
        for x, y in ((2, 2), (48, 48), (30, 48)):
            known = np.clip((hounsfield[y, x] + 160.5) / 400 * 255, 0, 255)
            assert abs(page.evaluate(grey, [x, y]) - known) < 2
        before = page.evaluate(grey, [30, 48])
        page.keyboard.press("w")
        drag(page, (60, 60), (60, 20))
        page.wait_for_function(f"() => ({grey})([30, 48]) !== {before}")
        assert "level" in page.locator("[data-at=view]").inner_text()
        page.keyboard.press("Shift+W")
        page.wait_for_function(f"() => ({grey})([30, 48]) === {before}")
        with client_of(serving) as client:
            deep = client.get(f"/picture/{here}/deep")
            low, high = (float(deep.headers[name]) for name in ("X-Low", "X-High"))
            values = low + np.frombuffer(deep.content, "<u2") / 65535 * (high - low)
            np.testing.assert_allclose(values.reshape(96, 96), hounsfield, atol=0.05)
            assert (float(deep.headers["X-From"]), float(deep.headers["X-To"])) == (-160.5, 239.5)
            for form in ("full", "small", "deep"):
                body = client.get(f"/picture/{here}/{form}").content
                assert b"Doe" not in body
                assert b"12345" not in body


# -- imports --------------------------------------------------------------------------------------


def test_an_imported_workspace_opens(tmp_path, new_page):
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.full((40, 60), 90, np.uint8)).save(images / "a.png")
    config = {
        "recipe": "import",
        "images": str(images),
        "labels": str(tmp_path / "coco.json"),
        "format": "coco",
        "partly": False,
        "allow_leak": False,
    }
    with Workspace.create(tmp_path / "ws", config=config) as workspace:
        workspace.register([image_row(images, 0, "a.png")])
        workspace.finish_scan(classes=["face"])
        box = [10.0, 10, 30, 30]
        table = Labels(image=[0], class_id=[0], score=[0.5], box=[box], keypoints=[points_of(box)])
        payload = {"skeleton": {"points": ["left", "right"], "edges": [[0, 1]], "flip": []}}
        workspace.log.append("import-model", "round", labels=table, payload=payload)
    with running(tmp_path / "ws") as serving:
        page = new_page()
        page.goto(serving.address + "fix")
        item = serving.desk.item(ready(page))
        assert page.locator(".marks line.bone").count() == 1
        drag(page, (10, 20), (14, 26))
        page.keyboard.press("Enter")
        page.wait_for_selector("[data-at=done]:not([hidden])")
        settled(page)
        np.testing.assert_allclose(
            serving.desk.item(item.id).findings[0]["keypoints"][0], [14, 26, 2], atol=1.5
        )
        with client_of(serving) as client:
            report = client.get("/report")
            assert report.status_code == 200
            assert "Imported from" in report.text
