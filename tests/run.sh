#!/usr/bin/env bash
# Installs what testing needs and runs every test. As root or in CI it installs without asking; else it
# prints the line and asks. On macOS there is nothing to install: Metal takes Vulkan's place.
set -euo pipefail
cd "$(dirname "$0")/.."

# Vulkan in software, so that the GPU tests run where no GPU is, and what checks their shaders; the C compiler is
# for linking, and for the example in C.
packages=(libvulkan1 mesa-vulkan-drivers spirv-tools)
command -v cc >/dev/null || packages+=(gcc libc6-dev)

# An x86 machine runs the NEON kernels in an emulator; a static program needs no foreign libraries there.
emulate_arm=
arm=aarch64-unknown-linux-gnu
if [ "$(uname -sm)" = "Linux x86_64" ]; then
    emulate_arm=1
    packages+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static)
    if command -v rustup >/dev/null && rustup target add "$arm"; then
        arm_env=()
    elif ! command -v dpkg-query >/dev/null; then
        echo "The NEON tiers need a standard library for $arm: expected rustup, or Debian's packages" >&2
        exit 1
    else
        # Debian's own compiler brings a standard library for it; never mixed with another compiler's output.
        packages+=(rustc-web cargo-web libstd-rust-web-dev:arm64)
        arm_env=(PATH=/usr/bin:/bin RUSTC=/usr/bin/rustc CARGO_TARGET_DIR="$PWD/target/debian-rust")
    fi
fi

missing=()
if [ "$(uname -s)" = Linux ] && command -v dpkg-query >/dev/null; then
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
fi
if [ ${#missing[@]} -gt 0 ]; then
    # No question of Debian's front end may wait for an answer here.
    export DEBIAN_FRONTEND=noninteractive
    foreign=
    case "${missing[*]}" in *:arm64*) foreign="dpkg --add-architecture arm64 && " ;; esac
    install="${foreign}apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    if [ "$(id -u)" = 0 ]; then
        echo "+ $install"
        bash -c "$install"
    else
        echo "The tests need: ${missing[*]}"
        echo "    sudo sh -c '$install'"
        if [ -n "${CI:-}" ]; then
            sudo -E sh -c "$install"
        else
            read -r -p "Run it now? [y/N] " answer
            case "$answer" in
                y | Y | yes) sudo sh -c "$install" ;;
                *)
                    echo "Not installed; nothing was tested." >&2
                    exit 1
                    ;;
            esac
        fi
    fi
fi

if [ "$(uname -s)" = Linux ]; then
    # The software device, whatever else is there: the same one everywhere, and it must be found.
    if [ -z "${VK_DRIVER_FILES:-}" ]; then
        VK_DRIVER_FILES=$(find /usr/share/vulkan/icd.d -name 'lvp_icd*.json' 2>/dev/null | head -n 1 || true)
    fi
    if [ -z "$VK_DRIVER_FILES" ]; then
        echo "No software Vulkan driver: expected lvp_icd*.json in /usr/share/vulkan/icd.d" >&2
        exit 1
    fi
    export VK_DRIVER_FILES
    export VK_ICD_FILENAMES="$VK_DRIVER_FILES"
    export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"
