#!/usr/bin/env bash
# Reproduce everything: ./run_all.sh [PROFILE], a file of notebooks/params/ (default: small).
set -euo pipefail
CDPATH='' cd -P -- "$(dirname -- "$(readlink -f -- "$0")")"
. ./environment.sh
exec "$PYTHON" -m derta run "$@"
