"""The pages in a real browser, on a real desk."""

from __future__ import annotations

import json

import numpy as np
import pytest
from web_running import client_of, running
from web_workspaces import class_workspace, deep_workspace, object_workspace, truth_of

from medloop import masks
from medloop.intake import open_dataset
from medloop.store import Workspace


def ready(page, change=None):
    """Wait until an image is on the screen, another one than ``change``."""
    page.wait_for_function(
        "before => { const at = document.querySelector('.stage')?.dataset.item; "
        "return at && at !== before; }",
        arg=change,
    )
    return page.locator(".stage").get_attribute("data-item")


def settled(page):
    """Wait until everything that was answered is in the log."""
    page.wait_for_function("() => document.querySelector('.bench')?.dataset.waiting === '0'")


def current(path, **more):
    with Workspace.open(path, read_only=True) as workspace:
        return workspace.log.current(**more)


def answers(path, kind="review"):
    with Workspace.open(path, read_only=True) as workspace:
        log = workspace.log
        return [(event, log.labels(event.seq)) for event in log.events(kind)]


def put(page, x, y):
    """Where a pixel of the image stands on the screen."""
    box = page.locator("canvas.picture").bounding_box()
    width, height = page.evaluate(
        "() => { const c = document.querySelector('canvas.picture'); return [c.width, c.height] }"
    )
    return box["x"] + x / width * box["width"], box["y"] + y / height * box["height"]


def drag(page, start, end):
    page.mouse.move(*put(page, *start))
    page.mouse.down()
    page.mouse.move(*put(page, *[(a + b) / 2 for a, b in zip(start, end, strict=True)]))
    page.mouse.move(*put(page, *end))
    page.mouse.up()


# -- classes ------------------------------------------------------------------------------------


def test_label_by_keyboard_and_undo(tmp_path, new_page):
    path = class_workspace(tmp_path, 12)
    with running(path, reviewer="ana") as serving:
        page = new_page()
        page.goto(serving.address)
        page.keyboard.press("f")
        first = ready(page)
        page.keyboard.press("2")
        second = ready(page, first)
        page.keyboard.press("c")
        page.keyboard.type("blurred, z 1 2")
        page.keyboard.press("Control+Enter")
        page.keyboard.press("1")
        third = ready(page, second)
        page.keyboard.press("Enter")
        fourth = ready(page, third)
        settled(page)
        images = [serving.desk.image_id(one) for one in (first, second, third)]
        done = answers(path)
        assert [table.image.tolist() for _, table in done] == [[image] for image in images]
        assert [int(table.class_id[0]) for _, table in done[:2]] == [1, 0]
        assert [event.actor for event, _ in done] == ["ana"] * 3
        assert done[1][0].payload["comment"] == "blurred, z 1 2"
        assert done[0][0].payload["seconds"] >= 0
        # the last answer comes back, and may be given otherwise
        page.keyboard.press("z")
        assert ready(page, fourth) == third
        page.keyboard.press("2")
        assert ready(page, third) == fourth
        settled(page)
        now = current(path)
        assert now.class_id[now.image == images[2]].tolist() == [1]
        assert now.source[now.image == images[2]].tolist() == ["human"]
        # and again, by redo of nothing: one sentence, and nothing breaks
        page.keyboard.press("y")
        page.wait_for_selector(".toast:not([hidden])")
        # left out: not offered again, not answered
        page.keyboard.press("n")
        ready(page, fourth)
        assert not serving.desk.item(fourth).decided


def test_an_image_has_its_page_with_its_history(tmp_path, new_page):
    path = class_workspace(tmp_path, 6)
    with running(path, reviewer="ana") as serving:
        page = new_page()
        page.goto(serving.address + "fix")
        here = ready(page)
        page.keyboard.press("i")
        page.wait_for_url("**/image/*")
        ready(page)
        assert page.locator(".history li").count() == 2
        page.keyboard.press("2")
        page.wait_for_function("() => document.querySelectorAll('.history li').length === 3")
        assert "ana" in page.locator(".history li").first.inner_text()
        assert serving.desk.item(here).findings[0]["class"] == "spiculated"
        # found by a part of its name, which stays out of the address
        page.goto(serving.address)
        page.keyboard.press("/")
        page.keyboard.type("0003")
        page.keyboard.press("Enter")
        page.click("#found a")
        ready(page)
        assert page.locator("[data-at=title]").inner_text() == "0003.png"
        assert "0003" not in page.url


