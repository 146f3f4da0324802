#!/bin/sh
# Makes the virtual environment examples/.venv for the scripts in examples/models and benches/.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3}
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || {
    echo "setup.sh: $PYTHON has no venv module; on Debian: apt-get install python3-venv" >&2
    exit 1
}
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
.venv/bin/python -m pip install --disable-pip-version-check --quiet --requirement requirements.txt
.venv/bin/python -c 'import torch, onnx, onnxscript, onnxruntime; print("torch", torch.__version__, "onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)'
