r"""AVSBench-semantic (AVSS, 71 classes, ten seconds), the paper's recipe: PVT-v2-B5, TPAVI in groups of five.

Row aimed at: "Audio-Visual Segmentation with Semantics" (Zhou et al.), AVSS, PVT-v2: mIoU .298, F .352
(iou_class_frame_published, f_class_frame_published; so are the rows below).
Our number: none; neither the data set nor the pretrained weights can be had where this was written.
Settings: Adam 1e-4 constant, batch 4, 60 epochs, cross entropy + 0.5 KL matching, validation from epoch 16
every second epoch.

  python run.py --config=configs/avss.py --workdir=runs/avss --config.data.root=$AVS_DATA_ROOT \
    --config.init.visual=pvt_v2_b5.pth --config.init.audio=vggish-10086976.pth

`:avsegformer` is that paper's recipe (Gao et al., AAAI 2024, row AVSS, PVT: mIoU .3731, F .428): 224 px, AdamW
2e-5 constant with decay .01 on everything, batch 4, 30 epochs, nothing but VGGish frozen, cross entropy +
0.1 mix Dice, validation from epoch 10 every second epoch.

`:active_queries` is that paper's recipe (Sun et al., ACM MM 2024, row AVSS, Swin-base: mIoU .4193, with the
uncertainty strategy .4442): 384 px, AdamW with decay .01, 1e-3 and for the visual encoder's adapters 1e-4, the
rest of that encoder frozen, 60 epochs, focal + Dice + class loss at every layer, well learned pairs dropped
with p = .4. Each epoch goes through V1S, then V2, then V1M. Marks come from K-means; the rows above had BEATs:
--config.marks.kind=classifier --config.marks.weights=BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt1.pt. Start from
Mask2Former on ADE20K: --config.init.system=mask2former-swin-base-ade.safetensors. Batch: not printed, ours.

`:ravs` is that paper's model and objective (Liu et al., CVPR 2025, row AVSS, PVT-v2-B5, VGGish: J .587, F .690,
metric family not said): cross entropy + Dice + IoU of classes + 0.1 alignment. It gives no optimiser:
the settings above, gradient norm cut at 1. See docs/ravs.md.

`:sdavs` is that paper's recipe (Peng et al., row AVSS, Swin-base: J .460, F .511; PVT-v2 .448, .502; metric family
not said): 384 px, AdamW 5e-5 falling in steps, batch 4, 40 epochs, cross entropy + IoU + Dice of classes.
What the paper leaves open: docs/sdavs.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: name of a system, default avsbench."""
  config = common.get_config()
  if arg:
    common.select_system(config, arg)
  config.title = f"AVSS {config.model.system}"
  config.data.name = "avss"
  config.data.seconds = 10
  config.model.num_classes = 71
  config.loss.bce = 0.0
  config.loss.cross_entropy = 1.0
  config.loss.matching = "kl"
  config.loss.matching_weight = 0.5
  config.schedule.epochs = 60
  config.eval.every_epochs = 2.0
  config.eval.from_epoch = 16
  config.eval.metric = "iou_class_frame_published"
  common.follow_paper(config, "avss")
  return config.lock()
