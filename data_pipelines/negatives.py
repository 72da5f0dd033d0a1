"""Sounds that do not belong to the picture: silence, noise, another clip's; drawn by seed, listed in a file.

"Do Audio-Visual Segmentation Models Truly Segment Sounding Objects?", section 3.1 and 3.2. The pair of clip i
in epoch e is a pure function of (seed, e, i) and of the split's list of clips; evaluation uses epoch -1.
Deviation: the released code draws once before training, never draws noise, and reads folders unsorted, so
  that
its seed fixes nothing; here pairs are drawn anew each epoch (`negatives.redraw=False` keeps the first).

Manifest, CSV:

  split,epoch,clip,condition,donor,kind,seed
  test,-1,ms3_0012,offscreen,ms3_0047,contrast,0
"""

import csv
import dataclasses
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from avs_jax.errors import InputError, check_choice
from data_pipelines.audio import Recorded, fit
from data_pipelines.clips import SAMPLE_RATE_HZ, Source
from data_pipelines.noising import check_colours, choose_noise, make_noise

# `avs_jax.types.Condition` by value: data workers must not import jax.
POSITIVE, SILENCE, NOISE, OFFSCREEN = range(4)
CONDITIONS = ("positive", "silence", "noise", "offscreen")
EVALUATION = -1  # the epoch of evaluation pairs
BYTES_RATE_HZ = 44_100  # of the released benchmark's noise files

# Broad groups whose sound is a poor contrast to a group's picture, beside its own (released code's table).
CONTRASTS = {
  "disjoint": {},
  "s4": {"music": {"human"}, "human": {"music"}, "animal": {"human"}},
  "ms3": {"music": {"human"}, "human": {"music"}, "animal": {"human"}, "device": {"music"}},
}
RULES = ("auto", *CONTRASTS)

log = logging.getLogger(__name__)


class Pair(NamedTuple):
  """What a clip is shown with: a condition, the donor's index for off-screen sound (else -1), how it was
  drawn.

  `kind` is the noise's name, or how strict the donor's choice was ("contrast", "broad", "category", "any").
  """

  condition: int
  donor: int = -1
  kind: str = ""


def whole(source: Any) -> Any:
  """The full split behind a source that shows only a part of it, or that remembers: donors come from all of
  it.

  So a clip's pair is the same whether ten clips are evaluated or all.
  """
  while hasattr(source, "source"):
    source = source.source
  return source


