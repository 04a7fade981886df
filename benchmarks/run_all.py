"""Run the benchmarks and put what they print into docs/results.md, each into its own section.

A section stands between ``<!-- NAME -->`` and ``<!-- end NAME -->``; whatever is written around
them by hand stays.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results.md"

#: Section: script and its arguments. Some take hours on two cores, most minutes.
BENCHMARKS = {
    "few-labels": ["few_labels.py", "--tasks", "knee,breast,larynx,chest"],
    "few-labels-network": [
        "few_labels.py",
        *("--tasks", "knee", "--student", "network", "--sizes", "60", "--draws", "3"),
        *("--no-gate", "--set", "size=64", "--set", "max_steps=200", "--set", "threads=1"),
    ],
    "few-labels-pool": ["few_labels.py", "--tasks", "knee+pool"],
    "zero-shot": ["zero_shot.py", "--tasks", "mixture"],
    "zero-shot-hard": ["zero_shot.py", "--tasks", "chest,breast"],
    "zero-shot-findings": ["zero_shot.py", "--tasks", "findings"],
    "zero-shot-curve": ["zero_shot.py", "--tasks", "mixture", "--curve", "--splits", "8"],
    "zero-shot-curve-chest": ["zero_shot.py", "--tasks", "chest", "--curve", "--splits", "8"],
    "locate": ["locate.py"],
    "locate-rules": ["locate_rules.py"],
    "landmarks": ["landmarks.py"],
    "gate": ["gate.py"],
    "endoscopy": ["endoscopy.py"],
    "border": ["border.py"],
    "quality": ["quality.py"],
    "certificates": ["certificates.py"],
    "anytime": ["anytime.py"],
    "faults": ["faults.py"],
    "fuzz": ["fuzz.py"],
    "patches": ["patches.py"],
    "delong": ["delong.py"],
    "network": ["network.py"],
    "embedding": ["embedding.py"],
    "propagation": ["propagation.py"],
    "detector": ["detector.py"],
    "activation": ["activation.py"],
    "choose": ["choose.py"],
    "video": ["video.py"],
    "dicom": ["dicom.py"],
    "formats": ["formats.py"],
    "review": ["review.py"],
    "serve": ["serve.py"],
    "large": ["large.py"],
}


def main() -> None:
    """Run all of them, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--from", dest="source", type=Path, help="take a printed table instead")
    args = parser.parse_args()
    for name in args.names or BENCHMARKS:
        if name not in BENCHMARKS:
            parser.error(f"unknown benchmark {name!r}; known are {', '.join(BENCHMARKS)}")
        put(name, args.source.read_text(encoding="utf-8") if args.source else measure(name))
        print(f"{name}: written to {RESULTS.relative_to(ROOT)}")


def measure(name: str) -> str:
    """Run one script and return the table that it wrote."""
    script, *arguments = BENCHMARKS[name]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "table.md"
        command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments, "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        return out.read_text(encoding="utf-8")


def put(name: str, table: str) -> None:
    """Replace the section of one benchmark."""
    text = RESULTS.read_text(encoding="utf-8")
    section = f"<!-- {name} -->\n\n{table.strip()}\n\n<!-- end {name} -->"
    pattern = re.compile(f"<!-- {name} -->.*?<!-- end {name} -->", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{RESULTS} has no section {name!r}")
    RESULTS.write_text(pattern.sub(lambda _: section, text), encoding="utf-8")


if __name__ == "__main__":
    main()
