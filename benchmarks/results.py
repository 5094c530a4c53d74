"""RESULTS.md: one section a benchmark, each replaced whole by the run that made it."""

import ctypes
import os
import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from paired import Paired

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADING = "# Benchmarks\n\nEach section is written by the command that it names; do not edit.\n"


def write_section(
    title: str,
    body: Iterable[str],
    *,
    command: str,
    method: str,
    packages: Iterable[str] = ("torch", "transformers"),
    path: Path = RESULTS,
) -> Path:
    """Puts a benchmark's section into the results, in place of its last one.

    Args:
        title: Heading of the section; the same at every run.
        body: Markdown blocks: tables, remarks.
        command: What a reader types to repeat it.
        method: How it was measured, in a sentence or two.
        packages: Whose versions matter.
        path: The file; made when missing.
    """
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    head = "\n".join(
        [
            f"## {title}",
            "",
            f"- Command: `{command}`",
            f"- Machine: {cpu_name()}; one thread.",
            f"- Versions: Python {platform.python_version()}, {versions}.",
            f"- Method: {method}",
        ]
    )
    put_section("\n\n".join([head, *(block.strip() for block in body)]), path)
    return path


def sections(text: str) -> list[str]:
    """The text before the first section, and each section, stripped."""
    return [part.strip() for part in re.split(r"^(?=## )", text, flags=re.M)]


def put_section(section: str, path: Path) -> None:
    """Writes a section in place of the one with its heading, or at the end."""
    parts = sections(path.read_text(encoding="utf-8") if path.exists() else HEADING)
    heads = [part.split("\n", 1)[0] for part in parts]
    title = section.split("\n", 1)[0]
    if title in heads:
        parts[heads.index(title)] = section
    else:
        parts.append(section)
    path.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def ratio_table(title: str, results: Mapping[str, Paired], targets: Mapping[str, float]) -> str:
    """Paired ratios in Markdown, with the limits they must stay below."""
    lines = [
        f"### {title}",
        "",
        "| what | CPU ms per call | ratio, median | quartiles | target | |",
        "|---|---:|---:|---|---:|---|",
    ]
    for name, result in results.items():
        low, high = result.quartiles
        target = targets.get(name)
        verdict = "" if target is None else "pass" if result.median <= target else "MISS"
        limit = "" if target is None else f"<= {target:.{2 if round(target, 2) == target else 3}f}"
        lines.append(
            f"| {name} | {result.milliseconds:.2f} | {result.median:.3f} | {low:.3f} to {high:.3f} "
            f"| {limit} | {verdict} |"
        )
    return "\n".join(lines)


def keep_pages() -> bool:
    """Tells glibc to keep freed memory, as torch's CUDA allocator does.

    By default it hands the large activations back to the system after each forward and faults them
    in again in the next. That took up to a third of the time and differed from run to run.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_threshold = -1, -3
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(name, 2**30) for name in (trim_threshold, mmap_threshold))


def cpu_name() -> str:
    """The processor's name and its cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    return f"{name}, {platform.machine()}, {os.cpu_count()} cores"
