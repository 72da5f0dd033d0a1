"""Archives and packages made here are opened and broken ones refused, without any network."""

import hashlib
import os
import shutil
import struct
import subprocess
import zlib

import pytest

from avs_jax.errors import InputError
from data_pipelines import media_packages
from data_pipelines.media_packages import (
  cache_folder,
  fetch_package,
  fetch_program,
  read_archive,
  unpack_file,
)

FILES = {"a/cow.ogg": b"moo" * 100, "a/b/dog.svg": b"<svg/>" * 50, "readme": b"", "ä.txt": "grüß".encode()}


def _archive(
  files: dict[str, bytes], version: int = 3, compress: tuple[str, ...] = ("a/b/dog.svg",)
) -> bytes:
  """A Qt resource archive: children of a folder lie side by side in the tree, so it is written by breadth."""
  tree: dict = {}
  for path, content in files.items():
    folder = tree
    *parents, name = path.split("/")
    for parent in parents:
      folder = folder.setdefault(parent, {})
    folder[name] = (path, content)
  names, data, nodes = b"", b"", b""
  waiting: list[tuple] = [("", tree)]
  next_child = 1
  while waiting:
    name, node = waiting.pop(0)
    text = name.encode("utf-16-be")
    offset = len(names)
    names += struct.pack(">HI", len(text) // 2, 0) + text
    if isinstance(node, dict):
      nodes += struct.pack(">IHII", offset, 2, len(node), next_child)
      next_child += len(node)
      waiting += list(node.items())
    else:
      path, content = node
      is_small = path in compress
      blob = struct.pack(">I", len(content)) + zlib.compress(content) if is_small else content
      nodes += struct.pack(">IHHHI", offset, int(is_small), 0, 0, len(data))
      data += struct.pack(">I", len(blob)) + blob
    nodes += struct.pack(">Q", 0) if version >= 2 else b""
  start = 24
  header = struct.pack(">4s5I", b"qres", version, start + len(data) + len(names), start, start + len(data), 0)
  return header + data + names + nodes


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_archive_gives_back_its_files(tmp_path, version):
  path = tmp_path / f"{version}.rcc"
  path.write_bytes(_archive(FILES, version))
  assert read_archive(path) == FILES


@pytest.mark.parametrize(
  ("blob", "words"),
  [
    (b"RIFF" + bytes(40), "wrong first bytes"),
    (b"qres", "not a whole archive"),
    (_archive(FILES)[:-30], "not a whole archive"),
    (_archive(FILES, 3).replace(struct.pack(">I", 3), struct.pack(">I", 9), 1), "wrong first bytes"),
  ],
)
def test_a_broken_archive_is_named(tmp_path, blob, words):
  path = tmp_path / f"broken{len(blob)}{words[:3]}.rcc"
  path.write_bytes(blob)
  with pytest.raises(InputError, match=words) as error:
    read_archive(path)
  assert str(path) in str(error.value)


def test_a_folder_that_holds_itself_is_refused(tmp_path):
  blob = bytearray(_archive({"x": b"1"}))
  tree = struct.unpack_from(">I", blob, 8)[0]
  struct.pack_into(">II", blob, tree + 6, 1, 0)  # the root's first child is the root
  path = tmp_path / "loop.rcc"
  path.write_bytes(bytes(blob))
  with pytest.raises(InputError, match="holds itself"):
    read_archive(path)


def _sounds(waves: list[bytes], words: str) -> bytes:
  """An archive of OpenTTD sounds that says the same of each."""
  text = words.encode() + b"\0"
  table, body = b"", b""
  for wave in waves:
    table += struct.pack("<II", 8 * len(waves) + len(body), len(wave))
    body += bytes([len(text)]) + text + wave + bytes([3]) + b"ab\0"
  return table + body


def test_an_archive_of_sounds_gives_them_and_its_words_on_them(tmp_path):
  path = tmp_path / "game.cat"
  path.write_bytes(_sounds([b"RIFFmoo", b"RIFFwoof"], "Cow. License: CC0."))
  words = b"Cow. License: CC0."
  assert read_archive(path) == {"0.wav": b"RIFFmoo", "0.txt": words, "1.wav": b"RIFFwoof", "1.txt": words}


@pytest.mark.parametrize(
  "change", [lambda blob: blob[:-9], lambda blob: blob.replace(b"RIFF", b"OGGS"), lambda _: b""]
)
def test_a_broken_archive_of_sounds_is_named(tmp_path, change):
  path = tmp_path / f"{len(change(b'RIFF' * 9))}.cat"
  path.write_bytes(change(_sounds([b"RIFFmoo", b"RIFFwoof"], "Cow.")))
  with pytest.raises(InputError, match=r"\.cat is not a whole archive"):
    read_archive(path)


def test_a_missing_archive_is_an_input_error(tmp_path):
  with pytest.raises(InputError, match="cannot be read"):
    read_archive(tmp_path / "none.rcc")


def test_the_cache_is_the_argument_then_the_variable_then_a_folder_here(monkeypatch, tmp_path):
  monkeypatch.setenv(media_packages.CACHE_VARIABLE, str(tmp_path / "there"))
  assert cache_folder(tmp_path / "here") == tmp_path / "here"
  assert cache_folder() == tmp_path / "there"
  monkeypatch.delenv(media_packages.CACHE_VARIABLE)
  assert str(cache_folder()) == ".media_cache"


@pytest.fixture
def package(tmp_path):
  """A Debian package of one file, built here."""
  if shutil.which("dpkg-deb") is None:
    pytest.skip("it takes dpkg-deb to make a Debian package; only Debian's family has it")
  tree = tmp_path / "tree"
  (tree / "DEBIAN").mkdir(parents=True)
  (tree / "usr/share").mkdir(parents=True)
  (tree / "usr/share/cow.ogg").write_bytes(b"moo")
  (tree / "DEBIAN/control").write_text(
    "Package: cow\nVersion: 1.2-3\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: a cow\n"
  )
  return tree


MOO_MD5 = hashlib.md5(b"moo", usedforsecurity=False).hexdigest()


def _build(tree, path, checksum: str) -> None:
  (tree / "DEBIAN/md5sums").write_text(f"{checksum}  usr/share/cow.ogg\n")
  subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, path], check=True, capture_output=True)


