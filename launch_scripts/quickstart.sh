#!/usr/bin/env bash
# Sets up an environment and runs the main job: REFINER from scratch on
# synthetic natural-language reasoning, in a few minutes on two CPU cores.
# Arguments go to refiner.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")
# shellcheck source=launch_scripts/environment.sh
source "$here/environment.sh"
environment plain
start=$SECONDS
bash "$here/refiner.sh" --seeds=1 --root="$top/workdir/quickstart" "$@"
echo "Main job: $((SECONDS - start)) s."
