import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medloop.errors import UsageError
from medloop.gate import Gate, Verdict, both, do_no_harm, few_invented, least_sure, quality_kept


def simulate(random, separation, *, patients=50, classes=2, shared=0.8):
    """Draw truth and the probabilities of two students whose separations are given.

    Two images a patient, one class a patient; the students' errors are correlated.
    """
    truth = np.repeat(np.arange(patients) % classes, 2)
    group = np.repeat(np.arange(patients), 2)
    common = random.standard_normal((2 * patients, classes))
    probs = []
    for distance in separation:
        own = random.standard_normal((2 * patients, classes))
        logits = distance * np.eye(classes)[truth]
        logits = logits + np.sqrt(shared) * common + np.sqrt(1 - shared) * own
        exp = np.exp(logits)
        probs.append(exp / exp.sum(axis=1, keepdims=True))
    return truth, *probs, group


def verdicts(separation, n=100, **settings):
    taught = settings.pop("machine_taught", True)
    for seed in range(n):
        random = np.random.default_rng((seed, 7))
        drawn = simulate(random, separation, **settings)
        yield do_no_harm(Gate(), *drawn, seed=seed, machine_taught=taught)


# the AUC of two classes is the normal distribution function of the separation
def test_a_harmful_round_is_refused_95_times_in_100():
    # AUC 0.84 to 0.73
    assert sum(not one.passes for one in verdicts((1.0, 0.6))) >= 95


def test_a_round_that_loses_just_the_margin_is_refused_95_times_in_100():
    # AUC 0.841 to 0.811, the edge of the null hypothesis; fewer than 182 of 200 is improbable
    assert sum(not one.passes for one in verdicts((1.0, 0.8825), n=200)) >= 182


def test_a_clearly_useful_round_is_kept_80_times_in_100():
    # AUC 0.84 to 0.92
    assert sum(one.passes for one in verdicts((1.0, 1.4))) >= 80


def test_a_round_that_learned_from_no_machine_label_only_has_to_gain():
    better = list(verdicts((1.0, 1.2), machine_taught=False))
    assert sum(one.passes for one in better) >= 80
    assert sum(one.passes for one in better) > sum(one.passes for one in verdicts((1.0, 1.2)))
    worse = list(verdicts((1.5, 0.7), machine_taught=False))
    assert sum(not one.passes for one in worse) >= 95
    assert {one.reason for one in worse if not one.passes} == {"no_gain"}
    for one in [*better, *worse]:
        assert one.passes == (one.difference > 0)


def test_few_labels_show_nothing():
    for patients in (2, 4, 5):
        for one in verdicts((1.5, 2.4), n=5, patients=patients):
            assert (one.passes, one.reason) == (False, "too_few")
            assert one.difference != one.difference
            assert "too few" in one.sentence
        for one in verdicts((1.5, 0.2), n=5, patients=patients, machine_taught=False):
            assert (one.passes, one.reason) == (True, "")
            assert one.sentence.startswith("Kept unverified")


def test_a_class_of_one_patient_shows_nothing():
    truth, before, after, group = simulate(np.random.default_rng(0), (1.5, 2.4), patients=20)
    truth = (group == 0).astype(int)
    truth[2] = 0
    with_three = np.concatenate([truth, [1]])
    verdict = do_no_harm(
        Gate(),
        with_three,
        np.concatenate([before, before[:1]]),
        np.concatenate([after, after[:1]]),
        np.concatenate([group, [0]]),
        seed=0,
    )
    assert (verdict.passes, verdict.reason) == (False, "too_few")
    assert "nan" not in verdict.sentence


def test_no_label_at_all_shows_nothing():
    none = np.empty(0, np.int64)
    verdict = do_no_harm(Gate(), none, np.empty((0, 2)), np.empty((0, 2)), none, seed=0)
    assert (verdict.reason, verdict.n_images, verdict.n_groups) == ("too_few", 0, 0)
    assert verdict.to_json()["lower"] is None


def test_no_change_is_no_gain():
    truth, before, _, group = simulate(np.random.default_rng(0), (1.5, 1.5))
    verdict = do_no_harm(Gate(), truth, before, before, group, seed=0)
    assert (verdict.passes, verdict.reason, verdict.difference) == (False, "no_gain", 0)
    taught_by_none = do_no_harm(Gate(), truth, before, before, group, seed=0, machine_taught=False)
    assert taught_by_none.reason == "no_gain"


@pytest.mark.parametrize("classes", [2, 3])
def test_the_difference_is_that_of_the_weighted_auc(classes):
    drawn = simulate(np.random.default_rng(3), (0.6, 2.5), patients=60, classes=classes)
    truth, before, after, group = drawn
    verdict = do_no_harm(Gate(), *drawn, seed=0)

    def weighted(probs):
        if classes == 2:
            return roc_auc_score(truth, probs[:, 1])
        return roc_auc_score(truth, probs, multi_class="ovr", average="weighted")

    assert verdict.difference == pytest.approx(weighted(after) - weighted(before))
    assert verdict.lower < verdict.difference
    assert (verdict.passes, verdict.n_images, verdict.n_groups) == (True, 120, 60)
    back = do_no_harm(Gate(), truth, after, before, group, seed=0)
    assert (back.passes, back.reason) == (False, "harm")


