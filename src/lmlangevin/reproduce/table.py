"""A result as Markdown: plain, LML and the release's rounding beside each other, and the plain baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

ARMS = {"plain": "plain", "lml": "LML", "release": "release rounding"}


def render(content: Mapping[str, Any], *, level: int = 1) -> str:
    """Return the tables of a result.

    Args:
        content: What `result.json` holds.
        level: Of the headings; 0 leaves out the heading.
    """
    lines = [f"{'#' * level} {heading(content)}", ""] if level else []
    lines += [_settings(content), ""]
    rows = list(content["cells"].values())
    armed = sorted((row for row in rows if len(row["arms"]) > 1), key=lambda row: _order(content, row))
    if armed:
        lines += [*_arms_table(content, armed), "", _how_to_read(content), "", _findings(content, armed), ""]
        lines += [_best(content, rows), ""]
    if armed and content["measure"].get("kind") == "fid":
        lines += [*_values_table(content, armed), ""]
    plain = [row for row in rows if len(row["arms"]) == 1]
    if plain:
        lines += ["Plain samplers without the other columns:", "", *_plain_table(content, plain), ""]
    notes = [*content["notes"], *_warnings(rows), *content["assumed"]]
    lines += [f"- {note}" for note in notes] + ([""] if notes else [])
    lines += [f"Made by `{content['command']}`."]
    return "\n".join(lines) + "\n"


def heading(content: Mapping[str, Any]) -> str:
    """Return a result's title, with what keeps it from being the whole experiment."""
    title = content["title"]
    if content["dry_run"]:
        return f"{title}: DRY RUN, whose numbers mean nothing"
    missing = [key for key in content["asked"] if key not in content["cells"]]
    if missing or content["status"] != "complete":
        return f"{title}: UNFINISHED, {len(content['cells'])} of {len(content['asked'])} cells"
    if not content["whole"]:
        images, declared = content["settings"]["num_images"], content["declared_images"]
        fewer = f", {images} images in place of {declared}" if images != declared else ""
        return f"{title}: a subset of the preset{fewer}"
    return title


def cell_line(content: Mapping[str, Any], key: str) -> str:
    """Return a cell in a line."""
    row = content["cells"][key]
    values = ", ".join(f"{ARMS[arm]} {_number(values['value'])}" for arm, values in row["arms"].items())
    return f"{key.replace('|', ' ')}: {content['measure']['label']} {values}"


def _settings(content: Mapping[str, Any]) -> str:
    s, measure = content["settings"], content["measure"]
    each = f", {s['images_per_prompt']} of each prompt" if s["images_per_prompt"] > 1 else ""
    seeds = f"seeds {s['first_seed']} to {s['first_seed'] + s['num_images'] - 1}"
    what = f"protocol {s['protocol']}" if s["protocol"] else f"BLIP-VQA by {measure.get('model', 'BLIP')}"
    guidance = f", guidance scale {s['guidance_scale']:g}" if s["guidance_scale"] is not None else ""
    return (
        f"Model: {s['model_title']}, {s['dtype']}{guidance}. {s['num_images']:,} images an arm{each}, {seeds}; every "
        f"sampler on its default time grid, with the same noise. Measure: {what}."
    )


