#!/usr/bin/env bash
# Runs the tests that depend on LeRobot against other supported releases of it, each in an environment of its own.
# Usage: scripts/test_lerobot_versions.sh [VERSION ...] [-- pytest arguments]      default: the oldest, 0.6.0
# The newest is what constraints.txt pins and scripts/test.sh runs against.
set -euo pipefail
cd "$(dirname "$0")/.."

versions=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do versions+=("$1"); shift; done
[ $# -gt 0 ] && shift
[ ${#versions[@]} -gt 0 ] || versions=(0.6.0)
tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(
  tests/test_compat.py tests/bundle tests/policies tests/trainers/test_lerobot_command.py
  tests/trainers/test_evaluation.py tests/integration/test_train_lerobot.py tests/integration/test_policies_lerobot.py
)

bash scripts/setup.sh
uv="$PWD/.venv/bin/uv"
[ -x "$uv" ] || uv=uv
for version in "${versions[@]}"; do
  venv=".venv-lerobot-$version"
  if ! "$venv/bin/python" -c "import hlrp" 2>/dev/null; then
    "$PWD/.venv/bin/python" -m venv "$venv"
    # What LeRobot's own requirements decide is not pinned here.
    grep -Ev '^(lerobot|setuptools|draccus|pyyaml-include)==' constraints.txt > "$venv/constraints.txt"
    "$uv" pip install --quiet --python "$venv/bin/python" --constraints "$venv/constraints.txt" \
      "lerobot==$version" --editable ".[all,dev]"
  fi
  echo "LeRobot $version"
  PATH="$PWD/$venv/bin:$PATH" HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE \
    "$venv/bin/python" -m pytest -n 2 --dist loadfile "${tests[@]}"
done
