#!/usr/bin/env bash
# Runs the tests that depend on LeRobot against another release of it, in an environment of its own.
# Usage: scripts/test_lerobot_versions.sh [VERSION|CHECKOUT ...] [-- pytest arguments]
# CHECKOUT is a folder, such as one of LeRobot's main branch.
# Default: the oldest supported release and the newest one that can be installed, in the environments of today's packages;
# scripts/test.sh runs against the one that constraints.txt pins.
set -euo pipefail
cd "$(dirname "$0")/.."

versions=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do versions+=("$1"); shift; done
[ $# -gt 0 ] && shift
tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(
  tests/test_compat.py tests/bundle tests/policies tests/trainers/test_lerobot_command.py
  tests/evaluation/test_evaluation.py tests/integration/test_train_lerobot.py tests/integration/test_policies_lerobot.py
)

bash scripts/setup.sh
uv="$PWD/.venv/bin/uv"
[ -x "$uv" ] || uv=uv
supported=$("$PWD/.venv/bin/python" -c "from hlrp.compat import SUPPORTED_LEROBOT; print(SUPPORTED_LEROBOT)")
if [ ${#versions[@]} -eq 0 ]; then
  oldest=$(echo "$supported" | sed 's/>=\([^,]*\),.*/\1/')
  newest=$(echo "lerobot$supported" | "$uv" pip compile --quiet --no-deps --no-header --no-annotate - | sed 's/.*==//')
  versions=("$oldest")
  [ "$newest" = "$oldest" ] || versions+=("$newest")
fi
for asked in "${versions[@]}"; do
  if [ -d "$asked" ]; then
    version=$("$PWD/.venv/bin/python" -c "import sys, tomllib; print(tomllib.load(sys.stdin.buffer)['project']['version'])" < "$asked/pyproject.toml")
    venv=".venv-lerobot-$version-checkout" requirement="lerobot @ file://$(realpath "$asked")"
  else
    version="$asked" venv=".venv-lerobot-$asked" requirement="lerobot==$asked"
  fi
  installed="import importlib.metadata as m; assert m.version('lerobot') == '$version'; m.version('pytest')"
  if ! "$venv/bin/python" -c "$installed" 2>/dev/null; then
    "$PWD/.venv/bin/python" -m venv "$venv"
    # Not within constraints.txt: what another LeRobot asks for is not what the pinned one does. Nor from the index of torch that
    # a checkout of it names.
    "$uv" pip install --quiet --no-sources --compile-bytecode --python "$venv/bin/python" "$requirement" --editable ".[all,dev]"
  fi
  echo "LeRobot $version"
  PATH="$PWD/$venv/bin:$PATH" HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE \
    "$venv/bin/python" -m pytest -n 2 --dist loadfile "${tests[@]}"
done
