"""Time the detector and the pose student beside bare passes of their own networks, in one run.

    OMP_NUM_THREADS=1 python benchmarks/detector.py --size 192 --batch 16 --out detector.md

The bare rows work on one batch that is already in memory; the students read, cut, vary and draw
targets on the way. Decoding is reading boxes, or points, from the maps of a batch. Suppression is
timed beside a loop over pairs in NumPy. Every round times each row once, so a busy machine slows
all rows alike; the table gives medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medloop.dataset import ArrayPixels, Dataset
from medloop.labels import Labels
from medloop.overlap import oks, suppress
from medloop.students import centre, points
from medloop.students.centre_backbones import begin, box_net, point_net
from medloop.students.centre_net import CentreNet, ready
from medloop.students.detector import Detector

POINTS = 51


def main() -> None:
    """Parse the command line, time, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=192, help="pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="images a step")
    parser.add_argument("--steps", type=int, default=6, help="steps a row (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=1000, help="for suppression")
    parser.add_argument("--threads", type=int, help="of torch (default: as torch chooses)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    rng = np.random.default_rng(args.seed)
    count = args.steps * args.batch
    dataset, labels = drawn(count, rng)
    student = Detector(
        size=args.size,
        batch=args.batch,
        epochs=1,
        min_steps=args.steps,
        max_steps=args.steps,
    )
    fitted = student.fit(dataset, labels, seed=args.seed)
    about = dict(fitted.trained or {})
    device, half = str(about["device"]), bool(about["bfloat16"])
    one_side = Detector(**{**vars(fitted), "flip_average": False})
    one, plan, _ = begin("small", pretrained="never", size=args.size)
    two, _, _ = begin("small", pretrained="never", size=96)
    net = ready(box_net(one, plan, 1), device)
    crops = ready(point_net(two, plan, POINTS), device)
    x = torch.rand(args.batch, 3, args.size, args.size, device=device) - 0.5
    x = x.contiguous(memory_format=torch.channels_last)
    small = x[:, :, :96, :96].contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        maps, heat = net.eval()(x, bfloat16=half), crops.eval()(small, bfloat16=half)["points"]

    def read_boxes() -> None:
        box, chance = [], []
        for _ in range(args.steps):
            value, _, corners, _ = centre.peaks(maps["heat"].sigmoid(), maps["sides"], 100)
            box.append(corners.reshape(-1, 4).double().numpy())
            chance.append(value.reshape(-1).double().numpy())
        image = np.repeat(np.arange(count), len(box[0]) // args.batch)
        suppress(np.concatenate(box), np.concatenate(chance), 0.6, group=image)

    def read_points() -> None:
        for _ in range(args.steps):
            points.expected(heat).cpu().numpy()

    rows: dict[str, dict[str, Callable[[], object]]] = {
        "images": {
            "bare forward and backward": lambda: train(net, x, args.steps, half),
            "Detector.fit, whole": lambda: student.fit(dataset, labels, seed=args.seed),
        },
        "labelled images": {
            "bare forward": lambda: score(net, x, args.steps, half),
            "Detector.label, one view": lambda: one_side.label(dataset),
            "Detector.label, both sides": lambda: fitted.label(dataset),
            "boxes read from maps, and suppressed": read_boxes,
        },
        "crops of 96 px": {
            "bare forward of the second network": lambda: score(crops, small, args.steps, half),
            f"{POINTS} points read from maps": read_points,
        },
    }
    seconds = measure({k: call for part in rows.values() for k, call in part.items()}, args.repeats)
    lines = [
        f"{args.size} px, batch {args.batch}, {count} images, {device},"
        f" {about['threads']} threads, bfloat16 {half}, torch {torch.__version__},"
        f" median of {args.repeats} rounds",
        "",
        "| what | a second | time beside the first row |",
        "|---|---:|---:|",
    ]
    for unit, part in rows.items():
        bare = seconds[next(iter(part))]
        lines += [
            f"| {name} | {count / seconds[name]:.0f} {unit} | {seconds[name] / bare:.2f} |"
            for name in part
        ]
    for shift in (2.0, 20.0):
        lines += ["", *suppression(args.candidates, args.repeats, shift, rng)]
    table = "\n".join(lines) + "\n"
    print(table, end="")
    if args.out:
        args.out.write_text(table, encoding="utf-8")


def drawn(n: int, rng: np.random.Generator) -> tuple[Dataset, Labels]:
    """Draw n images of noise with six boxes each."""
    parts = ArrayPixels({"a": rng.integers(0, 256, (n, 256, 256, 3), dtype=np.uint8)})
    dataset = Dataset(pixels=parts, file=np.array(parts.names(), object), classes=("thing",))
    corner = rng.uniform(0, 200, (n * 6, 2))
    box = np.hstack([corner, corner + rng.uniform(20, 50, (n * 6, 2))])
    return dataset, Labels(image=np.repeat(dataset.id, 6), class_id=np.zeros(n * 6, int), box=box)


def train(net: CentreNet, x: torch.Tensor, steps: int, half: bool) -> None:
    """Forward, backward and AdamW on the same batch, again and again."""
    optimizer = torch.optim.AdamW(net.train().parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        out = net(x, bfloat16=half)
        torch.autograd.backward(out["heat"].square().mean() + out["sides"].square().mean())
        optimizer.step()
    _settle(x)


def score(net: CentreNet, x: torch.Tensor, steps: int, half: bool) -> None:
    """Forward on the same batch, again and again."""
    with torch.inference_mode():
        net.eval()
        for _ in range(steps):
            net(x, bfloat16=half)
    _settle(x)


def _settle(x: torch.Tensor) -> None:
    if x.is_cuda:  # its kernels are only queued
        torch.cuda.synchronize()


def suppression(n: int, repeats: int, shift: float, rng: np.random.Generator) -> list[str]:
    """Suppress n candidates that lie some pixels around 40 objects, in three ways."""
    objects = rng.uniform(0, 400, (40, POINTS, 2))
    place = objects[rng.integers(0, 40, n)] + rng.normal(0, shift, (n, POINTS, 2))
    points_of = np.concatenate([place, np.full((n, POINTS, 1), 2.0)], axis=2)
    chance, area = rng.random(n), np.full(n, 1e4)
    sigmas = np.full(POINTS, 0.05)
    rows: dict[str, Callable[[], NDArray[np.bool_]]] = {
        "NumPy, pair by pair": lambda: pair_by_pair(points_of, chance, area, sigmas, 0.7),
        "NumPy, whole matrix": lambda: by_matrix(points_of, chance, area, sigmas, 0.7),
        "medloop.overlap.suppress": lambda: suppress(
            points_of, chance, 0.7, area=area, sigmas=sigmas
        ),
    }
    kept = [call() for call in rows.values()]
    assert all((k == kept[0]).all() for k in kept), "they must keep the same ones"
    seconds = measure(rows, repeats)
    first = seconds["NumPy, pair by pair"]
    return [
        f"Suppression of {n} candidates of {POINTS} points; {kept[0].sum()} are kept.",
        "",
        "| what | ms | times faster |",
        "|---|---:|---:|",
        *(f"| {k} | {1e3 * s:.1f} | {first / s:.1f} |" for k, s in seconds.items()),
    ]


def pair_by_pair(
    points_of: NDArray[np.float64],
    chance: NDArray[np.float64],
    area: NDArray[np.float64],
    sigmas: NDArray[np.float64],
    threshold: float,
) -> NDArray[np.bool_]:
    """Compare every candidate with every better one that was kept, one pair at a time."""
    kept: list[int] = []
    for i in np.argsort(-chance, kind="stable"):
        for j in kept:
            square = ((points_of[i, :, :2] - points_of[j, :, :2]) ** 2).sum(1)
            if np.exp(-square / (2 * area[j] * (2 * sigmas) ** 2)).mean() > threshold:
                break
        else:
            kept.append(int(i))
    return np.isin(np.arange(len(chance)), kept)


def by_matrix(
    points_of: NDArray[np.float64],
    chance: NDArray[np.float64],
    area: NDArray[np.float64],
    sigmas: NDArray[np.float64],
    threshold: float,
) -> NDArray[np.bool_]:
    """Compare all with all at once, then choose."""
    like = oks(points_of, points_of, area, sigmas)
    rest, kept = np.ones(len(chance), bool), np.zeros(len(chance), bool)
    for i in np.argsort(-chance, kind="stable"):
        if rest[i]:
            kept[i] = True
            rest &= like[:, i] <= threshold
    return kept


def measure(rows: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of every row; one round of warming up is not counted."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats + 1):
        for name, call in rows.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(spent[1:]) for name, spent in times.items()}


if __name__ == "__main__":
    main()
