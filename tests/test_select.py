import csv

import numpy as np
import pytest
from sklearn.cluster import KMeans

from medloop.errors import DataError, UsageError
from medloop.run import run
from medloop.select import select_images, typiclust


def silent(sentence):
    pass


def select(folder, config, budget=6, method="typiclust", note=silent):
    return select_images(folder, config, method=method, budget=budget, note=note)


@pytest.mark.parametrize("n", [3, 10, 60, 300])
def test_one_image_of_each_cluster_the_densest_first_of_the_largest(n):
    random = np.random.default_rng(0)
    blobs = np.sort(random.choice(3, n, p=[0.5, 0.3, 0.2])) if n > 3 else np.arange(3)
    x = (random.standard_normal((n, 2)) + np.array([[0, 0], [50, 0], [0, 50]])[blobs]).astype("f4")
    chosen = typiclust(x, 3, seed=0)
    cluster = KMeans(3, random_state=0, n_init=1).fit_predict(x)
    assert sorted(cluster[chosen]) == [0, 1, 2]
    sizes = np.bincount(cluster)[cluster[chosen]]
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    for row in chosen:
        own = np.flatnonzero(cluster == cluster[row])
        if len(own) < 3:
            continue
        apart = np.sort(np.linalg.norm(x[own][:, None] - x[own], axis=2), axis=1)[:, 1:]
        crowded = apart[:, : min(20, len(own) - 1)].mean(axis=1)
        assert crowded[own == row] == pytest.approx(crowded.min(), rel=1e-5)


def test_all_of_them(image_set):
    x = np.random.default_rng(0).standard_normal((9, 2)).astype("f4")
    assert sorted(typiclust(x, 9, seed=0).tolist()) == list(range(9))
    assert len(typiclust(x, 1, seed=0)) == 1


def test_open_training_images_are_named_for_a_person(image_set, tmp_path):
    path, files = select(tmp_path / "ws", image_set.config())
    assert path == tmp_path / "ws" / "to_label.csv"
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [{"file": file, "label": ""} for file in files]
    open_images = {
        row["file"] for row in image_set.rows if not row["label"] and row["split"] == "train"
    }
    assert len(set(files)) == 6
    assert set(files) <= open_images
    again, other = (select(tmp_path / "b", image_set.config(seed=seed))[1] for seed in (0, 1))
    assert again == files
    assert other != files


def test_without_a_table_all_images_are_open_and_broken_ones_are_named(image_set, tmp_path):
    mine = image_set.copy(tmp_path / "mine")
    (mine.images / "000.png").write_bytes(b"")
    notes = []
    _, files = select(tmp_path / "ws", mine.config(labels=None), budget=63, note=notes.append)
    assert sorted(files) == sorted(set(image_set.truth) - {"000.png"})
    assert notes == ["quarantined: 000.png is empty."]


@pytest.mark.parametrize("budget", [0, -1, 1000])
def test_budgets_that_cannot_be(image_set, tmp_path, budget):
    with pytest.raises(UsageError, match=rf"--budget must lie in \[1, \d+\], got {budget}"):
        select(tmp_path / "ws", image_set.config(), budget=budget)


def test_methods_and_folders_that_are_not_there(image_set, tmp_path):
    with pytest.raises(UsageError, match=r"unknown method 'typiclst'\. Did you mean 'typiclust'"):
        select(tmp_path / "ws", image_set.config(), method="typiclst")
    with pytest.raises(UsageError, match="no images at"):
        select(tmp_path / "ws", image_set.config(images=str(tmp_path / "none")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        select(tmp_path / "ws", image_set.config(images=str(tmp_path / "empty"), labels=None))


@pytest.mark.usefixtures("quick")
def test_what_was_named_and_labelled_is_then_run_in_the_same_workspace(image_set, tmp_path):
    path, files = select(tmp_path / "ws", image_set.config(labels=None), budget=12)
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("file", "label"))
        table.writerows((file, image_set.truth[file]) for file in files)
    metrics = run(tmp_path / "ws", image_set.config(labels=str(path), rounds=0), note=silent)
    assert metrics["round_in_use"] == 0
