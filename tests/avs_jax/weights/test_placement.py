"""Every tensor of a checkpoint finds its place, and one without a place is named."""

import json
import re

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import traverse_util

from avs_jax import encoders, systems, weights
from avs_jax.errors import InputError
from avs_jax.layers import BatchNorm, Conv, DepthwiseConv
from avs_jax.weights import dialects, placement

ENCODERS = {
  **{name: f"{name}.orig" for name in encoders.NAMES if re.match(r"pvt_v2_b[0-5]$|mit_b[0-5]$", name)},
  "vggish": "vggish.orig",
  "resnet50": "resnet50.torchvision",
  "efficientnet_lite0": "efficientnet_lite0.orig",
  "swin_base_w7": "swin_base_w7_mask2former.orig",
  "swin_base_w12": "swin_base_w12_mask2former.orig",
  "htsat": "htsat.orig",
}
AVSBENCH = {
  "s4_pvt": {},
  "ms3_pvt": {"visual": "pvt_v2_b5"},
  "ms3_resnet50": {"visual": "resnet50"},
  "avss_pvt": {"num_classes": 71},
  "avss_resnet50": {"visual": "resnet50", "num_classes": 71},
}


def shapes(path):
  listed = json.loads(path.read_text())
  return {key: tuple(value["shape"] if isinstance(value, dict) else value) for key, value in listed.items()}


def without_taps(listed):
  """Shapes without the axes of length 1 after the first two: a 1x1x1 convolution is a dense layer."""
  return {key: (*shape[:2], *(n for n in shape[2:] if n != 1)) for key, shape in listed.items()}


def zeros(listed):
  return {key: np.broadcast_to(np.float32(0), shape) for key, shape in listed.items()}


class Parts(nn.Module):
  """One of every kind of parameter."""

  @nn.compact
  def __call__(self, x, *, train):
    x = Conv(8, 3, 2, 1, name="conv1")(x)
    x = DepthwiseConv(name="dwconv")(x)
    x = BatchNorm(name="layers_0_1")(x, train=train)
    x = nn.LayerNorm(name="norm")(x)
    table = self.param("relative_position_bias_table", nn.initializers.zeros, (9, 2))
    return (
      nn.Dense(4, name="W_z_0")(x)
      + table.sum()
      + nn.Embed(3, 4, name="query_feat")(np.zeros(1, np.int32)).sum()
    )


@pytest.fixture
def parts(monkeypatch):
  monkeypatch.setattr(encoders, "NAMES", (*encoders.NAMES, "parts"))
  monkeypatch.setattr(encoders, "build", lambda name: Parts())
  names = weights.to_torch_names("parts")
  return {key: np.random.default_rng(0).normal(size=shape) for key, shape in names.items()}


def test_names_follow_from_flax_paths_by_one_rule(parts):
  assert weights.to_torch_names("parts") == {
    "W_z.0.bias": (4,),
    "W_z.0.weight": (4, 8),
    "conv1.bias": (8,),
    "conv1.weight": (8, 3, 3, 3),
    "dwconv.bias": (8,),
    "dwconv.weight": (8, 1, 3, 3),
    "layers.0.1.bias": (8,),
    "layers.0.1.running_mean": (8,),
    "layers.0.1.running_var": (8,),
    "layers.0.1.weight": (8,),
    "norm.bias": (8,),
    "norm.weight": (8,),
    "query_feat.weight": (3, 4),
    "relative_position_bias_table": (9, 2),
  }


def test_kernels_are_turned_and_everything_else_is_kept(parts):
  parts["W_z.0.weight"] = parts["W_z.0.weight"][:, :, None, None, None]
  parts["layers.0.1.num_batches_tracked"] = np.int64(3)
  parts["fc.weight"] = np.zeros((7, 7))
  variables = weights.from_torch("parts", parts)
  params, statistics = variables["params"], variables["batch_stats"]
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(variables))
  np.testing.assert_allclose(
    params["conv1"]["kernel"][1, 2, 0, 5], parts["conv1.weight"][5, 0, 1, 2], rtol=1e-6
  )
  np.testing.assert_allclose(
    params["dwconv"]["kernel"][1, 2, 0, 5], parts["dwconv.weight"][5, 0, 1, 2], rtol=1e-6
  )
  np.testing.assert_allclose(params["W_z_0"]["kernel"][3, 2], parts["W_z.0.weight"][2, 3, 0, 0, 0], rtol=1e-6)
  np.testing.assert_allclose(params["query_feat"]["embedding"], parts["query_feat.weight"], rtol=1e-6)
  np.testing.assert_allclose(params["norm"]["scale"], parts["norm.weight"], rtol=1e-6)
  np.testing.assert_allclose(statistics["layers_0_1"]["var"], parts["layers.0.1.running_var"], rtol=1e-6)
  np.testing.assert_allclose(
    params["relative_position_bias_table"], parts["relative_position_bias_table"], rtol=1e-6
  )


