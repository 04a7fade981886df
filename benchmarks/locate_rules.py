"""Every way of choosing boxes from image-level labels, on real images with true lesion boxes.

A classifier learns the image labels (lesion or none) of all images, as the recipe's would: labels
are given, boxes are not. Rules are tuned on one half of the images by seed, near-duplicates on
one side; the other half is reported once. The boxes of ``few`` come from the first half.
Writes a markdown section.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.activation import Cam, network_maps
from medloop.choose import Choice, Example, choose, self_taught, tune
from medloop.dataset import Dataset
from medloop.labels import Labels
from medloop.localization import (
    best_centre_box,
    best_iou,
    box_accuracy,
    centre_box,
    max_box_accuracy,
    otsu_box,
    pointing,
)
from medloop.prepare.window import square
from medloop.proposals import make_proposer, propose_all
from medloop.read.image import FolderPixels
from medloop.students.network import Network

Floats = NDArray[np.float64]
CAMS = {
    "Grad-CAM, last layer": Cam(),
    "LayerCAM, three layers": Cam(method="layercam", layers=3, contrast=True, flip=True),
}


def main() -> None:
    """Make maps and masks, choose by every rule, and write a markdown table for each map."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--student", type=Path, help="a saved network; trained where not given")
    parser.add_argument("--cache", type=Path, help="folder that keeps the masks")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--few", type=int, default=5, help="boxes of each class")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    dataset, kind, truth, sizes = busi(args.data / "busi")
    student = Network.load(args.student) if args.student else train(dataset, kind, args)
    masks, _ = propose_all(make_proposer("regions"), dataset, folder=args.cache)
    half = halves(dataset, args.seed)
    holds = kind > 0
    test = np.flatnonzero(holds & ~half)
    lines = [
        f"#### busi, {len(test)} images with a lesion in the half that is reported,"
        f" student `network` {student.backbone} at {args.size} px ({student.weights})",
        "",
    ]
    for name, cam in CAMS.items():
        maps = network_maps(student, dataset, cam=cam, class_id=np.ones(len(dataset), int)).maps
        print(f"maps: {name}", file=sys.stderr, flush=True)
        lines += table(name, dataset, kind, truth, sizes, maps, masks, half, args)
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def table(
    name: str,
    dataset: Dataset,
    kind: NDArray[np.int64],
    truth: list[Floats],
    sizes: NDArray[np.int64],
    maps: NDArray[np.float32],
    masks: Any,
    half: NDArray[np.bool_],
    args: argparse.Namespace,
) -> list[str]:
    """Judge every rule on one kind of map and write its table."""
    tuned_on, test = np.flatnonzero((kind > 0) & half), np.flatnonzero((kind > 0) & ~half)
    right, extent = [truth[i] for i in test], sizes[test]
    found = {i: masks(int(dataset.id[i])) for i in range(len(dataset))}

    def example(row: int) -> Example:
        image = dataset.image(int(dataset.id[row]))
        return Example(map=maps[row], masks=found[row], image=image, box=truth[row])

    def boxes(choice: Choice, rows: Sequence[int]) -> Floats:
        chosen = []
        for row in rows:
            image = dataset.image(int(dataset.id[row])) if choice.rule == "ranked" else None
            chosen.append(choose(maps[row], found[row], choice, image=image).box[0])
        return np.array(chosen)

    share, _ = best_centre_box(sizes[tuned_on], [truth[i] for i in tuned_on])
    fits: dict[str, Floats] = {
        f"centre box, {share:.0%} of each side": best_iou(centre_box(extent, share), right),
        "Otsu of the map": best_iou(
            [otsu_box(maps[i], (int(sizes[i][0]), int(sizes[i][1]))) for i in test], right
        ),
    }
    plain = {
        "faithful rule": Choice(rule="faithful"),
        "soft IoU": Choice(),
        "greedy union": Choice(rule="union"),
        "soft IoU of the peaks": Choice(power=2.0, quantile=0.8),
    }
    fits |= {rule: best_iou(boxes(choice, test), right) for rule, choice in plain.items()}
    own = self_taught((maps[i], found[i], dataset.image(int(i)), kind[i] > 0) for i in dataset.id)
    fits["self-taught ranking, no box"] = best_iou(boxes(own, test), right)
    few, names = [], []
    for draw in range(args.draws):
        random = np.random.default_rng((args.seed, draw))
        picked = np.concatenate(
            [
                random.choice(tuned_on[kind[tuned_on] == k], args.few, replace=False)
                for k in np.unique(kind[tuned_on])
            ]
        )
        tuned = tune([example(int(i)) for i in picked], also={"self-taught": own})
        few.append(best_iou(boxes(tuned.choice, test), right))
        names.append(tuned.compared[0][0])
        print(f"{name}: draw {draw + 1}, {tuned.compared}", file=sys.stderr, flush=True)
    each = [float(values.mean()) for values in few]
    chosen = ", ".join(f"{names.count(n)} x {n}" for n in sorted(set(names)))
    key = (
        f"tuned on {args.few} boxes a class, {args.draws} draws"
        f" ({min(each):.3f} to {max(each):.3f}; {chosen})"
    )
    fits[key] = np.concatenate(few)
    fits["best of all regions (no rule can do better)"] = np.array(
        [
            best_iou(found[i].box, [truth[i]] * len(found[i])).max() if len(found[i]) else 0.0
            for i in test
        ]
    )
    levels, _ = max_box_accuracy(maps[test], extent, right)
    point = float(np.nanmean(pointing(maps[test], extent, right)))
    rows = [
        f"| {rule} | {values.mean():.3f} | "
        + " | ".join(f"{share:.0%}" for share in box_accuracy(values))
        + f" | {box_accuracy(values).mean():.3f} |"
        for rule, values in fits.items()
    ]
    cut = " | ".join(f"{share:.0%}" for share in levels)
    return [
        f"{name}: maps of {maps.shape[1]} x {maps.shape[2]}, pointing game {point:.1%}.",
        "",
        "| boxes by | mean IoU | IoU .3 | IoU .5 | IoU .7 | mean of the three |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
        f"| the map itself at the best threshold (MaxBoxAccV2) | | {cut} | {levels.mean():.3f} |",
        "",
    ]


