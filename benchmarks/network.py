"""Time the network student beside the bare passes of the same torch module, in the same run.

    python benchmarks/network.py --backbone resnet18 --size 128 --batch 32 --out network.md

The bare rows work on one batch that is already in memory; the student reads, resizes, varies and
normalises 256 x 256 images on the way. Every round times each row once, so a busy machine slows
all rows alike; the table gives medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medloop.dataset import ArrayPixels, Dataset
from medloop.labels import Labels
from medloop.students.backbones import Classifier, start
from medloop.students.network import Network


def main() -> None:
    """Parse the command line, time, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=128, help="pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images a step")
    parser.add_argument("--steps", type=int, default=8, help="steps a row (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of torch (default: as torch chooses)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    count = args.steps * args.batch
    rng = np.random.default_rng(args.seed)
    parts = ArrayPixels({"a": rng.integers(0, 256, (count, 256, 256), dtype=np.uint8)})
    names = np.array(parts.names(), object)
    dataset = Dataset(pixels=parts, file=names, classes=("no", "yes"))
    labels = Labels(image=dataset.id, class_id=dataset.id % 2)
    student = Network(
        backbone=args.backbone,
        size=args.size,
        batch=args.batch,
        epochs=1,
        min_steps=args.steps,
        max_steps=args.steps,
        pretrained="never",
    )
    fitted = student.fit(dataset, labels, seed=args.seed)
    about = dict(fitted.trained or {})
    device, half = str(about["device"]), bool(about["bfloat16"])
    still = replace(student, augment=0.0, flip=False)
    single = replace(fitted, flip_average=False)

    torch.manual_seed(args.seed)
    plain, plan, _ = start(args.backbone, pretrained="never", size=args.size, n_classes=2)
    tuned, _, _ = start(args.backbone, pretrained="never", size=args.size, n_classes=2)
    plain, tuned = plain.to(device), tuned.to(device)
    nn.utils.convert_conv2d_weight_memory_format(tuned, torch.channels_last)
    pixels = torch.rand(args.batch, plan.channels, args.size, args.size, device=device)
    last = pixels.contiguous(memory_format=torch.channels_last)

    kind = "bfloat16" if half else "float32"
    training: dict[str, Callable[[], object]] = {
        "bare steps, float32, channels first": lambda: train(plain, pixels, args.steps, False),
        f"bare steps, {kind}, channels last": lambda: train(tuned, last, args.steps, half),
        "Network.fit, whole": lambda: student.fit(dataset, labels, seed=args.seed),
        "Network.fit, without variation": lambda: still.fit(dataset, labels, seed=args.seed),
    }
    scoring: dict[str, Callable[[], object]] = {
        "bare forward, float32, channels first": lambda: score(plain, pixels, args.steps, False),
        f"bare forward, {kind}, channels last": lambda: score(tuned, last, args.steps, half),
        "Network.label, one view": lambda: single.label(dataset),
        "Network.label, both sides": lambda: fitted.label(dataset),
    }
    seconds = measure({**training, **scoring}, args.repeats)
    lines = [
        f"{args.backbone}, {args.size} px, batch {args.batch}, {count} images, {device},"
        f" {about['threads']} threads, torch {torch.__version__}, median of {args.repeats} rounds",
        "",
        "| what | images/s | share of the bare passes |",
        "|---|---:|---:|",
    ]
    for rows in (training, scoring):
        bare = seconds[list(rows)[1]]
        lines += [
            f"| {name} | {count / seconds[name]:.0f} | {bare / seconds[name]:.0%} |"
            for name in rows
        ]
    table = "\n".join(lines) + "\n"
    print(table, end="")
    if args.out:
        args.out.write_text(table, encoding="utf-8")


def train(net: Classifier, pixels: torch.Tensor, steps: int, half: bool) -> None:
    """Forward, backward and AdamW on the same batch, again and again."""
    optimizer = torch.optim.AdamW(net.train().parameters(), lr=1e-3)
    target = torch.arange(len(pixels), device=pixels.device) % 2
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(net(pixels, bfloat16=half), target)
        torch.autograd.backward(loss)
        optimizer.step()
    _settle(pixels)


def score(net: Classifier, pixels: torch.Tensor, steps: int, half: bool) -> None:
    """Forward on the same batch, again and again."""
    with torch.inference_mode():
        net.eval()
        for _ in range(steps):
            net(pixels, bfloat16=half)
    _settle(pixels)


def _settle(pixels: torch.Tensor) -> None:
    if pixels.is_cuda:  # its kernels are only queued
        torch.cuda.synchronize()


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