def test_missing_unexpected_and_misshapen_tensors_are_all_listed(parts):
  del parts["norm.weight"]
  parts["extra"] = np.zeros(1)
  parts["conv1.weight"] = np.zeros((8, 3, 5, 5))
  with pytest.raises(InputError) as error:
    weights.from_torch("parts", parts)
  text = str(error.value)
  for words in (
    "missing 1: norm.weight",
    "unexpected 1: extra",
    "conv1.weight is [8, 3, 5, 5] instead of [8, 3, 3, 3]",
  ):
    assert words in text


def test_long_lists_of_faults_are_cut(parts):
  with pytest.raises(InputError, match=r"missing 14: .* and 2 more"):
    weights.from_torch("parts", {})


def test_a_square_matrix_is_transposed_too():
  assert placement.to_flax_layout("kernel", np.array([[1, 2], [3, 4]]), (2, 2)).tolist() == [[1, 3], [2, 4]]
  assert placement.to_flax_layout("kernel", np.zeros((4, 6)), (6, 5)) is None
  assert placement.to_flax_layout("scale", np.zeros((4, 1)), (4,)) is None
  assert placement.to_flax_layout("temperature", np.array(3), ()).shape == ()


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_an_encoder_expects_the_published_names_and_shapes(golden, name):
  if name not in encoders.NAMES:
    pytest.skip(f"{name} is not among the encoders")
  listed = shapes(golden(f"backbones/{ENCODERS[name]}.json"))
  droppable = (*dialects.NEVER_WEIGHTS, *dialects.HEADS)
  assert weights.to_torch_names(name) == {
    k: v for k, v in listed.items() if not dialects.matches(k, droppable)
  }


@pytest.mark.parametrize("listed", sorted(AVSBENCH))
def test_avsbench_expects_the_published_names_and_shapes(golden, listed):
  overrides = AVSBENCH[listed]
  if overrides.get("visual", "pvt_v2_b5") not in encoders.NAMES:
    pytest.skip(f"{overrides['visual']} is not among the encoders")
  published = shapes(golden(f"avsbench/{listed}.state_dict.json"))
  droppable = (*dialects.NEVER_WEIGHTS, *dialects.dialect("avsbench", overrides).dead)
  published = {key: shape for key, shape in published.items() if not dialects.matches(key, droppable)}
  expected = weights.to_torch_names("avsbench", **overrides)
  ears = {key: shape for key, shape in expected.items() if key.startswith("audio_encoder.")}
  assert without_taps(published | ears) == without_taps(expected)
  assert len(ears) == 18


SMALL = {"visual": "conv_pyramid"}


def test_a_system_without_its_audio_encoder_lacks_it_in_the_variables():
  names = weights.to_torch_names("avsbench", **SMALL)
  seen = zeros({key: shape for key, shape in names.items() if not key.startswith("audio_encoder.")})
  assert "audio_encoder" not in weights.from_torch("avsbench", seen, **SMALL)["params"]
  seen["path4.resConfUnit1.conv1.weight"] = np.zeros((256, 256, 3, 3))
  heard = zeros({key: shape for key, shape in names.items() if key.startswith("audio_encoder.")})
  whole = seen | {key.replace("audio_encoder.", "audio_backbone."): value for key, value in heard.items()}
  variables = weights.from_torch("avsbench", whole, **SMALL)
  assert len(traverse_util.flatten_dict(variables["params"]["audio_encoder"])) == 18
  whole.popitem()
  with pytest.raises(InputError, match="missing 1: audio_encoder"):
    weights.from_torch("avsbench", whole, **SMALL)


def test_a_system_with_an_encoder_of_samples_has_its_tensors():
  args = {"width": 4, "depths": (1,), "heads": (1,), "window": 4, "side": 64}
  names = weights.to_torch_names("avsbench", **SMALL, audio="htsat", audio_args=args)
  ears = {key for key in names if key.startswith("audio_encoder.")}
  assert ears == {f"audio_encoder.{key}" for key in weights.to_torch_names("htsat", **args)}


def test_systems_do_not_drop_what_looks_like_a_head():
  state = zeros(weights.to_torch_names("avsbench", **SMALL)) | {"head.weight": np.zeros(1)}
  with pytest.raises(InputError, match="unexpected 1: head.weight"):
    weights.from_torch("avsbench", state, **SMALL)


