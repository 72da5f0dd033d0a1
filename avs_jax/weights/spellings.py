"""How other libraries name the tensors of published backbones, as tables of rewritings.

Each table ends in the names of the original repository, which are the Flax names here by one rule.
"""

import dataclasses
import re
from collections.abc import Callable, Collection

import numpy as np

from avs_jax.weights.dialects import Rewrites

State = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Spelling:
  """One library's way to name a backbone.

  Attributes:
    anchor: a tensor that every whole file of this spelling holds and, but for one that only counts its stages
      otherwise, no file of another does.
    rewrites: (pattern, replacement) pairs, each applied once, in turn; "<1+1>" is group 1 plus one.
      A replacement with "#0", "#1" ... names rows of one tensor, which are joined in that order.
    finish: changes tensors where names alone do not do; takes the renamed state and the names wanted.
    outside: pattern of names that belong to the backbone although they lie outside its prefix.
    before: pairs from the names that `finish` makes back to those it is given, where they differ; for messages.
  """

  anchor: str
  rewrites: Rewrites = ()
  finish: Callable[[State, Collection[str]], State] = lambda state, wanted: state
  outside: str | None = None
  before: Rewrites = ()


def rename(name: str, rewrites: Rewrites) -> str:
  """Applies every pair of `rewrites` once, in turn."""
  for pattern, replacement in rewrites:
    if found := re.search(pattern, name):
      text = found.expand(replacement)
      while count := re.search(r"<(\d)([+-]\d)>", text):
        text = text.replace(count[0], str(int(found[int(count[1])]) + int(count[2])))
      name = name[: found.start()] + text + name[found.end() :]
  return name


def _without(state: State, pattern: str, wanted: Collection[str]) -> State:
  """Leaves out what matches and is not wanted."""
  return {name: value for name, value in state.items() if name in wanted or not re.search(pattern, name)}


# PVT-v2 and MiT, which are one network.


def _split_mmseg(state: State, wanted: Collection[str]) -> State:
  """OpenMMLab's MiT: one projection for query, key and value; dense layers kept as 1x1 convolutions."""
  out: State = {}
  for name, value in state.items():
    base, mark, kind = name.partition("attn.in_proj_")
    if mark:
      value = np.atleast_1d(value)
      width = value.shape[0] // 3
      out[f"{base}attn.q.{kind}"], out[f"{base}attn.kv.{kind}"] = value[:width], value[width:]
    else:
      out[name] = value
  return out


