"""Agreement, gates and explanations against values computed by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import analysis, systems
from avs_jax.debias.guide import Guided
from avs_jax.errors import InputError
from avs_jax.initialise import initialise
from avs_jax.types import Batch


def test_cka_is_one_for_what_is_turned_and_scaled_and_zero_for_what_has_nothing_in_common():
  x = jnp.asarray(np.random.default_rng(0).standard_normal((12, 3)), jnp.float32)
  turned = 5 * jnp.stack([x[:, 1], -x[:, 2], x[:, 0]], 1) + 7
  assert float(analysis.linear_cka(x, turned)) == pytest.approx(1, abs=1e-5)
  a, b = jnp.asarray([[1.0], [-1], [1], [-1]]), jnp.asarray([[1.0], [1], [-1], [-1]])
  assert float(analysis.linear_cka(a, b)) == 0
  assert float(analysis.linear_cka(a, jnp.ones((4, 2)))) == 0


def test_cka_of_a_column_and_two_by_hand():
  x = jnp.asarray([[1.0], [-1], [1], [-1]])
  y = jnp.concatenate([x, jnp.asarray([[1.0], [1], [-1], [-1]])], 1)
  # |Y'X|^2 = 16, |X'X| = 4, |Y'Y| = sqrt(16 + 16).
  assert float(analysis.linear_cka(x, y)) == pytest.approx(16 / (4 * 32**0.5), rel=1e-6)


def test_divergences_by_hand():
  p, q = jnp.asarray([[0.5, 0.5]]), jnp.asarray([[0.25, 0.75]])
  forward = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
  assert float(analysis.kl(p, q)) == pytest.approx(forward, rel=1e-6)
  middle = (np.array([0.5, 0.5]) + np.array([0.25, 0.75])) / 2
  half = [sum(x * np.log(x / m) for x, m in zip(z, middle, strict=True)) for z in ([0.5, 0.5], [0.25, 0.75])]
  assert float(analysis.js(p, q)) == pytest.approx(sum(half) / 2, rel=1e-5)
  apart = jnp.asarray([[1.0, 0.0]]), jnp.asarray([[0.0, 1.0]])
  assert float(analysis.js(*apart)) == pytest.approx(np.log(2), rel=1e-5)
  assert float(analysis.kl(*apart)) == pytest.approx(-np.log(analysis.SMALL), rel=1e-4)


def test_attention_is_the_share_of_the_channels_mean_size():
  x = jnp.asarray([[[[1.0, -1.0], [0.0, 6.0]]]])  # [1, 1, 2, 2]: cells of size 1 and 3
  np.testing.assert_allclose(analysis.attention(x), [[[0.25, 0.75]]], rtol=1e-6)


def test_a_clip_agrees_with_itself():
  x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4, 5, 6)), jnp.float32)
  present = jnp.ones((2, 3), bool)
  found = analysis.consistency(x, x, present)
  np.testing.assert_allclose(found["cka"], 1, rtol=1e-5)
  np.testing.assert_allclose(found["kl"], 0, atol=1e-6)
  np.testing.assert_allclose(found["js"], 0, atol=1e-6)
  assert float(analysis.consistency(x, x[::-1], present)["js"].min()) > 0.001


def test_absent_seconds_change_neither_agreement_nor_gates():
  draw = np.random.default_rng(0).standard_normal
  vis, aud = (jnp.asarray(draw((2, 3, 4, 5, 6)) + 1, jnp.float32) for _ in range(2))
  masks = jnp.asarray(draw((2, 3, 16, 20)) > 0.5, jnp.float32)
  gates = {"stage1/channel": nn.sigmoid(vis[:, :, :1, :1]), "stage1/spatial": nn.sigmoid(aud[..., :1])}
  present = jnp.asarray([[True, True, True], [True, True, False]])

  def pad(x, value):
    return jnp.concatenate([x, jnp.full_like(x, value)[:, :2]], 1)

  agree, look = jax.jit(analysis.consistency), jax.jit(analysis.gate_statistics)
  agreement, statistics = agree(vis, aud, present), look(gates, masks, present)["stage1"]
  short = agree(vis[1:, :2], aud[1:, :2], present[1:, :2])
  for value in (0, 3):
    padded = agree(pad(vis, value), pad(aud, value), pad(present, False))
    taps = {name: pad(gate, 0.5) for name, gate in gates.items()}
    longer = look(taps, pad(masks, value > 0), pad(present, False))["stage1"]
    for name, figure in agreement.items():
      np.testing.assert_allclose(padded[name], figure, rtol=1e-5)
      np.testing.assert_allclose(padded[name][1:], short[name], rtol=1e-5)
    assert set(longer) == set(statistics) and len(statistics) == 8
    for name, figure in statistics.items():
      np.testing.assert_allclose(longer[name], figure, rtol=1e-5)
  whole = agree(pad(vis, 0), pad(aud, 0), jnp.ones((2, 5), bool))
  assert float(jnp.abs(whole["cka"] / agreement["cka"] - 1).min()) > 0.1  # what absent seconds do, if counted


def test_grad_cam_by_hand():
  x = jnp.asarray([[[1.0, 2.0], [3.0, 1.0]]])  # [1, 2, 2]: two cells, two channels
  slope = jnp.asarray([[[1.0, 0.0], [3.0, -2.0]]])  # channel means 2 and -1
  np.testing.assert_allclose(analysis.grad_cam(x, slope), [[0.0, 1.0]], atol=1e-6)  # relu(0), relu(5) / 5
  np.testing.assert_allclose(analysis.grad_cam(x, jnp.zeros_like(x)), [[0.0, 0.0]])


def test_the_score_is_the_mean_logit_of_the_mask_or_of_everything_where_it_is_empty():
  logits = jnp.asarray([[2.0, 4.0], [-1.0, -3.0]]).reshape(1, 2, 1, 2, 1)  # two seconds
  assert float(analysis.score(logits)) == pytest.approx(3 - 2)
  classes = jnp.stack([jnp.zeros((1, 2, 1, 2)), logits[..., 0], logits[..., 0] - 1], -1)
  assert float(analysis.score(classes)) == pytest.approx(3 - 2)


def test_gate_statistics_by_hand():
  taps = {
    "stage1/channel": jnp.asarray([[0.0, 1.0], [1.0, 1.0]]).reshape(1, 2, 1, 1, 2),
    "stage1/spatial": jnp.asarray([0.9, 0.1, 0.5, 0.5]).reshape(1, 2, 1, 2, 1),
    "stage2/visual_before": jnp.zeros((1, 2, 1, 1, 2)),
  }
  masks = jnp.asarray([[1.0, 0.0], [1.0, 0.0]]).reshape(1, 2, 1, 2)
  statistics = analysis.gate_statistics(taps, masks, jnp.ones((1, 2), bool))
  found = {name: float(value) for name, value in statistics["stage1"].items()}
  assert set(statistics) == {"stage1"}  # one clip: no other's masks
  expected = {
    "channel_mean": 0.75, "channel_spread": 0.25, "channel_selectivity": 0.25,
    "spatial_inside": 0.7, "spatial_outside": 0.3, "spatial_spread": 0.2,
  }  # fmt: skip
  assert found == pytest.approx(expected)


def test_a_bias_to_the_middle_shows_under_other_clips_masks_too():
  """Weights are the same for both clips; what sounds lies left in one, in the middle in the other."""
  weight = jnp.broadcast_to(jnp.asarray([0.2, 0.8, 0.2]), (2, 1, 1, 3)).reshape(2, 1, 1, 3, 1)
  masks = jnp.asarray([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).reshape(2, 1, 1, 3)
  statistics = analysis.gate_statistics({"stage1/spatial": weight}, masks, jnp.ones((2, 1), bool))["stage1"]
  assert float(statistics["spatial_inside"]) == pytest.approx(float(statistics["others_inside"])) == 0.5
  heard = weight.at[0, 0, 0].set(jnp.asarray([[0.8], [0.2], [0.2]]))  # each clip's own cell
  statistics = analysis.gate_statistics({"stage1/spatial": heard}, masks, jnp.ones((2, 1), bool))["stage1"]
  assert float(statistics["spatial_inside"]) == pytest.approx(0.8)
  assert float(statistics["others_inside"]) == pytest.approx(0.2)
  assert float(statistics["others_outside"]) == pytest.approx(0.5)


def example() -> Batch:
  rng, shape = np.random.default_rng(0), (1, 2)
  return Batch(
    frames=rng.integers(0, 256, (*shape, 32, 32, 3), np.uint8),
    log_mel=rng.standard_normal((*shape, 96, 64)).astype(np.float32),
    masks=np.zeros((*shape, 32, 32), np.int32), annotated=np.ones(shape, bool), present=np.ones(shape, bool),
    condition=np.zeros(1, np.int32), index=np.zeros(1, np.int32),
  )  # fmt: skip


def model_of(**settings):
  small = {
    "visual": "conv_pyramid", "visual_args": {"width": 4}, "audio_args": {"width": 1 / 64}, "width": 8, "heads": 2,
    "sound_map": "features",
  }  # fmt: skip
  return systems.build("sdavs", **small, **settings)


def test_looking_changes_nothing_and_every_step_is_explained():
  model, batch = model_of(), example()
  variables = initialise(model, batch.frames, batch.log_mel, seed=0)
  plain, (logits, taps, cams) = jax.jit(
    lambda v: (model.apply(v, batch.frames, batch.log_mel).logits, analysis.explained(model, v, batch))
  )(variables)
  np.testing.assert_allclose(logits, plain, rtol=1e-4, atol=1e-5)
  for stage in ("stage1", "stage2", "stage3", "stage4"):
    of = {name.split("/")[1]: value for name, value in taps.items() if name.startswith(stage)}
    gated = of["unfiltered"] * of["channel"] * of["spatial"]
    np.testing.assert_allclose(of["filtered"], gated, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of["visual_before"], of["filtered"], rtol=1e-6)
    explained = {name.split("/")[1] for name in cams if name.startswith(stage)}
    assert explained == {
      "unfiltered", "channel_filtered", "filtered", "visual_before", "audio_before", "visual_after", "audio_after",
    }  # fmt: skip
  assert cams["stage1/filtered"].shape == (1, 2, 8, 8)
  assert all(np.isfinite(cam).all() and cam.min() >= 0 and cam.max() <= 1.0001 for cam in cams.values())
  np.testing.assert_allclose(cams["stage1/filtered"], cams["stage1/visual_before"], rtol=1e-3, atol=1e-4)


def test_other_systems_and_wrapped_ones():
  other = systems.build("avsbench", visual="conv_pyramid")
  with pytest.raises(InputError, match="the run is of AVSBench, which has no SNRP and DAMF"):
    analysis.inside(other, {})

  wrapped = Guided(model_of(remat=True), form="cosine")
  found, own = analysis.inside(wrapped, {"params": {"system": {"head": 1}, "guide": 2}})
  assert type(found).__name__ == "SDAVS" and not found.remat and own == {"params": {"head": 1}}