class Donors:
  """For every clip of a split, the clips whose sound cannot come from anything in its picture.

  A donor shares no category and no broad group with the picture. Under the published rules it also keeps
  clear of the "least suitable contrasts". Where nobody is left the demands fall in this order: contrasts,
  broad groups; never the categories. A clip of which nothing is known may take any other clip, as published.
  Under "disjoint" donors with a single object are preferred: more of a mixture's sounds could be taken for
  something else in the picture.

  Args:
    guess: if no clip of the split is known, let each take any other's sound, which may be heard rightly.

  Raises: InputError when the data set names no categories (unless `guess`), or no donor exists for a clip.
  """

  def __init__(self, source: Source, rule: str = "auto", *, guess: bool = False):
    source = whole(source)
    self.source = source
    known = {name: number for number, name in enumerate(source.categories)}
    groups = sorted({group for group in source.broad if group})
    owns = [[known[name] for name in source.objects(i) if name in known] for i in range(len(source))]
    if not any(owns) and not guess:
      raise InputError(
        f"{source.title}: no clip names its objects, so off-screen sounds cannot be chosen; of MS3,"
        " AVSBench-semantic/metadata.csv beside Multi-sources names them; otherwise train with"
        " --config.negatives.offscreen=0 and judge with"
        " --config.eval.conditions=\"('positive','silence','noise')\" or --config.eval.negative_audio=published"
        " or =any (docs/data.md, section 3)."
      )
    unknown = sum(not own for own in owns)
    if unknown:
      log.warning(
        "%s: %d of %d clips name no objects; their off-screen sound is any other clip's, and may be in the picture",
        source.title,
        unknown,
        len(owns),
      )
    if rule == "auto":
      single = max(len(own) for own in owns) == 1
      rule = "disjoint" if source.is_stand_in else "s4" if single else "ms3"
    self.rule = rule
    self.has = np.zeros((len(source), len(known)), bool)
    for i, own in enumerate(owns):
      self.has[i, own] = True
    group_of = np.zeros((len(known), len(groups)), bool)
    for number, group in enumerate(source.broad):
      if group:
        group_of[number, groups.index(group)] = True
    self.broad = self.has @ group_of  # [clips, groups]
    contrast = CONTRASTS[rule]
    poor = np.array([[b in contrast.get(a, ()) for b in groups] for a in groups], bool)
    self.avoid = self.broad | (self.broad @ poor.reshape(len(groups), len(groups)))
    self.count = self.has.sum(1)
    self._found: dict[bytes, tuple[np.ndarray, str]] = {}

  def candidates(self, index: int) -> tuple[np.ndarray, str]:
    """Indices of the clips that may lend their sound, ascending, and how strict the choice was."""
    if not self.has[index].any() and len(self.has) > 1:
      return np.delete(np.arange(len(self.has)), index), "any"
    key = self.has[index].tobytes()
    if key not in self._found:
      self._found[key] = self._search(index)
    return self._found[key]

  def check(self) -> None:
    """Raises `InputError` unless every clip has a donor."""
    for index in range(len(self.has)):
      self.candidates(index)

  def _search(self, index: int) -> tuple[np.ndarray, str]:
    own = (self.count > 0) & ~(self.has & self.has[index]).any(1)
    clear = own & ~(self.broad & self.broad[index]).any(1)
    best = clear & ~(self.broad & self.avoid[index]).any(1)
    for fits, kind in ((best, "contrast"), (clear, "broad"), (own, "category")):
      if fits.any():
        alone = fits & (self.count == 1)
        return np.flatnonzero(alone if self.rule == "disjoint" and alone.any() else fits), kind
    names = ", ".join(sorted(self.source.objects(index)))
    raise InputError(
      f"{self.source.title}: no clip can lend an off-screen sound to {self.source.ids[index]} ({names}): each"
      f" of the {len(self.has)} clips shares a category with it; use more clips or set negatives.offscreen=0."
    )

  def draw(self, index: int, rng: np.random.Generator) -> tuple[int, str]:
    """A donor, and how strict the choice was. Under "s4" a category is drawn first, then a clip of it."""
    clips, kind = self.candidates(index)
    if self.rule == "s4" and kind != "any":
      categories = np.flatnonzero(self.has[clips].any(0))
      clips = clips[self.has[clips, categories[int(rng.integers(len(categories)))]]]
    return int(clips[int(rng.integers(len(clips)))]), kind


