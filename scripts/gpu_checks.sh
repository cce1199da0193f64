#!/usr/bin/env bash
# What only a GPU can tell, in eight minutes: four of correctness, then four of speed. Every result is one line of JSON in
# OUTPUT/results.jsonl; what each command printed lies beside it. No network; a backbone is made here, of random weights.
#
#   bash scripts/gpu_checks.sh DATASET_ROOT OUTPUT [--device cuda] [--camera NAME] [--seconds 240] [--only HALF] [--quick]
#
# --seconds is for each half; --only correctness or --only speed leaves the other one out. --quick takes the smallest
# sizes, to try the script itself: with --device cpu, on any machine.
# Exit code 1 if a line says that something failed or that no time was left for it.
set -u -o pipefail
usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit "$1"; }
positional=() device=cuda seconds=240 quick='' camera='' only=''
while [ $# -gt 0 ]; do
  case "$1" in
    --device | --seconds | --camera | --only) [ $# -ge 2 ] || usage 2; printf -v "${1#--}" %s "$2"; shift 2 ;;
    --quick) quick=1; shift ;;
    -h | --help) usage 0 ;;
    -*) echo "unknown option $1" >&2; usage 2 ;;
    *) positional+=("$1"); shift ;;
  esac
done
[ ${#positional[@]} -eq 2 ] || usage 2
case "$only" in '' | correctness | speed) ;; *) echo "error: --only takes correctness or speed, not $only" >&2; exit 2 ;; esac
cd "$(dirname "$0")/.."
dataset="${positional[0]}" out="${positional[1]}"
[ -f "$dataset/meta/info.json" ] || { echo "error: $dataset is no LeRobotDataset" >&2; exit 2; }
[ ! -e "$out/results.jsonl" ] || { echo "error: $out has results already" >&2; exit 2; }
mkdir -p "$out"
python="$(command -v python)" || { echo "error: no python on PATH" >&2; exit 2; }
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1

# check NAME COMMAND...: runs it for at most what is left of this half, and writes a line for each result that it printed,
# then one of its own.
check() {
  local name="$1" began=$SECONDS left code
  shift; left=$((ends - SECONDS)); code=124
  if [ "$left" -gt 0 ]; then
    timeout --kill-after=5 "$left" "$@" > "$out/$name.log" 2>&1; code=$?
  else
    : > "$out/$name.log"
  fi
  "$python" - "$name" "$code" "$((SECONDS - began))" "$out/$name.log" >> "$out/results.jsonl" <<'PY'
import json, sys
name, code, took, log = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
text = open(log, encoding="utf8", errors="replace").read()
place, decoder = 0, json.JSONDecoder()
while (place := text.find("{", place)) >= 0:
    # Only what begins a line: a log has braces of its own.
    if place == 0 or text[place - 1] == "\n":
        try:
            found, place = decoder.raw_decode(text, place)
            print(json.dumps({"of": name, **found}))
            continue
        except ValueError:
            pass
    place += 1
error = {} if code == 0 else {"error": "no time was left" if code == 124 else text.strip().splitlines()[-1:]}
print(json.dumps({"of": name, "done": code == 0, "seconds": took, **error}))
PY
  grep "\"of\": \"$name\", \"done\"" "$out/results.jsonl"
}

"$python" - "$device" > "$out/results.jsonl" <<'PY' || exit 1
import importlib.metadata as metadata, json, os, platform, sys
import torch
cuda = sys.argv[1].startswith("cuda")
if cuda and not torch.cuda.is_available():
    sys.exit("error: torch sees no GPU")
versions = {name: metadata.version(name) for name in ("torch", "lightning", "lerobot", "transformers")}
card = {"card": torch.cuda.get_device_name(sys.argv[1]), "cuda": torch.version.cuda} if cuda else {}
about = {"device": sys.argv[1], "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
print(json.dumps({"of": "machine", **about, **card, **versions}))
PY

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
seen=(${camera:+--camera "$camera"})

ends=$((SECONDS + seconds))
# Most of it is compiling and starting processes, so that three go at once.
correct() {
  check "correctness_$1" "$python" scripts/gpu_correctness.py "$dataset" --device "$device" --seconds "$seconds" \
    "${seen[@]}" ${quick:+--quick} --checks "${@:2}"
}
if [ "$only" != speed ]; then
  correct eager quantizers codes tf32 losses chunks resume &
  correct compiled compiled_chunk compiled_losses &
  correct trainers parity &
  wait
fi

ends=$((SECONDS + seconds))
if [ -n "$quick" ]; then
  laq=(--presets tiny --steps 4 --batch-sizes 4 --compile no yes) precompute=(--presets tiny --batch-sizes 8 --repeats 1)
  backbone=tiny policies=(--batch-size 2 --rounds 1 --steps 1 --chunks 2 --chunk-size 8) adapter=(--policies act --steps 5 --repeats 1)
else
  laq=(--presets base --steps 30 --batch-sizes 256 --precisions bf16 --compile no yes --image-size 256)
  precompute=(--presets tiny base --batch-sizes 256 --repeats 1 --frames 24000)
  backbone="$work/smolvlm" policies=(--batch-size 32 --rounds 3 --steps 4 --chunks 10 --precision bf16) adapter=(--policies act --repeats 2)
fi
speed() {
  [ "$only" = correctness ] || check "$@"
}
speed laq "$python" scripts/bench_laq.py "$dataset" --device "$device" ${camera:+--cameras "$camera"} "${laq[@]}"
speed precompute "$python" scripts/bench_precompute.py "$dataset" --device "$device" --seconds 0 --memory-frames 0 "${seen[@]}" "${precompute[@]}"
speed adapter "$python" scripts/bench_adapter.py --dataset-root "$dataset" --device "$device" "${adapter[@]}"
[ -n "$quick" ] || speed backbone "$python" scripts/make_random_smolvlm.py "$work/smolvlm"
speed table "$python" scripts/make_random_table.py "$dataset" "$work/table" --device "$device" "${seen[@]}"
speed policies "$python" scripts/bench_policies.py "$dataset" --table "$work/table" --backbone "$backbone" --device "$device" --compile --no-memory "${policies[@]}"
! grep -q '"done": false' "$out/results.jsonl"
