"""The report of a small run: its numbers, its safety, and how a browser lays it out."""

import csv
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from medloop.audit import answer_audit, draw_audit
from medloop.recipes.few_labels import FewLabels
from medloop.report.page import write_report
from medloop.run import finish, run
from medloop.store.workspace import Workspace

EVIL_FILE = "<img src=x onerror=alert(1)>.png"
EVIL_CLASS = "<b>x</b>"
CLASSES = (EVIL_CLASS, "plain")
PATIENT = "Jane Doe"
VOID = {"meta", "img", "br", "link", "input", "hr", "base"}


class Page(HTMLParser):
    """Tags with their attributes, all visible text, and the numbers of each table."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.images = [], [], "", []
        self.tables = {}
        self.table, self.value = None, None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = self.tables.setdefault(found.get("id") or found.get("class"), [])
        if tag == "data":
            self.value = float(found["value"])

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.table = None

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if self.open and self.open[-1] == "data" and self.table is not None:
            self.table.append((self.value, data))

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)

    @property
    def words(self):
        return " ".join(self.text.split())


def draw(folder, n=84, test=24, split=True):
    """Images whose upper half is brighter in one class, and a table of them; two a patient."""
    images = folder / "images"
    images.mkdir()
    random = np.random.default_rng(0)
    truth = {}
    rows = []
    for i in range(n):
        class_id = i // 2 % 2
        pixels = random.integers(0, 160, (24, 24)).astype(np.uint8)
        pixels[:12] += np.uint8(12 * class_id)
        file = EVIL_FILE if i == n - test - 1 else f"{i:03}.png"
        Image.fromarray(pixels).save(images / file)
        truth[file] = CLASSES[class_id]
        told = i < 28 or (split and i >= n - test)
        row = [file, CLASSES[class_id] if told else "", f"{PATIENT} {i // 2}"]
        rows.append(row + (["test" if i >= n - test else "train"] if split else []))
    (images / "broken.png").write_bytes(b"no image")
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "patient", *(["split"] if split else [])])
        table.writerows([*rows, ["broken.png", "", "", *([""] if split else [])]])
    return truth


def settings(folder, **more):
    small = {"size": 24, "n_centroids": 16, "n_components": 8}
    labels = str(folder / "labels.csv")
    given = {"rounds": 1, "folds": 2, "student_options": small, **more}
    return FewLabels(images=str(folder / "images"), labels=labels, **given)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a finished run in ``ws``, and the true labels."""
    folder = tmp_path_factory.mktemp("run")
    truth = draw(folder)
    run(folder / "ws", settings(folder), note=lambda _: None)
    return folder, truth


@pytest.fixture
def copied(finished, tmp_path):
    """Copy the workspace, to change it."""
    shutil.copytree(finished[0] / "ws", tmp_path / "ws")
    return tmp_path / "ws"


def read(path):
    return Page((path / "report.html").read_text(encoding="utf-8"))


def metrics_of(path):
    return json.loads((path / "metrics.json").read_text(encoding="utf-8"))


def written(path, **changes):
    """Write the report of changed metrics and read it."""
    with Workspace.open(path) as workspace:
        write_report(workspace, {**workspace.load_json("metrics.json"), **changes})
    return read(path)


# -- one file -----------------------------------------------------------------------------------