def test_audit_until_it_may_stop(tmp_path, new_page):
    n, wrong = 70, (3, 40)
    path = class_workspace(tmp_path, n, size=24, wrong=wrong)
    truth = truth_of(n)
    with running(path, reviewer="ana") as serving:
        page = new_page()
        page.goto(serving.address + "audit")
        page.fill("[name=error_rate]", "10")
        page.click("text=Freeze the labels")
        before, asked = None, 0
        while page.locator("[data-at=finish]").is_hidden():
            before = ready(page, before)
            image = serving.desk.image_id(before)
            page.keyboard.press(str(1 + ("spiculated" == truth[image])))
            asked += 1
            assert asked < n, str(serving.desk.home()["audit"])
            if asked % 4 == 0:
                settled(page)
        settled(page)
        assert page.locator("[data-at=claim-title]").inner_text() == "You may stop"
        state = serving.desk.home()["audit"]
        assert state["may_stop"]
        assert state["answered"] + state["repeats"] == asked
        page.keyboard.press("Shift+Enter")
        page.wait_for_url(serving.address)
        assert page.locator("#certificate.good").count() == 1
        said = page.locator("#certificate").inner_text()
        assert "95%" in said
        assert page.locator(".chart path.line").count() == 1
    with Workspace.open(path, read_only=True) as workspace:
        certificate = workspace.load_json("certificate.json")
    assert certificate["holds"]
    assert certificate["sentence"] in said


def test_a_blind_audit_shows_nothing_of_the_machine(tmp_path, new_page):
    path = class_workspace(tmp_path, 20, size=24)
    with running(path) as serving:
        page = new_page()
        page.goto(serving.address + "audit")
        page.check("[name=blind][value=yes]")
        page.click("text=Freeze the labels")
        first = ready(page)
        assert page.locator(".classes [aria-pressed=true]").count() == 0
        assert page.locator(".classes .score").count() == 0
        assert page.locator(".history li").count() == 0
        page.keyboard.press("Enter")  # there is nothing to confirm
        assert "Choose a class" in page.locator(".toast").inner_text()
        page.keyboard.press("1")
        second = ready(page, first)
        settled(page)
        # taken back, the same place comes again
        page.keyboard.press("z")
        assert ready(page, second) == first
        page.keyboard.press("2")
        ready(page, first)
        settled(page)
        assert serving.desk.home()["audit"]["answered"] == 1


def test_grid_confirms_and_corrects_dozens(tmp_path, new_page):
    path = class_workspace(tmp_path, 50, size=24)
    with running(path, reviewer="ana") as serving:
        page = new_page()
        page.goto(serving.address + "grid")
        page.wait_for_selector(".tile:nth-child(36)")
        queue = serving.desk.queue(50)
        page.keyboard.press("ArrowRight")
        other = 1 + (queue[1]["class"] == "round")
        page.keyboard.press(str(other))  # and on to the third
        page.keyboard.press(" ")
        assert "35 of 36" in page.locator("[data-at=count]").inner_text()
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelectorAll('.tile').length === 14")
        now = current(path)
        person = dict(
            zip(
                now.image[now.source == "human"].tolist(),
                now.class_id[now.source == "human"].tolist(),
                strict=True,
            )
        )
        ids = [serving.desk.image_id(row["id"]) for row in queue]
        assert set(person) == set(ids[:36]) - {ids[2]}
        assert person[ids[1]] == other - 1
        assert person[ids[0]] == ["round", "spiculated"].index(queue[0]["class"])
        assert len(answers(path)) == 1  # one event
        page.keyboard.press("z")
        page.wait_for_function("() => document.querySelectorAll('.tile').length === 36")
        assert serving.desk.home()["decided"] == 0


# -- places -------------------------------------------------------------------------------------


