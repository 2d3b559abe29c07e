#!/usr/bin/env bash
# The paper's stages at the pocket's size, one after the other, each from the weights of the one before: frame-wise GDN,
# hybrid attention, camera control, chunk-causal. Every step can be stopped with Ctrl-C and the script run again.
# STEPS=600 CLIPS=240 bash runs/stages_tiny.sh out/stages    trains longer on more.
set -euo pipefail
cd "$(dirname "$0")/.."
root=${1:-out/stages-tiny}
steps=${STEPS:-150}
log_every=$((steps < 25 ? 1 : 5))
read -r -a command <<<"${SANA_WM:-uv run sana-wm}"
go() { "${command[@]}" "$@"; }

go data synth --out "$root/clips" --clips "${CLIPS:-24}" --held-out "${HELD_OUT:-8}" --workers 2
go data encode "$root/clips"
go data check "$root/clips"

before=""
for stage in tiny_gdn tiny_hybrid tiny_camera tiny_chunk_causal; do
    if [ -f "$root/$stage/stage.json" ]; then
        go train --resume "$root/$stage" --set train.steps="$steps" --set train.log_every="$log_every"
    else
        go train "$stage" --data "$root/clips" --out "$root/$stage" --init "$before" --set train.steps="$steps" \
            --set train.log_every="$log_every"
    fi
    before="$root/$stage"
done

go train curve "$root"/tiny_{gdn,hybrid,camera,chunk_causal} --out "$root/loss.png"
go train weights "$root/tiny_camera" --out "$root/weights"
go generate --model "$root/weights" --action w-24,jw-24 --output_dir "$root/video"
