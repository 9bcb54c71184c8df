#!/usr/bin/env bash
# Check style and run the tests, all notebooks on the profile smoke included: ./run_tests.sh [pytest's options].
set -euo pipefail
cd "$(dirname "$0")"
. ./environment.sh
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
exec "$PYTHON" -m pytest -q "$@"
