import json

import numpy as np
import pytest
from desks import audit, make, no, yes
from hypothesis import given, settings
from hypothesis import strategies as st

from medloop.audit import accepted_images, answer_audit, draw_audit
from medloop.certify import anytime, reviewer_bound
from medloop.errors import CertificateError, StaleError, UsageError
from medloop.export import export_labels
from medloop.labels import Labels
from medloop.review.audit_session import (
    AuditSession,
    Terms,
    add_reviewer,
    more_checks,
    reviewer_share,
)
from medloop.review.by_class import anytime_per_class
from medloop.review.compare import differs
from medloop.review.desk import Desk
from medloop.review.replay import check_certificates
from medloop.store.files import write_json
from medloop.store.workspace import Workspace


def terms(size, **changed):
    values = {
        "error_rate": 0.1,
        "confidence": 0.9,
        "blind": True,
        "repeats": 0.2,
        "raters": 2,
        "loss": None,
        "tolerance": None,
        "seed": 5,
        "round": 1,
        "size": size,
    }
    return Terms(**values | changed)


def session(n=100, **changed):
    return AuditSession(
        1, terms(n, **changed), Labels(image=np.arange(n), class_id=np.zeros(n, int))
    )


def one(image, code):
    return Labels(image=[image], class_id=[code], source=["human"])


# -- the prefix -----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_only_the_prefix_counts_whatever_the_order_of_answers(data):
    run = session(30)
    held = {}
    for step in range(data.draw(st.integers(0, 60))):
        at = data.draw(st.integers(0, 29))
        if at in held and data.draw(st.booleans()):
            run.take_back((at, 0))
            del held[at]
        else:
            held[at] = data.draw(st.booleans())
            run.give((at, 0), step, "ann", one(run.image(at), int(held[at])))
        prefix = next((k for k in range(30) if k not in held), 30)
        wrong = [held[k] for k in range(prefix)]
        assert run.counted == prefix
        assert run.wrong.tolist() == wrong
        assert run.answered == len(held)
        said = anytime(np.array(wrong, bool), 30, error_rate=0.1, confidence=0.9)
        assert run.certainty().sentence == said.sentence
        assert run.certainty().error_bound == said.error_bound
        curve = run.curve()
        assert [p["errors"] for p in curve] == [sum(wrong[: p["checks"]]) for p in curve]
        assert (curve[-1]["bound"] if curve else said.error_bound) == said.error_bound


def test_the_order_is_a_permutation_that_the_seed_fixes():
    first, again, other = session(), session(), session(seed=6)
    assert sorted(first.order.tolist()) == list(range(100))
    assert first.order.tolist() == again.order.tolist() != other.order.tolist()
    assert first.marked.tolist() == again.marked.tolist()
    for image in range(100):
        assert first.image(first.place_of(image)) == image
    assert first.place_of(100) is None
    assert first.place_of(-1) is None


def test_changed_answers_are_counted_and_told():
    run = session(200, repeats=0)
    for at in range(120):
        run.give((at, 0), at, "ann", one(run.image(at), 0))
    assert "changed" not in run.certificate().sentence
    run.take_back((3, 0))
    assert run.counted == 3
    assert not run.certainty().holds
    run.give((3, 0), 500, "ann", one(run.image(3), 1))
    assert run.counted == 120
    assert run.errors == 1
    assert "1 answer was changed by the reviewer afterwards" in run.certificate().sentence


def test_repeats_count_as_a_prefix_too():
    run = session(100)
    marked = run.marked.tolist()
    for at in range(100):
        run.give((at, 0), at, "ann", one(run.image(at), 0))
    run.give((marked[0], 1), 100, "bob", one(run.image(marked[0]), 1))
    run.give((marked[2], 1), 101, "bob", one(run.image(marked[2]), 0))
    assert run.repeated().tolist() == [True]
    run.give((marked[1], 1), 102, "bob", one(run.image(marked[1]), 0))
    assert run.repeated().tolist() == [True, False, False]
    # the first answer turns out to have been changed to what the second said
    run.give((marked[0], 0), 103, "ann", one(run.image(marked[0]), 1))
    assert run.repeated().tolist() == [False, False, False]