def test_it_is_one_file_that_runs_and_loads_nothing(finished):
    path = finished[0] / "ws" / "report.html"
    raw = path.read_text(encoding="utf-8")
    without_pictures = re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", raw)
    assert not re.search(r"https?:|//[a-z]", without_pictures, re.IGNORECASE)
    assert not re.search(r"@import|url\((?!#)", raw)
    page = Page(raw)
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert attributes.get("src", "data:image/jpeg").startswith("data:image/jpeg")
        assert attributes.get("href", "#").startswith("#")
    policy = dict(page.tags)["meta"] and next(
        a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert path.stat().st_size < 2_000_000


def test_it_has_figures_pictures_and_headers_for_those_who_listen(finished):
    page = read(finished[0] / "ws")
    assert page.count("svg") == 12
    assert all(a.get("aria-label") for tag, a in page.tags if tag == "svg")
    pictures = [a for tag, a in page.tags if tag == "img"]
    assert 0 < len(pictures) <= 24
    assert all(a["alt"] for a in pictures)
    assert all(a.get("scope") for tag, a in page.tags if tag == "th")
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    assert "not a medical device" in page.words


def test_its_numbers_are_those_of_metrics_json(finished):
    path = finished[0] / "ws"
    metrics = metrics_of(path)
    rounds = {row["number"]: row for row in metrics["rounds"]}
    numbers = sorted({0, metrics["round_in_use"]})
    columns = [rounds[n][part] for part in ("held_out", "test") for n in numbers]
    expected = []
    for k in range(len(CLASSES)):
        for one in columns:
            row = one["per_class"][k]
            expected += [row["auc"], *row["auc_interval"]]
    for name in ("weighted_auc", "accuracy"):
        for one in columns:
            expected += [one[name], *one[f"{name}_interval"]]
    for name in ("macro_precision", "macro_recall", "macro_f1", "calibration_error"):
        expected += [one[name] for one in columns]
    found = read(path).tables["figures-of-merit"]
    assert [value for value, _ in found] == expected
    assert [text for _, text in found] == [f"{value:.3f}" for value in expected]


def test_it_says_what_was_done(finished):
    path = finished[0] / "ws"
    words, metrics = read(path).words, metrics_of(path)
    assert "A model labelled 32 of 84 images as <b>x</b> or plain; a person labelled 52." in words
    assert "learned from 28 labels of the person" in words
    assert metrics["stopped"]["sentence"] in words
    for row in metrics["rounds"][1:]:
        assert row["verdict"]["sentence"] in words
    change = metrics["comparison"]["weighted_auc_difference"]
    assert f"the weighted AUC changed by {change:+.3f} [" in words
    assert ". 1 file could not be used" in words
    assert "broken.png" in words


def test_same_workspace_same_bytes(copied):
    before = (copied / "report.html").read_bytes()
    with Workspace.open(copied) as workspace:
        finish(workspace, note=lambda _: None)
    assert (copied / "report.html").read_bytes() == before


# -- untrusted names ----------------------------------------------------------------------------


def test_names_of_files_and_classes_are_escaped(finished):
    path = finished[0] / "ws"
    raw, page = (path / "report.html").read_text(encoding="utf-8"), read(path)
    assert EVIL_CLASS not in raw
    assert html.escape(EVIL_CLASS) in raw
    assert "<img src=x" not in raw
    assert EVIL_CLASS in page.text


def test_a_hostile_file_name_is_shown_as_text(copied):
    with Workspace.open(copied) as workspace:
        table = workspace.table()
        image = int(table["id"][list(table["file"]).index(EVIL_FILE)])
        workspace.quarantine(image, reason="<script>alert(2)</script>", stage="test")
    page = written(copied)
    assert page.count("script") == 0
    assert EVIL_FILE in page.text
    assert "<script>alert(2)</script>" in page.text


def test_no_patient_and_no_folder_is_named(finished):
    raw = (finished[0] / "ws" / "report.html").read_text(encoding="utf-8")
    assert PATIENT not in raw
    assert str(finished[0]) not in raw


# -- what else can be -----------------------------------------------------------------------------


def test_before_an_audit_it_names_the_command(finished):
    words = read(finished[0] / "ws").words
    assert "Nothing is certified yet" in words
    assert "medloop certify ws --error-rate 0.05 --audit 32" in words


def test_an_audit_without_answers_is_announced(copied):
    draw_audit(copied, 20, error_rate=0.3, confidence=0.9)
    words = written(copied).words
    assert "An audit of 20 images was drawn." in words
    assert "medloop certify ws --answers FILE" in words


@pytest.mark.parametrize("right", [True, False])
def test_the_sentence_of_the_certificate_appears(copied, finished, right):
    draw_audit(copied, 20, error_rate=0.3, confidence=0.9, purity=True)
    with (copied / "audit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with Workspace.open(copied) as workspace:
        labels = workspace.log.current(columns=[])
        table = workspace.table()
        by_image = dict(zip(labels.image.tolist(), labels.class_id.tolist(), strict=True))
    machine = {file: by_image.get(i) for i, file in zip(table["id"], table["file"], strict=True)}
    with (copied / "answers.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["file", "label"])
        for row in rows:
            code = machine[row["file"]]
            out.writerow([row["file"], CLASSES[code if right else 1 - code]])
    certificate = answer_audit(copied, copied / "answers.csv")
    words = written(copied).words
    assert certificate["holds"] == right
    assert certificate["sentence"] in words
    assert ("Audited, but not certified" in words) == (not right)
    assert "20 in the audit" in words


def test_an_allowed_leak_is_a_banner(copied):
    words = written(copied, leak={"patients": 3, "images": 1}).words
    assert "Caution" in words
    assert "The split leaks (--allow-leak), by 3 patients and 1 image" in words
    assert "the ones to quote" not in words


def test_random_weights_are_a_banner(copied):
    folder = copied / "rounds" / f"{metrics_of(copied)['round_in_use']:02d}" / "student"
    about = json.loads((folder / "student.json").read_text())
    (folder / "student.json").write_text(json.dumps({**about, "weights": "random (no hub)"}))
    assert "started from random weights: random (no hub)" in written(copied).words


def test_missing_source_images_are_said(copied):
    config = (copied / "run.yaml").read_text()
    gone = re.sub(r"^images: .*$", "images: /nowhere/at/all", config, flags=re.MULTILINE)
    (copied / "run.yaml").write_text(gone)
    page = written(copied)
    assert page.count("img") == 0
    assert "there are no pictures here" in page.words
    assert page.count("svg") == 12


def test_a_changed_image_gets_no_picture(copied, finished, tmp_path):
    shutil.copytree(finished[0] / "images", tmp_path / "images")
    config = (copied / "run.yaml").read_text()
    (copied / "run.yaml").write_text(
        re.sub(r"^images: .*$", f"images: {tmp_path / 'images'}", config, flags=re.MULTILINE)
    )
    before = written(copied)
    for path in (tmp_path / "images").glob("0*.png"):
        Image.fromarray(np.zeros((24, 24), np.uint8)).save(path)
    after = written(copied)
    assert after.count("img") < before.count("img")
    assert "changed since the run" in after.words or "have changed" in after.words


def test_without_a_test_split(copied):
    rows = [{**row, "test": None} for row in metrics_of(copied)["rounds"]]
    page = written(copied, rounds=rows, comparison=None)
    assert page.count("svg") == 9
    assert "The test split" not in page.words


def test_without_any_label_to_judge_by(tmp_path):
    draw(tmp_path, n=40, split=False)
    faithful = settings(tmp_path, mode="faithful", rounds=0)
    run(tmp_path / "ws", faithful, note=lambda _: None)
    words = read(tmp_path / "ws").words
    assert "nothing here says how good the model is" in words
    assert "No label of a person was held out" in words


def test_a_refused_round_is_marked(copied):
    metrics = metrics_of(copied)
    refused = json.loads(json.dumps(metrics["rounds"][0]))
    refused |= {"number": 9, "verdict": {**refused["verdict"], "sentence": "Refused: why."}}
    page = written(copied, rounds=[*metrics["rounds"], refused], refused=[9])
    assert "9, refused" in page.words
    assert "Refused: why." in page.words
    assert "× refused round" in page.text


# -- a browser ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    return found


def shown(chromium, page, folder):
    """Lay a page out at two widths; return the widths of its content, and what it complained of."""
    frames = "".join(
        f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{html.escape(page)}">'
        "</iframe>"
        for width in (390, 1200)
    )
    script = (
        "onload = () => { document.body.dataset.widths = JSON.stringify("
        "[...document.querySelectorAll('iframe')].map(f => f.contentDocument.documentElement)"
        ".map(e => [e.clientWidth, e.scrollWidth])) }"
    )
    outer = folder / "outer.html"
    outer.write_text(f"<!doctype html><body>{frames}<script>{script}</script>", encoding="utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={folder / 'profile'}", "--dump-dom", outer.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r'data-widths="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])), said


def test_a_browser_complains_of_nothing_and_needs_no_sideways_scrolling(
    chromium, finished, tmp_path
):
    page = (finished[0] / "ws" / "report.html").read_text(encoding="utf-8")
    widths, said = shown(chromium, page, tmp_path)
    assert said == []
    assert [inner for inner, _ in widths] == pytest.approx([390, 1200], abs=20)
    assert all(content <= inner for inner, content in widths)


def test_the_browser_test_would_see_a_fault(chromium, finished, tmp_path):
    page = (finished[0] / "ws" / "report.html").read_text(encoding="utf-8")
    wide = '<div style="width:1500px">wide</div><script>alert(1)</script>'
    widths, said = shown(chromium, page.replace("<main>", f"<main>{wide}"), tmp_path)
    assert any("Content Security Policy" in line for line in said)
    assert all(content > inner for inner, content in widths)