def test_draw_move_resize_and_remove_a_box(tmp_path, new_page):
    path = object_workspace(tmp_path, 3)
    with running(path, reviewer="ana") as serving:
        page = new_page()
        page.goto(serving.address + "fix")
        item = serving.desk.item(ready(page))
        image, n = serving.desk.image_id(item.id), len(item.findings)
        page.keyboard.press("q")  # nothing here
        assert page.locator(".marks .shape").count() == 0
        page.keyboard.press("z")
        assert page.locator(".objects li").count() == n
        page.keyboard.press("q")
        page.keyboard.press("b")
        page.keyboard.press("2")
        drag(page, (30, 20), (90, 70))
        page.keyboard.press("v")
        drag(page, (60, 45), (80, 65))  # moved by 20, 20
        drag(page, (110, 90), (120, 100))  # its corner pulled by 10, 10
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Shift+ArrowDown")
        page.keyboard.press("Enter")
        ready(page, item.id)
        settled(page)
        now = current(path)
        mine = now[now.image == image]
        np.testing.assert_allclose(mine.box, [[49, 40, 119, 101]], atol=1.5)
        assert mine.class_id.tolist() == [1]
        assert mine.source.tolist() == ["human"]
        # nothing here is an answer too
        second = page.locator(".stage").get_attribute("data-item")
        page.keyboard.press("q")
        assert "Nothing here" in page.locator("[data-at=confirm-words]").inner_text()
        page.keyboard.press("Enter")
        ready(page, second)
        settled(page)
        now = current(path)
        assert serving.desk.image_id(second) not in now.image
        assert serving.desk.image_id(second) in now.looked_at


def test_drag_and_hide_a_point_undo_and_redo(tmp_path, new_page):
    path = object_workspace(tmp_path, 2, points=True)
    with running(path) as serving:
        page = new_page()
        page.goto(serving.address + "fix")
        item = serving.desk.item(ready(page))
        x, y, _ = item.findings[0]["keypoints"][1]
        drag(page, (x, y), (x + 12, y - 9))
        page.keyboard.press("h")  # seen -> hidden
        page.keyboard.press("z")
        page.keyboard.press("z")
        page.keyboard.press("y")
        page.keyboard.press("y")
        page.keyboard.press("Enter")
        ready(page, item.id)
        settled(page)
        now = current(path)
        mine = now[now.image == serving.desk.image_id(item.id)]
        assert len(mine) == len(item.findings)
        np.testing.assert_allclose(mine.keypoints[0, 1], [x + 12, y - 9, 1], atol=1.5)
        untouched = [one["keypoints"] for one in item.findings[1:]]
        np.testing.assert_allclose(mine.keypoints[1:], np.array(untouched).reshape(-1, 3, 3))


def test_masks_by_polygon_brush_and_eraser(tmp_path, new_page):
    path = object_workspace(tmp_path, 2, masks=True)
    with running(path) as serving:
        page = new_page()
        page.goto(serving.address + "fix")
        item = serving.desk.item(ready(page))
        page.keyboard.press("q")
        page.keyboard.press("p")
        square = [(20, 20), (80, 20), (80, 60), (20, 60)]
        for point in square:
            page.mouse.click(*put(page, *point))
        page.mouse.click(*put(page, *square[0]))
        page.keyboard.press("r")
        drag(page, (100, 100), (140, 100))  # adds to the chosen one
        page.keyboard.press("e")
        drag(page, (20, 40), (80, 40))  # and a line through the square
        page.keyboard.press("Enter")
        ready(page, item.id)
        settled(page)
        now = current(path)
        mine = now[now.image == serving.desk.image_id(item.id)]
        assert len(mine) == 1
        mask = masks.decode(mine.mask[0])
        assert mask.shape == (item.height, item.width)
        assert mask[25, 50]
        assert mask[57, 50]
        assert not mask[40, 50]
        assert mask[100, 120]
        assert not mask[80, 90]
        x0, y0, x1, y1 = masks.box(mine.mask[0])
        np.testing.assert_allclose(mine.box[0], [x0, y0, x1, y1])
        rows = slice(20, 30), slice(20, 80)
        assert mask[rows].mean() > 0.97


def test_run_lengths_of_the_page_are_those_of_coco(tmp_path, new_page):
    path = class_workspace(tmp_path, 1, size=24)
    random = np.random.default_rng(0)
    shapes = [random.random((h, w)) < p for h, w, p in [(9, 7, 0.5), (40, 33, 0.1), (5, 90, 0.98)]]
    shapes += [np.zeros((4, 6), bool), np.ones((6, 4), bool), random.random((200, 150)) < 0.002]
    with running(path) as serving:
        page = new_page()
        page.goto(serving.address + "fix")
        for shape in shapes:
            known = masks.encode(shape)
            height, width = shape.shape
            made, back, box = page.evaluate(
                "async ([bits, known, h, w]) => { const m = await import('/static/masks.js');"
                "const mask = Uint8Array.from(bits); return [m.encode(mask, h, w),"
                "Array.from(m.decode(known)), m.boxOf(mask, h, w)]; }",
                [shape.astype(int).ravel().tolist(), known, height, width],
            )
            assert made == known
            assert back == shape.astype(int).ravel().tolist()
            assert (list(masks.box(known)) if shape.any() else None) == box


