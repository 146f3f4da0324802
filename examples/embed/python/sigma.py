# %% [markdown]
# # Accuracy over noise
#
# Compiles the example ResNet-20 for a noise of 20 %, trains its denoisers, and plots accuracy with and without them over the noise of the chip:
#
#     python sigma.py resnet20.onnx /usr/share/datasets/fashion-mnist sigma.png

# %%
import sys

import matplotlib
import mxc

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402, after the choice of what draws

model, data, picture = sys.argv[1:4]
samples = int(sys.argv[4]) if len(sys.argv) > 4 else 2000

# %% [markdown]
# ## Compile and train
# The last 5,000 training images are kept out, to evaluate on.

# %%
package = mxc.compile(model, data=data, sigma=0.20, mean=0.2860, std=0.3530, holdout=min(5000, samples))


def told(progress: mxc.Progress) -> None:
    if progress.done % 100 == 0:
        print(f"step {progress.done} of {progress.total}: loss {progress.loss:.4f}", file=sys.stderr)


tuned = package.finetune(data, limit=samples, callback=told)

# %% [markdown]
# ## Evaluate under other noise than it was compiled for

# %%
sigmas = [0.0, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30]
noisy, denoised = [], []
for sigma in sigmas:
    report = tuned.evaluate(data, sigma=sigma, split="holdout", limit=samples, seeds=3)
    noisy.append(report.noisy)
    denoised.append(report.denoised)
    print(f"sigma {100 * sigma:.0f} %: noisy {report.noisy.top1:.2f}, denoised {report.denoised.top1:.2f}")

# %%
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for name, found in (("noisy", noisy), ("denoised", denoised)):
    interval = [accuracy.ci95 or 0.0 for accuracy in found]
    axes.errorbar([100 * sigma for sigma in sigmas], [accuracy.top1 for accuracy in found], interval, marker="o", capsize=3, label=name)
axes.set(xlabel="σ of the noise, % of each layer's rms", ylabel="top-1 accuracy, %", title="ResNet-20, compiled for 20 %")
axes.grid(alpha=0.3)
axes.legend()
figure.savefig(picture, dpi=150)