def test_marked_places_are_a_uniform_share():
    counts = [len(session(1000, repeats=0.07, seed=s).marked) for s in range(40)]
    # 40,000 coins of .07: four standard deviations
    assert abs(np.sum(counts) - 2800) < 4 * np.sqrt(40_000 * 0.07 * 0.93)


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "k", "pool"), [(0, 0, 500), (40, 1, 500), (10, 3, 80), (0, 0, 5000)])
def test_more_checks_is_where_the_expected_path_arrives(t, k, pool):
    wrong = np.arange(t) < k
    more = more_checks(wrong, pool, error_rate=0.05, confidence=0.95)
    share = (2 + k) / (2 / 0.015 + t)
    path = np.concatenate([wrong, np.diff(np.floor(np.arange(more + 1) * share + 0.5)) > 0])
    reached = [
        anytime(path[:n], pool, error_rate=0.05, confidence=0.95).evidence[-1] >= np.log(20) + 1e-6
        for n in (t + more - 1, t + more)
    ]
    assert reached == [False, True]


def test_the_persons_bound_is_a_little_above_the_one_for_a_fixed_number():
    for n, d in ((10, 0), (60, 0), (60, 2), (150, 3)):
        ours = reviewer_share(np.arange(n) < d, 50_000, confidence=0.95)
        fixed = reviewer_bound(n, d, confidence=0.95)
        assert fixed < ours < 1.5 * fixed
    assert reviewer_share([], 100, confidence=0.95) == 1.0


def test_the_persons_bound_holds_at_every_look():
    # share of 4% of 500 images: how often is any bound along the order below it?
    rng, false = np.random.default_rng(0), 0
    for _ in range(300):
        differing = rng.permutation(np.arange(500) < 20)
        false += any(
            reviewer_share(differing[:n], 500, confidence=0.9) < 0.04 for n in range(5, 300, 12)
        )
    # at most 10% may be; 300 draws, four standard deviations
    assert false <= 30 + 4 * np.sqrt(27)


def test_bounds_and_risks_add_up():
    run = session(300, repeats=0)
    for at in range(150):
        run.give((at, 0), at, "ann", one(run.image(at), 0))
    made = run.certificate()
    assert made.holds
    assert made.reviewer_bound == 0
    assert "relative to the reviewer" in made.sentence
    both = add_reviewer(made, [False] * 40, confidence=0.9)
    share = reviewer_share([False] * 40, 300, confidence=0.9)
    assert both.error_bound == pytest.approx(made.error_bound + share)
    assert both.confidence == pytest.approx(0.8)
    with pytest.raises(UsageError, match=r"above 0\.5"):
        add_reviewer(made, [False], confidence=0.1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"error_rate": 0}, "error_rate must lie in"),
        ({"confidence": 1.0}, "confidence must lie in"),
        ({"error_rate": float("nan")}, "error_rate must lie in"),
        ({"repeats": 0.6}, "repeats must lie in"),
        ({"raters": 1}, "raters must be"),
        ({"loss": "dice"}, "unknown loss 'dice'"),
        ({"tolerance": 0.5}, "a tolerance needs a loss"),
        ({"loss": "iou", "tolerance": 0}, "tolerance must lie in"),
    ],
)
def test_terms_that_cannot_be(wrong, words):
    with pytest.raises(UsageError, match=words):
        terms(10, **wrong)


def test_one_class_alone_is_the_plain_statement():
    rng = np.random.default_rng(0)
    wrong = rng.random(150) < 0.02
    found = anytime_per_class(np.zeros(600, int), wrong, error_rate=0.05, confidence=0.95)[0]
    plain = anytime(wrong, 600, error_rate=0.05, confidence=0.95)
    assert (found["holds"], found["error_bound"]) == (plain.holds, plain.error_bound)


