#!/usr/bin/env bash
# Builds the documentation with its API reference into outputs/docs; a broken link or reference is an error.
# Usage: scripts/docs.sh            then open outputs/docs/index.html
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
# The theme announces a successor on every build.
export PATH="$PWD/.venv/bin:$PATH" NO_MKDOCS_2_WARNING=1
exec mkdocs build --strict "$@"
