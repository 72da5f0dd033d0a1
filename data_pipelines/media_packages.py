"""Fetches Debian packages into a cache folder and opens what lies in them; needs no root.

The cache, given by an argument, else by the environment variable AVS_MEDIA_CACHE, else `.media_cache/`
below the current folder:

    packages/<name>/          one unpacked package, with its version in `.version`
    programs/<name>/          a program and those of its libraries that the machine lacks, unpacked together
    bank/                     what data_pipelines/media_bank.py makes of them

A folder appears under its name only when complete (unpacked beside it, then renamed), so an interrupted
fetch goes on where it stopped. `apt-get download` checks each package against Debian's signed lists, and
the files are checked again after unpacking against the sums inside the package.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import zlib

from avs_jax.errors import InputError

CACHE_VARIABLE = "AVS_MEDIA_CACHE"
_DIRECTORY, _ZLIB, _ZSTD = 2, 1, 4  # flags of an entry in a Qt resource archive


@dataclasses.dataclass(frozen=True)
class Program:
  """A command that can be run: its path and the library folders it needs beside the machine's own."""

  path: str
  libraries: tuple[str, ...] = ()

  def run(self, *arguments: str) -> bytes:
    """Runs the program and returns what it prints; raises `InputError` with its last words if it fails."""
    environment = dict(os.environ)
    if self.libraries:
      known = environment.get("LD_LIBRARY_PATH")
      environment["LD_LIBRARY_PATH"] = ":".join([*self.libraries, *([known] if known else [])])
    done = subprocess.run([self.path, *arguments], env=environment, capture_output=True, check=False)
    if done.returncode:
      name = pathlib.Path(self.path).name
      words = done.stderr.decode(errors="replace").strip().splitlines()
      raise InputError(
        f"{name} failed ({words[-1] if words else f'exit {done.returncode}'}), expected it to convert "
        f"{arguments[-1]}; install it system-wide: apt-get install -y fluidsynth librsvg2-bin"
      )
    return done.stdout


def cache_folder(folder: str | os.PathLike | None = None) -> pathlib.Path:
  """The cache: `folder`, else $AVS_MEDIA_CACHE, else `.media_cache` below the current folder."""
  return pathlib.Path(folder or os.environ.get(CACHE_VARIABLE) or ".media_cache")


def fetch_package(name: str, cache: pathlib.Path) -> pathlib.Path:
  """Folder with the unpacked package `name`, fetched on the first call."""
  target = cache / "packages" / name
  if not target.is_dir():
    _unpack([name], target)
  return target


def fetch_program(command: str, package: str, cache: pathlib.Path) -> Program:
  """The machine's own `command`; where it has none, `package` and its missing libraries go to the cache."""
  own = shutil.which(command)
  if own:
    return Program(own)
  target = cache / "programs" / package
  if not target.is_dir():
    lines = _apt("--simulate", "--no-install-recommends", "install", package).splitlines()
    _unpack([line.split()[1] for line in lines if line.startswith("Inst ")], target)
  libraries = sorted({str(path.parent.resolve()) for path in target.rglob("*.so*")})
  return Program(str((target / "usr/bin" / command).resolve()), tuple(libraries))


def package_version(folder: pathlib.Path) -> str:
  """Debian version of the package unpacked in `folder`."""
  return (folder / ".version").read_text().strip()


