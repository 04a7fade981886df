import pytest

from medloop.errors import DataError, UsageError
from medloop.findings.sheet import check_names, read_sheet, there

CLASSES = ("mass", "nodule", "hernia")


def written(tmp_path, text):
    path = tmp_path / "sheet.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "file,hernia,mass,nodule\na,0,1,1\nb,0,0,0\nc,,,\nd,1.0,0,0.0\n",
        "file,label\na,nodule;mass\nb,none\nc,\nd,hernia\n",
        "file;label;patient\na;mass;p\nb;none;p\nc;;p\nd;hernia;q\n",
    ],
)
def test_columns_and_labels_say_the_same(tmp_path, text):
    sheet = read_sheet(written(tmp_path, text), CLASSES)
    first = "mass" if "patient" in text else "mass;nodule"
    assert sheet.label == [first, "none", "", "hernia"]
    assert set(sheet.columns) <= {"label"}
    decided = [label for label in sheet.label if label]
    assert there(decided, CLASSES)[1:].tolist() == [[False] * 3, [False, False, True]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,mass,nodule\na,1,0\n", "but none 'hernia'"),
        ("file,mass,nodule,hernia\na,1,2,0\n", "line 2: nodule must be 0 or 1, but is '2'"),
        ("file,mass,nodule,hernia\na,1,,0\n", "nodule must be 0 or 1, but is empty"),
        ("file,label\na,mass;hernai\n", "unknown finding 'hernai'. Did you mean 'hernia'"),
        ("file,patient\na,p\n", "no column 'mass' of 0 and 1, and no label"),
        ("file,mass,nodule,hernia,label\na,1,0,0,mass\n", "say it in one way"),
        (
            "file,mass,nodule,hernia\na,1,0,0\na,0,0,0\n",
            "line 3: a has another mass '0' than '1' in line 2",
        ),
    ],
)
def test_what_makes_no_sense_is_said_in_one_sentence(tmp_path, text, said):
    with pytest.raises(DataError) as caught:
        read_sheet(written(tmp_path, text), CLASSES)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (None, "needs --classes"),
        (["mass", "None"], "may not be called 'None'"),
        (["a;b", "c"], "may not be called 'a;b'"),
        (["split", "c"], "may not be called 'split'"),
    ],
)
def test_names_that_a_sheet_could_not_tell_apart_are_refused(names, said):
    with pytest.raises(UsageError, match=said):
        check_names(names, "zero-shot")
