"""Rewriting of names with counting, and what names alone do not do; whole lists are in test_names.py."""

import re

import numpy as np
import pytest

from avs_jax.weights import spellings


def test_every_pair_is_applied_once_in_turn_and_numbers_are_counted_on():
  assert spellings.rename("a.0.b.9", ((r"^a\.(\d+)\.", "stage<1+1>."), (r"stage1", "first"))) == "first.b.9"
  assert spellings.rename("res4.x", ((r"^res(\d)\.", "layer<1-1>."),)) == "layer3.x"
  assert spellings.rename("a.9.9", ((r"\.(\d)\.(\d)$", ".<1+1>.<2-1>"),)) == "a.10.8"
  assert spellings.rename("a.a", ((r"a", "b"),)) == "b.a"  # the first place alone


@pytest.mark.parametrize("family", sorted(spellings.FAMILIES))
def test_no_spelling_is_taken_for_an_earlier_one_of_its_family(family):
  kinds = spellings.FAMILIES[family]
  for place, kind in enumerate(kinds):
    for later in kinds[place + 1 :]:
      if kind.anchor != later.anchor:  # where it is the same, the names wanted decide
        assert not re.search(rf"(^|[./]){re.escape(kind.anchor)}$", later.anchor), "it would be taken first"


def test_what_is_wanted_is_never_left_out():
  state = {"norm.weight": np.ones(1), "norm.bias": np.ones(1), "head.weight": np.ones(1)}
  assert spellings._without(state, r"^norm\.", ("norm.bias",)).keys() == {"norm.bias", "head.weight"}


def test_what_damaged_files_hold_does_not_stop_the_finish():
  (mmseg,) = (kind for kind in spellings.FAMILIES["mit"] if kind.anchor.startswith("layers.0.0."))
  assert mmseg.finish({"block1.0.attn.in_proj_bias": np.array(1.0)}, ()).keys() == {
    "block1.0.attn.q.bias",
    "block1.0.attn.kv.bias",
  }
  odd = {
    "layers.0.downsample.reduction.weight": np.zeros((2, 6)),
    "layers.0.downsample.norm.bias": np.array(1.0),
  }
  (mmseg,) = (kind for kind in spellings.FAMILIES["swin"] if kind.anchor == "patch_embed.projection.weight")
  assert mmseg.finish(dict(odd), ()).keys() == odd.keys()
  lacking = {"norm.weight": np.ones(64)}
  assert mmseg.finish(dict(lacking), ("norm0.weight",)) == {}
  (mask2former,) = spellings.FAMILIES["active_queries"]
  assert len(mask2former.finish({"a.self_attn.in_proj_bias": np.arange(4)}, ())) == 3


def test_one_projection_of_mask2former_becomes_three_in_the_order_query_key_value():
  (kind,) = spellings.FAMILIES["active_queries"]
  name = spellings.rename(
    "sem_seg_head.predictor.transformer_self_attention_layers.3.self_attn.in_proj_bias", kind.rewrites
  )
  found = kind.finish({name: np.arange(6)}, ())
  base = "model.transformer_module.decoder.layers.3.self_attn"
  assert {key: value.tolist() for key, value in found.items()} == {
    f"{base}.q_proj.bias": [0, 1],
    f"{base}.k_proj.bias": [2, 3],
    f"{base}.v_proj.bias": [4, 5],
  }
