#!/usr/bin/env bash
# The test command: sets up the environment, checks style, types and imports, and runs the tests.
# Usage: scripts/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
ruff check .
ruff format --check .
mypy
# Where PYTHONDONTWRITEBYTECODE is set, each of the programs that tests start would compile all of this again.
python -m compileall -q hlrp hlrp_cli trainers lerobot_policy_felix_bundle
# Most tests start programs that spend their time importing: two at a time. A file's tests share what they train; in the
# order of folders, light files come last and no worker is left alone with a long one. A worker that dies ends the tests:
# what is left would wait for it.
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --durations 25 "$@"
