"""Strict surroundings for every test: CPU with 8 virtual devices, strict broadcasting, a compile cache."""

import gc
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Configs read it: tests are of stand-ins, whatever lies on this machine.
os.environ.pop("AVS_DATA_ROOT", None)

# Most of the suite's time is the compiler's: it is asked to make programs quickly, not quick programs.
XLA_FLAGS = ["--xla_backend_optimization_level=0", "--xla_force_host_platform_device_count=8"]
# An unknown flag ends the process, so each is given to the versions that were seen to have it.
JAXLIB = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
if JAXLIB < (0, 11):
  XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # halves compiling
if JAXLIB < (0, 12):
  XLA_FLAGS.append(
    "--xla_cpu_parallel_codegen_split_count=1"
  )  # a seventh less, for tests share the cores anyway
os.environ["XLA_FLAGS"] = " ".join([*XLA_FLAGS, os.environ.get("XLA_FLAGS", "")])  # of two, the last counts
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()

# Ends what hangs; never the time that something may take, for machines are slow and shared.
PATIENCE_S = 1200.0

GOLDEN = ROOT.parent / "shared" / "golden"


def pytest_xdist_auto_num_workers(config) -> int:
  """Processes to share the tests: up to three for folders; named files are sooner done in this one, 0."""
  names = [argument.split("::")[0] for argument in config.args]
  workers = min(os.cpu_count() or 1, 3)  # the largest model takes 6 GB, others up to 3.5
  return 0 if workers == 1 or all(name.endswith(".py") for name in names) else workers


@pytest.fixture(scope="module", autouse=True)
def released_memory():
  """Forgets compiled programs once this process holds much memory; two processes must fit in 16 GB."""
  yield
  pages = Path("/proc/self/statm")  # Linux
  if pages.exists() and int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 3 << 30:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def golden():
  """Path of a file of reference outputs; skips, saying why, where they are not at hand."""

  def find(name: str) -> Path:
    path = GOLDEN / name
    if not path.exists():
      pytest.skip(f"reference outputs are kept beside the repository; {name} is not there")
    return path

  return find


@pytest.fixture(scope="session")
def rule(golden):
  """The rule that fills models with reproducible weights (`weight`, `array`, `sample`, `check`)."""
  spec = importlib.util.spec_from_file_location("golden_rule", golden("golden_rule.py"))
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
