"""Bytes become upright RGB squares, whatever the file; what can't be decoded is an ImageError."""

import io
import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from twostage.errors import ImageError
from twostage.images.decoding import RESIZE_POLICIES, decode, read_bytes

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
ORIENTATION = 0x0112


def to_bytes(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quarters(width=120, height=80):
    """Return an image with corners of four colours; their places tell the orientation."""
    image = Image.new("RGB", (width, height), GREY)
    half = (width // 2, height // 2)
    for corner, colour in zip(((0, 0), (1, 0), (0, 1)), (RED, GREEN, BLUE), strict=True):
        image.paste(colour, (corner[0] * half[0], corner[1] * half[1]), None) if False else (
            image.paste(Image.new("RGB", half, colour), (corner[0] * half[0], corner[1] * half[1]))
        )
    return image
