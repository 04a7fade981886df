"""Time the image embeddings of zero-shot labels beside the bare forward pass of the same model.

    python benchmarks/embedding.py --images 256 --batch 32 --out embedding.md

The model has the vision tower of CLIP ViT-B/32 (224 px) with random weights, built from its
configuration. The bare row runs it on normalised tensors that are already in memory; the others
read, decode, resize and normalise JPEG files on the way. Every round times each row once, so a
busy machine slows all rows alike; the table gives medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import string
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel
from transformers.utils import logging

from medloop.dataset import Dataset
from medloop.engine import map_batches
from medloop.labelers.tower import Tower, load_tower
from medloop.labelers.zero_shot import ZeroShot
from medloop.prepare.window import square
from medloop.read.image import FolderPixels
from medloop.students.feature_file import compute_features

SIZE = 224


def main() -> None:
    """Parse the command line, time, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--side", type=int, default=320, help="of the JPEG files, in pixels")
    parser.add_argument("--batch", type=int, default=32, help="images a pass")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of torch (default: as torch chooses)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    logging.disable_progress_bar()
    if args.threads:
        torch.set_num_threads(args.threads)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        dataset = write_images(folder / "images", args.images, args.side)
        labeler = ZeroShot(model=str(folder / "model"), batch=args.batch, device=args.device)
        tower = load_tower(labeler.model, batch=args.batch, device=args.device)
        pixels = torch.randn(args.batch, 3, SIZE, SIZE, device=tower.device)
        seconds = measure(
            {
                "bare forward pass, preloaded tensors": lambda: bare(tower, pixels, args.images),
                "embedding stage of ZeroShot.prepare": lambda: embed(tower, dataset),
                "ZeroShot.prepare, with loading the model": lambda: prepare(labeler, dataset),
                "decoding and resizing alone": lambda: decode(dataset, args.batch),
            },
            args.repeats,
        )
    lines = [
        f"CLIP ViT-B/32, {SIZE} px, batch {args.batch}, {args.images} JPEG files of {args.side} px,"
        f" {tower.device}, {torch.get_num_threads()} threads, torch {torch.__version__},"
        f" median of {args.repeats} rounds",
        "",
        "| what | images/s | share of the bare pass |",
        "|---|---:|---:|",
    ]
    pass_only = next(iter(seconds.values()))
    for what, spent in seconds.items():
        lines.append(f"| {what} | {args.images / spent:.1f} | {pass_only / spent:.0%} |")
    table = "\n".join(lines) + "\n"
    print(table, end="")
    if args.out:
        args.out.write_text(table, encoding="utf-8")


def write_model(folder: Path) -> None:
    """Save a CLIP with the vision tower of ViT-B/32 and next to no text tower."""
    pieces = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase)]
    words = [*pieces, ".</w>", "<|startoftext|>", "<|endoftext|>"]
    config = CLIPConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "bos_token_id": len(words) - 2,
            "eos_token_id": len(words) - 1,
        },
        vision_config={"image_size": SIZE, "patch_size": 32},  # the rest is B by default
        projection_dim=512,
    )
    CLIPModel(config).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    about = {"size": SIZE, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(about), encoding="utf-8")


def write_images(folder: Path, count: int, side: int) -> Dataset:
    """Write smooth coloured noise, which compresses about as a photograph does."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = [f"{i:05d}.jpg" for i in range(count)]
    for file in files:
        coarse = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        fine = rng.normal(0, 6, (side, side, 1))
        seen = np.clip(np.asarray(image) + fine, 0, 255).astype(np.uint8)
        Image.fromarray(seen).save(folder / file, quality=90)
    return Dataset(pixels=FolderPixels(folder), file=np.array(files, object), classes=("a", "b"))


def bare(tower: Tower, pixels: torch.Tensor, images: int) -> None:
    """Embed the same batch until as many images have passed."""
    with torch.inference_mode():
        for start in range(0, images, len(pixels)):
            tower.model.get_image_features(pixel_values=pixels[: images - start])
    if pixels.is_cuda:  # its kernels are only queued
        torch.cuda.synchronize()


def embed(tower: Tower, dataset: Dataset) -> None:
    """Embed the files with a model that is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        compute_features(tower, dataset, folder=Path(folder))


def prepare(labeler: ZeroShot, dataset: Dataset) -> None:
    """Load the model, embed the prompts and the files."""
    with tempfile.TemporaryDirectory() as folder:
        labeler.prepare(dataset, folder=Path(folder))


def decode(dataset: Dataset, batch: int) -> None:
    """Read and resize the files, on all cores, and do nothing with them."""

    def read(ids: list[int]) -> int:
        return len([square(dataset.image(i), SIZE, 3) for i in ids])

    for _ in map_batches(read, dataset.id.tolist(), batch=batch):
        pass


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
