"""Compiles trained neural networks for noisy analog accelerators and simulates them.

>>> import mxc
>>> package = mxc.compile("model.onnx", budget=0.04, data="fashion-mnist")  # doctest: +SKIP
>>> tuned = package.finetune("fashion-mnist")  # doctest: +SKIP
>>> tuned.evaluate("fashion-mnist").recovered_percent  # doctest: +SKIP

Options are the command line's, by name with ``_`` for ``-``; shares are numbers or text, ``0.04`` or ``"4%"``. The results are the program's, to
the byte. Calls release the GIL, are watched by a callback, and end on Ctrl-C.
"""

from ._call import Callback, Cancelled, Error, MxcWarning, OptionError, Progress
from ._models import AnalogCost, AnalogLayer, Costs, register_noise
from ._native import ffi as _ffi
from ._native import lib as _lib
from ._network import Model, Package, Session, compile, merge, passes, run_passes
from ._report import Accuracy, Chips, Evaluation, Yield

__version__: str = _ffi.string(_lib.mxc_release()).decode()
__all__ = [
    "Accuracy",
    "AnalogCost",
    "AnalogLayer",
    "Callback",
    "Cancelled",
    "Chips",
    "Costs",
    "Error",
    "Evaluation",
    "Model",
    "MxcWarning",
    "OptionError",
    "Package",
    "Progress",
    "Session",
    "Yield",
    "compile",
    "merge",
    "passes",
    "register_noise",
    "run_passes",
]
