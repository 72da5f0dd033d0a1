"""A benchmark that is asked for what is not there ends with a sentence and status 2."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
  ("said", "expected"),
  [
    ("--config=configs/nothing.py", "No such file or directory: 'configs/nothing.py'"),
    ("--config=configs/ms3.py:oracle", "there is no system 'oracle'; choose one of avsbench"),
  ],
)
def test_what_is_wrong_is_a_sentence(said, expected):
  command = [sys.executable, "-m", "benchmarks.memory", said]
  ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert ended.returncode == 2 and "Traceback" not in ended.stderr
  assert ended.stderr.splitlines()[-1].startswith("error: ") and expected in ended.stderr