def test_a_package_is_unpacked_with_its_version(package, tmp_path):
  _build(package, tmp_path / "cow.deb", MOO_MD5)
  (tmp_path / "out").mkdir()
  unpack_file(tmp_path / "cow.deb", tmp_path / "out" / "files")
  assert (tmp_path / "out/files/usr/share/cow.ogg").read_bytes() == b"moo"
  assert media_packages.package_version(tmp_path / "out/files") == "1.2-3"
  assert [path.name for path in (tmp_path / "out").iterdir()] == ["files"]


def test_a_file_that_does_not_match_its_checksum_is_named(package, tmp_path):
  _build(package, tmp_path / "cow.deb", "0" * 32)
  (tmp_path / "out").mkdir()
  with pytest.raises(InputError, match=r"cow\.deb: usr/share/cow\.ogg does not match"):
    unpack_file(tmp_path / "cow.deb", tmp_path / "out" / "files")


def test_a_cut_off_package_is_named(package, tmp_path):
  _build(package, tmp_path / "cow.deb", "0" * 32)
  whole = (tmp_path / "cow.deb").read_bytes()
  (tmp_path / "cow.deb").write_bytes(whole[: len(whole) // 2])
  with pytest.raises(InputError, match=r"cow\.deb cannot be unpacked"):
    unpack_file(tmp_path / "cow.deb", tmp_path / "files")


def _fake_apt(tmp_path, monkeypatch, script: str) -> None:
  """Puts an apt-get made of `script` in front of the machine's."""
  (tmp_path / "bin").mkdir(exist_ok=True)
  command = tmp_path / "bin" / "apt-get"
  command.write_text(f"#!/bin/sh\n{script}\n")
  command.chmod(0o755)
  if shutil.which("dpkg-deb") is None:
    pytest.skip("it takes dpkg-deb to make a Debian package; only Debian's family has it")
  monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def test_empty_package_lists_tell_to_update(tmp_path, monkeypatch):
  _fake_apt(tmp_path, monkeypatch, "echo 'E: Unable to locate package cow' >&2; exit 100")
  with pytest.raises(InputError, match="Unable to locate package cow.*apt-get update"):
    fetch_package("cow", tmp_path / "cache")
  assert not (tmp_path / "cache/packages/cow").exists()


def test_a_machine_without_apt_is_told_what_to_do(tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))
  with pytest.raises(InputError, match="apt-get and dpkg-deb were not found"):
    fetch_package("cow", tmp_path / "cache")


def test_a_package_is_fetched_once_and_leaves_nothing_else(package, tmp_path, monkeypatch):
  _build(package, tmp_path / "cow.deb", MOO_MD5)
  _fake_apt(tmp_path, monkeypatch, f"echo call >> {tmp_path}/calls; cp {tmp_path}/cow.deb .")
  folder = fetch_package("cow", tmp_path / "cache")
  assert fetch_package("cow", tmp_path / "cache") == folder
  assert (folder / "usr/share/cow.ogg").is_file()
  assert (tmp_path / "calls").read_text() == "call\n"
  assert [path.name for path in (tmp_path / "cache/packages").iterdir()] == ["cow"]


def test_an_interrupted_fetch_leaves_no_half_package(tmp_path, monkeypatch):
  _fake_apt(tmp_path, monkeypatch, "head -c 500 /dev/zero > cow.deb")
  with pytest.raises(InputError, match=r"cow\.deb cannot be unpacked"):
    fetch_package("cow", tmp_path / "cache")
  assert list((tmp_path / "cache/packages").iterdir()) == []


def test_a_program_of_the_machine_is_used_as_it_is(tmp_path):
  program = fetch_program("sh", "dash", tmp_path)
  assert program.libraries == ()
  assert program.run("-c", "echo hello") == b"hello\n"
  assert not (tmp_path / "programs").exists()


def test_a_program_that_fails_tells_how_to_install_it(tmp_path):
  with pytest.raises(InputError, match="oh dear.*apt-get install -y fluidsynth librsvg2-bin"):
    fetch_program("sh", "dash", tmp_path).run("-c", "echo oh dear >&2; exit 3")


def test_a_fetched_program_sees_its_own_libraries(tmp_path, package, monkeypatch):
  command = package / "usr/bin/moo-sayer"
  command.parent.mkdir()
  command.write_text('#!/bin/sh\necho "$LD_LIBRARY_PATH"\n')
  command.chmod(0o755)
  (package / "usr/lib/own").mkdir(parents=True)
  (package / "usr/lib/own/libmoo.so.1").write_bytes(b"")
  _build(package, tmp_path / "cow.deb", MOO_MD5)
  script = f'case "$1" in --simulate) echo "Inst cow (1.2-3 Debian)";; *) cp {tmp_path}/cow.deb .;; esac'
  _fake_apt(tmp_path, monkeypatch, script)
  monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
  program = fetch_program("moo-sayer", "cow", tmp_path / "cache")
  assert program.run().decode().strip().endswith("programs/cow/usr/lib/own")