@dataclasses.dataclass(eq=False)
class Negatives:
  """How often and by what a clip's own sound is replaced.

  Attributes:
    fraction: of the training pairs that are negative.
    silence, noise, offscreen: their shares among the negatives, in any unit.
    seed: of everything drawn here.
    noise_kinds: drawn with equal chances: white, pink, brown, blue, violet, coloured, tones, recorded.
    recordings: name -> mono waveform at 16 kHz, for "recorded".
    noise_db: range of the noise's level, root mean square in dB below full scale.
    noise_format: "float", or "bytes": random float64 numbers read as 16-bit samples at 44.1 kHz, which is
      what the released files hold; near full scale. `noise_kinds` and `noise_db` then mean nothing.
    silence_db: None gives digital silence; a level in dB gives that much white noise instead.
    rule: how off-screen sounds are chosen: "disjoint", "s4", "ms3", or "auto" (by the data set).
    guess: where no clip of the split names its objects, any other clip may lend its sound.
    redraw: new pairs every epoch.
  """

  fraction: float = 0.1
  silence: float = 1.0
  noise: float = 1.0
  offscreen: float = 1.0
  seed: int = 0
  noise_kinds: tuple[str, ...] = ("white", "pink", "brown", "coloured")
  recordings: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  noise_db: tuple[float, float] = (-36.0, -12.0)
  noise_format: str = "float"
  silence_db: float | None = None
  rule: str = "auto"
  redraw: bool = True
  guess: bool = False

  def __post_init__(self):
    shares = (self.silence, self.noise, self.offscreen)
    if self.seed < 0:
      raise InputError(f"negatives.seed={self.seed} must not be negative.")
    if not 0 <= self.fraction <= 1:
      raise InputError(f"negatives.fraction={self.fraction} must lie between 0 and 1.")
    if min(shares) < 0 or (self.fraction and sum(shares) == 0):
      raise InputError(
        f"negatives: shares {shares} of silence, noise, offscreen must be positive, not all 0."
      )
    check_choice("negatives.rule", self.rule, RULES)
    check_choice("negatives.noise_format", self.noise_format, ("float", "bytes"))
    check_colours(self.noise_kinds, self.recordings)
    self._donors: dict[int, Donors] = {}

  def __getstate__(self):
    return {**self.__dict__, "_donors": {}}  # a worker finds the donors again

  def donors(self, source: Source) -> Donors:
    """The candidates of a split, found once."""
    source = whole(source)
    if id(source) not in self._donors or self._donors[id(source)].source is not source:
      self._donors[id(source)] = Donors(source, self.rule, guess=self.guess)
    return self._donors[id(source)]

  def draw(self, epoch: int, index: int, source: Source) -> Pair:
    """What training shows clip `index` with in an epoch."""
    rng = self._rng(epoch, index, 0)
    if rng.uniform() >= self.fraction:
      return Pair(POSITIVE)
    shares = np.array([self.silence, self.noise, self.offscreen])
    condition = SILENCE + int(rng.choice(3, p=shares / shares.sum()))
    return self.pair(condition, epoch, index, source)

  def pair(self, condition: int, epoch: int, index: int, source: Source, attempt: int = 0) -> Pair:
    """What clip `index` is shown with under a given condition; another `attempt` draws another donor."""
    if condition == NOISE:
      return Pair(NOISE, kind=self._noise_kind(epoch, index))
    if condition == OFFSCREEN:
      return Pair(OFFSCREEN, *self.donors(source).draw(index, self._rng(epoch, index, 1, attempt)))
    return Pair(int(condition))

  def substitute(
    self, own: np.ndarray, pair: Pair, epoch: int, index: int, donor: np.ndarray | None = None
  ) -> np.ndarray:
    """The waveform a pair calls for: float32, as long as the clip's own.

    Args:
      own: the clip's own waveform, returned as it is for a positive pair.
      donor: the donor's waveform, for an off-screen pair; cut to length, or repeated: five seconds of it and five
        of silence, under a clip of ten, would be heard as silence too.

    Raises:
      ValueError: an off-screen pair without its donor's waveform.
    """
    samples = len(own)
    if pair.condition == SILENCE:
      if self.silence_db is None:
        return np.zeros(samples, np.float32)
      floor = self._rng(epoch, index, 3).standard_normal(samples, np.float32)
      return floor * np.float32(10 ** (self.silence_db / 20))
    if pair.condition == NOISE:
      return self._noise(pair.kind, epoch, index, samples)
    if pair.condition == OFFSCREEN:
      if donor is None:
        raise ValueError("an off-screen pair needs the donor's waveform")
      return fit(donor, samples)
    return own

  def noise_as_recorded(self, epoch: int, index: int, seconds: int) -> Recorded:
    """Noise of the kind "bytes" at 44.1 kHz; `substitute` gives the same at 16 kHz, without what is above 8 kHz."""
    noise = noise_of_bytes(self._rng(epoch, index, 3), seconds * BYTES_RATE_HZ)
    return Recorded(noise, BYTES_RATE_HZ)

  def _rng(self, epoch: int, index: int, stream: int, attempt: int = 0) -> np.random.Generator:
    epoch = epoch if self.redraw or epoch == EVALUATION else 0
    return np.random.default_rng([self.seed, epoch + 1, index, stream, attempt])

  def _noise_kind(self, epoch: int, index: int) -> str:
    if self.noise_format == "bytes":
      return "bytes"
    return choose_noise(self._rng(epoch, index, 2), self.noise_kinds, self.recordings)

  def _noise(self, kind: str, epoch: int, index: int, samples: int) -> np.ndarray:
    rng = self._rng(epoch, index, 3)
    if kind == "bytes":
      needed = -(-samples * BYTES_RATE_HZ // SAMPLE_RATE_HZ) + 4
      return Recorded(noise_of_bytes(rng, needed), BYTES_RATE_HZ).at_16_khz()[:samples]
    level = 10 ** (rng.uniform(*self.noise_db) / 20)
    noise = make_noise(rng, samples, kind, self.recordings)
    rms = np.sqrt(np.mean(np.square(noise)))
    return (noise * (level / rms if rms else 0)).clip(-1, 1).astype(np.float32)


def noise_of_bytes(rng: np.random.Generator | np.random.RandomState, samples: int) -> np.ndarray:
  """The released benchmark's noise: float64 numbers whose bytes are taken for 16-bit samples at 44.1 kHz.

  Three samples of four are mantissa bits, the fourth holds sign and exponent: loud white noise all the same.
  The released files hold 20 s of it, of which the first 5 are heard.
  """
  numbers = rng.uniform(-1, 1, -(-samples // 4))
  return (numbers.astype("<f8").view("<i2") / 32768)[:samples]


class Row(NamedTuple):
  """A line of the manifest."""

  split: str
  epoch: int
  clip: str
  condition: str
  donor: str
  kind: str
  seed: int


def manifest(
  negatives: Negatives, source: Source, split: str, conditions: Iterable[int], epoch: int = EVALUATION
) -> list[Row]:
  """Every pair of an evaluation, condition by condition, in the order of the clips."""
  rows = []
  for condition in conditions:
    for index, clip in enumerate(source.ids):
      pair = negatives.pair(condition, epoch, index, source)
      donor = whole(source).ids[pair.donor] if pair.donor >= 0 else ""
      rows.append(Row(split, epoch, clip, CONDITIONS[pair.condition], donor, pair.kind, negatives.seed))
  return rows


def write_manifest(path: str | Path, rows: Iterable[Row]) -> None:
  """Writes the pairs as CSV, a header first."""
  with open(path, "w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(rows)


def add_to_manifest(path: str | Path, rows: Iterable[Row]) -> None:
  """Adds pairs to what `write_manifest` wrote."""
  with open(path, "a", newline="", encoding="utf-8") as file:
    csv.writer(file, lineterminator="\n").writerows(rows)


def read_manifest(path: str | Path) -> list[Row]:
  """Reads what `write_manifest` wrote. Raises `InputError` naming file and line when it is something else."""
  path = Path(path)
  if not path.is_file():
    raise InputError(f"{path}: there is no such manifest.")
  with open(path, newline="", encoding="utf-8") as file:
    lines = list(csv.reader(file))
  if not lines or tuple(lines[0]) != Row._fields:
    raise InputError(f"{path}: line 1 must read {','.join(Row._fields)}; write the manifest again.")
  rows = []
  for number, line in enumerate(lines[1:], 2):
    try:
      split, epoch, clip, condition, donor, kind, seed = line
      if condition not in CONDITIONS:
        raise ValueError(condition)
      rows.append(Row(split, int(epoch), clip, condition, donor, kind, int(seed)))
    except ValueError:
      raise InputError(
        f"{path}: line {number} is not a pair ({','.join(line)}); write the manifest again."
      ) from None
  return rows
