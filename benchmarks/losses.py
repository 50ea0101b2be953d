"""How fast the relational losses are, and how much memory they take, against the published code.

    python benchmarks/losses.py [--device cpu] [--rows 32 128 512] [--widths 64 512]

Times forward and backward of a batch, the frozen model's side included: the published formula
(`tests/oracles.py`, the one the tests compare with) and `horkd.losses`, one after the other. A
formula that runs out of memory is left out at larger sizes. Writes a record, a table and a figure
into reports/benchmarks/.
"""

import argparse
import ctypes
import gc
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.lines import Line2D
from torch.utils.benchmark import Timer, timer
from tqdm import tqdm

from horkd import losses, paths, storage
from horkd.fast import distances
from horkd.machine import commit, describe_machine, versions
from horkd.studies import report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import oracles

CENTERS = 100
PUBLISHED = {
    "2": lambda f, g, u: oracles.rkd_distance(f, g),
    "3": lambda f, g, u: oracles.rkd_angle(f, g),
    "C": oracles.center_distance,
}
OURS = {
    "2": lambda f, g, u: losses.order2(f, g, "rkd"),
    "3": lambda f, g, u: losses.order3(f, g, "rkd"),
    "C": losses.order_c,
}
#: A call that takes more milliseconds than this is made once, without one to warm up.
SLOW = 20_000.0
TOO_LARGE = float("nan")


def milliseconds(call: Callable[[], None], seconds: float) -> list[float]:
    """Of one call each, from as many blocks of calls as fit into the seconds, at least one."""
    timed = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return [1e3 * t for t in timed.blocked_autorange(min_run_time=seconds).times]


