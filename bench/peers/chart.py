#!/usr/bin/env python3
"""Draws the results that compare.py wrote: python3 bench/peers/chart.py FILE.json CHART.svg"""

import os
import sys
from xml.sax.saxutils import escape

import results

WIDTH, MARGIN, LABELS, GAP = 900, 16, 92, 26
BAR, BAR_GAP, GROUP_GAP, TOP, BOTTOM = 14, 3, 16, 104, 34
# Room right of the longest bar for its figure.
FIGURE = 78

STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328; }
.page { fill: #ffffff; }
.title { font-size: 16px; font-weight: 600; }
.form, .measure { font-size: 13px; font-weight: 600; }
.quiet { fill: #59636e; font-size: 11px; }
.own { font-weight: 600; }
.krait { fill: #0969da; }
.llama { fill: #bc6a1b; }
.transformers { fill: #8c959f; }
.axis { stroke: #d1d9e0; }
.limit { stroke: #1f2328; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; }
  text { fill: #e6edf3; }
  .quiet { fill: #9198a1; }
  .krait { fill: #58a6ff; }
  .llama { fill: #e09b50; }
  .transformers { fill: #7d8590; }
  .axis { stroke: #3d444d; }
  .limit { stroke: #e6edf3; }
}
"""

CLASS = {"krait": "krait", "llama.cpp": "llama", "transformers": "transformers"}


def text(x, y, content, style="", anchor="start"):
    style = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(content)}</text>'


def rect(x, y, width, height, style):
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" class="{style}"/>'


def line(x, top, bottom, style):
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" class="{style}"/>'


def groups(data):
    """[krait's entry, its peers' entries …] for each form."""
    grouped = []
    for krait, peer in results.pairs(data):
        if not grouped or grouped[-1][0] is not krait:
            grouped.append([krait])
        grouped[-1].append(peer)
    return grouped


def limit(data, entry, measure):
    """Tokens per second that the machine allows a krait form, where one of its two limits is known."""
    machine, facts = data["limits"]["median"], entry["facts"]
    if measure == "decode":
        return 1e9 * machine["read_gb_s"] / facts["weights_bytes"]
    if measure == "prefill" and entry["form"] in ("f32", "f16", "bf16"):
        return 1e9 * machine["gflop_s"] / facts["flop_per_token"]
    return None


def form_label(form):
    dtype, _, compute = form.partition("/")
    return [dtype, f"compute {compute}"] if compute else [dtype]


def panel(data, grouped, measure, title, x, width):
    shown = [results.median_of(entry, measure) or 0 for group in grouped for entry in group]
    shown += [limit(data, group[0], measure) or 0 for group in grouped]
    scale = (width - FIGURE) / max(shown)
    out = [text(x, TOP - 14, title, "measure")]
    y = TOP
    for group in grouped:
        start = y
        most = limit(data, group[0], measure)
        for entry in group:
            value = results.median_of(entry, measure)
            if value is not None:
                own = entry["program"] == "krait"
                figure = results.speed(value)
                if entry["form"] not in (group[0]["form"], group[0]["form"].partition("/")[0]):
                    figure += " " + entry["form"]
                out.append(rect(x, y, max(value * scale, 1), BAR, CLASS[entry["program"]]))
                end = x + value * scale
                # The mark of the limit would strike through a figure beside a bar that nears it.
                if own and most and -3 < (most - value) * scale < 10 + 8 * len(figure):
                    end = x + most * scale
                out.append(text(end + 6, y + BAR - 3, figure, "own" if own else ""))
            y += BAR + BAR_GAP
        if most:
            out.append(line(x + most * scale, start - 3, start + BAR + 3, "limit"))
        y += GROUP_GAP
    out.append(line(x, TOP - 4, y - GROUP_GAP + 2, "axis"))
    return out, y


def legend(y):
    out, x = [], MARGIN
    for name in ("krait", "llama.cpp", "transformers"):
        out += [rect(x, y - 10, 12, 12, CLASS[name]), text(x + 18, y, name)]
        x += 34 + 7 * len(name)
    out += [line(x + 6, y - 12, y + 4, "limit"), text(x + 18, y, "what the machine's memory or multiply-adds allow krait")]
    return out


def draw(data):
    grouped = groups(data)
    if not grouped:
        raise results.BadFile("[chart] results: expected a form that krait and a peer were measured in, found none")
    panels = (
        ("prefill", f'prefill, {data["prompt_tokens"]} tokens'),
        ("decode", "decode"),
        ("batch", f'decode, {data["users"]} users in all'),
    )
    width = (WIDTH - 2 * MARGIN - LABELS - 2 * GAP) / 3
    body, height = [], 0
    for i, (measure, title) in enumerate(panels):
        part, height = panel(data, grouped, measure, title, MARGIN + LABELS + i * (width + GAP), width)
        body += part
    y = TOP
    for group in grouped:
        for i, part in enumerate(form_label(group[0]["form"])):
            body.append(text(MARGIN, y + BAR - 2 + 15 * i, part, "quiet" if i else "form"))
        y += len(group) * (BAR + BAR_GAP) + GROUP_GAP
    height += BOTTOM - GROUP_GAP
    head = [
        text(MARGIN, 28, f'{data["model"]}: tokens per second, more is better', "title"),
        *legend(56),
    ]
    foot = [text(MARGIN, height - 12, results.heading(data), "quiet")]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="Tokens per second of krait and its peers">\n<style>{STYLE}</style>\n'
        f'<rect width="{WIDTH}" height="{height}" rx="6" class="page"/>\n'
        + "\n".join(head + body + foot)
        + "\n</svg>\n"
    )


def main():
    if len(sys.argv) != 3:
        print("usage: chart.py FILE.json CHART.svg", file=sys.stderr)
        return 2
    try:
        svg = draw(results.load(sys.argv[1]))
        part = sys.argv[2] + ".part"
        with open(part, "w", encoding="utf-8") as file:
            file.write(svg)
        os.replace(part, sys.argv[2])
    except results.BadFile as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"[chart] {sys.argv[2]}: expected to write it, found {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
