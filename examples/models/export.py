"""Exports the example networks to ONNX through both of PyTorch's exporters.

`export.py` reads each trained network from out/NAME.pt and writes to out/
    NAME.torchscript.onnx, NAME.dynamo.onnx   what the exporters write by default (BatchNorm folded where it can be)
    NAME.*-unfolded.onnx                      the same with every BatchNorm kept
    resnet20.external.onnx, .onnx.data        the weights in a file of their own
and copies NAME.torchscript.onnx to NAME.onnx, the committed model: its node names say which layer they are.
`export.py --untrained` does the same with random weights in out/untrained/ and commits nothing.
"""

import argparse
import shutil
import sys
import warnings
from collections import Counter
from pathlib import Path

import onnx
import torch
from torch import nn

from nets import NETS

HERE = Path(__file__).parent
OUT = HERE / "out"
EXPORTS = ("torchscript", "dynamo", "torchscript-unfolded", "dynamo-unfolded")


def randomise(net: nn.Module) -> None:
    """Gives every BatchNorm statistics and a scale and shift that folding can't ignore."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)


def export(net: nn.Module, path: Path, kind: str, external: bool = False) -> None:
    """Writes one ONNX file with a dynamic batch size, input `input` and output `logits`."""
    example = (torch.zeros(2, 1, 28, 28),)
    exporter, _, unfolded = kind.partition("-")
    names = {"input_names": ["input"], "output_names": ["logits"]}
    if exporter == "torchscript":
        # PRESERVE keeps the network's evaluation mode, but not the exporter's folding.
        training = torch.onnx.TrainingMode.PRESERVE if unfolded else torch.onnx.TrainingMode.EVAL
        axes = {"input": {0: "batch"}, "logits": {0: "batch"}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                net, example, path, dynamo=False, dynamic_axes=axes, opset_version=17, training=training, **names
            )
    else:
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(
            net, example, dynamo=True, dynamic_shapes=shapes, opset_version=20, optimize=not unfolded, verbose=False, **names
        )
        for node in program.model.graph:
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # paths of this machine
        program.save(path, external_data=external)
    onnx.checker.check_model(path, full_check=True)


def ops(path: Path) -> str:
    """How often each op type occurs in a file."""
    model = onnx.load(path, load_external_data=False)
    if model.functions:
        return f"{len(model.functions)} functions"
    return ", ".join(f"{op} {n}" for op, n in sorted(Counter(n.op_type for n in model.graph.node).items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=NETS, action="append", help="only this one (repeatable)")
    parser.add_argument("--untrained", action="store_true")
    args = parser.parse_args()
    folder = OUT / "untrained" if args.untrained else OUT
    folder.mkdir(parents=True, exist_ok=True)
    for name in args.model or NETS:
        torch.manual_seed(1)
        net = NETS[name]().eval()
        if args.untrained:
            randomise(net)
        elif (OUT / f"{name}.pt").exists():
            net.load_state_dict(torch.load(OUT / f"{name}.pt", weights_only=True))
        else:
            sys.exit(f"export.py: {OUT / name}.pt is missing: run train.py --model {name} first")
        for kind in EXPORTS:
            path = folder / f"{name}.{kind}.onnx"
            export(net, path, kind)
            print(f"{path.relative_to(HERE)}: {path.stat().st_size} bytes; {ops(path)}", flush=True)
        if name == "resnet20":
            export(net, folder / f"{name}.external.onnx", "dynamo", external=True)
        if not args.untrained:
            shutil.copyfile(folder / f"{name}.torchscript.onnx", HERE / f"{name}.onnx")


if __name__ == "__main__":
    main()