def _arms_table(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    categories = any("category" in row for row in rows)
    names = [*(["category"] if categories else []), "sampler", "NFE", *ARMS.values()]
    head = [*names, "LML - plain", "release - plain", "LML is"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["category"]] if categories else []
        cells += [row["sampler"], str(row["nfe"])]
        cells += [_spread(row["arms"][arm]["blocks"]) + _mark(row["arms"][arm]) for arm in ARMS]
        cells += [_difference(row, arm) for arm in ("lml", "release")]
        lines.append("| " + " | ".join([*cells, _control(row["arms"]["lml"])]) + " |")
    return lines


def _values_table(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    count = content["settings"]["num_images"]
    head = ["sampler", "NFE", *(f"{title}, all {count:,} images" for title in ARMS.values())]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [_value(row["arms"][arm]) + _mark(row["arms"][arm]) for arm in ARMS]
        lines.append("| " + " | ".join([row["sampler"], str(row["nfe"]), *cells]) + " |")
    return lines


def _plain_table(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    costs = sorted({row["nfe"] for row in rows})
    found = {(row.get("category", ""), row["sampler"], row["nfe"]): row["arms"]["plain"] for row in rows}
    categories = any("category" in row for row in rows)
    head = [*(["category"] if categories else []), "sampler", *(f"{nfe} NFE" for nfe in costs)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for category, sampler in dict.fromkeys((category, sampler) for category, sampler, _ in found):
        arms = [found.get((category, sampler, nfe)) for nfe in costs]
        cells = ["-" if arm is None else _spread(arm["blocks"]) + _mark(arm) for arm in arms]
        lines.append("| " + " | ".join([*([category] if categories else []), sampler, *cells]) + " |")
    return lines


def _how_to_read(content: Mapping[str, Any]) -> str:
    s, label = content["settings"], content["measure"]["label"]
    better = "higher is better" if content["measure"]["kind"] == "blip-vqa" else "lower is better"
    if content["measure"]["kind"] == "blip-vqa":
        return (
            f"{label}, {better}: mean and standard deviation over {s['blocks']} blocks, block k being image k of every "
            "prompt. Differences: the mean over prompts on the same seeds, and the 95% interval of a paired bootstrap "
            "over prompts."
        )
    size = s["num_images"] // s["blocks"]
    return (
        f"{label}, {better}: mean and standard deviation over {s['blocks']} disjoint blocks of {size:,} seeds, and the "
        f"same of the differences block by block. A distance of {size:,} images is biased upwards, for all columns "
        "alike; that of all images is below."
    )


def _findings(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return in how many rows each arm is better or worse than plain by more than the seeds or the prompts explain."""
    scores = content["measure"]["kind"] == "blip-vqa"
    words = []
    for arm in ("lml", "release"):
        signs = [_sign(row["differences"][arm]) * (1 if scores else -1) for row in rows]
        words.append(
            f"{ARMS[arm]} is better than plain in {signs.count(1)} of {len(rows)} rows, worse in {signs.count(-1)}, "
            f"and neither in {signs.count(0)}"
        )
    rule = "its interval leaves out 0" if scores else "its difference has one sign in all blocks"
    return f"{'; '.join(words)}, counting a row where {rule}."


def _best(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return which sampler and arm has the best mean at each cost, the plain baselines among them."""
    choose = max if content["measure"]["kind"] == "blip-vqa" else min
    found: dict[tuple[str, int], list[tuple[float, str]]] = {}
    for row in rows:
        names = {"plain": "plain", "lml": "with LML", "release": "with release rounding"}
        for arm, values in row["arms"].items():
            place = row.get("category", ""), row["nfe"]
            found.setdefault(place, []).append((fmean(values["blocks"]), f"{row['sampler']} {names[arm]}"))
    words = [
        f"{choose(means)[1]} at {nfe}{f' ({category})' if category else ''}"
        for (category, nfe), means in sorted(found.items())
    ]
    return f"The best mean of all samplers here, by NFE: {', '.join(words)}."


def _sign(difference: Mapping[str, Any]) -> int:
    values = difference.get("interval") or difference["values"]
    return int(all(value > 0 for value in values)) - int(all(value < 0 for value in values))


def _warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    bad = {arm: sum(row["arms"][arm]["non_finite"] for row in rows if arm in row["arms"]) for arm in ARMS}
    if any(bad.values()):
        words = ", ".join(f"{count} of {ARMS[arm]}" for arm, count in bad.items() if count)
        lines.append(f"* Images with values that are not finite, which are measured as grey: {words}.")
    if any(_is_plain(row["arms"]["lml"]) for row in rows if "lml" in row["arms"]):
        lines.append("preset 0 = plain: no gain helped that sampler on that grid when presets were made.")
    return lines


def _order(content: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[str, int, int]:
    return row.get("category", ""), content["arms"].index(row["sampler"]), row["nfe"]


def _control(arm: Mapping[str, Any]) -> str:
    if _is_plain(arm):
        return "preset 0 = plain"
    if arm["control"] != "constant":
        return f"{arm['control']} control"
    return f"gain {arm['gain']:g}"


def _is_plain(arm: Mapping[str, Any]) -> bool:
    return arm["control"] == "constant" and arm["gain"] == 0


def _difference(row: Mapping[str, Any], arm: str) -> str:
    found = row["differences"][arm]
    if "interval" in found:
        low, high = found["interval"]
        return f"{found['mean']:+.4f} ({low:+.4f} to {high:+.4f})"
    digits = _digits(fmean(row["arms"]["plain"]["blocks"]))
    return f"{found['mean']:+.{digits}f} ± {found['sd']:.{digits}f}"


def _spread(values: Sequence[float]) -> str:
    digits = _digits(fmean(values))
    return f"{fmean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def _value(arm: Mapping[str, Any]) -> str:
    logs = f" (ln {arm['ln']:.3f}, log10 {arm['log10']:.3f})" if "ln" in arm else ""
    return _number(arm["value"]) + logs


def _number(value: float) -> str:
    return f"{value:.{_digits(value)}f}"


def _digits(value: float) -> int:
    """Return the decimals of a number: three below 10, one above 100."""
    return 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1


def _mark(arm: Mapping[str, Any]) -> str:
    return " *" if arm["non_finite"] else ""
