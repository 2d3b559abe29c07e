#!/usr/bin/env bash
# pocket-streaming from the bundled pocket world: chunk-causal tuning, walks, four-step regression, self-forcing, export,
# scores. Needs the encoded clips of runs/pocket.sh. Every step can be stopped with Ctrl-C and the script run again.
# Settings: packages/sana-wm-core/src/sana_wm_core/presets/pocket_{chunk_causal,ode,self_forcing}.toml.
# PAIRS=10 CLIPS=out/pocket-run/clips bash runs/pocket_streaming.sh out/pocket-streaming
set -euo pipefail
cd "$(dirname "$0")/.."
root=${1:-out/pocket-streaming}
clips=${CLIPS:-out/pocket-run/clips}
read -r -a command <<<"${SANA_WM:-uv run sana-wm}"
go() { "${command[@]}" "$@"; }

# A stage that has begun goes on from its newest checkpoint; one that is done does nothing.
stage() {
    preset=$1 out=$2
    shift 2
    if [ -f "$out/stage.json" ]; then go train --resume "$out"; else go train "$preset" --data "$clips" --out "$out" "$@"; fi
}

stage pocket_chunk_causal "$root/cc"
go data walks "$clips" --teacher "$root/cc" --out "$root/walks" --every 3 --parts 2 --together 8
stage pocket_ode "$root/ode" --init "$root/cc" --walks "$root/walks"
stage pocket_self_forcing "$root/sf" --init "$root/ode" --teacher pocket

# The teacher at 4 and 12 steps, the student after regression, the student: what four steps cost.
for run in cc ode sf; do
    go train weights "$root/$run" --out "$root/weights-$run"
done
go bench pocket --model "$root/weights-cc" --per-category "${PAIRS:-10}" --steps 12
go bench pocket --model "$root/weights-cc" --per-category "${PAIRS:-10}" --steps 4
go bench pocket --model "$root/weights-ode" --per-category "${PAIRS:-10}"
go bench pocket --model "$root/weights-sf" --per-category "${PAIRS:-10}"
# What ships beside the pocket: transformer and preset only, codec and text encoder are the pocket's.
go train weights "$root/sf" --out "$root/streaming" --borrow