_HF_MLP = (r"\.mlp\.dense(\d)\.", r".mlp.fc\1.")
_MIX = (
  Spelling(
    "encoder.layers.0.patch_embedding.proj.weight",  # Hugging Face PvtV2Model
    (
      (r"^encoder\.layers\.(\d+)\.patch_embedding\.proj", "patch_embed<1+1>.proj"),
      (r"^encoder\.layers\.(\d+)\.patch_embedding\.layer_norm", "patch_embed<1+1>.norm"),
      (r"^encoder\.layers\.(\d+)\.blocks", "block<1+1>"),
      (r"^encoder\.layers\.(\d+)\.layer_norm", "norm<1+1>"),
      (r"\.layer_norm_([12])\.", r".norm\1."),
      (r"\.attention\.query\.", ".attn.q."),
      (r"\.attention\.key\.", ".attn.kv#0."),
      (r"\.attention\.value\.", ".attn.kv#1."),
      (r"\.attention\.spatial_reduction\.", ".attn.sr."),
      (r"\.attention\.layer_norm\.", ".attn.norm."),
      (r"\.attention\.proj\.", ".attn.proj."),
      _HF_MLP,
    ),
  ),
  Spelling(
    "encoder.patch_embeddings.0.proj.weight",  # Hugging Face SegformerModel, as files hold it
    (
      (r"^encoder\.patch_embeddings\.(\d+)\.proj", "patch_embed<1+1>.proj"),
      (r"^encoder\.patch_embeddings\.(\d+)\.layer_norm", "patch_embed<1+1>.norm"),
      (r"^encoder\.block\.(\d+)", "block<1+1>"),
      (r"^encoder\.layer_norm\.(\d+)", "norm<1+1>"),
      (r"\.layer_norm_([12])\.", r".norm\1."),
      (r"\.attention\.self\.query\.", ".attn.q."),
      (r"\.attention\.self\.key\.", ".attn.kv#0."),
      (r"\.attention\.self\.value\.", ".attn.kv#1."),
      (r"\.attention\.self\.sr\.", ".attn.sr."),
      (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
      (r"\.attention\.output\.dense\.", ".attn.proj."),
      _HF_MLP,
    ),
  ),
  Spelling(
    "stages.0.patch_embeddings.proj.weight",  # the same in the memory of transformers 5
    (
      (r"^stages\.(\d+)\.patch_embeddings\.proj", "patch_embed<1+1>.proj"),
      (r"^stages\.(\d+)\.patch_embeddings\.layer_norm", "patch_embed<1+1>.norm"),
      (r"^stages\.(\d+)\.blocks", "block<1+1>"),
      (r"^stages\.(\d+)\.layer_norm", "norm<1+1>"),
      (r"\.layernorm_before\.", ".norm1."),
      (r"\.layernorm_after\.", ".norm2."),
      (r"\.attention\.q_proj\.", ".attn.q."),
      (r"\.attention\.k_proj\.", ".attn.kv#0."),
      (r"\.attention\.v_proj\.", ".attn.kv#1."),
      (r"\.attention\.o_proj\.", ".attn.proj."),
      (r"\.attention\.sequence_reduction\.sequence_reduction\.", ".attn.sr."),
      (r"\.attention\.sequence_reduction\.layer_norm\.", ".attn.norm."),
    ),
  ),
  Spelling(
    "layers.0.0.projection.weight",  # OpenMMLab
    (
      (r"^layers\.(\d+)\.0\.projection", "patch_embed<1+1>.proj"),
      (r"^layers\.(\d+)\.0\.norm", "patch_embed<1+1>.norm"),
      (r"^layers\.(\d+)\.1\.", "block<1+1>."),
      (r"^layers\.(\d+)\.2\.", "norm<1+1>."),
      (r"\.attn\.attn\.in_proj_", ".attn.in_proj_"),
      (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
      (r"\.ffn\.layers\.0\.", ".mlp.fc1."),
      (r"\.ffn\.layers\.1\.", ".mlp.dwconv.dwconv."),
      (r"\.ffn\.layers\.4\.", ".mlp.fc2."),
    ),
    _split_mmseg,
    before=((r"\.attn\.(q|kv)\.(weight|bias)$", r".attn.in_proj_\2"),),
  ),
  Spelling(
    "patch_embed.proj.weight",  # timm
    (
      (r"^patch_embed\.", "patch_embed1."),
      (r"^stages\.(\d+)\.downsample\.", "patch_embed<1+1>."),
      (r"^stages\.(\d+)\.blocks\.", "block<1+1>."),
      (r"^stages\.(\d+)\.norm\.", "norm<1+1>."),
      (r"\.mlp\.dwconv\.(weight|bias)$", r".mlp.dwconv.dwconv.\1"),
    ),
  ),
  Spelling("patch_embed1.proj.weight"),
)

# ResNet.

_RESNET = (
  Spelling(
    "embedder.embedder.convolution.weight",  # Hugging Face
    (
      (r"^embedder\.embedder\.convolution\.", "conv1."),
      (r"^embedder\.embedder\.normalization\.", "bn1."),
      (r"^encoder\.stages\.(\d+)\.layers\.", "layer<1+1>."),
      (r"\.layer\.(\d)\.convolution\.", ".conv<1+1>."),
      (r"\.layer\.(\d)\.normalization\.", ".bn<1+1>."),
      (r"\.shortcut\.convolution\.", ".downsample.0."),
      (r"\.shortcut\.normalization\.", ".downsample.1."),
    ),
  ),
  Spelling(
    "stem.conv1.weight",  # detectron2
    (
      (r"^stem\.conv1\.norm\.", "bn1."),
      (r"^stem\.conv1\.", "conv1."),
      (r"^res(\d)\.", "layer<1-1>."),
      (r"\.conv(\d)\.norm\.", r".bn\1."),
      (r"\.shortcut\.norm\.", ".downsample.1."),
      (r"\.shortcut\.", ".downsample.0."),
    ),
  ),
  Spelling(
    "bn1.weight",  # torchvision, timm; AVSBench's two branches hold the upper layers twice and use the first
    ((r"^layer([34])_1\.", r"layer\1."),),
    lambda state, wanted: {k: v for k, v in state.items() if not re.match(r"layer[34]_2\.", k)},
  ),
)

# VGGish.


def _from_tensorflow(state: State, wanted: Collection[str]) -> State:
  """TensorFlow keeps kernels as [rows, columns, in, out] and matrices as [in, out]."""
  turned = {4: (3, 2, 0, 1), 2: (1, 0)}
  return {
    name: value.transpose(turned[value.ndim]) if value.ndim in turned else value
    for name, value in state.items()
  }


_TF_VGGISH = {
  "conv1": "features.0", "conv2": "features.3", "conv3/conv3_1": "features.6", "conv3/conv3_2": "features.8",
  "conv4/conv4_1": "features.11", "conv4/conv4_2": "features.13",
  "fc1/fc1_1": "embeddings.0", "fc1/fc1_2": "embeddings.2", "fc2": "embeddings.4",
}  # fmt: skip
_VGGISH = (
  *(
    Spelling(
      f"vggish/conv1/weights{suffix}",
      (
        *((rf"^vggish/{tf}/", f"{torch}.") for tf, torch in _TF_VGGISH.items()),
        (r"\.weights(:0)?$", ".weight"),
        (r"\.biases(:0)?$", ".bias"),
      ),
      _from_tensorflow,
    )
    for suffix in ("", ":0")
  ),
  Spelling("features.0.weight", finish=lambda state, wanted: _without(state, r"^pproc\.", wanted)),
)


# Swin: the dense form has a norm for each map, the ImageNet classifier one after the last stage.

_HF_WINDOWED: Rewrites = (
  (r"\.layernorm_before\.", ".norm1."),
  (r"\.layernorm_after\.", ".norm2."),
  (r"\.attention\.(self\.query|q_proj)\.", ".attn.qkv#0."),
  (r"\.attention\.(self\.key|k_proj)\.", ".attn.qkv#1."),
  (r"\.attention\.(self\.value|v_proj)\.", ".attn.qkv#2."),
  (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
  (r"\.attention\.output\.swin_adapt_1\.", ".attn.swin_adapt.1."),
  (r"\.output\.swin_adapt_3\.", ".mlp.swin_adapt.3."),
  (r"\.attention\.\w+\.relative_position_bias_table$", ".attn.relative_position_bias_table"),
  (r"\.intermediate\.dense\.", ".mlp.fc1."),
  (r"\.output\.dense\.", ".mlp.fc2."),
)


def _norms(state: State, wanted: Collection[str]) -> State:
  """Gives a dense Swin the norms that an ImageNet classifier lacks, and drops the classifier's own."""
  stem = state.get("patch_embed.norm.weight")
  if "norm0.weight" in wanted and "norm.weight" in state and "norm0.weight" not in state and stem is not None:
    width = stem.size
    for i in range(4):
      state[f"norm{i}.weight"] = np.ones(width * 2**i, np.float32)
      state[f"norm{i}.bias"] = np.zeros(width * 2**i, np.float32)
  return _without(state, r"^(swin\.layernorm|norm)\.", wanted)


def _mmseg_merging(state: State, wanted: Collection[str]) -> State:
  """OpenMMLab merges patches channel by channel, and by rows before columns; the original phase by phase."""
  for name, value in state.items():
    if ".downsample." in name and value.ndim and value.shape[-1] % 4 == 0:
      phases = np.moveaxis(value.reshape(*value.shape[:-1], -1, 4), -1, -2)[..., [0, 2, 1, 3], :]
      state[name] = phases.reshape(value.shape)
  return _norms(state, wanted)


_SWIN = (
  Spelling(
    "embeddings.patch_embeddings.projection.weight",  # Hugging Face, in files and in memory
    (
      (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
      (r"^embeddings\.norm\.", "patch_embed.norm."),
      (r"^encoder\.layers\.", "layers."),
      (r"^layernorm\.", "norm."),
      (r"^hidden_states_norms\.stage(\d)\.", "norm<1-1>."),
      *_HF_WINDOWED,
    ),
    _norms,
    outside=r"hidden_states_norms\.",
  ),
  Spelling(
    "patch_embed.projection.weight",  # OpenMMLab
    (
      (r"^patch_embed\.projection\.", "patch_embed.proj."),
      (r"^stages\.", "layers."),
      (r"\.attn\.w_msa\.", ".attn."),
      (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
      (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    ),
    _mmseg_merging,
  ),
  Spelling("patch_embed.proj.weight", finish=_norms),  # the original, Mask2Former
  Spelling(  # timm counts a patch merging to the stage after it, the original to the stage before
    "patch_embed.proj.weight", ((r"^layers\.(\d+)\.downsample\.", "layers.<1-1>.downsample."),), _norms
  ),
)

# HTS-AT, BEATs, EfficientNet.

_HTSAT = (
  Spelling("batch_norm.weight", ((r"^batch_norm\.", "bn0."), *_HF_WINDOWED)),  # Hugging Face ClapAudio
  Spelling(
    "bn0.weight",
    finish=lambda state, wanted: _without(state, r"^(spectrogram_extractor|logmel_extractor)\.", wanted),
  ),
)
_BEATS = (
  Spelling(
    "post_extract_proj.weight",
    (
      (r"\.parametrizations\.weight\.original0$", ".weight_g"),
      (r"\.parametrizations\.weight\.original1$", ".weight_v"),
    ),
    # One table serves all layers; files repeat it in each.
    lambda state, wanted: _without(state, r"relative_attention_bias\.weight$", wanted),
  ),
)
_EFFICIENTNET = (Spelling("_conv_stem.weight"),)

# Mask2Former as its authors' files have it (detectron2), under the names of Hugging Face, whose heirs
# bias_in_AVS's files are. The backbone keeps its own names.


def _apart(state: State, wanted: Collection[str]) -> State:
  """Hugging Face has three projections in the self-attention where PyTorch's module has one."""
  for name in [name for name in state if ".self_attn.in_proj_" in name]:
    base, _, kind = name.partition("in_proj_")
    for part, rows in zip("qkv", np.array_split(np.atleast_1d(state.pop(name)), 3), strict=True):
      state[f"{base}{part}_proj.{kind}"] = rows
  return state


_PIXELS, _PREDICTOR = r"^sem_seg_head\.pixel_decoder\.", r"^sem_seg_head\.predictor\."
_TO_PIXELS, _TO_QUERIES = "model.pixel_level_module.decoder.", "model.transformer_module."
_MASK2FORMER = (
  Spelling(
    "sem_seg_head.predictor.query_feat.weight",
    (
      (r"^backbone\.", "model.pixel_level_module.encoder."),
      (_PIXELS + r"transformer\.", _TO_PIXELS),
      (_PIXELS + r"input_proj\.", f"{_TO_PIXELS}input_projections."),
      (_PIXELS + r"mask_features\.", f"{_TO_PIXELS}mask_projection."),
      (_PIXELS + r"(adapter_1|layer_1)\.norm\.", rf"{_TO_PIXELS}\1.1."),
      (_PIXELS + r"(adapter_1|layer_1)\.", rf"{_TO_PIXELS}\1.0."),
      (_PREDICTOR + r"transformer_(self|cross)_attention_layers\.(\d+)\.norm\.",
       rf"{_TO_QUERIES}decoder.layers.\2.\1_attn_layer_norm."),
      (_PREDICTOR + r"transformer_(self|cross)_attention_layers\.(\d+)\.(self|multihead)_attn\.",
       rf"{_TO_QUERIES}decoder.layers.\2.\1_attn."),
      (_PREDICTOR + r"transformer_ffn_layers\.(\d+)\.norm\.", rf"{_TO_QUERIES}decoder.layers.\1.final_layer_norm."),
      (_PREDICTOR + r"transformer_ffn_layers\.", f"{_TO_QUERIES}decoder.layers."),
      (_PREDICTOR + r"decoder_norm\.", f"{_TO_QUERIES}decoder.layernorm."),
      (_PREDICTOR + r"mask_embed\.layers\.(\d)\.", rf"{_TO_QUERIES}decoder.mask_predictor.mask_embedder.\1.0."),
      (_PREDICTOR + r"query_embed\.", f"{_TO_QUERIES}queries_embedder."),
      (_PREDICTOR + r"query_feat\.", f"{_TO_QUERIES}queries_features."),
      (_PREDICTOR + r"level_embed\.", f"{_TO_QUERIES}level_embed."),
      (_PREDICTOR + r"class_embed\.", "class_predictor."),
      (r"(coder\.(?:encoder\.)?layers\.\d+)\.linear(\d)\.", r"\1.fc\2."),
      (r"(encoder\.layers\.\d+)\.norm1\.", r"\1.self_attn_layer_norm."),
      (r"(encoder\.layers\.\d+)\.norm2\.", r"\1.final_layer_norm."),
    ),
    _apart,
    before=((r"\.self_attn\.[qkv]_proj\.(weight|bias)$", r".self_attn.in_proj_\1"),),
  ),
)  # fmt: skip

# By the first letters of an encoder's or a system's name.
FAMILIES: dict[str, tuple[Spelling, ...]] = {
  "pvt_v2": _MIX,
  "mit": _MIX,
  "swin": _SWIN,
  "resnet": _RESNET,
  "efficientnet": _EFFICIENTNET,
  "vggish": _VGGISH,
  "htsat": _HTSAT,
  "beats": _BEATS,
  "active_queries": _MASK2FORMER,
}
