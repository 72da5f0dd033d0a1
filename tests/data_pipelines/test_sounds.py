"""The sounds of an evaluation: drawn, published as files, unseen; from the names a config gives."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from avs_jax.errors import InputError
from avs_jax.provenance import run_record
from avs_jax.train import train
from data_pipelines import audio, loader, negatives, sounds, sources
from data_pipelines.generated import Generated
from data_pipelines.layout import write_layout
from data_pipelines.real_media import DEFAULT_CLASSES
from data_pipelines.synthesis import UNSEEN, synthesize_unseen


@pytest.fixture
def written(config, tmp_path):
  """The config on a written-out layout with both folders of published negatives, and the sounds in them."""
  source = Generated("single", "test", 4, size=32)
  write_layout(source, tmp_path, "s4", "test")
  config.data.root = str(tmp_path)
  rng, held = np.random.default_rng(0), {}
  for own in sorted(Path(tmp_path).rglob("audio_wav/**/*.wav")):
    for name, folder in sounds.FOLDERS.items():
      path = Path(str(own).replace("/audio_wav/", f"/{folder}/"))
      path.parent.mkdir(parents=True, exist_ok=True)
      wave = np.round(3000 * rng.standard_normal(80_000)).clip(-32768, 32767) / 32768
      audio.write_wav(path, wave.astype(np.float32))
      held[name, own.stem] = path
  return config, held


def rows_of(config, source, name):
  """log_mel, masks and index of all clips under a sound."""
  batches = list(sounds.batches(config, source, name))
  kept = [
    np.concatenate([batch[key] for batch in batches]) for key in ("log_mel", "masks", "index", "condition")
  ]
  return [each[kept[2] >= 0] for each in kept]


def test_published_folders_take_the_place_of_drawn_negatives(written):
  config, held = written
  source = sources.build(config, "test")
  config.eval.negative_audio = "published"
  for name, condition in (("noise", 2), ("offscreen", 3)):
    log_mel, masks, index, conditions = rows_of(config, source, name)
    assert (conditions == condition).all() and masks.any()
    for clip in index:
      expected = audio.clip_log_mel(audio.read_wav(held[name, source.ids[clip].split("/")[-1]]), 5)
      np.testing.assert_array_equal(log_mel[clip], expected)
  config.eval.negative_audio = "drawn"
  assert np.abs(rows_of(config, source, "noise")[0] - rows_of(config, source, "noise")[0]).max() == 0
  assert not np.array_equal(rows_of(config, source, "offscreen")[0], log_mel)


def test_published_and_unseen_files_keep_their_rate_under_the_published_front_end(written, tmp_path):
  config, held = written
  wave = np.random.default_rng(1).integers(-9000, 9000, 5 * 44_100).astype(np.int16)
  unseen = str(tmp_path / "fork_segment.wav")
  for path in (unseen, *held.values()):
    wavfile.write(path, 44_100, wave)
  config.eval.negative_audio, config.eval.unseen = "published", (unseen,)
  config.negatives.front_end = "as_published"
  expected = audio.robust_log_mel(wave, 44_100)
  for name in ("noise", "offscreen", "unseen_fork_segment"):
    log_mel, *_ = rows_of(config, sources.build(config, "test"), name)
    np.testing.assert_allclose(log_mel, np.broadcast_to(expected, log_mel.shape), atol=1e-6)


def test_own_sounds_and_silence_are_the_same_whatever_the_folders(written):
  config, _ = written
  source = sources.build(config, "test")
  drawn = [rows_of(config, source, name)[0] for name in ("positive", "silence")]
  config.eval.negative_audio = "published"
  for before, name in zip(drawn, ("positive", "silence"), strict=True):
    np.testing.assert_array_equal(before, rows_of(config, source, name)[0])


def test_the_manifest_names_the_published_folder(written, tmp_path):
  config, _ = written
  source = sources.build(config, "test")
  config.eval.negative_audio, config.eval.unseen = "published", ("thunder",)
  sounds.write_manifest(config, source, str(tmp_path / "manifest.csv"))
  with open(tmp_path / "manifest.csv") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 16
  assert {(r["condition"], r["donor"], r["kind"]) for r in rows if r["condition"] in sounds.FOLDERS} == {
    ("noise", "audio_wav_noise", "published"), ("offscreen", "audio_wav_misaligned", "published"),
  }  # fmt: skip


def test_missing_published_sounds_are_counted_and_named(written):
  config, held = written
  config.eval.negative_audio = "published"
  source = sources.build(config, "test")
  next(path for (name, _), path in held.items() if name == "noise").unlink()
  with pytest.raises(
    InputError, match="1 of 4 files are missing, first .*audio_wav_noise.*data.allow_missing=True"
  ):
    next(iter(sounds.batches(config, source, "noise")))


def test_clips_without_a_published_negative_are_left_out_under_every_sound_if_that_is_allowed(
  written, caplog
):
  config, held = written
  whole = sources.build(config, "test")
  lost = held["offscreen", whole.ids[1].split("/")[-1]]
  lost.unlink()
  config.eval.negative_audio, config.data.allow_missing = "published", True
  source = sources.build(config, "test")
  sounds.check_evaluation(config, source)
  left = [whole.ids[index] for index in (0, 2, 3)]
  said = f"1 of 4 clips lack published negatives (audio_wav_noise, audio_wav_misaligned): {whole.ids[1]}"
  assert list(source.ids) == left and said in caplog.text
  assert run_record(config, loader.keep(source, 9), {"params": {}})["missing_clips"] == said
  for name in config.eval.conditions:
    log_mel, masks, index, _ = rows_of(config, source, name)
    assert index.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(masks[1], whole.clip(2).masks)
    if name in sounds.FOLDERS:
      path = held[name, left[1].split("/")[-1]]
      np.testing.assert_array_equal(log_mel[1], audio.clip_log_mel(audio.read_wav(path), 5))
  config.eval.conditions = ("positive", "silence", "noise")
  assert len(sources.build(config, "test")) == 4  # nothing asks for the folder that lacks a file
  config.eval.conditions = ("offscreen",)
  for path in held.values():
    path.unlink(missing_ok=True)
  with pytest.raises(
    InputError, match="4 of 4 clips lack published negatives .*set eval.negative_audio=drawn"
  ):
    sources.build(config, "test")


def test_published_negatives_need_the_published_layout_and_a_known_word(config):
  source = sources.build(config, "test")
  config.eval.negative_audio = "published"
  with pytest.raises(InputError, match="needs data.root in the published layout"):
    sounds.published(config, source, "noise")
  assert sounds.published(config, source, "silence") is None
  config.eval.negative_audio = "x"
  with pytest.raises(InputError, match="choose one of drawn, published, any"):
    sounds.published(config, source, "noise")


def test_an_unseen_sound_is_one_recording_for_all_clips_and_the_masks_stay(config):
  config.eval.unseen = ("thunder", "sheep")
  source = sources.build(config, "test")
  assert sounds.names(config)[-2:] == ("unseen_thunder", "unseen_sheep")
  log_mel, masks, _, _ = rows_of(config, source, "unseen_thunder")
  assert len(log_mel) == 4 and masks.any(axis=(1, 2, 3)).all()
  np.testing.assert_array_equal(log_mel[0], log_mel[3])
  np.testing.assert_allclose(log_mel[0], audio.clip_log_mel(synthesize_unseen("thunder", 5), 5), atol=1e-6)


def test_made_unseen_sounds_are_audible_every_second_and_unlike_each_other():
  spectra = {}
  for name in UNSEEN:
    wave = synthesize_unseen(name, 5)
    assert wave.dtype == np.float32 and wave.shape == (80_000,)
    assert np.array_equal(wave, synthesize_unseen(name, 5))
    assert np.sqrt(np.mean(np.square(wave))) == pytest.approx(0.11, rel=0.1)
    assert (np.sqrt(np.mean(np.square(wave.reshape(5, -1)), axis=1)) > 0.01).all(), name
    spectra[name] = np.log(np.abs(np.fft.rfft(wave)).reshape(-1)[:40_000].reshape(100, -1).mean(1) + 1e-3)
  names = list(spectra)
  for i, one in enumerate(names):
    for other in names[i + 1 :]:
      assert np.corrcoef(spectra[one], spectra[other])[0, 1] < 0.98


def test_a_wav_file_is_an_unseen_sound_under_its_own_name(config, tmp_path):
  path = str(tmp_path / "fork_segment.wav")
  audio.write_wav(path, 0.1 * np.ones(16_000 * 2, np.float32))
  config.eval.unseen = (path,)
  assert sounds.names(config)[-1] == "unseen_fork_segment"
  wave = sounds.unseen_sound(config, path, 5)
  assert wave.shape == (80_000,) and wave.min() > 0.09  # repeated, not silence


def test_noise_of_another_make_than_trainings_is_an_unseen_sound_of_any_data(config, tmp_path):
  config.eval.unseen = ("blue", "violet", "made_babble")
  assert sounds.names(config)[-3:] == ("unseen_blue", "unseen_violet", "unseen_made_babble")
  low_shares = []
  for name in config.eval.unseen:
    wave = sounds.unseen_sound(config, name, 3)
    assert wave.shape == (48_000,) and np.sqrt(np.mean(np.square(wave))) == pytest.approx(0.11, rel=0.05)
    np.testing.assert_array_equal(wave, sounds.unseen_sound(config, name, 3))
    power = np.abs(np.fft.rfft(wave)) ** 2
    low_shares.append(power[:6_000].sum() / power.sum())  # below 2 kHz
  # Power that grows with f and with f squared: a quarter and a quarter of a quarter of 8 kHz.
  assert low_shares[:2] == pytest.approx([1 / 16, 1 / 64], rel=0.1) and low_shares[2] > 0.5
  assert not {"blue", "violet"} & set(negatives.Negatives.noise_kinds)


def test_unknown_and_doubled_unseen_sounds_are_one_sentence(config, tmp_path):
  with pytest.raises(InputError, match="'whale' is no sound here; choose from tuning_fork"):
    sounds.unseen_sound(config, "whale", 5)
  with pytest.raises(InputError, match="gone.wav is not there"):
    sounds.unseen_sound(config, str(tmp_path / "gone.wav"), 5)
  config.eval.unseen = ("sheep", "else/sheep.wav")
  with pytest.raises(InputError, match="sheep is there twice"):
    sounds.names(config)


def test_real_media_lend_recordings_of_what_training_leaves_out(config, monkeypatch):
  from data_pipelines import media_bank

  def item(kind, category, split, name):
    wave = np.random.default_rng(len(name)).standard_normal(24_000).astype(np.float32)
    return media_bank.Item(kind, category, split, name, "", "", "", 0.1 * wave)

  items = (
    item("sound", "owl", "train", "owl.ogg"), item("sound", "dog", "unseen", "dog.ogg"),
    item("noise", "", "test", "x:LRHits_01.ogg"),
  )  # fmt: skip
  bank = media_bank.Bank({"owl": "animal", "dog": "animal"}, items)
  monkeypatch.setattr(media_bank, "load_bank", lambda cache: bank)
  config.data.stand_in = "real_media"
  for name in ("owl", "hits"):
    wave = sounds.unseen_sound(config, name, 5)
    assert wave.shape == (80_000,) and np.abs(wave).max() > 0.05
    np.testing.assert_array_equal(wave, sounds.unseen_sound(config, name, 5))
  np.testing.assert_array_equal(sounds.whole_recording(config, "owl", 5), items[0].array)
  assert "dog" in DEFAULT_CLASSES
  with pytest.raises(InputError, match="'dog' is heard in training"):
    sounds.unseen_sound(config, "dog", 5)
  with pytest.raises(
    InputError, match="'tuning_fork' is no sound here; choose from owl, hits, thunder, door"
  ):
    sounds.unseen_sound(config, "tuning_fork", 5)


@pytest.fixture
def nameless(config, tmp_path):
  """The config on MS3 as it is published: a csv of names and splits, no metadata of AVSS beside it."""
  with config.unlocked():
    config.data.name = "ms3"
  for split, clips in (("train", 2), ("val", 2), ("test", 4)):
    write_layout(Generated("multi", split, clips, size=32), tmp_path, "ms3", split)
  (path,) = tmp_path.rglob("ms3_meta_data.csv")
  with path.open(newline="") as file:
    rows = list(csv.DictReader(file))
  path.write_text("\n".join(["video_id,split", *(f"{row['video_id']},{row['split']}" for row in rows)]))
  config.data.root = str(tmp_path)
  return config


def test_clips_that_name_no_objects_are_refused_before_training_with_what_helps(nameless):
  words = (
    r"no clip names its objects.*AVSBench-semantic/metadata\.csv beside Multi-sources.*negatives\.offscreen=0"
  )
  with pytest.raises(
    InputError, match=words + r".*eval\.conditions=.*eval\.negative_audio=published"
  ) as told:
    sounds.check_evaluation(nameless)
  assert "\n" not in str(told.value)
  nameless.eval.conditions = ("positive", "silence", "noise")
  sounds.check_evaluation(nameless)
  nameless.eval.conditions, nameless.eval.negative_audio = ("offscreen",), "published"
  with pytest.raises(InputError, match="4 of 4 files are missing, first .*audio_wav_misaligned"):
    sounds.check_evaluation(nameless)


def test_training_on_such_clips_ends_before_it_begins(nameless, tmp_path):
  with pytest.raises(InputError, match="no clip names its objects"):
    train(nameless, str(tmp_path / "run"))
  assert not (tmp_path / "run" / "checkpoints").exists()


def test_any_other_clip_lends_its_sound_only_if_asked(nameless, tmp_path, caplog):
  nameless.eval.negative_audio = "any"
  sounds.check_evaluation(nameless)
  assert "4 of 4 clips name no objects; their off-screen sound is any other clip's" in caplog.text
  source = sources.build(nameless, "test")
  sounds.write_manifest(nameless, source, str(tmp_path / "manifest.csv"))
  with open(tmp_path / "manifest.csv") as file:
    rows = [row for row in csv.DictReader(file) if row["condition"] == "offscreen"]
  assert len(rows) == 4 and {row["kind"] for row in rows} == {"any"}
  assert all(row["donor"] in source.ids and row["donor"] != row["clip"] for row in rows)


def test_clips_that_name_their_objects_get_the_same_donors_whatever_is_allowed(config, tmp_path):
  source = sources.build(config, "test")
  for word in ("drawn", "any"):
    config.eval.negative_audio = word
    sounds.write_manifest(config, source, str(tmp_path / f"{word}.csv"))
  assert (tmp_path / "drawn.csv").read_text() == (tmp_path / "any.csv").read_text()


class Deaf(sources.Limited):
  """Clips with log-mels alone."""

  def sound(self, index):
    raise InputError(f"{self.ids[index]}: there is no .wav")


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (
      {"eval.noise_mix.kind": ("pink",)},
      "eval.noise_mix needs the sounds themselves to judge test: .* no .wav",
    ),
    ({"model.audio": "htsat"}, "model.audio=htsat needs the sounds themselves"),
    ({"marks.kind": "classifier"}, "marks.kind=classifier needs the sounds themselves"),
    ({"negatives.front_end": "as_published"}, "negatives.front_end=as_published needs the sounds themselves"),
    ({"eval.unseen": ("gone.wav",)}, "eval.unseen: gone.wav is not there"),
    ({"eval.noise_mix.kind": ("gone.wav",)}, "eval.noise_mix.kind: 'gone.wav' is not made here"),
  ],
)
def test_what_the_evaluation_lacks_is_known_before_training(config, changes, words):
  source = Deaf(sources.build(config, "test"), 4)
  sounds.check_evaluation(config, source)
  config.update_from_flattened_dict(changes)
  with pytest.raises(InputError, match=words):
    sounds.check_evaluation(config, source)
