#!/usr/bin/env bash
# Reproduce everything: ./run_all.sh [PROFILE], a file of notebooks/params/ (default: small).
set -euo pipefail
cd "$(dirname "$0")"
. ./environment.sh
exec "$PYTHON" -m derta.notebooks "${1:-small}"
