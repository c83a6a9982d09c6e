#!/usr/bin/env python3
"""Draws panels of the dashboard from what a Prometheus has answered: panels.py < panels.json > dashboard.svg.
See docs/metrics.md. Each line of the input is a panel: title, type, unit, and the answers of its queries."""
import html
import json
import sys

WIDTH, HEIGHT, GAP = 560, 230, 16
LEFT, TOP, BOTTOM = 62, 26, 70
COLOURS = ["#3274a1", "#e1812c", "#3a923a", "#c03d3e", "#9372b2", "#845b53", "#d684bd", "#7f7f7f", "#a9aa35", "#2eabb8"]
ROWS = 4


def main():
    panels = [json.loads(line) for line in sys.stdin if line.strip()]
    height = (HEIGHT + GAP) * ((len(panels) + 1) // 2) + GAP
    width = 2 * WIDTH + 3 * GAP
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">')
    print(f'<rect width="{width}" height="{height}" fill="#ffffff"/>')
    for number, panel in enumerate(panels):
        x = GAP + (number % 2) * (WIDTH + GAP)
        y = GAP + (number // 2) * (HEIGHT + GAP)
        print(f'<g transform="translate({x},{y})">')
        print(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#cccccc"/>')
        text(8, 16, panel["title"], bold=True)
        series = [one for answer in panel["answers"] for one in answer]
        if panel["type"] == "heatmap":
            heat(series)
        else:
            lines(series, panel["unit"])
        print("</g>")
    print("</svg>")


def lines(series, unit):
    points = [(float(t), float(v)) for one in series for t, v in one["values"] if v != "NaN"]
    if not points:
        text(LEFT, HEIGHT // 2, "no data")
        return
    begin, end = min(t for t, _ in points), max(t for t, _ in points)
    most = max(v for _, v in points) or 1
    across = lambda t: LEFT + (t - begin) / ((end - begin) or 1) * (WIDTH - LEFT - 10)
    down = lambda v: HEIGHT - BOTTOM - v / most * (HEIGHT - BOTTOM - TOP)
    for part in (0, 0.5, 1):
        line(LEFT, down(most * part), WIDTH - 10, down(most * part), "#e5e5e5")
        text(LEFT - 4, down(most * part) + 4, told(most * part, unit), end=True)
    ranked = sorted(series, key=lambda one: -max(float(v) for _, v in one["values"] if v != "NaN" or 0) if usable(one) else 0)
    for number, one in enumerate(filter(usable, ranked)):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{across(float(t)):.1f},{down(float(v)):.1f}" for t, v in one["values"] if v != "NaN")
        print(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if number < 2 * ROWS:
            x, y = LEFT + (number // ROWS) * 250, HEIGHT - BOTTOM + 18 + (number % ROWS) * 13
            print(f'<rect x="{x}" y="{y - 8}" width="9" height="9" fill="{colour}"/>')
            text(x + 13, y, ", ".join(one["metric"].values())[:42] or "all")
    if len(ranked) > 2 * ROWS:
        text(WIDTH - 8, HEIGHT - 6, f"and {len(ranked) - 2 * ROWS} more", end=True)


def heat(series):
    rows = sorted((bound(one), one["values"]) for one in series)
    times = sorted({float(t) for _, values in rows for t, _ in values})
    counts, before = [], {}
    for le, values in rows:
        now = {float(t): float(v) for t, v in values if v != "NaN"}
        counts.append((le, {t: max(0.0, v - before.get(t, 0.0)) for t, v in now.items()}))
        before = now
    counts = [row for row in counts if any(row[1].values())]
    if not counts or len(times) < 2:
        text(LEFT, HEIGHT // 2, "no data")
        return
    most = max(v for _, row in counts for v in row.values())
    high, wide = (HEIGHT - TOP - 30) / len(counts), (WIDTH - LEFT - 10) / len(times)
    for number, (le, row) in enumerate(counts):
        y = HEIGHT - 30 - (number + 1) * high
        text(LEFT - 4, y + high / 2 + 4, "<" + told(le, "s"), end=True)
        for column, at in enumerate(times):
            if row.get(at):
                shade = 0.12 + 0.88 * (row[at] / most) ** 0.5
                print(f'<rect x="{LEFT + column * wide:.1f}" y="{y:.1f}" width="{wide + 0.3:.1f}" height="{high:.1f}" fill="#c0392b" fill-opacity="{shade:.2f}"/>')


def bound(one):
    return float(one["metric"]["le"].replace("+Inf", "inf"))


def usable(one):
    return any(v != "NaN" for _, v in one["values"])


def told(value, unit):
    if unit == "s":
        for factor, name in ((1, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
            if value >= factor:
                return f"{value / factor:.3g} {name}"
        return "0"
    return f"{value:.3g}"


def line(x1, y1, x2, y2, colour):
    print(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>')


def text(x, y, words, bold=False, end=False):
    weight = ' font-weight="bold"' if bold else ""
    anchor = ' text-anchor="end"' if end else ""
    print(f'<text x="{x:.1f}" y="{y:.1f}"{weight}{anchor}>{html.escape(words)}</text>')


main()
