"""Names of other libraries against the lists that those libraries print."""

import json

import numpy as np
import pytest

from avs_jax.weights import names

MIX = [f"pvt_v2_b{i}" for i in range(6)] + [f"mit_b{i}" for i in range(6)]
LISTS = [
  *((name, f"{name}.hf.json", f"{name}.orig.json") for name in MIX),
  *((name, f"{name}.hf_in_memory.json", f"{name}.orig.json") for name in MIX if name.startswith("mit")),
  *((name, f"{name}.timm.json", f"{name}.orig.json") for name in ("pvt_v2_b0", "pvt_v2_b5")),
  ("resnet50", "resnet50.hf.json", "resnet50.torchvision.json"),
  ("swin_base_w7", "swin_base_w7_224.hf.json", "swin_base_w7_224.orig.json"),
  ("swin_base_w7", "swin_base_w7_224.hf_in_memory.json", "swin_base_w7_224.orig.json"),
  ("swin_base_w7", "swin_base_w7_224.timm.json", "swin_base_w7_224.orig.json"),
  ("swin_base_w12", "swin_base_w12_384.hf.json", "swin_base_w12_384.orig.json"),
  ("swin_base_w12", "swin_base_w12_384.timm.json", "swin_base_w12_384.orig.json"),
  ("swin_base_w7", "swin_base_w7_backbone.hf.json", "swin_base_w7_mask2former.orig.json"),
  ("swin_base_w7", "swin_base_w7_backbone.hf_in_memory.json", "swin_base_w7_mask2former.orig.json"),
  ("swin_base_w12", "swin_base_w12_backbone.hf.json", "swin_base_w12_mask2former.orig.json"),
  ("htsat", "htsat_clap_audio.hf.json", "htsat.orig.json"),
]


def shapes(path):
  return {key: tuple(shape) for key, shape in json.loads(path.read_text()).items()}


def weights(listed):
  return {
    key: shape
    for key, shape in listed.items()
    if not key.endswith(("num_batches_tracked", "relative_position_index", "attn_mask"))
    and not key.startswith(("head.", "fc.", "_fc.", "tscam_conv.", "predictor."))
  }


def translated(name, listed, wanted):
  state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in listed.items()}
  return {key: value.shape for key, value in names.to_original(name, state, wanted).items()}


@pytest.mark.parametrize("prefix", ("", "some.model."))
@pytest.mark.parametrize(("name", "theirs", "original"), LISTS, ids=[theirs for _, theirs, _ in LISTS])
def test_every_listed_name_becomes_an_original_one(golden, name, theirs, original, prefix):
  wanted = weights(shapes(golden(f"backbones/{original}")))
  listed = {prefix + key: shape for key, shape in weights(shapes(golden(f"backbones/{theirs}"))).items()}
  if prefix:
    listed["some.decode_head.conv.weight"] = (3, 3)
  assert translated(name, listed, wanted) == wanted


@pytest.mark.parametrize(
  "listed",
  ("mit_b0.orig", "pvt_v2_b0.orig", "resnet50.torchvision", "vggish.orig", "swin_base_w7_mask2former.orig")
  + ("swin_base_w12_384.orig", "htsat.orig", "beats_pretrained.orig", "efficientnet_lite0.orig"),
)
def test_original_names_stay_what_they_are(golden, listed):
  wanted = weights(shapes(golden(f"backbones/{listed}.json")))
  assert translated(listed, {f"a.{key}": shape for key, shape in wanted.items()}, wanted) == wanted


def test_key_and_value_are_joined_in_this_order():
  listed = {
    "encoder.patch_embeddings.0.proj.weight": np.zeros((2, 3, 7, 7)),
    "encoder.block.0.0.attention.self.value.weight": np.full((2, 2), 2.0),
    "encoder.block.0.0.attention.self.key.weight": np.full((2, 2), 1.0),
  }
  fused = names.to_original("mit_b0", listed, ())["block1.0.attn.kv.weight"]
  np.testing.assert_array_equal(fused[:, 0], [1, 1, 2, 2])


