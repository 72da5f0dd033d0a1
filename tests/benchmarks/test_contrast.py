"""The contrast benchmark measures training and inference with and without a contrast, and says so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_command_writes_factors_against_the_plain_system(tmp_path):
  page = tmp_path / "cost.md"
  command = ["-m", "benchmarks.contrast", "--config=configs/tiny.py", "--repeats=1", f"--output={page}"]
  done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  figures = json.loads(page.with_suffix(".json").read_text())
  for kind in ("training", "inference"):
    assert figures["none"][kind]["time_factor"] == figures["none"][kind]["flop_factor"] == 1
    assert 1 < figures["uncertainty"][kind]["flop_factor"] < 2.2
  assert "| uncertainty |" in page.read_text()
