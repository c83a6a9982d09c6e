#!/usr/bin/env python3
"""Draws what tshark shows of a capture as a picture (SVG): tshark ... | draw.py > capture.svg. See docs/wireshark.md."""
import html
import sys

WIDTHS = [28, 250, 170, 170, 620]
HEADS = ["No.", "Interface", "Source", "Destination", "What tracer says of it"]
ROW = 17

def main():
    rows = [line.rstrip("\n").split("\t") for line in sys.stdin]
    width, height = sum(WIDTHS) + 20, ROW * (len(rows) + 2)
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="monospace" font-size="11">')
    print(f'<rect width="{width}" height="{height}" fill="#ffffff"/>')
    draw(HEADS, 0, "#dddddd", bold=True)
    for number, row in enumerate(rows, 1):
        # A shade for each packet on its way, as Wireshark colours by rule.
        shade = "#e7f0fb" if row[4].split(",")[0].lstrip("#").isdigit() and int(row[4].split(",")[0].lstrip("#")) % 2 else "#f6efe2"
        draw(row, number, shade)
    print("</svg>")

def draw(cells, number, shade, bold=False):
    y = number * ROW
    print(f'<rect x="0" y="{y}" width="{sum(WIDTHS) + 20}" height="{ROW}" fill="{shade}"/>')
    x = 6
    for cell, width in zip(cells, WIDTHS):
        text = html.escape(cell.replace("\\n", "; ")[: width // 6])
        weight = ' font-weight="bold"' if bold else ""
        print(f'<text x="{x}" y="{y + 12}"{weight}>{text}</text>')
        x += width

main()
