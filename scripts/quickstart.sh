#!/usr/bin/env bash
# The main job: the ResNet-20-style example at a 4 % budget, once with the paper's recipe and once with the best one, on
# Fashion-MNIST; leaves target/quickstart/{paper,best}.json and, of the better one, eval.json.
set -euo pipefail
cd "$(dirname "$0")/.."
mxc=${MXC:-target/release/mxc}
data=${DATA:-/usr/share/datasets/fashion-mnist}
out=target/quickstart
sigma=${SIGMA:-25%}
limit=${LIMIT:-60000}
epochs=${EPOCHS:-5}
seeds=${SEEDS:-5}
mkdir -p "$out"
rm -f "$out"/*

for recipe in paper best; do
  package="$out/$recipe.mxa"
  echo "== $recipe: compile"
  "$mxc" compile examples/models/resnet20.onnx --budget 4% --sigma "$sigma" --recipe "$recipe" \
    --data "$data" --mean 0.2860 --std 0.3530 --holdout 5000 -o "$package"
  echo "== $recipe: fine-tune ($epochs epochs, at most $limit images)"
  "$mxc" finetune "$package" --data "$data" --recipe "$recipe" --epochs "$epochs" --limit "$limit" -o "$out/$recipe.tuned.mxa"
  echo "== $recipe: evaluate on the full test set"
  "$mxc" eval "$out/$recipe.tuned.mxa" --data "$data" --seeds "$seeds" --json >"$out/$recipe.json"
done

python3 - "$out" "$sigma" <<'PY'
import json, pathlib, shutil, sys

out, sigma = pathlib.Path(sys.argv[1]), sys.argv[2]
reports = {kind: json.loads((out / f"{kind}.json").read_text()) for kind in ("paper", "best")}
header = ("Dataset", "Architecture", "Recipe", "Baseline %", f"Noisy % (σ {sigma})", "Denoised %", "Overhead %", "Recovered %")
rows = []
for kind, r in reports.items():
    recovered = r["recovered_percent"]
    rows.append((
        "Fashion-MNIST", "ResNet-20-style", kind, f'{r["clean"]["top1"]:.2f}',
        f'{r["noisy"]["top1"]:.2f} ± {r["noisy"]["ci95"]:.2f}', f'{r["denoised"]["top1"]:.2f} ± {r["denoised"]["ci95"]:.2f}',
        f'{r["parameters"]["overhead_percent"]:.2f}', "-" if recovered is None else f"{recovered:.1f}",
    ))
widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
print()
for row in [header, tuple("-" * w for w in widths), *rows]:
    print("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip())
best = max(reports, key=lambda kind: reports[kind]["denoised"]["top1"])
shutil.copyfile(out / f"{best}.json", out / "eval.json")
print(f"\nnoise scale {reports[best]['noise']['scale']}, {reports[best]['samples']} test images, mean ± 95 % interval; {out}/eval.json is {best}'s")
PY
echo "This was the full recipe (5 epochs, all 55,000 training images that are not held out); shorter: EPOCHS=1 LIMIT=10000 make quickstart"
