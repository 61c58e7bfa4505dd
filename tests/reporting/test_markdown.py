"""The table of systems in Markdown, and the README's block that is made of it and the plot."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from report_kit import Measured

from offramp.reporting.markdown import markdown

ROOT = Path(__file__).resolve().parents[2]


def test_every_system_with_its_numbers(values: dict[str, Any]) -> None:
    lines = markdown(values).splitlines()
    assert lines[0] == "| System | As fast as plain | Accuracy | Points lost | Layers |"
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: |"
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:-2]]
    assert len(rows) == len(values["systems"])
    by_name = {row[0].removeprefix("**").removesuffix(", chosen**"): row for row in rows}
    for system in values["systems"]:
        _, speed, score, lost, layers = by_name[system["name"]]
        assert speed.startswith(f"{system['speed']['median']:.2f}"[:3])
        assert score == f"{system['scores']['accuracy']:.3f}"
        assert lost.startswith(f"{system['lost'][0]:.2f}".replace("-", "\N{MINUS SIGN}"))
        assert float(layers) == pytest.approx(system["mean_layers"], abs=0.005)
    assert sum(row[0].endswith(", chosen**") for row in rows) == 1
    order = [values_of(values, row[0])["kind"] for row in rows]
    assert order == sorted(order, key=["exits", "truncated", "plain", "peer"].index)
    assert lines[-1].startswith("60 rows of `rows <of> it.jsonl`, 8 of them timed in 2 rounds")
    assert "of speeds the range of the rounds" in lines[-1]


def values_of(values: dict[str, Any], name: str) -> dict[str, Any]:
    name = name.removeprefix("**").removesuffix(", chosen**")
    found: dict[str, Any] = next(s for s in values["systems"] if s["name"] == name)
    return found


def test_a_name_breaks_no_row(values: dict[str, Any]) -> None:
    first, *rest = values["systems"]
    made = markdown({**values, "systems": [{**first, "name": "a | b"}, *rest], "data": "a`b"})
    assert "| a \\| b |" in made
    assert "rows of `a'b`" in made


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures", ROOT / "tools/readme_figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_s_figures_are_one_command(
    tool: ModuleType, classes: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = tool.parted(ROOT / "README.md")
    readme = tmp_path / "README.md"
    readme.write_text(f"{before}{tool.BEGIN}\nold\n{tool.END}{after}", "utf-8")
    monkeypatch.setattr(tool.offramp, "read_table", lambda *_, **__: classes.table)
    measure, plot = tool.offramp.report, tmp_path / "docs" / "plot.svg"

    def quickly(*args: object, **options: Any) -> object:
        assert (options["rounds"], options["timing_rows"]) == (1, 4)
        return measure(*args, transformers=False, **options)

    monkeypatch.setattr(tool.offramp, "report", quickly)
    asked = ["tool", classes.place, "x", "--rounds", 1, "--timing-rows", 4]
    asked += ["--readme", readme, "--plot", plot]
    monkeypatch.setattr(sys, "argv", [str(word) for word in asked])
    tool.main()
    text = readme.read_text("utf-8")
    assert text.startswith(before)
    assert text.endswith(after)
    block = text[len(before) : len(text) - len(after)]
    assert "old" not in block
    assert "](docs/plot.svg)\n\n| System | As fast as plain |" in block
    assert block.count("\n| exits at ") + block.count("\n| **exits at ") == 7
    assert plot.read_text("utf-8").startswith("<svg ")
    readme.write_text("no marks", "utf-8")
    with pytest.raises(SystemExit, match="has no lines"):
        tool.main()
