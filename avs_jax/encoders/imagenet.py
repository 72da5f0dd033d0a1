"""Statistics of ImageNet's pixels, with which nearly every published visual encoder was trained."""

IMAGENET_MEAN = (255 * 0.485, 255 * 0.456, 255 * 0.406)  # RGB in [0, 255]
IMAGENET_STD = (255 * 0.229, 255 * 0.224, 255 * 0.225)
