#!/usr/bin/env bash
# Trains the four bundled reference models again, from their recipes in this folder: about an hour on two cores.
#
#   examples/reference/rebuild.sh OUT_DIR [DATA_DIR]
#
# DATA_DIR holds the Fashion-MNIST IDX files; without it they are downloaded. A run that was stopped goes on where it
# was when the command is given again. On the same processor, torch version and thread count the files come out byte
# for byte the same; elsewhere float32 sums are rounded in another order and accuracies differ by about a point.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: rebuild.sh OUT_DIR [DATA_DIR]}
options=(--threads 1 --force)
[ $# -lt 2 ] || options+=(--data-dir "$2")

train() { robustq train --recipe "$here/$1.toml" "${options[@]}" -o "$out/$1.rq.safetensors"; }
compress() { robustq compress "$out/float.rq.safetensors" --recipe "$here/$1.toml" "${options[@]}" -o "$out/$1.rq.safetensors"; }

train undefended
train float
compress ternary
compress 4-bit
robustq bench "$out"/{float,4-bit,ternary,undefended}.rq.safetensors --data fashion-mini --attack pgd
