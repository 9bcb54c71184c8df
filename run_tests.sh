#!/usr/bin/env bash
# Check style and types and run the tests, all notebooks on the profile smoke included: ./run_tests.sh [pytest's options].
set -euo pipefail
self=$(readlink -f -- "$0")
CDPATH='' cd -P -- "$(dirname -- "$self")"
. ./environment.sh
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
# Two files at a time, each on one core: the models of the tests are too small to use more.
export OMP_NUM_THREADS=1
exec "$PYTHON" -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder "$@"
