# shellcheck shell=bash
# Sourced by the other scripts: an environment for this checkout.
#
# environment plain|EXTRA,EXTRA makes ${REFINE_JAX_VENV:-<checkout>/.venv} with
# the package and the named extras installed, unless they already are, and puts
# it on PATH. A python of your own is used through PYTHON=/path/to/python.

environment() {
  local top venv python extras stamp want
  top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  venv=${REFINE_JAX_VENV:-$top/.venv}
  python=${PYTHON:-}
  if [[ -z "$python" ]]; then
    for python in python3.12 python3.11 python3; do
      "$python" -c 'import sys, venv, ensurepip
sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
      python=
    done
  fi
  if [[ -z "$python" ]]; then
    echo "No python >= 3.11 with venv found; set PYTHON=/path/to/one." >&2
    return 1
  fi
  extras=${1#plain}
  want="$(cksum <"$top/setup.py") $top"
  stamp="$venv/.refine_jax-${extras:-plain}"
  if [[ ! -x "$venv/bin/python" ]]; then
    echo "Making $venv with $python"
    "$python" -m venv "$venv"
  fi
  if [[ "$(cat "$stamp" 2>/dev/null)" != "$want" ]]; then
    echo "Installing refine_jax${extras:+[$extras]} (a few minutes)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      -e "$top${extras:+[$extras]}"
    echo "$want" >"$stamp"
  fi
  export PATH="$venv/bin:$PATH" VIRTUAL_ENV="$venv"
  # With libtpu (the extras test and plan) JAX looks for a TPU, at length.
  if [[ -z "${JAX_PLATFORMS:-}" ]] &&
    compgen -G "$venv/lib/python*/site-packages/libtpu" >/dev/null &&
    ! compgen -G "/dev/accel*" >/dev/null &&
    ! compgen -G "/dev/vfio/[0-9]*" >/dev/null &&
    ! compgen -G "/dev/nvidia[0-9]*" >/dev/null; then
    export JAX_PLATFORMS=cpu
  fi
}