def test_a_class_that_is_sure_leaves_its_share_to_the_others():
    rng = np.random.default_rng(1)
    classes = rng.permutation(np.repeat([0, 1, 2], [900, 300, 300]))
    wrong = np.zeros(500, bool)
    wrong[np.flatnonzero(classes[:500] == 2)[::4]] = True
    found = anytime_per_class(classes, wrong, error_rate=0.05, confidence=0.95)
    assert [one["holds"] for one in found.values()] == [True, True, False]
    assert found[0]["confidence_used"] == pytest.approx(1 - 0.05 / 3)
    assert found[2]["confidence_used"] == pytest.approx(0.95)
    for c, one_ in found.items():
        mine = wrong[classes[:500] == c]
        said = anytime(
            mine, one_["labels"], error_rate=0.05, confidence=round(one_["confidence_used"], 12)
        )
        assert (one_["checked"], one_["errors"]) == (len(mine), mine.sum())
        assert one_["error_bound"] == said.error_bound


def test_all_classes_together_keep_the_confidence():
    # two bad classes and a good one; false if any class is certified with too many left, ever
    rng, false = np.random.default_rng(2), 0
    pool = np.concatenate([np.arange(60) < 7, np.arange(60) < 8, np.zeros(60, bool)])
    names = np.repeat([0, 1, 2], 60)
    for _ in range(150):
        order = rng.permutation(180)
        classes, wrong = names[order], pool[order]
        for t in range(20, 180, 20):
            found = anytime_per_class(classes, wrong[:t], error_rate=0.1, confidence=0.8)
            stay = [wrong[t:][classes[t:] == c].sum() for c in (0, 1, 2)]
            if any(found[c]["holds"] and stay[c] > 6 for c in (0, 1, 2)):
                false += 1
                break
    assert false <= 30 + 4 * np.sqrt(24)


# -- losses ---------------------------------------------------------------------------------------


def boxes(*rows):
    return Labels(
        image=np.zeros(len(rows), int),
        class_id=[row[0] for row in rows],
        box=np.array([row[1:] for row in rows], float).reshape(-1, 4),
    )


def test_boxes_differ_by_class_count_and_overlap():
    a, b = (0, 0, 0, 10, 10), (1, 20, 20, 30, 30)
    near, far = (0, 0, 0, 10, 6), (0, 0, 0, 10, 4)
    for one_, other, loss, expected in (
        (boxes(a, b), boxes(b, a), "iou", False),
        (boxes(a), boxes(near), "iou", False),
        (boxes(a), boxes(far), "iou", True),
        (boxes(a), boxes(far), None, False),
        (boxes(a), boxes((1, *a[1:])), "iou", True),
        (boxes(a, b), boxes(a), "iou", True),
        (boxes(), boxes(), "iou", False),
        (boxes(a, a), boxes(a, far), "iou", True),
    ):
        assert differs(one_, other, loss=loss) is expected
        assert differs(other, one_, loss=loss) is expected


def test_a_pairing_is_found_where_the_nearest_first_finds_none():
    # the first box fits both, the second only one of them
    one_ = boxes((0, 0, 0, 10, 10), (0, 0, 0, 10, 14))
    other = boxes((0, 0, 0, 10, 12), (0, 0, 0, 10, 7))
    assert differs(one_, other, loss="iou", tolerance=0.65) is False


def test_keypoints_differ_by_normalised_mean_error():
    def points(*rows, box=None):
        return Labels(
            image=[0],
            class_id=[0],
            keypoints=[rows],
            box=None if box is None else [box],
        )

    person = points((0, 0, 2), (10, 0, 2), (10, 10, 2), (0, 0, 0))
    moved = points((1.2, 0, 2), (10, 1.2, 2), (10, 10, 1), (50, 50, 0))
    # mean distance .8 over a size of 10
    assert differs(moved, person, loss="nme", tolerance=0.0799) is True
    assert differs(moved, person, loss="nme", tolerance=0.0801) is False
    hidden = points((0, 0, 2), (10, 0, 0), (10, 10, 2), (0, 0, 0))
    assert differs(hidden, person, loss="nme", tolerance=1.0) is True
    large = points((0, 0, 2), (10, 0, 2), (10, 10, 2), (0, 0, 0), box=(0, 0, 80, 20))
    assert differs(moved, large, loss="nme", tolerance=0.021) is False
    assert differs(moved, large, loss="nme", tolerance=0.019) is True


