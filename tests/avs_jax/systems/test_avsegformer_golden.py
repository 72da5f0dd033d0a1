"""AVSegFormer with the rule's weights gives the published code's numbers, part by part, robust variant included."""

import dataclasses
import functools
import json
from collections.abc import Mapping

import jax
import numpy as np
import pytest

from avs_jax import losses, systems, weights
from avs_jax.debias.guide import Guided, Similarity, guide_loss
from avs_jax.types import Batch, Condition
from configs import ms3

pytestmark = [pytest.mark.golden]

PARTS = (
  "audio_proj", "visual_encoder", "query_generator", "pixel_decoder", "query_decoder", "mlp", "layers_0",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
  """One call of the reference: its file of outputs, the list of its weights, the size of its input, settings."""

  fixture: str
  listed: str
  clips: int = 1
  seconds: int = 5
  side: int = 224
  overrides: Mapping = dataclasses.field(default_factory=dict)
  present: tuple = ()


SEMANTIC, RESNET = {"num_classes": 71}, {"visual": "resnet50"}
PADDED = (True,) * 5 + (False,) * 5
ROBUST = Case("avsegformer/ms3_pvt2_224", "avsbench_robust/robust_pvt2")
# Calls that share their weights stand together: only the last variables are kept.
CASES = {
  "ms3_pvt2_224": ROBUST,  # the robust weights hold those of the plain model, name for name
  "ms3_pvt2_512": Case("avsegformer/ms3_pvt2_512", "avsbench_robust/robust_pvt2", side=512),
  "s4_pvt2_224_b2": Case("avsegformer/s4_pvt2_224_b2", "avsbench_robust/robust_pvt2", clips=2),
  "ms3_res50_224": Case("avsegformer/ms3_res50_224", "avsegformer/binary_res50", overrides=RESNET),
  "avss_pvt2_224": Case("avsegformer/avss_pvt2_224", "avsegformer/avss_pvt2", 1, 10, 224, SEMANTIC, PADDED),
  "avss_res50_224": Case(
    "avsegformer/avss_res50_224", "avsegformer/avss_res50", 1, 10, 224, {**SEMANTIC, **RESNET}, PADDED
  ),
}


@pytest.fixture(scope="module")
def prepared(golden, rule):
  """prepared(listed, overrides) -> the system's variables and the guide's, from weights that the rule makes."""

  @functools.lru_cache(maxsize=1)
  def state_of(listed):
    shapes = json.loads(golden(f"{listed}.state_dict.json").read_text())
    return {
      name: rule.weight(name, entry["shape"] if isinstance(entry, dict) else entry)
      for name, entry in shapes.items()
    }

  @functools.lru_cache(maxsize=1)
  def place(listed, overrides):
    state = state_of(listed)
    guide = weights.guide_from_torch("avsegformer", state)
    placed = weights.from_torch("avsegformer", state, **dict(overrides))
    state_of.cache_clear()
    return placed, guide

  return lambda case: place(case.listed, tuple(case.overrides.items()))


@pytest.fixture(scope="module")
def called(prepared, rule):
  """called(case) -> outputs and the results of `PARTS`; eagerly, since compiling costs more than one call."""

  @functools.lru_cache(maxsize=1)
  def call(name):
    case = CASES[name]
    variables, guide = prepared(case)
    count = case.clips * case.seconds
    frames = np.moveaxis(rule.array("frames", (count, 3, case.side, case.side)), 1, -1)
    frames = frames.reshape(case.clips, case.seconds, *frames.shape[1:])
    mel = rule.array("audio", (count, 1, 96, 64)).reshape(case.clips, case.seconds, 96, 64)
    module = systems.build("avsegformer", **case.overrides)
    if guide is not None:
      module = Guided(module, form="cosine_released")
      variables = {"params": {"system": variables["params"], "guide": guide["params"]}}
    present = np.array(case.present).reshape(1, -1) if case.present else None
    outputs, kept = module.apply(
      variables,
      frames,
      mel,
      present=present,
      capture_intermediates=lambda part, method: method == "__call__" and part.name in PARTS,
      mutable="intermediates",
    )
    parts = kept["intermediates"]
    return jax.device_get(outputs), jax.device_get(parts.get("system", parts))

  return call


def channels_first(maps):
  """[..., h, w, C] as the reference has it, [N, C, h, w]."""
  maps = np.moveaxis(np.asarray(maps), -1, -3)
  return maps.reshape(-1, *maps.shape[-3:])


def robust_batch(masks, condition, annotated):
  return Batch(
    frames=np.zeros((*masks.shape, 3), np.uint8),
    log_mel=np.zeros((1, 5, 96, 64), np.float32),
    masks=masks,
    annotated=annotated,
    present=np.ones((1, 5), bool),
    condition=np.array([condition], np.int32),
    index=np.zeros(1, np.int32),
  )


@pytest.mark.slow
def test_the_robust_model_gives_the_published_similarities_losses_and_false_positives(called, golden, rule):
  outputs, _ = called("ms3_pvt2_224")
  kept = np.load(golden("avsbench_robust/robust_pvt2_224.npz"))
  rule.check(channels_first(outputs.logits), kept["pred"])
  rule.check(channels_first(outputs.visual_features), kept["backbone_4"])
  rule.check(outputs.projected_audio, kept["audio_proj"])
  # A cosine of some 0.01 between vectors of length 20: float32 leaves it 1e-7, here 2e-5 of its spread.
  rule.check(outputs.similarity, kept["similarity"])
  rule.check(1 / (1 + np.exp(-outputs.similarity)), kept["similarity_sigmoid"])
  activated = (outputs.logits > 0).mean((2, 3, 4)).reshape(-1)
  np.testing.assert_allclose(activated, kept["fpr_per_frame"], atol=1e-3)

  masks = (rule.array("gt", (5, 1, 224, 224)) > 0.5).astype(np.int32).reshape(1, 5, 224, 224)
  masks[0, 3] = 0
  every, first = np.ones((1, 5), bool), np.arange(5).reshape(1, 5) == 0
  cases = {
    "total_positive": robust_batch(masks, Condition.POSITIVE, every),
    "total_negative": robust_batch(0 * masks, Condition.OFFSCREEN, every),
    "total_s4_positive": robust_batch(masks, Condition.POSITIVE, first),
  }
  for name, batch in cases.items():
    segmentation, parts = losses.objective(ms3.get_config("avsegformer").loss.to_dict())(outputs, batch)
    guide = guide_loss(outputs, batch)
    found = [segmentation + guide, segmentation, parts["dice"], parts["mix_dice"], guide]
    np.testing.assert_allclose(found, kept[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_part_of_the_published_model_is_reproduced(called, golden, rule, name):
  outputs, parts = called(name)
  kept = np.load(golden(f"{CASES[name].fixture}.npz"))

  def result(*path):
    return functools.reduce(lambda tree, part: tree[part], path, parts)["__call__"][0]

  memory, feature = result("pixel_decoder")
  for k, level in enumerate(result("visual_encoder"), start=1):
    rule.check(channels_first(level), kept[f"backbone_{k}"])
  rule.check(outputs.audio_features, kept["vggish"])
  rule.check(outputs.projected_audio, kept["audio_proj"])
  rule.check(result("query_generator"), kept["mixed_query"])
  rule.check(result("pixel_decoder", "layers_0"), kept["encoder_layer0"])
  rule.check(memory, kept["memory"])
  rule.check(channels_first(feature), kept["mask_feature_before_mixer"])
  rule.check(result("query_decoder", "layers_0"), kept["decoder_first"])
  rule.check(result("query_decoder"), kept["decoder_last"])
  rule.check(channels_first(result("mask_head", "mlp")), kept["mlp"])
  rule.check(channels_first(outputs.fused_maps[0]), kept["mask_feature"])
  rule.check(outputs.mix_mask, kept["mix"])
  rule.check(channels_first(outputs.logits), kept["pred"])


def test_the_released_guide_alone_gives_the_published_similarities(golden, rule):
  kept = np.load(golden("avsbench_robust/cosine_guide.npz"))
  shapes = json.loads(golden("avsbench_robust/cosine_guide.state_dict.json").read_text())
  state = {f"cosine_sim.{name}": rule.weight(name, shape) for name, shape in shapes.items()}
  variables = weights.guide_from_torch("avsegformer", state)
  aud = rule.array("audio_feat", (5, 1, 256)).reshape(1, 5, 256)
  vis = rule.array("visual_feat", (5, 512, 7, 7)) + rule.array("visual_offset", (5, 512, 1, 1))
  vis = np.moveaxis(vis, 1, -1)[None]  # [B, T, h, w, C]
  similarity = Similarity("cosine_released").apply(variables, *map(jax.numpy.asarray, (aud, vis))).logits
  rule.check(similarity, kept["similarity"])
  for label in (1, 0):
    softplus = np.log1p(np.exp(np.asarray(similarity)))
    np.testing.assert_allclose((softplus - label * similarity).mean(), kept[f"bce_label{label}"], rtol=1e-5)
