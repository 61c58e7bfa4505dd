"""The README's plot and table, measured anew: `make readme-figures MODEL=DIR DATA=test.jsonl`.

Both are of one run of `offramp.report` on a quiet machine. The plot is written to docs/assets, and
what the README has between the two marks is replaced by the plot, the table and what they were
measured on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import offramp
from offramp.reporting.markdown import markdown
from offramp.reporting.trade import chosen
from offramp.reporting.wording import MEASURES, capital

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- figures: make readme-figures -->", "<!-- end of figures -->"


def main() -> None:
    options = arguments()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    before, own = parted(options.readme)
    rows = offramp.read_table(options.data, text=options.text, label=options.label)
    found = offramp.report(
        options.model,
        rows,
        output=None,
        plot=options.plot,
        rounds=options.rounds,
        timing_rows=options.timing_rows,
    )
    place = options.plot.resolve().relative_to(options.readme.resolve().parent).as_posix()
    block = figures(found.to_dict(), found.headline, place)
    options.readme.write_text(f"{before}{BEGIN}\n{block}{END}{own}", encoding="utf-8")
    print(f"{found.headline}. Wrote {options.plot} and the figures in {options.readme}.")


def parted(readme: Path) -> tuple[str, str]:
    """What comes before and after the marks."""
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{readme} has no lines {BEGIN} and {END} to write between.")
    return before, after


def figures(values: dict[str, object], headline: str, plot: str) -> str:
    """The plot and the table in Markdown."""
    title = f"{capital(MEASURES[str(values['measure'])])} against wall clock"
    at = chosen(values)["name"]
    return f"![{title}; {at}: {headline}]({plot})\n\n{markdown(values)}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a directory with exits")
    parser.add_argument("data", type=Path, help="labelled rows that it never saw")
    parser.add_argument("--text", default="text", help="the text's column")
    parser.add_argument("--label", default="label", help="the label's column")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--timing-rows", type=int, default=512)
    parser.add_argument("--threads", type=int, help="of torch; by default what the machine has")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs/assets/sst2.svg")
    return parser.parse_args()


if __name__ == "__main__":
    main()