# -- the desk -------------------------------------------------------------------------------------


def test_an_audit_from_start_to_certificate(tmp_path):
    path = make(tmp_path / "ws", n=204)
    with Desk(path) as desk:
        with pytest.raises(UsageError, match="no audit is open"):
            desk.finish_audit()
        state = desk.start_audit(0.1, 0.9, blind=True, repeats=0)
        assert state["labels"] == 200
        assert "expected to show" in state["sentence"]
        assert desk.start_audit(0.1, 0.9, blind=True, repeats=0) == state
        expected = state["more_checks"]
        with pytest.raises(CertificateError, match="Not yet certified"):
            desk.finish_audit()
        count, said = 0, None
        while said is None or not said["may_stop"]:
            said = audit(desk, 1)
            count += 1
        free = anytime(np.zeros(200, bool), 200, error_rate=0.1, confidence=0.9)
        assert count == free.checks <= expected
        assert "you may stop" in said["sentence"]
        with pytest.raises(UsageError, match="open with other numbers and has answers"):
            desk.start_audit(0.2, 0.9, blind=True)
        done = desk.finish_audit(reviewer="ann")
        assert done["classes"]["no"]["labels"] == 200
        assert done["holds"]
        assert done["error_bound"] <= 0.1
        assert done["accepted"] == 200
        assert desk.finish_audit() == done == json.loads((path / "certificate.json").read_text())
        assert desk.home()["sentence"] == done["sentence"]
        assert desk.next_item("audit") is None
        assert desk.home()["fix"]["waiting"] == 0
        for turn in (desk.undo, lambda op, who: desk.start_audit(0.1, 0.9, blind=True)):
            with pytest.raises(UsageError, match=r"closed|audited already"):
                turn("u", "ann")
    with Workspace.open(path, read_only=True) as workspace:
        assert len(accepted_images(workspace)) == 200
        assert workspace.status()["certificate"] == done
        workspace.verify()
    export_labels(path, tmp_path / "out.csv")
    assert "false" not in (tmp_path / "out.csv").read_text()
    checked = check_certificates(path)
    assert checked["agrees"]
    assert checked["open"] is None
    with pytest.raises(UsageError, match="audited already"):
        draw_audit(path, 5, error_rate=0.1, confidence=0.9)


def test_errors_are_corrected_and_not_accepted(tmp_path):
    path = make(tmp_path / "ws", n=104, wrong=range(4, 8))
    truth = {image: no() for image in range(104)}
    with Desk(path) as desk:
        audit(desk, 100, truth=truth)
        said = desk.finish_audit()
    assert (said["audited"], said["errors"], said["corrected"]) == (100, 4, 4)
    assert said["accepted"] == 96
    assert said["error_bound"] == 0
    with Workspace.open(path, read_only=True) as workspace:
        assert set(workspace.log.current().class_id.tolist()) == {0}


def test_an_audit_may_be_given_up_and_then_accepts_nothing(tmp_path):
    path = make(tmp_path / "ws")
    with Desk(path) as desk:
        audit(desk, 3, error_rate=0.01)
        said = desk.finish_audit(give_up=True)
        assert not said["holds"]
        assert said["accepted"] == 0
    assert check_certificates(path)["agrees"]


