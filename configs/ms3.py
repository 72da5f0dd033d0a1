r"""AVSBench MS3 (multiple sources), the paper's recipe: PVT-v2-B5, TPAVI at four stages.

Row aimed at: AVSBench (Zhou et al., ECCV 2022), MS3, PVT-v2: iou_frame .540, f_max_batch20 .645.
Our number: none; neither the data set nor the pretrained weights can be had where this was written.
Settings: Adam 1e-4 constant, batch 4, 30 epochs, no augmentation, VGGish frozen, BCE + 0.5 KL matching at
all four stages (summed over frames, as published).

  python run.py --config=configs/ms3.py --workdir=runs/ms3 --config.data.root=$AVS_DATA_ROOT \
    --config.init.visual=pvt_v2_b5.pth --config.init.audio=vggish-10086976.pth

`:avsegformer` is that paper's recipe (Gao et al., AAAI 2024, row MS3, PVT: iou_frame .6133): 512 px, AdamW 2e-5
constant with decay .01 on everything, batch 2, 60 epochs, visual encoder frozen for the first 10, Dice +
0.1 mix Dice. On frames without a sounding object that loss has no gradient in the masks (see `losses.dice`).

`:active_queries` is that paper's recipe (Sun et al., ACM MM 2024, row MS3, Swin-base: iou_frame .6612, with the
uncertainty strategy .6722): 384 px, AdamW with decay .01, 1e-3 and for the visual encoder's adapters 1e-4, the
rest of that encoder frozen, 60 epochs, focal + Dice + class loss at every layer, well learned pairs dropped
with p = .4. Marks come from K-means; the rows above had BEATs: --config.marks.kind=classifier
--config.marks.weights=BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt1.pt. Start from Mask2Former on ADE20K:
--config.init.system=mask2former-swin-base-ade.safetensors. Batch: not printed, ours.

`:ravs` is that paper's model and objective (Liu et al., CVPR 2025, row MS3, PVT-v2-B5, VGGish: J .697, F .796,
metric family not said): BCE + Dice + IoU + 0.1 alignment. It gives no optimiser: the settings above,
gradient norm cut at 1. See docs/ravs.md.

`:sdavs` is that paper's recipe (Peng et al., row MS3, Swin-base: J .723, F .808; PVT-v2 .705, .790; metric family
not said): 384 px, AdamW 5e-5 falling in steps, batch 4, 60 epochs, cross entropy + IoU + Dice.
What the paper leaves open: docs/sdavs.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: name of a system, default avsbench."""
  config = common.get_config()
  if arg:
    common.select_system(config, arg)
  config.title = f"MS3 {config.model.system}"
  config.data.name = "ms3"
  config.loss.matching = "kl"
  config.loss.matching_weight = 0.5
  config.schedule.epochs = 30
  common.follow_paper(config, "ms3")
  return config.lock()
