"""Workspaces of objects at the desk: several rows an image, some of them named by a person."""

import json

import numpy as np
import pytest
from desks import make

from medloop.annotations import Skeleton
from medloop.audit import draw_audit, machine_labels
from medloop.errors import DataError, StaleError, UsageError
from medloop.export import export_labels
from medloop.labels import HUMAN, PARTLY, Labels
from medloop.review.desk import Desk
from medloop.review.doubts import FILE
from medloop.review.replay import check_certificates
from medloop.store.images import ImageRow
from medloop.store.workspace import Workspace

SKELETON = {"points": ["left", "right"], "edges": [[0, 1]], "flip": [[0, 1]], "sigmas": None}
SIDE = 100


def points_of(box, *, shift=0.0):
    x0, y0, x1, y1 = box
    return [[x0 + shift, (y0 + y1) / 2, 2], [x1, (y0 + y1) / 2, 1]]


def landmarks(path, n=40, *, extra=0):
    """A person named one object in the first half; a machine adds one to every image."""
    first, second = [10.0, 10, 30, 30], [50.0, 50, 80, 90]
    with Workspace.create(path, config={"recipe": "landmarks", "seed": 1}) as workspace:
        workspace.register(
            ImageRow(id=i, file=f"f/{i:02d}.png", sha256=f"{i:064x}", height=SIDE, width=SIDE)
            for i in range(n)
        )
        workspace.finish_scan(classes=["face", "hand"])
        half = np.arange(n // 2)
        workspace.log.append(
            "given",
            "given",
            labels=Labels(
                image=half,
                class_id=np.zeros(len(half), int),
                box=[first] * len(half),
                keypoints=[points_of(first)] * len(half),
                source=np.full(len(half), HUMAN),
            ),
            payload={"skeleton": SKELETON},
            looked_by=PARTLY,
        )
        rows = np.concatenate([np.arange(n), np.arange(extra)])
        box = np.array([second] * n + [first] * extra)
        workspace.log.append(
            "round-1/0",
            "round",
            round=1,
            labels=Labels(
                image=rows,
                class_id=np.zeros(len(rows), int),
                score=np.linspace(0.5, 0.9, len(rows)),
                box=box,
                keypoints=[points_of(one) for one in box.tolist()],
                round=np.ones(len(rows), int),
            ),
        )
    return path


def plain(findings):
    held = [{k: one[k] for k in ("class", "box", "keypoints") if k in one} for one in findings]
    return json.loads(json.dumps(held))


def test_what_a_person_named_stands_beside_the_machines_and_is_edited_with_it(tmp_path):
    path = landmarks(tmp_path / "ws")
    with Desk(path) as desk:
        name = desk.item_id("f/03.png")
        item = desk.item(name)
        assert [one["source"] for one in item.findings] == ["model", "human"]
        assert not item.decided
        assert item.skeleton["points"] == ["left", "right"]
        assert [row["id"] for row in desk.queue(50)].count(name) == 1
        found = plain(item.findings)
        found[1]["keypoints"][0] = [12.5, 21.0, 2]
        desk.answer("a", name, found, base=item.version, kind="fix")
        after = desk.item(name)
        assert after.decided
        assert plain(after.findings) == found
        assert {one["source"] for one in after.findings} == {"human"}
        # taken back, both are what they were: the machine's, and what the person had named
        desk.undo("b")
        assert desk.item(name).findings == item.findings
        assert not desk.item(name).decided
        assert [one.get("withdrawn") for one in desk.item(name).history][-1] is True
        assert desk.item(name, "eve").others == []
        desk.redo("c")
        assert plain(desk.item(name).findings) == found
    with Workspace.open(path, read_only=True) as workspace:
        assert workspace.verify() > 0
        assert workspace.log.current().keypoints is not None


def test_a_first_answer_that_is_taken_back_is_nobodys(tmp_path):
    path = make(tmp_path / "ws")
    with Desk(path) as desk:
        name = desk.item_id("0010.png")
        before = desk.item(name)
        base = desk.answer("a", name, [{"class": "yes"}], base=9, kind="edit")["version"]
        desk.undo("b")
        after = desk.item(name, "eve")
        assert (after.findings, after.decided) == (before.findings, False)
        assert after.findings[0]["source"] == "model"
        assert desk.queue(1)[0]["id"] == name
        assert desk.home()["labels"]["by_source"] == {"human": 4, "model": 56}
        # who still sees the answer that was taken back is told so
        with pytest.raises(StaleError, match="was taken back by reviewer since"):
            desk.answer("c", name, [{"class": "no"}], reviewer="eve", base=base, kind="edit")
        home = desk.home()
    export_labels(path, tmp_path / "labels.csv", format="csv")
    (row,) = [r for r in (tmp_path / "labels.csv").read_text().splitlines() if "0010.png" in r]
    assert "human" not in row
    assert "model" in row
    with Desk(path) as again:
        assert again.home() == home
        assert again.queue(1)[0]["reason"] == "an answer was taken back"
        again.redo("d")
        assert again.item(name).findings[0]["class"] == "yes"
        again.undo("e")
        again.answer("f", name, [{"class": "no"}], base=again.item(name).version, kind="edit")
        again.undo("g")
        assert not again.item(name).decided
    with Workspace.open(path, read_only=True) as workspace:
        workspace.verify()
        kinds = [(e.kind, e.looked_by) for e in workspace.log.events()][3:]
    assert kinds == [
        ("review", "human"),
        ("undo", "withdrawn"),
        ("redo", "human"),
        ("undo", "withdrawn"),
        ("review", "human"),
        ("undo", "withdrawn"),
    ]


def test_many_first_answers_are_taken_back_at_once_and_mixed_with_others(tmp_path):
    path = make(tmp_path / "ws", n=200)
    with Desk(path) as desk:
        rows = desk.queue(150)
        known = desk.item_id("0001.png")  # a person's from the beginning
        asked = [(row["id"], row["version"], "yes") for row in rows]
        asked.append((known, desk.item(known).version, "yes"))
        desk.confirm_many("many", asked)
        assert desk.home()["decided"] == 154
        desk.undo("back")
        assert desk.home()["decided"] == 4
        assert desk.item(known).findings[0]["class"] == "no"
        assert desk.item(known).decided
        left = desk.home()
        assert {row["id"] for row in desk.queue(150)} == {row["id"] for row in rows}
    with Desk(path) as again:
        assert again.home() == left
        again.redo("again")
        assert again.home()["decided"] == 154
    with Workspace.open(path, read_only=True) as workspace:
        assert workspace.verify() == 3 + 1 + 2 + 1


def test_what_was_answered_meanwhile_is_not_held_any_more(tmp_path):
    with Desk(make(tmp_path / "ws")) as desk:
        mine = desk.next_item("fix", "ann")
        # on the image's own page, by somebody else
        desk.answer("a", mine.id, [{"class": "no"}], reviewer="bob", base=9, kind="edit")
        other = desk.next_item("fix", "ann", holding=[mine.id])
        assert other.id != mine.id
        assert desk._leases.holder(mine.id) is None
        assert desk.next_item("fix", "ann").id == other.id
        desk.start_audit(0.2, 0.8, blind=True, repeats=0)
        place = desk.next_item("audit", "ann")
        desk.answer(
            "b", place.id, [{"class": "no"}], reviewer="ann", base=place.version, kind="audit"
        )
        after = desk.next_item("audit", "ann", holding=[place.id])
        assert after.id != place.id
        assert desk._leases.holder(place.id) is None
        desk.undo("c", "ann")  # open again, and held again
        assert desk.next_item("audit", "ann", holding=[after.id]).id == place.id


@pytest.mark.parametrize(("loss", "slip"), [("iou", 25.0), ("nme", 12.0)])
def test_an_audit_asks_about_all_that_an_image_shows(tmp_path, loss, slip):
    path = landmarks(tmp_path / "ws", 120)
    with Desk(path) as desk:
        state = desk.start_audit(0.2, 0.8, blind=False, repeats=0, loss=loss)
        assert state["labels"] == 120  # those with a person's objects too
        wrong = set()
        for turn in range(30):
            item = desk.next_item("audit")
            found = plain(item.findings)
            image = desk.image_id(item.id)
            assert len(found) == (2 if image < 60 else 1)
            if turn in (4, 9):
                wrong.add(image)
                if loss == "iou":
                    found[0]["box"][2] = found[0]["box"][0] + 20 - slip + 10
                else:
                    found[0]["keypoints"][0][0] += slip
            desk.answer(f"op{turn}", item.id, found, base=item.version, kind="audit")
        state = desk.home()["audit"]
        assert (state["counted"], state["errors"]) == (30, 2)
        assert state["may_stop"]
        said = desk.finish_audit()
        assert said["classes"] == {}  # some images have several
        assert said["loss"] == loss
    assert check_certificates(path)["agrees"]
    with Workspace.open(path, read_only=True) as workspace:
        certificate = workspace.log.events("certificate")[-1]
        vouched = workspace.log.labels(certificate.seq)
        assert not set(vouched.image.tolist()) & wrong
        assert vouched.box is not None
        assert vouched.keypoints is not None
    with Desk(path) as again:
        assert again.home()["certificate"] == said


def test_a_column_that_one_round_lacks_is_not_lost_by_an_audit(tmp_path):
    path = landmarks(tmp_path / "ws", 10)
    with Workspace.open(path) as workspace:
        bare = Labels(image=[9], class_id=[1], score=[0.6], round=[1])
        workspace.log.append("bare", "round", labels=bare, round=1)
        assert workspace.log.current(source="model").box is None
        kept = machine_labels(workspace.log)
    with Desk(path) as desk:
        desk.start_audit(0.2, 0.8, blind=False)
    with Workspace.open(path, read_only=True) as workspace:
        frozen = workspace.log.labels(workspace.log.events("audit")[0].seq)
    assert frozen.image.tolist() == kept.image.tolist() == list(range(10))
    assert frozen.box[:9].tolist() == [[50, 50, 80, 90]] * 9
    assert not frozen.box[9].any()
    assert frozen.keypoints.shape == (10, 2, 3)
    with Desk(path) as desk:  # a place of zeros is no place
        (one,) = desk.item(desk.item_id("f/09.png")).findings
        assert "box" not in one
        assert "keypoints" not in one


def test_a_table_of_classes_cannot_audit_places_or_several_labels_an_image(tmp_path):
    path = landmarks(tmp_path / "points", 10)
    with pytest.raises(UsageError, match=r"say where things are.*medloop review"):
        draw_audit(path, 5, error_rate=0.2, confidence=0.8)
    several = make(tmp_path / "several", n=10)
    with Workspace.open(several) as workspace:
        image = int(workspace.log.current(source="model").image[0])
        twice = Labels(image=[image, image], class_id=[0, 1], round=[9, 9])
        workspace.log.append("twice", "round", labels=twice, round=9)
    with pytest.raises(UsageError, match="several machine labels an image"):
        draw_audit(several, 5, error_rate=0.2, confidence=0.8)


def test_a_class_alone_costs_the_others_no_box_and_makes_up_none(tmp_path):
    path = landmarks(tmp_path / "ws", 10)
    with Desk(path) as desk:
        name = desk.item_id("f/07.png")
        desk.answer("a", name, [{"class": "hand"}], base=9, kind="edit")
        both = [{"class": "face", "box": [1, 1, 9, 9]}, {"class": "hand", "box": [2, 2, 9, 9]}]
        both[1]["keypoints"] = points_of(both[1]["box"])
        other = desk.item_id("f/08.png")
        desk.answer("b", other, both, base=9, kind="edit")
        assert plain(desk.item(name).findings) == [{"class": "hand"}]
        assert plain(desk.item(other).findings) == both
    with Workspace.open(path, read_only=True) as workspace:
        current = workspace.log.current()
    assert current.box is not None
    assert current.keypoints is not None
    assert not current.box[current.image == 7].any()
    assert current.box[current.image == 3].all(axis=1).all()
    out = tmp_path / "coco.json"
    export_labels(path, out, format="coco")
    made = json.loads(out.read_text())
    rows = [one for one in made["annotations"] if one["image_id"] in (8, 9)]
    assert sum("keypoints" in one and any(one["keypoints"]) for one in rows) == 1 + 1


def test_findings_are_chosen_one_by_one(tmp_path):
    path = landmarks(tmp_path / "ws", 10, extra=4)
    with Desk(path) as desk:
        name = desk.item_id("f/01.png")
        item = desk.item(name)
        assert len(item.findings) == 3
        with pytest.raises(DataError, match="has 3 findings, got 2 classes"):
            desk.confirm_many("a", [(name, item.version, ["face", None])])
        with pytest.raises(DataError, match="unknown class 'foot'"):
            desk.confirm_many("a", [(name, item.version, ["face", None, "foot"])])
        empty = desk.item_id("f/09.png")
        asked = [(name, item.version, ["hand", None, "face"]), (empty, 9, [None])]
        assert desk.confirm_many("b", asked)["images"] == 2
        kept = [{**plain(item.findings)[0], "class": "hand"}, plain(item.findings)[2]]
        assert plain(desk.item(name).findings) == kept
        assert desk.item(empty).findings == []
        assert desk.item(empty).decided


DOUBT = {"image": 2, "file": "f/02.png", "class": "face", "box": [11, 11, 31, 31], "score": 0.8}


def test_what_the_machine_would_place_elsewhere_leads_the_queue(tmp_path):
    path = landmarks(tmp_path / "ws", 10)
    moved = points_of(DOUBT["box"], shift=-14)  # a machine's point may lie beside the image
    rows = [
        {**DOUBT, "points": moved},
        {**DOUBT, "image": 99, "points": moved},
        {**DOUBT, "image": 3, "class": "foot", "points": moved},
        {**DOUBT, "image": 4, "points": [[1, 2, 3]]},
        {**DOUBT, "image": 5, "box": None},
        "nothing",
    ]
    (path / FILE).write_text(json.dumps(rows))
    with Desk(path) as desk:
        first = desk.queue(1)[0]
        assert first["file"] == "f/02.png"
        assert first["reason"] == "the machine would place a person's points elsewhere"
        assert [row["reason"] for row in desk.queue(20)].count(first["reason"]) == 1
        item = desk.next_item("fix")
        assert item.id == first["id"]
        assert item.proposed == [
            {
                "class": "face",
                "box": DOUBT["box"],
                "keypoints": moved,
                "source": "model",
                "score": 0.8,
            }
        ]
        found = plain(item.findings)
        desk.answer("a", item.id, found, base=item.version, kind="fix")
        assert desk.item(item.id).proposed == []  # a person looked, and decided
        assert desk.queue(1)[0]["reason"] != first["reason"]
        desk.start_audit(0.2, 0.8, blind=False)
        assert desk.next_item("audit").proposed == []
    for text in ("{", "{}", "[1, null]"):
        (path / FILE).write_text(text)
        with Desk(path) as desk:
            assert all(desk.item(one).proposed == [] for one in desk.files())


def test_the_points_of_an_import_are_known(tmp_path):
    path = landmarks(tmp_path / "ws", 4)
    with Desk(path) as desk:
        skeleton = Skeleton(points=tuple(desk.skeleton["points"]))
        assert skeleton.points == ("left", "right")
        with pytest.raises(DataError, match="must be 2 points"):
            desk.answer(
                "a",
                desk.item_id("f/01.png"),
                [{"class": "face", "keypoints": [[1, 2, 2]]}],
                base=9,
                kind="edit",
            )
