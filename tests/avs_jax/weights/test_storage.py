"""Variables stored and read back, and the conversion of whole files."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax import weights
from avs_jax.errors import InputError

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
VARIABLES = {
  "params": {"block1_0": {"attn": {"q": {"kernel": KERNEL}}}, "temperature": np.float32(2)},
  "batch_stats": {"bn1": {"mean": np.zeros(3, np.float32)}},
}


def test_stored_variables_come_back_equal_with_their_metadata(tmp_path):
  path = tmp_path / "v.safetensors"
  weights.save(path, VARIABLES, {"model": "pvt_v2_b0", "overrides": {"drop_path": 0.1}})
  back = weights.load(path)
  flat, expected = traverse_util.flatten_dict(back), traverse_util.flatten_dict(VARIABLES)
  assert flat.keys() == expected.keys()
  for key, value in expected.items():
    assert flat[key].dtype == value.dtype and flat[key].shape == value.shape
    np.testing.assert_array_equal(flat[key], value)
  assert weights.load_metadata(path) == {"model": "pvt_v2_b0", "overrides": {"drop_path": 0.1}}
  assert [file.name for file in tmp_path.iterdir()] == ["v.safetensors"]


def test_jax_arrays_and_bfloat16_are_stored_as_numbers_numpy_has(tmp_path):
  path = tmp_path / "v.safetensors"
  weights.save(path, {"params": {"a": jnp.asarray([1.5], jnp.bfloat16), "b": jnp.arange(3)[::-1]}})
  back = weights.load(path)["params"]
  assert back["a"].dtype == np.float32 and back["a"][0] == 1.5
  np.testing.assert_array_equal(back["b"], [2, 1, 0])
  assert weights.load_metadata(path) == {}


def test_what_cannot_be_stored_or_read_back_is_said(tmp_path):
  with pytest.raises(InputError, match="must end in .safetensors"):
    weights.save(tmp_path / "v.npz", VARIABLES)
  with pytest.raises(InputError, match="its folder is not there"):
    weights.save(tmp_path / "none" / "v.safetensors", VARIABLES)
  (tmp_path / "d.safetensors").mkdir()
  with pytest.raises(InputError, match="d.safetensors cannot be written"):
    weights.save(tmp_path / "d.safetensors", VARIABLES)
  with pytest.raises(InputError, match="variable params/a is of type"):
    weights.save(tmp_path / "v.safetensors", {"params": {"a": "text"}})
  np.savez(tmp_path / "torch.npz", **{"a.weight": np.zeros(1)})
  with pytest.raises(InputError, match="no path of a Flax variable; convert the file first"):
    weights.load(tmp_path / "torch.npz")
  numpy_file = pytest.importorskip("safetensors.numpy")
  one = np.zeros(1, np.float32)
  for names in (("params/a", "params/a/b"), ("params/a/b", "params/a")):
    numpy_file.save_file(dict.fromkeys(names, one), tmp_path / "both.safetensors")
    with pytest.raises(
      InputError, match="both.safetensors holds 'params/a.* another array under a part of that name"
    ):
      weights.load(tmp_path / "both.safetensors")
  (tmp_path / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
  for function in (weights.load, weights.load_metadata):
    with pytest.raises(InputError, match="broken.safetensors"):
      function(tmp_path / "broken.safetensors")
  with pytest.raises(InputError, match="missing.safetensors"):
    weights.load_metadata(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("container", ("plain_zip.pth", "plain_legacy.pth", "detectron2_torch.pkl"))
def test_a_file_is_rewritten_under_its_own_names(golden, tmp_path, container):
  source, target = golden(f"backbones/containers/{container}"), tmp_path / "out.safetensors"
  expected = dict(np.load(golden("backbones/containers/expected_base.npz")))
  assert weights.convert(source, target) == {name: value.shape for name, value in expected.items()}
  got = weights.read(target)
  for name, value in expected.items():
    np.testing.assert_array_equal(got[name], value)
  assert weights.load_metadata(target) == {"source": container, "names": "torch"}


def test_odd_tensors_survive_the_rewriting(golden, tmp_path):
  weights.convert(golden("backbones/containers/odd_tensors_legacy.pth"), tmp_path / "out.safetensors")
  got = weights.read(tmp_path / "out.safetensors")
  for name, value in np.load(golden("backbones/containers/expected_odd.npz")).items():
    assert got[name].shape == value.shape
    np.testing.assert_array_equal(np.asarray(got[name], np.float32), value)


def test_a_file_is_converted_to_the_variables_of_a_named_model(tmp_path):
  state = {name: np.full(shape, 0.5) for name, shape in weights.to_torch_names("conv_pyramid").items()}
  np.savez(tmp_path / "in.npz", **state)
  written = weights.convert(tmp_path / "in.npz", tmp_path / "out.safetensors", "conv_pyramid")
  assert all(name.split("/")[0] in ("params", "batch_stats") for name in written)
  back = weights.load(tmp_path / "out.safetensors")
  expected = weights.from_torch("conv_pyramid", state)
  assert traverse_util.flatten_dict(back).keys() == traverse_util.flatten_dict(expected).keys()
  assert weights.load_metadata(tmp_path / "out.safetensors")["model"] == "conv_pyramid"


def test_a_file_that_does_not_fit_the_named_model_is_named(tmp_path):
  np.savez(tmp_path / "in.npz", a=np.zeros(3))
  with pytest.raises(InputError, match=r"in\.npz: the tensors do not fit 'conv_pyramid'.*unexpected 1: a"):
    weights.convert(tmp_path / "in.npz", tmp_path / "out.safetensors", "conv_pyramid")
  assert not (tmp_path / "out.safetensors").exists()


def test_a_file_is_not_converted_onto_itself(tmp_path):
  path = tmp_path / "v.safetensors"
  weights.save(path, VARIABLES, {"model": "pvt_v2_b0"})
  before = path.read_bytes()
  (tmp_path / "link.safetensors").symlink_to(path)
  for target in (path, tmp_path / "link.safetensors"):
    with pytest.raises(
      InputError, match="is the file to be read, which would be replaced; give another name"
    ):
      weights.convert(path, target)
  with pytest.raises(InputError, match="misspelt.pth"):
    weights.convert(tmp_path / "misspelt.pth", path)
  assert path.read_bytes() == before
