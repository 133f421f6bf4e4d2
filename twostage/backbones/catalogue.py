"""The architectures twostage knows, one row each.

Read off Keras 3's ``keras.applications``; golden tests hold each row against Keras' own model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from twostage.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Architecture:
    """One row of the catalogue.

    Attributes
    ----------
    name : str
        What users type.
    constructor : str
        The function in ``keras.applications``.
    input_size_px : int
        Height and width that its ImageNet weights were trained for.
    preprocessing : {"caffe", "tf", "torch", "none"}
        Keras' mode; "none" where the network rescales its input itself.
    classifier : str
        The layer that classifies, a Dense or a 1x1 convolution. The penultimate embedding is the
        tensor that enters it, flattened.
    dim : int
        Length of that embedding.
    needs_top : bool
        Whether the penultimate layer is part of what Keras calls the top, so that weights
        without top can't give it.
    min_size_px : int
        The least input size it takes.
    imagenet_rescaling : bool
        Whether Keras adds a rescaling layer only when it loads ImageNet weights by name; twostage
        always adds it.
    options : mapping
        Further arguments of the constructor.
    """

    name: str
    constructor: str
    input_size_px: int
    preprocessing: str
    dim: int
    classifier: str = "predictions"
    needs_top: bool = False
    min_size_px: int = 32
    imagenet_rescaling: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def _mobilenet(percent: int) -> Architecture:
    name = "mobilenet" if percent == 100 else f"mobilenet_{percent:03d}"
    options = {"alpha": percent / 100}
    return Architecture(
        name, "MobileNet", 224, "tf", 1024 * percent // 100, "conv_preds", options=options
    )


def _mobilenet_v2(percent: int) -> Architecture:
    name = "mobilenet_v2" if percent == 100 else f"mobilenet_v2_{percent:03d}"
    dim = 1280 * max(percent, 100) // 100
    return Architecture(name, "MobileNetV2", 224, "tf", dim, options={"alpha": percent / 100})


def _mobilenet_v3(size: str, dim: int, variant: str = "", **options: Any) -> Architecture:
    name = f"mobilenet_v3_{size.lower()}{variant}"
    constructor = f"MobileNetV3{size}"
    return Architecture(
        name, constructor, 224, "none", dim, "logits", needs_top=True, options=options
    )


def _efficientnet(number: int, input_size_px: int, dim: int) -> Architecture:
    return Architecture(
        f"efficientnet_b{number}",
        f"EfficientNetB{number}",
        input_size_px,
        "none",
        dim,
        imagenet_rescaling=True,
    )


def _efficientnet_v2(size: str, input_size_px: int, dim: int) -> Architecture:
    name = f"efficientnet_v2_{size.lower()}"
    return Architecture(name, f"EfficientNetV2{size}", input_size_px, "none", dim)


def _convnext(size: str, dim: int) -> Architecture:
    name = f"convnext_{size.lower()}"
    return Architecture(name, f"ConvNeXt{size}", 224, "none", dim, f"{name}_head_dense")


_ROWS = [
    *(_mobilenet(percent) for percent in (25, 50, 75, 100)),
    *(_mobilenet_v2(percent) for percent in (35, 50, 75, 100, 130, 140)),
    *(
        _mobilenet_v3(size, dim, variant, **options)
        for size, dim in (("Small", 1024), ("Large", 1280))
        for variant, options in (
            ("_minimalistic", {"minimalistic": True}),
            ("_075", {"alpha": 0.75}),
            ("", {}),
        )
    ),
    Architecture("resnet50", "ResNet50", 224, "caffe", 2048),
    Architecture("resnet101", "ResNet101", 224, "caffe", 2048),
    Architecture("resnet152", "ResNet152", 224, "caffe", 2048),
    Architecture("resnet50_v2", "ResNet50V2", 224, "tf", 2048),
    Architecture("resnet101_v2", "ResNet101V2", 224, "tf", 2048),
    Architecture("resnet152_v2", "ResNet152V2", 224, "tf", 2048),
    _efficientnet(0, 224, 1280),
    _efficientnet(1, 240, 1280),
    _efficientnet(2, 260, 1408),
    _efficientnet(3, 300, 1536),
    _efficientnet(4, 380, 1792),
    _efficientnet(5, 456, 2048),
    _efficientnet(6, 528, 2304),
    _efficientnet(7, 600, 2560),
    _efficientnet_v2("B0", 224, 1280),
    _efficientnet_v2("B1", 240, 1280),
    _efficientnet_v2("B2", 260, 1408),
    _efficientnet_v2("B3", 300, 1536),
    _efficientnet_v2("S", 384, 1280),
    _efficientnet_v2("M", 480, 1280),
    _efficientnet_v2("L", 480, 1280),
    _convnext("Tiny", 768),
    _convnext("Small", 768),
    _convnext("Base", 1024),
    _convnext("Large", 1536),
    _convnext("XLarge", 2048),
    Architecture("densenet121", "DenseNet121", 224, "torch", 1024),
    Architecture("densenet169", "DenseNet169", 224, "torch", 1664),
    Architecture("densenet201", "DenseNet201", 224, "torch", 1920),
    Architecture("inception_v3", "InceptionV3", 299, "tf", 2048, min_size_px=75),
    Architecture("inception_resnet_v2", "InceptionResNetV2", 299, "tf", 1536, min_size_px=75),
    Architecture("xception", "Xception", 299, "tf", 2048, min_size_px=71),
    Architecture("nasnet_mobile", "NASNetMobile", 224, "tf", 1056),
    Architecture("nasnet_large", "NASNetLarge", 331, "tf", 4032),
    Architecture("vgg16", "VGG16", 224, "caffe", 4096, needs_top=True),
    Architecture("vgg19", "VGG19", 224, "caffe", 4096, needs_top=True),
]

CATALOGUE: Mapping[str, Architecture] = {row.name: row for row in _ROWS}


def find_architecture(name: str) -> Architecture:
    """Return the catalogue's row of that name.

    Raises
    ------
    UsageError
        If there is none; the closest name is suggested.
    """
    if name not in CATALOGUE:
        own = " A network of your own is a .keras file, as model.save('my.keras') writes it."
        raise UsageError(
            f"Unknown backbone '{name}'.{did_you_mean(name, CATALOGUE)} "
            f"'twostage backbones' lists all {len(CATALOGUE)}.{own if _is_path(name) else ''}"
        )
    return CATALOGUE[name]


def _is_path(name: str) -> bool:
    return bool(PurePath(name).suffix) or len(PurePath(name).parts) > 1
