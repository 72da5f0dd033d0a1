r"""AVSBench S4 (single source), the paper's recipe: PVT-v2-B5, TPAVI at four stages, first frame annotated.

Row aimed at: AVSBench (Zhou et al., ECCV 2022), S4, PVT-v2: iou_frame .787, f_max_batch20 .879.
Our number: none; neither the data set nor the pretrained weights can be had where this was written.
Settings: Adam 1e-4 constant, batch 4, 15 epochs, no augmentation, VGGish frozen, BCE on the first frame.

  python run.py --config=configs/s4.py --workdir=runs/s4 --config.data.root=$AVS_DATA_ROOT \
    --config.init.visual=pvt_v2_b5.pth --config.init.audio=vggish-10086976.pth

`:avsegformer` is that paper's recipe (Gao et al., AAAI 2024, row S4, PVT: iou_frame .8306): 512 px, AdamW 2e-5
constant with decay .01 on everything, batch 2, 30 epochs, visual encoder frozen for the first 5, Dice +
0.1 mix Dice on the first frame. On negatives that loss has no gradient in the masks (see `losses.dice`).

`:active_queries` is that paper's recipe (Sun et al., ACM MM 2024, row S4, Swin-base: iou_frame .8292, with the
uncertainty strategy .8331): 384 px, AdamW with decay .01, 1e-3 and for the visual encoder's adapters 1e-4, the
rest of that encoder frozen, 60 epochs, focal + Dice + class loss at every layer, well learned pairs dropped
with p = .4. Marks come from K-means; the rows above had BEATs: --config.marks.kind=classifier
--config.marks.weights=BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt1.pt. Start from Mask2Former on ADE20K:
--config.init.system=mask2former-swin-base-ade.safetensors. Batch: not printed, ours.

`:ravs` is that paper's model and objective (Liu et al., CVPR 2025, row S4, PVT-v2-B5, VGGish: J .903, F .922,
metric family not said): BCE + Dice + IoU + 0.1 alignment. It gives no optimiser: the settings above,
gradient norm cut at 1. See docs/ravs.md.

`:sdavs` is that paper's recipe (Peng et al., row S4, Swin-base: J .855, F .920; PVT-v2 .846, .913; metric family
not said): 384 px, AdamW 5e-5 falling in steps, batch 4, 40 epochs, cross entropy + IoU + Dice.
What the paper leaves open: docs/sdavs.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: name of a system, default avsbench."""
  config = common.get_config()
  if arg:
    common.select_system(config, arg)
  config.title = f"S4 {config.model.system}"
  config.data.name = "s4"
  config.schedule.epochs = 15
  common.follow_paper(config, "s4")
  return config.lock()