def test_a_wider_margin_or_less_confidence_lets_more_pass():
    drawn = simulate(np.random.default_rng(5), (1.0, 1.1), patients=30, shared=0.5)
    strict = do_no_harm(Gate(margin=0), *drawn, seed=0)
    assert (strict.passes, strict.reason) == (False, "harm")
    assert strict.difference > 0 > strict.lower
    assert do_no_harm(Gate(margin=0.5), *drawn, seed=0).passes
    assert do_no_harm(Gate(confidence=0.8), *drawn, seed=0).lower > strict.lower


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"margin": -0.1}, r"gate margin must lie in \[0, 1\), got -0.1"),
        ({"margin": 1}, r"gate margin must lie in \[0, 1\), got 1"),
        ({"confidence": 0.5}, r"gate confidence must lie in \(0.5, 1\), got 0.5"),
        ({"confidence": 1}, r"gate confidence must lie in \(0.5, 1\), got 1"),
    ],
)
def test_a_gate_that_cannot_be(settings, words):
    with pytest.raises(UsageError, match=words):
        Gate(**settings)


def false_findings(random, rate, *, images=80, shared=0.7):
    """Draw how many false findings two students make in each image, at rates that are given.

    One or two objects an image; a share of the findings is common to both.
    """
    objects = random.integers(1, 3, images)
    common = random.poisson(shared * min(rate) * objects)
    return [common + random.poisson((r - shared * min(rate)) * objects) for r in rate], objects


def invention_verdicts(rate, n=100, margin=0.05):
    for seed in range(n):
        drawn, objects = false_findings(np.random.default_rng((seed, 3)), rate)
        yield few_invented(
            Gate(), *drawn, objects, np.arange(len(objects)), seed=seed, margin=margin
        )


def test_a_round_that_invents_objects_is_refused_95_times_in_100():
    assert sum(not one.passes for one in invention_verdicts((0.05, 0.2))) >= 95


def test_a_round_that_invents_just_the_margin_is_refused_nearly_95_times_in_100():
    # the edge of the null hypothesis; the bootstrap is a little short with rare events
    assert sum(not one.passes for one in invention_verdicts((0.05, 0.10), n=200)) >= 176


def test_a_round_that_invents_no_more_is_kept_80_times_in_100():
    assert sum(one.passes for one in invention_verdicts((0.03, 0.03))) >= 80
    assert sum(one.passes for one in invention_verdicts((0.1, 0.02))) >= 95


def test_the_rise_of_false_findings_is_of_objects_and_drawn_by_patient():
    random = np.random.default_rng(0)
    before, after = random.poisson(0.2, (2, 60))
    objects, group = random.integers(0, 4, 60), np.repeat(np.arange(20), 3)
    verdict = few_invented(Gate(), before, after, objects, group, seed=3, margin=0.5)
    rise = (after.sum() - before.sum()) / objects.sum()
    assert verdict.difference == pytest.approx(-rise)
    draws = np.random.default_rng(9).integers(0, 20, (4000, 20))
    drawn = ((after - before).reshape(20, 3).sum(1))[draws].sum(1)
    share = drawn / objects.reshape(20, 3).sum(1)[draws].sum(1)
    assert verdict.lower == pytest.approx(-np.quantile(share, 0.95), abs=0.02)
    assert (verdict.n_images, verdict.n_groups) == (60, 20)
    assert f"{rise:+.3f}" in verdict.sentence
    alone = few_invented(Gate(), before, after, objects, np.arange(60), seed=3, margin=0.5)
    assert alone.lower != verdict.lower


@pytest.mark.parametrize("objects", [np.ones(5, int), np.zeros(30, int)])
def test_few_images_or_no_object_show_nothing_of_inventions(objects):
    none, each = np.zeros(len(objects), int), np.arange(len(objects))
    verdict = few_invented(Gate(), none, none, objects, each, seed=0, margin=0.1)
    assert (verdict.passes, verdict.reason) == (False, "too_few")


def test_images_without_objects_count_as_long_as_there_are_some():
    objects = np.arange(30) % 10 == 0
    none = np.zeros(30, int)
    verdict = few_invented(Gate(), none, none, objects, np.arange(30), seed=0, margin=0.1)
    assert (verdict.passes, verdict.difference) == (True, 0)
    worse = few_invented(Gate(), none, none + 1, objects, np.arange(30), seed=0, margin=0.1)
    assert worse.reason == "harm"


def test_two_verdicts_pass_only_together_and_both_are_told():
    each = np.arange(40)
    well, badly = np.full(40, 0.9), np.full(40, 0.5)
    none, one = np.zeros(40, int), np.ones(40, int)
    for lost in (False, True):
        for invented in (False, True):
            kept = quality_kept(Gate(), well, badly if lost else well, each, seed=0, what="overlap")
            few = few_invented(
                Gate(), none, one if invented else none, one, each, seed=0, margin=0.1
            )
            joined = both(kept, few)
            assert joined.passes == (not lost and not invented)
            assert joined.reason == ("" if joined.passes else "harm")
            assert joined.sentence.startswith("Kept: " if joined.passes else "Refused: ")
            assert "mean overlap" in joined.sentence.lower()
            assert "alse findings" in joined.sentence
            assert joined.difference == (few if invented and not lost else kept).difference
    assert both(Verdict(False, "a", 0, 0, 1, 1, "No: b."), kept).reason == "a"


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12),
    st.sampled_from([0.0, 0.3, 0.5, 0.75, 0.9, 1.0]),
)
def test_the_least_sure_score_is_the_lowest_that_is_right_often_enough(rows, precision):
    score = np.array([0.1 * one[0] for one in rows])
    right = np.array([one[1] for one in rows], bool)
    sure = [s for s in score if right[score >= s].mean() >= precision - 1e-9]
    assert least_sure(score, right, precision=precision) == min(sure, default=np.inf)
