"""The one style of the pictures: colours that colour-blind people tell apart, for light and dark, and on paper."""

from __future__ import annotations

LIGHT = {
    "ink": "#1b1f24",
    "muted": "#57606a",
    "line": "#c7cdd4",
    "ground": "#ffffff",
    "soft": "#eef1f4",
    "c0": "#0072b2",
    "c1": "#d55e00",
    "c2": "#009e73",
    "c3": "#b5508c",
    "c4": "#e69f00",
    "c5": "#3f97cf",
    "c6": "#7a5195",
    "c7": "#6b7280",
}
DARK = {
    "ink": "#e6edf3",
    "muted": "#9da7b1",
    "line": "#3d444d",
    "ground": "#0d1117",
    "soft": "#1c2128",
    "c0": "#4fa8e0",
    "c1": "#ff8c42",
    "c2": "#2fc79a",
    "c3": "#e58fc0",
    "c4": "#f5c04a",
    "c5": "#9ad3f7",
    "c6": "#b99be0",
    "c7": "#a3acb7",
}
"""After Okabe and Ito (2008), lighter on a dark ground; every series has a dash or a label of its own as well."""
SERIES = 8
DASHES = ("", "7 3", "2 3", "9 3 2 3", "", "5 2", "1 3", "12 4")


def _variables(colours: dict[str, str]) -> str:
    return ";".join(f"--pic-{name}:{value}" for name, value in colours.items())


def css() -> str:
    """Return the rules that the pictures need on a page; a page with a strict policy serves them as a file."""
    fills = "".join(
        f".pic .f{n}{{fill:var(--pic-c{n})}}.pic .s{n}{{stroke:var(--pic-c{n});fill:none}}" for n in range(SERIES)
    )
    return (
        f".pic{{{_variables(LIGHT)};font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;max-width:100%;"
        "height:auto}"
        f"@media (prefers-color-scheme:dark){{.pic{{{_variables(DARK)}}}}}"
        f"@media print{{.pic{{{_variables(LIGHT)}}}}}"
        ".pic text{fill:var(--pic-ink)}.pic .muted{fill:var(--pic-muted)}.pic .strong{font-weight:600}"
        ".pic .grid{stroke:var(--pic-line);stroke-width:1}.pic .axis{stroke:var(--pic-muted);stroke-width:1}"
        ".pic .soft{fill:var(--pic-soft)}.pic .box{fill:var(--pic-soft);stroke:var(--pic-line)}"
        ".pic .ours{stroke:var(--pic-ink);fill:none}.pic .ours-fill{fill:var(--pic-ink)}"
        ".pic .halo{paint-order:stroke;stroke:var(--pic-ground);stroke-width:3px;stroke-linejoin:round}"
        ".pic .end{text-anchor:end}.pic .mid{text-anchor:middle}.pic a text{text-decoration:underline}" + fills
    )
