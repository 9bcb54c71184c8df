#!/usr/bin/env bash
# Reproduce everything: ./run_all.sh [PROFILE], a file of notebooks/params/ (default: small).
set -euo pipefail
self=$(readlink -f -- "$0")
CDPATH='' cd -P -- "$(dirname -- "$self")"
. ./environment.sh
exec "$PYTHON" -m derta run "$@"
