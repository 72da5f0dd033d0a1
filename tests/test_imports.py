"""What may import what: machines that only compute lack the data packages."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent
ABSENT = ("grain", "tensorflow_datasets", "array_record", "ml_collections", "av", "PIL", "tensorboardX")
NEEDED = (
  "avs_jax.systems",
  "avs_jax.encoders",
  "avs_jax.debias.guide",
  "avs_jax.losses",
  "avs_jax.metrics",
  "avs_jax.step",
  "avs_jax.optimizer",
  "avs_jax.mesh",
  "avs_jax.model",
  "avs_jax.checkpoint",
  "avs_jax.weights",
  "avs_jax.train",
)


def run(code: str) -> subprocess.CompletedProcess:
  command = [sys.executable, "-c", code]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)


def test_models_and_the_train_step_import_without_the_data_packages():
  blocked = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r}))"
  done = run("; ".join([blocked, *(f"import {name}" for name in NEEDED)]))
  assert done.returncode == 0, done.stderr


def test_models_never_import_the_data_pipelines_or_the_configs():
  code = "; ".join(["import sys", *(f"import {name}" for name in NEEDED)])
  code += "; print([m for m in sys.modules if m.split('.')[0] in ('data_pipelines', 'configs')])"
  done = run(code)
  assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_configs_and_flags_start_without_jax():
  done = run("import sys, run, configs.ms3; configs.ms3.get_config(); print('jax' in sys.modules)")
  assert done.stdout.strip() == "False", done.stdout + done.stderr
