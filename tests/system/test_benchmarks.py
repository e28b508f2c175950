"""Every benchmark can be started, says in its help how, and has its row in docs/benchmarks.md."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").glob("*/*.py")
    if 'if __name__ == "__main__":' in path.read_text("utf-8")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_parses_its_options_and_its_help_names_its_command(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(script)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0
    assert f"    python -m {script}\n" in capsys.readouterr().out


def test_the_page_has_a_row_for_each_benchmark_and_no_other() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    commands = re.findall(r"\| `((?:engine|serving|registry|sls)\.\w+)`", page)
    assert sorted(f"benchmarks.{command}" for command in commands) == SCRIPTS