def test_the_window_of_deep_images(tmp_path, new_page):
    path = deep_workspace(tmp_path)
    with running(path) as serving:
        page = new_page()
        ids = {file: one for one, file in serving.desk.files().items()}
        grey = (
            "() => { const c = document.querySelector('canvas.picture');"
            "return c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data[0] }"
        )
        page.goto(serving.address + "image/" + ids["a.png"])
        ready(page)
        before = page.evaluate(grey)
        for _ in range(3):
            page.keyboard.press("d")
        page.wait_for_function(f"() => ({grey})() < {before - 10}")
        page.keyboard.press("Shift+W")
        page.wait_for_function(f"() => ({grey})() === {before}")
        page.keyboard.press("w")
        drag(page, (60, 60), (60, 20))
        page.wait_for_function(f"() => ({grey})() !== {before}")
        assert "level" in page.locator("[data-at=view]").inner_text()
        page.goto(serving.address + "image/" + ids["d.png"])
        ready(page)
        page.keyboard.press("d")
        page.wait_for_selector("text=a colour image has no window")


def test_zoom_and_pan_keep_the_point_under_the_pointer(tmp_path, new_page):
    path = object_workspace(tmp_path, 1)
    with running(path) as serving:
        page = new_page()
        page.goto(serving.address + "fix")
        ready(page)
        at = put(page, 60, 50)
        page.mouse.move(*at)
        page.mouse.wheel(0, -300)
        page.wait_for_timeout(50)
        np.testing.assert_allclose(put(page, 60, 50), at, atol=1)
        wide = page.locator("canvas.picture").bounding_box()["width"]
        page.keyboard.press("f")
        assert page.locator("canvas.picture").bounding_box()["width"] < wide


