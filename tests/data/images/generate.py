"""Writes the images and what torchvision makes of them: `python tests/data/images/generate.py`.

Made with torch 2.15.0, torchvision 0.29.2, Pillow 13.0.0, numpy 2.4.6. `expected.npz` holds, for every image and setting, the
bytes [H, W, 3] after `default_loader`, `Resize` and `CenterCrop`, as `<file>/<resize>/<crop>/<interpolation>` (0: left out),
and under `normalized` the floats [3, H, W] of one of them after `ToTensor` and `Normalize`.
"""

import pathlib
import struct
import zlib

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets.folder import default_loader
from torchvision.transforms import InterpolationMode

HERE = pathlib.Path(__file__).parent
RNG = np.random.default_rng(7)
# Shrinking, enlarging, padding after shrinking, padding alone.
SETTINGS = [(30, 16, "bilinear"), (30, 16, "bicubic"), (71, 28, "bilinear"), (71, 28, "bicubic"), (19, 24, "bicubic"), (0, 56, "bilinear")]


def scene(width, height):
    """Waves, discs with hard edges and a little noise."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([128 + 60 * np.sin(x / (4 + 2 * c) + c) + 50 * np.cos(y / (6 + c)) for c in range(3)], axis=-1)
    for _ in range(8):
        cx, cy, radius = RNG.integers(0, width), RNG.integers(0, height), RNG.integers(2, min(width, height) // 4)
        image[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = RNG.integers(0, 256, 3)
    return np.clip(image + RNG.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def png16(path, pixels):
    """An RGB PNG of 16 bits, which Pillow cannot write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def write_images(folder):
    folder.mkdir(exist_ok=True)
    image = lambda width, height: Image.fromarray(scene(width, height))
    image(61, 47).save(folder / "rgb.png")
    image(40, 53).convert("L").save(folder / "grey.png")
    translucent = image(45, 38)
    translucent.putalpha(image(45, 38).convert("L"))
    translucent.save(folder / "rgba.png")
    translucent.convert("LA").save(folder / "grey-alpha.png")
    image(39, 44).quantize(24).save(folder / "palette.png", transparency=3)
    image(33, 50).convert("1").save(folder / "bilevel.png")
    grey16 = np.array(image(35, 41).convert("L")).astype(np.uint16) * 257 + RNG.integers(-100, 100, (41, 35)).astype(np.uint16)
    Image.fromarray(grey16).save(folder / "grey16.png")
    png16(folder / "rgb16.png", scene(36, 42).astype(int) * 256 + RNG.integers(0, 256, (42, 36, 3)))
    image(67, 50).save(folder / "photo.jpg", quality=90)
    image(50, 66).save(folder / "progressive.jpeg", quality=80, progressive=True, subsampling=0)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    image(64, 40).save(folder / "rotated.jpg", quality=90, exif=rotated)
    image(41, 52).convert("L").save(folder / "grey.jpg", quality=90)
    image(48, 40).convert("CMYK").save(folder / "cmyk.jpg", quality=90)
    image(37, 43).save(folder / "image.bmp")
    image(43, 37).save(folder / "image.ppm")
    image(38, 45).convert("L").save(folder / "image.pgm")
    image(37, 49).save(folder / "image.tif")
    image(46, 37).save(folder / "image.webp", lossless=True)


def main():
    folder = HERE / "class"
    write_images(folder)
    expected = {}
    for path in sorted(folder.iterdir()):
        image = default_loader(str(path))
        for resize, crop, interpolation in SETTINGS:
            steps = [transforms.Resize(resize, InterpolationMode(interpolation))] if resize else []
            steps.append(transforms.CenterCrop(crop))
            expected[f"{path.name}/{resize}/{crop}/{interpolation}"] = np.array(transforms.Compose(steps)(image))
    normalize = transforms.Compose(
        [
            transforms.Resize(30),
            transforms.CenterCrop(16),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    expected["normalized"] = normalize(default_loader(str(folder / "rgb.png"))).numpy()
    np.savez_compressed(HERE / "expected.npz", **expected)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
