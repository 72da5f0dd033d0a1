r"""VPO (single pictures of COCO with sounds of VGGSound; 22 classes, three seconds), AVSS's recipe on it.

Row aimed at: RAVS (Liu et al., CVPR 2025), table 2, MiT-B5 and HTS-AT: J .6803 / .6697 / .6189 and F .8190 / .8001 /
.7670 on VPO-SS / -MS / -MSMI, metric family not said (the data set's own paper counts over the whole set:
iou_class_dataset, by which the best checkpoint is picked here).
Our number: none; neither the data set nor the pretrained weights can be had where this was written. On stand-ins:
docs/ravs.md.
Settings: as configs/avss.py for the system; 224 px, as the paper says; 60 epochs, ours.

  python run.py --config=configs/vpo.py:ravs-msmi --workdir=runs/vpo --config.data.root=$AVS_DATA_ROOT \
    --config.model.visual=mit_b5 --config.init.visual=mit_b5.pth \
    --config.model.audio=htsat --config.init.audio=htsat.ckpt

The argument holds up to three words in any order, joined by "-": a system (avsbench), a subset (ss, ms, msmi; msmi),
and `binary` for masks of whatever sounds instead of classes, by the recipe of configs/ms3.py.
In VPO-MSMI the model hears where sounds come from; --config.model.stereo sets it for any subset.
"""

from ml_collections import ConfigDict

from avs_jax.errors import InputError
from configs import avss, common, ms3

SUBSETS = ("ss", "ms", "msmi")
NUM_CLASSES = 22


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: a system, a subset and `binary`, each at most once, joined by "-".

  Raises:
    InputError: a word is unknown, or the second of its kind.
  """
  chosen: dict[str, str] = {}
  kinds = {"system": common.SYSTEMS, "subset": SUBSETS, "masks": ("binary",)}
  for word in filter(None, arg.split("-")):
    kind = next((kind for kind, words in kinds.items() if word in words), None)
    if kind is None or kind in chosen:
      known = "; ".join(f"{kind}: {', '.join(words)}" for kind, words in kinds.items())
      raise InputError(
        f"configs/vpo.py:{arg}: {word!r} is unknown or one too many. Choose one each of {known}."
      )
    chosen[kind] = word
  system, subset = chosen.get("system", "avsbench"), chosen.get("subset", "msmi")
  is_binary = "masks" in chosen
  config = (ms3 if is_binary else avss).get_config(system)
  with config.unlocked():
    config.title = f"VPO-{subset.upper()} {system}{', binary' if is_binary else ''}"
    config.data.name = f"vpo_{subset}"
    config.data.seconds = 3
    config.data.size = 224
    config.model.num_classes = 1 if is_binary else NUM_CLASSES
    config.model.stereo = subset == "msmi"
    if config.model.stereo and system == "sdavs":
      config.model.sound_map = "embedding"  # cells of a sound's map have no direction
    config.data.curriculum = ()  # AVSS's parts, which VPO has not
    config.schedule.epochs = 60
    config.eval.metric = "iou_dataset" if is_binary else "iou_class_dataset"
  return config.lock()
