"""Who owns a file of a Debian package and under which licence, as the package itself says.

Three places are asked, the nearest first: the archive's own words on the file (`<name>.txt`, ending in
`License: ...`), a README beside it inside the archive (blocks of `Copyright:`, `License:`, `Files:`), then the
package's machine-readable copyright file.
"""

import fnmatch
import functools
import pathlib
import re

_STOP_WORDS = ("copyright", "license", "files", "comment", "source")


def look_up(package: str, folder: pathlib.Path, path: str, archive: dict[str, bytes]) -> tuple[str, str]:
  """(owner, licence) of `path` in the package unpacked at `folder`; "see ..." where the package is silent."""
  owner_licence = _from_note(path, archive) or _from_readme(path, archive)
  if owner_licence is None:
    copyright_file = folder / "usr/share/doc" / package / "copyright"
    owner_licence = _from_copyright(copyright_file, path) if copyright_file.is_file() else None
  return owner_licence or (f"see copyright file of {package}", f"see copyright file of {package}")


def _from_note(path: str, archive: dict[str, bytes]) -> tuple[str, str] | None:
  """Splits the archive's words on one file into the owners and the licence."""
  text = archive.get(str(pathlib.PurePosixPath(path).with_suffix(".txt")), b"").decode(errors="replace")
  owner, found, licence = text.partition("License:")
  return (owner.strip(), licence.strip().rstrip(".")) if found else None


def _from_readme(path: str, archive: dict[str, bytes]) -> tuple[str, str] | None:
  """Searches the READMEs of the archive from the file's folder upwards."""
  for parent in pathlib.PurePosixPath(path).parents:
    text = archive.get(f"{parent}/README")
    if text is None:
      continue
    inside = path[len(str(parent)) + 1 :]
    for block in _blocks(text.decode(errors="replace")):
      if any(fnmatch.fnmatch(inside, name) for name in block.get("files", [])):
        return _owner_and_licence(block)
  return None


def _from_copyright(file: pathlib.Path, path: str) -> tuple[str, str] | None:
  """The last paragraph of the copyright file whose patterns match; extensions may have been converted."""
  # Sources of gcompris lie under src/, its archives under gcompris/src/; pictures were turned into WebP.
  names = (path, path.removeprefix("gcompris/"), pathlib.PurePath(path).name)
  best = None
  for block in _paragraphs(file):
    for pattern in block.get("files", []):
      patterns = (pattern, f"*/{pattern}", re.sub(r"\.\w+$", ".webp", pattern))
      if any(fnmatch.fnmatch(name, option) for name in names for option in patterns):
        best = block
  return _owner_and_licence(best) if best else None


@functools.lru_cache(maxsize=8)
def _paragraphs(file: pathlib.Path) -> list[dict[str, list[str]]]:
  return [block for block in _blocks(file.read_text(errors="replace")) if "files" in block]


def _blocks(text: str) -> list[dict[str, list[str]]]:
  """Paragraphs as {field: its words (files) or lines}; a field goes on until the next known one."""
  found = []
  for paragraph in re.split(r"\n\s*\n", text):
    block: dict[str, list[str]] = {}
    field = ""
    for line in paragraph.splitlines():
      head, colon, rest = line.partition(":")
      if colon and head.strip().lower() in _STOP_WORDS:
        field, line = head.strip().lower(), rest
      if field and line.strip():
        block.setdefault(field, []).extend(line.split() if field == "files" else [line.strip()])
    if block:
      found.append(block)
  return found


def _owner_and_licence(block: dict[str, list[str]]) -> tuple[str, str]:
  """The first two holders by name, and the licence's short name."""
  owners = block.get("copyright", ["not stated"])
  rest = f" and {len(owners) - 2} others" if len(owners) > 2 else ""
  return "; ".join(owners[:2]) + rest, block.get("license", ["not stated"])[0]
