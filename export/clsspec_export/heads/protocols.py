"""How the official evaluations show a picture to their heads."""

from __future__ import annotations

from clsspec_serve.heads import Protocol

SEGMENTATION = Protocol(size=(512, 512), policy="short", window=512, stride=341)
"""DINOv2's and DINOv3's linear segmentation: short side 512, windows of 512 every 341 pixels."""

SEGMENTATION_MS = Protocol(size=(640, 640), policy="short", window=640, stride=320, flip=True)
"""DINOv2's `ms` heads at the first of their five scales, averaged with the mirror image."""

NYU = Protocol(size=(480, 480), policy="short", flip=True)
"""NYUv2: 480x640 as it is, averaged with its mirror image."""

KITTI = Protocol(size=(352, 352), policy="short", flip=True)
"""KITTI: 352x1216, cut out of the picture before, averaged with its mirror image."""

IMAGENET = Protocol(size=(224, 224), resize=(256, 256), policy="crop", interpolation="bicubic")
"""DINOv2's and DINOv3's classification: short side 256, bicubic, 224 out of the centre."""
