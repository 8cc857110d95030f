#!/usr/bin/env bash
# The example over the library for C, as C99 and as C++, with the shared and with the static library, by the address sanitizer where the
# compiler has it. Needs cc. That header and library are the same is tested by `cargo test -p interleaf-runtime --features c-api`.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo rustc --release -p interleaf-runtime --features c-api --lib --crate-type staticlib,cdylib

target=${CARGO_TARGET_DIR:-target}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
runs=0

# Compiles the example with the compiler named first, links it with the rest, and runs it.
example() {
    local name=$1 compiler=$2 language=$3 standard=$4
    shift 4
    echo "+ the example: $name"
    "$compiler" -x "$language" "-std=$standard" -Wall -Wextra -Werror -pedantic -O1 -g -I crates/runtime/include \
        crates/runtime/examples/c/assistant.c -x none -o "$out/assistant" "$@"
    runs=$((runs + 1))
    local model=crates/demo-model/files
    "$out/assistant" "$model/base" "$model/adapters/rust-code" "$model/adapters/error-codes" "$out/store$runs" \
        >"$out/log" || {
        cat "$out/log"
        return 1
    }
    tail -n 1 "$out/log"
}

shared=(-L "$target/release" -linterleaf_runtime "-Wl,-rpath,$(cd "$target/release" && pwd)")
example "C99, shared library" cc c c99 "${shared[@]}"
if command -v c++ >/dev/null; then
    example "C++, shared library" c++ c++ c++11 "${shared[@]}"
else
    echo "SKIPPED: the example as C++: expected a C++ compiler"
fi

# What the static library wants of the system is known here for Linux alone.
if [ "$(uname -s)" = Linux ]; then
    static=("$target/release/libinterleaf_runtime.a" -lpthread -ldl -lm -lrt -lutil)
    if echo 'int main(void) { return 0; }' | cc -fsanitize=address -x c - -o "$out/sanitized" 2>/dev/null &&
        "$out/sanitized"; then
        example "C99, static library, address sanitizer" cc c c99 "${static[@]}" -fsanitize=address
    else
        echo "SKIPPED: the address sanitizer: expected a compiler that has it"
        example "C99, static library" cc c c99 "${static[@]}"
    fi
else
    echo "SKIPPED: the static library, which is linked on Linux alone"
fi