def test_names_of_openmmlab_become_original_ones(golden):
  wanted = weights(shapes(golden("backbones/mit_b0.orig.json")))
  theirs = {}
  for key, shape in wanted.items():
    first, _, rest = key.partition(".")
    stage = int(first[-1]) - 1
    if first.startswith("patch_embed"):
      theirs[f"backbone.layers.{stage}.0.{rest.replace('proj', 'projection')}"] = shape
    elif first.startswith("norm"):
      theirs[f"backbone.layers.{stage}.2.{rest}"] = shape
    elif ".attn.q." in key:
      kind = key.rpartition(".")[2]
      base = f"backbone.layers.{stage}.1.{rest.partition('.')[0]}"
      theirs[f"{base}.attn.attn.in_proj_{kind}"] = (3 * shape[0], *shape[1:])
    elif ".attn.kv." not in key:
      rest = rest.replace("attn.proj", "attn.attn.out_proj").replace("mlp.dwconv.dwconv", "ffn.layers.1")
      rest = rest.replace("mlp.fc1", "ffn.layers.0").replace("mlp.fc2", "ffn.layers.4")
      theirs[f"backbone.layers.{stage}.1.{rest}"] = shape
  theirs["decode_head.conv_seg.weight"] = (150, 256)
  assert translated("mit_b0", theirs, wanted) == wanted


def test_names_of_detectron_become_original_ones(golden):
  wanted = weights(shapes(golden("backbones/resnet50.torchvision.json")))
  theirs = {}
  for key, shape in wanted.items():
    key = key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    for i in (1, 2, 3):
      key = key.replace(f"bn{i}.", f"conv{i}.norm.")
    for i in (1, 2, 3, 4):
      key = key.replace(f"layer{i}.", f"res{i + 1}.")
    theirs[key if key.startswith("res") else f"stem.{key}"] = shape
  assert translated("resnet50", theirs, wanted) == wanted


def test_a_two_branch_resnet_gives_its_first_branch(golden):
  wanted = weights(shapes(golden("backbones/resnet50.torchvision.json")))
  both = {}
  for key, shape in wanted.items():
    if key.startswith(("layer3", "layer4")):
      both |= {f"resnet.{key[:6]}_{branch}{key[6:]}": shape for branch in (1, 2)}
    else:
      both[f"resnet.{key}"] = shape
  both["path4.resConfUnit1.conv1.weight"] = (256, 256, 3, 3)
  assert translated("resnet50", both, wanted) == wanted


@pytest.mark.parametrize("suffix", ("", ":0"))
def test_tensorflow_variables_of_vggish_are_renamed_and_turned(golden, suffix):
  wanted = weights(shapes(golden("backbones/vggish.orig.json")))
  order = ("conv1", "conv2", "conv3/conv3_1", "conv3/conv3_2", "conv4/conv4_1", "conv4/conv4_2", "fc1/fc1_1")
  theirs = {}
  for place, name in enumerate((*order, "fc1/fc1_2", "fc2")):
    weight, bias = list(wanted.values())[2 * place : 2 * place + 2]
    turned = (*weight[2:], weight[1], weight[0])
    theirs |= {f"vggish/{name}/weights{suffix}": turned, f"vggish/{name}/biases{suffix}": bias}
  assert translated("vggish", theirs, wanted) == wanted
  kernel = np.arange(3 * 3 * 64, dtype=np.float32).reshape(3, 3, 1, 64)
  torch = names.to_original("vggish", {f"vggish/conv1/weights{suffix}": kernel}, ())["features.0.weight"]
  assert torch[5, 0, 2, 1] == kernel[2, 1, 0, 5]


def test_unknown_spellings_and_names_are_left_alone():
  state = {"a.b": np.zeros(1), "a.num_batches_tracked": np.zeros(())}
  assert names.to_original("resnet50", state, ()).keys() == {"a.b"}
  assert names.to_original("avsbench", state, ()).keys() == {"a.b"}


