"""Writes conformance.bin.gz: the single-operator test cases of the `onnx` package (its backend tests of kind `node`).

The package makes the cases in Python, in no file; so that the tests need no Python and no half a minute for it, they are kept
here. Run it with the environment that `make test` makes:
    tests/.venv/bin/python tests/data/conformance.py

A record for each case: a line of JSON, then the bytes that it gives the sizes of: the model, and of every data set the inputs and
the outputs as TensorProtos. The data of cases that are large, of losses or not of tensors alone is left out (`sets` is empty).
"""

import gzip
import json
import random
import warnings
import zlib
from pathlib import Path

import numpy as np
import onnx

LARGEST = 1_000_000  # bytes of data, compressed
TRAINING = {"NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"}  # of these, with two megabytes of data, no network consists


def tensors(case) -> list[tuple[list[bytes], list[bytes]]]:
    """The data sets of a case, serialized."""
    size = 0
    sets = []
    for inputs, outputs in case.data_sets:
        parts = []
        for values, infos in ((inputs, case.model.graph.input), (outputs, case.model.graph.output)):
            part = []
            for value, info in zip(values, infos, strict=True):
                if isinstance(value, onnx.TensorProto):
                    tensor = value
                elif isinstance(value, (np.ndarray, np.generic)) and np.asarray(value).dtype != object:
                    tensor = onnx.numpy_helper.from_array(np.asarray(value))
                else:
                    return []
                tensor.name = info.name
                part.append(tensor.SerializeToString(deterministic=True))
                size += len(zlib.compress(part[-1]))
            parts.append(part)
        sets.append((parts[0], parts[1]))
    return sets if size <= LARGEST else []


def main() -> None:
    warnings.simplefilter("ignore")
    np.random.seed(0)
    random.seed(0)
    from onnx.backend.test.loader import load_model_tests

    cases = sorted(load_model_tests(kind="node"), key=lambda case: case.name)
    ops = {case.name: case.model.graph.node[-1] for case in cases}
    out = bytearray()
    for case in cases:
        # An expanded case is named after the one whose function it spells out.
        node = ops.get(case.name.partition("_expanded")[0], ops[case.name])
        sets = [] if node.op_type in TRAINING else tensors(case)
        model = case.model.SerializeToString(deterministic=True)
        header = {
            "name": case.name,
            "op": f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
            "rtol": case.rtol,
            "atol": case.atol,
            "model": len(model),
            "sets": [{"inputs": [len(x) for x in i], "outputs": [len(x) for x in o]} for i, o in sets],
        }
        out += json.dumps(header).encode() + b"\n" + model
        for inputs, outputs in sets:
            out += b"".join(inputs + outputs)
    path = Path(__file__).parent / "conformance.bin.gz"
    path.write_bytes(gzip.compress(bytes(out), 9, mtime=0))
    print(f"{len(cases)} cases of onnx {onnx.__version__}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
