"""What decides the value of a pixel that a backbone sees, in words.

Part of a backbone's identity: whoever changes how pixels are made changes these words, so that old
and new embeddings are never mixed.
"""

DECODER = "pillow, jpeg draft >= target, exif upright, alpha on white"
RESIZE_FILTER = "bilinear, antialiased"
PREPROCESSINGS = ("caffe", "tf", "torch", "unit", "none")
RESIZE_POLICIES = ("crop", "squash", "pad")
