#!/usr/bin/env bash
# Records two tasks, trains a policy, evaluates it: the only command on a fresh clone. Arguments go to `hlrp demo`.
set -euo pipefail
cd "$(dirname "$0")/.."

HLRP_EXTRAS="${HLRP_EXTRAS:-all,dev}" bash scripts/setup.sh
exec .venv/bin/hlrp demo "$@"