def test_a_dense_swin_from_an_imagenet_classifier_starts_with_plain_norms(golden):
  wanted = weights(shapes(golden("backbones/swin_base_w7_mask2former.orig.json")))
  for theirs in ("swin_base_w7_224.orig.json", "swin_base_w7_224.hf.json", "swin_base_w7_224.timm.json"):
    listed = weights(shapes(golden(f"backbones/{theirs}")))
    assert translated("swin_base_w7", listed, wanted) == wanted
  listed = {
    "patch_embed.proj.weight": np.zeros(1),
    "patch_embed.norm.weight": np.zeros(8),
    "norm.weight": np.zeros(64),
  }
  state = names.to_original("swin_base_w7", listed, wanted)
  np.testing.assert_array_equal(state["norm2.weight"], np.ones(32))
  np.testing.assert_array_equal(state["norm3.bias"], np.zeros(64))


def test_swin_of_openmmlab_has_its_merged_channels_put_in_order(golden):
  wanted = weights(shapes(golden("backbones/swin_base_w7_mask2former.orig.json")))
  spelt = {"patch_embed.proj": "patch_embed.projection", "layers.": "stages.", ".attn.": ".attn.w_msa."}
  spelt |= {"mlp.fc1": "ffn.layers.0.0", "mlp.fc2": "ffn.layers.1"}
  theirs = {}
  for key, shape in wanted.items():
    for ours, other in spelt.items():
      key = key.replace(ours, other)
    theirs[key] = shape
  assert translated("swin_base_w7", theirs, wanted) == wanted
  # A column of theirs is channel*4 + row*2 + column; of the original, phase*C + channel with rows fastest.
  channels, width = 3, 12
  theirs = np.array([[c * 4 + row * 2 + col for c in range(channels) for row in (0, 1) for col in (0, 1)]])
  state = {
    "patch_embed.projection.weight": theirs,
    "stages.0.downsample.reduction.weight": theirs.astype(float),
  }
  got = names.to_original("swin_base_w7", state, ())["layers.0.downsample.reduction.weight"]
  phases = ((0, 0), (1, 0), (0, 1), (1, 1))
  expected = [c * 4 + row * 2 + col for row, col in phases for c in range(channels)]
  assert got.shape == (1, width)
  np.testing.assert_array_equal(got[0], expected)


def test_query_key_and_value_of_swin_are_joined_in_this_order():
  state = {"embeddings.patch_embeddings.projection.weight": np.zeros(1)}
  for value, part in enumerate(("query", "key", "value")):
    state[f"encoder.layers.0.blocks.0.attention.self.{part}.bias"] = np.full(2, value)
  joined = names.to_original("swin_base_w7", state, ())["layers.0.blocks.0.attn.qkv.bias"]
  np.testing.assert_array_equal(joined, [0, 0, 1, 1, 2, 2])


def test_weight_norm_of_newer_torch_and_repeated_tables_of_beats_are_understood(golden):
  wanted = weights(shapes(golden("backbones/beats_pretrained.orig.json")))
  spelt = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
  theirs = {}
  for key, shape in wanted.items():
    stem, _, leaf = key.rpartition(".")
    theirs[f"{stem}.{spelt.get(leaf, leaf)}"] = shape
  once = {k: v for k, v in wanted.items() if not k.endswith("attention_bias.weight") or ".layers.0." in k}
  assert translated("beats", theirs, once) == once


def lacking(golden, name, theirs, original, gone, prefix=""):
  """What the message would name when the file lacks one tensor."""
  wanted = weights(shapes(golden(f"backbones/{original}.json")))
  listed = weights(shapes(golden(f"backbones/{theirs}.json")))
  state = {
    prefix + key: np.broadcast_to(np.float32(0), shape) for key, shape in listed.items() if key != gone
  }
  assert len(state) == len(listed) - 1
  found = names.translate(name, state, wanted)
  assert found.prefix == prefix
  return [found.theirs(key) for key in wanted.keys() - found.state.keys()]


