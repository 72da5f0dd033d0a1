"""What the notebooks need of the machine they run on: packages beside its own jax, storage that outlives it.

Imports nothing but the standard library and `packaging` at first, since it installs the rest.
"""

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from avs_jax.errors import InputError

KEPT = (
  "jax",
  "jaxlib",
  "libtpu",
  "jax-cuda12-plugin",
  "jax-cuda12-pjrt",
  "jax-cuda13-plugin",
  "jax-cuda13-pjrt",
)
DRIVE = Path("/content/drive")  # where Colab mounts it
PROGRAMS = {
  "jax_persistent_cache_min_compile_time_secs": 0.5,
  "jax_persistent_cache_min_entry_size_bytes": -1,
}


def start(requirements: str | Path = "requirements.txt") -> str:
  """Installs what is missing, shows the log in the notebook, keeps compiled programs. Call it first.

  Returns: what the runtime is, in a line.
  """
  install_missing(requirements)
  package = logging.getLogger("avs_jax")
  if not package.handlers:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("avs_jax", "data_pipelines"):
      logger = logging.getLogger(name)
      logger.setLevel(logging.INFO)
      logger.addHandler(handler)
      logger.propagate = False
  import jax

  devices = jax.devices()
  return f"jax {jax.__version__}, {len(devices)} x {devices[0].device_kind}, Python {sys.version.split()[0]}"


def install_missing(requirements: str | Path, pip: Callable[[list[str]], int] | None = None) -> list[str]:
  """Installs the packages of a requirements file that are absent or too old; never another jax.

  Returns: what was installed.

  Raises:
    InputError: the runtime's jax is not one this program runs on, pip failed, or it replaced what is loaded already.
  """
  lines = requirement_lines(Path(requirements))
  jax_line = next((line for line in lines if line.name in KEPT), None)
  if jax_line is not None and not is_installed(jax_line):
    found = installed_version("jax") or "none"
    raise InputError(
      f"this runtime's jax is {found} and the program needs {jax_line}: choose a newer runtime (Colab: Runtime,"
      " Change runtime type, Runtime version), or install one for your machine (pip install -U"
      f" 'jax[tpu]{jax_line.specifier}', or jax[cuda13], jax[cuda12]) and restart the session; nothing was changed."
    )
  wanted = [str(line) for line in lines if line.name not in KEPT and not is_installed(line)]
  if not wanted:
    return []
  with tempfile.TemporaryDirectory() as folder:
    constraints = Path(folder) / "constraints.txt"
    present = {name: installed_version(name) for name in KEPT}
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in present.items() if version))
    command = [sys.executable, "-m", "pip", "install", "--quiet", *wanted, "-c", str(constraints)]
    before = loaded_versions()
    if (pip or subprocess.call)(command):
      raise InputError(
        f"pip could not install {', '.join(wanted)} beside jax {present['jax']}; its words are above."
      )
  importlib.invalidate_caches()
  stale = [name for name, version in before.items() if installed_version(name) != version]
  if stale:
    raise InputError(
      f"installed, but {', '.join(stale)} was loaded in another version before: restart the session (Colab: Runtime,"
      " Restart session) and run the cells again."
    )
  return wanted


def loaded_versions() -> dict[str, str]:
  """The packages that this process has loaded: name -> installed version."""
  known = importlib.metadata.packages_distributions()
  names = {name for module in set(sys.modules) & known.keys() for name in known[module]}
  return {name: importlib.metadata.version(name) for name in sorted(names)}


def requirement_lines(path: Path) -> list[Any]:
  """The requirements of a file. Raises `InputError` where there is none."""
  from packaging.requirements import Requirement

  if not path.is_file():
    raise InputError(f"{path} is not there; run the notebook in the repository's folder, or set SOURCE.")
  words = (line.split("#")[0].strip() for line in path.read_text().splitlines())
  return [Requirement(word) for word in words if word and not word.startswith("-")]


