import hashlib
import json
from collections import Counter

import pytest

from medloop.errors import DataError, UsageError
from medloop.store.files import read_json
from medloop.versions import (
    compare,
    content_hash,
    freeze,
    lock_of,
    open_version,
    read_versions,
    version_of,
)

THESIS = """
sheet: sheet.csv
images: frames
target: organ
noise: quality=bad|very_bad
where: collection!=pilot
versions:
  v0: {cropped: false, noisy: true, balanced: false}
  v1: {cropped: false, noisy: true, balanced: true}
  v2: {cropped: false, noisy: false, balanced: false}
  v3: {cropped: false, noisy: false, balanced: true}
  v4: {cropped: true, noisy: true, balanced: false}
  v5: {cropped: true, noisy: true, balanced: true}
  v6: {cropped: true, noisy: false, balanced: false}
  v7: {cropped: true, noisy: false, balanced: true, about: the last}
"""


@pytest.fixture
def file(tmp_path):
    """40 frames of three organs, every fifth bad, every fourth for the test, one a pilot."""
    (tmp_path / "frames").mkdir()
    lines = ["path,organ,quality,collection,split"]
    for i in range(40):
        organ = ("Ear", "Ear", "Ear", "Nose", "Throat")[i % 5]
        quality = "good" if i % 7 else ("bad" if i % 2 else "very_bad")
        split = "test" if i % 4 == 3 else ""
        collection = "pilot" if i == 0 else "clinic"
        lines.append(f"{i:02d}.png,{organ},{quality},{collection},{split}")
        (tmp_path / "frames" / f"{i:02d}.png").write_bytes(bytes([i]))
    lines.append("99.png,,good,clinic,")  # without a class
    (tmp_path / "sheet.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "versions.yaml").write_text(THESIS)
    return tmp_path / "versions.yaml"


def rows():
    """Say what the sheet holds, by hand."""
    for i in range(1, 40):
        organ = ("Ear", "Ear", "Ear", "Nose", "Throat")[i % 5]
        yield f"{i:02d}.png", organ, i % 7 != 0, "test" if i % 4 == 3 else "train"


def test_the_eight_versions_select_what_their_words_say(file):
    versions = read_versions(file)
    assert list(versions.entries) == [f"v{i}" for i in range(8)]
    for i in range(8):
        version = version_of(versions, f"v{i}")
        assert version.entry.cropped == (i >= 4)
        want = [row for row in rows() if row[2] or i % 4 < 2]
        if i % 2 == 0:
            assert list(zip(version.file, version.label, version.split, strict=True)) == [
                (name, organ, split) for name, organ, _, split in want
            ]
            continue
        least = min(Counter(row[1] for row in want if row[3] == "train").values())
        assert version.counts()["train"] == {"Ear": least, "Nose": least, "Throat": least}
        assert version.counts()["test"] == dict(Counter(row[1] for row in want if row[3] == "test"))
        assert set(version.file) <= {row[0] for row in want}
        assert version.file == sorted(version.file)


def test_a_balanced_version_is_drawn_by_the_seed(file):
    one = version_of(read_versions(file), "v1").file
    assert one == version_of(read_versions(file), "v1").file
    file.write_text("seed: 7\n" + THESIS)
    assert one != version_of(read_versions(file), "v1").file


def test_the_hash_is_that_of_rows_and_bytes(file):
    version = version_of(read_versions(file), "v2")
    total = hashlib.sha256(b'{"cropped": false, "target": "organ"}\n')
    for name, organ, good, split in sorted(rows()):
        if good:
            content = hashlib.sha256(bytes([int(name[:2])])).hexdigest()
            total.update(json.dumps([name, organ, split, content]).encode() + b"\n")
    assert content_hash(version) == total.hexdigest()


def test_a_frozen_version_cannot_change_unseen(file):
    before = file.read_bytes()
    hashes = freeze(file)
    assert file.read_bytes() == before
    assert len(set(hashes.values())) == 8
    lock = read_json(lock_of(file))
    assert {name: held["sha256"] for name, held in lock.items()} == hashes
    assert freeze(file) == hashes
    assert len(open_version(file, "v2")) == 34
    image = file.parent / "frames" / "05.png"
    image.write_bytes(b"other")
    with pytest.raises(DataError, match=r"'v2' of .* was frozen as .* give the new selection"):
        open_version(file, "v2")
    with pytest.raises(DataError, match="was frozen"):
        freeze(file)
    assert read_json(lock_of(file)) == lock
    image.write_bytes(bytes([5]))
    open_version(file, "v2")
    sheet = file.parent / "sheet.csv"
    sheet.write_text(sheet.read_text().replace("05.png,Ear", "05.png,Nose"))
    with pytest.raises(DataError, match="was frozen"):
        open_version(file, "v2")


def test_the_order_of_the_sheet_does_not_matter(file):
    before = freeze(file)
    sheet = file.parent / "sheet.csv"
    head, *lines = sheet.read_text().splitlines()
    sheet.write_text("\n".join([head, *lines[::-1]]) + "\n")
    assert freeze(file) == before


def test_a_missing_file_is_named(file):
    (file.parent / "frames" / "05.png").unlink()
    (file.parent / "frames" / "06.png").unlink()
    with pytest.raises(DataError, match=r"05\.png is not there\. \(and 1 more\)"):
        freeze(file, ["v0"])
    assert not lock_of(file).exists()


def test_what_differs_is_told(file):
    versions = read_versions(file)
    found = compare(version_of(versions, "v0"), version_of(versions, "v6"))
    assert found["settings"] == {"cropped": [False, True], "noisy": [True, False]}
    bad = [row[0] for row in rows() if not row[2]]
    assert found["only_first"] == bad
    assert found["only_second"] == found["relabelled"] == found["moved"] == []
    for split, classes in found["counts"].items():
        for organ, (one, other) in classes.items():
            mine = [row for row in rows() if row[1] == organ and row[3] == split]
            assert one == len(mine)
            assert other == sum(row[2] for row in mine)
    same = compare(version_of(versions, "v0"), version_of(versions, "v0"))
    assert not any(same[word] for word in ("settings", "only_first", "only_second"))


def test_other_classes_and_splits_are_told(file):
    one = version_of(read_versions(file), "v0")
    sheet = file.parent / "sheet.csv"
    text = sheet.read_text().replace("05.png,Ear", "05.png,Nose")
    sheet.write_text(text.replace("06.png,Ear,good,clinic,", "06.png,Ear,good,clinic,val"))
    found = compare(one, version_of(read_versions(file), "v0"))
    assert found["relabelled"] == ["05.png"]
    assert found["moved"] == ["06.png"]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("[1, 2]", DataError, "it must be a mapping"),
        ("a: [", DataError, "is not YAML"),
        ("versions: {v0: {}}", DataError, "must name 'sheet'"),
        ("sheet: sheet.csv", DataError, "must name 'versions'"),
        ("sheet: sheet.csv\nversions: {v0: {crop: true}}", DataError, "Did you mean 'cropped'"),
        ("sheet: sheet.csv\nimage: a\nversions: {v0: {}}", DataError, "Did you mean 'images'"),
        ("sheet: sheet.csv\nversions: {v0: {cropped: 1}}", DataError, "must be true or false"),
        ("sheet: sheet.csv\nversions: {v0: {noisy: false}}", DataError, "what noise is"),
        ("sheet: sheet.csv\nseed: x\nversions: {v0: {}}", DataError, "seed must be"),
        ("sheet: none.csv\nversions: {v0: {}}", UsageError, "no sheet at"),
        ("sheet: sheet.csv\nversions: {v0: {where: organ=Eer}}", UsageError, "Did you mean 'Ear'"),
        ("sheet: sheet.csv\nversions: {v0: {target: organs}}", UsageError, "Did you mean 'organ'"),
        (
            "sheet: sheet.csv\nversions: {v0: {where: 'organ=Ear,organ=Nose'}}",
            DataError,
            "selects no row",
        ),
    ],
)
def test_what_makes_no_sense_is_one_sentence(file, text, error, said):
    file.write_text(text)
    with pytest.raises(error) as caught:
        version_of(read_versions(file), "v0")
    assert said in str(caught.value)


def test_an_unknown_version_is_named(file):
    with pytest.raises(UsageError, match="no version 'v8'"):
        open_version(file, "v8")
    with pytest.raises(UsageError, match="no file of versions"):
        open_version(file.parent / "none.yaml", "v0")