def test_two_fingers_zoom_and_draw_nothing(tmp_path, new_page):
    path = object_workspace(tmp_path, 1)
    with running(path) as serving:
        page = new_page(has_touch=True, viewport={"width": 820, "height": 1180})
        page.goto(serving.address + "fix")
        ready(page)
        n = page.locator(".objects li").count()
        page.locator("[data-tool-button=box]").tap()
        before = page.locator("canvas.picture").bounding_box()["width"]
        stage = page.locator(".stage").bounding_box()
        x, y = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2
        session = page.context.new_cdp_session(page)

        def touch(kind, *points):
            named = [{"x": px, "y": py, "id": i} for i, (px, py) in enumerate(points)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": named})

        touch("touchStart", (x - 40, y))
        touch("touchStart", (x - 40, y), (x + 40, y))
        touch("touchMove", (x - 120, y), (x + 120, y))
        touch("touchEnd")
        page.wait_for_timeout(50)
        assert page.locator("canvas.picture").bounding_box()["width"] > 2 * before
        assert page.locator(".objects li").count() == n
        # one finger draws
        touch("touchStart", (x - 60, y - 60))
        touch("touchMove", (x + 40, y + 50))
        touch("touchEnd")
        page.wait_for_function(f"() => document.querySelectorAll('.objects li').length === {n + 1}")


# -- several people -----------------------------------------------------------------------------

TOKENS = "ana:aaaaaaaaaaaaaaaaaaaa\nbob:bbbbbbbbbbbbbbbbbbbb\n"


def login(page, serving, token):
    page.goto(serving.address)
    page.fill("[name=token]", token)
    page.keyboard.press("Enter")
    page.wait_for_selector(".doors")


def test_two_reviewers_on_one_image(tmp_path, new_page):
    path = class_workspace(tmp_path, 6)
    (tmp_path / "tokens").write_text(TOKENS)
    with running(path, token_file=tmp_path / "tokens") as serving:
        ana, bob = new_page(), new_page()
        login(ana, serving, "a" * 20)
        login(bob, serving, "b" * 20)
        # never handed the same image
        ana.goto(serving.address + "fix")
        bob.goto(serving.address + "fix")
        assert ready(ana) != ready(bob)
        # but an image has one page
        item = serving.desk.queue(6)[5]["id"]
        for page in (ana, bob):
            page.goto(serving.address + "image/" + item)
            ready(page)
        ana.keyboard.press("1")
        ana.wait_for_selector(".history li.human")
        refused = []
        bob.on("response", lambda answer: refused.append(answer.status))
        bob.keyboard.press("2")
        bob.wait_for_selector("[data-at=clash]:not([hidden])")
        assert 412 in refused
        said = bob.locator("[data-at=clash-words]").inner_text()
        assert said.startswith("ana answered this image while you looked at it: round.")
        assert serving.desk.item(item).findings[0]["class"] == "round"
        # bob takes ana's, looks again, and says otherwise on purpose
        bob.keyboard.press("t")
        bob.wait_for_selector(".history li.human")
        bob.keyboard.press("o")
        bob.keyboard.press("2")
        bob.wait_for_function("() => document.querySelectorAll('.history li.human').length === 2")
        now = serving.desk.item(item)
        assert [one["who"] for one in now.history[-2:]] == ["ana", "bob"]
        assert now.findings[0]["class"] == "spiculated"
        # log out
        bob.click("text=Log out")
        bob.wait_for_url("**/login")


def test_a_stale_page_of_the_grid_is_shown(tmp_path, new_page):
    path = class_workspace(tmp_path, 8, size=24)
    with running(path, reviewer="ana") as serving, client_of(serving) as client:
        page = new_page()
        page.goto(serving.address + "grid")
        page.wait_for_selector(".tile:nth-child(8)")
        row = serving.desk.queue(8)[3]
        body = {"id": row["id"], "findings": [{"class": "round"}], "base": row["version"]}
        assert client.post("/api/answer", {**body, "kind": "edit"}).status_code == 200
        page.keyboard.press("Enter")
        page.wait_for_selector(".tile.clashed")
        assert page.locator(".tile.clashed").count() == 1
        assert serving.desk.home()["decided"] == 1
        page.keyboard.press("Enter")
        page.wait_for_selector("[data-at=none]:not([hidden])")
        assert serving.desk.home()["decided"] == 8


# -- what is written by others ------------------------------------------------------------------

EVIL = '<img src=x onerror="window.broken=1"><script>window.broken=1</script>'


@pytest.mark.parametrize("quote", ["'", '"'])
def test_names_and_comments_are_text(tmp_path, new_page, quote):
    classes = (f"round{quote}>{EVIL}", "</script><svg onload=window.broken=1>")
    names = [f"{i}{quote}{EVIL.replace('/', chr(0x2215))[:90]}.png" for i in range(3)]
    path = class_workspace(tmp_path, 3, size=24, classes=classes, names=names)
    who = f"Dr {quote}<svg onload=window.broken=1>"
    (tmp_path / "tokens").write_text(f"{who}:{'a' * 20}\nbob:{'b' * 20}\n")
    with running(path, token_file=tmp_path / "tokens") as serving:
        page = new_page()
        login(page, serving, "a" * 20)
        assert page.locator(".who bdi").inner_text() == who
        page.goto(serving.address + "fix")
        first = ready(page)
        assert page.locator("[data-at=title]").inner_text() in names
        page.fill("[data-at=comment]", EVIL)
        page.keyboard.press("Control+Enter")
        page.keyboard.press("2")
        ready(page, first)
        settled(page)
        other = new_page()
        login(other, serving, "b" * 20)
        other.goto(serving.address + "image/" + first)
        ready(other)
        assert EVIL in other.locator(".history").inner_text()
        assert who in other.locator(".history").inner_text()
        for where in ("", "grid", "audit", "image/" + first):
            other.goto(serving.address + where)
            other.wait_for_timeout(60)
            assert other.evaluate("window.broken") is None
            assert other.locator("img[onerror], svg[onload]").count() == 0
        assert who in other.inner_text("body") or where
        assert page.evaluate("window.broken") is None


def test_nothing_is_fetched_from_elsewhere(tmp_path, new_page):
    path = object_workspace(tmp_path, 2)
    with running(path) as serving:
        page = new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        for where in ("", "audit", "fix", "grid"):
            page.goto(serving.address + where)
            page.wait_for_timeout(50)
        assert asked
        assert all(url.startswith(serving.address) for url in asked)
        names = [*serving.desk.files().values()]
        assert not any(name in url for url in asked for name in names)


def test_where_the_model_looked_is_laid_over(tmp_path, new_page):
    from medloop.students import make_student

    path = class_workspace(tmp_path, 12, size=24)
    with running(path) as serving:  # no model has been kept
        page = new_page()
        page.goto(serving.address + "fix")
        ready(page)
        assert page.locator("[data-layer=activation]").is_hidden()
    with Workspace.open(path, read_only=True) as workspace:
        dataset, labels = open_dataset(workspace), workspace.log.current()
        folder = workspace.round_folder(1) / "student"
    settings = {"size": 24, "n_centroids": 12, "n_components": 8}
    student = make_student("patches", settings).prepare(dataset, seed=0)
    student.fit(dataset, labels.with_(probs=None), seed=0).save(folder)
    with running(path) as serving:
        page = new_page()
        page.goto(serving.address + "fix")
        ready(page)
        assert page.locator(".activation").is_hidden()
        page.keyboard.press("a")
        page.wait_for_function("() => document.querySelector('.activation').naturalWidth > 6")
        assert page.locator(".activation").is_visible()


def test_the_next_pictures_are_there_before_the_key(tmp_path, new_page):
    path = class_workspace(tmp_path, 10, size=24)
    with running(path) as serving:
        page = new_page()
        asked = []
        page.on("requestfinished", lambda request: asked.append(request.url.split("/")[-2]))
        page.goto(serving.address + "fix")
        before = ready(page)
        page.wait_for_timeout(300)
        seen = set(asked)
        for _ in range(3):
            page.keyboard.press("1")
            before = ready(page, before)
            assert before in seen


def test_work_goes_on_when_the_server_is_started_again(tmp_path, new_page):
    path = class_workspace(tmp_path, 8, size=24)
    with running(path, reviewer="ana") as serving:
        page = new_page()
        port = int(serving.address.rsplit(":", 1)[1].strip("/"))
        page.goto(serving.address + "fix")
        first = ready(page)
        page.wait_for_timeout(300)
    page.keyboard.press("2")  # nobody is there
    second = ready(page, first)
    page.keyboard.press("1")
    page.wait_for_selector(".toast.bad:not([hidden])")
    assert page.locator(".bench").get_attribute("data-waiting") == "2"
    with running(path, reviewer="ana", port=port) as serving:
        # the session is a new one: its address, opened in another tab, lets the first go on
        page.wait_for_function(
            "() => document.querySelector('.toast').textContent.includes('started again')"
        )
        door = page.context.new_page()
        door.goto(serving.entry)
        door.wait_for_url(serving.address)
        settled(page)
        assert page.locator(".toast.bad:not([hidden])").count() == 0
        for item, name in ((first, "spiculated"), (second, "round")):
            assert serving.desk.item(item).findings[0]["class"] == name
            assert serving.desk.item(item).decided
    assert len(answers(path)) == 2


def test_every_action_has_a_key_that_is_shown(tmp_path, new_page):
    path = object_workspace(tmp_path, 1)
    with running(path) as serving:
        page = new_page()
        page.goto(serving.address + "fix")
        ready(page)
        for button in page.locator(".bench button:visible").all():
            inside = button.locator("kbd").count()
            assert inside or button.locator("xpath=ancestor::*[@data-at='objects']").count()
        page.keyboard.press("?")
        shown = page.locator("dialog dl").inner_text()
        for words in ("undo", "redo", "draw a box", "mask by brush", "window and level", "zoom in"):
            assert words in shown
        assert json.dumps(shown).count("undo") == 1


CONTRAST = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.8) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
    if (!own || !element.checkVisibility() || element.disabled || element.closest("svg")) continue;
    const [a, b] = [numbers(getComputedStyle(element).color), behind(element)].map(light);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName} ${element.textContent.trim()} ${ratio}`);
  }
  return poor;
}"""


def test_text_stands_out_as_wcag_asks(tmp_path, new_page):
    path = class_workspace(tmp_path, 40, size=24)
    with running(path) as serving:
        page = new_page()
        for where in ("", "audit", "fix", "grid"):
            page.goto(serving.address + where)
            if where == "fix":
                ready(page)
            if where == "grid":
                page.keyboard.press("2")
                page.keyboard.press(" ")
            page.wait_for_timeout(50)
            assert page.evaluate(CONTRAST) == []
            page.keyboard.press("?")
            assert page.evaluate(CONTRAST) == []