def is_installed(line: Any) -> bool:
  version = installed_version(line.name)
  return version is not None and line.specifier.contains(version, prereleases=True)


def installed_version(name: str) -> str | None:
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    return importlib.metadata.version(name)
  return None


def storage(folder: str) -> Path:
  """A folder that outlives the machine: on Colab in the visitor's Drive, which is mounted; elsewhere as named.

  Raises:
    InputError: an address in place of a folder.
  """
  if "://" in folder:
    raise InputError(
      f"STORAGE={folder}: runs are kept in folders; give one of your Drive, or of a mounted bucket."
    )
  path = Path(folder)
  if is_colab() and not path.is_absolute():
    from google.colab import drive  # pyright: ignore[reportMissingImports]

    if not DRIVE.is_mount():
      drive.mount(str(DRIVE))
    path = DRIVE / "MyDrive" / folder
  path.mkdir(parents=True, exist_ok=True)
  keep_programs(path / "xla")
  return path


def is_colab() -> bool:
  with contextlib.suppress(ModuleNotFoundError):
    return importlib.util.find_spec("google.colab") is not None
  return False


def keep_programs(folder: Path) -> None:
  """Compiled programs are kept there, unless another place was named before."""
  import jax

  if jax.config.jax_compilation_cache_dir is None:
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in PROGRAMS.items():
      jax.config.update(name, value)


def make_config(name: str, argument: str = "", settings: Mapping[str, Any] | None = None) -> Any:
  """configs/<name>.py with these settings changed, {"section.key": value}.

  Raises:
    InputError: there is no such config, or it has no such setting.
  """
  if importlib.util.find_spec(f"configs.{name}") is None:
    raise InputError(f"configs/{name}.py is not there; give the name of a file of configs/.")
  config = importlib.import_module(f"configs.{name}").get_config(argument)
  try:
    config.update_from_flattened_dict(dict(settings or {}))
  except (KeyError, TypeError, ValueError) as error:
    text = str(error.args[0] if error.args else error).splitlines()[0]
    raise InputError(f"configs/{name}.py: a setting does not fit: {text}") from None
  return config


def train(config: Any, workdir: Path) -> dict[str, Path]:
  """Trains the config, or each of its variants, as run.py does, and shows what compares them. Call it again to go on.

  Returns: {name: folder of a run that is finished}, one for each variant.
  """
  from avs_jax.variants import train_all

  train_all(config, str(workdir))
  if not config.variants:
    return {workdir.name: workdir}
  for name in ("comparison.md", "comparison.png"):
    if (workdir / name).is_file():
      show(workdir / name)
  return {name: workdir / name for name in config.variants}


def choose_video(path: str, folder: Path) -> str:
  """The video of that path; without one, an upload on Colab, a drawn sample elsewhere.

  Raises:
    InputError: nothing was uploaded.
  """
  if path:
    return path
  if is_colab():
    from google.colab import files  # pyright: ignore[reportMissingImports]

    names = list(files.upload())
    if not names:
      raise InputError("no video was uploaded; run the cell again, or set VIDEO.")
    return os.path.abspath(names[0])
  from avs_jax.web.samples import make_samples

  return str(make_samples(folder / "samples")[-1].path)


def show(path: str | Path) -> str:
  """Shows a file in the notebook: text as Markdown, pictures and videos as they are. Returns its path."""
  path = Path(path)
  try:
    from IPython import display  # pyright: ignore[reportMissingImports]
  except ImportError:
    print(path.read_text() if path.suffix in (".md", ".txt", ".csv") else path)
    return str(path)
  if path.suffix == ".mp4":
    shown = display.Video(str(path), embed=path.stat().st_size < 20e6)
  elif path.suffix in (".png", ".jpg"):
    shown = display.Image(str(path))
  else:
    shown = display.Markdown(path.read_text())
  display.display(shown)
  return str(path)
