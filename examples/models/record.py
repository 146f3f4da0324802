"""Measures the committed models with onnxruntime on the full test set and writes accuracy.json."""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import data
from nets import NETS, macs

HERE = Path(__file__).parent


def predict(path: Path, x: np.ndarray, threads: int) -> np.ndarray:
    """The logits of all images."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"input": x[i : i + 500]})[0] for i in range(0, len(x), 500)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    images, labels = data.load("test")
    x, y = images.numpy(), labels.numpy()
    record = {}
    for name, build in NETS.items():
        path = HERE / f"{name}.onnx"
        logits = predict(path, x, args.threads)
        top5 = np.argsort(-logits, axis=1)[:, :5]
        net = build()
        record[name] = {
            "top1": round(100 * float((top5[:, 0] == y).mean()), 2),
            "top5": round(100 * float((top5 == y[:, None]).any(axis=1).mean()), 2),
            "samples": len(y),
            "parameters": sum(p.numel() for p in net.parameters()),
            "macs": macs(net),
            "bytes": path.stat().st_size,
        }
        print(name, record[name], flush=True)
        checkpoint = HERE / "out" / f"{name}.pt"
        if checkpoint.exists():
            net.load_state_dict(torch.load(checkpoint, weights_only=True))
            with torch.no_grad():
                expected = net.eval()(images[:500]).numpy()
            error = np.abs(logits[:500] - expected).max() / np.abs(expected).max()
            assert error < 1e-5, f"{path} differs from its checkpoint by {error:.1e}"
    record["onnxruntime"] = onnxruntime.__version__
    (HERE / "accuracy.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