def test_undo_opens_a_place_and_its_owner_gets_it_back(tmp_path):
    path = make(tmp_path / "ws")
    with Desk(path) as desk:
        desk.start_audit(0.1, 0.9, blind=True, repeats=0)
        audit(desk, 4)
        item = desk.next_item("audit", "bob")
        desk.answer("wrong key", item.id, yes(), reviewer="bob", base=item.version, kind="audit")
        audit(desk, 2)
        assert desk.home()["audit"]["counted"] == 7
        done = desk.undo("oops", "bob")
        assert done["undone"] == "audit"
        assert (done["certificate"]["counted"], done["certificate"]["answered"]) == (4, 6)
        assert desk.next_item("audit", "ann").id != item.id
        again = desk.next_item("audit", "bob")
        assert again.id == item.id
        desk.answer("right", again.id, no(), reviewer="bob", base=again.version, kind="audit")
        state = desk.home()["audit"]
        assert (state["counted"], state["errors"], state["changed"]) == (7, 0, 1)
    with Desk(path) as desk:
        assert desk.home()["audit"] == state
    assert check_certificates(path)["open"] == state["sentence"]


def test_repeats_come_blind_to_another_person_or_later_to_the_same(tmp_path):
    path = make(tmp_path / "ws", n=304)
    with Desk(path) as desk:
        desk.start_audit(0.1, 0.9, blind=False, repeats=0.3)
        seen, firsts = {}, []
        for number in range(60):
            item = desk.next_item("audit", "ann")
            image = desk.image_id(item.id)
            if image in seen:
                assert number - seen[image] > 10
            else:
                firsts.append(image)
            seen[image] = number
            assert item.history == []
            assert item.others == []
            desk.answer(
                f"a{number}", item.id, no(), reviewer="ann", base=item.version, kind="audit"
            )
        state = desk.home()["audit"]
        assert 5 < state["repeats"] < 25
        assert state["disagreements"] == 0
        assert desk.home()["agreement"]["self"][0]["reviewer"] == "ann"
        own = 60 - len(firsts)
        labels = desk.home()["labels"]
        item = desk.next_item("audit", "bob")
        assert desk.image_id(item.id) in firsts  # what ann has not repeated yet is bob's
        desk.answer("b", item.id, yes(), reviewer="bob", base=0, kind="audit")
        assert desk.home()["labels"] == labels  # a repeat measures, and changes no label
        found = desk.agreement()
        assert found["images"] == 1
        assert found["raters"] == ["ann", "bob"]
        assert found["consensus"][0]["votes"] == {"no": 1, "yes": 1}
        with pytest.raises(StaleError, match="somebody else"):
            desk.answer("c", item.id, yes(), reviewer="eve", base=0, kind="audit")
        desk.undo("d", "bob")
        assert desk.agreement()["images"] == 0
        desk.redo("e", "bob")
        assert desk.agreement()["images"] == 1
        assert desk.home()["agreement"]["self"][0]["repeats"] == own
        home = desk.home()
    with Desk(path) as desk:
        assert desk.home() == home
    assert check_certificates(path)["open"]


def test_the_reviewers_own_error_is_added(tmp_path):
    path = make(tmp_path / "ws", n=124)
    with Desk(path) as desk:
        desk.start_audit(0.1, 0.95, blind=True, repeats=0.4)
        for number in range(110):
            item = desk.next_item("audit", "ann")
            if item is None:
                break
            desk.answer(
                f"a{number}", item.id, no(), reviewer="ann", base=item.version, kind="audit"
            )
        said = desk.finish_audit()
    repeats = said["repeats"]
    assert repeats > 15
    share = reviewer_share([False] * repeats, 120, confidence=0.95)
    assert said["reviewer_bound"] == pytest.approx(share)
    assert said["confidence"] == pytest.approx(0.9)
    assert "blind repeats disagreed" in said["sentence"]
    assert check_certificates(path)["agrees"]


def test_boxes_are_audited_with_a_loss(tmp_path):
    path = make(tmp_path / "ws", n=64, boxes=True)
    with Desk(path) as desk:
        with pytest.raises(UsageError, match="needs keypoints"):
            desk.start_audit(0.2, 0.9, blind=False, loss="nme")
        desk.start_audit(0.2, 0.9, blind=False, loss="iou", tolerance=0.6, repeats=0)
        verdicts = []
        for box in ([5, 5, 25, 25], [5, 5, 25, 20], [5, 5, 25, 14]):
            item = desk.next_item("audit")
            found = [{**item.findings[0], "box": box}]
            desk.answer(str(box), item.id, found, base=item.version, kind="audit")
            verdicts.append(desk.home()["audit"]["errors"])
        assert verdicts == [0, 0, 1]
    assert check_certificates(path)["open"]


