# shellcheck shell=bash
# Sourced by run_all.sh and run_tests.sh: leaves an interpreter that has derta in $PYTHON. An active environment that
# has it is taken as it is; otherwise .venv is made from requirements.lock, and made again when the lock changes.

fail() {
    printf '%s\n' "$1" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

explain() {
    case $(cat "$1") in
        *"No space left"*) fail "The disk is full: free about 8 GB, then start again (log: $1)." ;;
        *NewConnectionError* | *"Temporary failure"* | *"timed out"* | *ConnectionError* | *"No matching distribution"*)
            fail "The packages cannot be reached: check the network or pip's index, then start again (log: $1)." ;;
        *) fail "The installation failed: $(grep -i error "$1" | tail -n 1) (log: $1)" ;;
    esac
}

if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && python -I -c 'import derta, papermill, typer' >/dev/null 2>&1; then
    PYTHON=$(command -v python)
else
    PYTHON=$PWD/.venv/bin/python
    want=$(cat requirements.lock pyproject.toml | cksum)
    if [ "$(cat .venv/lock 2>/dev/null)" != "$want" ]; then
        base=$(find_python) || fail "Python 3.11 or newer is needed and was not found: install it (python.org), then start again."
        echo "Setting up .venv with $("$base" --version) (once, a few minutes) ..."
        log=$PWD/.venv-install.log
        "$base" -m venv .venv >"$log" 2>&1 || {
            grep -q ensurepip "$log" && fail "Python lacks its venv module: install it (Debian: apt-get install python3-venv), then start again."
            explain "$log"
        }
        "$PYTHON" -m pip install --progress-bar off -r requirements.lock >"$log" 2>&1 || explain "$log"
        "$PYTHON" -m pip install --progress-bar off --no-deps -e . >>"$log" 2>&1 || explain "$log"
        rm -f "$log"
        echo "$want" >.venv/lock
    fi
fi

# On Linux: transparent huge pages halve the cost of PyTorch's large allocations, and memory that stays with the process
# need not be cleared by the kernel again at every training step.
export THP_MEM_ALLOC_ENABLE=1 MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592
export TOKENIZERS_PARALLELISM=false
