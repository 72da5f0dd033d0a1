"""Names of published checkpoints, system by system; whole checkpoints are in test_placement.py."""

import pytest

from avs_jax import systems
from avs_jax.weights import dialects


def test_only_the_first_pattern_that_matches_is_applied():
  pairs = ((r"^a\.", "b."), (r"^b\.", "c."), (r"\.(\d)$", r"_\1"))
  assert dialects.rewrite("a.x.1", pairs) == "b.x.1"
  assert dialects.rewrite("x.1", pairs) == "x_1"
  assert dialects.rewrite("x", pairs) == "x"


def test_a_system_without_an_entry_follows_the_general_rule_alone():
  assert set(dialects.DIALECTS) <= set(systems.NAMES)
  assert dialects.dialect("sdavs", {}) == dialects.Dialect()


@pytest.mark.parametrize(
  ("system", "overrides", "ours", "theirs"),
  [
    ("avsbench", {}, "visual_encoder.block1.0.attn.q.weight", "encoder_backbone.block1.0.attn.q.weight"),
    ("avsbench", {"visual": "resnet50"}, "visual_encoder.layer1.0.conv1.weight", "resnet.layer1.0.conv1.weight"),
    ("avsbench", {"visual": "resnet50"}, "visual_encoder.layer3.0.bn1.bias", "resnet.layer3_1.0.bn1.bias"),
    ("avsbench", {}, "tpavi.2.W_z.0.bias", "tpavi_b2.W_z.0.bias"),
    ("avsbench", {}, "head.output_conv.0.weight", "output_conv.0.weight"),
    ("avsegformer", {}, "audio_encoder.embeddings.0.weight", "vggish.embeddings.0.weight"),
    ("avsegformer", {}, "query_generator.query", "head.query_generator.query.weight"),
    ("avsegformer", {}, "pixel_decoder.layers.0.norm1.bias", "head.transformer.encoder.layers.0.norm1.bias"),
    ("active_queries", {}, "query_decoder.class_predictor.weight", "class_head.weight"),
    ("active_queries", {"mode": "released"}, "query_decoder.class_predictor.bias", "model_v.class_predictor.bias"),
  ],
)  # fmt: skip
def test_our_names_become_the_checkpoints(system, overrides, ours, theirs):
  assert dialects.rewrite(ours, dialects.dialect(system, overrides).renames) == theirs


def test_what_a_file_holds_and_nothing_reads_is_dropped_and_none_of_ours_is():
  for system, dead, alive in (
    ("avsbench", "path4.resConfUnit1.conv1.weight", "path3.resConfUnit1.conv1.weight"),
    ("avsegformer", "head.fpn.conv.weight", "head.mask_head.0.weight"),
    ("active_queries", "model_v.criterion.empty_weight", "class_head.weight"),
  ):
    found = dialects.dialect(system, {})
    assert dialects.matches(dead, found.dead) and not dialects.matches(alive, found.dead)


def test_buffers_and_counters_are_no_weights_and_classifiers_are_heads():
  for name in ("bn1.num_batches_tracked", "layers.0.attn.relative_position_index", "attn_mask"):
    assert dialects.matches(name, dialects.NEVER_WEIGHTS)
  assert not dialects.matches("attn.relative_position_bias_table", dialects.NEVER_WEIGHTS)
  assert dialects.matches("fc.weight", dialects.HEADS) and not dialects.matches(
    "mlp.fc1.weight", dialects.HEADS
  )
