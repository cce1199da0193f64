#!/usr/bin/env bash
# Makes .venv with this project and every pinned dependency; does nothing when that is up to date.
# Usage: scripts/setup.sh            everything, for development and the demo
#        HLRP_EXTRAS=sim scripts/setup.sh
set -euo pipefail
cd "$(dirname "$0")/.."

extras="${HLRP_EXTRAS:-all,dev}"
venv=.venv
stamp="$venv/.hlrp-setup"
wanted="$( (cat pyproject.toml constraints.txt .python-version; echo "$extras") | sha256sum | cut -d' ' -f1)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$venv/bin/python" -c "import hlrp" 2>/dev/null; then
  exit 0
fi

fits() { "$1" -c 'import sys; raise SystemExit(not sys.version_info[:2] == (3, 12))' >/dev/null 2>&1; }
# A version manager's stand-in for uv may exist and still refuse to run here.
uv_works() { "$1" --version >/dev/null 2>&1; }

if ! [ -x "$venv/bin/python" ] || ! fits "$venv/bin/python"; then
  rm -rf "$venv"
  python=""
  for candidate in python3.12 python3 python; do
    if command -v "$candidate" >/dev/null && fits "$candidate"; then python="$candidate"; break; fi
  done
  if [ -n "$python" ]; then
    "$python" -m venv "$venv"
  elif uv_works uv; then
    uv venv --python 3.12 --seed "$venv"
  else
    echo "error: Python 3.12 is needed and was not found" >&2
    echo "  fix:   install it (pyenv install 3.12, or your system's packages), or install uv" >&2
    exit 2
  fi
fi

if uv_works uv; then uv=uv; else
  "$venv/bin/python" -m pip install --quiet uv
  uv="$venv/bin/uv"
fi
echo "installing into $venv (about 6 GB the first time)"
# Compiled here, once: where PYTHONDONTWRITEBYTECODE is set, as in many containers, every start would compile all it imports.
"$uv" pip install --quiet --compile-bytecode --python "$venv/bin/python" --constraints constraints.txt \
  --editable ".[$extras]"
echo "$wanted" > "$stamp"
