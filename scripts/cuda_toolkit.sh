#!/bin/sh
# Puts a CUDA 13.0 compiler, and libraries to link against, into a folder: for building `--features cuda` on a machine
# without GPU, driver or CUDA toolkit. See docs/cuda.md.
#
#     scripts/cuda_toolkit.sh DIR        afterwards: . DIR/env
set -eu
dir=${1:?usage: scripts/cuda_toolkit.sh DIR}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
manifest=$(cd "$(dirname "$0")/.." && pwd)/harness/Cargo.toml

python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-deps --no-compile --target "$dir" nvidia-cuda-nvcc==13.0.88 \
    nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85 nvidia-cuda-runtime==13.0.96
home=$dir/nvidia/cu13
ln -sfn lib "$home/lib64"
ln -sfn libcudart.so.13 "$home/lib/libcudart.so"

# Stubs of what the program links and only a GPU machine has. Every function returns its library's error for "not
# there", so that a program started against them says that there is no driver.
bindings=$(cargo metadata --locked --manifest-path "$manifest" --features cuda --format-version 1 | python3 -c '
import json, os, sys
paths = [p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"]
print(os.path.join(os.path.dirname(paths[0]), "src"))')
mkdir -p "$home/lib/stubs"
while read -r name version module error; do
    grep -ohE '^pub unsafe fn (cu|nv)[A-Za-z0-9_]+' "$bindings/$module/sys/mod.rs" | sort -u |
        awk -v error="$error" '$4 != "culib" { print "int " $4 "(void) { return " error "; }" }' |
        cc -shared -fPIC -w -fno-builtin -Wl,-soname,"lib$name.so.$version" -x c - -o "$home/lib/stubs/lib$name.so.$version"
    ln -sfn "lib$name.so.$version" "$home/lib/stubs/lib$name.so"
done <<LIBRARIES
cuda 1 driver 34
cublas 13 cublas 1
cublasLt 13 cublaslt 1
curand 10 curand 101
nvrtc 13 nvrtc 7
LIBRARIES

cat > "$dir/env" <<ENV
export CUDA_HOME=$home
export PATH=$home/bin:\$PATH
export CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-90}
ENV
echo ". $dir/env" >&2