def test_an_encoder_takes_its_part_out_of_a_larger_model():
  part = zeros(weights.to_torch_names("mit_b0"))
  whole = {f"module.encoder_backbone.{key}": value for key, value in part.items()}
  whole["module.conv1.conv2d_list.0.weight"] = np.zeros((256, 512, 3, 3))
  weights.from_torch("mit_b0", whole)
  del whole["module.encoder_backbone.norm4.bias"]
  with pytest.raises(InputError, match="tensors under 'module.encoder_backbone.' .* missing 1: norm4.bias"):
    weights.from_torch("mit_b0", whole)


@pytest.mark.golden
def test_faults_of_another_librarys_file_bear_its_own_names(golden):
  state = zeros(shapes(golden("backbones/pvt_v2_b0.hf.json")))
  base = "encoder.layers.3.blocks.1.attention"
  del state[f"{base}.value.weight"]
  state[f"{base}.query.weight"] = np.zeros((3, 3))
  state[f"{base}.key.bias"] = np.zeros(3)
  state["encoder.layers.3.blocks.7.attention.query.bias"] = np.zeros(3)
  with pytest.raises(InputError) as error:
    weights.from_torch("pvt_v2_b0", state)
  for words in (
    f"missing 1: {base}.value.weight;",
    "unexpected 1: encoder.layers.3.blocks.7.attention.query.bias;",
    f"wrong shape 2: parts of block4.1.attn.kv.bias: {base}.key.bias [3] beside {base}.value.bias [256],",
    f"{base}.query.weight is [3, 3] instead of [256, 256]",
  ):
    assert words in str(error.value)


def test_names_of_neither_kind_are_refused():
  with pytest.raises(InputError, match="'pvt' is neither an encoder nor a system; give one of: pvt_v2_b0"):
    weights.to_torch_names("pvt")
  assert set(systems.NAMES).isdisjoint(encoders.NAMES)


def test_blocks_are_stacked_for_an_encoder_that_scans_them():
  names = weights.to_torch_names("mit_b0")
  state = {
    key: np.random.default_rng(0).normal(size=shape).astype(np.float32) for key, shape in names.items()
  }
  stacked = weights.from_torch("mit_b0", state, scan=True)["params"]
  abstract = placement.abstract_variables("mit_b0", scan=True)["params"]
  assert jax.tree.map(np.shape, stacked) == jax.tree.map(lambda leaf: leaf.shape, abstract)
  kernel = stacked["block2"]["attn"]["q"]["kernel"]
  np.testing.assert_array_equal(kernel[1], state["block2.1.attn.q.weight"].T)
  assert isinstance(kernel, np.ndarray)
  assert weights.to_torch_names("mit_b0", scan=True) == names


def test_one_tensor_may_fill_several_places(parts, monkeypatch):
  shared = dialects.Dialect(renames=((r"^norm\.", "layers.0.1."),))
  monkeypatch.setitem(dialects.DIALECTS, "parts", lambda overrides: shared)
  state = {key: value for key, value in parts.items() if not key.startswith("norm.")}
  params = weights.from_torch("parts", state)["params"]
  np.testing.assert_array_equal(params["norm"]["scale"], params["layers_0_1"]["scale"])


@pytest.mark.parametrize("prefix", ["", "pproc.", "audio_backbone.pproc."])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_the_post_processing_of_vggish_is_found_wherever_it_lies(prefix, shape):
  vectors, means = np.arange(9.0).reshape(3, 3), np.arange(3.0)
  state = {f"{prefix}pca_eigen_vectors": vectors, f"{prefix}pca_means": means.reshape(shape)}
  got = weights.postprocessing_from_torch({"features.0.weight": np.zeros(1), **state})
  np.testing.assert_array_equal(got[0], vectors)
  np.testing.assert_array_equal(got[1], means)
  assert got[0].dtype == got[1].dtype == np.float32


def test_a_post_processing_that_lacks_a_tensor_or_does_not_fit_is_refused():
  with pytest.raises(InputError, match=r"0 tensors are called pca_means \(none\); give the tensors of"):
    weights.postprocessing_from_torch({"pca_eigen_vectors": np.zeros((3, 3))})
  with pytest.raises(InputError, match=r"2 tensors are called pca_means \(a.pca_means, pca_means\)"):
    both = {"a.pca_means": np.zeros(3), "pca_means": np.zeros(3)}
    weights.postprocessing_from_torch({"pca_eigen_vectors": np.zeros((3, 3)), **both})
  for means in (4, (1, 3), ()):
    with pytest.raises(InputError, match=r"pca_eigen_vectors is \[3, 3\] and pca_means"):
      weights.postprocessing_from_torch({"pca_eigen_vectors": np.zeros((3, 3)), "pca_means": np.zeros(means)})
