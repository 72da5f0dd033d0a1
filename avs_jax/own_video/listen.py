"""Does it listen? One video under four sounds: its own, silence, noise, and one of something that is not in it.

A model that listens marks what sounds under the own sound and nothing under the others. Written per video:

OUTPUT/<name>/listen.mp4    the four side by side; four sound tracks, one for each (players offer a choice)
OUTPUT/<name>/listen.png    up to six seconds of it
OUTPUT/<name>/listen.json   areas per sound, and the verdict
OUTPUT/<name>/listen.md     the same to read
OUTPUT/<name>/done.json     what they were made of: an input whose settings, model and file are the same is skipped

Masks of any other program are judged too: a folder with a sub-folder a sound (as --mode=score takes them), each with
a PNG a second.
"""

import dataclasses
import functools
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avs_jax import tables
from avs_jax.errors import InputError
from avs_jax.own_video import windows
from avs_jax.own_video.files import for_each, progress, refuse_absent, tell
from avs_jax.own_video.folder import DONE, about_footage, folders, sealed, whole
from avs_jax.own_video.four_panels import Columns, Grid, Moment, picture

SCHEMA = "avs_jax.listen/1"
FILES = ("listen.mp4", "listen.png", "listen.json", "listen.md")
# The verdict's limits, ours: what a wrong sound marks over what the own sound does, and how much of that one stays.
LISTENS, DEAF = 0.1, 0.5
AUDIBLE = 1e-4  # of full scale: below it a sound track is silence

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Tally:
  """What is counted of one sound, second by second.

  Attributes:
    area: sum of the shares of the picture that are marked.
    marked: seconds with any mark.
    stays: pixels marked both here and under the own sound.
    own: pixels marked under the own sound.
    seconds: how many.
    similarity: sum of the similarities, None without a guide.
  """

  area: float = 0.0
  marked: int = 0
  stays: int = 0
  own: int = 0
  seconds: int = 0
  similarity: float | None = None

  def add(self, mask: np.ndarray, own: np.ndarray, similarity: float | None) -> None:
    self.area += float(mask.mean())
    self.marked += bool(mask.any())
    self.stays += int((mask & own).sum())
    self.own += int(own.sum())
    self.seconds += 1
    if similarity is not None:
      self.similarity = (self.similarity or 0.0) + similarity

  def figures(self, name: str) -> dict[str, float | None]:
    """Of a wrong sound the area is all false alarm; `persists` is the share of the own sound's mask that stays."""
    found: dict[str, float | None] = {
      "area": self.area / self.seconds,
      "marked_seconds": self.marked / self.seconds,
      "similarity": None if self.similarity is None else self.similarity / self.seconds,
    }
    if name != "positive":
      found["persists"] = self.stays / self.own if self.own else None
    return {key: None if value is None else round(value, 6) for key, value in found.items()}


def verdict(
  figures: Mapping[str, Mapping[str, float | None]], names: Mapping[str, str], *, has_sound: bool = True
) -> tuple[str, str]:
  """One word (listens, partly, deaf, unclear), and why in a sentence.

  Args:
    figures: of each sound.
    names: how they are called.
    has_sound: whether the video has a sound of its own that can be heard.
  """
  if not has_sound:
    return (
      "unclear",
      "Nothing can be said: the video has no sound of its own, or a silent one; give one with --sound.",
    )
  stays = {name: each.get("persists") or 0.0 for name, each in figures.items() if name != "positive"}
  if "positive" not in figures or not stays:
    return "unclear", "Nothing can be said: the own sound and at least one other are needed."
  areas = {name: each["area"] or 0.0 for name, each in figures.items()}
  own = areas.pop("positive")
  alarms = "of the picture false alarms cover " + _under(areas, names)
  if not own:
    return "unclear", f"Nothing can be said: under the video's own sound nothing is marked; {alarms}."
  of = f"of what is marked under the own sound ({share(own)} of the picture) {_under(stays, names)} stays; {alarms}"
  wrong = {name: max(stays[name], areas[name] / own) for name in stays}
  worst = max(wrong, key=lambda name: wrong[name])
  if wrong[worst] <= LISTENS:
    return "listens", f"It listens: {of}."
  if min(stays.values()) >= DEAF:
    return "deaf", f"It does not listen: {of}."
  return "partly", f"It listens in part, least under {names[worst]}: {of}."


def _under(shares: Mapping[str, float], names: Mapping[str, str]) -> str:
  return ", ".join(f"{share(value)} under {names[name]}" for name, value in shares.items())


def is_audible(footage: Any, start: float, end: float | None) -> bool:
  """Whether the sound track holds anything but digital silence from `start` to `end`, in seconds."""
  if not footage.has_sound:
    return False
  left = math.inf if end is None else (end - start) * footage.rate_hz
  for block in footage.blocks(start):
    if np.abs(block[: max(0, math.ceil(min(left, len(block))))]).max(initial=0) > AUDIBLE:
      return True
    left -= len(block)
    if left <= 0:
      break
  return False