def first_call(call: Callable[[], None], cuda: bool) -> tuple[float, float]:
    """Milliseconds and MiB: the peak over what was in use before, NaN where it is not told."""
    gc.collect()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        taken = _once(call)
        return taken, (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    except (OSError, AttributeError):
        return _once(call), float("nan")
    before = _status("VmRSS")
    taken = _once(call)
    return taken, (_status("VmHWM") - before) / 1024


def _once(call: Callable[[], None]) -> float:
    start = timer()  # torch's waits for the device
    call()
    return 1e3 * (timer() - start)


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return float(line.split()[1])
    raise ValueError(name)


@contextmanager
def memory_limit() -> Iterator[None]:
    """Refuse allocations beyond the free memory, so that a large formula fails and is not killed.

    Linux only; elsewhere there is no limit.
    """
    try:
        information = Path("/proc/meminfo").read_text().split("MemAvailable:")[1]
        free = 1024 * int(information.split()[0])
    except (OSError, IndexError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(1024 * _status("VmSize") + free), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def ran_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def compare(
    order: str, n: int, width: int, device: str, seconds: float, skip_published: bool
) -> dict:
    """One row of the table."""
    torch.manual_seed(n + width)
    cuda = device.startswith("cuda")
    frozen = torch.randn(n, width, device=device)
    learner = torch.randn(n, width, device=device, requires_grad=True)
    centers = torch.randn(CENTERS, width, device=device)

    def step(formula: Callable) -> Callable[[], None]:
        def call() -> None:
            learner.grad = None
            loss = formula(frozen, learner, centers)
            loss.backward()
            call.loss = loss.detach()

        return call

    calls = {"published": step(PUBLISHED[order]), "ours": step(OURS[order])}
    if skip_published:
        del calls["published"]
    memory, gradients, values, first = {}, {}, {}, {}
    for name in list(calls):
        with memory_limit():
            try:
                first[name], peaks = first_call(calls[name], cuda)
                if first[name] < SLOW:  # at first the allocator may take more than it needs
                    peaks = min(first_call(calls[name], cuda)[1], peaks)
            except RuntimeError as error:
                if name == "ours" or not ran_out_of_memory(error):
                    raise
                del calls[name]
                continue
        memory[name], gradients[name] = peaks, learner.grad.double()
        values[name] = calls[name].loss
    times = {
        name: [first[name]] if first[name] > SLOW else milliseconds(call, seconds / len(calls))
        for name, call in calls.items()
    }
    row = {"order": order, "N": n, "D": width}
    for name in ("published", "ours"):
        quantiles = np.quantile(times.get(name) or [TOO_LARGE], [0.5, 0.25, 0.75])
        row |= {
            f"{name} ms": quantiles[0],
            f"{name} ms quartiles": quantiles[1:].tolist(),
            f"{name} calls": len(times.get(name, [])),
            f"{name} MiB": memory.get(name, TOO_LARGE),
        }
    row["ratio"] = row["published ms"] / row["ours ms"]
    if len(gradients) == 2:
        a, b = gradients["published"], gradients["ours"]
        row["gradient difference"] = ((a - b).norm() / a.norm()).item()
        row["loss difference"] = abs((values["ours"] / values["published"] - 1).item())
    return row


#: Float32 instructions of the fused form for each third corner of each side i < k, counted in the
#: source of `_triangles`, a product and a sum as one where they can be.
FUSED_INSTRUCTIONS = 40
TILE = 32


FLOOR = (
    f"The fused form of order 3 needs {FUSED_INSTRUCTIONS} float32 instructions for each side and "
    "third corner. For each tile of sides and each third corner it reads eight rows of 32 numbers, "
    "and it touches six matrices of the size of the distances. The floors are these counts over "
    "the rates of multiply-adds and of copied bytes measured in the same run "
    "(`benchmarks/ceiling.py`). Rows come from caches, which are faster than what was measured."
)


def against_the_floor(rows_of_sides: list[int], device: str) -> list[dict]:
    """The fused form's time beside the least the device could take for its instructions."""
    from ceiling import bytes_per_second, instructions_per_second

    from horkd.fast.fused import angles_fused

    rate, bandwidth = instructions_per_second(device), bytes_per_second(device)
    out = []
    for n in rows_of_sides:
        p, q = (distances.geometry(torch.randn(n, 64, device=device)).q.float() for _ in range(2))
        times = milliseconds(lambda p=p, q=q: angles_fused(p, q, False, True), 0.5)
        count = FUSED_INSTRUCTIONS * n * n * (n - 1) / 2
        tiles = -(-n // TILE)
        moved = 4 * (6 * n * n + 8 * TILE * n * tiles * (tiles + 1) / 2)
        out.append(
            {
                "N": n,
                "fused (ms)": float(np.median(times)),
                "floor of instructions (ms)": 1e3 * count / rate,
                "floor of bytes (ms)": 1e3 * moved / bandwidth,
                "share of the ceiling (%)": 1e5 * count / rate / float(np.median(times)),
            }
        )
    return out


def table(rows: list[dict]) -> pd.DataFrame:
    """What a reader wants of the rows."""

    def number(value: float, digits: int) -> str:
        if np.isnan(value):
            return "does not fit"
        if value < 10**-digits:
            return f"< {10**-digits:g}"
        return f"{value:.{digits}f}" if value < 1000 else f"{value:,.0f}"

    def milliseconds(row: dict, name: str) -> str:
        return number(row[f"{name} ms"], 2) + ("*" if row[f"{name} calls"] == 1 else "")

    return pd.DataFrame(
        [
            {
                "order": row["order"],
                "N": row["N"],
                "D": row["D"],
                "published (ms)": milliseconds(row, "published"),
                "ours (ms)": milliseconds(row, "ours"),
                "ratio": "" if np.isnan(row["ratio"]) else f"{row['ratio']:.1f}",
                "published (MiB)": number(row["published MiB"], 1),
                "ours (MiB)": number(row["ours MiB"], 1),
                "gradients differ by": f"{row['gradient difference']:.0e}"
                if "gradient difference" in row
                else "",
            }
            for row in rows
        ]
    )


def page(rows: list[dict], floor: list[dict], machine: str, seconds: float, image: str) -> str:
    """The report in Markdown."""
    lines = [
        f"# Relational losses: time and memory on {machine}",
        "Forward and backward of one batch, both models' features D wide, order C with "
        f"{CENTERS} centres, float32; medians of blocks of calls (`torch.utils.benchmark`). A star "
        "marks a single block, made where a call takes long. *Published* is the "
        "formula of `tests/oracles.py`. *MiB* is the peak beyond the inputs. Written by "
        f"`make bench` in {seconds / 60:.0f} minutes; quartiles are in the record.",
        f"![Time and memory]({image})",
        report.markdown(table(rows)),
    ]
    if floor:
        lines += [FLOOR, report.markdown(pd.DataFrame(floor).round(3).astype(str))]
    return "\n\n".join(lines) + "\n"


def figure(rows: list[dict], machine: str) -> plt.Figure:
    """Time and memory against the batch size; a cross where the published formula stops."""
    report.style()
    frame = pd.DataFrame(rows)
    widths = sorted(frame["D"].unique())
    colors = dict(zip(widths, ["#0072B2", "#D55E00", "#009E73", "#CC79A7"], strict=False))
    orders, ticks = sorted(frame["order"].unique()), sorted(frame["N"].unique())[::2]
    fig, axes = plt.subplots(
        2, len(orders), figsize=(4 * len(orders), 6.4), sharex=True, sharey="row", squeeze=False
    )
    for column, order in enumerate(orders):
        for line, unit in enumerate(("ms", "MiB")):
            ax = axes[line, column]
            for width in widths:
                part = frame[(frame["order"] == order) & (frame["D"] == width)].sort_values("N")
                ours, published = part[f"ours {unit}"], part[f"published {unit}"]
                ax.plot(part["N"], ours, color=colors[width], lw=1.8, marker="o", ms=3)
                ax.plot(part["N"], published, color=colors[width], lw=1.4, ls="--")
                fits = part[published.notna()]
                if len(fits) < len(part) and len(fits):
                    last = fits.iloc[-1]
                    ax.plot(
                        last["N"], last[f"published {unit}"], "x", color=colors[width], ms=9, mew=2
                    )
            ax.set_xscale("log", base=2)
            ax.set_xticks(ticks, labels=map(str, ticks))
            ax.set_yscale("log")
            if line == 0:
                ax.set_title(f"order {order}")
            else:
                ax.set_xlabel("images in a batch, N")
    axes[1, 0].set_ylim(bottom=0.05)  # less than that is no measurement
    axes[0, 0].set_ylabel("forward + backward (ms)")
    axes[1, 0].set_ylabel("additional memory (MiB)")
    handles = [Line2D([], [], color=colors[w], lw=2, label=f"D = {w}") for w in widths]
    handles += [
        Line2D([], [], color="#333333", marker="o", ms=3, label="horkd"),
        Line2D([], [], color="#333333", ls="--", label="published formula"),
        Line2D(
            [],
            [],
            color="#333333",
            ls="",
            marker="x",
            ms=8,
            mew=2,
            label="the next size does not fit",
        ),
    ]
    fig.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9
    )
    fig.supxlabel(machine, fontsize=8, color="#555555")
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--orders", nargs="+", default=["2", "3", "C"], choices=["2", "3", "C"])
    parser.add_argument(
        "--rows", nargs="+", type=int, default=[16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    )
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 512, 2048])
    parser.add_argument("--seconds", type=float, default=2.0, help="to spend on a size")
    arguments = parser.parse_args()
    paths.settle()
    rows, start = [], time.perf_counter()
    sizes = [
        (o, d, n)
        for o in arguments.orders
        for d in arguments.widths
        for n in sorted(arguments.rows)
    ]
    stopped = set()
    for order, width, n in tqdm(sizes, unit="size"):
        row = compare(
            order,
            n,
            width,
            arguments.device,
            arguments.seconds,
            skip_published=(order, width) in stopped,
        )
        if np.isnan(row["published ms"]):
            stopped.add((order, width))
        rows.append(row)
        tqdm.write(table([row]).to_string(index=False, header=len(rows) == 1))
    device = torch.device(arguments.device).type
    machine = describe_machine(arguments.device)
    folder = paths.reports_dir() / "benchmarks"
    seconds = time.perf_counter() - start
    floor = []
    if device == "cuda":
        floor = against_the_floor(sorted(n for n in arguments.rows if n >= 64), arguments.device)
    name = f"{machine['name']}" + (f", {machine['threads']} threads" if device == "cpu" else "")
    storage.save_json(
        folder / f"losses-{device}.json",
        {
            "rows": [{k: None if v != v else v for k, v in row.items()} for row in rows],
            "against the floor": floor,
            "machine": machine,
            "seconds": seconds,
            "versions": versions(),
            "commit": commit(),
        },
    )
    storage.write_text(
        folder / f"losses-{device}.md", page(rows, floor, name, seconds, f"losses-{device}.png")
    )
    with storage.replacing(folder / f"losses-{device}.png") as temporary:
        figure(rows, name).savefig(temporary, format="png", metadata={"Software": None})
    print(f"written to {folder}/losses-{device}.json, .md and .png")


if __name__ == "__main__":
    main()
