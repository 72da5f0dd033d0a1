"""A model in one file: what was put in comes out, to the bit, and other files are refused with a sentence."""

import pickle

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from avs_jax import bundle
from avs_jax.errors import InputError

VARIABLES = {
  "params": {
    "head": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "bias": np.zeros(3, np.float32)},
    "count": np.int32(4),
  },
  "batch_stats": {"norm": {"mean": np.array([0.1, 1e-3], np.float32)}},
}
CONFIG = {"model": {"system": "avsbench", "visual_args": {}}, "data": {"size": 32}}


def test_what_was_put_in_comes_out(tmp_path):
  path = tmp_path / "model.safetensors"
  bundle.save(path, VARIABLES, CONFIG, {"title": "small", "clips": 3})
  variables, config, card = bundle.load(path)
  np.testing.assert_array_equal(
    variables["params"]["head"]["kernel"], VARIABLES["params"]["head"]["kernel"], strict=True
  )
  np.testing.assert_array_equal(
    variables["batch_stats"]["norm"]["mean"], VARIABLES["batch_stats"]["norm"]["mean"]
  )
  assert variables["params"]["count"] == 4
  assert config == CONFIG
  assert card == {"title": "small", "clips": 3}


def test_the_same_arguments_give_the_same_bytes_and_the_library_reads_them(tmp_path):
  paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
  bundle.save(paths[0], VARIABLES, CONFIG, {"x": 1, "y": 2})
  bundle.save(paths[1], dict(reversed(VARIABLES.items())), CONFIG, {"y": 2, "x": 1})
  assert paths[0].read_bytes() == paths[1].read_bytes()
  names = safetensors.numpy.load_file(paths[0]).keys()
  assert set(names) == {"params/head/kernel", "params/head/bias", "params/count", "batch_stats/norm/mean"}


def test_half_of_the_bits_come_back_as_32(tmp_path):
  path = tmp_path / "half.safetensors"
  bundle.save(path, VARIABLES, CONFIG, {}, half=True)
  kernel = bundle.load(path)[0]["params"]["head"]["kernel"]
  assert kernel.dtype == np.float32
  np.testing.assert_allclose(kernel, VARIABLES["params"]["head"]["kernel"], rtol=1e-3)


def test_a_model_without_statistics_gets_an_empty_collection(tmp_path):
  path = tmp_path / "model.safetensors"
  bundle.save(path, {"params": {"w": np.ones(2, ml_dtypes.bfloat16)}, "batch_stats": {}}, CONFIG, {})
  variables = bundle.load(path)[0]
  assert variables["batch_stats"] == {}
  assert variables["params"]["w"].dtype == np.float32


def test_what_cannot_be_read_is_said(tmp_path):
  bare, cut = tmp_path / "bare.safetensors", tmp_path / "cut.safetensors"
  safetensors.numpy.save_file({"params/w": np.ones(2)}, bare)
  bundle.save(cut, VARIABLES, CONFIG, {})
  cut.write_bytes(cut.read_bytes()[:-8])
  pth, page = tmp_path / "MS3.pth", tmp_path / "page.pth"
  pth.write_bytes(pickle.dumps({"state_dict": {"head.weight": np.ones(2)}}))
  page.write_text("<!DOCTYPE html>")
  for path, said in (
    (tmp_path / "absent.safetensors", "there is no such weight file"),
    (bare, "bare.safetensors holds weights without their config"),
    (cut, "no whole safetensors file"),
    (pth, r"MS3.pth holds weights without their config, .* --mode=export .* --config.init.system=\S*MS3.pth"),
    (page, "page.pth is a web page"),
  ):
    with pytest.raises(InputError, match=said):
      bundle.load(path)


def test_what_cannot_be_written_is_said(tmp_path):
  for path, variables, said in (
    (tmp_path / "model.npz", VARIABLES, "must end in .safetensors"),
    (tmp_path / "no" / "model.safetensors", VARIABLES, "its folder is not there"),
    (tmp_path / "model.safetensors", {"params": {"w": np.array(["a"])}}, "params/w is of type <U1"),
  ):
    with pytest.raises(InputError, match=said):
      bundle.save(path, variables, CONFIG, {})
  assert not list(tmp_path.iterdir())


def test_numbers_too_large_for_16_bits_keep_their_32(tmp_path):
  path = tmp_path / "large.safetensors"
  variables = {"params": {"w": np.float32([0.5])}, "batch_stats": {"var": np.float32([7e4, 1 / 3])}}
  bundle.save(path, variables, CONFIG, {}, half=True)
  loaded, _, _ = bundle.load(path)
  np.testing.assert_array_equal(loaded["batch_stats"]["var"], variables["batch_stats"]["var"])


def test_a_scalar_stays_one_and_a_turned_array_keeps_its_order(tmp_path):
  path = tmp_path / "shapes.safetensors"
  turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
  bundle.save(path, {"params": {"scale": np.float32(4), "turned": turned}, "batch_stats": {}}, CONFIG, {})
  loaded = bundle.load(path)[0]["params"]
  assert loaded["scale"].shape == () and loaded["scale"] == 4
  np.testing.assert_array_equal(loaded["turned"], turned)
