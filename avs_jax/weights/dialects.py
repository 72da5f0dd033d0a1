"""Where a published checkpoint's tensor names differ from the Flax paths, written down once per system.

Most names follow one rule (see `placement.torch_name`) and need no entry. A system whose checkpoint calls
things otherwise adds one `Dialect` to `DIALECTS`; nothing else has to change.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

Rewrites = tuple[tuple[str, str], ...]

# Buffers that a model recomputes, and counters.
NEVER_WEIGHTS = (
  r"(^|\.)num_batches_tracked$",
  r"(^|\.)relative_position_index$",
  r"(^|\.)attn_mask$",
  r"(^|\.)relative_coords_table$",
)
# Classifiers of a pre-trained backbone: dropped where the module has none.
HEADS = (r"^(head|classifier|fc|_fc|_conv_head|_bn1|tscam_conv|predictor|decode_head|sem_seg_head)\.",)


@dataclasses.dataclass(frozen=True)
class Dialect:
  """How one system's checkpoint names its tensors.

  Attributes:
    renames: (pattern, replacement) pairs from the name that the general rule gives to the checkpoint's name;
      the first pattern that matches is applied, later ones are not tried.
    aliases: the same, from other spellings found in files to the checkpoint's name.
    dead: patterns of tensors that published files hold and no computation reads.
    optional: patterns of parts that a file may lack as a whole; the variables then lack them too.
    visual: prefix of the visual encoder's tensors, which bear the names of another library there.
    guide: prefix of a similarity guide's tensors, which lie beside the system's and are read apart.
  """

  renames: Rewrites = ()
  aliases: Rewrites = ()
  dead: tuple[str, ...] = ()
  optional: tuple[str, ...] = ()
  visual: str = ""
  guide: str = ""


def _avsbench(overrides: Mapping[str, object]) -> Dialect:
  """S4, MS3 and AVSS models of AVSBench; VGGish lies in a file of its own."""
  is_resnet = str(overrides.get("visual", "pvt_v2_b5")).startswith("resnet")
  backbone = "resnet" if is_resnet else "encoder_backbone"
  branch = ((r"^visual_encoder\.(layer[34])\.", r"resnet.\1_1."),) if is_resnet else ()
  return Dialect(
    renames=(
      *branch,
      (r"^visual_encoder\.", f"{backbone}."),
      (r"^aspp\.(\d+)\.", r"conv\1."),
      (r"^tpavi\.(\d+)\.", r"tpavi_b\1."),
      (r"^topdown\.(\d+)\.", r"path\1."),
      (r"^head\.", ""),
    ),
    aliases=((r"^audio_backbone\.", "audio_encoder."),),
    # Never run: the second branch of the two-branch ResNet, the first unit of the coarsest fusion block.
    dead=(r"^path4\.resConfUnit1\.", r"^resnet\.layer[34]_2\.", r"^(encoder_backbone\.head|resnet\.fc)\."),
    optional=(r"^audio_encoder\.",),
  )


def _avsegformer(overrides: Mapping[str, object]) -> Dialect:
  """AVSegFormer's models, VGGish included; the Robust paper's hold a guide's linear map beside them."""
  is_resnet = str(overrides.get("visual", "pvt_v2_b5")).startswith("resnet")
  branch = ((r"^visual_encoder\.(layer[34])\.", r"backbone.\1_1."),) if is_resnet else ()
  return Dialect(
    renames=(
      *branch,
      (r"^visual_encoder\.", "backbone."),
      (r"^audio_encoder\.", "vggish."),
      (r"^query_generator\.query$", "head.query_generator.query.weight"),
      (r"^query_generator\.learnable_query$", "head.learnable_query.weight"),
      (r"^pixel_decoder\.layers\.", "head.transformer.encoder.layers."),
      (r"^query_decoder\.layers\.", "head.transformer.decoder.layers."),
      (r"^(query_generator|fusion_block)\.", r"head.\1."),
      (r"^(pixel_decoder|mask_head)\.", "head."),
    ),
    # Never run: two more decoders, the second branch of the two-branch ResNet, a backbone's classifier.
    dead=(r"^head\.(fpn|attn_fc)\.", r"^backbone\.layer[34]_2\.", r"^backbone\.(head|fc)\."),
    guide="cosine_sim.",
  )


def _active_queries(overrides: Mapping[str, object]) -> Dialect:
  """bias_in_AVS's models, and the Mask2Former that they grew from (`spellings`); VGGish lies elsewhere.

  The paper's class head is not the released one (151 outputs), which a file's tensors are then not put into.
  """
  root = "model_v.model."
  is_paper = overrides.get("mode", "paper") == "paper"
  head = "class_head." if is_paper else "model_v.class_predictor."
  pixels, queries = f"{root}pixel_level_module.decoder.", f"{root}transformer_module."
  return Dialect(
    renames=(
      (r"^cross_a2t\.(.*)\.t2a_", r"cross_a2t.\1.t2a."),
      (r"^pixel_decoder\.layers\.(\d+)\.avs_adapt\.", rf"{pixels}encoder.layers.\1.self_attn.avs_adapt."),
      (r"^pixel_decoder\.layers\.", f"{pixels}encoder.layers."),
      (r"^pixel_decoder\.lateral\.", f"{pixels}adapter_1."),
      (r"^pixel_decoder\.smooth\.", f"{pixels}layer_1."),
      (r"^pixel_decoder\.", pixels),
      (r"^query_decoder\.(queries_features|queries_embedder|level_embed)$", rf"{queries}\1.weight"),
      (r"^query_decoder\.class_predictor\.", head),
      (r"^query_decoder\.mask_embedder\.", f"{queries}decoder.mask_predictor.mask_embedder."),
      (r"^query_decoder\.", f"{queries}decoder."),
    ),
    aliases=((r"^(model|class_predictor|criterion)\.", r"model_v.\1."),),
    # Never run: a second norm, a linear map before the self-attention, which the released model lacks; losses'.
    dead=(
      r"\.layernorm_sc\.",
      r"^cross_a2t\." if not is_paper else r"^cross_a2t\.embedding\.",
      r"(^|\.)(m2f_)?criterion\.",
      *((r"^model_v\.class_predictor\.",) if is_paper else ()),
    ),
    optional=(r"^audio_encoder\.", r"^audio_proj\.", r"^cross_a2t\.", r"_adapt\.", r"^class_head\."),
    visual=f"{root}pixel_level_module.encoder.",
  )


DIALECTS: dict[str, Callable[[Mapping[str, object]], Dialect]] = {
  "avsbench": _avsbench,
  "avsegformer": _avsegformer,
  "active_queries": _active_queries,
}


def dialect(name: str, overrides: Mapping[str, object]) -> Dialect:
  """The names of `name`'s published checkpoint; without an entry, the general rule alone."""
  return DIALECTS[name](overrides) if name in DIALECTS else Dialect()


def rewrite(name: str, rewrites: Rewrites) -> str:
  """Applies the first pair of `rewrites` that matches."""
  for pattern, replacement in rewrites:
    new, count = re.subn(pattern, replacement, name)
    if count:
      return new
  return name


def matches(name: str, patterns: tuple[str, ...]) -> bool:
  """Whether any pattern occurs in `name`."""
  return any(re.search(pattern, name) for pattern in patterns)
