"""Workspaces for the review app, made without a run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from medloop.labels import HUMAN, Labels
from medloop.phantoms import CLASSES, draw_phantoms
from medloop.recipes.few_labels import FewLabels
from medloop.store import ImageRow, Workspace

SKELETON = {"points": ["left", "right", "tip"], "edges": [[0, 2], [1, 2]], "flip": [[0, 1]]}


def make_workspace(path: Path, images: Path, classes, tables, *, payload=None) -> Path:
    """Register every file below ``images`` and append the tables of labels as rounds."""
    config = FewLabels(images=str(images)).model_dump(mode="json")
    with Workspace.create(path, config=config) as workspace:
        files = sorted(p.relative_to(images).as_posix() for p in images.rglob("*") if p.is_file())
        workspace.register(image_row(images, i, file) for i, file in enumerate(files))
        workspace.finish_scan(classes=classes)
        for number, table in enumerate(tables):
            human = bool(len(table)) and table.source[0] == HUMAN
            workspace.log.append(
                f"table-{number}",
                "given" if human else "round",
                labels=table,
                payload=payload or {},
                round=int(table.round.max(initial=0)),
                actor="table" if human else "medloop",
            )
    return path


def image_row(images: Path, i: int, file: str) -> ImageRow:
    data = (images / file).read_bytes()
    with Image.open(images / file) as picture:
        width, height = picture.size
    digest = hashlib.sha256(data).hexdigest()
    return ImageRow(
        id=i, file=file, sha256=digest, bytes=len(data), height=height, width=width, group=i
    )


def class_workspace(folder: Path, n=60, *, size=64, wrong=(), classes=CLASSES, names=None) -> Path:
    """n phantoms, each labelled by a machine; those in ``wrong`` are labelled wrong."""
    phantoms = draw_phantoms(n, size=size)
    (folder / "images").mkdir(parents=True)
    names = names or [f"{i:04d}.png" for i in range(n)]
    for i, name in enumerate(names):
        Image.fromarray(phantoms.images[i]).save(folder / "images" / name)
    code = np.array([phantoms.class_id[i] for i in np.argsort(names, kind="stable")])
    machine = code.copy()
    machine[list(wrong)] = 1 - machine[list(wrong)]
    p = 0.55 + 0.44 * np.random.default_rng(3).random(n)
    probs = np.zeros((n, len(classes)))
    probs[np.arange(n), machine] = p
    probs[np.arange(n), 1 - machine] = 1 - p
    first = Labels(image=np.arange(n), class_id=machine, score=p, probs=probs)
    again = first.with_(round=np.ones(n, int))
    return make_workspace(folder / "ws", folder / "images", classes, [first, again])


def truth_of(n: int) -> list[str]:
    """The right class of each image of ``class_workspace``."""
    return [CLASSES[k] for k in draw_phantoms(n, size=8).class_id.tolist()]


def draw_cells(n, *, height=180, width=240, seed=0, most=6, radius=(0.09, 0.13)):
    """Fields of round and long cells, and the box and three points of each."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    images, found = [], []
    for _ in range(n):
        field = np.full((height, width, 3), (226, 206, 214), float)
        field += 7 * random.standard_normal((height, width, 1))
        field -= (18 * np.sin(x / 90 + random.uniform(0, 6)) * np.cos(y / 70))[..., None]
        cells = []
        for _ in range(random.integers(2, most + 1)):
            for _ in range(60):
                long = int(random.random() < 0.4)
                a = random.uniform(*radius) * height
                b = a * (1.9 if long else 1.05)
                cx = random.uniform(b + 4, width - b - 4)
                cy = random.uniform(a + 8, height - a - 8)
                if all(np.hypot(cx - c["cx"], cy - c["cy"]) > b + c["b"] for c in cells):
                    break
            else:
                continue
            r = np.hypot((x - cx) / b, (y - cy) / a)
            body = 1 / (1 + np.exp((r - 1) * 22))
            colour = np.array((150, 86, 128) if long else (206, 118, 128))
            pale = 0.35 * np.exp(-((r / 0.45) ** 2)) * (not long)
            ink = (body * (0.8 - pale))[..., None]
            field = field * (1 - ink) + colour * ink
            if long:
                core = np.exp(-(((x - cx) / (b * 0.4)) ** 2 + ((y - cy) / (a * 0.45)) ** 2))
                field = field * (1 - 0.7 * core[..., None]) + np.array((72, 40, 92)) * (
                    0.7 * core[..., None]
                )
            cells.append({"cx": cx, "cy": cy, "a": a, "b": b, "long": long})
        images.append(np.clip(field, 0, 255).astype(np.uint8))
        found.append(cells)
    return images, found


def object_workspace(folder: Path, n=6, *, points=False, masks=False, **size) -> Path:
    """Fields of cells with a machine's boxes, and points or masks where asked."""
    images, found = draw_cells(n, **size)
    (folder / "images").mkdir(parents=True)
    for i, field in enumerate(images):
        Image.fromarray(field).save(folder / "images" / f"field-{i:03d}.png")
    rows = [(i, cell) for i, cells in enumerate(found) for cell in cells]
    box = [
        [c["cx"] - c["b"] - 2, c["cy"] - c["a"] - 2, c["cx"] + c["b"] + 2, c["cy"] + c["a"] + 2]
        for _, c in rows
    ]
    columns = {}
    if points:
        columns["keypoints"] = [
            [
                [c["cx"] - c["b"] * 0.8, c["cy"], 2],
                [c["cx"] + c["b"] * 0.8, c["cy"], 2],
                [c["cx"], c["cy"] - c["a"] * 0.8, 2],
            ]
            for _, c in rows
        ]
    if masks:
        columns["mask"] = cell_masks(rows, *images[0].shape[:2])
    random = np.random.default_rng(5)
    table = Labels(
        image=[i for i, _ in rows],
        class_id=[c["long"] for _, c in rows],
        score=random.uniform(0.5, 0.99, len(rows)),
        box=np.round(box, 2),
        looked_at=np.arange(n),
        **columns,
    )
    payload = {"skeleton": SKELETON} if points else None
    return make_workspace(
        folder / "ws", folder / "images", ("round cell", "long cell"), [table], payload=payload
    )


def cell_masks(rows, height, width):
    from medloop.masks import encode

    y, x = np.mgrid[:height, :width]
    found = np.empty(len(rows), object)
    for i, (_, c) in enumerate(rows):
        found[i] = encode(np.hypot((x - c["cx"]) / c["b"], (y - c["cy"]) / c["a"]) < 1)
    return found


def deep_workspace(folder: Path) -> Path:
    """Two 16-bit images of 12 bits, one 8-bit, one in colour."""
    (folder / "images").mkdir(parents=True)
    y, x = np.mgrid[:96, :128]
    deep = (1000 + 1500 * np.exp(-((x - 60) ** 2 + (y - 50) ** 2) / 500) + x).astype(np.uint16)
    Image.fromarray(deep).save(folder / "images" / "a.png")
    Image.fromarray(deep[:, ::-1].copy()).save(folder / "images" / "b.png")
    Image.fromarray((deep // 16).astype(np.uint8)).save(folder / "images" / "c.png")
    Image.fromarray(np.stack([deep // 16, deep // 20, deep // 30], -1).astype(np.uint8)).save(
        folder / "images" / "d.png"
    )
    table = Labels(image=np.arange(4), class_id=[0, 1, 0, 1], score=[0.9, 0.8, 0.7, 0.6])
    return make_workspace(folder / "ws", folder / "images", CLASSES, [table])