def share(value: float) -> str:
  return f"{100 * value:.0f} %" if value >= 0.01 or value == 0 else "under 1 %"


def command(
  model: Callable[[], Any],
  source: str | None,
  output: str | None,
  *,
  masks: str | None = None,
  **settings: Any,
) -> None:
  """What `--mode=listen` does; names the inputs that failed and exits with status 1 if there are any.

  Args:
    model: gives the predictor; not called where `masks` are given.

  Raises:
    InputError: see `listen_files`.
  """
  from data_pipelines import video

  if not source or not output:
    raise InputError("--mode=listen needs --input=VIDEO (or a folder, or a pattern) and --output=FOLDER.")
  inputs = video.find(source)
  refuse_masks_of_many(masks, inputs, source)
  refuse_absent(sound=settings.get("sound"))
  failed = listen_files(None if masks else model(), source, output, masks=masks, **settings)
  tell(failed, len(inputs), output)


def listen_files(
  predictor: Any,
  source: str,
  output: str,
  *,
  masks: str | None = None,
  sound: str | None = None,
  offscreen: str | None = None,
  stride: int | None = None,
  start: float = 0.0,
  end: float | None = None,
  threshold: float = 0.5,
  fps: float = 1.0,
) -> dict[str, str]:
  """Judges every video that `source` names, prints the verdicts, and writes under `output`.

  What is done (same file, model or masks, and settings) is not done again; its verdict is printed.

  Args:
    predictor: None where `masks` are given.
    masks: folder of another program's masks.
    offscreen: as of `foreign_sounds.under`.

  Returns: {input: why it failed}, empty where all went well.

  Raises:
    InputError: nothing is there, masks of one video for several, or settings that make no sense.
  """
  from data_pipelines import foreign_sounds, video

  inputs = video.find(source)
  refuse_masks_of_many(masks, inputs, source)
  if predictor is not None:
    predictor.check(stride=stride, start=start, end=end, threshold=threshold)
  else:
    windows.check_cut(start, end, threshold)
    if stride is not None:
      raise InputError(f"stride={stride} is a model's step, and the masks are given; leave it out.")
  lent = Path(offscreen).stem if offscreen else foreign_sounds.OFFSCREEN
  names = {
    "positive": "own sound", "silence": "silence", "noise": "noise", "offscreen": f"off-screen ({lent})",
  }  # fmt: skip
  cut = {"start": start, "end": end, "threshold": threshold}
  judged = {"masks": masks} if masks else {"name": predictor.name, "weights": predictor.weights_digest}
  beside = [each for each in (sound, offscreen) if each and Path(each).exists()]
  beside += [str(path) for path in sorted(Path(masks).rglob("*.png"))] if masks else []

  def facts_of(path: str) -> dict[str, Any]:
    facts = {
      "mode": "listen",
      "model": judged,
      "settings": {**cut, "stride": stride, "fps": fps},
      "source": Path(path).name,
      "sound": sound,
      "offscreen": offscreen,
    }
    return sealed(facts, [path, *beside])

  def work(path: str, folder: Path, facts: Mapping[str, Any], title: str) -> None:
    del title
    footage = video.open_footage(path, sound, fps=fps)
    sounds = {
      name: foreign_sounds.under(footage, name, offscreen=offscreen) for name in foreign_sounds.SOUNDS
    }
    if masks:
      found, who = read_masks(masks, footage, start, end, threshold), f"masks of {Path(masks).name}"
    else:
      found, who = predicted(predictor, footage, sounds, stride=stride, **cut), predictor.name
    judge(folder, footage, sounds, names, found, start=start, end=end, who=who, facts=facts)

  failed = for_each(inputs, output, facts_of, FILES, work)
  for path, folder in zip(inputs, folders(inputs, output), strict=True):
    if path not in failed:
      print(f"{path}: {json.loads((folder / 'listen.json').read_text(encoding='utf-8'))['sentence']}")
  return failed


def refuse_masks_of_many(masks: str | None, inputs: Sequence[str], source: str) -> None:
  """Raises `InputError` where masks of one video are given for several."""
  if masks and len(inputs) > 1:
    raise InputError(f"--masks={masks} are of one video, and --input={source} names {len(inputs)}; give one.")


def predicted(
  predictor: Any, footage: Any, sounds: Mapping[str, Any], *, start: float, **settings: Any
) -> Iterator[Moment]:
  for said in predictor.predict_under(footage, sounds, start=start, **settings):
    own = said["positive"]
    yield Moment(
      own.time_s,
      own.until_s,
      own.picture_s,
      {name: each.mask for name, each in said.items()},
      {name: each.similarity for name, each in said.items()},
    )


