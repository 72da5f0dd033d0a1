"""Phrases are whole MIDI files that stay in their range and are the same for the same seed."""

import json
import pathlib

import pytest

from data_pipelines import media_phrases, media_reading
from data_pipelines.media_packages import Program
from data_pipelines.media_phrases import TICKS, Phrase, write_score


def _events(score: bytes) -> list[tuple[int, int, int]]:
  """(tick, status, first data byte) of each event; a small reader of what `write_score` writes."""
  track, at, tick, found = score[22:], 0, 0, []
  while at < len(track):
    delta = 0
    while True:
      delta = (delta << 7) | (track[at] & 0x7F)
      at += 1
      if track[at - 1] < 0x80:
        break
    tick += delta
    status = track[at]
    if status == 0xFF:
      break
    found.append((tick, status, track[at + 1]))
    at += 2 if status & 0xF0 == 0xC0 else 3
  return found


@pytest.mark.parametrize(
  "phrase",
  [
    Phrase(56, (58, 79), 10),
    Phrase(40, (60, 88), 10, bank=8),
    Phrase(16, (35, 49), 10, drums=True),
    Phrase(125, (57, 64), 10, bank=5, held=True),
  ],
)
def test_a_phrase_stays_in_its_range_and_ends_in_time(phrase):
  score = write_score(phrase, seed=3)
  assert score[:4] == b"MThd"
  assert int.from_bytes(score[18:22], "big") == len(score) - 22
  events = _events(score)
  channel = 9 if phrase.drums else 0
  assert {status & 0x0F for _, status, _ in events} == {channel}
  assert score[22:30] == bytes([0, 0xB0 | channel, 0, phrase.bank, 0, 0xC0 | channel, phrase.program, 0])
  started = [note for _, status, note in events if status & 0xF0 == 0x90]
  stopped = [note for _, status, note in events if status & 0xF0 == 0x80]
  assert sorted(started) == sorted(stopped)
  if not phrase.drums:
    assert all(phrase.notes[0] <= note <= phrase.notes[1] for note in started)
    assert len(set(started)) >= 3
  last_s = events[-1][0] / TICKS / media_phrases.BEATS_PER_S
  assert 9.5 < last_s < 13


def test_the_seed_makes_the_phrase():
  phrase = Phrase(56, (58, 79), 5)
  assert write_score(phrase, 1) == write_score(phrase, 1) != write_score(phrase, 2)


def test_held_notes_sound_one_at_a_time():
  events = _events(write_score(Phrase(125, (57, 64), 20, held=True), seed=0))
  sounding = 0
  for _, status, _ in events[2:]:
    sounding += 1 if status & 0xF0 == 0x90 else -1
    assert sounding in (0, 1)


def test_what_the_player_writes_is_returned(tmp_path):
  player = tmp_path / "player"
  player.write_text('#!/bin/sh\ncp "$9" "$9.copy"; while [ "$1" != "-F" ]; do shift; done; cp "$4" "$2"\n')
  player.chmod(0o755)
  phrase = Phrase(56, (58, 79), 2)
  played = media_phrases.render(phrase, pathlib.Path("font.sf2"), Program(str(player)))
  assert played.startswith(b"MThd")  # this player hands the score back
  assert played == media_phrases.render(phrase, pathlib.Path("font.sf2"), Program(str(player)))


def test_every_phrase_of_the_catalogue_can_be_written():
  catalogue = json.loads(media_reading.CATALOGUE.read_text())
  entries = [e for c in catalogue["classes"].values() for found in c["sounds"].values() for e in found]
  entries += [e for found in catalogue["noise"].values() for e in found]
  phrases = [
    Phrase(**{key: value for key, value in entry.items() if key != "item"})
    for entry in entries
    if isinstance(entry, dict) and "program" in entry
  ]
  assert len(phrases) > 18
  assert all(write_score(phrase, 0) for phrase in phrases)