def train(dataset: Dataset, kind: NDArray[np.int64], args: argparse.Namespace) -> Network:
    """Learn lesion or none from all image labels."""
    student = Network(
        size=args.size,
        pretrained="never",
        epochs=args.epochs,
        threads=1,
        sampling="balanced",
        label_smoothing=0.05,
    )
    labels = Labels(image=dataset.id, class_id=np.minimum(kind, 1))
    return student.fit(dataset, labels, seed=args.seed)


def busi(
    folder: Path,
) -> tuple[Dataset, NDArray[np.int64], list[Floats], NDArray[np.int64]]:
    """Return the images, 0 normal / 1 benign / 2 malignant, the true boxes, and the sizes."""
    with (folder / "labels.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    files = np.array([row["file"] for row in rows], object)
    kind = np.array([("normal", "benign", "malignant").index(row["label"]) for row in rows])
    coco = json.loads((folder / "coco.json").read_text(encoding="utf-8"))
    place = {file: i for i, file in enumerate(files.tolist())}
    of = {image["id"]: place[image["file_name"]] for image in coco["images"]}
    sizes = np.zeros((len(files), 2), np.int64)
    for image in coco["images"]:
        sizes[of[image["id"]]] = image["height"], image["width"]
    boxes: list[list[list[float]]] = [[] for _ in rows]
    for found in coco["annotations"]:
        x, y, width, height = found["bbox"]
        boxes[of[found["image_id"]]].append([x, y, x + width, y + height])
    dataset = Dataset(pixels=FolderPixels(folder), file=files, classes=("normal", "lesion"))
    return dataset, kind, [np.array(b, float).reshape(-1, 4) for b in boxes], sizes


def halves(dataset: Dataset, seed: int) -> NDArray[np.bool_]:
    """Split the images in two, near-duplicates on one side."""
    group = near_duplicates(dataset)
    names = np.unique(group)
    first = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    return np.isin(group, first)


def near_duplicates(dataset: Dataset) -> NDArray[np.int64]:
    """Give images that look alike (correlation above .95 at 16 px) one number."""
    small = np.stack([square(dataset.image(int(i)), 16, 1).ravel() for i in dataset.id])
    small -= small.mean(axis=1, keepdims=True)
    small /= np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-9)
    group = np.arange(len(small))
    for one, other in np.argwhere(np.triu(small @ small.T > 0.95, 1)):
        group[group == group[other]] = group[one]
    return group


if __name__ == "__main__":
    main()
