"""Activation maps beside the bare passes of the same network, in images a second."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from medloop.activation import Cam, class_maps
from medloop.students.backbones import start
from medloop.students.layers import layers_of


def main() -> None:
    """Time the rows in turns and write a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    net, _, _ = start(args.backbone, pretrained="never", size=args.size, n_classes=3)
    net = net.eval().requires_grad_(False)
    torch.nn.utils.convert_conv2d_weight_memory_format(net, torch.channels_last)
    pixels = torch.rand(args.batch, 3, args.size, args.size)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    target = np.arange(args.batch) % 3
    layers = layers_of(net, args.size, 9)

    def forward() -> None:
        with torch.inference_mode():
            net(pixels)

    def whole() -> None:
        leaf = pixels.detach().requires_grad_(True)
        logits = net(leaf)
        torch.autograd.grad(logits[torch.arange(args.batch), torch.as_tensor(target)].sum(), leaf)

    def maps(cam: Cam) -> Callable[[], object]:
        return lambda: class_maps(net, pixels, layers[: cam.layers], cam=cam, target=target)

    every = len(layers)
    rows: dict[str, tuple[Callable[[], object], str]] = {
        "bare forward": (forward, "bare forward"),
        "Grad-CAM, last layer": (maps(Cam()), "bare forward"),
        "LayerCAM, last layer": (maps(Cam(method="layercam")), "bare forward"),
        "bare forward and backward": (whole, "bare forward and backward"),
        f"LayerCAM, {every} layers": (
            maps(Cam(method="layercam", layers=every)),
            "bare forward and backward",
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(args.repeats + 1):
        for name, (call, _) in rows.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    seconds = {name: statistics.median(spent[1:]) for name, spent in times.items()}
    lines = [
        f"{args.backbone}, {args.size} px, batch {args.batch}, {args.threads} threads, torch"
        f" {torch.__version__}, median of {args.repeats} rounds in turns",
        "",
        "| what | images/s | share of |",
        "|---|---:|---:|",
    ]
    lines += [
        f"| {name} | {args.batch / seconds[name]:.1f} | {seconds[bare] / seconds[name]:.0%}"
        f" of {bare} |"
        for name, (_, bare) in rows.items()
    ]
    table = "\n".join(lines) + "\n"
    print(table, end="")
    if args.out:
        args.out.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