fi
export INTERLEAF_REQUIRE_GPU=1
# A full disk is a small tmpfs, for whoever may mount one.
if [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
    export INTERLEAF_REQUIRE_FULL_DISK=1
fi
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"

step() {
    echo
    echo "== $*"
    "$@"
}

step cargo fmt --all --check
# One profile and one set of features for everything, so that wgpu is built once for the binary, the tests and the benches.
everything=(--workspace --features interleaf-runtime/c-api)
step cargo clippy --release "${everything[@]}" --all-targets -- -D warnings
step cargo clippy --release -p interleaf-benches --features competitors --bench competitors -- -D warnings
step env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
# Benches run once here, for the answers that they check.
step cargo test --release "${everything[@]}" --all-targets
step cargo test --release "${everything[@]}" --doc
# What threads share, in many orders in which these may run.
shuttled=(-p interleaf-runtime --no-default-features --features shuttle --lib)
step cargo clippy --release "${shuttled[@]}" --tests -- -D warnings
step cargo test --release "${shuttled[@]}" shuttled
step bash tests/c_example.sh

# A second software device, with fewer limits than the first and without f16. It comes in a part of Chromium, of which
# nothing else is needed.
swiftshader() {
    local folder=target/swiftshader
    local library=$folder/usr/lib/chromium
    if [ ! -e "$library/vk_swiftshader_icd.json" ]; then
        mkdir -p "$folder"
        (cd "$folder" && apt-get download chromium-common) || return 1
        dpkg-deb --fsys-tarfile "$folder"/chromium-common_*.deb |
            tar -x -C "$folder" ./usr/lib/chromium/libvk_swiftshader.so ./usr/lib/chromium/vk_swiftshader_icd.json ||
            return 1
        rm "$folder"/chromium-common_*.deb
    fi
    echo "$PWD/$library/vk_swiftshader_icd.json"
}
if [ "$(uname -s)" = Linux ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null &&
    icd=$(swiftshader) && icd=$(echo "$icd" | tail -n 1); then
    step env VK_DRIVER_FILES="$icd" VK_ICD_FILENAMES="$icd" \
        cargo test --release -p interleaf-tests --test kernels
    step env VK_DRIVER_FILES="$icd" VK_ICD_FILENAMES="$icd" \
        cargo run --release -p interleaf-cli -- verify --suite tests/data/families --backends gpu --pages f16
else
    echo "SKIPPED: the second software device, SwiftShader: expected Debian's chromium-common to be had"
fi

# Which tiers were tested, and which this machine lacks.
step cargo test --release -p interleaf-cpu --lib tiers_of_this_machine -- --show-output

# The NEON tiers. On an ARM machine the tests above were theirs.
if [ -z "$emulate_arm" ]; then
    [ "$(uname -m)" = aarch64 ] || [ "$(uname -m)" = arm64 ] ||
        echo "SKIPPED: the NEON tiers, which are emulated on x86 Linux alone"
    exit 0
fi
for tool in aarch64-linux-gnu-gcc qemu-aarch64-static; do
    command -v "$tool" >/dev/null || {
        echo "The NEON tiers were not tested: expected $tool, of Debian's gcc-aarch64-linux-gnu and qemu-user-static" >&2
        exit 1
    }
done

# Runs cargo for ARM, its programs as on the core named first.
on_arm() {
    local core=$1
    shift
    # No GPU is emulated; flags of the caller's would replace those of the target.
    step env -u INTERLEAF_REQUIRE_GPU -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS "${arm_env[@]}" \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static" \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="timeout 1500 qemu-aarch64-static -cpu $core" \
        "$@"
}

# Each core with the tier that must be found on it. Whatever kernel is chosen there must know every instruction.
for core in max:neon-i8mm cortex-a76:neon-dotprod cortex-a53:neon; do
    tier=${core#*:} core=${core%:*}
    on_arm "$core" INTERLEAF_EXPECTED_TIER="$tier" \
        cargo test --release --target "$arm" -p interleaf-cpu --lib -- --test-threads=1
    # From a model folder to its golden answers.
    on_arm "$core" cargo run --release --target "$arm" -p interleaf-cli --no-default-features -- \
        verify --model tests/data/families/llama-bias --golden tests/data/families/llama-bias/golden \
        --backend cpu --pages f32
    # Every kernel against the reference, on every tier of the core.
    on_arm "$core" cargo test --release --target "$arm" -p interleaf-tests --no-default-features \
        --test kernels -- --test-threads=1
done
if [ ${#arm_env[@]} -eq 0 ]; then
    on_arm max cargo clippy --release --target "$arm" -p interleaf-cpu --all-targets -- -D warnings
else
    echo "SKIPPED: clippy for ARM, since Debian's is of another version than the one the code is held to"
fi
