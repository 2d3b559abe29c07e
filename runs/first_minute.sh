#!/usr/bin/env bash
# A minute without a GPU and without weights: plan a camera path, check it, look at it. Results go to ${OUT:-out}/first_minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out="${OUT:-out}/first_minute"
mkdir -p "$out"

sana-wm camera plan "w-40,dw-24,jw-40,none-8" --out "$out/path"
sana-wm camera check "$out/path"
sana-wm camera draw "$out/path" --out "$out/path.png"
sana-wm camera convert "$out/path" "$out/path.tum"
ls -l "$out"
