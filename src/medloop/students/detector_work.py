"""How a detector learns boxes from frames, and sees them in frames."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.labels import Labels
from medloop.overlap import area, clip, iou_rows, suppress
from medloop.progress import Progress
from medloop.students import frames
from medloop.students.devices import choose_bfloat16, choose_device, repeatable
from medloop.students.lessons import Batch, Lessons, batches

if TYPE_CHECKING:
    import torch

    from medloop.students.box_net import BoxModule
    from medloop.students.detector import Detector

Floats = NDArray[np.float64]
#: Ways to look at an image: mirrored or not, and how much it is enlarged.
Views = tuple[tuple[bool, float], ...]

AS_IT_IS: Views = ((False, 1.0),)
VIEWS: Views = ((False, 1.0), (True, 1.0), (False, 0.8), (False, 1.25))
CONTINUED = "continued from "

_KEEP = 512 * 2**20  # bytes of frames that may stay in memory
_BATCH = 16


def learn_boxes(
    student: Detector,
    net: BoxModule,
    dataset: Dataset,
    taught: Lessons,
    *,
    weights: str,
    seed: int,
    progress: Progress,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Train a network of boxes; return its weights, and what is worth knowing about it.

    Parameters
    ----------
    student : Detector
        Its settings.
    net : BoxModule
        Trained in place.
    dataset : Dataset
    taught : Lessons
    weights : str
        What the network starts from, in words.
    seed : int
    """
    import torch

    from medloop.students import augment, moves
    from medloop.students.box_net import Objects
    from medloop.students.centre_net import ready
    from medloop.students.descent import descend

    device = choose_device(student.device)
    half = choose_bfloat16(student.bfloat16, device)
    n, size, ranges = len(taught.images), student.size, moves.Ranges()
    batch, steps = student._steps(n, student.epochs)
    rate = student._rate(weights)
    order = augment.order(np.zeros(n, np.int64), steps * batch, seed, sampling="natural")
    feed: Iterator[Batch] = batches(dataset, taught, order, batch, size, _KEEP)
    first = next(feed)
    feed = chain([first], feed)
    if not weights.startswith(CONTINUED):
        net.begin(torch.from_numpy(first.box[taught.taught[first.row]]).float() * size)
    net = ready(net, device)

    def loss_of(step: int) -> torch.Tensor:
        made = next(feed)
        random = augment.stream(seed, step)
        move = moves.draw(len(made.pixels), random, ranges, student.augment, student.flip)
        x = moves.moved(pixels_of(made.pixels, device), move, size)
        x = moves.lit(x, random, ranges, student.augment)
        objects = Objects(
            place=torch.from_numpy(made.place),
            class_id=torch.from_numpy(taught.class_id[made.row]),
            box=moves.boxes(torch.from_numpy(made.box).float(), move[made.place]),
            weight=torch.from_numpy(taught.weight[made.row]).float(),
        )
        return net.loss(x.contiguous(memory_format=torch.channels_last), objects, bfloat16=half)

    state = descend(
        net,
        loss_of,
        steps=steps,
        rate=rate,
        weight_decay=student.weight_decay,
        warmup=student.warmup,
        ema=student.ema,
        what=f"train {student.name}",
        progress=progress,
    )
    about = {
        "images": n,
        "boxes": int(taught.taught.sum()),
        "steps": steps,
        "batch": batch,
        "lr": rate,
        "seed": seed,
        "device": device,
        "bfloat16": half,
        "threads": student.threads or torch.get_num_threads(),
    }
    return state, about


def see_boxes(
    student: Detector, net: BoxModule, dataset: Dataset, views: Views, progress: Progress
) -> list[Labels]:
    """Find objects in every image, once for each view."""
    import torch

    from medloop.students.centre_net import ready

    device = choose_device(student.device)
    half = choose_bfloat16(student.bfloat16, device)
    rows: list[list[list[NDArray[Any]]]] = [[] for _ in views]
    done = 0
    with repeatable(device, student.threads), torch.inference_mode():
        net = ready(net, device).eval()
        sizes = sorted({student.size, student.size * student.closer})
        for size in sizes:
            for made in frames.frames(dataset, dataset.id, size, _BATCH):
                first = done % len(dataset)
                images = dataset.id[first : first + len(made.pixels)]
                x = pixels_of(made.pixels, device)
                for view, kept in zip(views, rows, strict=True):
                    kept.append(_seen(student, net, x, view, images, made, half))
                done += len(images)
                progress(f"label with {student.name}", done, len(sizes) * len(dataset))
    return [_table(student, dataset, parts) for parts in rows]


