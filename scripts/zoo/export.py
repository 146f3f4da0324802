"""Exports full-size networks with random weights to ONNX: torchvision's and timm's, by both of PyTorch's exporters.

`export.py OUT` writes OUT/NAME.EXPORTER.onnx, where NAME is `resnet18-224` and the like and EXPORTER is one of
    torchscript            BatchNorm folded, as the exporter does by default
    torchscript-unfolded   BatchNorm kept
    dynamo                 weights inline
    dynamo-external        weights in NAME.dynamo-external.onnx.data
or, by torch-mlir, OUT/NAME.tosa.mlir: a batch of 1, NCHW, BatchNorm spelled out, weights as resources behind the module.
Weights are drawn from a fixed seed and every BatchNorm's statistics are measured on random images, so that activations
stay in a sane range through the network. A file that exists is not made again.
"""

import argparse
import warnings
from pathlib import Path

import timm
import torch
import torch_mlir.fx
import torchvision.models as tv
from torch import nn

FOUR = ("resnet18", "mobilenetv2", "efficientnet_b0", "densenet121")
OTHERS = ("vgg19", "vit_tiny", "swin_tiny", "convnext_atto", "mobilenetv3_large", "resnext50")
NAMES = [f"{name}-{size}" for name in FOUR for size in (224, 32)] + [f"{name}-224" for name in OTHERS]
EXPORTERS = ("torchscript", "torchscript-unfolded", "dynamo", "dynamo-external", "tosa")


def full_size(name: str) -> nn.Module:
    """The network as published, for 224×224 images and 1000 classes."""
    match name:
        case "resnet18":
            return tv.resnet18()
        case "mobilenetv2":
            return tv.mobilenet_v2()
        case "efficientnet_b0":
            return timm.create_model("efficientnet_b0")
        case "densenet121":
            return tv.densenet121()
        case "vgg19":
            return tv.vgg19()
        case "vit_tiny":
            return timm.create_model("vit_tiny_patch16_224")
        case "swin_tiny":
            return timm.create_model("swin_tiny_patch4_window7_224")
        case "convnext_atto":
            return timm.create_model("convnext_atto")
        case "mobilenetv3_large":
            return tv.mobilenet_v3_large()
        case "resnext50":
            return tv.resnext50_32x4d()
    raise ValueError(name)


def cifar(name: str) -> nn.Module:
    """The usual CIFAR variant: ten classes, and a first layer that keeps the 32×32 resolution."""
    match name:
        case "resnet18":
            net = tv.resnet18(num_classes=10)
            net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
        case "mobilenetv2":
            net = tv.mobilenet_v2(num_classes=10)
            net.features[0][0].stride = (1, 1)
        case "efficientnet_b0":
            net = timm.create_model("efficientnet_b0", num_classes=10)
            net.conv_stem.stride = (1, 1)
        case "densenet121":
            net = tv.densenet121(num_classes=10)
            net.features.conv0, net.features.pool0 = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
        case _:
            raise ValueError(name)
    return net


def network(name: str, size: int) -> nn.Module:
    """A network with random weights and measured BatchNorm statistics, in evaluation mode."""
    torch.manual_seed(0)
    net = full_size(name) if size == 224 else cifar(name)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean of all batches
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    net.train()
    with torch.no_grad():
        for _ in range(4):
            net(torch.randn(8, 3, size, size))
    return net.eval()


def export(net: nn.Module, size: int, exporter: str, path: Path) -> None:
    """Writes one file: input `input`, output `logits`, dynamic batch; TOSA has neither names nor a dynamic batch."""
    if exporter == "tosa":
        module = torch_mlir.fx.export_and_import(net, torch.zeros(1, 3, size, size), output_type="tosa", func_name="main")
        path.write_text(str(module))
        return
    example = (torch.zeros(2, 3, size, size),)
    names = {"input_names": ["input"], "output_names": ["logits"]}
    if exporter.startswith("torchscript"):
        # PRESERVE keeps the network's evaluation mode, but not the exporter's folding.
        kept = torch.onnx.TrainingMode.PRESERVE if exporter.endswith("unfolded") else torch.onnx.TrainingMode.EVAL
        axes = {"input": {0: "batch"}, "logits": {0: "batch"}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(net, example, path, dynamo=False, dynamic_axes=axes, opset_version=17, training=kept, **names)
    else:
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(net, example, dynamo=True, dynamic_shapes=shapes, opset_version=20, verbose=False, **names)
        program.save(path, external_data=exporter.endswith("external"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--networks", nargs="+", default=NAMES, choices=NAMES)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.networks:
        kind, size = name.rsplit("-", 1)
        # The four architectures in all four ways; of the others one of each exporter.
        exporters = [e for e in EXPORTERS if kind in FOUR and (e != "tosa" or size == "32")] or ("torchscript", "dynamo")
        if kind == "convnext_atto":
            # Dynamo's export gathers samples by their indices in the batch, which mxc does not.
            exporters = ("torchscript",)
        paths = {e: args.out / f"{name}.{e}{'.mlir' if e == 'tosa' else '.onnx'}" for e in exporters}
        missing = [e for e in exporters if not paths[e].exists()]
        net = network(kind, int(size)) if missing else None
        for exporter in missing:
            export(net, int(size), exporter, paths[exporter])
            print(paths[exporter].name, flush=True)


if __name__ == "__main__":
    main()
