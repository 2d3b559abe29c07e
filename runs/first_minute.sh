#!/usr/bin/env bash
# A minute without a GPU and without weights: plan a camera path, check it, look at it.
# Run it as `uv run bash runs/first_minute.sh`; results go to ${OUT:-out}/first_minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out="${OUT:-out}/first_minute"
mkdir -p "$out"

# From keys, with the numbers a check looks at; the file holds poses, intrinsics and frame rate.
sana-wm camera plan "w-40,dw-24,jw-40,none-8" --out "$out/path.npz"
sana-wm camera check "$out/path.npz"
sana-wm camera draw "$out/path.npz" --out "$out/path.png"

# The same path for other programs, and the same keys in another project's dialect.
sana-wm camera convert "$out/path.npz" "$out/transforms.json"
sana-wm camera convert "w-40,jw-40" - --from sana-v1 --to sana-v2 --allow-loss

# A motion from parameters instead of keys.
sana-wm camera plan --family orbit --out "$out/orbit.npz"
sana-wm camera draw "$out/orbit.npz" --out "$out/orbit.png"
