"""What decides the value of a pixel that a backbone sees, in words.

Part of a backbone's identity: whoever changes how pixels are made changes these words, so that old
and new embeddings are never mixed. `MAX_PIXELS` is none of it: it decides whether an image is
decoded, never how.
"""

DECODER = "pillow, jpeg draft >= target, exif upright, alpha on white, deep scaled to its white"
RESIZE_FILTER = "bilinear, antialiased"
RESIZE_POLICIES = ("crop", "squash", "pad")
MAX_PIXELS = 200_000_000  # what the largest sensors of phones give
