#!/usr/bin/env bash
# Sets up an environment and runs the tests; arguments go to pytest.
#   bash launch_scripts/test.sh                 everything CI runs
#   bash launch_scripts/test.sh tests/models    one folder
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch_scripts/environment.sh
source "$here/environment.sh"
environment test
cd "$here/.."
export JAX_PLATFORMS=cpu
ruff check .
ruff format --check .
exec python -m pytest -n "${REFINE_JAX_TEST_JOBS:-2}" --durations=15 "$@"
