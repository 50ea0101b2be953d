"""What the metrics of a large gallery take: seconds and memory.

    python benchmarks/retrieval.py [--images 60502] [--width 512] [--classes 11316] [--nmi]

Random vectors around random class centres; the sizes are those of Stanford Online Products' test
set. Writes reports/benchmarks/retrieval-cpu.json.
"""

import argparse
import resource
import time

import torch

from horkd import paths, storage
from horkd.machine import describe_machine
from horkd.protocols import neighbours


def main() -> None:
    """Measure once: a minute and more of the same work needs no repeats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60502)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=11316)
    parser.add_argument("--nmi", action="store_true", help="also NMI, by k-means: minutes")
    sizes = parser.parse_args()
    paths.settle()
    torch.manual_seed(0)
    labels = torch.arange(sizes.images) % sizes.classes
    x = torch.randn(sizes.classes, sizes.width)[labels] + torch.randn(sizes.images, sizes.width)
    before = _peak()
    start = time.perf_counter()
    neighbours.measure(x, labels)
    found = {"measure_s": round(time.perf_counter() - start, 1), "measure_mib": _peak() - before}
    if sizes.nmi:
        start = time.perf_counter()
        neighbours.nmi(x, labels)
        found["nmi_s"] = round(time.perf_counter() - start, 1)
    content = vars(sizes) | found | {"machine": describe_machine(torch.device("cpu"))}
    storage.save_json(paths.reports_dir() / "benchmarks" / "retrieval-cpu.json", content)
    print(content)


def _peak() -> int:
    """The most memory this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