def test_a_fixed_audit_and_an_open_one_do_not_mix(tmp_path):
    path = make(tmp_path / "ws")
    draw_audit(path, 5, error_rate=0.2, confidence=0.9)
    with Desk(path) as desk:
        audit(desk, 1)
    with pytest.raises(UsageError, match="is open and has answers"):
        draw_audit(path, 5, error_rate=0.2, confidence=0.9)
    with pytest.raises(UsageError, match="medloop answers"):
        answer_audit(path, tmp_path / "a.csv")


# -- checking -------------------------------------------------------------------------------------


def certified(path):
    make(path, n=104, wrong=range(4, 8))
    with Desk(path) as desk:
        audit(desk, 100, truth={image: no() for image in range(104)})
        return desk.finish_audit()


def test_a_certificate_that_was_written_by_hand_does_not_agree(tmp_path):
    said = certified(tmp_path / "ws")
    write_json(tmp_path / "ws" / "certificate.json", said | {"error_bound": 0.0, "errors": 0})
    found = check_certificates(tmp_path / "ws")
    assert not found["agrees"]
    assert found["certificates"][0]["differences"] == ["certificate.json"]
    Desk(tmp_path / "ws").close()  # writes what the log says
    assert check_certificates(tmp_path / "ws")["agrees"]


def test_a_certificate_that_does_not_follow_from_the_answers_does_not_agree(tmp_path):
    path = make(tmp_path / "ws", n=104)
    with Desk(path) as desk:
        audit(desk, 2)
    with Workspace.open(path) as workspace:
        log = workspace.log
        seq = log.events("audit")[0].seq
        lie = {"holds": True, "sentence": "All is well.", "error_bound": 0.0}
        log.append(f"certificate-{seq}", "certificate", labels=log.labels(seq), payload=lie)
    found = check_certificates(path)
    assert not found["agrees"]
    assert {"holds", "sentence", "accepted labels"} <= set(found["certificates"][0]["differences"])


def test_an_answer_whose_event_lies_about_it_is_found(tmp_path, monkeypatch):
    path = make(tmp_path / "ws", n=104)
    with Desk(path) as desk:
        desk.start_audit(0.1, 0.9, blind=True, repeats=0)
        item = desk.next_item("audit")
        monkeypatch.setattr(desk._state.audit, "differs", lambda one, other: False)
        desk.answer("a", item.id, yes(), base=item.version, kind="audit")
        desk.finish_audit(give_up=True)
    found = check_certificates(path)
    assert not found["agrees"]
    assert "its rows do not" in found["certificates"][0]["differences"][0]


def test_a_fixed_audit_is_checked_too(tmp_path):
    path = make(tmp_path / "ws")
    with pytest.raises(UsageError, match="no certificate to check"):
        check_certificates(path)
    with Workspace.open(path) as workspace:
        log, pool = workspace.log, workspace.log.current(source="model")
        asked = {"size": 40, "error_rate": 0.2, "confidence": 0.9, "purity": False, "seed": 3}
        seq = log.append("audit-0-1", "audit", labels=pool, payload=asked | {"round": 1})
    from medloop import certify
    from medloop.audit import certified as fixed

    drawn = certify.draw_audit(len(pool), 40, seed=3)
    with Workspace.open(path) as workspace:
        log = workspace.log
        given_ = Labels(
            image=pool.image[drawn], class_id=pool.class_id[drawn], source=["human"] * 40
        )
        log.append(f"answers-{seq}", "answers", labels=given_, actor="reviewer")
        accepted, said = fixed(log.events("audit")[0], pool, given_, leak=None)
        log.append(f"certificate-{seq}", "certificate", labels=accepted, payload=said)
        workspace.save_json("certificate.json", said)
    assert check_certificates(path)["agrees"]
