"""Workspaces that are quick to make, a server that runs for a test, and a browser of its own."""

from __future__ import annotations

import csv
import io
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medloop.phantoms import draw_phantoms
from medloop.prepare.degrade import degrade
from medloop.recipes.few_labels import FewLabels
from medloop.run import run
from medloop.serve.serving import opened

SMALL = {"size": 24, "n_centroids": 16, "n_components": 24, "variants": 1}
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


@contextmanager
def running(path: Path, **options):
    """Serve a workspace from a thread; yields what ``opened`` gives."""
    with opened(path, **options) as serving:
        thread = threading.Thread(target=serving.run)
        thread.start()
        try:
            yield serving
        finally:
            serving.stop()
            thread.join(10)


def quality_workspace(folder: Path) -> Path:
    """A model of good and bad: sharp phantoms, and the same blurred."""
    phantoms = draw_phantoms(48, size=48)
    (folder / "images").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("file", "label", "patient", "split"))
        for i, pixels in enumerate(phantoms.images):
            patient = f"p{phantoms.patient[i]}"
            split = "val" if phantoms.patient[i] % 2 else "train"
            spoilt = degrade(pixels, "brightness", 1.0, seed=3, name=str(i))
            for label, image in (("good", pixels), ("bad", spoilt)):
                Image.fromarray(image).save(folder / "images" / f"{i}{label}.png")
                table.writerow((f"{i}{label}.png", label, patient, split))
    config = FewLabels(
        images=str(folder / "images"),
        labels=str(folder / "labels.csv"),
        rounds=0,
        student_options=SMALL,
    )
    run(folder / "ws", config, note=lambda sentence: None)
    return folder / "ws"


def png(pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(out, "PNG")
    return out.getvalue()


def video(path: Path, images, *, rate: int = 4) -> Path:
    """An mp4 of 64 px whose frames are these grey images."""
    av = pytest.importorskip("av", reason="videos need av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for image in images:
            large = np.asarray(Image.fromarray(image).resize((64, 64)))
            frame = av.VideoFrame.from_ndarray(np.stack([large] * 3, 2), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def in_browser(look, **options):
    """Call ``look`` with a page of a chromium of its own; script errors fail.

    In a thread: another test may hold a browser in this one.
    """
    pytest.importorskip("playwright", reason="browser tests need playwright")
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("browser tests need chromium, and none was found")

    def browse():
        from playwright.sync_api import sync_playwright

        complaints: list[str] = []
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
            context.set_default_timeout(20_000)
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda line: _note(complaints, line))
            try:
                look(page)
            finally:
                browser.close()
        assert not complaints

    with ThreadPoolExecutor(1) as pool:
        pool.submit(browse).result()


def _note(complaints, line):
    if line.type == "error" and "Content Security Policy" in line.text:
        complaints.append(line.text)