def _apt(*arguments: str, cwd: pathlib.Path | None = None) -> str:
  """Runs apt-get and returns what it prints; its failures become one sentence on what to do."""
  if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
    raise InputError(
      "apt-get and dpkg-deb were not found, expected a Debian machine to fetch the media packages; build the "
      f"bank on one and copy its cache folder here, or set {CACHE_VARIABLE} to a cache that is complete"
    )
  environment = {**os.environ, "LC_ALL": "C"}
  done = subprocess.run(
    ["apt-get", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
  )
  if done.returncode:
    errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
    raise InputError(
      f"apt-get {' '.join(arguments)} failed ({errors[0] if errors else f'exit {done.returncode}'}), "
      "expected a package from Debian main; run `apt-get update` as root, then the same command again"
    )
  return done.stdout


def _unpack(names: list[str], target: pathlib.Path) -> None:
  """Downloads and unpacks packages together into `target`, which appears only when complete."""
  target.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as work:
    folder, files = pathlib.Path(work), pathlib.Path(work) / "files"
    _apt("download", *names, cwd=folder)
    for package in sorted(folder.glob("*.deb")):
      unpack_file(package, files)
      package.unlink()
    try:
      files.rename(target)
    except OSError:  # another process was faster; both unpacked the same thing
      if not target.is_dir():
        raise


def unpack_file(package: pathlib.Path, target: pathlib.Path) -> None:
  """Unpacks one .deb file into `target` and checks each file against the sums the package carries.

  Raises:
    InputError: it is no whole package, or a file does not match its sum.
  """
  control = target.parent / f"{package.name}.control"
  for command in (["--extract", package, target], ["--control", package, control]):
    done = subprocess.run(["dpkg-deb", *command], capture_output=True, text=True, check=False)
    if done.returncode:
      raise InputError(
        f"{package.name} cannot be unpacked ({done.stderr.strip()}), expected a whole Debian package; "
        "free disk space or fetch it again"
      )
  sums = control / "md5sums"
  for line in sums.read_text().splitlines() if sums.exists() else ():
    expected, name = line.split(maxsplit=1)
    data = (target / name).read_bytes() if (target / name).is_file() else b""
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != expected:
      raise InputError(
        f"{package.name}: {name} does not match the package's own checksum, expected it whole; "
        "free disk space and fetch it again"
      )
  done = subprocess.run(
    ["dpkg-deb", "--field", package, "Version"], capture_output=True, text=True, check=True
  )
  (target / ".version").write_text(done.stdout)
  shutil.rmtree(control)


@functools.lru_cache(maxsize=4)
def read_archive(path: pathlib.Path) -> dict[str, bytes]:
  """All files of an archive inside a package, by their path in it: Qt resources (.rcc), OpenTTD sounds (.cat).

  Raises:
    InputError: it cannot be read, or is no whole archive.
  """
  try:
    parse = _parse_sounds if path.suffix == ".cat" else _parse_resources
    return parse(path.read_bytes())
  except OSError as error:
    raise InputError(
      f"{path} cannot be read ({error.strerror}), expected an archive; delete the package's folder in the "
      "media cache and build the bank again"
    ) from error
  except (struct.error, zlib.error, ValueError, IndexError) as error:
    raise InputError(
      f"{path} is not a whole archive ({error}), expected Qt resources of version 1 to 3 or OpenTTD sounds; "
      "delete the package's folder in the media cache and build the bank again"
    ) from error


def _parse_sounds(blob: bytes) -> dict[str, bytes]:
  """Sounds of OpenTTD as `<number>.wav`, and what the file says of each as `<number>.txt`.

  The format, little-endian: for each sound its offset and its length as uint32, the first offset giving the
  length of that table. At the offset a text of one length byte and as many bytes, the last one zero and the
  length byte counted, then the WAV file.
  """
  (start,) = struct.unpack_from("<I", blob)
  found = {}
  for k in range((start & 0x7FFFFFFF) // 8):
    offset, length = struct.unpack_from("<II", blob, 8 * k)
    offset &= 0x7FFFFFFF
    text = blob[offset + 1 : offset + blob[offset]]
    wave = blob[offset + blob[offset] + 1 :][:length]
    if wave[:4] != b"RIFF" or len(wave) < length:
      raise ValueError(f"sound {k} is not a WAV file")
    found[f"{k}.wav"], found[f"{k}.txt"] = wave, text.rstrip(b"\0")
  return found


def _parse_resources(blob: bytes) -> dict[str, bytes]:
  """Walks the tree of a Qt resource archive from its root.

  The format, big-endian: the word `qres`, then format version and the offsets of tree, data and names as
  uint32. A tree node has 14 bytes (22 from version 2 on, the last 8 a time): name offset uint32, flags
  uint16, then for a folder the number of children and the index of the first as uint32, for a file
  territory and language as uint16 and its data offset as uint32. A name is a uint16 length, a uint32
  hash and UTF-16. Data is a uint32 length and the bytes; compressed ones start with their full length.
  """
  magic, version, tree, data, names = struct.unpack_from(">4s4I", blob)
  if magic != b"qres" or not 1 <= version <= 3:
    raise ValueError("wrong first bytes")
  node_bytes = 22 if version >= 2 else 14
  found = {}
  waiting = [(0, "")]
  while waiting:
    index, path = waiting.pop()
    node = tree + index * node_bytes
    name_offset, flags = struct.unpack_from(">IH", blob, node)
    if index:  # the root has no name
      (letters,) = struct.unpack_from(">H", blob, names + name_offset)
      start = names + name_offset + 6
      path = f"{path}/{blob[start : start + 2 * letters].decode('utf-16-be')}"
    if flags & _DIRECTORY:
      count, first = struct.unpack_from(">II", blob, node + 6)
      if first <= index < first + count or (first + count) * node_bytes + tree > len(blob):
        raise ValueError("a folder that holds itself or lies outside the file")
      waiting.extend((first + child, path) for child in range(count))
      continue
    (offset,) = struct.unpack_from(">I", blob, node + 10)
    (length,) = struct.unpack_from(">I", blob, data + offset)
    content = blob[data + offset + 4 : data + offset + 4 + length]
    if len(content) < length:
      raise ValueError("it ends too early")
    if flags & _ZSTD:
      raise ValueError("zstd compression, which is not read here")
    found[path.lstrip("/")] = zlib.decompress(content[4:]) if flags & _ZLIB else content
  return found
