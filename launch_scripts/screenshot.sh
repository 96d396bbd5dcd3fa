#!/usr/bin/env bash
# Takes docs/report.png from a report that the main job wrote.
#   bash launch_scripts/screenshot.sh [report.html] [picture.png]
# Needs a Chromium (CHROMIUM=/path/to/one).
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
page=$(realpath "${1:-$top/workdir/quickstart/report.html}")
picture=$(realpath -m "${2:-$top/docs/report.png}")
browser=${CHROMIUM:-$(command -v chromium chromium-browser google-chrome |
  head -n 1)}
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
"$browser" --headless --no-sandbox --disable-gpu --disable-quic \
  --no-first-run --disable-background-networking --disable-component-update \
  --disable-sync --hide-scrollbars --user-data-dir="$profile" \
  --window-size="${WINDOW:-1120,2500}" --screenshot="$picture" \
  "file://$page" 2>/dev/null
echo "Wrote $picture"
