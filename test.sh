#!/usr/bin/env bash
# Usage: ./test.sh [PYTEST OPTION]...
# Sets everything up in ./.venv and runs the tests, file by file in a process for each core: the
# numeric core first, which takes seconds and does not need TensorFlow, then the rest.
set -euo pipefail
shopt -s nullglob
cd "$(dirname "${BASH_SOURCE[0]}")"
bash .ci/set_up test,docs
GLOBIGNORE=tests/numerics/:tests/stats/:tests/support/:tests/__pycache__/
exec .venv/bin/pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
    tests/numerics/ tests/stats/ tests/test_*.py tests/*/ "$@"
