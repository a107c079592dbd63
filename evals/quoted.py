"""Tables that the README and the site quote, made of the CSV files in `evals/results` and of `checkpoints/`.

Each function takes the folder of results and returns a Markdown table; `TABLES` names them for the pages of `docs/`,
where a line `<!-- table: NAME -->` stands for one. No number is written down anywhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from evals.common import RESULTS, ROOT, read_table
from gmae_tools.benchmarks.names import EDGE_DETECTORS
from gmae_tools.errors import GmaeToolsError
from gmae_tools.report.tables import Row

CHECKPOINTS = ROOT / "checkpoints"
BASELINES = {*EDGE_DETECTORS, "human"}  # of edges: they look at the photograph itself
EDGES = {
    "layers": "depth layers, l@{layers}",
    "layer-changes": "changes of the picture by layers",
    "expected-depth": "expected depth",
    "regions": "regions of the strongest Gaussian",
    "closed-regions": "closed regions",
    "regions-and-photo": "closed regions and the photograph's colours and texture",
    "combined": "regions and render gradient",
    "render-gradient": "gradient of the render, no depth",
    "sobel": "Sobel",
    "sobel-nms": "Sobel, thinned",
    "canny": "Canny",
    "soft-canny": "soft Canny",
    "histograms": "the photograph's colours and texture",
    "human": "humans",
}
FIGURES = {
    "grouped": "Gaussians and the photograph's regions, grouped",
    "depth": "depth of the Gaussians",
    "centre-prior": "centre prior",
    "everything": "everything is figure",
    "otsu": "Otsu",
    "otsu-border": "Otsu, sides told apart by the border",
    "spectral-residual": "spectral residual",
    "grabcut": "GrabCut",
}
STARTS = {"gmae": "the prediction", "grid": "a grid", "grid+depth": "a grid with depth", "grid, split": "a finer grid"}
DEPTH = {
    "luminance": "rank correlation of depth with luminance (0: none)",
    "common": "share of depth that is the same in all photographs",
    "auc": "nearness as figure, area under the ROC curve (0.5: chance)",
    "auc_rest": "the same without what all photographs share",
    "l16": "ODS of l@16, one look",
    "depth_edges": "ODS of the gradient of expected depth",
    "regions": "ODS of the regions",
}


# --- reading -----------------------------------------------------------------------------------------


def rows_of(results: Path, name: str) -> list[Row]:
    """The rows of a table of results.

    Raises:
        GmaeToolsError: it is not there.
    """
    path = results / f"{name}.csv"
    if not path.exists():
        raise GmaeToolsError(f"{path}: there is no such table; evals/README.md names the script that writes it")
    return read_table(path)


def find(rows: Iterable[Row], **wanted: object) -> Row:
    """The one row with these values.

    Raises:
        GmaeToolsError: there is none.
    """
    for row in rows:
        if all(row.get(key) == value for key, value in wanted.items()):
            return row
    raise GmaeToolsError(f"the results have no row with {wanted}")


def value(row: Row, column: str) -> float:
    """A number of a row.

    Raises:
        GmaeToolsError: there is none.
    """
    found = row.get(column)
    if not isinstance(found, (int, float)):
        raise GmaeToolsError(f"the results have no {column} in {row}")
    return float(found)


def number(row: Row, column: str, decimals: int) -> str:
    """A number of a row as text, empty where it has none."""
    return f"{value(row, column):,.{decimals}f}" if row.get(column) is not None else ""


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    rule = "|---|" + "---:|" * (len(header) - 1)
    return "\n".join([f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def edge_label(row: Row) -> str:
    """What a row of the edge tables measured, in words."""
    label = EDGES.get(str(row["readout"]), str(row["readout"])).format(layers=row.get("layers"))
    return f"{label}, one look" if str(row.get("looks")) == "1" else label


def best_edges(results: Path, readout: str | None = None) -> Row:
    """The row of test of the readout of Gaussians that is the best on val; of those of one name, if it is given."""
    val = rows_of(results, "bsds500-val")
    ours = [row for row in val if row["readout"] not in BASELINES and readout in (None, row["readout"])]
    return same(rows_of(results, "bsds500-test"), max(ours, key=lambda row: value(row, "ods")))


def same(rows: Iterable[Row], row: Row) -> Row:
    """The row of another split that measured the same."""
    return find(rows, **{key: row.get(key) for key in ("readout", "layers", "looks")})


def looks(row: Row) -> str:
    """How a method of figure and ground looks at the photograph."""
    text = str(row.get("looks") or "").split(",")
    scales = [part for part in text if part.isdigit()]
    label = "" if scales in ([], ["1"]) else f", looks {' and '.join(scales)}"
    return f"{label}, mirrored too" if "flip" in text else label


# --- tables ------------------------------------------------------------------------------------------


def summary(results: Path = RESULTS) -> str:
    """The README's one table: a line for each kind of result, with what it is to be compared with."""
    best, *others = (best_edges(results, readout) for readout in (None, "closed-regions", "layers"))
    beside = ("histograms", "soft-canny", "canny", "sobel-nms", "human")
    test = rows_of(results, "bsds500-test")
    edge = {name: number(find(test, readout=name), "ods", 3) for name in beside}
    figures = rows_of(results, "figure_ground")
    figure = {(row["method"], str(row["looks"] or "")): number(row, "iou", 3) for row in figures}
    rebuilt = rows_of(results, "reconstruction")
    model = str(rebuilt[0]["method"])
    whole, hidden = (number(find(rebuilt, method=model, masked=share), "psnr", 1) for share in (0, 0.75))
    thumbnail, mean = (number(find(rebuilt, method=name), "psnr", 1) for name in ("14 x 14 thumbnail", "mean colour"))
    splat = find(rows_of(results, "splatting_speed"), measure="forward+backward", threads=1, batch=1, k=1024)
    once = find(rows_of(results, "layers_speed"), part="layers")
    boundary = rows_of(results, "boundary_speed")
    seconds, official = (sorted(value(row, name) for row in boundary) for name in ("seconds", "official_ratio"))
    lines = [
        (
            "Edges: ODS on BSDS500 test",
            "; ".join(
                [f"**{number(best, 'ods', 3)}** {edge_label(best)}"]
                + [f"{number(each, 'ods', 3)} {edge_label(each)}" for each in others]
            ),
            f"{EDGES['histograms']} alone {edge['histograms']}, soft Canny {edge['soft-canny']}, "
            f"Canny {edge['canny']}, Sobel {edge['sobel-nms']}, humans {edge['human']}",
        ),
        (
            "Figure and ground: IoU on ECSSD, even numbers",
            f"**{figure['grouped', '1']}** Gaussians and the photograph's regions, grouped; "
            f"{figure['depth', '1']} depth and the middle",
            f"GrabCut {figure['grabcut', '']}, centre prior {figure['centre-prior', '']}, "
            f"Otsu {figure['otsu-border', '']}",
        ),
        (
            f"Reconstruction: PSNR of {rebuilt[0]['photographs']} held-out photographs",
            f"**{whole} dB** from {model}'s Gaussians; {hidden} dB with 75 % of the patches hidden",
            f"14 x 14 thumbnail {thumbnail} dB, mean colour {mean} dB",
        ),
        (
            "Speed: splatting 1,024 Gaussians at 224 px with gradients, one core",
            f"**{number(splat, 'cpu_ms', 1)} ms**; all layers of a photograph take {number(once, 'ratio', 1)} times "
            "as long as the model",
            f"tiled PyTorch takes {number(splat, 'tiled_ratio', 0)} times as long",
        ),
        (
            "Speed: the boundary benchmark, 200 photographs, 99 thresholds, two cores",
            f"**{seconds[0]:.0f} to {seconds[-1]:.0f} s**, exact",
            f"the official C++ matching takes {official[0]:.0f} to {official[-1]:.0f} times as long",
        ),
    ]
    head = ["| | gmae-tools | beside it |", "|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def edges(results: Path = RESULTS) -> str:
    """BSDS500: every readout and baseline on both splits."""
    test = rows_of(results, "bsds500-test")
    lines = []
    for row in rows_of(results, "bsds500-val"):
        other = same(test, row)
        label = f"*{edge_label(row)}*" if row["readout"] in BASELINES else edge_label(row)
        lines.append((label, number(row, "ods", 3), *(number(other, name, 3) for name in ("ods", "ois", "ap"))))
    return markdown(("", "ODS, val", "ODS, test", "OIS, test", "AP, test"), lines)


def figure_ground(results: Path = RESULTS) -> str:
    """ECSSD, even numbers: every method."""
    lines = []
    for row in rows_of(results, "figure_ground"):
        label = FIGURES.get(str(row["method"]), str(row["method"])) + looks(row)
        label = label if row["looks"] else f"*{label}*"
        lines.append((label, *(number(row, *cell) for cell in (("iou", 3), ("max_f", 3), ("mae", 3), ("corloc", 2)))))
    return markdown(("", "IoU", "max F-beta", "MAE", "CorLoc"), lines)


def reconstruction(results: Path = RESULTS) -> str:
    """PSNR and SSIM of held-out photographs."""
    return markdown(
        ("", "hidden", "PSNR (dB)", "SSIM"),
        [
            (str(row["method"]), f"{value(row, 'masked'):.0%}", number(row, "psnr", 2), number(row, "ssim", 3))
            for row in rows_of(results, "reconstruction")
        ],
    )


def refinement(results: Path = RESULTS) -> str:
    """PSNR after so many steps, from the prediction and from a grid."""
    rows = rows_of(results, "refinement")
    steps = sorted({int(value(row, "steps")) for row in rows})
    kinds = dict.fromkeys((row["start"], row["k"]) for row in rows)
    lines = []
    for start, k in sorted(kinds, key=lambda kind: (int(str(kind[1])), list(STARTS).index(str(kind[0])))):
        found = {row["steps"]: row for row in rows if (row["start"], row["k"]) == (start, k)}
        cells = [number(found[step], "psnr", 1) if step in found else "" for step in steps]
        lines.append((f"{int(str(k)):,} from {STARTS.get(str(start), str(start))}", *cells))
    return markdown(("K Gaussians", *(f"{step} steps" for step in steps)), lines)


def splatting(results: Path = RESULTS) -> str:
    """The CPU renderer beside renderers in PyTorch."""
    rows = [row for row in rows_of(results, "splatting_speed") if row["threads"]]
    columns = (("cpu_ms", 2), ("tiled_ratio", 0), ("tight_ratio", 0))
    return markdown(
        ("measure, threads, batch, K", "ours (ms)", "tiled PyTorch, times as long", "tighter boxes"),
        [
            (
                f"{row['measure']}, {row['threads']}, {row['batch']}, {int(value(row, 'k')):,}",
                *(number(row, *column) for column in columns),
            )
            for row in rows
        ],
    )


def layers_speed(results: Path = RESULTS) -> str:
    """What layers and masks cost beside the model."""
    rows = [(str(row["part"]), row) for row in rows_of(results, "layers_speed")]
    lines = [(name, number(row, "milliseconds", 1), number(row, "ratio", 2)) for name, row in rows]
    for row in rows_of(results, "figure_ground_speed"):
        lines.append((f"masks, {row['method']}", number(row, "masks_ms", 1), number(row, "ratio", 2)))
    return markdown(("part", "ms", "forward passes"), lines)


def boundary_speed(results: Path = RESULTS) -> str:
    """The exact boundary benchmark beside other solvers."""
    columns = (("seconds", 1), ("official_ratio", 0), ("scipy_ratio", 1), ("difference", 4))
    return markdown(
        ("map", "seconds for the split", "official C++, times as long", "SciPy, times as long", "largest difference"),
        [
            (str(row["detector"]), *(number(row, *column) for column in columns))
            for row in rows_of(results, "boundary_speed")
        ],
    )


def gmae_beside_mae(results: Path = RESULTS) -> str:
    """GMAE and MAE trained alike: hidden pixels, a probe of the mean of the patches, the cost of a step."""
    probe, steps = rows_of(results, "gmae_vs_mae-probe"), rows_of(results, "gmae_vs_mae-step")
    lines = []
    for row in rows_of(results, "gmae_vs_mae-reconstruction"):
        name = row["model"]
        linear = [each for each in probe if (each["model"], each["tokens"], each["method"]) == (name, "mean", "linear")]
        step = [each for each in steps if each["model"] == name]
        cells = number(row, "psnr_hidden", 2), *(number(each, "top1", 3) for each in linear[:1] or [{"top1": None}])
        lines.append((str(name), *cells, *(number(each, "step_ms", 0) for each in step[:1] or [{"step_ms": None}])))
    return markdown(("", "PSNR of hidden pixels (dB)", "linear probe, top-1", "training step (ms)"), lines)


def depth(results: Path = RESULTS) -> str:
    """What depth goes with in each measured checkpoint, from `depth.csv`, or else from that of the first comparison."""
    names = [path.stem for path in sorted(results.glob("*depth.csv"))]
    name = "depth" if "depth" in names else next(iter(names), "depth")
    rows = rows_of(results, name)
    lines = [
        (label, *(f"{value(row, key):.3f} ± {value(row, f'{key}_se'):.3f}" for row in rows))
        for key, label in DEPTH.items()
        if all(row.get(key) is not None for row in rows)
    ]
    return markdown(("", *(str(row["candidate"]) for row in rows)), lines)


def reliability(results: Path = RESULTS) -> str:
    """How much was tried to break, and how much broke."""
    parts: dict[str, list[int]] = {}
    for row in rows_of(results, "reliability"):
        tried = parts.setdefault(str(row["part"]), [0, 0])
        tried[0] += int(value(row, "times"))
        tried[1] += int(value(row, "failures"))
    return markdown(("part", "tries", "failures"), [(part, f"{n:,}", f"{bad:,}") for part, (n, bad) in parts.items()])


def files(results: Path = RESULTS) -> str:
    """Every table of results, as a list of links relative to `docs/`."""
    links = [f"[{path.name}](../evals/results/{path.name})" for path in sorted(results.glob("*.csv"))]
    return ", ".join(links) + "\n"


def checkpoints(results: Path = RESULTS) -> str:
    """The embedded checkpoints: size, what training cost, held-out PSNR in its log."""
    lines = []
    for folder in embedded():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights, training = folder / "model.safetensors", config["training"]
        model = config["model"]
        lines.append(
            (
                f"[{folder.name}](../checkpoints/{folder.name}/README.md)",
                f"{model['queries'] * model['gaussians_per_query']:,}",
                f"{parameters(weights) / 1e6:.2f} M",
                f"{weights.stat().st_size / 1e6:.1f} MB",
                f"{training['samples']:,}",
                f"{training['seconds'] / 60:,.0f} min",
                f"{training['psnr']:.2f}",
                f"{training['psnr_masked']:.2f}",
            )
        )
    header = ("", "K", "parameters", "file", "samples", "time", "PSNR (dB)", "75 % hidden (dB)")
    return markdown(header, lines)


def digests(results: Path = RESULTS) -> str:
    """The SHA-256 of the weights of each embedded checkpoint."""
    found = {folder.name: folder / "model.safetensors" for folder in embedded()}
    lines = [(name, f"`{hashlib.sha256(path.read_bytes()).hexdigest()}`") for name, path in found.items()]
    return markdown(("", "SHA-256 of model.safetensors"), lines)


def embedded() -> list[Path]:
    """The folders of the embedded checkpoints."""
    return sorted(path.parent for path in CHECKPOINTS.glob("*/config.json"))


def parameters(weights: Path) -> int:
    """The number of parameters in a safetensors file, of which only the head is read."""
    with weights.open("rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shapes = [entry["shape"] for name, entry in head.items() if name != "__metadata__"]
    return sum(product(shape) for shape in shapes)


def product(shape: Sequence[int]) -> int:
    """How many numbers a tensor of a shape has."""
    total = 1
    for side in shape:
        total *= side
    return total


TABLES: dict[str, Callable[[Path], str]] = {
    "summary": summary,
    "edges": edges,
    "figure-ground": figure_ground,
    "reconstruction": reconstruction,
    "refinement": refinement,
    "splatting": splatting,
    "layers-speed": layers_speed,
    "boundary-speed": boundary_speed,
    "gmae-beside-mae": gmae_beside_mae,
    "depth": depth,
    "reliability": reliability,
    "files": files,
    "checkpoints": checkpoints,
    "digests": digests,
}