def read_masks(
  folder: str, footage: Any, start: float, end: float | None, threshold: float
) -> Iterator[Moment]:
  """Another program's masks, a PNG a second from `start` on, brought to the video's size.

  Raises:
    InputError: no folder of a sound, no own sound, or a second without a mask.
  """
  from avs_jax.mask_pictures import read_probabilities
  from avs_jax.score import find_conditions
  from data_pipelines import transforms, video

  found = {name: numbered(path) for name, path in find_conditions(folder).items()}
  if "positive" not in found:
    raise InputError(f"{folder}: holds no masks under the own sound; put them into {folder}/positive.")
  first = min(number for files in found.values() for number in files)
  if first > 1:
    raise InputError(f"{folder}: masks are numbered from {first}; number the seconds from 0 or from 1.")

  @functools.lru_cache(maxsize=8)
  def read(path: str) -> np.ndarray:
    return transforms.resize_mask(read_probabilities(path), footage.size) > threshold

  for k, second in enumerate(video.seconds(footage, start=start, end=end, fit=lambda _: None)):
    masks = {}
    for name, files in found.items():
      if k + first not in files:
        raise InputError(
          f"{folder}: there is no mask {k + first} under {name}, and the video has that second; write a mask for"
          " each second, an empty one where nothing sounds, or give --end."
        )
      masks[name] = read(files[k + first])
    nothing = dict.fromkeys(found)
    yield Moment(second.start_s, second.end_s, second.pictures_s[0], masks, nothing)


def numbered(folder: str) -> dict[int, str]:
  """PNG files under a folder by the number their name ends in.

  Raises:
    InputError: there is none, or two have the same number.
  """
  files: dict[int, str] = {}
  for path in sorted(Path(folder).rglob("*.png")):
    digits = path.stem[len(path.stem.rstrip("0123456789")) :]
    if digits:
      if int(digits) in files:
        raise InputError(f"{path} and {files[int(digits)]} are both second {int(digits)}; keep one of them.")
      files[int(digits)] = str(path)
  if not files:
    raise InputError(
      f"{folder}: holds no PNG whose name ends in a number; write one a second, e.g. 00000.png."
    )
  return files


def judge(
  folder: Path,
  footage: Any,
  sounds: Mapping[str, Any],
  names: Mapping[str, str],
  moments: Iterator[Moment],
  *,
  start: float,
  end: float | None,
  who: str,
  facts: Mapping[str, Any] | None = None,
) -> str:
  """Writes video, picture, JSON and Markdown of one input into `folder`; returns the verdict's sentence.

  Args:
    facts: what the files depend on, kept beside them (`sealed`).
  """
  tallies: dict[str, Tally] = {}
  with whole(folder, "listen") as partial:
    with (
      Grid(partial / "listen.mp4", footage, sounds, names, start) as grid,
      progress(footage, start, end, Path(footage.path).name) as bar,
    ):
      columns = Columns(footage, start, end)
      for moment in moments:
        for name, mask in moment.masks.items():
          tally = tallies.setdefault(name, Tally())
          tally.add(mask, moment.masks["positive"], moment.similarity[name])
        grid.add(moment)
        columns.add(moment, grid.shown)
        bar.update(round(moment.until_s - start - bar.n, 3))
    figures = {name: tally.figures(name) for name, tally in tallies.items()}
    word, sentence = verdict(figures, names, has_sound=is_audible(footage, start, end))
    told = {
      "schema": SCHEMA,
      "source": Path(footage.path).name,
      "judged": who,
      "video": about_footage(footage),
      "seconds": next(iter(tallies.values())).seconds,
      "sounds": {name: {"called": names.get(name, name), **each} for name, each in figures.items()},
      "limits": {"listens_up_to": LISTENS, "deaf_from": DEAF},
      "verdict": word,
      "sentence": sentence,
      "notes": footage.notes,
    }
    caption = f"{who}: {Path(footage.path).name}. {sentence}"
    picture(partial / "listen.png", columns.kept, names, figures, caption)
    for kind, text in (("json", json.dumps(told, indent=1) + "\n"), ("md", markdown(told))):
      (partial / f"listen.{kind}").write_text(text, encoding="utf-8")
    (partial / DONE).write_text(
      json.dumps({"mode": "listen", **(facts or {})}, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
  return sentence


def markdown(facts: Mapping[str, Any]) -> str:
  """The figures and the verdict to read."""
  limits = facts["limits"]
  header = ["sound", "area marked", "seconds with a mark", "of the own mask stays", "similarity"]
  rows = [
    [
      each["called"],
      *(tables.number(each.get(key)) for key in ("area", "marked_seconds", "persists", "similarity")),
    ]
    for each in facts["sounds"].values()
  ]
  lines = [
    f"# Does it listen? {facts['source']}",
    "",
    f"**{facts['sentence']}**",
    "",
    *tables.markdown(header, rows),
  ]
  lines += [
    "",
    f"Judged: {facts['judged']}, {facts['seconds']} seconds. Every area under silence, noise or the off-screen sound"
    f' is a false alarm. "Listens": under any of them at most {share(limits["listens_up_to"])} as much is marked as'
    f' under the own sound; "does not listen": at least {share(limits["deaf_from"])} of the own sound\'s mask stays'
    " under each. That the off-screen sound comes from nothing in the picture is taken for granted.",
    *(f"\nNote: {note}." for note in facts["notes"]),
  ]
  return "\n".join(lines) + "\n"