def _seen(
    student: Detector,
    net: BoxModule,
    x: torch.Tensor,
    view: tuple[bool, float],
    images: NDArray[np.int64],
    made: frames.Frames,
    half: bool,
) -> list[NDArray[Any]]:
    """Return image, class, score, box in pixels, and heat of what is seen in one view."""
    import torch

    from medloop.students import moves

    mirrored, zoom = view
    if zoom != 1.0:
        move = torch.tensor([[zoom, 0.0, 0.0], [0.0, zoom, 0.0]]).expand(len(x), 2, 3)
        x = moves.moved(x, move, x.shape[-1])
    sight = net.read(
        (x.flip(-1) if mirrored else x).contiguous(memory_format=torch.channels_last),
        both=student.flip_average and view == AS_IT_IS[0],
        temperature=student.temperature,
        most=student.most,
        bfloat16=half,
    )
    score, box, heat = (
        v.float().cpu().double().numpy() for v in (sight.score, sight.box, sight.heat)
    )
    if mirrored:
        box = np.stack([1 - box[..., 2], box[..., 1], 1 - box[..., 0], box[..., 3]], axis=-1)
    place = (box.reshape(*score.shape, 2, 2) - 0.5) / zoom + 0.5
    box = frames.back(place, made.square[:, None, None], 1).reshape(box.shape)
    keep = score >= student.least
    at = np.nonzero(keep)[0]
    box = clip(box[keep], made.size[at])
    columns = [images[at], sight.class_id.cpu().numpy()[keep], score[keep], box, heat[keep]]
    solid = (box[:, 2:] > box[:, :2]).all(axis=1)
    return [column[solid] for column in columns]


def _table(student: Detector, dataset: Dataset, parts: list[list[NDArray[Any]]]) -> Labels:
    none = np.empty(0, np.int64)
    start = [none, none, np.empty(0), np.empty((0, 4)), np.empty((0, len(student.classes)))]
    image, class_id, score, box, heat = (
        np.concatenate(column) for column in zip(start, *parts, strict=True)
    )
    score, box = single(score), single(box)
    group = image if student.across_classes else np.column_stack([image, class_id])
    kept = np.flatnonzero(suppress(box, score, student.overlap, group=group))
    place = dataset.position(image[kept])
    order = np.lexsort((-score[kept], place))
    kept, place = kept[order], place[order]
    # two looks find more together than either may
    kept = kept[np.arange(len(kept)) - np.searchsorted(place, place) < student.most]
    shares = single(heat / heat.sum(1, keepdims=True)) if heat.shape[1] > 1 else None
    found = Labels(
        image=image,
        class_id=class_id,
        score=score,
        box=box,
        probs=shares,
        looked_at=dataset.id,
    )
    return found[kept]


def moved_by(labels: Labels, view: Labels) -> Floats:
    """Return (m,) the distance of each box from the one of its class that overlaps it most.

    The mean over its corners, over the square root of its area; 1 at most, and where none
    overlaps it.
    """
    away = np.ones(len(labels))
    if labels.box is None or view.box is None:
        return away
    order = np.argsort(view.image, kind="stable")
    first = np.searchsorted(view.image[order], labels.image, "left")
    last = np.searchsorted(view.image[order], labels.image, "right")
    scale = np.sqrt(np.maximum(area(labels.box), 1.0))
    for i, box in enumerate(labels.box):
        rivals = order[first[i] : last[i]]
        rivals = rivals[view.class_id[rivals] == labels.class_id[i]]
        like = iou_rows(box[None], view.box[rivals])
        if like.max(initial=0.0) > 0:
            corners = (box - view.box[rivals[np.argmax(like)]]).reshape(2, 2)
            away[i] = min(1.0, float(np.hypot(*corners.T).mean() / scale[i]))
    return away


def pixels_of(pixels: NDArray[np.uint8], device: str) -> torch.Tensor:
    """Turn (n, h, w, 3) bytes into (n, 3, h, w) floats about 0, which is what lies outside."""
    import torch

    x = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()
    return (x - frames.OUTSIDE) / 255


def single(values: Floats) -> Floats:
    """Round to single precision, as it is stored, so that a resumed run sees the same numbers."""
    return np.asarray(values, np.float32).astype(np.float64)