@pytest.mark.parametrize("prefix", ("", "some.model."))
@pytest.mark.parametrize(
  ("name", "theirs", "original", "gone"),
  [
    ("resnet50", "resnet50.torchvision", "resnet50.torchvision", "bn1.weight"),
    ("resnet50", "resnet50.hf", "resnet50.torchvision", "embedder.embedder.convolution.weight"),
    ("resnet50", "resnet50.hf", "resnet50.torchvision", "embedder.embedder.normalization.weight"),
    ("resnet50", "resnet50.hf", "resnet50.torchvision", "encoder.stages.1.layers.0.shortcut.convolution.weight"),
    ("pvt_v2_b0", "pvt_v2_b0.hf", "pvt_v2_b0.orig", "encoder.layers.0.patch_embedding.proj.weight"),
    ("pvt_v2_b0", "pvt_v2_b0.hf", "pvt_v2_b0.orig", "encoder.layers.3.blocks.1.attention.value.weight"),
    ("pvt_v2_b0", "pvt_v2_b0.hf", "pvt_v2_b0.orig", "encoder.layers.2.layer_norm.bias"),
    ("pvt_v2_b0", "pvt_v2_b0.timm", "pvt_v2_b0.orig", "patch_embed.proj.weight"),
    ("mit_b0", "mit_b0.hf_in_memory", "mit_b0.orig", "stages.0.blocks.0.attention.k_proj.bias"),
    ("vggish", "vggish.orig", "vggish.orig", "features.0.weight"),
    ("swin_base_w7", "swin_base_w7_224.hf", "swin_base_w7_224.orig", "embeddings.norm.bias"),
    ("swin_base_w7", "swin_base_w7_224.timm", "swin_base_w7_224.orig", "layers.1.downsample.norm.weight"),
  ],
)  # fmt: skip
def test_one_tensor_that_is_lacking_is_named_as_its_file_would(golden, prefix, name, theirs, original, gone):
  assert lacking(golden, name, theirs, original, gone, prefix) == [gone]


def test_parts_are_joined_only_where_all_are_there_and_alike(golden):
  wanted = weights(shapes(golden("backbones/pvt_v2_b0.orig.json")))
  listed = weights(shapes(golden("backbones/pvt_v2_b0.hf.json")))
  state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in listed.items()}
  base, joined = "encoder.layers.0.blocks.0.attention", "block1.0.attn.kv.weight"
  found = names.translate("pvt_v2_b0", state | {f"{base}.key.weight": np.zeros((3, 32))}, wanted)
  assert joined not in found.state
  assert found.uneven == {joined: f"{base}.key.weight [3, 32] beside {base}.value.weight [32, 32]"}
  del state[f"{base}.key.weight"], state[f"{base}.value.weight"]
  found = names.translate("pvt_v2_b0", state, wanted)
  assert found.theirs(joined) == f"{base}.key.weight, {base}.value.weight"
  assert found.theirs("block1.0.attn.q.weight") == f"{base}.query.weight"
  assert found.theirs("block1.1.attn.kv.weight").count(" + ") == 1
  assert found.theirs("nothing.like.it") == "nothing.like.it"


def test_a_projection_that_the_file_has_whole_is_named_as_one():
  anchor = {"layers.0.0.projection.weight": np.zeros((2, 3, 7, 7))}
  state = {f"layers.0.1.0.attn.attn.in_proj_{kind}": np.zeros((6, 2)) for kind in ("weight", "bias")}
  found = names.translate("mit_b0", {**anchor, **state}, ())
  assert found.theirs("block1.0.attn.q.weight") == "layers.0.1.0.attn.attn.in_proj_weight"
  assert found.theirs("block1.1.attn.kv.bias") == "layers.0.1.1.attn.attn.in_proj_bias"


def test_a_file_of_something_else_keeps_its_names(golden):
  wanted = weights(shapes(golden("backbones/resnet50.torchvision.json")))
  listed = weights(shapes(golden("backbones/pvt_v2_b0.hf.json")))
  assert translated("resnet50", listed, wanted) == listed
