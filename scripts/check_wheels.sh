#!/usr/bin/env bash
# Installs built wheels into empty environments and imports each: scripts/check_wheels.sh WHEELS_DIR [UV]
set -euo pipefail
wheels=$(cd "$1" && pwd)
uv=${2:-uv}
uv=$(command -v "$uv")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
# Links into uv's cache: an environment with torch in it would otherwise cost 5 GB of copying.
export UV_LINK_MODE=${UV_LINK_MODE:-hardlink}

fresh() { "$uv" venv -q --clear "$scratch/$1"; }
install() { "$uv" pip install -q --python "$scratch/$1" --find-links "$wheels" "${@:2}"; }
# Warnings are errors but one: torch itself mentions a missing numpy, which is what we want to see missing.
python_in() { "$scratch/$1/bin/python" -W error -W "ignore:Failed to initialize NumPy:UserWarning" "${@:2}"; }
without() {
  for name in "${@:2}"; do
    if "$uv" pip show -q --python "$scratch/$1" "$name" 2>/dev/null; then
      echo "$1: $name is installed, and should not be" >&2
      exit 1
    fi
  done
}

fresh kernels
install kernels "$wheels"/gdn_kernels-*.whl
"$uv" pip show -q --python "$scratch/kernels" torch
without kernels diffusers transformers numpy scipy pydantic camera-control sana-wm-core
python_in kernels -c 'import gdn_kernels'
echo "gdn-kernels alone: torch, no sibling, no numpy"

fresh camera
install camera "$wheels"/camera_control-*.whl
without camera torch diffusers gdn-kernels sana-wm-core
python_in camera -c 'import camera_control, sys; assert "torch" not in sys.modules'
echo "camera-control alone: no torch"

fresh all
install all "$wheels"/*.whl
for module in gdn_kernels camera_control sana_wm_core refiner pose_annotation wm_bench sana_wm_cli; do
  "$scratch/all/bin/python" -c "import $module"
done
"$scratch/all/bin/sana-wm" --version
"$scratch/all/bin/sana-wm" generate --num_frames 9 --step 1
test -s out/output_generated.mp4
echo "all seven wheels install and import together, and generate with the weights inside them"
